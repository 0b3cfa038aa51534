"""The seam between backbones and methods: every transformer sublayer goes through one Runner.

Glossary: B guidance rows (conditional first, then null), L tokens of a scale step, K kept tokens,
C channels, H heads, n pictures. A *grid* is the token map of one scale step. A *site* is one
sublayer of one layer. A *branch* is the function that computes what the sublayer adds to the
residual stream, from norm to gate. An *index* holds the positions that a branch computes.

Dense generation, pruning, recording and timing are all Runners. Backbones do not depend on methods,
and methods do not depend on backbones. A `Method` declares what it computes in its `acts` and its
runner's `forwarded`; the generation loop raises an error if the runner does otherwise (`audit.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Grid(NamedTuple):
    """One scale step: its index in the schedule, its map, and the number of prefix text tokens."""

    index: int  # type: ignore[assignment]
    h: int
    w: int
    prefix: int = 0

    @property
    def tokens(self) -> int:
        """L: all tokens of the step, including the prefix, which is never pruned."""
        return self.prefix + self.h * self.w

    @property
    def name(self) -> str:
        """The size of the map as tables and figures show it, height first.

        >>> Grid(3, 28, 21).name
        '28x21'
        """
        return f"{self.h}x{self.w}"

    @property
    def steps(self) -> tuple[Grid, ...]:
        """The scale steps of this forward: the grid itself."""
        return (self,)


class Group(NamedTuple):
    """Several scale steps that run in one forward; their tokens are concatenated.

    It is passed in place of a `Grid`, and its index is that of its first step. Attention is causal
    from step to step.

    >>> group = Group((Grid(8, 24, 24), Grid(9, 32, 32)))
    >>> group.tokens, group.name
    (1600, '24x24+32x32')
    """

    steps: tuple[Grid, ...]

    @property
    def index(self) -> int:  # type: ignore[override]
        """The index of the first step."""
        return self.steps[0].index

    @property
    def prefix(self) -> int:
        """The number of text tokens before the first step."""
        return self.steps[0].prefix

    @property
    def tokens(self) -> int:
        """L: the tokens of all steps."""
        return sum(grid.tokens for grid in self.steps)

    @property
    def name(self) -> str:
        """The sizes of the maps of all steps."""
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
        """The number of guidance rows per picture.

        >>> [rows.each for rows in Rows]
        [2, 1, 1, 0]
        """
        return {"both": 2, "skip": 0}.get(self.value, 1)

    def of(self, n: int) -> slice:
        """Return the slice of these rows among 2n rows of n pictures, conditional rows first."""
        return {"both": slice(None), "null": slice(n, 2 * n)}.get(self.value, slice(0, n))


class Act(NamedTuple):
    """What a method declares to do at one scale step; counts follow it, and the loop checks it.

    `rows` are the guidance rows that run; None if the runner decides from the data. `key` holds
    comparable values that identify the rest of the step's work; if it is empty, every token is
    computed. Before layer `fused` the two streams are merged: from there on, head included, only
    conditional rows run. In the layers of the half-open range `alone`, conditional rows run for
    both streams. A `joined` step runs in one forward with the step before. With `at_most` the
    runner may compute fewer tokens than its `forwarded` says, or fewer rows than the act, so counts
    are upper bounds.

    >>> [act.rows_at(layer).value for act in (Act(), Act(fused=4)) for layer in (0, 5)]
    ['both', 'both', 'both', 'cond']
    """

    rows: Rows | None = Rows.BOTH
    key: tuple[Any, ...] = ()
    fused: int | None = None
    alone: tuple[int, int] | None = None
    joined: bool = False
    at_most: bool = False

    @property
    def skips(self) -> bool:
        """Whether the step is skipped."""
        return self.rows is Rows.SKIP

    @property
    def whole(self) -> bool:
        """Whether every layer computes every token, in the rows that run, as a step of its own."""
        streams_differ = self.fused is not None or self.alone is not None
        return not (self.key or self.skips or streams_differ or self.joined or self.at_most)

    @property
    def exact(self) -> bool:
        """Whether the computed rows and tokens are known before the step runs."""
        return self.rows is not None and not self.at_most

    def rows_at(self, layer: int) -> Rows:
        """Return the rows that run in a layer; an upper bound if the act is not exact."""
        if self.alone is not None and self.alone[0] <= layer < self.alone[1]:
            return Rows.COND
        if self.fused is not None and layer >= self.fused:
            return Rows.COND
        return self.rows or Rows.BOTH

    @property
    def rows_at_head(self) -> Rows:
        """Return the rows of the head; an upper bound if the act is not exact."""
        return self.rows or Rows.BOTH if self.fused is None else Rows.COND


DENSE = Act()
"""The act of a dense step: both rows, every token."""

Branch = Callable[..., Tensor]
"""`branch(x, index=None) -> delta`: the gated output of kept tokens x (B, K, C), index (B, K).

x may also hold K mixtures of tokens; `index` then holds the positions that represent them.
"""

Block = Callable[[Tensor], Tensor]
"""One transformer layer, bound to its scale step: (B, L, C) -> (B, L, C)."""


class Stack(Sequence[Block]):
    """The layers of one scale step; `on(rows)` returns the same layers for those guidance rows."""

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
    """Functions and facts of the running generation that a runner may use."""

    pictures: int
    guided: bool
    guide: Callable[[Grid, Tensor], Tensor]
    """Applies the step's guidance to a tensor with both rows: (2n, ...) -> (n, ...)."""
    logits: Callable[[Tensor], Tensor]
    """Computes logits of hidden states (B, L, C), of both rows or of the conditional rows."""
    decode: Callable[[Tensor], Tensor]
    """Decodes latents (n, d, H, W) to pictures (n, 3, h, w) in [0, 1]."""
    temperature: Callable[[Grid], float] = lambda grid: 1.0
    """Returns the temperature of a step, by which its logits are divided."""
    left: Callable[[Grid], float] = lambda grid: 1.0
    """Returns what logits that `Runner.after` receives are yet to be divided by: the temperature,
    or 1 where they have it already."""
    given: int = 0
    """The number of first steps whose tokens are given: they are not drawn, and leave no logits."""
    wrong: Callable[[Grid, Tensor], None] = lambda grid, wrong: None
    """Notes whether values of a step are wrong, a bool on the device: the generation then ends in a
    ValueError, at its end, because the host does not wait for a GPU before."""


class Runner:
    """Runs one generation densely; a method overrides the parts that it changes."""

    def prepare(self, handles: Handles) -> None:
        """Receive the handles of the generation, before its first step."""

    def recall(self, grid: Grid, tokens: Tensor | None, canvas: Tensor) -> None:
        """Receive a step that a resumed generation takes from its snapshot."""

    def rows(self, grid: Grid, canvas: Tensor) -> Rows | None:
        """Return the rows that run at a scale step; None to follow the method's act.

        It is called once per step; `canvas` (n, d, H, W) is the latent so far.
        """
        return None

    def forwarded(self, site: Site, grid: Grid) -> int:
        """Return the number of tokens that a sublayer will compute; it sizes buffers and counts.

        If the number depends on the data, return its maximum and set `at_most` in the act.
        """
        return grid.tokens

    def keep_rows(self, rows: slice) -> None:
        """Slice all state with a row dimension, when the loop changes the guidance rows."""

    def stack(self, grid: Grid, blocks: Stack, x: Tensor) -> Tensor:
        """Run all layers of one scale step; override it for methods on the whole stack."""
        for block in blocks:
            x = block(x)
        return x

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        """Return what is added to the residual stream x (B, L, C). Call `branch` at most once."""
        return branch(x)

    def reads(
        self,
        site: Site,
        grid: Grid,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        scale: float = 1.0,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the keys, values and mask that an attention reads: those that it is given.

        A method overrides it to look at attention or to change what it reads, whatever the kernel;
        shapes are those of `attend`, and a mask may be (B, H, 1, T). Wrappers watch `attend`.
        """
        return k, v, mask

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
        """Compute attention of q (B, H, K, c) over k, v (B, H, T, c).

        `mask` (B, 1, 1, T) is added to the scores. In a group, attention is causal from step to
        step.
        """
        k, v, mask = self.reads(site, grid, q, k, v, mask, scale)
        if site.kind == "attn" and len(grid.steps) > 1:
            lengths = [self.forwarded(site, step) for step in grid.steps]
            return block_causal(q, k, v, lengths, scale)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)

    def places(self, grid: Grid, tokens: Tensor) -> Tensor | None:
        """Return the mask (n, h * w) of positions whose codes enter the latent; None for all.

        Floats in place of a mask are weights of the codes.
        """
        return None

    def after(
        self, grid: Grid, tokens: Tensor | None, canvas: Tensor, logits: Tensor | None = None
    ) -> None:
        """Observe a finished step: its tokens (n, L, d), None if skipped, and the latent after it.

        `logits` (n, L, ...) are the guided logits of the tokens; None if none were drawn.
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
    """Compute attention of several steps: each attends to itself and to all earlier keys.

    q (B, H, K, c) holds `lengths` queries of each step; k and v (B, H, T, c) end with their keys.
    """
    attend, out = kernel or _fused, list[Tensor]()
    end = k.shape[2] - sum(lengths)
    for part in q.split(list(lengths), dim=2):
        end += part.shape[2]
        out.append(attend(part, k[:, :, :end], v[:, :, :end], scale))
    return torch.cat(out, dim=2)


def by_step(runner: Runner, site: Site, grid: Grid, x: Tensor) -> list[Tensor]:
    """Split what a sublayer has of each token, x (B, L, ...), by the scale steps of its forward.

    If some tokens are not there, those of each step are as many as `runner.forwarded` says.
    """
    if len(grid.steps) == 1:
        return [x]
    counts = [step.tokens for step in grid.steps]
    if x.shape[1] != sum(counts):
        counts = [runner.forwarded(site, step) for step in grid.steps]
    return list(x.split(counts, dim=1))


def _fused(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


class Wrapper(Runner):
    """Forwards every call to `inner`; the base class of recorders and stopwatches, which nest."""

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

    def reads(
        self,
        site: Site,
        grid: Grid,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        scale: float = 1.0,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.inner.reads(site, grid, q, k, v, mask, scale)

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
    """A frozen value that describes how to generate; it starts a new Runner for each generation."""

    def start(
        self,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor] | None = None,
    ) -> Runner:
        """Return the Runner of one generation; `held` are branch outputs from a snapshot."""
        ...

    def acts(self, grids: Sequence[Grid]) -> tuple[Act, ...]:
        """Return the act of each step; methods with equal first acts may share a snapshot."""
        ...

    def cache_index(self, grids: Sequence[Grid]) -> int | None:
        """Return the step whose branch outputs the method restores from; None for none."""
        ...


def stateful_from(method: Method, grids: Sequence[Grid]) -> int:
    """Return the step from which a method's runner must have run itself; all steps if none.

    A runner that starts at a later step learns of earlier ones what a snapshot holds: latents,
    tokens, keys and values, and the outputs of the cache step. A method whose runner carries
    nothing else from step to step, or does so from some step on, says it in a method
    `stateful_from(grids)`; a subclass with its own `start` or `wrap` says it anew. For any other
    method it is the first step whose act changes more than the rows that run.

    >>> import fastvar_lab as fv
    >>> from fastvar_lab.scales import TINY, grids
    >>> rolling = fv.Prune({-2: 0.5, -1: 0.75}, restore=fv.PreviousBranch())
    >>> [stateful_from(m, grids(TINY)) for m in (fv.Prune({-2: 0.5, -1: 0.75}), rolling)]
    [10, 8]
    """
    classes = type(method).__mro__
    place = {
        name: next((i for i, each in enumerate(classes) if name in vars(each)), len(classes))
        for name in ("stateful_from", "start", "wrap")
    }
    said = place["stateful_from"]
    if said < len(classes) and said <= min(place["start"], place["wrap"]):
        step: int = method.stateful_from(grids)  # type: ignore[attr-defined]
        return step
    acts = enumerate(method.acts(grids))
    return next((step for step, act in acts if not act.whole or act.rows is None), len(grids))
