"""Operations as they ran: for methods whose work depends on the picture."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastvar_lab.generation import Generation, generate
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.prompts import Item
from fastvar_lab.seam import Branch, Grid, Handles, Method, Runner, Site, Stack, Wrapper
from fastvar_lab.speed import flops


class Tally(Wrapper):
    """Counts the operations of every forward from the tokens and rows that its branches receive.

    `flop` are sums over the batch by step, by the formulas of `flops.step_flops`. Steps before the
    first one that runs count as dense in the keys that attention reads.
    """

    def __init__(
        self, inner: Runner, model: Model, grids: Sequence[Grid], text_tokens: int
    ) -> None:
        super().__init__(inner)
        self.backbone, self.text_tokens, self.grids = model.transformer, text_tokens, grids
        self.sampling = model.sampling
        self.flop: dict[int, float] = {}
        self.cached: dict[int, int] = {}  # keys by layer
        self.pictures = 1

    def prepare(self, handles: Handles) -> None:
        self.pictures = handles.pictures
        self.inner.prepare(handles)

    def stack(self, grid: Grid, blocks: Stack, x: Tensor) -> Tensor:
        out = self.inner.stack(grid, blocks, x)
        for step in grid.steps:
            embedding, head = self.backbone.ends_flops(step)
            rows, last = len(out) // self.pictures, 0.0
            if step == self.grids[-1]:
                last = self.backbone.finish_flops(step, rows, self.sampling)
            drawn = x.shape[1] / grid.tokens  # less than all in mask iterations
            self._add(step, drawn * self.pictures * (embedding + rows * head + last))
        return out

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        def counted(x: Tensor, index: Tensor | None = None) -> Tensor:
            rows, tokens = x.shape[:2]
            keys = {"cross": self.text_tokens}.get(site.kind, 0)
            if site.kind == "attn":
                before = sum(step.tokens for step in self.grids[: grid.steps[0].index])
                keys = self.cached.get(site.layer, before) + tokens
                self.cached[site.layer] = keys
            self._add(grid, rows * self.backbone.sublayer_flops(site.kind, tokens, keys))
            return branch(x, index)

        return self.inner.sublayer(site, grid, counted, x)

    def _add(self, grid: Grid, flop: float) -> None:
        step = grid.steps[0].index
        self.flop[step] = self.flop.get(step, 0.0) + flop


def total(model: Model, run: Generation, tally: Tally) -> float:
    """Return the operations of a batch that a tally watched, resumed steps counted as dense."""
    grids, n = run.request.grids, len(run.request.prompts)
    dense = flops.step_flops(model, Dense(), grids, tally.text_tokens, n, run.request.sampling)
    return flops.total(dense[: run.first_step]) + sum(tally.flop.values())


def as_run(model: Model, method: Method, item: Item) -> float:
    """Return the operations of one picture under a method, as it ran.

    >>> import fastvar_lab as fv
    >>> model, item = fv.load("tiny"), Item("a red ring", 1)
    >>> counted = flops.step_flops(model, fv.Prune({-1: 0.5}), model.grids(), text_tokens=3)
    >>> round(as_run(model, fv.Prune({-1: 0.5}), item) / flops.total(counted), 6)
    1.0
    """
    text, grids, watches = len(item.prompt.split()), model.grids(), list[Tally]()

    def watch(run: Runner) -> Runner:
        watches.append(Tally(run, model, grids, text))
        return watches[0]

    run = generate(model, item.prompt, method, seed=item.seed, watch=[watch])
    return total(model, run, watches[0])
