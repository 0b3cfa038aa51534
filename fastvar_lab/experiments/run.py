"""Run experiments: known cells are read, missing ones computed, here or elsewhere.

`run` answers the questions that ship here, `compare` sets methods of one's own beside others.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import (
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    as_completed,
)
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from multiprocessing import get_context, parent_process
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from fastvar_lab.errors import unknown
from fastvar_lab.experiments import costs, quality, steps
from fastvar_lab.experiments.base import SCOPES, Experiment, Scope, Settings
from fastvar_lab.files import expanded
from fastvar_lab.models.loading import load
from fastvar_lab.models.model import Model
from fastvar_lab.plotting.tables import tabulate
from fastvar_lab.provenance import machine, versions
from fastvar_lab.seam import Method
from fastvar_lab.speed.flops import named
from fastvar_lab.store import Store

EVERY = (*costs.EXPERIMENTS, *steps.EXPERIMENTS, *quality.EXPERIMENTS)
OPENING = threading.Lock()  # a worker with several threads opens a model once
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
    dtype: str = "float32"
    fingerprint: str = ""


@lru_cache(maxsize=2)
def _open(name: str, weights: str | None, device: str, dtype: str) -> Model:
    return load(name, weights, device, getattr(torch, dtype))


def open_model(how: Opened) -> Model:
    """Open a model once per process; raise ValueError if its weights are not those expected."""
    with OPENING:
        model = _open(how.name, how.weights, how.device, how.dtype)
    if how.fingerprint and model.fingerprint != how.fingerprint:
        raise ValueError(
            f"this worker's {how.name} has the weights {model.fingerprint}; "
            f"the run was begun with {how.fingerprint}"
        )
    return model


def address(experiment: Experiment, model: Model, cell: Mapping[str, Any]) -> Settings:
    """Everything that a cell's numbers depend on; those of timed ones on the machine, too."""
    timed = {"on": {**machine(model.device), **versions()}} if "repeats" in cell else {}
    return {
        **timed,
        "experiment": experiment.kept_as or experiment.name,
        "version": experiment.version,
        "model": model.name,
        "weights": model.fingerprint,
        "device": str(model.device),
        "precision": model.precision,
        "sampling": repr(model.sampling),
        "sizes": [list(size) for size in model.sizes],
        "cell": {k: v for k, v in cell.items() if k not in experiment.labels},
    }


def compute(name: str, how: Opened, cells: Sequence[Settings], folder: str, told: str) -> int:
    """Run one job where this process is, and keep every cell as it comes; return how many.

    `told` is the version of torch that the run was begun with; another one is refused.
    """
    here = versions()["torch"]
    if here != told:
        raise ValueError(f"this worker has torch {here}; the run was begun with {told}")
    return _work(find(name), open_model(how), cells, Store(folder))


def _work(experiment: Experiment, model: Model, cells: Sequence[Settings], store: Store) -> int:
    done = 0
    for cell, rows in experiment.work(model, cells):
        store.put(address(experiment, model, cell), rows)
        done += 1
    return done


def run(
    name: str,
    scope: str | Scope = "default",
    *,
    how: Opened | Model | None = None,
    store: Store | None = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Run an experiment that ships here; return its tidy frame, one row per measurement.

    `scope` says how much: "quick", "default", "paper", or a `Scope` of one's own. `how` says which
    model: how to open it, default the embedded one, or one that is open, without an executor.

    Known cells are read; missing ones are computed here, or through any
    `concurrent.futures.Executor`, and kept one by one, so that a stopped run goes on where it was.
    Cells that are timed are computed here, alone, when all others are there.

    >>> frame = run("latency_by_scale", "quick", progress=False)
    >>> sorted(frame.method.unique())
    ['fast', 'full']
    """
    experiment, how = find(name), how or Opened()
    if isinstance(how, Model):
        if executor is not None:
            raise ValueError("a model that is open does not travel to workers; say how to open it")
        return _measured(experiment, how, scope, store, progress)
    model = open_model(how)
    how = replace(how, fingerprint=model.fingerprint)
    if how.weights not in (None, "random"):  # workers run elsewhere
        how = replace(how, weights=str(expanded(how.weights).resolve()))
    elsewhere = None if executor is None else partial(_through, executor, name, how)
    return _measured(experiment, model, scope, store, progress, elsewhere)


def compare(
    model: Model,
    methods: Mapping[str, Method],
    scope: str | Scope = "default",
    *,
    seed: int = 11,
    store: Store | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Compare methods, your own too, with full generation as the experiments here do.

    `methods` are values by their label; those of experiments are at hand, such as
    `quality.rivals_methods(model)`. Held-out prompts and their noise are drawn from `seed`, the
    same for all. The frame has a row a picture and method (`kind` "quality": psnr, ssim, right, ...
    to the full picture) and a row a method (`kind` "time"), and is what `charts.methods`,
    `charts.tradeoff`, `charts.rivals` and `tables.tabulate` take. What is measured is kept like
    an experiment's cells; a rule whose code has changed is measured anew.

    >>> import fastvar_lab as fv
    >>> ways = {"PTS": fv.Prune({-1: 0.75}), "random": fv.Prune({-1: 0.75}, select=fv.Random())}
    >>> frame = compare(fv.load("tiny"), ways, Scope("look", prompts=2, repeats=1), progress=False)
    >>> sorted(frame.method.unique())
    ['PTS', 'full', 'random']
    """
    named(methods)
    asked = quality.comparison("compare", "", "", lambda _: methods, seed=seed)
    return _measured(asked, model, scope, store, progress)


def _measured(
    experiment: Experiment,
    model: Model,
    scope: str | Scope,
    store: Store | None,
    progress: bool,
    elsewhere: Callable[[Sequence[Sequence[Settings]], str, Any], None] | None = None,
) -> pd.DataFrame:
    """Read what is known, compute what is missing, and join it; timed cells here, when alone."""
    if isinstance(scope, str):
        if scope not in SCOPES:
            raise ValueError(f"scope must be one of {', '.join(SCOPES)}; not {scope!r}")
        scope = SCOPES[scope]
    store = (store or Store()).prepare()
    jobs = experiment.jobs(model, scope)
    wanted = [cell for job in jobs for cell in job]
    missing = [
        [cell for cell in job if store.get(address(experiment, model, cell)) is None]
        for job in jobs
    ]
    missing = [job for job in missing if job]
    total = len(wanted)
    bar = tqdm(
        total=total,
        initial=total - sum(map(len, missing)),
        desc=experiment.name,
        unit="cell",
        disable=not progress or not missing,
    )
    with bar:
        here = missing
        if elsewhere is not None:
            here = [job for job in missing if _timed(job)]
            elsewhere([job for job in missing if not _timed(job)], str(store.folder), bar)
        for job in here:
            bar.update(_work(experiment, model, job, store))
    frames = []
    for cell in wanted:
        rows = store.get(address(experiment, model, cell))
        if rows is None:
            raise RuntimeError(
                f"{experiment.name}: a cell vanished from {store.folder}; run it again"
            )
        frames.append(pd.DataFrame([{**_plain(cell), **row} for row in rows]))
    return pd.concat(frames, ignore_index=True)


def _timed(job: Sequence[Settings]) -> bool:
    """Tell whether a job's cells are timed, so that nothing may run beside them."""
    return "repeats" in job[0]


def _through(
    executor: Executor,
    name: str,
    how: Opened,
    jobs: Sequence[Sequence[Settings]],
    folder: str,
    bar: Any,
) -> None:
    told = versions()["torch"]
    futures = list[Future[int]]()
    try:
        for job in jobs:
            futures.append(executor.submit(compute, name, how, job, folder, told))
        for future in as_completed(futures):
            bar.update(future.result())
    except CancelledError as error:
        raise RuntimeError(
            f"{name}: the cluster dropped its jobs; finished cells are kept, run it again"
        ) from error
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
        with ProcessPoolExecutor(workers, context, _set_up, (threads,)) as pool:
            yield pool
    else:
        yield None


def _set_up(threads: int) -> None:
    """Set a worker process up: its threads, and that it ends when the one that asks is killed."""
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def table(name: str, frame: pd.DataFrame) -> str:
    """Format what a frame says for a terminal, under the name of an experiment or any other."""
    known = REGISTRY.get(name)
    lines = [f"{name}: {known.question} ({known.source})" if known else name]
    lines.append(tabulate(frame).to_string(index=False))
    if "picture" in frame:
        told = ", 95 % intervals" if "kind" in frame else ", means"
        lines.append(f"n = {frame.picture.nunique()} pictures{told}")
    return "\n".join(lines)


def _plain(cell: Settings) -> Settings:
    """Keep the settings that fit a column; a batch of prompts belongs to the rows."""
    return {k: v for k, v in cell.items() if not isinstance(v, list | dict)}
