"""Restorers: extend the output of a pruned sublayer to all tokens of the step.

A restorer is a frozen value. `restore(fresh, index, grid, cached)` takes the branch output of the
kept tokens (B, K, C), their positions (B, K), and, if `needs_cache`, the same sublayer's output
at the cache step with its map size; it returns (B, L, C).

A restorer may have more. `places(index, grid)` is the mask (B, L) of tokens whose codes count.
`fill(states, index, grid, x)` restores hidden states where whole stacks are pruned. `rolling` says
that the cache is replaced at every pruned step. `always(grid)` are positions that every selection
keeps. See `observer.py` for restorers that look at logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from torch import Tensor

from fastvar_lab.methods.registry import restorer
from fastvar_lab.seam import Grid
from fastvar_lab.tokens import gather, nearest_kept, resize, scatter


class Cached(NamedTuple):
    """A sublayer's whole branch output (B, h * w, C) at the cache step."""

    output: Tensor
    h: int
    w: int


class Restorer(Protocol):
    """Fills in the outputs of pruned tokens."""

    needs_cache: ClassVar[bool]

    def restore(self, fresh: Tensor, index: Tensor, grid: Grid, cached: Cached | None) -> Tensor:
        """Return the full output (B, L, C)."""
        ...


@restorer("cached, bilinear", mode="bilinear")
@restorer("cached branch (CTR)")
@dataclass(frozen=True)
class CachedBranch:
    """Cached token restoration (CTR): pruned tokens take the resized output of the cache step.

    Source: FastVAR, Algorithm 1; the released code resizes with `mode` "area". "bilinear" and
    "nearest" are alternatives.

    >>> CachedBranch("bilinear")
    CachedBranch(mode='bilinear')
    """

    mode: str = "area"
    needs_cache: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.mode not in ("area", "bilinear", "nearest"):
            raise ValueError(f"mode must be one of area, bilinear, nearest; not {self.mode!r}")

    def restore(self, fresh: Tensor, index: Tensor, grid: Grid, cached: Cached | None) -> Tensor:
        assert cached is not None
        base = resize(cached.output, (cached.h, cached.w), (grid.h, grid.w), self.mode)
        return scatter(base.to(fresh.dtype), index, fresh)


@restorer("zero")
@dataclass(frozen=True)
class Zero:
    """Pruned tokens get an output of 0, so their residual stream does not change.

    >>> import torch
    >>> fresh, index = torch.ones(1, 1, 2), torch.tensor([[3]])
    >>> Zero().restore(fresh, index, Grid(0, 2, 2), None)[0, :, 0]
    tensor([0., 0., 0., 1.])
    """

    needs_cache: ClassVar[bool] = False

    def restore(self, fresh: Tensor, index: Tensor, grid: Grid, cached: Cached | None) -> Tensor:
        base = fresh.new_zeros(fresh.shape[0], grid.h * grid.w, fresh.shape[-1])
        return scatter(base, index, fresh)


@restorer("zero code")
@dataclass(frozen=True)
class ZeroCode(Zero):
    """Like `Zero`, and what is drawn at pruned places does not count: their codes are 0.

    A place is pruned if the step's last selection drops it from the conditional row. Source:
    LazyVAR and SparseVAR, which prune whole stacks with one set for both rows.

    >>> import torch
    >>> ZeroCode().places(torch.tensor([[3, 1]]), Grid(0, 2, 2))
    tensor([[False,  True, False,  True]])
    """

    def places(self, index: Tensor, grid: Grid) -> Tensor:
        """Return the mask (B, L) of tokens at index (B, K)."""
        return mask_of(index, grid)


def mask_of(index: Tensor, grid: Grid) -> Tensor:
    """Return the mask (B, L) of the tokens at index (B, K)."""
    return index.new_zeros(len(index), grid.h * grid.w).scatter_(1, index, 1).bool()


@restorer("branch of the step before")
@dataclass(frozen=True)
class PreviousBranch(CachedBranch):
    """Pruned tokens take the resized output of the same sublayer at the step before, pruned or not.

    The first pruned step restores from the cache step, as `CachedBranch` does; later ones from the
    restored output of the step before them. Source: DepthVAR, whose skipped layers take the
    residual of the layer at the step before.
    """

    rolling: ClassVar[bool] = True


@restorer("nearest kept")
@dataclass(frozen=True)
class NearestKept:
    """Pruned tokens take the output of the nearest kept token of the same step (as in StepVAR).

    >>> import torch
    >>> fresh, index = torch.ones(1, 1, 2), torch.tensor([[3]])
    >>> NearestKept().restore(fresh, index, Grid(0, 2, 2), None)[0, :, 0]
    tensor([1., 1., 1., 1.])
    """

    needs_cache: ClassVar[bool] = False

    def restore(self, fresh: Tensor, index: Tensor, grid: Grid, cached: Cached | None) -> Tensor:
        if not index.shape[1]:
            raise ValueError(f"{self!r} copies from kept tokens; none was kept at {grid.name}")
        return gather(fresh, nearest_kept(index, grid.h, grid.w))

    def fill(self, states: Tensor, index: Tensor, grid: Grid, x: Tensor) -> Tensor:
        """Return hidden states (B, L, C): of kept tokens, and copies of the nearest ones."""
        return self.restore(states, index, grid, None)
