"""What one sublayer call costs, and what selecting and restoring its tokens adds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor

from fastvar_lab.generate import generate
from fastvar_lab.methods.prune import Dense, Prune
from fastvar_lab.methods.restore import Cached
from fastvar_lab.methods.schedule import kept
from fastvar_lab.methods.select import top
from fastvar_lab.models import Model
from fastvar_lab.seam import Branch, Grid, Runner, Site, Wrapper
from fastvar_lab.timing import Stopwatch
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


def sublayer_ms(model: Model, prompt: str, repeats: int) -> dict[str, float]:
    """Time selection, restoration, and whole sublayers at the last step: milliseconds of one call.

    Three quarters of the last map pruned, restored from the step before the last two.
    """
    grids, method = model.grids(), Prune({-2: 0.5, -1: 0.75})
    last, layer = grids[-1], model.depth // 2
    kinds: dict[str, list[float]] = {"attn": [], "ffn": []}
    inputs: list[_Inputs] = []

    def watch(run: Runner) -> Runner:
        inputs.append(_Inputs(run, layer))
        return inputs[-1]

    for _ in range(repeats + 1):
        watches: list[Stopwatch] = []

        def clock(run: Runner, into: list[Stopwatch] = watches) -> Stopwatch:
            into.append(Stopwatch(run, sublayers=True))
            return into[0]

        generate(model, prompt, Dense(), watch=[watch, clock])
        ms = watches[0].sublayer_ms()
        for kind, times in kinds.items():
            times.append(ms[last.index, kind] / model.depth)
    before = grids[cast(int, method.cache_index(grids))]
    x = inputs[-1].x[last.index]
    k = kept(last.tokens, 0.75)
    index = top(method.select.scores(x, last, inputs[-1].site), k)
    fresh = inputs[-1].delta[last.index].gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
    held = Cached(inputs[-1].delta[before.index], before.h, before.w)

    def select() -> Tensor:
        return gather(x, top(method.select.scores(x, last, inputs[-1].site), k))

    return {
        "pts_ms": median_ms(select, x.is_cuda),
        "ctr_ms": median_ms(partial(method.restore.restore, fresh, index, last, held), x.is_cuda),
        "attention_ms_full": statistics.median(kinds["attn"][1:]),
        "ffn_ms_full": statistics.median(kinds["ffn"][1:]),
    }


def median_ms(work: Callable[[], Tensor], cuda: bool, repeats: int = 50) -> float:
    """Median milliseconds of a short piece of work."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize()
        times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times[5:])
