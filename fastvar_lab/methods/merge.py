"""Merge: token merging (ToMe) as a rival on the same seam: similar tokens share one computation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvar_lab.methods.schedule import ScaleName, Scheduled, ScheduledRunner, kept
from fastvar_lab.seam import DENSE, KINDS, Act, Branch, Grid, Runner, Site
from fastvar_lab.tokens import gather, wide


@dataclass(frozen=True)
class Merge(Scheduled):
    """Merge the most similar tokens before each sublayer and copy its output back to all of them.

    Bipartite soft matching: one token of every `stride` x `stride` cell is a destination, each
    other token is matched to the destination of highest cosine similarity, and the share `ratio`
    of all tokens with the best matches is averaged into theirs. A merged token stands at its
    destination's position. `ratios`, `layers` and `sublayers` as in `Prune`; 1 skips the step.

    Source: Bolya et al., Token Merging (ICLR 2023) and for Stable Diffusion (2023). Departures:
    destinations are the cells' first tokens instead of random ones; residual inputs are averaged,
    before the norm; a ratio beyond what the stride allows is an error, not a silent cap.
    """

    ratios: Mapping[ScaleName, float] | tuple[tuple[ScaleName, float], ...]
    stride: int = 2
    layers: tuple[int, int] | None = None
    sublayers: tuple[str, ...] = KINDS

    def __post_init__(self) -> None:
        self._settle()
        if self.stride < 2:
            raise ValueError(f"stride must be 2 or more; not {self.stride}")

    def acts(self, grids: Sequence[Grid]) -> tuple[Act, ...]:
        ratios = self.by_step(grids)
        acts: list[Act] = []
        for grid in grids:
            ratio = ratios.get(grid.index, 0.0)
            if ratio == 1:
                acts.append(("skip",))
            elif ratio == 0:
                acts.append(DENSE)
            else:
                most = grid.tokens - len(destinations(grid, self.stride))
                if int(grid.tokens * ratio) > most:
                    raise ValueError(
                        f"at {grid.h}x{grid.w} a stride of {self.stride} lets at most "
                        f"{most / grid.tokens:.3f} of the tokens merge; not {ratio}"
                    )
                acts.append(("merge", ratio, self.stride, self.layers, self.sublayers))
        return tuple(acts)

    def cache_index(self, grids: Sequence[Grid]) -> int | None:
        return None

    def start(
        self,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor] | None = None,
    ) -> Runner:
        self.acts(grids)
        return MergeRunner(self, grids, depth)


def destinations(grid: Grid, stride: int) -> Tensor:
    """Positions of the first token of every stride x stride cell, (D,), on the CPU."""
    return torch.arange(grid.h * grid.w).view(grid.h, grid.w)[::stride, ::stride].flatten()


class Matching(NamedTuple):
    """Who merges into whom: positions (B, .) of kept tokens, of merged ones, and their targets.

    `target` points into `kept`.
    """

    kept: Tensor
    merged: Tensor
    target: Tensor


def match(x: Tensor, grid: Grid, k: int, stride: int) -> Matching:
    """Choose which tokens of x (B, L, C) merge, so that k remain."""
    into = destinations(grid, stride)
    is_source = torch.ones(x.shape[1], dtype=torch.bool).index_fill(0, into, False)
    sources = is_source.nonzero().squeeze(1).to(x.device)  # found on the CPU: no waiting
    into = into.to(x.device)
    unit = F.normalize(wide(x), dim=-1)
    likeness, target = (unit[:, sources] @ unit[:, into].transpose(1, 2)).max(dim=-1)
    order = likeness.argsort(dim=-1, descending=True)
    gone = x.shape[1] - k
    merged, alone = order[:, :gone], order[:, gone:]
    stay = torch.cat((sources[alone], into.expand(len(x), -1)), dim=1)
    return Matching(stay, sources[merged], target.gather(1, merged) + alone.shape[1])


class MergeRunner(ScheduledRunner):
    """One generation under `Merge`."""

    def __init__(self, method: Merge, grids: Sequence[Grid], depth: int) -> None:
        super().__init__(method, grids, depth)
        self.stride = method.stride

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        if not self.prunes(site) or grid.index not in self.ratios:
            return branch(x)
        found = match(x, grid, kept(grid.tokens, self.ratios[grid.index]), self.stride)
        width = x.shape[-1]
        place = found.target.unsqueeze(-1).expand(-1, -1, width)
        together = gather(x, found.kept)
        together = together.scatter_reduce(1, place, gather(x, found.merged), "mean")
        out = branch(together, found.kept)
        full = torch.empty_like(x, dtype=out.dtype)
        full.scatter_(1, found.kept.unsqueeze(-1).expand_as(out), out)
        copies = out.gather(1, place)
        return full.scatter_(1, found.merged.unsqueeze(-1).expand_as(copies), copies)
