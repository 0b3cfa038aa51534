"""Prune: cached token pruning as a frozen value; FastVAR is its default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from fastvar_lab.methods.ratios import ScaleName, scale_name
from fastvar_lab.methods.registry import method
from fastvar_lab.methods.restore import Cached, CachedBranch, Restorer
from fastvar_lab.methods.schedule import Scheduled, ScheduledRunner, find, kept
from fastvar_lab.methods.select import FarFromMean, Selector, check, score, top
from fastvar_lab.seam import KINDS, Act, Branch, Grid, Rows, Runner, Site
from fastvar_lab.tokens import gather

GRANULARITIES = ("sublayer", "block", "step")


@method
@dataclass(frozen=True)
class Dense:
    """Computes every token of every step: plain generation.

    >>> from fastvar_lab.scales import TINY, grids
    >>> [act.whole for act in Dense().acts(grids(TINY))].count(True)
    10
    """

    def start(
        self,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor] | None = None,
    ) -> Runner:
        return Runner()

    def acts(self, grids: Sequence[Grid]) -> tuple[Act, ...]:
        return (Act(),) * len(grids)

    def cache_index(self, grids: Sequence[Grid]) -> int | None:
        return None


@method
@dataclass(frozen=True)
class Prune(Scheduled):
    """Forward only some tokens through each sublayer of some scale steps; restore the rest.

    `ratios` maps scale names to the share of tokens pruned; 1 skips the step, which then has no
    forward, no tokens and no keys or values. `cache_step` names the step restored from (default:
    the last step before the first pruned one that is neither pruned nor skipped). `layers` is a
    half-open range, default all. `granularity` is how often tokens are selected: per "sublayer",
    per "block" (layer) or per "step". `null_until` names the last step that runs the null rows;
    later ones run the conditional rows alone, without guidance. Kept tokens are in score order, as
    in the released code, or in `raster` order.

    Source: FastVAR, section 3.2 and Algorithm 1; the cache holds gated branch outputs, as the
    released code does. Raises ValueError for invalid fields; `start` and `acts` raise it for a
    schedule that the fields do not fit.

    >>> from fastvar_lab.scales import TINY, grids
    >>> method = Prune({-2: 0.5, 32: 1.0})
    >>> method.by_step(grids(TINY))
    {8: 0.5, 9: 1.0}
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
        self._settle()
        for name in ("cache_step", "null_until"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, scale_name(getattr(self, name)))
        if isinstance(self.select, type) or not hasattr(self.select, "scores"):
            raise ValueError(f"select must be a selector such as HighPass(); not {self.select!r}")
        if isinstance(self.restore, type) or not hasattr(self.restore, "restore"):
            raise ValueError(f"restore must be a restorer such as Zero(); not {self.restore!r}")
        if not hasattr(self.restore, "needs_cache"):
            raise ValueError(f"{self.restore!r} must say whether it `needs_cache`, True or False")
        if self.cache_step is not None and not self.restore.needs_cache:
            raise ValueError(f"{self.restore!r} restores without a cache; leave cache_step out")
        if self.granularity not in GRANULARITIES:
            allowed = ", ".join(GRANULARITIES)
            raise ValueError(f"granularity must be one of {allowed}; not {self.granularity!r}")

    def cache_index(self, grids: Sequence[Grid]) -> int | None:
        """Return the step whose branch outputs are restored from; None if none is needed."""
        ratios = self.by_step(grids)
        named = None if self.cache_step is None else find(self.cache_step, grids)
        if not self.restore.needs_cache or all(r == 1 for r in ratios.values()):
            return None
        first = min(step for step, r in ratios.items() if r < 1)
        if named is None:
            step = max((s for s in range(first) if s not in ratios), default=-1)
        else:
            step = named
            if step >= first:
                raise ValueError(
                    f"the cache step {self.cache_step} must come before the first pruned scale, "
                    f"{grids[first].name}"
                )
            if step in ratios:
                raise ValueError(f"the cache step {self.cache_step} is skipped; name another")
        if step < 0:
            raise ValueError(
                "no unpruned scale step comes before the first pruned "
                f"({grids[first].name}) to restore from; leave an earlier one whole"
            )
        return step

    def acts(self, grids: Sequence[Grid]) -> tuple[Act, ...]:
        ratios, cache = self.by_step(grids), self.cache_index(grids)
        alone = len(grids) if self.null_until is None else find(self.null_until, grids) + 1
        key = self.key("ratios", "cache_step", "null_until")
        acts: list[Act] = []
        for step in range(len(grids)):
            ratio, rows = ratios.get(step, 0.0), Rows.BOTH if step < alone else Rows.COND
            if ratio == 1:
                acts.append(Act(Rows.SKIP))
            else:
                acts.append(Act(rows, ("prune", *key, ratio, cache) if ratio else ()))
        return tuple(acts)

    def start(
        self,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor] | None = None,
    ) -> Runner:
        return PruneRunner(self, grids, depth, held or {})


class PruneRunner(ScheduledRunner):
    """Runs one generation under `Prune`; holds the branch outputs of the cache step."""

    def __init__(
        self,
        method: Prune,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor],
    ) -> None:
        super().__init__(method, grids, depth)
        self.method, self.cache_index = method, method.cache_index(grids)
        self.cache_grid = None if self.cache_index is None else grids[self.cache_index]
        self.cache = {site: out for (step, site), out in held.items() if step == self.cache_index}
        self.live = slice(None)  # the guidance rows that run
        self.index: tuple[object, Tensor] | None = None

    def keep_rows(self, rows: slice) -> None:
        self.live = rows  # the cache keeps all rows: a snapshot may resume before they are dropped

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        if self.ratio(site, grid) == 0:
            delta = branch(x)
            if grid.index == self.cache_index and self.prunes(site):
                self.cache[site] = delta
            return delta
        index = self.choose(site, grid, x)
        cached = None
        if self.cache_grid is not None:
            output = self.cache[site]
            if len(output) > len(x):  # cached before guidance rows were dropped
                output = output[self.live]
            elif len(output) < len(x):  # cached while rows were absent: they use the rows that ran
                output = output.repeat(2, 1, 1)
            whole = output[:, self.cache_grid.prefix :]
            cached = Cached(whole, self.cache_grid.h, self.cache_grid.w)
        fresh = branch(gather(x, index), index)
        out = self.method.restore.restore(fresh, index, grid, cached)
        check(f"{self.method.restore!r}.restore", out, tuple(x.shape))
        return out

    def choose(self, site: Site, grid: Grid, x: Tensor) -> Tensor:
        """Return the tokens to forward, (B, K); the granularity decides how often they change."""
        scope = {"sublayer": site, "block": site.layer, "step": None}[self.method.granularity]
        now = (grid.index, scope, kept(grid.tokens, self.ratio(site, grid)))
        if self.index is None or self.index[0] != now:
            scores = score(self.method.select, x, grid, site)
            if (
                scores.device.type == "cpu" and scores.isnan().any()
            ):  # not on a GPU, where it would wait
                raise ValueError(f"{self.method.select!r}.scores returned nan, which has no rank")
            self.index = (now, top(scores, now[2], self.method.raster))
        return self.index[1]

    def held(self) -> dict[tuple[int, Site], Tensor]:
        if self.cache_index is None:
            return {}
        return {(self.cache_index, site): out for site, out in self.cache.items()}
