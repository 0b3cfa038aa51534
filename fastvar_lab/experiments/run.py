"""Run experiments: known results are read, missing ones computed, here or elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor

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
from fastvar_lab.experiments.jobs import CellJob, Disturbed, Job
from fastvar_lab.experiments.questions import shipped
from fastvar_lab.experiments.workers import ModelSpec, expectation, submit
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
    methods: Methods | Sequence[Method] | None = None,
    prompts: PromptSet | str | Sequence[str] | None = None,
    metrics: quality.Chosen | None = None,
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

    Known results are read; missing ones are computed here, or through any
    `concurrent.futures.Executor`, and kept one by one, so that a stopped run goes on where it was.
    A new metric draws no picture again. Timed results are measured here, alone, when all others
    are there.

    >>> frame = run("latency_by_scale", "quick", progress=False)
    >>> sorted(frame.method.unique())
    ['FastVAR', 'full']
    """
    record = find(experiment) if isinstance(experiment, str) else experiment
    scope = _scope(scope)
    spec = model.resolved() if isinstance(model, ModelSpec) else None
    spec = ModelSpec() if model is None else spec
    opened = spec.open() if spec is not None else model
    assert isinstance(opened, Model)
    if executor is not None and spec is None:
        raise ValueError(
            f"a model that is open does not travel to workers; say how to open {opened.name}: "
            "ModelSpec(name, weights), or ModelSpec('module:function') of a function that opens it"
        )
    if prompts is None:
        timed = Item(opened.example, 0)
        prompts = seeded(opened.prompts, record.seed)
    else:
        prompts = as_prompts(prompts)
        timed = prompts.take(1)[0]
        for item in prompts.take(scope.prompts):
            opened.check(item.prompt)
    compared = record.labelled(opened) if methods is None else labelled(
        methods, opened.grids(), opened.depth
    )  # fmt: skip
    compared = compared if methods is None else with_full(compared, opened)
    question = Question(opened, scope, prompts, compared, timed)
    jobs = jobs_of(record, question, metrics, note)
    frame = _measured(record, question, jobs, store or Store(), progress, executor, spec)
    front = {"model": opened.name, "weights": opened.fingerprint}
    if "prompt" in frame:
        front["prompts"] = prompts.name
    return frame.assign(**front)[[*front, *frame.columns]]


def compare(
    model: Model | ModelSpec,
    methods: Methods | Sequence[Method],
    scope: str | Scope = "default",
    *,
    prompts: PromptSet | str | Sequence[str] | None = None,
    metrics: quality.Chosen | None = None,
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
    compared = with_full(question.methods, question.model)
    if record.slow and question.scope.name == "quick":
        compared = halves_and_wholes(compared)
    named = quality.as_metrics([*record.metrics, *quality.as_metrics(metrics or ())])
    chosen = quality.chosen(named)
    judge = question.prompts.judge
    chosen = chosen if judge is None else (quality.score(judge), *chosen)
    chosen = _fitting(chosen, {metric.name for metric in named}, question.model, note)
    question = Question(question.model, question.scope, question.prompts, compared, question.timed)
    return comparison(question, chosen, record.name)


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


def _measured(
    record: Experiment,
    question: Question,
    jobs: Sequence[Job],
    store: Store,
    progress: bool,
    executor: Executor | None,
    spec: ModelSpec | None,
) -> pd.DataFrame:
    """Read what is known, compute what is missing, and join it; timed jobs here, when alone."""
    model = question.model
    missing = [part for job in jobs if (part := job.missing(model, store)) is not None]
    if missing:  # else nothing is written, and the store may be read-only
        store.prepare()
    total, disturbed = sum(map(len, jobs)), Disturbed()
    bar = tqdm(
        total=total,
        initial=total - sum(map(len, missing)),
        desc=record.name,
        unit="result",
        disable=not progress or not missing,
    )
    with bar:
        here = missing
        if executor is not None and spec is not None:
            here = [job for job in missing if job.timed]
            given = [job for job in missing if not job.timed]
            submit(executor, given, spec, str(store.folder), expectation(model), bar.update)
        for job in here:
            disturbed |= job.compute(model, store)
            bar.update(len(job))
    frames = []
    for job in jobs:
        place = {"machine": _machine(model)} if job.timed else {}
        for rows in job.rows(model, store, disturbed):
            if rows is None:
                raise RuntimeError(
                    f"{record.name}: a result vanished from {store.folder}; run it again"
                )
            frames.append(pd.DataFrame([{**place, **row} for row in rows]))
    return pd.concat(frames, ignore_index=True)


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
    if "picture" in frame:
        kind = "95 % intervals" if "kind" in frame else "means"
        lines.append(f"n = {frame.picture.nunique()} pictures, {kind}")
    return "\n".join(lines)
