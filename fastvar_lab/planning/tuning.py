"""Tuning: an equal number of trials for every family, for the best pictures at a saving."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from fastvar_lab.errors import short
from fastvar_lab.generation import resume
from fastvar_lab.measure import calibration as calibrations
from fastvar_lab.methods.columns import family, written
from fastvar_lab.methods.parse import read_method
from fastvar_lab.methods.prune import Dense
from fastvar_lab.methods.skipvar import fitted_rules
from fastvar_lab.methods.spaces import Space, spaces
from fastvar_lab.models.model import Model
from fastvar_lab.planning.effects import BATCH, Calibration, calibration_items, psnr, squared_errors
from fastvar_lab.planning.trials import TARGETS, TuningLog, settings
from fastvar_lab.prompts import Item, PromptSet
from fastvar_lab.seam import Grid, Method, Runner
from fastvar_lab.speed import flops
from fastvar_lab.speed.kv_bytes import held_share
from fastvar_lab.speed.tally import Tally, total
from fastvar_lab.store import Store

TRIALS, PICTURES = 12, 4
BAND = 0.1  # a setting is tried for a target if its saving differs by this share at most
LEAST = 1.02  # savings that count as one


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
        return fitted_rules(self.model.name, self.model.sampling.guidance, len(self.model.sizes))

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
                measured = getattr(calibrations, method)(self.model, self.items, **options)
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
    """Return the settings of a space that fit a model and save something, each once."""
    out = dict[str, Candidate]()
    for place in space.places():
        try:
            method = space.method(subject, place)
            made = candidate(space, subject.model, place, method)
        except ValueError:
            continue
        if family(method) == space.family and (made.saving is None or made.saving > LEAST):
            out.setdefault(written(method), made)
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
    to each target. A space with no more settings than trials is tried out.
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
        if seen and (unsure or len(seen) >= share - share // 2):
            best = max(seen, key=lambda pair: _worth(pair[1], target, unsure))[0]
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


@dataclass
class Tuner:
    """Tunes families on one model at its guidance; trials that the log holds are not run again.

    `items` are calibration prompts, see `effects.calibration_items`: nothing is judged on them.
    """

    model: Model
    items: Sequence[Item]
    log: TuningLog
    store: Store | None = None
    trials: int = TRIALS

    def __post_init__(self) -> None:
        if self.trials < len(TARGETS):
            raise ValueError(f"a tuning takes {len(TARGETS)} trials or more; not {self.trials}")
        self.calibration = Calibration(self.model, self.items, progress=False)
        self.subject = OnModel(self.model, self.items, self.store)

    def missing(self, space: Space) -> int:
        """Return how many trials of a family the log lacks at most."""
        searched = [row for row in self.log.of(self.model, space.family) if row["trial"]]
        return max(0, self.trials - len(searched))

    def tune(self, space: Space, done: Callable[[], object] = lambda: None) -> None:
        """Measure a family's published settings, and search others; `done` after each new trial.

        Published settings are no trials: the log numbers them 0.
        """
        options = candidates(space, self.subject)
        seed = zlib.crc32(space.family.encode())
        known = {row["method"]: row for row in self.log.of(self.model, space.family)}
        trial = 0

        def measure(setting: Candidate) -> Measured:
            nonlocal trial
            trial += 1
            row = known.get(written(setting.method))
            if row is not None and row["trial"]:
                return Measured(row["psnr"], row["saving"])
            return self._try(space, setting, trial, row, done)

        for method in self._published(space):
            if written(method) not in known:
                self._try(space, self._candidate(space, method), 0)
        for _ in search(options, self.trials, measure, seed):
            pass

    def _published(self, space: Space) -> list[Method]:
        """Return the published settings that fit the model."""
        fitting = []
        for method in space.published(self.subject):
            try:
                method.start(self.subject.grids(), self.model.depth)
            except ValueError:
                continue
            fitting.append(method)
        return fitting

    def _candidate(self, space: Space, method: Method) -> Candidate:
        return candidate(space, self.model, (), method)

    def _try(
        self,
        space: Space,
        setting: Candidate,
        trial: int,
        row: Mapping[str, Any] | None = None,
        done: Callable[[], object] = lambda: None,
    ) -> Measured:
        """Measure a setting, unless a published one is equal, and keep the trial."""
        text = written(setting.method)
        if row is None:
            try:
                result = self.measure(setting)
            except ValueError as error:
                raise ValueError(f"{space.family}, {short(text)}: {error}") from error
        else:
            result = Measured(row["psnr"], row["saving"])
        self.log.add(
            model=self.model.name, weights=self.model.fingerprint,
            guidance=self.model.sampling.guidance, family=space.family, trial=trial,
            pictures=len(self.items), saves=space.saves, saving=round(result.saving, 5),
            psnr=round(result.psnr, 4), method=text,
        )  # fmt: skip
        done()
        return result

    def measure(self, setting: Candidate) -> Measured:
        """Generate the calibration pictures under a setting, resumed from full generation."""
        errors, flop, full = list[np.ndarray](), 0.0, 0.0
        for first in range(0, len(self.items), BATCH):
            base, pictures = self.calibration.batch(first)
            text = self.calibration.text_tokens
            tallies = list[Tally]()

            def watch(run: Runner, into: list[Tally] = tallies, text: int = text) -> Runner:
                into.append(Tally(run, self.model, self.model.grids(), text))
                return into[0]

            watches = [watch] if setting.saving is None else []
            run = resume(self.model, base, setting.method, watch=watches)
            errors.append(squared_errors(self.model, run, pictures))
            if tallies:
                flop += total(self.model, run, tallies[0])
                dense = flops.step_flops(
                    self.model, Dense(), self.model.grids(), text, len(pictures),
                    self.model.sampling,
                )  # fmt: skip
                full += flops.total(dense)
        saving = full / flop if setting.saving is None else setting.saving
        return Measured(float(psnr(np.concatenate(errors)).mean()), saving)


def tune(
    models: Sequence[Model],
    chosen: Sequence[Space],
    log: TuningLog,
    trials: int = TRIALS,
    n: int = PICTURES,
    prompts: PromptSet | None = None,
    store: Store | None = None,
) -> Iterator[str]:
    """Tune families on models, yielding an estimate first and then a line for each family.

    A stopped tuning goes on where it was: the log holds every finished trial.
    """
    tuners = []
    for model in models:
        items = calibration_items(model, n, prompts)
        for item in items:
            model.check(item.prompt)
        tuners.append(Tuner(model, items, log, store, trials))
    missing = sum(tuner.missing(space) for tuner in tuners for space in chosen)
    if missing and store is not None:
        store.prepare()
    with tqdm(total=missing, desc="tune", unit="trial", disable=not missing) as bar:
        begin = time.perf_counter()
        for tuner in tuners:
            guidance = tuner.model.sampling.guidance
            if not any(tuner.missing(space) for space in chosen):
                continue
            if tuner is tuners[0]:
                tuner.calibration.batch(0)
                minutes = (time.perf_counter() - begin) * missing * len(tuner.items) / BATCH / 60
                yield f"{missing} trials of {n} pictures: at most about {minutes:.0f} minutes"
            for space in chosen:
                before = bar.n
                lacking = tuner.missing(space)
                tuner.tune(space, bar.update)
                bar.update(lacking - (bar.n - before))  # of a space with fewer settings
    for tuner in tuners:
        for space in chosen:
            guidance, best = (
                tuner.model.sampling.guidance,
                settings(log.of(tuner.model, space.family)),
            )
            texts = [f"{trial['saving']:.2f}x {trial['psnr']:.1f} dB" for trial in best]
            yield f"{space.family} at guidance {guidance:g}: {', '.join(texts) or 'no setting'}"


def overview(log: TuningLog, models: Sequence[Model]) -> str:
    """List the families with their axis, what they save, and the number of trials in a log."""
    rows = [
        {
            "family": name, "axis": space.axis, "saves": space.saves,
            **{
                f"trials at guidance {model.sampling.guidance:g}": len(log.of(model, name))
                for model in models
            },
        }
        for name, space in spaces().items()
    ]  # fmt: skip
    return pd.DataFrame(rows).to_string(index=False)
