"""LazyVAR: whole-stack pruning by the last change of the latent, and parallel last steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvar_lab.methods.observer import Observed, Observer
from fastvar_lab.methods.ratios import ScaleName
from fastvar_lab.methods.registry import method, selector
from fastvar_lab.methods.schedule import Scheduled, ScheduledRunner, kept
from fastvar_lab.methods.select import top
from fastvar_lab.methods.spaces import Subject, rising, space
from fastvar_lab.seam import KINDS, Act, Branch, Grid, Rows, Runner, Site, Stack
from fastvar_lab.tokens import gather, scatter, wide


@method
@dataclass(frozen=True)
class LazyVAR(Scheduled):
    """Forward the places whose latent changed most at the step before; the others add no code.

    With f_k the latent on the final grid after step k, the update index of a place is
    `u_k = 1 - cos(f_(k-1), f_k)`. Step k keeps the places with the highest u_(k-1), resized to its
    map; the rest stays out of the whole stack, and its codes count as 0. Both guidance rows share
    the places. With `group`, pruned steps that follow each other run in one forward from the latent
    before them, attention being causal from step to step, and share one ranking: with `disjoint`
    the last step takes its top, the step before it the places after those, and so on, counted on
    each step's own map as the same share of it. `ratios` are shares pruned, as in `Prune`: 0.8
    keeps 20 %; 1 skips the step.

    Source: LazyVAR (Mao et al., CVPR 2026); no code is public. Published settings: Infinity keeps
    20, 10, 5 and 1 % of sides 32 to 64, `LAZYVAR["infinity"]`; HART 30 and 20 % of its last two.
    Guessed: the resize (area), ties (raster order), rounding of kept counts (as in `Prune`), one
    index for both rows, one for every picture.

    Raises ValueError for steps without two unskipped ones before them, and for a group that keeps
    more places than its maps have.

    >>> from fastvar_lab.scales import TINY, grids
    >>> [act.joined for act in LazyVAR({24: 0.9, 32: 0.95}).acts(grids(TINY))[-3:]]
    [False, False, True]
    """

    ratios: Mapping[ScaleName, float] | tuple[tuple[ScaleName, float], ...]
    group: bool = True
    disjoint: bool = True
    layers: ClassVar[tuple[int, int] | None] = None  # type: ignore[misc]
    sublayers: ClassVar[tuple[str, ...]] = KINDS  # type: ignore[misc]
    granularity: ClassVar[str] = "stack"

    @property
    def family(self) -> str:
        """LazyVAR, with or without its group."""
        return "LazyVAR" if self.group else "LazyVAR, no group"

    def __post_init__(self) -> None:
        self._settle()

    def cache_index(self, grids: Sequence[Grid]) -> int | None:
        return None

    def stateful_from(self, grids: Sequence[Grid]) -> int:
        """Return the number of steps: its runner carries latents alone, which it recalls."""
        return len(grids)

    def groups(self, grids: Sequence[Grid]) -> list[list[Grid]]:
        """Return the forwards of pruned steps: those that run together."""
        forwards: list[list[Grid]] = []
        for step, ratio in sorted(self.by_step(grids).items()):
            if ratio == 1:
                continue
            if self.group and forwards and forwards[-1][-1].index == step - 1:
                forwards[-1].append(grids[step])
            else:
                forwards.append([grids[step]])
        return forwards

    def begins(self, grids: Sequence[Grid]) -> dict[int, int]:
        """Return where each pruned step's places begin in the ranking of its map."""
        ratios, begins = self.by_step(grids), dict[int, int]()
        for forward in self.groups(grids):
            taken = 0.0  # the share of the map that later steps take
            for grid in reversed(forward):
                count = kept(grid.tokens, ratios[grid.index])
                begins[grid.index] = int(taken * grid.tokens)
                if begins[grid.index] + count > grid.tokens:
                    raise ValueError(
                        f"the steps of one group keep {taken + count / grid.tokens:.2f} of the "
                        f"map from {grid.name} on; disjoint places are at most all of it"
                    )
                if self.disjoint:
                    taken += count / grid.tokens
        return begins

    def acts(self, grids: Sequence[Grid]) -> tuple[Act, ...]:
        ratios, begins = self.by_step(grids), self.begins(grids)
        whole = [g.index for g in grids if ratios.get(g.index) != 1]
        early = [step for step in begins if whole.index(step) < 2]
        if early:
            raise ValueError(
                f"LazyVAR ranks places by the change of the latent between the two steps before; "
                f"{grids[early[0]].name} has {whole.index(early[0])}"
            )
        joined = {grid.index for forward in self.groups(grids) for grid in forward[1:]}
        skipped = tuple(step for step, ratio in ratios.items() if ratio == 1)
        key = (*self.key("ratios"), skipped)
        return tuple(
            Act(Rows.SKIP)
            if ratios.get(step) == 1
            else Act(key=(*key, ratios[step], begins[step]), joined=step in joined)
            if step in ratios
            else Act()
            for step in range(len(grids))
        )

    def start(
        self,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor] | None = None,
    ) -> Runner:
        self.acts(grids)  # raises for a schedule that does not fit
        return LazyRunner(self, grids, depth)


LAZYVAR = {
    "infinity": LazyVAR({-4: 0.8, -3: 0.9, -2: 0.95, -1: 0.99}),
    "hart": LazyVAR({-2: 0.7, -1: 0.8}),
}
"""The published settings."""


def update_index(before: Tensor, after: Tensor) -> Tensor:
    """Return 1 - cos of latents (n, d, H, W) before and after a step: (n, H, W)."""
    return 1 - F.cosine_similarity(wide(before), wide(after), dim=1)


def on_map(update: Tensor, grid: Grid) -> Tensor:
    """Return the update index (n, H, W) of each place of a step's map: (n, h * w)."""
    return F.interpolate(update.unsqueeze(1), size=(grid.h, grid.w), mode="area").flatten(1)


@selector("latent update")
@dataclass(frozen=True)
class LatentUpdate(Observed):
    """The last change of the latent at the token's place: LazyVAR's update index, for any method.

    The latents are those of the last two steps that were not skipped. Both rows share one set, and
    so do all sublayers of a step. `Prune(..., select=LatentUpdate(), restore=ZeroCode(),
    granularity="stack")` is `LazyVAR` without its group.
    """

    needs_latents: ClassVar[int] = 2

    def observer(self, grids: Sequence[Grid], depth: int, since: int) -> Observer:
        return _LatentUpdate()


class _LatentUpdate(Observer):
    by_step = True

    def __init__(self) -> None:
        super().__init__()
        self.latents: list[Tensor] = []

    def latent(self, canvas: Tensor) -> None:
        self.latents = [*self.latents[-1:], canvas]

    def scores(self, x: Tensor, grid: Grid, site: Site) -> Tensor:
        scores = on_map(update_index(*self.latents), grid)
        return scores.repeat(len(x) // len(scores), 1)


class LazyRunner(ScheduledRunner):
    """One generation under `LazyVAR`; keeps the latents before and after the last step."""

    def __init__(self, method: LazyVAR, grids: Sequence[Grid], depth: int) -> None:
        super().__init__(method, grids, depth)
        self.begins = method.begins(grids)
        self.latents: tuple[Tensor | None, Tensor | None] = None, None
        self.index: Tensor | None = None  # inside a pruned stack: positions (B, K) in the forward
        self.kept: dict[int, Tensor] = {}  # positions (n, K) of each pruned step

    def recall(self, grid: Grid, tokens: Tensor | None, canvas: Tensor) -> None:
        if tokens is not None:
            self.latents = self.latents[1], canvas

    def after(
        self, grid: Grid, tokens: Tensor | None, canvas: Tensor, logits: Tensor | None = None
    ) -> None:
        self.recall(grid, tokens, canvas)

    def stack(self, grid: Grid, blocks: Stack, x: Tensor) -> Tensor:
        if grid.index not in self.begins:
            return super().stack(grid, blocks, x)
        before, after = self.latents
        assert before is not None
        assert after is not None
        update, offset, parts = update_index(before, after), 0, list[Tensor]()
        for step in grid.steps:
            begin, site = self.begins[step.index], Site(0, "attn")
            count = self.forwarded(site, step)
            ranked = top(on_map(update, step), begin + count)
            self.kept[step.index] = ranked[:, begin:].sort(dim=1).values
            parts.append(self.kept[step.index] + offset)
            offset += step.tokens
        index = torch.cat(parts, dim=1)
        self.index = index.repeat(len(x) // len(index), 1)
        states = gather(x, self.index)
        for block in blocks:
            states = block(states)
        rows = len(states)  # guidance may merge both rows inside
        full = scatter(x[:rows].to(states.dtype, copy=True), self.index[:rows], states)
        self.index = None
        return full

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        return branch(x, None if self.index is None else self.index[: len(x)])

    def places(self, grid: Grid, tokens: Tensor) -> Tensor | None:
        places = self.kept.pop(grid.index, None)
        if places is None:
            return None
        mask = torch.zeros(len(places), grid.tokens, dtype=torch.bool, device=places.device)
        return mask.scatter_(1, places, True)


_SHARES = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_FIELDS = {"fourth": _SHARES, "third": _SHARES, "second": _SHARES, "last": _SHARES}


def _ratios(fourth: float, third: float, second: float, last: float) -> dict[ScaleName, float]:
    if fourth > third:
        raise ValueError("shares rise with the step")
    return ({-4: fourth} if fourth else {}) | rising(third, second, last)


@space(
    "LazyVAR", "granularity", lambda subject: tuple(LAZYVAR.values()),
    **_FIELDS, disjoint=(True, False),
)  # fmt: skip
def _grouped(subject: Subject, disjoint: bool, **shares: float) -> LazyVAR:
    return LazyVAR(_ratios(**shares), disjoint=disjoint)


@space(
    "LazyVAR, no group", "granularity",
    lambda subject: tuple(replace(method, group=False) for method in LAZYVAR.values()),
    **_FIELDS,
)  # fmt: skip
def _alone(subject: Subject, **shares: float) -> LazyVAR:
    return LazyVAR(_ratios(**shares), group=False)
