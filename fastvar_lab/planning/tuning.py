"""Tuning: an equal number of trials for every family, for the best pictures at a saving."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from fastvar_lab.errors import short
from fastvar_lab.generation import resume
from fastvar_lab.methods.columns import written
from fastvar_lab.methods.prune import Dense
from fastvar_lab.methods.spaces import Space, spaces
from fastvar_lab.models.model import Model
from fastvar_lab.planning.candidates import (
    Candidate,
    Measured,
    OnModel,
    candidate,
    candidates,
    search,
)
from fastvar_lab.planning.effects import BATCH, Calibration, calibration_items, psnr, squared_errors
from fastvar_lab.planning.trials import DIGITS, TARGETS, TuningLog, settings
from fastvar_lab.prompts import Item, PromptSet
from fastvar_lab.seam import Method, Runner
from fastvar_lab.speed import flops
from fastvar_lab.speed.tally import Tally, total
from fastvar_lab.store import Store, short_key

TRIALS, PICTURES = 12, 4


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
        self.key = short_key({"items": [tuple(item) for item in self.items]})
        if {row["items"] for row in self.log.of(self.model)} - {self.key}:
            raise ValueError(
                f"{self.log.path} holds trials of {self.model.name} on other calibration pictures, "
                "and trials on several sets cannot be compared; name another file with --log"
            )
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
                self._try(space, candidate(space, self.model, (), method), 0)
        known = {row["method"]: row for row in self.log.of(self.model, space.family)}
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
            pictures=len(self.items), items=self.key, saves=space.saves, saving=result.saving,
            psnr=result.psnr, method=text,
        )  # fmt: skip
        done()
        return result

    def measure(self, setting: Candidate) -> Measured:
        """Generate the calibration pictures under a setting, resumed from full generation.

        The result has the digits that the log keeps, so that a resumed search takes the same way.
        """
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
                grids = self.model.grids()
                dense = flops.step_flops(self.model, Dense(), grids, text, len(pictures))
                full += flops.total(dense)
        saving = full / flop if setting.saving is None else setting.saving
        mean = float(psnr(np.concatenate(errors)).mean())
        return Measured(*(float(f"{value:.{DIGITS}g}") for value in (mean, saving)))


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
        left = [tuner for tuner in tuners if any(tuner.missing(space) for space in chosen)]
        if left:
            begin = time.perf_counter()
            left[0].calibration.batch(0)
            batches = math.ceil(len(left[0].items) / BATCH)
            minutes = (time.perf_counter() - begin) * missing * batches / 60
            yield f"{missing} trials of {n} pictures: about {minutes:.0f} minutes, or less"
        for tuner in left:
            for space in chosen:
                before = bar.n
                lacking = tuner.missing(space)
                tuner.tune(space, bar.update)
                bar.update(lacking - (bar.n - before))  # of a space with fewer settings
    for tuner in tuners:
        for space in chosen:
            guidance = tuner.model.sampling.guidance
            best = settings(log.of(tuner.model, space.family))
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
