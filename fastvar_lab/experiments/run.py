"""Run experiments: known results are read, missing ones computed, here or elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace

import pandas as pd
from tqdm.auto import tqdm

from fastvar_lab.experiments.agenda import (
    REGISTRY,
    Agenda,
    Compared,
    agenda,
    cell_jobs,
    comparing_jobs,
)
from fastvar_lab.experiments.base import Experiment, Scope
from fastvar_lab.experiments.jobs import Disturbed, Job, metric_addresses
from fastvar_lab.experiments.workers import expectation, submit
from fastvar_lab.frames import LINE, METRICS, NOTE
from fastvar_lab.measure import quality
from fastvar_lab.models.model import Model
from fastvar_lab.models.spec import ModelSpec
from fastvar_lab.plotting import charts
from fastvar_lab.plotting.tables import tabulate
from fastvar_lab.prompts import PromptSet
from fastvar_lab.provenance import machine
from fastvar_lab.store import Store


class AllTimed(ValueError):
    """An experiment that is asked for what is not timed, and times everything."""


def run(
    experiment: str | Experiment,
    scope: str | Scope = "default",
    *,
    model: Model | ModelSpec | None = None,
    methods: Compared | None = None,
    prompts: PromptSet | str | Sequence[str] | None = None,
    metrics: quality.Chosen | None = None,
    guidance: float | Sequence[float] | None = None,
    timed: bool = True,
    store: Store | None = None,
    executor: Executor | None = None,
    progress: bool = True,
    note: Callable[[str], object] = print,
) -> pd.DataFrame:
    """Run an experiment, by name or a record of your own; return its tidy frame.

    `scope` says how much: "quick", "default", "paper", or a `Scope` of your own. `model` is an open
    one, or says how to open it, which an executor needs; default is the shipped model. `methods`
    and `prompts` stand for the experiment's and the model's own; `metrics` are computed beside the
    usual ones: names, or functions of your own by name. Usual ones that the model's pictures are
    too small for are left out, and `note` is told so; one that is asked for raises ValueError.
    `guidance` is a scale, or several, to sample with: the frame then has the column `guidance`.

    Known results are read; missing ones are computed here, or through any
    `concurrent.futures.Executor`, and kept one by one, so that a stopped run goes on where it was.
    A new metric draws no picture again. Timed results are measured here, alone, when all others
    are there; `timed=False` leaves them to a later run, such as on a machine that has become quiet.
    Raises AllTimed, a ValueError, if nothing else is left.

    >>> frame = run("latency_by_scale", "quick", progress=False)
    >>> sorted(frame.method.unique())
    ['FastVAR', 'full']
    """
    work = agenda(experiment, scope, model, methods, prompts, metrics, guidance, note)
    store = store or Store()
    _follow(work, store, progress, executor)
    jobs = [job for job in work.jobs if timed or not job.timed]
    if not jobs:
        raise AllTimed(f"all that {work.record.name} measures is timed")
    frame = _read(work, jobs, store, _compute(work, jobs, store, progress, executor))
    questions = [part.question for part in work.scales]
    lines = {label: line for question in questions for label, line in question.lines.items()}
    if lines:
        frame = frame.assign(**{LINE: [lines.get(label, label) for label in frame.method]})
    front = {"model": work.model.name, "weights": work.model.fingerprint}
    if "prompt" in frame:
        front["prompts"] = work.prompts.name
    frame = frame.assign(**front)[[*front, *frame.columns]]
    frame.attrs[METRICS] = metric_addresses(jobs)
    return frame


def compare(
    model: Model | ModelSpec,
    methods: Compared,
    scope: str | Scope = "default",
    *,
    prompts: PromptSet | str | Sequence[str] | None = None,
    metrics: quality.Chosen | None = None,
    guidance: float | Sequence[float] | None = None,
    store: Store | None = None,
    executor: Executor | None = None,
    progress: bool = True,
    note: Callable[[str], object] = print,
) -> pd.DataFrame:
    """Compare methods, your own too, with full generation as the experiments here do.

    `methods` are values by their label, or without: then labels say what sets them apart. The frame
    has a row a picture and method (`kind` "quality": the metrics) and a row a method (`kind`
    "time"), each with the columns of its method, and is what `charts.methods`, `charts.tradeoff`,
    `charts.rivals` and `tables.tabulate` take. All else as in `run`.

    >>> import fastvar_lab as fv
    >>> ways = {"PTS": fv.Prune({-1: 0.75}), "random": fv.Prune({-1: 0.75}, select=fv.Random())}
    >>> frame = compare(fv.load("tiny"), ways, Scope("look", prompts=2, repeats=1), progress=False)
    >>> sorted(frame.method.unique())
    ['PTS', 'full', 'random']
    """
    record = Experiment("", "", charts.methods, name="compare")
    return run(
        record,
        scope,
        model=model,
        methods=methods,
        prompts=prompts,
        metrics=metrics,
        guidance=guidance,
        store=store,
        executor=executor,
        progress=progress,
        note=note,
    )


def _follow(work: Agenda, store: Store, progress: bool, executor: Executor | None) -> None:
    """Compute the first jobs, and add what follows from their results: methods or more cells."""
    record = work.record
    if record.then is None and record.narrow is None:
        return
    _compute(work, [job for job in work.jobs if not job.timed], store, progress, executor)
    for part in work.scales:
        frame = _read(work, part.jobs, store, {})
        if record.narrow is not None:
            part.jobs.clear()
            part.add(cell_jobs(record, part.question, record.narrow(part.question, frame)))
        if record.then is not None:
            question = replace(part.question, methods=record.then(part.question, frame))
            part.add(comparing_jobs(record, question, work.metrics, work.note))


def _read(work: Agenda, jobs: Sequence[Job], store: Store, disturbed: Disturbed) -> pd.DataFrame:
    """Join the results of jobs; raise RuntimeError for one that is not there."""
    model, frames = work.model, []
    with model.unchanged():
        for job in jobs:
            place = {"machine": _machine(model)} if job.timed else {}
            for rows in job.rows(model, store, disturbed):
                if rows is None:
                    raise RuntimeError(
                        f"{work.record.name}: a result vanished from {store.folder}; run it again"
                    )
                frames.append(pd.DataFrame([{**place, **row} for row in rows]))
    return pd.concat(frames, ignore_index=True)


def _compute(
    work: Agenda, jobs: Sequence[Job], store: Store, progress: bool, executor: Executor | None
) -> Disturbed:
    """Compute what of some jobs is missing, the timed ones last, here and alone."""
    model, spec = work.model, work.spec
    if executor is not None and spec is None:
        raise ValueError(
            f"a model that is open does not travel to workers; say how to open {model.name}: "
            "ModelSpec(name, weights), or ModelSpec('module:function') of a function that opens it"
        )
    with model.unchanged():
        missing = [part for job in jobs if (part := job.missing(model, store)) is not None]
    if missing:  # else nothing is written, and the store may be read-only
        store.prepare()
    total, disturbed = sum(map(len, jobs)), Disturbed()
    bar = tqdm(
        total=total,
        initial=total - sum(map(len, missing)),
        desc=work.record.name,
        unit="result",
        disable=not progress or not missing,
    )
    with bar:
        timed = [job for job in missing if job.timed]
        first = [job for job in missing if not job.timed and not job.waits]
        second = [job for job in missing if not job.timed and job.waits]
        here = [*first, *second, *timed]
        if executor is not None and spec is not None:
            here, whole = timed, expectation(model)
            for batch in (first, second):
                submit(executor, batch, spec, str(store.folder), whole, bar.update)
        for job in here:
            disturbed |= job.compute(model, store, bar.update)
    return disturbed


def _machine(model: Model) -> str:
    """Write what times were measured on, as a column."""
    facts = machine(model.device)
    return str(facts.get("gpu") or f"{facts['cpu']}, {facts['threads']} threads")


def table(name: str, frame: pd.DataFrame) -> str:
    """Format what a frame says for a terminal, under the name of an experiment or any other."""
    known = REGISTRY.get(name)
    lines = [f"{name}: {known.question} ({known.source})" if known else name]
    more = {title: make(frame) for title, make in (known.tables if known else {}).items()}
    for title, part in {"": tabulate(frame), **more}.items():
        text = [f"{title}:" if title else "", part.to_string(index=False), part.attrs.get(NOTE)]
        lines += filter(None, text)
    if "picture" in frame:
        kind = "95 % intervals" if "kind" in frame else "means"
        lines.append(f"n = {frame.picture.nunique()} pictures, {kind}")
    return "\n".join(lines)
