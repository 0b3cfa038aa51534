"""The seam between backbones and methods: every transformer sublayer goes through one Runner.

Glossary, used everywhere: B rows (conditional first, then null), L tokens of a scale step, K kept
tokens, C channels, H heads, n pictures. A *grid* is one scale step's token map; a *site* one
sublayer of one layer; a *branch* what that sublayer adds to the residual stream, norm to gate; an
*index* the positions on the step's map that a branch is asked to compute.

Dense generation, pruning, recording and timing are all Runners. Backbones know nothing of
methods, methods nothing of backbones. A `Method` says once, in its `acts` and its runner's
`forwarded`, what it computes; the loop refuses a runner that does otherwise (`audit.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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

    @property
    def steps(self) -> tuple[Grid, ...]:
        """The scale steps that are run in this forward: itself."""
        return (self,)


class Group(NamedTuple):
    """Several scale steps that run in one forward, their tokens one step after the other.

    Stands where a `Grid` does; attention is causal from step to step. Its place is its first
    step's.

    >>> group = Group((Grid(8, 24, 24), Grid(9, 32, 32)))
    >>> group.tokens, group.name
    (1600, '24x24+32x32')
    """

    steps: tuple[Grid, ...]

    @property
    def index(self) -> int:  # type: ignore[override]
        """Step index of the first."""
        return self.steps[0].index

    @property
    def prefix(self) -> int:
        """Text tokens that precede the first."""
        return self.steps[0].prefix

    @property
    def tokens(self) -> int:
        """L: the tokens of all its steps."""
        return sum(grid.tokens for grid in self.steps)

    @property
    def name(self) -> str:
        """The maps of its steps."""
        return "+".join(grid.name for grid in self.steps)


class Site(NamedTuple):
    """One sublayer: `layer` counts from 0, `kind` is "attn", "cross" or "ffn".

    >>> Site(3, "attn").layer
    3
    """

    layer: int
    kind: str


KINDS = ("attn", "cross", "ffn")


class Rows(Enum):
    """Which guidance rows run at a scale step, or that the step is skipped."""

    BOTH = "both"
    COND = "cond"
    NULL = "null"
    SKIP = "skip"

    @property
    def each(self) -> int:
        """Rows that run for every picture.

        >>> [rows.each for rows in Rows]
        [2, 1, 1, 0]
        """
        return {"both": 2, "skip": 0}.get(self.value, 1)

    def of(self, n: int) -> slice:
        """Say which of the 2n rows of n pictures these are, conditional ones first."""
        return {"both": slice(None), "null": slice(n, 2 * n)}.get(self.value, slice(0, n))


class Act(NamedTuple):
    """What a method does at one scale step: said once, counted from, and checked.

    `rows` are the guidance rows that run, None where the runner decides from the data. `key` holds
    comparable values that tell what else is done; empty, every token is computed. Before layer
    `fused` both streams become one: from there on, head included, the conditional rows run alone.
    In the layers of the half-open range `alone` they run alone too, for both. A step that is
    `joined` runs in one forward with the step before. `at_most`: the runner may compute fewer
    tokens than its `forwarded` says, so that counts are upper bounds.
    """

    rows: Rows | None = Rows.BOTH
    key: tuple[Any, ...] = ()
    fused: int | None = None
    alone: tuple[int, int] | None = None
    joined: bool = False
    at_most: bool = False

    @property
    def skips(self) -> bool:
        """Tell whether nothing of the step runs."""
        return self.rows is Rows.SKIP

    @property
    def whole(self) -> bool:
        """Tell whether the rows that run compute every token of every layer."""
        apart = self.fused is not None or self.alone is not None
        return not (self.key or self.skips or apart or self.joined or self.at_most)

    @property
    def exact(self) -> bool:
        """Tell whether it is known beforehand what is computed."""
        return self.rows is not None and not self.at_most

    def rows_at(self, layer: int) -> Rows:
        """Say which rows run in a layer, at most."""
        if self.alone is not None and self.alone[0] <= layer < self.alone[1]:
            return Rows.COND
        if self.fused is not None and layer >= self.fused:
            return Rows.COND
        return self.rows or Rows.BOTH

    @property
    def rows_at_head(self) -> Rows:
        """Say which rows the head sees, at most."""
        return self.rows or Rows.BOTH if self.fused is None else Rows.COND


DENSE = Act()
"""Computes everything."""

Branch = Callable[..., Tensor]
"""`branch(x, index=None) -> delta`: x (B, K, C) kept tokens, index (B, K); the gated output.

x may also hold K mixtures of tokens; `index` then names the positions that they stand for.
"""

Block = Callable[[Tensor], Tensor]
"""One transformer layer closed over its step: (B, L, C) -> (B, L, C)."""


class Stack(Sequence[Block]):
    """The layers of one scale step; `on(rows)` are the same layers for some guidance rows alone."""

    def __init__(
        self, blocks: Sequence[Block], on: Callable[[Rows], Sequence[Block]] | None = None
    ) -> None:
        self.blocks, self.on = blocks, on or (lambda rows: blocks)

    def __getitem__(self, place: Any) -> Any:
        return self.blocks[place]

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Block]:
        return iter(self.blocks)


class Handles(NamedTuple):
    """What a runner may ask of the generation that it is part of."""

    pictures: int
    guided: bool
    guide: Callable[[Grid, Tensor], Tensor]
    """Guidance of a step on anything with both rows: (2n, ...) -> (n, ...)."""
    logits: Callable[[Tensor], Tensor]
    """Logits of hidden states (B, L, C), of both rows or of the conditional ones."""
    decode: Callable[[Tensor], Tensor]
    """Latents (n, d, H, W) to pictures (n, 3, h, w) in [0, 1]."""


class Runner:
    """Computes everything; a method overrides what it changes. Lives for one generation."""

    def prepare(self, handles: Handles) -> None:
        """Take what may be asked of the generation, before its first step."""

    def recall(self, grid: Grid, tokens: Tensor | None, canvas: Tensor) -> None:
        """Take note of a step that was run before this generation went on from a snapshot."""

    def rows(self, grid: Grid, canvas: Tensor) -> Rows | None:
        """Say, once per scale step, which rows run; None: as the method's act says.

        `canvas` (n, d, H, W) is the latent so far.
        """
        return None

    def forwarded(self, site: Site, grid: Grid) -> int:
        """Tokens this sublayer will compute: known beforehand, sizes buffers and counts FLOPs.

        Where the number depends on the data it must be the most there can be, and the act says
        `at_most`.
        """
        return grid.tokens

    def keep_rows(self, rows: slice) -> None:
        """Follow the loop when other guidance rows run: slice whatever has a row dimension."""

    def stack(self, grid: Grid, blocks: Stack, x: Tensor) -> Tensor:
        """Run all layers of one scale step; for methods that act on the whole stack at once."""
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
        """Attend: q (B, H, K, c) over k, v (B, H, T, c); a `mask` (B, 1, 1, T) adds to scores.

        Over the steps of a group attention is causal from step to step.
        """
        if site.kind == "attn" and len(grid.steps) > 1:
            lengths = [self.forwarded(site, step) for step in grid.steps]
            return block_causal(q, k, v, lengths, scale)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)

    def places(self, grid: Grid, tokens: Tensor) -> Tensor | None:
        """Choose the places (n, h * w), bool, whose codes are added to the latent; None: all."""
        return None

    def after(
        self, grid: Grid, tokens: Tensor | None, canvas: Tensor, logits: Tensor | None = None
    ) -> None:
        """Look at a finished step: tokens (n, L, d) it drew (None if skipped), the latent after.

        `logits` (n, L, ...) are those it drew from, guided; None where it drew none.
        """

    def held(self) -> dict[tuple[int, Site], Tensor]:
        """Return the branch outputs (B, L, C) that a snapshot should carry, by (step, site)."""
        return {}


Kernel = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def block_causal(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Sequence[int],
    scale: float,
    kernel: Kernel | None = None,
) -> Tensor:
    """Attend from several steps: each sees itself, those before it, and all older keys.

    q (B, H, K, c) holds `lengths` queries of each step, k and v (B, H, T, c) end with their keys.
    """
    attend, out = kernel or _fused, list[Tensor]()
    end = k.shape[2] - sum(lengths)
    for part in q.split(list(lengths), dim=2):
        end += part.shape[2]
        out.append(attend(part, k[:, :, :end], v[:, :, :end], scale))
    return torch.cat(out, dim=2)


def _fused(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


class Wrapper(Runner):
    """Forwards everything to `inner`: the base of recorders and stopwatches, which stack freely."""

    def __init__(self, inner: Runner) -> None:
        self.inner = inner

    def prepare(self, handles: Handles) -> None:
        self.inner.prepare(handles)

    def recall(self, grid: Grid, tokens: Tensor | None, canvas: Tensor) -> None:
        self.inner.recall(grid, tokens, canvas)

    def rows(self, grid: Grid, canvas: Tensor) -> Rows | None:
        return self.inner.rows(grid, canvas)

    def forwarded(self, site: Site, grid: Grid) -> int:
        return self.inner.forwarded(site, grid)

    def keep_rows(self, rows: slice) -> None:
        self.inner.keep_rows(rows)

    def stack(self, grid: Grid, blocks: Stack, x: Tensor) -> Tensor:
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

    def places(self, grid: Grid, tokens: Tensor) -> Tensor | None:
        return self.inner.places(grid, tokens)

    def after(
        self, grid: Grid, tokens: Tensor | None, canvas: Tensor, logits: Tensor | None = None
    ) -> None:
        self.inner.after(grid, tokens, canvas, logits)

    def held(self) -> dict[tuple[int, Site], Tensor]:
        return self.inner.held()


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
