"""One prompt under one method after another: only what changed is computed again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fastvar_lab.generation import Generation
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
    """Raised inside a generation that nobody waits for any more."""


class Stoppable(Wrapper):
    """Tells which scale step begins; ends the generation before one when it is told to."""

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
    """A prompt in full and under a method, at the same seed.

    `prompt`, `seed` and `method` are what was asked for. Pictures (H, W, 3) uint8.
    `agreement[s]` is the share of equal bits, or codebook rows, at step s (nan where it was
    skipped), `first_step` the first step that had to be run.
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


class Exploration:
    """Keeps the last generations of one model, to go on from whichever is nearest."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.asked: tuple[str, int] | None = None
        self.full: tuple[Generation, Trace] | None = None
        self.picture = np.empty(0)  # the full one
        self.last: tuple[Generation, Trace] | None = None

    def compare(
        self,
        prompt: str,
        seed: int,
        method: Method,
        stopped: Callable[[], bool] = lambda: False,
        begins: Callable[[int], None] = lambda step: None,
    ) -> Comparison:
        """Generate in full, if prompt or seed are new, and under `method`; compare.

        `begins` is told every scale step before it runs. Raises Stopped as soon as `stopped` says
        so; what was finished before is kept.
        """

        def watch(run: Runner) -> Runner:
            return Stoppable(run, stopped, begins)

        if self.asked != (prompt, seed) or not self._still_holds():
            full = observe(self.model, prompt, Dense(), seed=seed, snapshot=True, watch=[watch])
            picture = to_uint8(self.model.decode(full[0].canvas))[0]
            self.asked, self.full, self.last, self.picture = (prompt, seed), full, None, picture
        base = self._nearest(method)
        made, trace = observe_again(self.model, *base, method, snapshot=True, watch=[watch])
        self.last = (made, trace)
        return self._compared(made, trace)

    def _still_holds(self) -> bool:
        """Tell whether the full generation is there, and of the weights that the model has now."""
        snapshot = self.full[0].snapshot if self.full else None
        return snapshot is not None and snapshot.stamp == self.model.drawing

    def _nearest(self, method: Method) -> tuple[Generation, Trace]:
        assert self.full is not None
        found, best = self.full, -1
        for pair in (self.full, self.last):
            if pair is not None and pair[0].snapshot is not None:
                step = resume_step(pair[0].snapshot, method, self.model)
                if step > best:
                    found, best = pair, step
        return found

    def _compared(self, made: Generation, trace: Trace) -> Comparison:
        assert self.full is not None
        assert self.asked is not None
        whole, _ = self.full
        pictures = [self.picture, to_uint8(self.model.decode(made.canvas))[0]]
        grids, words = whole.request.grids, len(self.asked[0].split())
        costs = [
            [sum(c.values()) / 1e9 for c in flops.step_flops(self.model, m, grids, words=words)]
            for m in (whole.method, made.method)
        ]
        return Comparison(
            prompt=self.asked[0],
            seed=self.asked[1],
            method=made.method,
            full=pictures[0],
            fast=pictures[1],
            trace=trace,
            gflop_full=costs[0],
            gflop_fast=costs[1],
            agreement=[
                token_agreement(a, b) for a, b in zip(whole.tokens, made.tokens, strict=True)
            ],
            psnr=psnr(pictures[1], pictures[0]),
            ssim=ssim(pictures[1], pictures[0]),
            first_step=made.first_step,
        )
