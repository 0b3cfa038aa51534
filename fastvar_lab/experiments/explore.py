"""Compares methods on one prompt, one after another; unchanged steps are not computed again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from fastvar_lab.generation import Generation, generate
from fastvar_lab.instruments.observe import observe, observe_again
from fastvar_lab.instruments.trace import Trace
from fastvar_lab.measure.quality import psnr, ssim, token_agreement
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.pictures import to_uint8
from fastvar_lab.seam import Grid, Method, Rows, Runner, Wrapper
from fastvar_lab.snapshots import resume_step
from fastvar_lab.speed import flops


class Stopped(Exception):
    """Raised inside a generation whose result is no longer needed."""


class Stoppable(Wrapper):
    """Calls `begins(step)` before each scale step; raises Stopped there if `stopped()` is true."""

    def __init__(
        self, inner: Runner, stopped: Callable[[], bool], begins: Callable[[int], None]
    ) -> None:
        super().__init__(inner)
        self.stopped, self.begins = stopped, begins

    def rows(self, grid: Grid, canvas: Tensor) -> Rows | None:
        if self.stopped():
            raise Stopped
        self.begins(grid.index)
        return self.inner.rows(grid, canvas)


@dataclass(frozen=True)
class Comparison:
    """A full and a pruned generation of one prompt, at the same seed.

    `full` and `fast` are the pictures, (H, W, 3) uint8; `trace` records the pruned generation.
    `gflop_full[s]` and `gflop_fast[s]` are counted operations of step s in GFLOP. `agreement[s]`
    is the share of equal bits, or codebook rows, at step s, nan if the step was skipped. `psnr`
    in dB and `ssim` compare `fast` with `full`. `first_step` is the first step that was computed.
    """

    prompt: str
    seed: int
    method: Method
    full: np.ndarray
    fast: np.ndarray
    trace: Trace
    gflop_full: list[float]
    gflop_fast: list[float]
    agreement: list[float]
    psnr: float
    ssim: float
    first_step: int

    @property
    def speedup_flop_bound(self) -> float:
        """Counted operations of the full generation over those of the pruned one."""
        return sum(self.gflop_full) / sum(self.gflop_fast)

    @property
    def work(self) -> tuple[int, int, int]:
        """How many steps the method computes whole, in part, and not at all.

        Less than full generation's operations are in part: fewer tokens, layers or guidance rows.
        """
        pairs = list(zip(self.gflop_full, self.gflop_fast, strict=True))
        skipped = sum(fast == 0 for _, fast in pairs)
        whole = sum(fast >= full > 0 for full, fast in pairs)
        return whole, len(pairs) - whole - skipped, skipped


@dataclass(frozen=True)
class Duel:
    """Two methods on one prompt and seed: `a`, and what it is compared with, `b`.

    `psnr` in dB and `ssim` compare their pictures.
    """

    a: Comparison
    b: Comparison
    psnr: float
    ssim: float


@dataclass(frozen=True)
class Sample:
    """The pictures of two methods, (H, W, 3) uint8, for one prompt and seed, and how they differ.

    `psnr` is in dB.
    """

    prompt: str
    seed: int
    a: np.ndarray
    b: np.ndarray
    psnr: float
    ssim: float


class Exploration:
    """Keeps the last generations of one model, and resumes from the one that shares most steps."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.request: tuple[str, int] | None = None  # prompt and seed of `full`
        self.full: tuple[Generation, Trace] | None = None
        self.picture = np.empty(0)  # decoded from `full`
        self.last: dict[str, tuple[Generation, Trace]] = {}  # by slot

    def release(self) -> None:
        """Drop the generations, which hold keys, values and branch outputs of every layer."""
        self.request, self.full, self.picture, self.last = None, None, np.empty(0), {}

    def compare(
        self,
        prompt: str,
        seed: int,
        method: Method,
        stopped: Callable[[], bool] = lambda: False,
        begins: Callable[[int], None] = lambda step: None,
        slot: str = "a",
    ) -> Comparison:
        """Generate under `method`, and in full if prompt or seed are new; compare the two.

        `begins(step)` is called before every scale step. Raises Stopped before the first step at
        which `stopped()` is true; generations finished by then are kept, the last one of each
        `slot`.
        """

        def watch(run: Runner) -> Runner:
            return Stoppable(run, stopped, begins)

        if self.request != (prompt, seed) or not self._up_to_date():
            full = observe(self.model, prompt, Dense(), seed=seed, snapshot=True, watch=[watch])
            picture = to_uint8(self.model.decode(full[0].canvas))[0]
            self.request, self.full, self.last = (prompt, seed), full, {}
            self.picture = picture
        if method == Dense():
            assert self.full is not None
            return self._comparison(*self.full)
        base = self._nearest(method)
        fast, trace = observe_again(self.model, *base, method, snapshot=True, watch=[watch])
        self.last[slot] = (fast, trace)
        return self._comparison(fast, trace)

    def duel(
        self,
        prompt: str,
        seed: int,
        a: Method,
        b: Method,
        stopped: Callable[[], bool] = lambda: False,
        begins: Callable[[int], None] = lambda step: None,
    ) -> Duel:
        """Generate under two methods, and compare their pictures; see `compare`."""
        first = self.compare(prompt, seed, a, stopped, begins)
        second = self.compare(prompt, seed, b, stopped, begins, slot="b")
        return Duel(first, second, psnr(first.fast, second.fast), ssim(first.fast, second.fast))

    def generation_of(self, trace: Trace) -> Generation | None:
        """Return the generation that a trace records; None if it is held no more."""
        pairs = [*([self.full] if self.full else []), *self.last.values()]
        return next((run for run, record in pairs if record is trace), None)

    def _up_to_date(self) -> bool:
        """Return whether there is a full generation with the weights that the model has now."""
        snapshot = self.full[0].snapshot if self.full else None
        return snapshot is not None and snapshot.stamp == self.model.drawing

    def _nearest(self, method: Method) -> tuple[Generation, Trace]:
        """Return the generation from which `method` resumes at the latest step."""
        assert self.full is not None
        nearest, latest = self.full, -1
        for pair in (self.full, *self.last.values()):
            if pair[0].snapshot is not None:
                step = resume_step(pair[0].snapshot, method, self.model)
                if step > latest:
                    nearest, latest = pair, step
        return nearest

    def _comparison(self, fast: Generation, trace: Trace) -> Comparison:
        assert self.full is not None
        assert self.request is not None
        full, _ = self.full
        prompt, seed = self.request
        drawn = self.picture if fast is full else to_uint8(self.model.decode(fast.canvas))[0]
        pictures = [self.picture, drawn]
        grids, length = full.request.grids, len(prompt.split())
        costs = [
            [sum(c.values()) / 1e9 for c in flops.step_flops(self.model, m, grids, length)]
            for m in (full.method, fast.method)
        ]
        return Comparison(
            prompt=prompt,
            seed=seed,
            method=fast.method,
            full=pictures[0],
            fast=pictures[1],
            trace=trace,
            gflop_full=costs[0],
            gflop_fast=costs[1],
            agreement=[
                token_agreement(a, b) for a, b in zip(full.tokens, fast.tokens, strict=True)
            ],
            psnr=psnr(pictures[1], pictures[0]),
            ssim=ssim(pictures[1], pictures[0]),
            first_step=fast.first_step,
        )


BATCH = 4  # pictures that a survey generates at once


def survey(
    model: Model,
    prompts: Sequence[str],
    seeds: Sequence[int],
    a: Method,
    b: Method,
    stopped: Callable[[], bool] = lambda: False,
    done: Callable[[int, int], None] = lambda count, of: None,
) -> list[Sample]:
    """Generate every prompt with every seed under two methods; the worst PSNR comes first.

    `done(count, of)` is called after every batch. Raises Stopped once `stopped()` is true.
    """
    items = [(prompt, seed) for prompt in prompts for seed in seeds]
    watch = [partial(Stoppable, stopped=stopped, begins=lambda step: None)]
    samples: list[Sample] = []
    for first in range(0, len(items), BATCH):
        batch = items[first : first + BATCH]
        drawn = []
        for method in (a, b):
            run = generate(
                model, [p for p, _ in batch], method, seed=[s for _, s in batch], watch=watch
            )
            drawn.append(to_uint8(model.decode(run.canvas)))
        samples += [
            Sample(prompt, seed, x, y, psnr(x, y), ssim(x, y))
            for (prompt, seed), x, y in zip(batch, *drawn, strict=True)
        ]
        done(len(samples), len(items))
    return sorted(samples, key=lambda sample: sample.psnr)
