"""Prune: cached token pruning as one frozen value, FastVAR being one point of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from torch import Tensor

from fastvar_lab.methods.restore import Cached, CachedBranch, Restorer
from fastvar_lab.methods.select import FarFromMean, Selector, top
from fastvar_lab.seam import DENSE, KINDS, Act, Branch, Grid, Plan, Runner, Site
from fastvar_lab.tokens import gather

ScaleName = int | tuple[int, int]
"""A scale step: negative from the end (-1 is the last), else a side (24) or a map (28, 21)."""

GRANULARITIES = ("sublayer", "block", "step")


def find(name: ScaleName, grids: Sequence[Grid]) -> int:
    """Resolve a scale name to a step of this schedule; raise ValueError with what there is."""
    if isinstance(name, int) and -len(grids) <= name < 0:
        return len(grids) + name
    size = (name, name) if isinstance(name, int) else tuple(name)
    for grid in grids:
        if (grid.h, grid.w) == size:
            return grid.index
    there = ", ".join(str(g.h) if g.h == g.w else f"{g.h}x{g.w}" for g in grids)
    raise ValueError(
        f"no scale {name!r} in this schedule; it has the maps {there} (or -{len(grids)} to -1)"
    )


def kept(tokens: int, ratio: float) -> int:
    """How many of `tokens` survive when the share `ratio` is pruned: L - int(L * ratio)."""
    return tokens - int(tokens * ratio)


@dataclass(frozen=True)
class Dense:
    """Compute everything: plain generation."""

    def start(
        self,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor] | None = None,
    ) -> Runner:
        return Runner()

    def acts(self, grids: Sequence[Grid]) -> tuple[Act, ...]:
        return (DENSE,) * len(grids)

    def cache_index(self, grids: Sequence[Grid]) -> int | None:
        return None


@dataclass(frozen=True)
class Prune:
    """Forward only some tokens through each sublayer of some scale steps; restore the rest.

    `ratios` maps scale names to the share of tokens pruned; 1 skips the step: no forward, draw,
    code or KV. `cache_step` names the step restored from (default: the last unpruned step before
    the first pruned one). `layers` is a half-open range, default all. `granularity` says how
    often tokens are chosen anew. `null_until` names the last step that runs the null rows; later
    ones run the conditional rows alone, without guidance. Kept tokens go in score order, as in
    the released code, or in `raster` order.

    Source: FastVAR, section 3.2 and Algorithm 1; the cache holds gated branch outputs, as the
    released code does. Raises ValueError for what no schedule allows here, and for what the
    schedule at hand does not allow in `start` and `acts`.
    """

    ratios: Mapping[ScaleName, float] | tuple[tuple[ScaleName, float], ...]
    select: Selector = field(default_factory=FarFromMean)
    restore: Restorer = field(default_factory=CachedBranch)
    cache_step: ScaleName | None = None
    layers: tuple[int, int] | None = None
    sublayers: tuple[str, ...] = KINDS
    granularity: str = "sublayer"
    null_until: ScaleName | None = None
    raster: bool = False

    def __post_init__(self) -> None:
        pairs = self.ratios.items() if isinstance(self.ratios, Mapping) else self.ratios
        object.__setattr__(self, "ratios", tuple(pairs))
        object.__setattr__(self, "sublayers", tuple(self.sublayers))
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))
        if self.cache_step is not None and not self.restore.needs_cache:
            raise ValueError(f"{self.restore!r} restores without a cache; leave cache_step out")
        for name, ratio in self.pairs:
            if math.isnan(ratio) or not 0 <= ratio <= 1:
                raise ValueError(f"the ratio of scale {name} must lie in [0, 1]; not {ratio}")
        for kind in self.sublayers:
            if kind not in KINDS:
                raise ValueError(f"sublayers must be among {', '.join(KINDS)}; not {kind!r}")
        if self.granularity not in GRANULARITIES:
            allowed = ", ".join(GRANULARITIES)
            raise ValueError(f"granularity must be one of {allowed}; not {self.granularity!r}")
        if self.layers is not None and not 0 <= self.layers[0] < self.layers[1]:
            raise ValueError(f"layers must be a range (first, end); not {self.layers}")

    @property
    def pairs(self) -> tuple[tuple[ScaleName, float], ...]:
        """The ratios as they are kept: pairs of scale name and share pruned."""
        return cast(tuple[tuple[ScaleName, float], ...], self.ratios)

    def by_step(self, grids: Sequence[Grid]) -> dict[int, float]:
        """Ratios above 0 by step index."""
        found: dict[int, float] = {}
        for name, ratio in self.pairs:
            step = find(name, grids)
            if step in found:
                raise ValueError(f"scale {name} names step {step}, which has a ratio already")
            found[step] = ratio
            if ratio > 0 and grids[step].prefix:
                raise ValueError(f"scale {name} carries text tokens and cannot be pruned")
        return {step: ratio for step, ratio in found.items() if ratio > 0}

    def cache_index(self, grids: Sequence[Grid]) -> int | None:
        """Find the step whose branch outputs are restored from; None if nothing needs them."""
        ratios = self.by_step(grids)
        if not self.restore.needs_cache or all(r == 1 for r in ratios.values()):
            return None
        first = min(step for step, r in ratios.items() if r < 1)
        if self.cache_step is not None:
            step = find(self.cache_step, grids)
            if step >= first:
                raise ValueError(
                    f"the cache step {self.cache_step} must come before the first pruned scale, "
                    f"{grids[first].h}x{grids[first].w}"
                )
        else:
            step = min(ratios) - 1
            if step in ratios:
                raise ValueError(f"the cache step {self.cache_step} is skipped; name another")
        if step < 0 or step in ratios:
            raise ValueError(
                "no unpruned scale step comes before the first pruned "
                f"({grids[first].h}x{grids[first].w}) to restore from; leave an earlier one whole"
            )
        return step

    def acts(self, grids: Sequence[Grid]) -> tuple[Act, ...]:
        ratios, cache = self.by_step(grids), self.cache_index(grids)
        if len(ratios) == len(grids) and all(r == 1 for r in ratios.values()):
            raise ValueError("every scale step is skipped; leave at least one")
        alone = len(grids) if self.null_until is None else find(self.null_until, grids) + 1
        how = (self.select, self.restore, self.layers, self.sublayers, self.granularity)
        acts: list[Act] = []
        for step in range(len(grids)):
            ratio = ratios.get(step, 0.0)
            if ratio == 1:
                acts.append(("skip",))
                continue
            act = DENSE if ratio == 0 else ("prune", ratio, cache, *how, self.raster)
            acts.append(act if step < alone else (*act, "cond"))
        return tuple(acts)

    def start(
        self,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor] | None = None,
    ) -> Runner:
        if self.layers is not None and self.layers[1] > depth:
            raise ValueError(f"layers {self.layers} reach beyond the {depth} layers of this model")
        return PruneRunner(self, grids, depth, held or {})


class PruneRunner(Runner):
    """One generation under `Prune`: owns the branch outputs of the cache step."""

    def __init__(
        self,
        method: Prune,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor],
    ) -> None:
        self.method, self.ratios = method, method.by_step(grids)
        self.acts = method.acts(grids)
        self.layers = range(*(method.layers or (0, depth)))
        self.cache_index = method.cache_index(grids)
        self.cache_grid = None if self.cache_index is None else grids[self.cache_index]
        self.cache = {site: out for (step, site), out in held.items() if step == self.cache_index}
        self.rows = slice(None)
        self.index: tuple[object, Tensor] | None = None

    def plan(self, grid: Grid, canvas: Tensor) -> Plan:
        act = self.acts[grid.index]
        return Plan.SKIP if act[0] == "skip" else Plan.COND if act[-1] == "cond" else Plan.BOTH

    def prunes(self, site: Site) -> bool:
        """Tell whether this sublayer is pruned at pruned steps."""
        return site.layer in self.layers and site.kind in self.method.sublayers

    def forwarded(self, site: Site, grid: Grid) -> int:
        ratio = self.ratios.get(grid.index, 0.0)
        if ratio == 1:
            return 0
        return kept(grid.tokens, ratio) if self.prunes(site) else grid.tokens

    def keep_rows(self, rows: slice) -> None:
        self.rows = rows  # what is held stays whole: a snapshot may go back before the drop

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        if not self.prunes(site) or grid.index not in self.ratios:
            delta = branch(x)
            if grid.index == self.cache_index and self.prunes(site):
                self.cache[site] = delta
            return delta
        index = self.choose(site, grid, x)
        cached = None
        if self.cache_grid is not None:
            output = self.cache[site]  # from before guidance rows were dropped, or after
            output = output if len(output) == len(x) else output[self.rows]
            whole = output[:, self.cache_grid.prefix :]
            cached = Cached(whole, self.cache_grid.h, self.cache_grid.w)
        fresh = branch(gather(x, index), index)
        return self.method.restore.restore(fresh, index, grid, cached)

    def choose(self, site: Site, grid: Grid, x: Tensor) -> Tensor:
        """Select the tokens to forward, (B, K); chosen anew as often as the granularity says."""
        scope = {"sublayer": site, "block": site.layer, "step": None}[self.method.granularity]
        if self.index is None or self.index[0] != (grid.index, scope):
            k = kept(grid.tokens, self.ratios[grid.index])
            scores = self.method.select.scores(x, grid, site)
            self.index = ((grid.index, scope), top(scores, k, self.method.raster))
        return self.index[1]

    def held(self) -> dict[tuple[int, Site], Tensor]:
        if self.cache_index is None:
            return {}
        return {(self.cache_index, site): out for site, out in self.cache.items()}
