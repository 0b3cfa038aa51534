"""Merge: token merging (ToMe), in which similar tokens share one computation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvar_lab.methods.ratios import ScaleName
from fastvar_lab.methods.registry import method
from fastvar_lab.methods.schedule import Scheduled, ScheduledRunner, kept
from fastvar_lab.methods.spaces import Subject, rising, space
from fastvar_lab.seam import DENSE, KINDS, Act, Branch, Grid, Rows, Runner, Site
from fastvar_lab.tokens import gather, scatter, wide


@method
@dataclass(frozen=True)
class Merge(Scheduled):
    """Merge the most similar tokens before each sublayer and copy its output back to all of them.

    It uses bipartite soft matching: one token of every `stride` x `stride` cell is a destination,
    and each other token is matched to the destination of highest cosine similarity. The share
    `ratio` of all tokens, those with the best matches, is averaged into their destinations and
    takes their positions. `ratios`, `layers` and `sublayers` are as in `Prune`; a ratio of 1 skips
    the step.

    Source: Bolya et al., Token Merging (ICLR 2023) and for Stable Diffusion (2023). Departures:
    destinations are the first tokens of the cells instead of random ones; residual inputs are
    averaged, before the norm; a ratio beyond the limit of the stride is an error, not a silent cap.
    On a GPU the order of sums in averages varies, and so may rounding. Counted operations leave
    out the matching, like the selection of tokens in every method.
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

    def stateful_from(self, grids: Sequence[Grid]) -> int:
        """Return the number of steps: its runner carries nothing from step to step."""
        return len(grids)

    def start(
        self,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor] | None = None,
    ) -> Runner:
        self.acts(grids)  # raises for ratios that the stride does not allow
        return MergeRunner(self, grids, depth)


def cells(grid: Grid, stride: int) -> int:
    """Return the number of stride x stride cells of a map, incomplete ones included."""
    return -(-grid.h // stride) * -(-grid.w // stride)


def sources_and_destinations(
    grid: Grid, stride: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Return positions (S,) of tokens that may merge, and (D,) of the first token of each cell."""
    token = torch.arange(grid.h * grid.w, device=device)
    first = (token // grid.w % stride == 0) & (token % grid.w % stride == 0)
    order = first.long().argsort(stable=True)  # `nonzero` would make the host wait for a GPU
    return order[: -cells(grid, stride)], order[-cells(grid, stride) :]


class Matching(NamedTuple):
    """A matching: positions (B, .) of kept and of merged tokens, and the targets of the latter.

    `target` holds indices into `kept`.
    """

    kept: Tensor
    merged: Tensor
    target: Tensor


def match(x: Tensor, sources: Tensor, into: Tensor, k: int) -> Matching:
    """Match `sources` to `into`, positions among tokens x (B, L, C), so that k tokens remain."""
    unit = F.normalize(wide(x), dim=-1).to(x.dtype)
    likeness, target = (unit[:, sources] @ unit[:, into].transpose(1, 2)).max(dim=-1)
    order = likeness.argsort(dim=-1, descending=True)
    count = x.shape[1] - k
    merged, alone = order[:, :count], order[:, count:]
    stay = torch.cat((sources[alone], into.expand(len(x), -1)), dim=1)
    return Matching(stay, sources[merged], target.gather(1, merged) + alone.shape[1])


class MergeRunner(ScheduledRunner):
    """One generation under `Merge`."""

    def __init__(self, method: Merge, grids: Sequence[Grid], depth: int) -> None:
        super().__init__(method, grids, depth)
        self.stride = method.stride
        self.parts: tuple[int, tuple[Tensor, Tensor]] | None = (
            None  # sources and destinations of the last step
        )

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


MERGED = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 1.0)


@space(
    "ToMe", "selection", lambda subject: (Merge({-2: 0.5, -1: 0.5}),),
    third=MERGED, second=MERGED, last=(*MERGED[:-1], 0.85, 1.0), stride=(2, 3, 4),
)  # fmt: skip
def _tome(subject: Subject, third: float, second: float, last: float, stride: int) -> Merge:
    return Merge(rising(third, second, last), stride=stride)
