"""Merge: token merging (ToMe) as a rival on the same seam: similar tokens share one computation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvar_lab.methods.registry import method
from fastvar_lab.methods.schedule import ScaleName, Scheduled, ScheduledRunner, kept
from fastvar_lab.seam import DENSE, KINDS, Act, Branch, Grid, Rows, Runner, Site
from fastvar_lab.tokens import gather, scatter, wide


@method
@dataclass(frozen=True)
class Merge(Scheduled):
    """Merge the most similar tokens before each sublayer and copy its output back to all of them.

    Bipartite soft matching: one token of every `stride` x `stride` cell is a destination, each
    other token is matched to the destination of highest cosine similarity, and the share `ratio`
    of all tokens with the best matches is averaged into theirs. A merged token stands at its
    destination's position. `ratios`, `layers` and `sublayers` as in `Prune`; 1 skips the step.

    Source: Bolya et al., Token Merging (ICLR 2023) and for Stable Diffusion (2023). Departures:
    destinations are the cells' first tokens instead of random ones; residual inputs are averaged,
    before the norm; a ratio beyond what the stride allows is an error, not a silent cap. On a GPU
    averages are summed up in no fixed order: the same request may round otherwise. Counted
    operations leave the matching out, as they leave out every method's choice of tokens.
    """

    family: ClassVar[str] = "ToMe"
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
                acts.append(Act(Rows.SKIP))
            elif ratio == 0:
                acts.append(DENSE)
            else:
                most = grid.tokens - cells(grid, self.stride)
                if int(grid.tokens * ratio) > most:
                    raise ValueError(
                        f"at {grid.name} a stride of {self.stride} lets at most "
                        f"{most / grid.tokens:.3f} of the tokens merge; not {ratio}"
                    )
                acts.append(Act(key=("merge", *self.key("ratios"), ratio)))
        return tuple(acts)

    def cache_index(self, grids: Sequence[Grid]) -> int | None:
        return None

    def start(
        self,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor] | None = None,
    ) -> Runner:
        self.acts(grids)  # refuses what the stride does not allow
        return MergeRunner(self, grids, depth)


def cells(grid: Grid, stride: int) -> int:
    """Count the stride x stride cells of a map, those cut off at its far sides included."""
    return -(-grid.h // stride) * -(-grid.w // stride)


def sources_and_destinations(
    grid: Grid, stride: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Positions (S,) of the tokens that may merge, and (D,) of the first one of every cell."""
    token = torch.arange(grid.h * grid.w, device=device)
    first = (token // grid.w % stride == 0) & (token % grid.w % stride == 0)
    order = first.long().argsort(stable=True)  # where `nonzero` would make the host wait
    return order[: -cells(grid, stride)], order[-cells(grid, stride) :]


class Matching(NamedTuple):
    """Who merges into whom: positions (B, .) of kept tokens, of merged ones, and their targets.

    `target` points into `kept`.
    """

    kept: Tensor
    merged: Tensor
    target: Tensor


def match(x: Tensor, sources: Tensor, into: Tensor, k: int) -> Matching:
    """Choose which `sources` among the tokens x (B, L, C) merge with some `into`, so k remain."""
    unit = F.normalize(wide(x), dim=-1).to(x.dtype)
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
        self.parts: tuple[int, tuple[Tensor, Tensor]] | None = None  # of one step

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        ratio = self.ratio(site, grid)
        if ratio == 0:
            return branch(x)
        if self.parts is None or self.parts[0] != grid.index:
            self.parts = grid.index, sources_and_destinations(grid, self.stride, x.device)
        matching = match(x, *self.parts[1], kept(grid.tokens, ratio))
        place = matching.target.unsqueeze(-1).expand(-1, -1, x.shape[-1])
        together = gather(x, matching.kept)
        together = together.scatter_reduce(1, place, gather(x, matching.merged), "mean")
        out = branch(together, matching.kept)
        full = scatter(torch.empty_like(x, dtype=out.dtype), matching.kept, out)
        return scatter(full, matching.merged, gather(out, matching.target))
