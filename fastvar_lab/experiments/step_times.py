"""Times of some methods on one prompt, step by step and by kind of sublayer, with their spread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastvar_lab.experiments.explore import Stoppable
from fastvar_lab.generation import generate
from fastvar_lab.instruments.stopwatch import Stopwatch
from fastvar_lab.measure.speedup import Speedup
from fastvar_lab.models.model import Model
from fastvar_lab.seam import Method, Runner
from fastvar_lab.speed.timed import paired, turns

TURNS = 7
OTHER = "beside sublayers"
"""What a step takes outside of its sublayers: embedding, head, sampling."""


class Spread(NamedTuple):
    """Median and quartiles of a time in milliseconds."""

    median: float
    q1: float
    q3: float

    @classmethod
    def of(cls, times: Sequence[float]) -> Spread:
        """Return the median and the quartiles of times."""
        return cls(*(float(q) for q in np.quantile(times, (0.5, 0.25, 0.75))))


@dataclass(frozen=True)
class StepTimes:
    """Milliseconds of methods: `steps[name][s]` of scale step s, `kinds[name][kind]` of a sublayer.

    `totals` are those of all steps, `speedups` the measured speedup of each method over the first.
    """

    steps: dict[str, list[Spread]]
    kinds: dict[str, dict[str, Spread]]
    totals: dict[str, Spread]
    speedups: dict[str, Speedup]
    turns: int


def step_times(
    model: Model,
    prompt: str,
    seed: int,
    methods: Mapping[str, Method],
    stopped: Callable[[], bool] = lambda: False,
    repeats: int = TURNS,
) -> StepTimes:
    """Time methods in turns, so that a slow turn slows all of them; the first turn is dropped.

    Raises Stopped once `stopped()` is true.

    >>> import fastvar_lab as fv
    >>> model, methods = fv.load("tiny"), {"full": fv.Dense(), "A": fv.Prune({-1: 1.0})}
    >>> model.sizes = ((1, 1), (4, 4), (8, 8))
    >>> times = step_times(model, "a red ring", 1, methods, repeats=2)
    >>> times.steps["A"][-1].median < times.steps["full"][-1].median
    True
    """

    def once(method: Method) -> Stopwatch:
        watches: list[Stopwatch] = []

        def clock(run: Runner) -> Stopwatch:
            watches.append(Stopwatch(run, sublayers=True))
            return watches[-1]

        stop = partial(Stoppable, stopped=stopped, begins=lambda step: None)
        generate(model, prompt, method, seed=seed, watch=[stop, clock])
        return watches[0]

    clocks = turns({name: partial(once, method) for name, method in methods.items()}, repeats)
    count = len(model.sizes)
    step_ms = {
        name: np.array([_steps(clock.step_ms(), count) for clock in runs])
        for name, runs in clocks.items()
    }
    totals = {name: ms.sum(1) for name, ms in step_ms.items()}
    base = list(totals[next(iter(methods))])
    return StepTimes(
        {name: [Spread.of(step) for step in ms.T] for name, ms in step_ms.items()},
        {name: _by_kind(model, runs, totals[name]) for name, runs in clocks.items()},
        {name: Spread.of(ms) for name, ms in totals.items()},
        {name: paired(base, list(ms)).speedup for name, ms in totals.items()},
        repeats,
    )


def _steps(ms: Mapping[int, float], count: int) -> list[float]:
    """Return the times of all steps, 0 of those that were skipped."""
    return [ms.get(step, 0.0) for step in range(count)]


def _by_kind(model: Model, runs: Sequence[Any], totals: np.ndarray) -> dict[str, Spread]:
    """Return the time of each kind of sublayer over all steps, and what is left."""
    sums = {
        kind: np.array([
            sum(ms for (_, k), ms in clock.sublayer_ms().items() if k == kind) for clock in runs
        ])
        for kind in model.transformer.kinds
    }  # fmt: skip
    rest = totals - np.sum(list(sums.values()), axis=0)
    return {kind: Spread.of(ms) for kind, ms in {**sums, OTHER: rest}.items()}
