"""Workers: the pools that run jobs, and a job as they run it."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import Any

import torch

from fastvar_lab.experiments.jobs import Job
from fastvar_lab.files import source_hash
from fastvar_lab.models.model import Model
from fastvar_lab.models.spec import ModelSpec
from fastvar_lab.provenance import versions
from fastvar_lab.store import Store

JUDGED_WITH = ("scipy",)
"""Packages whose versions change scores, beside `provenance.COMPUTED_WITH`."""


def expectation(model: Model) -> dict[str, Any]:
    """Return what a worker's model, versions and code must be, so that its results are the same."""
    packages = versions("fastvar-lab", *JUDGED_WITH)
    return {**model.context, **packages, "code of fastvar-lab": source_hash()}


def compute(job: Job, spec: ModelSpec, folder: str, expected: Mapping[str, Any]) -> int:
    """Run one job where this process is, and keep every result as it comes; return how many.

    Raises ValueError where the model, a package or this one's code is another than `expected`.
    """
    model = spec.open()
    here = expectation(model)
    for name in (*here, *(expected.keys() - here.keys())):
        if name not in here or name not in expected or here[name] != expected[name]:
            raise ValueError(
                f"this worker has the {name} {here.get(name, 'unknown')} for {spec.name}; the run "
                f"was begun with {expected.get(name, 'unknown')}"
            )
    job.compute(model, Store(folder))
    return len(job)


def submit(
    executor: Executor,
    jobs: Sequence[Job],
    spec: ModelSpec,
    folder: str,
    expected: Mapping[str, Any],
    done: Callable[[int], object],
) -> None:
    """Run jobs through an executor, telling `done` of every one's number of results.

    Raises ValueError for methods or metrics that cannot travel, RuntimeError for lost jobs.
    """
    futures = list[Future[int]]()
    try:
        for job in jobs:
            _check_travels(job)
            futures.append(executor.submit(compute, job, spec, folder, expected))
        for future in as_completed(futures):
            done(future.result())
    except CancelledError as error:
        raise RuntimeError(
            "the cluster dropped its jobs; finished results are kept, run it again"
        ) from error
    finally:
        for future in futures:
            future.cancel()


def _check_travels(job: Job) -> None:
    """Raise ValueError for what no other process could read."""
    try:
        pickle.dumps(job)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"methods and metrics that travel to workers must be importable from a module; {error}"
        ) from error


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
        spawn = get_context("spawn")
        with ProcessPoolExecutor(workers, spawn, _set_up, (threads,)) as pool:
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
