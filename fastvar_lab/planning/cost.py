"""What a schedule costs: operations, or the predicted time on this machine."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
from scipy.optimize import nnls

from fastvar_lab.generation import Generation, generate
from fastvar_lab.instruments.stopwatch import Stopwatch
from fastvar_lab.methods.planned import DIGITS, EIGHTHS, Planned
from fastvar_lab.methods.prune import Dense, Prune
from fastvar_lab.models.model import Model
from fastvar_lab.sampling import Sampling
from fastvar_lab.seam import Grid, Method, Runner, Site
from fastvar_lab.speed import flops
from fastvar_lab.speed.flops import Call
from fastvar_lab.speed.timed import turns

SCHEDULES, REPEATS, SEED = 12, 2, 5  # random schedules that are timed for a fit
VARIED, STACKED = 4, 1 / 3  # last steps that they prune; the share of them pruned as stacks


Seen = tuple[Call, Grid, bool]
"""A sublayer call of layer 0 that is timed, its step, and whether it restores."""


class Cost(Protocol):
    """The cost of one generated picture, as a sum over sublayer calls and steps."""

    @property
    def unit(self) -> str: ...

    def call(self, call: Call, grid: Grid, restores: bool = True) -> float:
        """Return the cost of one sublayer call.

        It `restores` tokens that it does not compute, unless they stay out of all layers.
        """
        ...

    def ends(self, grid: Grid, rows: int) -> float:
        """Return the cost of a step without its sublayers; `rows` is 0 if it is skipped."""
        ...


def total(
    cost: Cost,
    model: Model,
    method: Method,
    grids: Sequence[Grid],
    text_tokens: int = 8,
    sampling: Sampling | None = None,
) -> float:
    """Return the cost of a whole generation under a method."""
    stacked = stacked_steps(method, grids)
    steps = list(flops.steps(model, method, grids, text_tokens, sampling))
    if isinstance(cost, CacheBytes):
        cost = replace(cost, last=[step.grid for step in steps if step.rows][-1])
    return math.fsum(
        cost.ends(step.grid, step.rows)
        + sum(cost.call(call, step.grid, step.grid.index not in stacked) for call in step.calls)
        for step in steps
    )


def stacked_steps(method: Method, grids: Sequence[Grid]) -> set[int]:
    """Return the steps at which a method keeps tokens out of all layers, as far as is known."""
    if isinstance(method, Planned):
        return set(method.stacks_by_step(grids))
    if isinstance(method, Prune) and method.granularity == "stack":
        return set(method.by_step(grids))
    return set()


@dataclass(frozen=True)
class Operations:
    """Counted operations, in GFLOP; the same on every machine."""

    model: Model
    last: Grid
    sampling: Sampling | None = None
    unit: str = "GFLOP"

    def call(self, call: Call, grid: Grid, restores: bool = True) -> float:
        flop = self.model.transformer.sublayer_flops(call.site.kind, call.tokens, call.keys)
        return call.rows * flop / 1e9

    def ends(self, grid: Grid, rows: int) -> float:
        if not rows:
            return 0.0
        backbone, sampling = self.model.transformer, self.sampling or self.model.sampling
        embedding, head = backbone.ends_flops(grid)
        last = backbone.finish_flops(grid, rows, sampling) if grid == self.last else 0.0
        return (embedding + rows * head + last) / 1e9


@dataclass(frozen=True)
class CacheBytes:
    """Bytes of keys and values that later steps read: all but those of the last that runs."""

    model: Model
    last: Grid
    unit: str = "bytes of keys and values"

    def call(self, call: Call, grid: Grid, restores: bool = True) -> float:
        if call.site.kind != "attn" or grid == self.last:
            return 0.0
        backbone = self.model.transformer
        kind = self.model.autocast or next(backbone.blocks.parameters()).dtype
        return float(call.rows * call.tokens * 2 * backbone.config.width * kind.itemsize)

    def ends(self, grid: Grid, rows: int) -> float:
        return 0.0


@dataclass(frozen=True)
class Times:
    """Milliseconds on the machine that they were measured on, linear in tokens and keys.

    `calls` holds for each kind of sublayer: per call, per token, per token and key, and per token
    of a map that is restored, the last three for each guidance row. `ends_ms` holds for each step
    what it takes beside its sublayers, with one guidance row and with two; `start_ms` is what comes
    before the first step.
    """

    calls: Mapping[str, tuple[float, float, float, float]]
    ends_ms: Mapping[int, tuple[float, float]]
    start_ms: float = 0.0
    unit: str = "ms"

    def call(self, call: Call, grid: Grid, restores: bool = True) -> float:
        return float(np.dot(self.calls[call.site.kind], _features(call, grid, restores)))

    def ends(self, grid: Grid, rows: int) -> float:
        first = self.start_ms if grid.index == 0 else 0.0
        return first + (self.ends_ms[grid.index][rows - 1] if rows else 0.0)


def _features(call: Call, grid: Grid, restores: bool) -> tuple[float, float, float, float]:
    restored = call.rows * grid.tokens if restores and call.tokens < grid.tokens else 0
    tokens = call.rows * call.tokens
    return float(call.tokens > 0), tokens, tokens * call.keys, restored


def measure(
    model: Model,
    prompt: str,
    sizes: Sequence[tuple[int, int]] | None = None,
    sampling: Sampling | None = None,
    progress: bool = True,
) -> Times:
    """Time sublayer calls under random schedules on this machine, and fit `Times` to them.

    Takes about 30 generations of one picture.
    """
    grids = model.grids(sizes)
    alone = Planned(rows={i - len(grids): "cond" for i in range(1, len(grids))})
    methods: list[Method] = [Dense(), alone, *random_schedules(model, grids, SCHEDULES, SEED)]

    def once(method: Method) -> tuple[Generation, Stopwatch]:
        clocks: list[Stopwatch] = []
        run = generate(
            model, prompt, method, seed=0, sizes=sizes, sampling=sampling,
            watch=[partial(_clock, clocks)],
        )  # fmt: skip
        return run, clocks[0]

    timed = turns(
        {repr(method): partial(once, method) for method in methods}, REPEATS,
        progress="time" if progress else None,
    )  # fmt: skip
    seen: defaultdict[Seen, list[float]] = defaultdict(list)
    ends: defaultdict[tuple[int, int], list[float]] = defaultdict(list)
    start: list[float] = []
    for run, clock in (result for results in timed.values() for result in results):
        calls, steps = clock.call_ms(), clock.step_ms()
        start.append(run.seconds * 1e3 - sum(steps.values()))
        stacked = stacked_steps(run.method, grids)
        for step in flops.steps(model, run.method, grids, len(prompt.split()), sampling):
            if not step.rows:
                continue
            parts = {kind: iter(calls[step.grid.index, kind]) for kind in model.transformer.kinds}
            spent = 0.0
            for call in step.calls:
                ms, alike = next(parts[call.site.kind]), call._replace(site=Site(0, call.site.kind))
                spent += ms
                seen[alike, step.grid, step.grid.index not in stacked].append(ms)
            ends[step.grid.index, step.rows].append(steps[step.grid.index] - spent)
    return Times(
        {kind: _fit(seen, kind) for kind in model.transformer.kinds},
        {
            grid.index: (_middle(ends, grid.index, 1, 2), _middle(ends, grid.index, 2, 1))
            for grid in grids
        },
        statistics.median(start),
    )


def _clock(clocks: list[Stopwatch], runner: Runner) -> Stopwatch:
    """Wrap a runner in a stopwatch, and keep it."""
    clocks.append(Stopwatch(runner, sublayers=True))
    return clocks[-1]


def _middle(ends: Mapping[tuple[int, int], list[float]], step: int, rows: int, other: int) -> float:
    """Return the median of a step's ends; of the other number of rows where none was seen."""
    return statistics.median(ends.get((step, rows)) or ends[step, other])


def _fit(seen: Mapping[Seen, list[float]], kind: str) -> tuple[float, float, float, float]:
    """Fit coefficients of 0 or more to the medians of equal calls, by relative error."""
    rows = [
        (_features(call, grid, restores), statistics.median(ms))
        for (call, grid, restores), ms in seen.items()
        if call.site.kind == kind
    ]
    features, ms = np.array([f for f, _ in rows]), np.array([t for _, t in rows])
    scale = np.maximum(features.max(axis=0), 1e-12)
    weight = 1 / np.sqrt(np.maximum(ms, 1e-3))  # between absolute and relative error
    coefficients, _ = nnls(features / scale * weight[:, None], ms * weight)
    return tuple(float(c) for c in coefficients / scale)  # type: ignore[return-value]


def random_schedules(model: Model, grids: Sequence[Grid], n: int, seed: int) -> Iterator[Planned]:
    """Yield schedules that prune the last steps at random, with null rows dropped at random.

    At a third of the steps whole stacks are pruned, at the others each sublayer on its own.
    """
    rng = np.random.default_rng(seed)
    last = max(1, min(VARIED, len(grids) - 2))  # of two steps the last
    for _ in range(n):
        pruned, stacks = dict[int, dict[str, str]](), dict[int, int]()
        for step in range(1, 1 + int(rng.integers(1, last + 1))):
            if rng.random() < STACKED:
                stacks[-step] = int(rng.integers(1, EIGHTHS))
            else:
                pruned[-step] = {
                    kind: "".join(rng.choice(list(DIGITS), model.depth))
                    for kind in model.transformer.kinds
                }
        rows = {-i: "cond" for i in range(1, 1 + int(rng.integers(0, last)))}
        yield Planned(pruned, rows=rows, stacks=stacks)
