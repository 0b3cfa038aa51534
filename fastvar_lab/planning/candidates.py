"""Settings of a family on a model: what each would save, and which ones a search tries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from fastvar_lab.planning.trials import LEAST, TARGETS
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
BAND = 0.1  # a setting is tried for a target if its saving differs by this share at most


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
    for place in space.places():
        try:
            method = space.method(subject, place)
            option = candidate(space, subject.model, place, method)
        except ValueError:
            continue
        text = written(method)
        if family(method) != space.family or stands_in(text, space.family, grids):
            continue
        if option.saving is None or option.saving > LEAST:
            out.setdefault(text, option)
    return list(out.values())


def candidate(space: Space, model: Model, place: tuple[int, ...], method: Method) -> Candidate:
    """Return a setting with its saving; raise ValueError for one that does not fit the model."""
    method.start(model.grids(), model.depth)
    if not flops.exact(method, model.grids()):
        return Candidate(place, method, None)
    return Candidate(place, method, _cost(space, model, Dense()) / _cost(space, model, method))


def _cost(space: Space, model: Model, method: Method) -> float:
    """Return what a setting is to save: operations of a picture, or bytes of keys and values."""
    if space.saves == "bytes":
        return held_share(model, method) or 1.0
    return flops.total(flops.step_flops(model, method, model.grids(), sampling=model.sampling))


def search(
    options: Sequence[Candidate],
    trials: int,
    measure: Callable[[Candidate], Measured],
    seed: int = 0,
) -> Iterator[Candidate]:
    """Yield the settings to try, each once, after the results of those before it.

    Each target has an equal share of the trials. Half of a share is drawn from all settings that
    save as much; the other half are neighbours of the best one so far. Where the saving is known
    only afterwards, half of all trials are drawn, and the others are neighbours of those nearest
    to each target. A setting that saves nothing is good for none. A space with no more settings
    than trials is tried out.
    """
    rng = np.random.default_rng(seed)
    results: dict[tuple[int, ...], tuple[Candidate, Measured]] = {}

    def tried(setting: Candidate) -> Candidate:
        results[setting.place] = setting, measure(setting)
        return setting

    if len(options) <= trials:
        yield from map(tried, options)
        return
    unsure = any(setting.saving is None for setting in options)
    if unsure:
        for i in rng.permutation(len(options))[: trials - trials // 2]:
            yield tried(options[i])
    while len(results) < trials:
        target = TARGETS[len(results) % len(TARGETS)]
        near = _band(options, target, trials)
        left = [setting for setting in near if setting.place not in results]
        seen = [results[s.place] for s in near if s.place in results]
        share = trials // len(TARGETS)
        if not left:
            near = left = [setting for setting in options if setting.place not in results]
        useful = [pair for pair in seen if pair[1].saving > LEAST]
        if useful and (unsure or len(seen) >= share - share // 2):
            best = max(useful, key=lambda pair: _worth(pair[1], target, unsure))[0]
            order = sorted(left, key=lambda setting: _distance(setting, best))
            yield tried(order[0])
        else:
            yield tried(left[int(rng.integers(len(left)))])


def _band(settings: Sequence[Candidate], target: float, least: int) -> list[Candidate]:
    """Return the settings whose saving is about a target, or at least some of the nearest."""
    if any(setting.saving is None for setting in settings):
        return list(settings)
    order = sorted(settings, key=lambda s: abs(np.log((s.saving or 1.0) / target)))
    inside = [s for s in order if abs(np.log((s.saving or 1.0) / target)) <= BAND]
    return inside if len(inside) >= least // len(TARGETS) else order[: least // len(TARGETS)]


def _worth(result: Measured, target: float, unsure: bool) -> float:
    """Return how good a result is for a target: its PSNR, less what it misses the saving by."""
    missed = abs(np.log(result.saving / target)) if unsure else 0.0
    return result.psnr - 20 * max(0.0, missed - BAND)


def _distance(setting: Candidate, other: Candidate) -> tuple[int, int]:
    """Return in how many fields two settings differ, and by how many places."""
    gaps = [abs(a - b) for a, b in zip(setting.place, other.place, strict=True)]
    return sum(gap > 0 for gap in gaps), sum(gaps)
