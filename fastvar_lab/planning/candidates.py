"""Settings of a family on a model: what each would save, and which ones a search tries."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from fastvar_lab.measure import calibration, scalekv_budgets
from fastvar_lab.measure.controls import stands_in
from fastvar_lab.methods.columns import family, written
from fastvar_lab.methods.parse import read_method
from fastvar_lab.methods.prune import Dense
from fastvar_lab.methods.skipvar import SkipVAR, fitted_rules
from fastvar_lab.methods.spaces import Space
from fastvar_lab.models.model import Model
from fastvar_lab.planning.trials import BAND, LEAST, TARGETS, gap, reachable
from fastvar_lab.prompts import Item
from fastvar_lab.seam import Grid, Method
from fastvar_lab.speed import flops
from fastvar_lab.speed.kv_bytes import held_share
from fastvar_lab.store import Store

CALIBRATIONS: dict[str, Callable[..., Method]] = {
    "fastervar": calibration.fastervar,
    "heatkv": calibration.heatkv,
    "scalekv": scalekv_budgets.scalekv,
}


@dataclass
class OnModel:
    """A `Subject`: a model, and the calibration pictures on which constants are measured."""

    model: Model
    items: Sequence[Item]
    store: Store | None = None
    known: dict[str, Method] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        return self.model.depth

    def grids(self) -> tuple[Grid, ...]:
        return self.model.grids()

    @property
    def rules(self) -> list[str]:
        model, steps = self.model, len(self.model.sizes)
        named = fitted_rules(model.name, model.sampling.guidance, steps)
        return [rule for rule in named if not SkipVAR(rule).misfit(model, model.sampling)]

    def calibrated(self, method: str, **options: Any) -> Method:
        """Calibrate a method once; the store keeps what was measured."""
        name = f"{method} {options}"
        address = {
            **self.model.context, "experiment": "tune", "calibrated": name,
            "items": [list(item) for item in self.items],
        }  # fmt: skip
        if name not in self.known:
            rows = None if self.store is None else self.store.get(address)
            if rows is None:
                measured = CALIBRATIONS[method](self.model, self.items, **options)
                rows = [{"method": repr(measured)}]
                if self.store is not None:
                    self.store.put(address, rows, experiment="tune")
            self.known[name] = read_method(rows[0]["method"])
        return self.known[name]


class Candidate(NamedTuple):
    """A setting of a space: its place there, its method, and its saving; None if data decide."""

    place: tuple[int, ...]
    method: Method
    saving: float | None


class Measured(NamedTuple):
    """A trial's result: mean PSNR in dB, and saving."""

    psnr: float
    saving: float


def candidates(space: Space, subject: OnModel) -> list[Candidate]:
    """Return the settings of a space that fit a model and save something, each once.

    A setting that does a control's work alone, such as skipping, is none of its family.
    """
    out, grids = dict[str, Candidate](), subject.model.grids()
    whole = _cost(space, subject.model, Dense())
    for place in space.places():
        try:
            method = space.method(subject, place)
            option = candidate(space, subject.model, place, method, whole)
        except ValueError:
            continue
        text = written(method)
        if family(method) != space.family or stands_in(text, space.family, grids):
            continue
        if option.saving is None or option.saving > LEAST:
            out.setdefault(text, option)
    return list(out.values())


def candidate(
    space: Space,
    model: Model,
    place: tuple[int, ...],
    method: Method,
    whole: float | None = None,
) -> Candidate:
    """Return a setting with its saving; raise ValueError for one that does not fit the model.

    `whole` is the cost of full generation, if it is known.
    """
    method.start(model.grids(), model.depth)
    if not flops.exact(method, model.grids()):
        return Candidate(place, method, None)
    whole = _cost(space, model, Dense()) if whole is None else whole
    return Candidate(place, method, whole / _cost(space, model, method))


def _cost(space: Space, model: Model, method: Method) -> float:
    """Return what a setting is to save: operations of a picture, or bytes of keys and values."""
    if space.saves == "bytes":
        return held_share(model, method) or 1.0
    return flops.total(flops.step_flops(model, method, model.grids()))


def search(
    options: Sequence[Candidate],
    trials: int,
    measure: Callable[[Candidate], Measured],
    seed: int = 0,
) -> Iterator[Candidate]:
    """Yield the settings to try, each once, after the results of those before it.

    Each target of `aims` has an equal share of the trials. Half of a share is drawn from all
    settings that save as much; the other half are neighbours of the best one so far. Where the
    saving is known only afterwards, half of all trials are drawn, the targets are those in reach of
    the results so far and next to it, and the others are neighbours of the best result for each,
    first in fields that change its result. A setting that saves nothing is good for none. A space
    with no more settings than trials is tried out.
    """
    rng = np.random.default_rng(seed)
    results: dict[tuple[int, ...], tuple[Candidate, Measured]] = {}

    def tried(setting: Candidate) -> Candidate:
        results[setting.place] = setting, measure(setting)
        return setting

    if len(options) <= trials:
        yield from map(tried, options)
        return
    known = [setting.saving for setting in options if setting.saving is not None]
    unsure = len(known) < len(options)
    if unsure:
        for i in rng.permutation(len(options))[: trials - trials // 2]:
            yield tried(options[i])
    while len(results) < trials:
        useful = {place: pair for place, pair in results.items() if pair[1].saving > LEAST}
        savings = [result.saving for _, result in useful.values()] if unsure else known
        targets = aims(savings, unsure)
        target, share = targets[len(results) % len(targets)], trials // len(targets)
        near = list(options) if unsure else _band(options, target, share)
        left = [setting for setting in near if setting.place not in results]
        seen = [useful[setting.place] for setting in near if setting.place in useful]
        if not left:
            left = [setting for setting in options if setting.place not in results]
        if seen and (unsure or len(seen) >= share - share // 2):
            best = max(_nearest(seen, target) if unsure else seen, key=lambda pair: pair[1].psnr)
            idle = _idle(best, seen) if unsure else set[int]()
            yield tried(min(left, key=lambda setting: _distance(setting, best[0], idle)))
        else:
            yield tried(left[int(rng.integers(len(left)))])


def aims(savings: Sequence[float], unsure: bool = False) -> list[float]:
    """Return the targets that trials are spent on where settings save this much.

    Those are the targets in reach. Of the targets beyond an end the nearest one stands for the end,
    unless a target in reach is about as near to it. If `unsure`, other settings may save more, or
    less: the nearest target beyond an end is tried for.

    >>> aims([1.1, 1.4, 1.77]), aims([1.03, 1.99]), aims([1.03, 1.48]), aims([1.03, 1.48], True)
    ([1.5, 2.0], [1.5, 2.0], [1.5], [1.5, 2.0])
    """
    if not savings:
        return list(TARGETS)
    low, high = min(savings), max(savings)
    inside = reachable(savings)
    below = [t for t in TARGETS if t < low and t not in inside][-1:]
    above = [t for t in TARGETS if t > high and t not in inside][:1]
    for end, beyond in ((low, below), (high, above)):
        if unsure or all(gap(end, target) > BAND for target in inside):
            inside += beyond
    return sorted(inside)


def _band(settings: Sequence[Candidate], target: float, least: int) -> list[Candidate]:
    """Return the settings whose saving is about a target, or at least some of the nearest."""
    order = sorted(settings, key=lambda s: gap(s.saving or 1.0, target))
    inside = [s for s in order if gap(s.saving or 1.0, target) <= BAND]
    return inside if len(inside) >= least else order[:least]


def _nearest(
    seen: Sequence[tuple[Candidate, Measured]], target: float
) -> list[tuple[Candidate, Measured]]:
    """Return the results whose saving is about a target; if there is none, the nearest one.

    That is the nearest of those that no other beats in both saving and PSNR, as in
    `trials.settings`: better pictures do not make up for a saving that is missed.
    """
    inside = [pair for pair in seen if gap(pair[1].saving, target) <= BAND]
    best = [
        (setting, result)
        for setting, result in seen
        if not any(other.psnr > result.psnr and other.saving > result.saving for _, other in seen)
    ]
    return inside or [min(best, key=lambda pair: gap(pair[1].saving, target))]


def _idle(best: tuple[Candidate, Measured], seen: Sequence[tuple[Candidate, Measured]]) -> set[int]:
    """Return the fields in which a setting differs from others that have the same result."""
    return {
        i
        for setting, result in seen
        if result == best[1]
        for i, (a, b) in enumerate(zip(setting.place, best[0].place, strict=True))
        if a != b
    }


def _distance(setting: Candidate, other: Candidate, idle: Collection[int]) -> tuple[bool, int, int]:
    """Return whether two settings differ in `idle` fields alone, in how many, by how many places.

    That is the order in which neighbours are tried.
    """
    gaps = [abs(a - b) for a, b in zip(setting.place, other.place, strict=True)]
    moved = {i for i, gap in enumerate(gaps) if gap}
    return moved <= set(idle), len(moved), sum(gaps)
