"""What one sublayer call costs, and what selecting and restoring its tokens adds."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor

from fastvar_lab.generation import generate
from fastvar_lab.instruments.stopwatch import BranchWatch, mark, ms_between
from fastvar_lab.methods.prune import Dense, Prune
from fastvar_lab.methods.restore import Cached
from fastvar_lab.methods.schedule import kept
from fastvar_lab.methods.select import top
from fastvar_lab.models.model import Model
from fastvar_lab.seam import Branch, Grid, Method, Runner, Site, Wrapper
from fastvar_lab.tokens import gather


class _Inputs(Wrapper):
    """Keeps what the middle layer's attention is offered, and its output at the step before."""

    def __init__(self, inner: Runner, layer: int) -> None:
        super().__init__(inner)
        self.site = Site(layer, "attn")
        self.x: dict[int, Tensor] = {}
        self.delta: dict[int, Tensor] = {}

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        delta = self.inner.sublayer(site, grid, branch, x)
        if site == self.site:
            self.x[grid.index], self.delta[grid.index] = x, delta
        return delta


PRUNED = Prune({-2: 0.5, -1: 0.75})
"""Under which sublayers are timed: at the last step three quarters are pruned, restored from the
step before the last two."""


def sublayer_ms(model: Model, prompt: str, repeats: int) -> dict[str, float]:
    """Medians of `sublayer_times`, by the same names."""
    times = sublayer_times(model, prompt, repeats)
    return {name: statistics.median(ms) for name, ms in times.items()}


def sublayer_times(model: Model, prompt: str, repeats: int) -> dict[str, list[float]]:
    """Time selection, restoration, and sublayers at the last step: milliseconds of each call.

    Attention and feed-forward in full and under `PRUNED`, norm to gate (paper, supplement).
    """
    grids, method = model.grids(), PRUNED
    last, layer = grids[-1], model.depth // 2
    ways: dict[str, Method] = {"full": Dense(), "pruned": method}
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    inputs: list[_Inputs] = []

    def watch(run: Runner) -> Runner:
        inputs[:] = [_Inputs(run, layer)]  # those of the last turn are enough
        return inputs[0]

    for _ in range(repeats + 1):
        for way, how in ways.items():
            clocks: list[BranchWatch] = []

            def clock(run: Runner, into: list[BranchWatch] = clocks) -> BranchWatch:
                into.append(BranchWatch(run))
                return into[0]

            generate(model, prompt, how, watch=[watch, clock] if way == "full" else [clock])
            ms = clocks[0].sublayer_ms()
            for kind, name in (("attn", "attention"), ("ffn", "ffn")):
                times[name, way].append(ms[last.index, kind] / model.depth)
    before = grids[cast(int, method.cache_index(grids))]
    x = inputs[0].x[last.index]
    k = kept(last.tokens, method.by_step(grids)[last.index])
    index = top(method.select.scores(x, last, inputs[0].site), k)
    fresh = gather(inputs[0].delta[last.index], index)
    held = Cached(inputs[0].delta[before.index], before.h, before.w)

    def select() -> Tensor:
        return gather(x, top(method.select.scores(x, last, inputs[0].site), k))

    restore = partial(method.restore.restore, fresh, index, last, held)
    with torch.no_grad():
        alone = {"pts_ms": _each_ms(select, x.device), "ctr_ms": _each_ms(restore, x.device)}
    return {**alone, **{f"{n}_ms_{way}": all_[1:] for (n, way), all_ in times.items()}}


def median_ms(work: Callable[[], Tensor], device: torch.device, repeats: int = 50) -> float:
    """Median milliseconds of a short piece of work."""
    return statistics.median(_each_ms(work, device, repeats))


def _each_ms(work: Callable[[], Tensor], device: torch.device, repeats: int = 50) -> list[float]:
    """Milliseconds of a short piece of work, again and again.

    On a GPU of twenty in a row, lest the first one's way there be what is measured.
    """
    marks, row = [], 20 if device.type == "cuda" else 1
    for _ in range(repeats):
        begin = mark(device)
        for _ in range(row):
            work()
        marks.append((begin, mark(device)))
    return [ms_between(*pair) / row for pair in marks[5:]]
