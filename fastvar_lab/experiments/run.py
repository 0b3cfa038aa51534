"""Run experiments by name: known cells are read, missing ones computed, here or elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from fastvar_lab.experiments import costs, quality, steps
from fastvar_lab.experiments.base import SCOPES, Experiment, Settings
from fastvar_lab.experiments.store import Store
from fastvar_lab.experiments.tables import tabulate
from fastvar_lab.loading import load
from fastvar_lab.models import Model
from fastvar_lab.output import versions
from fastvar_lab.words import unknown

EVERY = (*costs.EXPERIMENTS, *steps.EXPERIMENTS, *quality.EXPERIMENTS)
REGISTRY: dict[str, Experiment] = {experiment.name: experiment for experiment in EVERY}


def find(name: str) -> Experiment:
    """Look an experiment up; raise ValueError naming the nearest ones."""
    if name not in REGISTRY:
        raise unknown("experiment", name, REGISTRY)
    return REGISTRY[name]


@dataclass(frozen=True)
class Opened:
    """How a model is opened, as plain values that travel to a worker.

    >>> frame = run("memory", "quick", how=Opened("tiny", device="cpu"), progress=False)
    >>> int(frame.side.max())
    64
    """

    name: str = "tiny"
    weights: str | None = None
    device: str = "cpu"
    fingerprint: str = ""


@lru_cache(maxsize=2)
def _open(name: str, weights: str | None, device: str) -> Model:
    return load(name, weights, device)


def open_model(how: Opened) -> Model:
    """Open a model once per process; raise ValueError if its weights are not those expected."""
    model = _open(how.name, how.weights, how.device)
    if how.fingerprint and model.fingerprint != how.fingerprint:
        raise ValueError(
            f"this worker's {how.name} has the weights {model.fingerprint}; "
            f"the run was begun with {how.fingerprint}"
        )
    return model


def address(experiment: Experiment, model: Model, cell: Mapping[str, Any]) -> Settings:
    """Everything that a cell's numbers depend on."""
    return {
        "experiment": experiment.kept_as or experiment.name,
        "version": experiment.version,
        "model": model.name,
        "weights": model.fingerprint,
        "device": str(model.device),
        "cell": {k: v for k, v in cell.items() if k not in experiment.labels},
    }


def compute(name: str, how: Opened, cells: Sequence[Settings], folder: str, told: str) -> int:
    """Run one job where this process is, and keep every cell as it comes; return how many.

    `told` is the version of torch that the run was begun with; another one is refused.
    """
    here = versions()["torch"]
    if here != told:
        raise ValueError(f"this worker has torch {here}; the run was begun with {told}")
    experiment, model, store = find(name), open_model(how), Store(folder)
    done = 0
    for cell, rows in experiment.work(model, cells):
        store.put(address(experiment, model, cell), rows)
        done += 1
    return done


def run(
    name: str,
    scope: str = "default",
    *,
    how: Opened | None = None,
    store: Store | None = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Run an experiment and return its tidy frame, one row per measurement.

    Known cells are read; missing ones are computed here, or through any
    `concurrent.futures.Executor`, and kept one by one, so that a stopped run goes on where it was.
    Cells that are timed are computed here, alone, when all others are there.

    >>> frame = run("latency_by_scale", "quick", progress=False)
    >>> sorted(frame.method.unique())
    ['fast', 'full']
    """
    experiment, how = find(name), how or Opened()
    if scope not in SCOPES:
        raise ValueError(f"scope must be one of {', '.join(SCOPES)}; not {scope!r}")
    store = (store or Store()).prepare()
    model = open_model(how)
    how = Opened(how.name, how.weights, how.device, model.fingerprint)
    jobs = experiment.jobs(model, SCOPES[scope])
    wanted = [cell for job in jobs for cell in job]
    missing = [
        [cell for cell in job if store.get(address(experiment, model, cell)) is None]
        for job in jobs
    ]
    missing = [job for job in missing if job]
    calls = [(name, how, job, str(store.folder), versions()["torch"]) for job in missing]
    total = len(wanted)
    bar = tqdm(
        total=total,
        initial=total - sum(map(len, missing)),
        desc=name,
        unit="cell",
        disable=not progress or not missing,
    )
    with bar:
        alone = [call for call in calls if executor is None or _timed(call[2])]
        if executor is not None:
            _through(executor, [call for call in calls if not _timed(call[2])], bar)
        for call in alone:
            bar.update(compute(*call))
    frames = []
    for cell in wanted:
        rows = store.get(address(experiment, model, cell))
        if rows is None:
            raise RuntimeError(f"{name}: a cell vanished from {store.folder}; run it again")
        frames.append(pd.DataFrame([{**_plain(cell), **row} for row in rows]))
    return pd.concat(frames, ignore_index=True)


def _timed(job: Sequence[Settings]) -> bool:
    """Tell whether a job's cells are timed, so that nothing may run beside them."""
    return "repeats" in job[0]


def _through(executor: Executor, calls: Sequence[tuple[Any, ...]], bar: Any) -> None:
    futures: list[Future[int]] = [executor.submit(compute, *call) for call in calls]
    try:
        for future in as_completed(futures):
            bar.update(future.result())
    finally:
        for future in futures:
            future.cancel()


@contextmanager
def executor(workers: int = 0, scheduler: str | None = None) -> Iterator[Executor | None]:
    """Give an executor: none, processes on this machine, or those of a running dask cluster."""
    if workers < 0:
        raise ValueError(f"--workers must be 0 or more; not {workers}")
    if scheduler is not None:
        try:
            from distributed import Client
        except ImportError as error:
            raise ValueError("a dask cluster needs: pip install -e '.[cluster]'") from error
        with Client(scheduler) as client:
            yield client.get_executor()
    elif workers:
        threads = max(1, torch.get_num_threads() // workers)
        context = get_context("spawn")
        with ProcessPoolExecutor(workers, context, torch.set_num_threads, (threads,)) as pool:
            yield pool
    else:
        yield None


def table(name: str, frame: pd.DataFrame) -> str:
    """Format what a frame says for a terminal."""
    experiment = find(name)
    lines = [f"{name}: {experiment.question} ({experiment.source})"]
    lines.append(tabulate(frame).to_string(index=False))
    if "picture" in frame:
        told = ", 95 % bootstrap intervals" if "kind" in frame else ", means"
        lines.append(f"n = {frame.picture.nunique()} pictures{told}")
    return "\n".join(lines)


def _plain(cell: Settings) -> Settings:
    """Keep the settings that fit a column; a batch of prompts belongs to the rows."""
    return {k: v for k, v in cell.items() if not isinstance(v, list | dict)}
