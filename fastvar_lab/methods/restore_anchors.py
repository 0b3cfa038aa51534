"""Anchors: pruned tokens copy a nearby token of a fixed lattice (SparseVAR)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvar_lab.methods.observer import Map, Observer
from fastvar_lab.methods.registry import restorer
from fastvar_lab.methods.restore import Cached, mask_of
from fastvar_lab.seam import Grid
from fastvar_lab.tokens import has_content, scatter


@lru_cache(maxsize=64)
def lattice(h: int, w: int, stride: int) -> tuple[int, ...]:
    """Return the positions of anchors: every stride-th row and column of a map, and the last.

    >>> lattice(4, 6, 4)
    (0, 4, 5, 18, 22, 23)
    """
    rows, columns = (sorted({*range(0, n, stride), n - 1}) for n in (h, w))
    return tuple(row * w + column for row in rows for column in columns)


@lru_cache(maxsize=64)
def _nearest_anchors(h: int, w: int, stride: int, device: torch.device) -> Tensor:
    """Return the positions (L, 4) of each cell's nearest anchors; fewer if there are fewer."""
    anchors = torch.tensor(lattice(h, w, stride), device=device)
    cells = torch.arange(h * w, device=device)
    down = cells.unsqueeze(1) // w - anchors // w
    across = cells.unsqueeze(1) % w - anchors % w
    order = (down.square() + across.square()).argsort(dim=1, stable=True)
    return anchors[order[:, :4]]


def best_anchor(features: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
    """Match tokens by their features (n, L, F): positions of anchors, and cosines, (n, L).

    Of the anchors that `near` (L, 4) names for each token it is the one of the highest cosine.
    """
    unit = F.normalize(features, dim=-1)
    cosine = torch.stack([(unit * unit[:, near[:, i]]).sum(-1) for i in range(near.shape[1])], -1)
    best, place = cosine.max(dim=-1)
    return near.expand(len(features), -1, -1).gather(2, place.unsqueeze(-1)).squeeze(-1), best


@restorer("anchors")
@dataclass(frozen=True)
class Anchors:
    """Pruned tokens copy an anchor, if the logits of the step before are alike at both places.

    Anchors are a lattice of `stride`, with the last row and column; every selection keeps them. A
    token takes that of its four nearest anchors whose guided logits at the step before, resized by
    the nearest token, have the highest cosine with its own. Above `similarity` it copies the
    anchor's output (with granularity "stack" its hidden state); else it adds nothing, and the code
    drawn there counts as 0. Source: SparseVAR; stride 4 and 0.8 are what a port of its released
    code runs. Raises ValueError where fewer tokens are kept than there are anchors.

    >>> Anchors().always(Grid(0, 2, 6))
    (0, 4, 5, 6, 10, 11)
    """

    stride: int = 4
    similarity: float = 0.8
    needs_cache: ClassVar[bool] = False
    looks_back: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.stride < 2 or not -1 <= self.similarity <= 1:
            raise ValueError(
                "stride must be 2 or more and similarity lie in [-1, 1]; not "
                f"{self.stride} and {self.similarity}"
            )

    def always(self, grid: Grid) -> tuple[int, ...]:
        """Return the positions that every selection must keep."""
        return lattice(grid.h, grid.w, self.stride)

    def observer(self, grids: Sequence[Grid], depth: int, since: int) -> AnchorObserver:
        return AnchorObserver(self.stride, self.similarity, since)

    def restore(self, fresh: Tensor, index: Tensor, grid: Grid, cached: Cached | None) -> Tensor:
        """Raise ValueError: there are no logits outside of a generation."""
        raise ValueError(f"{self!r} looks at logits; use it as the `restore` of a method")


class AnchorObserver(Observer):
    """Keeps the logits of the last step, and matches the tokens of a step to anchors once.

    With `as_released` it does what the port of SparseVAR's code does: logits (n, L, V) are read as
    (n, V, L) without a transpose, so that the features of a place are every L-th number from there,
    and every token chooses among the first four anchors of the map, not its nearest ones.
    """

    by_logits = True

    def __init__(
        self, stride: int, similarity: float, since: int, as_released: bool = False
    ) -> None:
        super().__init__(since)
        self.stride, self.similarity, self.as_released = stride, similarity, as_released
        self.logits: Map | None = None
        self.match: tuple[int, Tensor, Tensor] | None = None  # step, anchors, alike

    def after(self, grid: Grid, logits: Tensor | None) -> None:
        if logits is not None and grid.index >= self.since:
            if self.as_released:
                logits = logits.reshape(len(logits), -1, grid.h * grid.w).transpose(1, 2)
            self.logits = Map(logits, grid)

    def matched(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """Return each token's anchor, and whether it is alike: (n, L)."""
        if self.match is None or self.match[0] != grid.index:
            assert self.logits is not None
            features = self.logits.on(grid, len(self.logits.values))
            find = _nearest_anchors if has_content(features) else _nearest_anchors.__wrapped__
            near = find(grid.h, grid.w, self.stride, features.device)
            if self.as_released:
                four = torch.tensor(lattice(grid.h, grid.w, self.stride)[:4], device=near.device)
                near = four.expand(len(near), -1)
            anchors, cosine = best_anchor(features, near)
            self.match = grid.index, anchors, cosine > self.similarity
        return self.match[1:]

    def restore(self, fresh: Tensor, index: Tensor, grid: Grid, cached: Cached | None) -> Tensor:
        """Return outputs (B, L, C): fresh ones, copies of anchors', and 0."""
        base = fresh.new_zeros(len(fresh), grid.h * grid.w, fresh.shape[-1])
        return self.fill(fresh, index, grid, base)

    def fill(self, states: Tensor, index: Tensor, grid: Grid, x: Tensor) -> Tensor:
        """Return hidden states (B, L, C): of kept tokens, copies of anchors, and those of x."""
        anchors, alike = (part.repeat(len(x) // len(part), 1) for part in self.matched(grid))
        identity = torch.arange(x.shape[1], device=x.device).expand_as(anchors)
        source = torch.where(alike & ~mask_of(index, grid), anchors, identity)
        full = scatter(x.to(states.dtype, copy=True), index, states)
        return full.gather(1, source.unsqueeze(-1).expand_as(full))

    def places(self, index: Tensor, grid: Grid) -> Tensor:
        """Return the mask (n, L) of tokens that are kept, or copied from an anchor."""
        return mask_of(index, grid) | self.matched(grid)[1]
