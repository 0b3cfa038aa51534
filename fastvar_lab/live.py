"""A running generation: its state, its layers, and how the tokens of a step are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvar_lab.audit import Audit
from fastvar_lab.backbones.protocol import State
from fastvar_lab.draws import Numbers, Stream
from fastvar_lab.models.model import Model
from fastvar_lab.request import Request
from fastvar_lab.sampling import guide
from fastvar_lab.seam import Block, Grid, Method, Rows, Stack
from fastvar_lab.snapshots import Keep, Start
from fastvar_lab.tokens import gather


@dataclass
class Live:
    """The state of a running generation: values that its steps share, and results so far."""

    model: Model
    request: Request
    method: Method
    start: Start
    run: Audit
    keep: Keep | None
    states: dict[Rows, State]  # by the rows that run
    stream: Stream
    guided: bool
    merge: int | None  # the layer before which guidance merges both rows, the depth after the last
    begin: float
    canvas: Tensor
    rows: Rows
    canvases: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor | None] = field(default_factory=list)
    lengths: list[tuple[int, ...]] = field(default_factory=list)
    numbers: Numbers = field(default_factory=Numbers)

    def state(self, rows: Rows) -> State:
        """Return the state of some guidance rows; without guidance, the only one."""
        rows = rows if self.guided else Rows.BOTH
        if rows not in self.states:
            self.states[rows] = self.states[Rows.BOTH].on(rows.of(len(self.request.prompts)))
        return self.states[rows]

    def state_of(self, x: Tensor) -> State:
        """Return the state of the rows of hidden states; fused streams are conditional rows."""
        alone = self.rows is Rows.BOTH and len(x) == len(self.request.prompts)
        return self.state(Rows.COND if alone else self.rows)

    def stack(self, grid: Grid, rows: Rows, index: Tensor | None = None) -> Stack:
        """Return the layers bound to one forward, of the tokens at index (n, K) if given."""
        backbone = self.model.transformer

        def on(rows: Rows) -> Sequence[Block]:
            state = self.state(rows)
            if index is not None:
                repeats = len(self.request.prompts) * (rows.each if self.guided else 1)
                state = backbone.part(state, grid, index.repeat(repeats // len(index), 1))
            return backbone.layers(state, grid, self.run)

        blocks = on(rows)
        merge = self.merge if self.merges(rows) else None
        if merge is not None and merge < len(blocks):
            late = on(Rows.COND)[merge:]
            blocks = [*blocks[:merge], lambda x: late[0](self.guide(grid, x)), *late[1:]]
        return Stack(blocks, on)

    def merges(self, rows: Rows) -> bool:
        """Return whether guidance merges these rows before the head."""
        return self.merge is not None and rows is Rows.BOTH

    def guide(self, grid: Grid, x: Tensor) -> Tensor:
        """Apply guidance to x (2n, L, ...) of a forward, step by step if there are several.

        Raises ValueError for some of the tokens of several steps with different guidance.
        """
        backbone, sampling = self.model.transformer, self.request.sampling
        scales = [backbone.guidance(self.states[Rows.BOTH], step, sampling) for step in grid.steps]
        if len(set(scales)) == 1:
            return guide(x, scales[0])
        if x.shape[1] != grid.tokens:
            raise ValueError(
                f"the steps {grid.name} have different guidance, which {x.shape[1]} of their "
                f"{grid.tokens} tokens do not show"
            )
        parts = x.split([step.tokens for step in grid.steps], dim=1)
        return torch.cat([guide(part, scale) for part, scale in zip(parts, scales)], dim=1)

    def sample(self, step: Grid, last: Tensor, stream: Stream) -> tuple[Tensor, Tensor]:
        """Draw tokens of a step, all or a part, from the output (B, L, C) of the last layer."""
        paired = self.guided and len(last) == 2 * len(self.request.prompts)
        return self.model.transformer.sample(
            self.state_of(last),
            last,
            step,
            paired,
            self.request.sampling,
            stream,
            self.model.quantizer.codebook,
        )

    def leave(self, grid: Grid, drawn: Tensor | None, logits: Tensor | None) -> None:
        """Pass a finished step to the runner, and store its results."""
        self.run.after(grid, drawn, self.canvas, logits)
        self.tokens.append(drawn)
        if self.keep is not None:
            self.canvases.append(self.canvas)
            self.lengths.append(tuple(self.states[Rows.BOTH].cache.lengths))


def drawn_tokens(live: Live, step: Grid, last: Tensor) -> tuple[Tensor, Tensor | None]:
    """Draw a step's tokens from the output of its last layer; given ones are not drawn.

    In an ordered stream they are drawn all the same, because later draws follow.
    """
    request, number = live.request, step.index
    whole = number < len(request.given) and not request.kept
    if whole and not getattr(live.stream, "ordered", False):
        return request.given[number], None
    drawn, logits = live.sample(step, last, live.stream)
    return (request.given[number], None) if whole else (drawn, logits)


def drawn_in_parts(
    live: Live, grid: Grid, entering: Tensor, parts: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """Draw the tokens of a step in several forwards, over random parts of its map."""
    n = len(live.request.prompts)
    order = live.stream.order(grid.index, n, grid.tokens)
    # the last tokens of the order come first, each part in raster order
    indices = [index.sort(dim=1).values for index in order.flip(1).split(list(parts), dim=1)]
    tokens, logits = list[Tensor](), list[Tensor]()
    for number, index in enumerate(indices):
        x = gather(entering, index.repeat(len(entering) // n, 1))
        x = live.run.stack(grid, live.stack(grid, live.rows, index), x)
        drawn, predicted = live.sample(grid, x, live.stream.part(number))
        tokens.append(drawn)
        logits.append(predicted)
    back = torch.cat(indices, dim=1).argsort(dim=1)
    if grid.index < len(live.request.given) and not live.request.kept:
        return live.request.given[grid.index], None
    return _placed(torch.cat(tokens, dim=1), back), gather(torch.cat(logits, dim=1), back)


def _placed(tokens: Tensor, index: Tensor) -> Tensor:
    """Take tokens (n, L) or (n, L, d) at index (n, L)."""
    return tokens.gather(1, index) if tokens.ndim == 2 else gather(tokens, index)


def edited(live: Live, step: Grid, drawn: Tensor) -> Tensor:
    """Put given tokens in the place of drawn ones where the request's mask keeps them."""
    request, number = live.request, step.index
    if number >= len(request.kept):
        return drawn
    given, keep = request.given[number], request.kept[number]
    if given.is_floating_point() or drawn.is_floating_point():
        book = live.model.quantizer.codebook
        assert book is not None
        given, drawn = (
            t if t.is_floating_point() else F.embedding(t, book) for t in (given, drawn)
        )
        kind = torch.promote_types(given.dtype, drawn.dtype)  # the wider one, as released
        given, drawn = given.to(kind), drawn.to(kind)
    return torch.where(keep if drawn.ndim == 2 else keep.unsqueeze(-1), given, drawn)
