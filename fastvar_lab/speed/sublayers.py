"""Times one sublayer call, and the selection and restoration of its tokens."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

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
from fastvar_lab.speed.timed import turns
from fastvar_lab.tokens import gather


class _Inputs(Wrapper):
    """Keeps the input `x` and the output `delta` of one layer's attention at every step."""

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
"""The method under which sublayers are timed: at the last step three quarters of the tokens are
pruned and restored from the last unpruned step, the third from the end."""


def sublayer_ms(
    model: Model, prompt: str, repeats: int, progress: str | None = None
) -> dict[str, float]:
    """Return the medians of `sublayer_times` under the same names."""
    times = sublayer_times(model, prompt, repeats, progress)
    return {name: statistics.median(ms) for name, ms in times.items()}


def sublayer_times(
    model: Model, prompt: str, repeats: int, progress: str | None = None
) -> dict[str, list[float]]:
    """Time selection, restoration and sublayers at the last step; lists of ms, one per call.

    Attention and feed-forward are timed from norm to gate, in full and under `PRUNED` (paper,
    supplement). `progress` is the title of a progress bar.
    """
    return {**pruning_times(model, prompt), **branch_times(model, prompt, repeats, progress)}


def branch_times(
    model: Model, prompt: str, repeats: int, progress: str | None = None
) -> dict[str, list[float]]:
    """Time the branches of the last step, full and pruned: milliseconds per layer."""

    def once(method: Method) -> dict[tuple[int, str], float]:
        clocks: list[BranchWatch] = []

        def clock(run: Runner) -> Runner:
            clocks.append(BranchWatch(run))
            return clocks[0]

        generate(model, prompt, method, watch=[clock])
        return clocks[0].sublayer_ms()

    methods: dict[str, Method] = {"full": Dense(), "pruned": PRUNED}
    last = len(model.grids()) - 1
    runs = turns(
        {name: partial(once, m) for name, m in methods.items()}, repeats, progress=progress
    )
    return {
        f"{sublayer}_ms_{name}": [ms[last, kind] / model.depth for ms in runs[name]]
        for name in methods
        for kind, sublayer in (("attn", "attention"), ("ffn", "ffn"))
    }


def pruning_times(model: Model, prompt: str) -> dict[str, list[float]]:
    """Time selection (PTS) and restoration (CTR) alone, on the tokens of the middle layer."""
    grids, inputs = model.grids(), list[_Inputs]()

    def watch(run: Runner) -> Runner:
        inputs.append(_Inputs(run, model.depth // 2))
        return inputs[0]

    generate(model, prompt, Dense(), watch=[watch])
    (recorded,), last = inputs, grids[-1]
    before = grids[cast(int, PRUNED.cache_index(grids))]
    x = recorded.x[last.index]
    k = kept(last.tokens, PRUNED.by_step(grids)[last.index])
    index = top(PRUNED.select.scores(x, last, recorded.site), k)
    fresh = gather(recorded.delta[last.index], index)
    held = Cached(recorded.delta[before.index], before.h, before.w)

    def select() -> Tensor:
        return gather(x, top(PRUNED.select.scores(x, last, recorded.site), k))

    restore = partial(PRUNED.restore.restore, fresh, index, last, held)
    with torch.no_grad():
        return short_ms({"pts_ms": select, "ctr_ms": restore}, x.device)


def short_ms(
    works: Mapping[str, Callable[[], Tensor]],
    device: torch.device,
    repeats: int = 45,
    progress: str | None = None,
) -> dict[str, list[float]]:
    """Time short functions in turns; return the milliseconds per call in each turn.

    On a GPU a turn is 20 calls in a row, so that launch latency does not dominate.
    """
    row = 20 if device.type == "cuda" else 1

    def once(work: Callable[[], Tensor]) -> tuple[Any, Any]:
        begin = mark(device)
        for _ in range(row):
            work()
        return begin, mark(device)

    functions = {name: partial(once, work) for name, work in works.items()}
    marks = turns(functions, repeats, warm_up=5, progress=progress)
    return {name: [ms_between(*pair) / row for pair in pairs] for name, pairs in marks.items()}
