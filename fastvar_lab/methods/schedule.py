"""Schedules: the scale steps, layers and sublayers that a method prunes, with their ratios."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from math import nextafter
from typing import Any, Self, cast

from fastvar_lab.methods.ratios import ScaleName, pairs_by_scale, share
from fastvar_lab.scales import whole
from fastvar_lab.seam import KINDS, Grid, Runner, Site


def find(name: ScaleName, grids: Sequence[Grid]) -> int:
    """Resolve a scale name to the one step of a schedule; raise ValueError for none or several."""
    if isinstance(name, int) and -len(grids) <= name < 0:
        return len(grids) + name
    size = (name, name) if isinstance(name, int) else tuple(name)
    steps = [grid.index for grid in grids if (grid.h, grid.w) == size]
    if len(steps) > 1:
        raise ValueError(
            f"scale {name!r} is the map of the steps {', '.join(map(str, steps))} of this "
            f"schedule; name one from the end, such as {steps[0] - len(grids)}"
        )
    if steps:
        return steps[0]
    maps = ", ".join(str(g.h) if g.h == g.w else g.name for g in grids)
    raise ValueError(
        f"no scale {name!r} in this schedule; it has the maps {maps} (or -{len(grids)} to -1)"
    )


def kept(tokens: int, ratio: float) -> int:
    """Return how many of `tokens` are kept when the share `ratio` is pruned: L - int(L * ratio).

    Raises ValueError for a ratio outside [0, 1].
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"a ratio must lie in [0, 1]; not {ratio}")
    return tokens - int(tokens * ratio)


def share_of(tokens: int, pruned: int) -> float:
    """Return the ratio that prunes exactly `pruned` of `tokens`; see `kept`.

    >>> 22 - kept(22, 15 / 22), 22 - kept(22, share_of(22, 15))
    (14, 15)
    """
    if not 0 <= pruned <= tokens or not tokens:
        raise ValueError(f"0 to {tokens} of {tokens} tokens can be pruned; not {pruned}")
    ratio = pruned / tokens
    while int(tokens * ratio) < pruned:  # the quotient was rounded down
        ratio = nextafter(ratio, 1.0)
    return ratio


class Scheduled:
    """The base class of methods with ratios by scale; subclasses are frozen dataclasses.

    All further fields of a subclass become part of its acts at steps with a ratio.
    """

    ratios: Mapping[ScaleName, float] | tuple[tuple[ScaleName, float], ...]
    layers: tuple[int, int] | None
    sublayers: tuple[str, ...]

    @classmethod
    def example(cls, grids: Sequence[Grid], depth: int) -> Self:
        """Return a method to begin with: half of the tokens of the step before the last, 3/4 of it.

        A schedule of two steps is pruned at the last one alone.
        """
        ratios: dict[ScaleName, float] = {-2: 0.5, -1: 0.75}
        return cls(ratios if len(grids) > 2 else {-1: 0.75})  # type: ignore[call-arg]

    def _settle(self) -> None:
        """Convert the fields to hashable form; raise ValueError for invalid values."""
        what = "ratios map scales to shares pruned, such as {-1: 0.5}"
        pairs = pairs_by_scale(what, self.ratios)
        settled = sorted(((n, share(n, r)) for n, r in pairs), key=scale_order)
        object.__setattr__(self, "ratios", tuple(settled))
        several = isinstance(self.sublayers, Iterable) and not isinstance(self.sublayers, str)
        kinds = tuple(self.sublayers) if several else (self.sublayers,)
        object.__setattr__(self, "sublayers", kinds)
        if not kinds or any(kind not in KINDS for kind in kinds):
            raise ValueError(f"sublayers must be among {', '.join(KINDS)}; not {kinds!r}")
        settle_layers(self)

    @property
    def pairs(self) -> tuple[tuple[ScaleName, float], ...]:
        """The ratios as pairs of scale name and share pruned."""
        return cast(tuple[tuple[ScaleName, float], ...], self.ratios)

    def by_step(self, grids: Sequence[Grid]) -> dict[int, float]:
        """Return the ratios above 0 by step index; the last schedule's result is cached."""
        steps = tuple(grids)
        known: tuple[tuple[Grid, ...], dict[int, float]] | None = self.__dict__.get("_resolved")
        if known is None or known[0] != steps:
            known = steps, self._resolve(steps)
            object.__setattr__(self, "_resolved", known)
        return dict(known[1])

    def _resolve(self, grids: Sequence[Grid]) -> dict[int, float]:
        ratios: dict[int, float] = {}
        for name, ratio in self.pairs:
            step = find(name, grids)
            if step in ratios:
                raise ValueError(f"scale {name} names step {step}, which has a ratio already")
            ratios[step] = ratio
            if ratio > 0 and grids[step].prefix:
                raise ValueError(f"scale {name} carries text tokens and cannot be pruned")
        if len(ratios) == len(grids) and all(ratio == 1 for ratio in ratios.values()):
            raise ValueError("every scale step is skipped; leave at least one")
        return {step: ratio for step, ratio in ratios.items() if ratio > 0}

    def key(self, *apart: str) -> tuple[Any, ...]:
        """Return values that identify the work at a step: type and all fields not in `apart`."""
        values = vars(self)
        return (
            type(self),
            *(values[f.name] for f in fields(cast(Any, self)) if f.name not in apart),
        )

    def depth_checked(self, depth: int) -> range:
        """Return the pruned layers; raise ValueError if the model has fewer layers."""
        if self.layers is not None and self.layers[1] > depth:
            raise ValueError(f"layers {self.layers} reach beyond the {depth} layers of this model")
        return range(*(self.layers or (0, depth)))


def settle_layers(value: Any) -> None:
    """Convert the field `layers` of a frozen value to (first, end), or raise ValueError.

    None stays None where it is the default.
    """
    layers = value.layers
    if layers is None and type(value).layers is None:
        return
    try:
        if isinstance(layers, range) and layers.step == 1:
            layers = (layers.start, layers.stop)
        first, end = (whole("layer", layer) for layer in layers)
    except (TypeError, ValueError):
        first = end = -1
    if isinstance(layers, range) or not 0 <= first < end:
        raise ValueError(f"layers must be a range (first, end); not {layers!r}")
    object.__setattr__(value, "layers", (first, end))


def scale_order(pair: tuple[ScaleName, Any]) -> tuple[int, ...]:
    """Return a sort key of pairs, so that equal schedules have equal order."""
    return (pair[0],) if isinstance(pair[0], int) else tuple(pair[0])


class ScheduledRunner(Runner):
    """The base class of runners of scheduled methods.

    To vary ratios over layers or sublayers, override `ratio` alone.
    """

    def __init__(self, method: Scheduled, grids: Sequence[Grid], depth: int) -> None:
        self.ratios, self.layers = method.by_step(grids), method.depth_checked(depth)
        self.sublayers = method.sublayers

    def prunes(self, site: Site) -> bool:
        """Return whether a sublayer is pruned at steps with a ratio."""
        return site.layer in self.layers and site.kind in self.sublayers

    def ratio(self, site: Site, grid: Grid) -> float:
        """Return the share of a sublayer's tokens that is pruned at a step."""
        return self.ratios.get(grid.index, 0.0) if self.prunes(site) else 0.0

    def forwarded(self, site: Site, grid: Grid) -> int:
        skipped = self.ratios.get(grid.index) == 1
        return 0 if skipped else kept(grid.tokens, self.ratio(site, grid))
