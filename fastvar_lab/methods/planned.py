"""Planned: pruning with its own share at every step, layer and kind of sublayer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastvar_lab.methods.prune import PruneRunner
from fastvar_lab.methods.registry import method
from fastvar_lab.methods.restore import CachedBranch, Restorer
from fastvar_lab.methods.schedule import ScaleName, find, kept, scale_name
from fastvar_lab.methods.select import FarFromMean, Selector
from fastvar_lab.seam import KINDS, Act, Branch, Grid, Rows, Runner, Site

EIGHTHS = 8
ROWS = ("cond", "null", "skip")

Digits = str
"""A digit a layer: the eighths of its tokens that are pruned; 8 is a sublayer not computed."""


@method
@dataclass(frozen=True)
class Planned:
    """Prune its own share of tokens at every step, layer and kind of sublayer.

    `pruned` maps scale names to kinds of sublayers, and those to a digit a layer: how many eighths
    of the tokens are pruned, from 0 to 8. At 8 the sublayer is not computed, its whole output is
    restored, and an attention leaves no keys or values. `rows` maps scale names to "cond" or
    "null", the guidance rows that run alone, or to "skip". Selection, restoration and the cache
    step are those of `Prune`. `origin` says what the schedule was planned on; it does not take
    part in comparisons.

    `fv.plan` makes such schedules; any can be written by hand. Raises ValueError for other digits,
    kinds or rows; `start` and `acts` for a model of another depth and for scales that are not
    there.

    >>> from fastvar_lab.scales import TINY, grids
    >>> plan = Planned({-1: {"attn": "44668888"}}, rows={-1: "cond"})
    >>> plan.start(grids(TINY), depth=8).forwarded(Site(0, "attn"), grids(TINY)[-1])
    512
    """

    pruned: Any = ()
    rows: Any = ()
    select: Selector = field(default_factory=FarFromMean)
    restore: Restorer = field(default_factory=CachedBranch)
    cache_step: ScaleName | None = None
    origin: str = field(default="", compare=False)

    family: ClassVar[str] = "planned"

    def __post_init__(self) -> None:
        schedule = {scale_name(n): _kinds(n, kinds) for n, kinds in _pairs(self.pruned)}
        rows = {scale_name(name): str(which) for name, which in _pairs(self.rows)}
        for name, which in rows.items():
            if which not in ROWS:
                raise ValueError(
                    f"the rows of scale {name} must be one of {', '.join(ROWS)}; not {which!r}"
                )
        set_field = object.__setattr__
        set_field(self, "pruned", tuple((n, k) for n, k in schedule.items() if k))
        set_field(self, "rows", tuple(rows.items()))
        if self.cache_step is not None:
            set_field(self, "cache_step", scale_name(self.cache_step))
        depths = {len(digits) for _, kinds in self.pruned for _, digits in kinds}
        if len(depths) > 1:
            raise ValueError(
                f"a plan has as many digits as layers everywhere; this one has {sorted(depths)}"
            )

    def __repr__(self) -> str:
        parts = [repr({name: dict(kinds) for name, kinds in self.pruned})]
        parts += [f"rows={dict(self.rows)!r}"] if self.rows else []
        if self.select != FarFromMean():
            parts.append(f"select={self.select!r}")
        if self.restore != CachedBranch():
            parts.append(f"restore={self.restore!r}")
        parts += [f"cache_step={self.cache_step!r}"] if self.cache_step is not None else []
        return f"Planned({', '.join(parts)})"

    @property
    def depth(self) -> int | None:
        """The number of layers that the plan is for; None if it prunes nothing."""
        return next((len(digits) for _, kinds in self.pruned for _, digits in kinds), None)

    def digits(self, grids: Sequence[Grid]) -> dict[int, dict[str, Digits]]:
        """Return the digits by step index and kind; skipped steps have none."""
        rows = self.rows_by_step(grids)
        steps = {find(name, grids): dict(kinds) for name, kinds in self.pruned}
        if len(steps) < len(self.pruned):
            raise ValueError("two names of the plan are the same scale step")
        for step in steps:
            if grids[step].prefix:
                raise ValueError(
                    f"scale {grids[step].name} carries text tokens and cannot be pruned"
                )
        return {s: kinds for s, kinds in sorted(steps.items()) if rows.get(s) is not Rows.SKIP}

    def rows_by_step(self, grids: Sequence[Grid]) -> dict[int, Rows]:
        """Return the rows that run, of steps that do not run both, by step index."""
        rows = {find(name, grids): Rows(which) for name, which in self.rows}
        if len(rows) == len(grids) and set(rows.values()) == {Rows.SKIP}:
            raise ValueError("every scale step is skipped; leave at least one")
        return rows

    def cache_index(self, grids: Sequence[Grid]) -> int | None:
        """Return the step whose branch outputs are restored from; None if none is needed."""
        steps, rows = self.digits(grids), self.rows_by_step(grids)
        if not steps or not self.restore.needs_cache:
            return None
        first = min(steps)
        if self.cache_step is not None:
            step = find(self.cache_step, grids)
        else:
            step = max((s for s in range(first) if rows.get(s) is not Rows.SKIP), default=-1)
        if not 0 <= step < first or rows.get(step) is Rows.SKIP:
            raise ValueError(
                f"no whole scale step to restore from comes before the first pruned one, "
                f"{grids[first].name}"
            )
        return step

    def acts(self, grids: Sequence[Grid]) -> tuple[Act, ...]:
        steps, rows, cache = self.digits(grids), self.rows_by_step(grids), self.cache_index(grids)
        key = ("planned", self.select, self.restore, cache)
        return tuple(
            Act(
                rows.get(step, Rows.BOTH),
                (*key, *sorted(steps[step].items())) if step in steps else (),
            )
            for step in range(len(grids))
        )

    def start(
        self,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor] | None = None,
    ) -> Runner:
        if self.depth not in (None, depth):
            raise ValueError(
                f"this schedule was planned for {self.depth} layers; the model has {depth}"
            )
        return PlannedRunner(self, grids, held or {})


class PlannedRunner(PruneRunner):
    """Runs one generation under `Planned`."""

    def __init__(
        self, method: Planned, grids: Sequence[Grid], held: Mapping[tuple[int, Site], Tensor]
    ) -> None:
        self.digits = method.digits(grids)
        super().__init__(method, grids, held)

    def ratio(self, site: Site, grid: Grid) -> float:
        digits = self.digits.get(grid.index, {}).get(site.kind)
        return int(digits[site.layer]) / EIGHTHS if digits else 0.0

    def prunes(self, site: Site) -> bool:
        return any(
            kinds[site.kind][site.layer] != "0"
            for kinds in self.digits.values()
            if site.kind in kinds
        )

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        if self.ratio(site, grid) < 1:
            return super().sublayer(site, grid, branch, x)
        none = torch.zeros(x.shape[0], 0, dtype=torch.long, device=x.device)
        return self.restored(site, grid, x[:, :0], none)


def _pairs(mapping: Any) -> Sequence[tuple[Any, Any]]:
    return list(mapping.items()) if isinstance(mapping, Mapping) else list(mapping)


def _kinds(name: Any, kinds: Any) -> tuple[tuple[str, Digits], ...]:
    """Check the digits of one step; kinds of which nothing is pruned are left out."""
    settled = []
    for kind, digits in sorted(_pairs(kinds), key=lambda pair: str(pair[0])):
        if kind not in KINDS:
            raise ValueError(f"scale {name}: sublayers are {', '.join(KINDS)}; not {kind!r}")
        if not isinstance(digits, str) or not digits or set(digits) - set("012345678"):
            raise ValueError(
                f"scale {name}, {kind}: a digit a layer from 0 to 8, the eighths of its tokens "
                f"that are pruned; not {digits!r}"
            )
        if set(digits) != {"0"}:
            settled.append((kind, digits))
    return tuple(settled)
