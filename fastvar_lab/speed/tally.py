"""Operations as they ran: for methods whose work depends on the picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastvar_lab.generation import Generation, Watch, generate, resumable, run
from fastvar_lab.methods.guidance import Tail
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.prompts import Item
from fastvar_lab.seam import Branch, Grid, Handles, Method, Runner, Site, Stack, Wrapper
from fastvar_lab.snapshots import restored_steps, resume_step, shared_steps
from fastvar_lab.speed import flops


class Tally(Wrapper):
    """Counts the operations of every forward from the tokens and rows that its branches receive.

    `flop` are sums over the batch by step, by the formulas of `flops.step_flops`; `tokens` are sums
    over the sublayers. Attention reads the keys of resumed steps, too. If a backbone does not show
    its attention, those steps that were drawn count as dense.
    """

    def __init__(
        self, inner: Runner, model: Model, grids: Sequence[Grid], text_tokens: int
    ) -> None:
        super().__init__(inner)
        self.backbone, self.text_tokens, self.grids = model.transformer, text_tokens, grids
        self.sampling = model.sampling
        self.flop: dict[int, float] = {}
        self.resumed = 0  # keys of all layers from steps that a snapshot holds
        self.tokens: Counter[int] = Counter()
        self.cached: dict[int, int] = {}  # keys by layer
        self.attended: dict[int, int] = {}  # keys by layer, as an attention received them
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
            out, rows, tokens = branch(x, index), *x.shape[:2]
            if site.kind == "attn":
                keys = self.cached.get(site.layer, self.resumed) + tokens
                self.cached[site.layer] = self.attended.pop(site.layer, keys)
            counts, ahead = self._counts(site, grid, tokens), tokens
            for step, count in zip(grid.steps, counts, strict=True):
                ahead -= count  # tokens of later steps, whose keys this one does not read
                keys = {"cross": self.text_tokens}.get(site.kind, 0)
                if site.kind == "attn":
                    keys = self.cached[site.layer] - ahead
                self.tokens[step.index] += count
                self._add(step, rows * self.backbone.sublayer_flops(site.kind, count, keys))
            return out

        return self.inner.sublayer(site, grid, counted, x)

    def attend(
        self,
        site: Site,
        grid: Grid,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        if site.kind == "attn":
            self.attended[site.layer] = k.shape[2]
        return self.inner.attend(site, grid, q, k, v, mask, scale)

    def _counts(self, site: Site, grid: Grid, tokens: int) -> list[int]:
        """Return how many of the tokens of a forward are of each of its steps."""
        if len(grid.steps) == 1:
            return [tokens]
        return [self.inner.forwarded(site, step) for step in grid.steps]

    def _add(self, step: Grid, flop: float) -> None:
        self.flop[step.index] = self.flop.get(step.index, 0.0) + flop


class StepCounts:
    """Operations and tokens of each scale step: as declared, or as they ran if the data decide.

    `watch` are the watches of the generation that is counted; there are none if all is declared.

    >>> import fastvar_lab as fv
    >>> model, method = fv.load("tiny"), fv.Prune({-1: 0.75})
    >>> counts = StepCounts(model, method, model.grids(), text_tokens=3)
    >>> counts.tokens()[-2:], len(counts.watch)
    ([576.0, 256.0], 0)
    """

    def __init__(
        self,
        model: Model,
        method: Method,
        grids: Sequence[Grid],
        text_tokens: int,
        pictures: int = 1,
    ) -> None:
        self.model, self.method, self.grids = model, method, grids
        self.text_tokens, self.pictures = text_tokens, pictures
        self.exact = flops.exact(method, grids)
        self.tally: Tally | None = None
        self.watch: list[Watch] = [] if self.exact else [self._watched]

    def _watched(self, runner: Runner) -> Tally:
        self.tally = Tally(runner, self.model, self.grids, self.text_tokens)
        return self.tally

    def flop(self, before: Sequence[float] = ()) -> list[float]:
        """Return the operations of each step; `before` are those of the steps of a snapshot."""
        if self.exact:
            costs = flops.step_flops(
                self.model, self.method, self.grids, self.text_tokens, self.pictures
            )
            return [sum(cost.values()) for cost in costs]
        assert self.tally is not None
        ran = [self.tally.flop.get(grid.index, 0.0) for grid in self.grids]
        return [*before, *ran[len(before) :]]

    def tokens(self) -> list[float]:
        """Return the tokens forwarded in each step of a whole generation, a mean over sublayers."""
        if self.exact:
            return flops.forwarded(self.model, self.method, self.grids)
        assert self.tally is not None
        sublayers = self.model.depth * len(self.model.transformer.kinds)
        return [self.tally.tokens[grid.index] / sublayers for grid in self.grids]


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
