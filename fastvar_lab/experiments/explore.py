"""Compares methods on one prompt, one after another; unchanged steps are not computed again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from torch import Tensor

from fastvar_lab.generation import Generation, Watch, generate, resume
from fastvar_lab.instruments.observe import observe, observe_again
from fastvar_lab.instruments.outputs import Outputs
from fastvar_lab.instruments.trace import Trace
from fastvar_lab.measure.quality import psnr, ssim, token_agreement
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.pictures import to_uint8
from fastvar_lab.seam import Branch, Grid, Method, Rows, Runner, Site, Wrapper
from fastvar_lab.snapshots import Held, restored_steps, resume_step
from fastvar_lab.speed.tally import StepCounts


class Stopped(Exception):
    """Raised inside a generation whose result is no longer needed."""


class Stoppable(Wrapper):
    """Calls `begins(step)` before each scale step; raises Stopped once `stopped()` is true.

    That is looked at before each step and each sublayer, on the host.
    """

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

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        if self.stopped():
            raise Stopped
        return self.inner.sublayer(site, grid, branch, x)


@dataclass(frozen=True)
class Comparison:
    """A full and a pruned generation of one prompt, at the same seed.

    `caption` is the prompt as captions write it. `full` and `fast` are the pictures, (H, W, 3)
    uint8; `trace` records the pruned generation.
    `gflop_full[s]` and `gflop_fast[s]` are counted operations of step s in GFLOP, as they ran if
    the method decides from the data. `agreement[s]`
    is the share of equal bits, or codebook rows, at step s, nan if the step was skipped. `psnr`
    in dB and `ssim` compare `fast` with `full`. `first_step` is the first step that was computed.
    """

    prompt: str
    caption: str
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
    def nbytes(self) -> int:
        """Bytes of the pictures and of what is recorded."""
        return self.full.nbytes + self.fast.nbytes + self.trace.nbytes

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


class Drawn(NamedTuple):
    """A generation with a snapshot, its record, and the outputs of its sublayers.

    `outputs` are by step and site, see `Outputs`; `flop` are the operations of each step.
    """

    generation: Generation
    trace: Trace
    outputs: Held
    flop: list[float]


class Exploration:
    """Keeps the last generations of one model, and resumes from the one that shares most steps.

    Comparisons of the current prompt and seed are kept too, the newest of up to `most` bytes;
    `prepare` makes one ahead, in another thread than that of `compare` if need be.
    """

    def __init__(self, model: Model, most: int = 256 * 2**20) -> None:
        self.model, self.most = model, most
        self.lock = threading.Lock()
        self.kept: list[Comparison] = []  # of `request`, the newest last
        self.request: tuple[str, int] | None = None  # prompt and seed of `full`
        self.full: Drawn | None = None
        self.picture = np.empty(0)  # decoded from `full`
        self.last: dict[str, Drawn] = {}  # by slot

    def release(self) -> None:
        """Drop the generations, which hold keys, values and branch outputs of every layer."""
        with self.lock:
            self.request, self.full, self.picture, self.last = None, None, np.empty(0), {}
            self.kept = []

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
        return self._compare(self.model.as_is(), prompt, seed, method, stopped, begins, slot)

    def _compare(
        self,
        model: Model,
        prompt: str,
        seed: int,
        method: Method,
        stopped: Callable[[], bool],
        begins: Callable[[int], None],
        slot: str,
    ) -> Comparison:
        """Compare as `compare` does; `model` is a view for this request, see `Model.as_is`."""
        watch = partial(Stoppable, stopped=stopped, begins=begins)
        if self.request != (prompt, seed) or not self._up_to_date(model):
            kept = Outputs(model)
            run, trace = observe(
                model, prompt, Dense(), seed=seed, snapshot=True, watch=[watch, *kept.watch]
            )
            full = Drawn(run, trace, kept.by_site, _counts(model, prompt, Dense()).flop())
            picture = to_uint8(model.decode(run.canvas))[0]
            with self.lock:
                self.request, self.full, self.last = (prompt, seed), full, {}
                self.picture, self.kept = picture, []
        assert self.full is not None
        known = self._known(method)
        if known is not None:
            return known
        if method == Dense():
            return self._keep(model, self.full, self.full)
        full, fast = self.full, self._resumed(model, prompt, method, watch)
        with self.lock:
            self.last[slot] = fast
        return self._keep(model, full, fast)

    def _resumed(
        self, model: Model, prompt: str, method: Method, watch: Watch, ahead: bool = False
    ) -> Drawn:
        """Generate under a method, from the generation that shares most steps with it.

        One that is made `ahead` has no snapshot, and no outputs.
        """
        near, counts = self._nearest(method), _counts(model, prompt, method)
        kept, watches = Outputs(model), [watch, *counts.watch]
        run, trace = observe_again(
            model, near.generation, near.trace, method, snapshot=not ahead,
            watch=watches if ahead else [*watches, *kept.watch],
        )  # fmt: skip
        before = {k: out for k, out in near.outputs.items() if k[0] < run.first_step}
        flop = counts.flop(near.flop[: run.first_step])
        return Drawn(run, trace, {} if ahead else before | kept.by_site, flop)

    def prepare(self, method: Method, stopped: Callable[[], bool]) -> None:
        """Compare a method ahead of the call of `compare` that asks for it; see there.

        Nothing happens before there is a full generation. No snapshot is kept.
        """
        full, request, model = self.full, self.request, self.model.as_is()
        if full is None or request is None:
            return
        if not self._up_to_date(model) or self._known(method) is not None:
            return
        watch = partial(Stoppable, stopped=stopped, begins=lambda step: None)
        fast = self._resumed(model, request[0], method, watch, ahead=True)
        if stopped():
            raise Stopped
        self._keep(model, full, fast)

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
        model = self.model.as_is()
        first = self._compare(model, prompt, seed, a, stopped, begins, "a")
        second = self._compare(model, prompt, seed, b, stopped, begins, "b")
        if b == Dense():
            return Duel(first, second, first.psnr, first.ssim)
        return Duel(first, second, psnr(first.fast, second.fast), ssim(first.fast, second.fast))

    def drawn_of(self, trace: Trace) -> Drawn | None:
        """Return the generation that a trace records; None if it is held no more."""
        with self.lock:
            every = [*([self.full] if self.full else []), *self.last.values()]
        return next((drawn for drawn in every if drawn.trace is trace), None)

    def drawn(
        self, comparison: Comparison, slot: str = "a", stopped: Callable[[], bool] = lambda: False
    ) -> Drawn | None:
        """Return the generation of a comparison; it is drawn again if need be.

        None if the comparison is of another prompt or seed than those of the last one.
        """
        drawn, full = self.drawn_of(comparison.trace), self.full
        if drawn is not None or full is None:
            return drawn
        model = self.model.as_is()
        if not self._up_to_date(model):
            return None
        if self.request != (comparison.prompt, comparison.seed):
            return None
        watch = partial(Stoppable, stopped=stopped, begins=lambda step: None)
        again = self._resumed(model, comparison.prompt, comparison.method, watch)
        again = again._replace(trace=comparison.trace)
        with self.lock:
            if self.full is full:
                self.last[slot] = again
        return again

    def _known(self, method: Method) -> Comparison | None:
        """Return the kept comparison of a method, and mark it as the newest."""
        with self.lock:
            known = next((c for c in self.kept if c.method == method), None)
            if known is not None:
                self.kept = [*(c for c in self.kept if c is not known), known]
        return known

    def _keep(self, model: Model, full: Drawn, fast: Drawn) -> Comparison:
        """Compare a generation with the full one, and keep that within `most` bytes."""
        comparison = self._comparison(model, full, fast)
        with self.lock:
            if self.full is full:  # else another prompt came meanwhile
                self.kept = [*(c for c in self.kept if c.method != comparison.method), comparison]
                while len(self.kept) > 1 and sum(c.nbytes for c in self.kept) > self.most:
                    del self.kept[0]
        return comparison

    def _up_to_date(self, model: Model) -> bool:
        """Return whether there is a full generation with the weights that the model has now."""
        snapshot = self.full.generation.snapshot if self.full else None
        return snapshot is not None and snapshot.stamp == model.drawing

    def _nearest(self, method: Method) -> Drawn:
        """Return the generation from which `method` resumes at the latest step."""
        with self.lock:
            assert self.full is not None
            nearest, latest = self.full, -1
            every = [self.full, *self.last.values()]
        for drawn in every:
            if drawn.generation.snapshot is not None:
                step = resume_step(drawn.generation.snapshot, method, self.model)
                if step > latest:
                    nearest, latest = drawn, step
        return nearest

    def _comparison(self, model: Model, drawn_full: Drawn, drawn_fast: Drawn) -> Comparison:
        full, fast = drawn_full.generation, drawn_fast.generation
        with self.lock:
            request, picture = self.request, self.picture
            if self.full is not drawn_full or request is None:
                raise Stopped  # another prompt came meanwhile, or all was released
        prompt, seed = request
        drawn = picture if fast is full else to_uint8(model.decode(fast.canvas))[0]
        pictures = [picture, drawn]
        return Comparison(
            prompt=prompt,
            caption=model.caption(prompt),
            seed=seed,
            method=fast.method,
            full=pictures[0],
            fast=pictures[1],
            trace=drawn_fast.trace,
            gflop_full=[flop / 1e9 for flop in drawn_full.flop],
            gflop_fast=[flop / 1e9 for flop in drawn_fast.flop],
            agreement=[
                token_agreement(a, b) for a, b in zip(full.tokens, fast.tokens, strict=True)
            ],
            psnr=psnr(pictures[1], pictures[0]),
            ssim=ssim(pictures[1], pictures[0]),
            first_step=fast.first_step,
        )


def _counts(model: Model, prompt: str, method: Method) -> StepCounts:
    return StepCounts(model, method, model.grids(), len(prompt.split()))


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

    Each batch is generated under `a`; the steps that `b` shares with it are not computed again.
    `done(count, of)` is called after every batch. Raises Stopped once `stopped()` is true.
    """
    model = model.as_is()
    items = [(prompt, seed) for prompt in prompts for seed in seeds]
    watch = [partial(Stoppable, stopped=stopped, begins=lambda step: None)]
    kept = restored_steps(a, [b], model.grids())
    samples: list[Sample] = []
    for first in range(0, len(items), BATCH):
        batch = items[first : first + BATCH]
        texts, numbers = zip(*batch, strict=True)
        first_run = generate(model, texts, a, seed=numbers, watch=watch, snapshot=kept)
        runs = first_run, resume(model, first_run, b, watch=watch)
        drawn = [to_uint8(model.decode(run.canvas)) for run in runs]
        samples += [
            Sample(prompt, seed, x, y, psnr(x, y), ssim(x, y))
            for (prompt, seed), x, y in zip(batch, *drawn, strict=True)
        ]
        done(len(samples), len(items))
    return sorted(samples, key=lambda sample: sample.psnr)
