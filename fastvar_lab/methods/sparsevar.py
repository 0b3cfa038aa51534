"""SparseVAR: tokens that hardly changed at the step before stay out of the whole stack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastvar_lab.methods.ratios import ScaleName, scale_name
from fastvar_lab.methods.registry import method
from fastvar_lab.methods.restore_anchors import AnchorObserver, Anchors, lattice
from fastvar_lab.methods.schedule import find, settle_layers
from fastvar_lab.methods.select_previous import ChangeObserver, chunk_checked
from fastvar_lab.methods.spaces import Subject, space
from fastvar_lab.seam import DENSE, Act, Branch, Grid, Handles, Rows, Runner, Site, Stack
from fastvar_lab.tokens import gather


@method
@dataclass(frozen=True)
class SparseVAR:
    """Drop the tokens that changed little at the step before; anchors stand for them.

    It prunes every step from `first` on. The change of a token is the mean square over channels of
    what `layers` add to it at the step before (default: layers 12 to 15 of 32, at the same share of
    the depth), averaged over guidance rows; a token that was dropped there has none. The kept share
    is decided by the picture: the share of tokens whose change exceeds `threshold` times the
    largest. That many tokens of the resized map are kept, and a lattice of anchors of `stride`.
    Dropped tokens go through no layer. Each copies the last hidden state of an anchor if their
    logits at the step before have a cosine above `similarity`, see `Anchors`; else it keeps its
    input, and its code is 0. Both rows share one set. Counted tokens are an upper bound, all of the
    step, since the kept share is known only when the step begins; the host waits once a step for
    that count. Pictures of a batch do not influence each other: rows are padded, and padding is
    masked in attention.

    Source: SparseVAR (arXiv 2507.20454); constants and details from the port of its released code
    in Weepingchestnut/Lvar, models/sparsevar. `as_released` follows that code where it departs from
    the paper: anchors are not kept unless they changed, so that a copy may be an anchor's input;
    the cosine is not of tokens, because logits (L, V) are read as (V, L) without a transpose; and
    every token chooses among the first four anchors of the top row, because the code gathers along
    the wrong axis. Given the same changes and logits, kept tokens, zeroed codes and restored states
    equal those of the code bit by bit, but for ties, which its unstable sort breaks at random.
    Where the code differs here too: it takes the largest change over the batch (more than one
    picture fails in it), and resizes the inputs of all steps by area averaging, which belongs to
    the model here.

    >>> from fastvar_lab.scales import TINY, grids
    >>> [act.at_most for act in SparseVAR().acts(grids(TINY))].count(True)
    3
    """

    family: ClassVar[str] = "SparseVAR"
    first: ScaleName = -3
    threshold: float = 0.6
    layers: tuple[int, int] | None = None
    stride: int = 4
    similarity: float = 0.8
    as_released: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "first", scale_name(self.first))
        settle_layers(self)
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold must lie in [0, 1); not {self.threshold}")
        Anchors(self.stride, self.similarity)  # raises for values that do not fit

    def first_index(self, grids: Sequence[Grid]) -> int:
        """Return the first pruned step; raise ValueError if none comes before it."""
        step = find(self.first, grids)
        if not step:
            raise ValueError("SparseVAR looks at the step before; the first step has none")
        return step

    def acts(self, grids: Sequence[Grid]) -> tuple[Act, ...]:
        first = self.first_index(grids)
        watched, pruned = Act(key=("watched", self)), Act(Rows.BOTH, (self,), at_most=True)
        late = len(grids) - first
        return (DENSE,) * (first - 1) + (watched,) + (pruned,) * late

    def cache_index(self, grids: Sequence[Grid]) -> int | None:
        return None

    def start(
        self,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor] | None = None,
    ) -> Runner:
        return SparseVARRunner(self, grids, depth)


class SparseVARRunner(Runner):
    """One generation under `SparseVAR`."""

    def __init__(self, method: SparseVAR, grids: Sequence[Grid], depth: int) -> None:
        self.method, self.first = method, method.first_index(grids)
        layers = chunk_checked(method.layers, depth, "SparseVAR")
        self.change = ChangeObserver(layers, self.first - 1)
        self.anchors = AnchorObserver(
            method.stride, method.similarity, self.first - 1, method.as_released
        )
        self.keys = sum(grid.tokens for grid in grids[: self.first])  # in the cache of each layer
        self.index: Tensor | None = None  # (2n, K), of the running or the last pruned step
        self.inside = False
        self.padding: Tensor | None = None  # (n, 1, 1, T), added to scores of every row, or None

    def prepare(self, handles: Handles) -> None:
        self.pictures = handles.pictures
        self.anchors.prepare(handles)

    def stack(self, grid: Grid, blocks: Stack, x: Tensor) -> Tensor:
        if grid.index < self.first:
            return super().stack(grid, blocks, x)
        self.choose(grid, x)
        assert self.index is not None
        self.inside, states = True, gather(x, self.index)
        for block in blocks:
            states = block(states)
        self.inside, rows = False, len(states)  # guidance may merge both rows inside
        return self.anchors.fill(states, self.index[:rows], grid, x[:rows])

    def choose(self, grid: Grid, x: Tensor) -> None:
        """Choose the tokens of a step, one set for both rows, and pad them to one length."""
        assert self.change.last is not None
        known, rows = self.change.last.values, len(x) // self.pictures
        change = known.unflatten(0, (-1, self.pictures)).mean(0)  # (n, tokens of the step before)
        many = (change > self.method.threshold * change.amax(1, keepdim=True)).sum(1, keepdim=True)
        tokens = grid.h * grid.w
        count = tokens * many // change.shape[1]
        scores = self.change.last.on(grid, len(known)).unflatten(0, (-1, self.pictures)).mean(0)
        rank = scores.squeeze(-1).argsort(dim=1, stable=True).argsort(dim=1)
        keep = rank >= tokens - count
        if self.method.as_released:
            keep |= count == 0  # the code's slice [-0:] takes all
        else:
            places = torch.tensor(lattice(grid.h, grid.w, self.method.stride), device=x.device)
            keep.index_fill_(1, places, True)
        counts = keep.sum(1, keepdim=True)
        least, most = torch.cat((counts.amin(0), counts.amax(0))).tolist()  # the host waits here
        index = (~keep).long().argsort(dim=1, stable=True)[:, :most]
        real = torch.arange(most, device=x.device) < counts
        index = torch.where(real, index, index[:, :1])
        self.index = index.repeat(rows, 1)
        self._pad(real if least < most else None, int(most), x)

    def _pad(self, real: Tensor | None, width: int, x: Tensor) -> None:
        """Note the step's keys, and which of them are real, (n, K); None if all are."""
        if real is not None or self.padding is not None:
            before = self.padding
            if before is None:
                before = x.new_zeros(self.pictures, 1, 1, self.keys)
            now = x.new_zeros(self.pictures, 1, 1, width)
            if real is not None:
                now.masked_fill_(~real[:, None, None], float("-inf"))
            self.padding = torch.cat((before, now), dim=-1)
        self.keys += width

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        index = self.index[: len(x)] if self.inside and self.index is not None else None
        out = branch(x, index)
        if index is not None and self.padding is not None:
            # padding repeats the first kept token, whose change must count once
            first = mask_first(index)
            self.change.added(site, grid, out * first.unsqueeze(-1).to(out.dtype), index)
        else:
            self.change.added(site, grid, out, index)
        return out

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
        if site.kind == "attn" and self.padding is not None:
            mask = self.padding.to(q.dtype).repeat(len(q) // self.pictures, 1, 1, 1)
        return k, v, mask

    def places(self, grid: Grid, tokens: Tensor) -> Tensor | None:
        if grid.index < self.first:
            return None
        assert self.index is not None
        return self.anchors.places(self.index[: len(tokens)], grid)

    def after(
        self, grid: Grid, tokens: Tensor | None, canvas: Tensor, logits: Tensor | None = None
    ) -> None:
        self.change.after(grid, logits)
        self.anchors.after(grid, logits)


def mask_first(index: Tensor) -> Tensor:
    """Return whether each position of index (B, K) is no repetition of the first, (B, K)."""
    again = index == index[:, :1]
    again[:, 0] = False
    return ~again


@space(
    "SparseVAR", "granularity",
    lambda subject: (SparseVAR(), SparseVAR(threshold=0.5), SparseVAR(as_released=True)),
    first=(-5, -4, -3, -2, -1),
    threshold=(0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    similarity=(0.6, 0.8, 0.9), stride=(4, 8), place=(0.0, 0.25, 0.375, 0.5, 0.75),
)  # fmt: skip
def _sparsevar(
    subject: Subject, first: int, threshold: float, similarity: float, stride: int, place: float
) -> SparseVAR:
    """Score by an eighth of the layers, which begins at some share of the depth."""
    begin = round(place * subject.depth)
    layers = (begin, max(begin + 1, round((place + 0.125) * subject.depth)))
    return SparseVAR(first, threshold, layers, stride, similarity)
