"""Operations as they ran: for methods whose work depends on the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastvar_lab.generation import Generation, generate, resumable, run
from fastvar_lab.methods.guidance import Tail
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.prompts import Item
from fastvar_lab.seam import Branch, Grid, Handles, Method, Runner, Site, Stack, Wrapper
from fastvar_lab.snapshots import restored_steps, resume_step, shared_steps
from fastvar_lab.speed import flops


class Tally(Wrapper):
    """Counts the operations of every forward from the tokens and rows that its branches receive.

    `flop` are sums over the batch by step, by the formulas of `flops.step_flops`. Attention reads
    the keys of resumed steps, too: those that were drawn count as dense.
    """

    def __init__(
        self, inner: Runner, model: Model, grids: Sequence[Grid], text_tokens: int
    ) -> None:
        super().__init__(inner)
        self.backbone, self.text_tokens, self.grids = model.transformer, text_tokens, grids
        self.sampling = model.sampling
        self.flop: dict[int, float] = {}
        self.resumed = 0  # keys of all layers from steps that a snapshot holds
        self.cached: dict[int, int] = {}  # keys by layer
        self.pictures = 1

    def prepare(self, handles: Handles) -> None:
        self.pictures = handles.pictures
        self.inner.prepare(handles)

    def recall(self, grid: Grid, tokens: Tensor | None, canvas: Tensor) -> None:
        self.resumed += 0 if tokens is None else grid.tokens
        self.inner.recall(grid, tokens, canvas)

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
                keys = self.cached.get(site.layer, self.resumed) + tokens
                self.cached[site.layer] = keys
            self._add(grid, rows * self.backbone.sublayer_flops(site.kind, tokens, keys))
            return branch(x, index)

        return self.inner.sublayer(site, grid, counted, x)

    def _add(self, grid: Grid, flop: float) -> None:
        step = grid.steps[0].index
        self.flop[step] = self.flop.get(step, 0.0) + flop


def total(model: Model, generation: Generation, tally: Tally) -> float:
    """Return the operations of a batch that a tally watched, resumed steps counted as dense."""
    request = generation.request
    dense = flops.step_flops(
        model, Dense(), request.grids, tally.text_tokens, len(request.prompts), request.sampling
    )
    return flops.total(dense[: generation.first_step]) + sum(tally.flop.values())


class Tallies:
    """Counts the operations of one picture under several methods, as they ran.

    The first steps that two methods or more share with full generation are generated once, and
    each method resumes from there. What one method alone shares with it would save nothing.

    >>> import fastvar_lab as fv
    >>> methods = fv.Prune({-1: 0.5}), fv.Prune({-2: 0.5, -1: 0.5})
    >>> tallies = Tallies(fv.load("tiny"), methods, Item("a red ring", 1))
    >>> tallies.shared
    8
    >>> tallies.count(methods[0]) > tallies.count(methods[1])
    True
    """

    def __init__(self, model: Model, methods: Sequence[Method], item: Item) -> None:
        self.model, self.methods, self.item = model, methods, item
        self.grids = model.grids()
        full = Dense().acts(self.grids)
        steps = sorted(shared_steps(full, method.acts(self.grids)) for method in methods)
        self.shared = steps[-2] if len(steps) > 1 else 0
        self.base: Generation | None = None

    def count(self, method: Method) -> float:
        """Return the operations of the picture under one of the methods."""
        tallies = list[Tally]()

        def watch(runner: Runner) -> Runner:
            words = len(self.item.prompt.split())
            tallies.append(Tally(runner, self.model, self.grids, words))
            return tallies[0]

        snapshot = resumable(self.model, self.first_steps()) if self.shared else None
        if snapshot is None:
            generation = self.generate(method, watch=[watch])
        else:  # the base skips the steps after the shared ones, and so may the method
            first = min(self.shared, resume_step(snapshot, method, self.model))
            start = snapshot.start(first)
            generation = run(self.model, snapshot.request, method, start, watch=[watch])
        return total(self.model, generation, tallies[0])

    def first_steps(self) -> Generation:
        """Generate the shared steps in full when they are first asked for, and no others."""
        if self.base is None:
            left = len(self.grids) - self.shared
            method = Tail(skip_from=-left) if left else Dense()
            kept = [s for s in restored_steps(method, self.methods, self.grids) if s < self.shared]
            self.base = self.generate(method, snapshot=kept)
        return self.base

    def generate(self, method: Method, **options: Any) -> Generation:
        """Generate the picture under a method."""
        return generate(self.model, self.item.prompt, method, seed=self.item.seed, **options)


def as_run(model: Model, method: Method, item: Item) -> float:
    """Return the operations of one picture under a method, as it ran.

    >>> import fastvar_lab as fv
    >>> model, item = fv.load("tiny"), Item("a red ring", 1)
    >>> counted = flops.step_flops(model, fv.Prune({-1: 0.5}), model.grids(), text_tokens=3)
    >>> round(as_run(model, fv.Prune({-1: 0.5}), item) / flops.total(counted), 6)
    1.0
    """
    return Tallies(model, [method], item).count(method)
