"""Prune: cached token pruning as a frozen value; FastVAR is its default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from fastvar_lab.methods.observer import looks_back
from fastvar_lab.methods.prune_runner import PruneRunner
from fastvar_lab.methods.ratios import ScaleName, scale_name
from fastvar_lab.methods.registry import method
from fastvar_lab.methods.restore import CachedBranch, Restorer
from fastvar_lab.methods.schedule import Scheduled, find, kept
from fastvar_lab.methods.select import FarFromMean, Selector, check_selector
from fastvar_lab.methods.spaces import PRUNED, Subject, rising, space
from fastvar_lab.seam import KINDS, Act, Grid, Rows, Runner, Site
from fastvar_lab.values import one_of

GRANULARITIES = ("sublayer", "block", "step", "stack")


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
    forward, no tokens and no keys or values. `select` scores the tokens, of which the best are
    kept; `restore` fills the places of the others. `sublayers` are the kinds that are pruned.
    `cache_step` names the step restored from (default:
    the last step before the first pruned one that is neither pruned nor skipped). `layers` is a
    half-open range, default all. `granularity` is how often tokens are selected: per "sublayer",
    per "block" (layer) or per "step"; with "stack", dropped tokens also stay out from the first of
    `layers` to the last, and are restored once after it. `null_until` names the last step that runs
    the null rows; later ones run the conditional rows alone, without guidance. Kept tokens are in
    score order, as in the released code, or in `raster` order.

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
    granularity: str = one_of("sublayer", GRANULARITIES)
    null_until: ScaleName | None = None
    raster: bool = False

    def __post_init__(self) -> None:
        self._settle()
        for name in ("cache_step", "null_until"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, scale_name(getattr(self, name)))
        check_selector("select", self.select)
        check_restorer(self.restore)
        if self.cache_step is not None and not self.restore.needs_cache:
            raise ValueError(f"{self.restore!r} restores without a cache; leave cache_step out")
        if self.granularity not in GRANULARITIES:
            allowed = ", ".join(GRANULARITIES)
            raise ValueError(f"granularity must be one of {allowed}; not {self.granularity!r}")
        if self.granularity == "stack" and set(self.sublayers) != set(KINDS):
            raise ValueError(
                "granularity stack drops tokens from every sublayer; leave sublayers out"
            )
        looks_ahead = getattr(self.select, "needs_output", False)
        if looks_ahead and self.granularity not in ("sublayer", "stack"):
            raise ValueError(
                f"{self.select!r} looks at the output of every sublayer; its granularity is "
                f"sublayer or stack, not {self.granularity}"
            )

    def cache_index(self, grids: Sequence[Grid]) -> int | None:
        """Return the step whose branch outputs are restored from; None if none is needed."""
        ratios = self.by_step(grids)
        named = None if self.cache_step is None else find(self.cache_step, grids)
        if not self.restore.needs_cache or all(r == 1 for r in ratios.values()):
            return None
        first, step = _first_pruned(ratios), _last_whole(ratios)
        if named is not None:
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

    def watched(self, grids: Sequence[Grid]) -> int:
        """Return the step from which selector and restorer are watched; all steps if none is.

        That is the last whole step before the first pruned one, for rules that look back. Raises
        ValueError if there is none.
        """
        ratios = self.by_step(grids)
        rules = [rule for rule in (self.select, self.restore) if looks_back(rule)]
        if not rules or all(ratio == 1 for ratio in ratios.values()):
            return len(grids)
        step = _last_whole(ratios)
        if step < 0:
            raise ValueError(
                f"{rules[0]!r} looks at an earlier step, and no unpruned one comes before the "
                f"first pruned ({grids[_first_pruned(ratios)].name})"
            )
        return step

    def stateful_from(self, grids: Sequence[Grid]) -> int:
        """Return the step from which its runner must have run itself; all steps if none.

        That is the step of `watched`, or, if the restorer is rolling, the one after the cache step.
        """
        ratios, cache, watched = self.by_step(grids), self.cache_index(grids), self.watched(grids)
        if not getattr(self.restore, "rolling", False) or all(r == 1 for r in ratios.values()):
            return watched
        return min(watched, _first_pruned(ratios) if cache is None else cache + 1)

    def acts(self, grids: Sequence[Grid]) -> tuple[Act, ...]:
        acts = self.unchecked_acts(grids)
        self.check_shares(grids, acts, self.by_step(grids))
        return acts

    def unchecked_acts(self, grids: Sequence[Grid]) -> tuple[Act, ...]:
        """Return the acts without `check_shares`."""
        ratios, cache = self.by_step(grids), self.cache_index(grids)
        alone = len(grids) if self.null_until is None else find(self.null_until, grids) + 1
        key, whole_key = self.key("ratios", "cache_step", "null_until"), self.key()
        watched, rolling = self.watched(grids), getattr(self.restore, "rolling", False)
        acts: list[Act] = []
        for step in range(len(grids)):
            ratio, rows = ratios.get(step, 0.0), Rows.BOTH if step < alone else Rows.COND
            if ratio == 1:
                acts.append(Act(Rows.SKIP))
                continue
            if step >= watched or (ratio and rolling):  # depends on all steps from here on
                acts.append(Act(rows, ("prune", *whole_key)))
            else:
                acts.append(Act(rows, ("prune", *key, ratio, cache) if ratio else ()))
        return tuple(acts)

    def check_shares(
        self, grids: Sequence[Grid], acts: Sequence[Act], ratios: Mapping[int, float]
    ) -> None:
        """Raise ValueError if selector or restorer cannot work with the `ratios` of the steps."""
        pruned = [step for step in sorted(ratios) if not acts[step].skips]
        if hasattr(self.select, "fits"):
            counts = {grid.index: kept(grid.tokens, ratios.get(grid.index, 0.0)) for grid in grids}
            always = getattr(self.restore, "always", None)
            self.select.fits(grids, counts, {s: always(grids[s]) for s in pruned} if always else {})
        for step in pruned:
            ran = sum(not act.skips for act in acts[:step])
            self._check_step(grids[step], ratios[step], acts[step].rows, ran)

    def _check_step(self, grid: Grid, ratio: float, rows: Rows | None, ran: int) -> None:
        """Raise ValueError if selector or restorer cannot work at a pruned step.

        `ran` earlier steps were not skipped.
        """
        if rows is not Rows.BOTH and getattr(self.select, "needs_guidance", False):
            raise ValueError(
                f"{self.select!r} compares both rows; at {grid.name} only the conditional runs"
            )
        earlier = getattr(self.select, "needs_latents", 0)
        if ran < earlier:
            raise ValueError(
                f"{self.select!r} looks at the latents of {earlier} earlier steps; {grid.name} "
                f"has {ran}"
            )
        always = getattr(self.restore, "always", None)
        if always is not None and len(always(grid)) > kept(grid.tokens, ratio):
            raise ValueError(
                f"at {grid.name} {self.restore!r} keeps {len(always(grid))} anchors; the ratio "
                f"{ratio} keeps {kept(grid.tokens, ratio)} of {grid.tokens} tokens"
            )

    def start(
        self,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor] | None = None,
    ) -> Runner:
        return PruneRunner(self, grids, depth, held or {})


def check_restorer(restore: object) -> None:
    """Raise ValueError for a field `restore` that holds no restorer."""
    if isinstance(restore, type) or not hasattr(restore, "restore"):
        raise ValueError(f"restore must be a restorer such as Zero(); not {restore!r}")
    if not hasattr(restore, "needs_cache"):
        raise ValueError(f"{restore!r} must say whether it `needs_cache`, True or False")


def _first_pruned(ratios: Mapping[int, float]) -> int:
    """Return the first step that is pruned but not skipped."""
    return min(step for step, ratio in ratios.items() if ratio < 1)


def _last_whole(ratios: Mapping[int, float]) -> int:
    """Return the last step without a ratio before the first pruned one; -1 if there is none."""
    return max((s for s in range(_first_pruned(ratios)) if s not in ratios), default=-1)


def _published(subject: Subject) -> list[Prune]:
    """Return the settings for HART, and those for Infinity at the released share of the layers."""
    first = round(3 / 32 * subject.depth)
    ratios: dict[ScaleName, float] = {-4: 0.4, -3: 0.5, -2: 1.0, -1: 1.0}
    layers = (first, max(first + 1, round(28 / 32 * subject.depth)))
    return [Prune({-2: 0.5, -1: 0.75}), Prune({-2: 0.5, -1: 1.0}), Prune(ratios, layers=layers)]


@space(
    "FastVAR", "selection", _published,
    third=PRUNED, second=PRUNED, last=PRUNED, spared=(0.0, 0.125, 0.25),
)  # fmt: skip
def _fastvar(subject: Subject, third: float, second: float, last: float, spared: float) -> Prune:
    """Prune all layers but the first ones, of which a share is spared."""
    first = round(spared * subject.depth)
    layers = (first, subject.depth) if first else None
    return Prune(rising(third, second, last), layers=layers)
