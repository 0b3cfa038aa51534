"""The seam between backbones and methods: every transformer sublayer goes through one Runner.

Glossary, used everywhere: B rows (conditional first, then null), L tokens of a scale step, K kept
tokens, C channels, H heads. A *grid* is one scale step's token map; a *site* one sublayer of one
layer; a *branch* what that sublayer adds to the residual stream, norm to gate; an *index* the
positions, relative to the tokens offered, that a branch is asked to compute.

Dense generation, pruning, recording and timing are all Runners. Backbones know nothing of
methods, methods nothing of backbones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Grid(NamedTuple):
    """One scale step: its place in the schedule, its map, and how many text tokens precede it."""

    index: int  # type: ignore[assignment]
    h: int
    w: int
    prefix: int = 0

    @property
    def tokens(self) -> int:
        """L: all tokens of the step, the never pruned prefix included."""
        return self.prefix + self.h * self.w

    @property
    def name(self) -> str:
        """The map's size as tables and figures write it, height first.

        >>> Grid(3, 28, 21).name
        '28x21'
        """
        return f"{self.h}x{self.w}"


class Site(NamedTuple):
    """One sublayer: `layer` counts from 0, `kind` is "attn", "cross" or "ffn".

    >>> Site(3, "attn").layer
    3
    """

    layer: int
    kind: str


KINDS = ("attn", "cross", "ffn")


class Plan(Enum):
    """Which guidance rows run at a scale step, or that the step is skipped."""

    BOTH = "both"
    COND = "cond"
    NULL = "null"
    SKIP = "skip"


Branch = Callable[..., Tensor]
"""`branch(x, index=None) -> delta`: x (B, K, C) kept tokens, index (B, K); the gated output."""

Block = Callable[[Tensor], Tensor]
"""One transformer layer closed over its step: (B, L, C) -> (B, L, C)."""


class Runner:
    """Computes everything; a method overrides what it changes. Lives for one generation."""

    def plan(self, grid: Grid, canvas: Tensor) -> Plan:
        """Say, once per scale step, which rows run. `canvas` (n, d, H, W) is the latent so far."""
        return Plan.BOTH

    def forwarded(self, site: Site, grid: Grid) -> int:
        """Tokens this sublayer will compute: known beforehand, sizes buffers and counts FLOPs.

        Where the number depends on the data it must be the most there can be; operations counted
        from it are then an upper bound.
        """
        return grid.tokens

    def keep_rows(self, rows: slice) -> None:
        """Follow the loop when it drops guidance rows: slice whatever has a row dimension."""

    def stack(self, grid: Grid, blocks: Sequence[Block], x: Tensor) -> Tensor:
        """Run all layers of one scale step; for methods that prune the whole stack at once."""
        for block in blocks:
            x = block(x)
        return x

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        """Return what is added to the residual stream x (B, L, C). Call `branch` at most once."""
        return branch(x)

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
        """Attend: q (B, H, K, c) over k, v (B, H, T, c); a `mask` (B, 1, 1, T) adds to scores."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)

    def after(self, grid: Grid, tokens: Tensor | None, canvas: Tensor) -> None:
        """Look at a finished step: tokens (n, L, d) it drew (None if skipped), the latent after."""

    def held(self) -> dict[tuple[int, Site], Tensor]:
        """Return the branch outputs (B, L, C) that a snapshot should carry, by (step, site)."""
        return {}


class BlockCausal(Runner):
    """Runs several scale steps at once: each attends to itself and to those before it."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = list(lengths)

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
        if site.kind != "attn":
            return self.kernel(q, k, v, mask, scale)
        out, end = list[Tensor](), 0
        for part in q.split(self.lengths, dim=2):
            end += part.shape[2]
            out.append(self.kernel(part, k[:, :, :end], v[:, :, :end], None, scale))
        return torch.cat(out, dim=2)

    def kernel(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        """Attend from one scale's queries."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


class Wrapper(Runner):
    """Forwards everything to `inner`: the base of recorders and stopwatches, which stack freely."""

    def __init__(self, inner: Runner) -> None:
        self.inner = inner

    def plan(self, grid: Grid, canvas: Tensor) -> Plan:
        return self.inner.plan(grid, canvas)

    def forwarded(self, site: Site, grid: Grid) -> int:
        return self.inner.forwarded(site, grid)

    def keep_rows(self, rows: slice) -> None:
        self.inner.keep_rows(rows)

    def stack(self, grid: Grid, blocks: Sequence[Block], x: Tensor) -> Tensor:
        return self.inner.stack(grid, blocks, x)

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        return self.inner.sublayer(site, grid, branch, x)

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
        return self.inner.attend(site, grid, q, k, v, mask, scale)

    def after(self, grid: Grid, tokens: Tensor | None, canvas: Tensor) -> None:
        self.inner.after(grid, tokens, canvas)

    def held(self) -> dict[tuple[int, Site], Tensor]:
        return self.inner.held()


Act = tuple[Any, ...]
"""What a method does at one scale step, as comparable values; `DENSE` for computing everything."""

DENSE: Act = ("dense",)


class Method(Protocol):
    """A frozen value that says how to generate; its Runner lives for one generation and dies."""

    def start(
        self,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor] | None = None,
    ) -> Runner:
        """Make the Runner of one generation; `held` are branch outputs that a snapshot carries."""
        ...

    def acts(self, grids: Sequence[Grid]) -> tuple[Act, ...]:
        """Say what happens at each step; methods that share a prefix may share a snapshot."""
        ...

    def cache_index(self, grids: Sequence[Grid]) -> int | None:
        """Return the step whose branch outputs the method restores from, or None."""
        ...
