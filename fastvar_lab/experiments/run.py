"""Run experiments: known results are read, missing ones computed, here or elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import NamedTuple

import pandas as pd
from tqdm.auto import tqdm

from fastvar_lab.errors import unknown
from fastvar_lab.experiments.base import (
    SCOPES,
    Experiment,
    Methods,
    Question,
    Scope,
)
from fastvar_lab.experiments.comparison import comparison, halves_and_wholes, with_full
from fastvar_lab.experiments.jobs import CellJob, Disturbed, GuidedJob, Job
from fastvar_lab.experiments.questions import shipped
from fastvar_lab.experiments.workers import ModelSpec, expectation, submit
from fastvar_lab.frames import LINE
from fastvar_lab.measure import quality
from fastvar_lab.methods.columns import labelled
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts
from fastvar_lab.plotting.tables import tabulate
from fastvar_lab.prompts import Item, PromptSet, as_prompts, seeded
from fastvar_lab.provenance import machine
from fastvar_lab.seam import Method
from fastvar_lab.store import Store

REGISTRY: dict[str, Experiment] = shipped()
"""Every experiment that ships here, by name."""

Compared = Methods | Sequence[Method] | Callable[[Model], Methods | Sequence[Method]]
"""Methods to compare: by label, without labels, or a function of the model, of each guidance."""


def find(name: str) -> Experiment:
    """Look an experiment up; raise ValueError naming the nearest ones."""
    if name not in REGISTRY:
        raise unknown("experiment", name, REGISTRY)
    return REGISTRY[name]


def run(
    experiment: str | Experiment,
    scope: str | Scope = "default",
    *,
    model: Model | ModelSpec | None = None,
    methods: Compared | None = None,
    prompts: PromptSet | str | Sequence[str] | None = None,
    metrics: quality.Chosen | None = None,
    guidance: float | Sequence[float] | None = None,
    store: Store | None = None,
    executor: Executor | None = None,
    progress: bool = True,
    note: Callable[[str], object] = print,
) -> pd.DataFrame:
    """Run an experiment, by name or a record of your own; return its tidy frame.

    `scope` says how much: "quick", "default", "paper", or a `Scope` of your own. `model` is an open
    one, or says how to open it, which an executor needs; default is the embedded model. `methods`
    and `prompts` stand for the experiment's and the model's own; `metrics` are computed beside the
    usual ones: names, or functions of your own by name. Usual ones that the model's pictures are
    too small for are left out, and `note` is told so; one that is asked for raises ValueError.
    `guidance` is a scale, or several, to sample with: the frame then has the column `guidance`.

    Known results are read; missing ones are computed here, or through any
    `concurrent.futures.Executor`, and kept one by one, so that a stopped run goes on where it was.
    A new metric draws no picture again. Timed results are measured here, alone, when all others
    are there.

    >>> frame = run("latency_by_scale", "quick", progress=False)
    >>> sorted(frame.method.unique())
    ['FastVAR', 'full']
    """
    plan = _plan(experiment, scope, model, methods, prompts, metrics, guidance, note)
    store = store or Store()
    _follow(plan, store, progress, executor)
    frame = _measured(plan, store, progress, executor)
    lines = {label: line for asked in plan.asked for label, line in asked.question.lines.items()}
    if lines:
        frame = frame.assign(**{LINE: [lines.get(label, label) for label in frame.method]})
    front = {"model": plan.model.name, "weights": plan.model.fingerprint}
    if "prompt" in frame:
        front["prompts"] = plan.prompts.name
    return frame.assign(**front)[[*front, *frame.columns]]


def run_untimed(
    experiment: str | Experiment,
    scope: str | Scope = "default",
    *,
    model: Model | ModelSpec | None = None,
    methods: Compared | None = None,
    prompts: PromptSet | str | Sequence[str] | None = None,
    metrics: quality.Chosen | None = None,
    guidance: float | Sequence[float] | None = None,
    store: Store | None = None,
    executor: Executor | None = None,
    progress: bool = True,
    note: Callable[[str], object] = print,
) -> int:
    """Compute and keep what of an experiment is not timed; return how many timed results lack.

    A `run` of the same then times these alone, such as on a machine that has become quiet.
    """
    plan = _plan(experiment, scope, model, methods, prompts, metrics, guidance, note)
    store = store or Store()
    _follow(plan, store, progress, executor)
    _compute(plan, [job for job in plan.jobs if not job.timed], store, progress, executor)
    timed = [job.missing(plan.model, store) for job in plan.jobs if job.timed]
    return sum(len(job) for job in timed if job is not None)


class Asked(NamedTuple):
    """An experiment's question at one guidance scale, None for the model's own, and its jobs."""

    question: Question
    scale: float | None
    jobs: list[Job]

    def add(self, jobs: Sequence[Job]) -> None:
        """Add jobs, to be done at the scale."""
        scale = self.scale
        self.jobs.extend(jobs if scale is None else [GuidedJob(job, scale) for job in jobs])


class Plan(NamedTuple):
    """The jobs of an experiment at each guidance scale, and what they are run on."""

    record: Experiment
    model: Model
    spec: ModelSpec | None
    prompts: PromptSet
    asked: list[Asked]
    metrics: quality.Chosen | None
    note: Callable[[str], object]

    @property
    def jobs(self) -> list[Job]:
        return [job for asked in self.asked for job in asked.jobs]


def _plan(
    experiment: str | Experiment,
    scope: str | Scope,
    model: Model | ModelSpec | None,
    methods: Compared | None,
    prompts: PromptSet | str | Sequence[str] | None,
    metrics: quality.Chosen | None,
    guidance: float | Sequence[float] | None,
    note: Callable[[str], object],
) -> Plan:
    """Check what `run` takes, and return its jobs."""
    record = find(experiment) if isinstance(experiment, str) else experiment
    scope = _scope(scope)
    spec = model.resolved() if isinstance(model, ModelSpec) else None
    spec = ModelSpec() if model is None else spec
    opened = spec.open() if spec is not None else model
    assert isinstance(opened, Model)
    if prompts is None:
        timed = Item(opened.example, 0)
        prompts = seeded(opened.prompts, record.seed)
    else:
        prompts = as_prompts(prompts)
        timed = prompts.take(1)[0]
        for item in prompts.take(scope.prompts):
            opened.check(item.prompt)
    every = list[Asked]()
    for scale in _guidances(record, guidance):
        sampled = opened if scale is None else opened.with_guidance(scale)
        compared = _compared(record, sampled, methods)
        lines = record.lines(sampled) if methods is None else {}
        question = Question(sampled, scope, prompts, compared, timed, lines)
        every.append(Asked(question, scale, []))
        every[-1].add(jobs_of(record, question, metrics, note))
    return Plan(record, opened, spec, prompts, every, metrics, note)


def _compared(record: Experiment, model: Model, methods: Compared | None) -> Methods:
    """Return the methods to compare by label: an experiment's, or those that are given."""
    if methods is None:
        return record.labelled(model)
    given = methods(model) if callable(methods) else methods
    return with_full(labelled(given, model.grids(), model.depth), model)


def _guidances(
    record: Experiment, guidance: float | Sequence[float] | None
) -> tuple[float | None, ...]:
    """Return the guidance scales that an experiment is asked at; None is the model's own."""
    if guidance is None:
        return record.guidances or (None,)
    scales = (guidance,) if isinstance(guidance, int | float) else tuple(guidance)
    if not scales or len(set(scales)) < len(scales):
        raise ValueError(f"guidance is one scale, or several different ones; not {guidance!r}")
    return tuple(map(float, scales))


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


def jobs_of(
    record: Experiment,
    question: Question,
    metrics: quality.Chosen | None = None,
    note: Callable[[str], object] = print,
) -> list[Job]:
    """Return the jobs of an experiment: its cells, or pictures and times of its methods.

    `note` is told of each metric that is left out.
    """
    if record.cells is not None:
        assert record.work is not None
        name = record.name
        if not name:
            raise ValueError("name the experiment: its cells are kept under its name")
        return [
            CellJob(name, record.version, record.work, tuple(cells), name)
            for cells in record.cells(question)
        ]
    return comparing_jobs(record, question, metrics, note)


def comparing_jobs(
    record: Experiment,
    question: Question,
    metrics: quality.Chosen | None = None,
    note: Callable[[str], object] = print,
) -> list[Job]:
    """Return the jobs that compare a question's methods with full generation."""
    compared = with_full(question.methods, question.model)
    if record.slow and question.scope.name == "quick":
        compared = dict((record.quick or halves_and_wholes)(compared))
    lines = question.lines
    if lines and question.scope.name == "quick":  # a quick look takes the last setting of each
        last = {line: label for label, line in lines.items()}.values()
        compared = {k: m for k, m in compared.items() if k not in lines or k in last}
    extra = record.metrics(question.model) if callable(record.metrics) else record.metrics
    named = quality.as_metrics([*extra, *quality.as_metrics(metrics or ())])
    chosen = quality.chosen(named)
    judge = question.prompts.judge
    chosen = chosen if judge is None else (quality.score(judge), *chosen)
    chosen = _fitting(chosen, {metric.name for metric in named}, question.model, note)
    question = replace(question, methods=compared)
    jobs = comparison(question, chosen, record.name, record.timed)
    return [*jobs, *record.beside(question, record.name)] if record.beside else jobs


def _fitting(
    metrics: tuple[quality.Metric, ...],
    named: Collection[str],
    model: Model,
    note: Callable[[str], object],
) -> tuple[quality.Metric, ...]:
    """Return the metrics that the pictures of a model will be large enough for."""
    stride = getattr(getattr(model.tokenizer, "config", None), "stride", None)
    if stride is None:  # only the decoder knows the size
        return metrics
    last, side = model.grids()[-1], model.quantizer.patch * stride
    return quality.fitting(metrics, named, last.h * side, last.w * side, note)


def _measured(plan: Plan, store: Store, progress: bool, executor: Executor | None) -> pd.DataFrame:
    """Read what is known, compute what is missing, and join it."""
    return _read(plan, plan.jobs, store, _compute(plan, plan.jobs, store, progress, executor))


def _follow(plan: Plan, store: Store, progress: bool, executor: Executor | None) -> None:
    """Add the jobs of methods that follow from the results of the first jobs, computing these."""
    then = plan.record.then
    if then is None:
        return
    _compute(plan, [job for job in plan.jobs if not job.timed], store, progress, executor)
    for asked in plan.asked:
        methods = then(asked.question, _read(plan, asked.jobs, store, {}))
        question = replace(asked.question, methods=methods)
        asked.add(comparing_jobs(plan.record, question, plan.metrics, plan.note))


def _read(plan: Plan, jobs: Sequence[Job], store: Store, disturbed: Disturbed) -> pd.DataFrame:
    """Join the results of jobs; raise RuntimeError for one that is not there."""
    model, frames = plan.model, []
    for job in jobs:
        place = {"machine": _machine(model)} if job.timed else {}
        for rows in job.rows(model, store, disturbed):
            if rows is None:
                raise RuntimeError(
                    f"{plan.record.name}: a result vanished from {store.folder}; run it again"
                )
            frames.append(pd.DataFrame([{**place, **row} for row in rows]))
    return pd.concat(frames, ignore_index=True)


def _compute(
    plan: Plan, jobs: Sequence[Job], store: Store, progress: bool, executor: Executor | None
) -> Disturbed:
    """Compute what of some jobs is missing, the timed ones last, here and alone."""
    model, spec = plan.model, plan.spec
    if executor is not None and spec is None:
        raise ValueError(
            f"a model that is open does not travel to workers; say how to open {model.name}: "
            "ModelSpec(name, weights), or ModelSpec('module:function') of a function that opens it"
        )
    missing = [part for job in jobs if (part := job.missing(model, store)) is not None]
    if missing:  # else nothing is written, and the store may be read-only
        store.prepare()
    total, disturbed = sum(map(len, jobs)), Disturbed()
    bar = tqdm(
        total=total,
        initial=total - sum(map(len, missing)),
        desc=plan.record.name,
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
            for given in (first, second):
                submit(executor, given, spec, str(store.folder), whole, bar.update)
        for job in here:
            disturbed |= job.compute(model, store)
            bar.update(len(job))
    return disturbed


def _machine(model: Model) -> str:
    """Write what times were measured on, as a column."""
    facts = machine(model.device)
    return str(facts.get("gpu") or f"{facts['cpu']}, {facts['threads']} threads")


def _scope(scope: str | Scope) -> Scope:
    if isinstance(scope, Scope):
        return scope
    if scope not in SCOPES:
        raise ValueError(f"scope must be one of {', '.join(SCOPES)}; not {scope!r}")
    return SCOPES[scope]


def table(name: str, frame: pd.DataFrame) -> str:
    """Format what a frame says for a terminal, under the name of an experiment or any other."""
    known = REGISTRY.get(name)
    lines = [f"{name}: {known.question} ({known.source})" if known else name]
    lines.append(tabulate(frame).to_string(index=False))
    for title, make in (known.tables if known else {}).items():
        lines += [f"{title}:", make(frame).to_string(index=False)]
    if "picture" in frame:
        kind = "95 % intervals" if "kind" in frame else "means"
        lines.append(f"n = {frame.picture.nunique()} pictures, {kind}")
    return "\n".join(lines)
