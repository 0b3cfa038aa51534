"""DepthVAR: every token of the last steps runs through some of the layers, by its last change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastvar_lab.draws import sent
from fastvar_lab.methods.ratios import ScaleName, scale_name
from fastvar_lab.methods.registry import method
from fastvar_lab.methods.schedule import find
from fastvar_lab.methods.spaces import Subject, space
from fastvar_lab.seam import KINDS, Act, Branch, Grid, Handles, Runner, Site, Stack
from fastvar_lab.tokens import gather, resize, rows_like, scatter, wide
from fastvar_lab.values import one_of

SHAPES = ("linear", "constant", "two-level")


@method
@dataclass(frozen=True)
class DepthVAR:
    """Give each token of the steps after `reference` a depth by how much it changed before.

    b is the sum over layers of the norm of what each layer added to a token at the step before,
    resized to the step's map. Tokens are ranked by b; the rank of N tokens, rotated by `turn` of
    the map for each step after the first, becomes the share S of layers that a token uses, D =
    floor(S * layers), and the layers are the first D in bit-reversed order (of 32: 0, 16, 8, 24).
    A layer runs on the tokens that use it; the others add what the layer added at the step before,
    resized by area. Codes count S times where `weighted`. The mean of S is the number of tokens of
    the step `reference` over that of the step, so that no step costs more than the reference.

    Source: DepthVAR (arXiv 2604.17286), of which no code is public and the map from rank to share
    is not stated. Guessed: that map, `shape`: "linear" in the rank (from 0, or up to 1), "constant"
    (every token the same layers), or "two-level" (all layers or none, which is dropping); `turn`;
    the bound by the reference; the norm of a change and the means over guidance rows; that tokens
    outside a layer have no keys there; one ranking for both rows. Published settings on 13 steps
    are R = 9, which fits `reference` -4 (side 32) by its time, and R = 7, -6 (side 20).

    Raises ValueError for a reference that no step follows, for an unknown shape, and on models or
    samplings that change streams between layers: repeated level embeddings, merged guidance rows.

    >>> from fastvar_lab.scales import TINY, grids
    >>> method, last = DepthVAR(reference=16), grids(TINY)[-1]
    >>> [method.layer_tokens(last, grids(TINY), layer, depth=8) for layer in range(8)]
    [768, 0, 256, 0, 512, 0, 0, 0]
    """

    reference: ScaleName = -4
    shape: str = one_of("linear", SHAPES)
    turn: float = 0.25
    weighted: bool = True
    granularity: ClassVar[str] = "layer"

    def __post_init__(self) -> None:
        object.__setattr__(self, "reference", scale_name(self.reference))
        if self.shape not in SHAPES:
            raise ValueError(f"shape must be one of {', '.join(SHAPES)}; not {self.shape!r}")
        if not 0 <= self.turn < 1:
            raise ValueError(f"turn must lie in [0, 1); not {self.turn}")

    def check_model(self, model: Any, sampling: Any) -> None:
        """Raise ValueError where layers change streams beside what their sublayers add."""
        if getattr(model.transformer.config, "level_every", 0):
            raise ValueError(
                "DepthVAR takes tokens past layers, where they would lack the level embedding that "
                f"{model.name} adds every {model.transformer.config.level_every} layers"
            )
        merge = model.transformer.merge_layer(sampling)
        if merge is not None and merge < model.depth:
            raise ValueError(
                "DepthVAR takes the streams past layers, and cannot merge guidance rows between "
                f"them; guidance_layer is 0 or -1, not {sampling.guidance_layer}"
            )

    def cache_index(self, grids: Sequence[Grid]) -> int | None:
        step = find(self.reference, grids)
        if step == len(grids) - 1:
            raise ValueError(f"no step follows the reference, {grids[step].name}")
        return step

    def acts(self, grids: Sequence[Grid]) -> tuple[Act, ...]:
        first = find(self.reference, grids)
        key = ("depth", self.cache_index(grids), *astuple(self)[1:])
        return tuple(Act(key=key) if grid.index > first else Act() for grid in grids)

    def shares(self, grid: Grid, grids: Sequence[Grid]) -> list[float]:
        """Return the share S of layers by rank, the least changed token first."""
        count = grid.h * grid.w
        reference = grids[find(self.reference, grids)]
        mean = min(1.0, reference.h * reference.w / count)
        ranks = [(rank + 0.5) / count for rank in range(count)]
        if self.shape == "constant":
            return [mean] * count
        if self.shape == "two-level":
            return [float(rank >= 1 - mean) for rank in ranks]
        if mean <= 0.5:
            return [2 * mean * rank for rank in ranks]
        return [1 - 2 * (1 - mean) * (1 - rank) for rank in ranks]

    def depths(self, grid: Grid, grids: Sequence[Grid], depth: int) -> list[int]:
        """Return the number of layers of every rank, ascending."""
        return [int(share * depth + 1e-9) for share in self.shares(grid, grids)]

    def layer_tokens(self, grid: Grid, grids: Sequence[Grid], layer: int, depth: int) -> int:
        """Return the number of tokens that run through a layer at a step after the reference."""
        place = bit_reversed(depth).index(layer)
        return sum(used > place for used in self.depths(grid, grids, depth))

    def start(
        self,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor] | None = None,
    ) -> Runner:
        return DepthRunner(self, grids, depth, held or {})


def bit_reversed(depth: int) -> list[int]:
    """Return the layers by their indices with reversed bits.

    >>> bit_reversed(6)
    [0, 4, 2, 1, 5, 3]
    """
    bits = max(1, (depth - 1).bit_length())
    order = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits))
    return [layer for layer in order if layer < depth]


class DepthRunner(Runner):
    """One generation under `DepthVAR`; keeps what each layer added at the last step."""

    def __init__(
        self,
        method: DepthVAR,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor],
    ) -> None:
        self.method, self.reference = method, grids[find(method.reference, grids)]
        method.cache_index(grids)  # raises where no step follows
        later = grids[self.reference.index + 1 :]
        order = bit_reversed(depth)
        self.counts: dict[int, list[int]] = {}
        for grid in later:
            depths = method.depths(grid, grids, depth)
            used = [sum(d > place for d in depths) for place in range(depth)]
            self.counts[grid.index] = [used[order.index(layer)] for layer in range(depth)]
        self.shares = {grid.index: method.shares(grid, grids) for grid in later}
        self.outputs = {
            site: out for (step, site), out in held.items() if step == self.reference.index
        }
        self.before = self.reference  # the step of `added`
        self.added: list[Tensor] = []  # by layer, (B, L, C)
        self.fresh: Tensor | None = None  # what the running layer has added
        self.index: Tensor | None = None
        self.live, self.pictures = slice(None), 1
        self.weights: Tensor | None = None

    def prepare(self, handles: Handles) -> None:
        self.pictures = handles.pictures

    def keep_rows(self, rows: slice) -> None:
        self.live = rows

    def forwarded(self, site: Site, grid: Grid) -> int:
        counts = self.counts.get(grid.index)
        return grid.tokens if counts is None else counts[site.layer]

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        delta = branch(x, self.index)
        if grid.index == self.reference.index:
            self.outputs[site] = delta
        elif grid.index in self.counts:
            self.fresh = delta if self.fresh is None else self.fresh + delta
        return delta

    def stack(self, grid: Grid, blocks: Stack, x: Tensor) -> Tensor:
        counts = self.counts.get(grid.index)
        if counts is None:
            return super().stack(grid, blocks, x)
        if not self.added:
            self.added = self.reference_layers(len(counts))
        ranked = self.ranked(grid, x)
        new, old = (grid.h, grid.w), (self.before.h, self.before.w)
        for layer, (block, count) in enumerate(zip(blocks, counts, strict=True)):
            added = rows_like(self.added[layer], len(x), self.live)[:, self.before.prefix :]
            full = resize(added, old, new)
            if count:
                self.index, self.fresh = ranked[:, grid.tokens - count :], None
                block(gather(x, self.index))
                assert self.fresh is not None
                full = scatter(full.to(self.fresh.dtype), self.index, self.fresh)
            x, self.added[layer] = x + full, full
        self.index, self.before = None, grid
        return x

    def reference_layers(self, depth: int) -> list[Tensor]:
        """Return what each layer added at the reference step."""
        parts = [
            [self.outputs[Site(layer, kind)] for kind in KINDS if Site(layer, kind) in self.outputs]
            for layer in range(depth)
        ]
        return [sum(rest, first) for first, *rest in parts]

    def ranked(self, grid: Grid, x: Tensor) -> Tensor:
        """Return the positions (B, L) by the number of layers they use, and set code weights."""
        change = torch.stack([wide(added).norm(dim=-1) for added in self.added]).sum(dim=0)
        change = change.unflatten(0, (-1, self.pictures)).mean(dim=0)[:, self.before.prefix :]
        old, new = (self.before.h, self.before.w), (grid.h, grid.w)
        order = resize(change.unsqueeze(-1), old, new).squeeze(-1).argsort(dim=1, stable=True)
        turned = int(self.method.turn * (grid.index - self.reference.index - 1) * grid.tokens)
        order = order.roll(turned % grid.tokens, dims=1)
        if self.method.weighted:
            dtype = torch.promote_types(x.dtype, torch.float32)
            shares = torch.tensor(self.shares[grid.index], dtype=dtype, device="cpu")
            weights = sent(shares, x.device).expand(len(order), -1)
            self.weights = torch.empty_like(weights).scatter_(1, order, weights)
        return order.repeat(len(x) // len(order), 1)

    def places(self, grid: Grid, tokens: Tensor) -> Tensor | None:
        weights, self.weights = self.weights, None
        return weights

    def held(self) -> dict[tuple[int, Site], Tensor]:
        return {(self.reference.index, site): out for site, out in self.outputs.items()}


@space(
    "DepthVAR", "granularity",
    lambda subject: (DepthVAR(reference=-4), DepthVAR(reference=-6)),
    reference=(-7, -6, -5, -4, -3, -2), shape=("linear", "constant"),
    turn=(0.0, 0.25, 0.5), weighted=(True, False),
)  # fmt: skip
def _depthvar(
    subject: Subject, reference: int, shape: str, turn: float, weighted: bool
) -> DepthVAR:
    return DepthVAR(reference, shape, turn, weighted)
