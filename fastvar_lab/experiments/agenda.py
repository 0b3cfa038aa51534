"""What an experiment is to do: the jobs of its methods or cells, at each guidance scale."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

from fastvar_lab.errors import unknown
from fastvar_lab.experiments.base import (
    SCOPES,
    Cell,
    Experiment,
    Methods,
    Question,
    Scope,
)
from fastvar_lab.experiments.comparison import comparison, halves_and_wholes, with_full
from fastvar_lab.experiments.jobs import CellJob, GuidedJob, Job
from fastvar_lab.experiments.listing import LISTER
from fastvar_lab.experiments.questions import shipped
from fastvar_lab.measure import quality
from fastvar_lab.methods.columns import labelled
from fastvar_lab.models.model import Model
from fastvar_lab.models.spec import ModelSpec
from fastvar_lab.prompts import Item, PromptSet, as_prompts, seeded
from fastvar_lab.seam import Method

REGISTRY: dict[str, Experiment] = shipped()
"""Every experiment that ships here, by name."""

Compared = Methods | Sequence[Method] | Callable[[Model], Methods | Sequence[Method]]
"""Methods to compare: by label, without labels, or a function of the model, of each guidance."""


def find(name: str) -> Experiment:
    """Look an experiment up; raise ValueError naming the nearest ones."""
    if name not in REGISTRY:
        raise unknown("experiment", name, REGISTRY, LISTER)
    return REGISTRY[name]


class ScaleAgenda(NamedTuple):
    """An experiment's question at one guidance scale, None for the model's own, and its jobs."""

    question: Question
    scale: float | None
    jobs: list[Job]

    def add(self, jobs: Sequence[Job]) -> None:
        """Add jobs, to be done at the scale."""
        scale = self.scale
        self.jobs.extend(jobs if scale is None else [GuidedJob(job, scale) for job in jobs])


class Agenda(NamedTuple):
    """The jobs of an experiment at each guidance scale, and what they are run on."""

    record: Experiment
    model: Model
    spec: ModelSpec | None
    prompts: PromptSet
    scales: list[ScaleAgenda]
    metrics: quality.Chosen | None
    note: Callable[[str], object]

    @property
    def jobs(self) -> list[Job]:
        return [job for scale in self.scales for job in scale.jobs]


def agenda(
    experiment: str | Experiment,
    scope: str | Scope,
    model: Model | ModelSpec | None,
    methods: Compared | None,
    prompts: PromptSet | str | Sequence[str] | None,
    metrics: quality.Chosen | None,
    guidance: float | Sequence[float] | None,
    note: Callable[[str], object],
) -> Agenda:
    """Return the jobs of an experiment; the arguments are those of `run`, and are checked."""
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
    every = list[ScaleAgenda]()
    for scale in _guidances(record, guidance):
        sampled = opened if scale is None else opened.with_guidance(scale)
        compared = _compared(record, sampled, methods)
        lines = record.lines(sampled) if methods is None else {}
        question = Question(sampled, scope, prompts, compared, timed, lines)
        every.append(ScaleAgenda(question, scale, []))
        every[-1].add(jobs_of(record, question, metrics, note))
    return Agenda(record, opened, spec, prompts, every, metrics, note)


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


def jobs_of(
    record: Experiment,
    question: Question,
    metrics: quality.Chosen | None = None,
    note: Callable[[str], object] = print,
) -> list[Job]:
    """Return the jobs of an experiment: its cells, or pictures and times of its methods.

    `note` is told of each metric that is left out.
    """
    if record.cells is None:
        return comparing_jobs(record, question, metrics, note)
    if not record.name:
        raise ValueError("name the experiment: its cells are kept under its name")
    if metrics and not record.has_metrics:
        note(f"{record.name} measures no pictures by metrics: none is added")
    if record.narrow is None:
        return cell_jobs(record, question)
    return cell_jobs(record, question, lambda cell: cell.first < record.looked)


def cell_jobs(
    record: Experiment, question: Question, wanted: Callable[[Cell], bool] = lambda cell: True
) -> list[Job]:
    """Return the jobs of an experiment's cells, those that are `wanted`."""
    assert record.cells is not None
    assert record.work is not None
    every = (tuple(filter(wanted, cells)) for cells in record.cells(question))
    return [
        CellJob(record.name, record.version, record.work, cells, record.name)
        for cells in every
        if cells
    ]


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


def _scope(scope: str | Scope) -> Scope:
    if isinstance(scope, Scope):
        return scope
    if scope not in SCOPES:
        raise ValueError(f"scope must be one of {', '.join(SCOPES)}; not {scope!r}")
    return SCOPES[scope]
