"""Compares methods on one prompt, one after another; unchanged steps are not computed again."""

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


class Exploration:
    """Keeps the last generations of one model, and resumes from the one that shares most steps."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.request: tuple[str, int] | None = None  # prompt and seed of `full`
        self.full: tuple[Generation, Trace] | None = None
        self.picture = np.empty(0)  # decoded from `full`
        self.last: tuple[Generation, Trace] | None = None

    def compare(
        self,
        prompt: str,
        seed: int,
        method: Method,
        stopped: Callable[[], bool] = lambda: False,
        begins: Callable[[int], None] = lambda step: None,
    ) -> Comparison:
        """Generate under `method`, and in full if prompt or seed are new; compare the two.

        `begins(step)` is called before every scale step. Raises Stopped before the first step at
        which `stopped()` is true; generations finished by then are kept.
        """

        def watch(run: Runner) -> Runner:
            return Stoppable(run, stopped, begins)

        if self.request != (prompt, seed) or not self._up_to_date():
            full = observe(self.model, prompt, Dense(), seed=seed, snapshot=True, watch=[watch])
            picture = to_uint8(self.model.decode(full[0].canvas))[0]
            self.request, self.full, self.last = (prompt, seed), full, None
            self.picture = picture
        base = self._nearest(method)
        fast, trace = observe_again(self.model, *base, method, snapshot=True, watch=[watch])
        self.last = (fast, trace)
        return self._comparison(fast, trace)

    def _up_to_date(self) -> bool:
        """Return whether there is a full generation with the weights that the model has now."""
        snapshot = self.full[0].snapshot if self.full else None
        return snapshot is not None and snapshot.stamp == self.model.drawing

    def _nearest(self, method: Method) -> tuple[Generation, Trace]:
        """Return the generation from which `method` resumes at the latest step."""
        assert self.full is not None
        nearest, latest = self.full, -1
        for pair in (self.full, self.last):
            if pair is not None and pair[0].snapshot is not None:
                step = resume_step(pair[0].snapshot, method, self.model)
                if step > latest:
                    nearest, latest = pair, step
        return nearest

    def _comparison(self, fast: Generation, trace: Trace) -> Comparison:
        assert self.full is not None
        assert self.request is not None
        full, _ = self.full
        prompt, seed = self.request
        pictures = [self.picture, to_uint8(self.model.decode(fast.canvas))[0]]
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
