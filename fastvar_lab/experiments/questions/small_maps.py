"""Planned schedules of small maps, beside those by hand: what pruning saves at 256 px."""

from __future__ import annotations

from functools import partial

from fastvar_lab.experiments.base import Cell, Experiment, Methods, Question
from fastvar_lab.experiments.questions.budget import GUIDANCES, NO_PLANS
from fastvar_lab.experiments.questions.budget_transfer import opponents
from fastvar_lab.experiments.resumed import resumed
from fastvar_lab.measure.frontier import counted_gains_table
from fastvar_lab.models.model import Model
from fastvar_lab.planning.plans import frontier
from fastvar_lab.plotting import charts
from fastvar_lab.plotting.charts.budgets import SMALL
from fastvar_lab.scales import Sizes

SIDE = 16


def sizes(model: Model) -> Sizes:
    """Return a model's schedule of maps to 16x16, the largest map of VAR at 256 px."""
    return model.sizes_to(SIDE, SIDE)


def methods(model: Model) -> Methods:
    """Return the schedules that were planned for small maps; ValueError if there are none."""
    plans = frontier(model, cost="operations", sizes=sizes(model))
    if not plans:
        raise ValueError(NO_PLANS.format(f"{model.name} with maps to {SIDE}x{SIDE}"))
    return {f"planned {plan.speedup:g}x": plan.method for plan in plans}


def cells(question: Question) -> list[list[Cell]]:
    """Return a cell for each batch of prompts and method, planned or by hand."""
    model, judge = question.model, question.prompts.judge
    maps = sizes(model)
    every = {**question.methods, **opponents(model, SMALL, maps)}
    return [
        [
            Cell({}, method, label, items, first, judge, sizes=maps)
            for label, method in every.items()
        ]
        for first, items in question.batches()
    ]


EXPERIMENT = Experiment(
    question="What do planned schedules gain where the largest map has 16x16 tokens?",
    source="FastVAR, supplement, future work",
    methods=methods,
    cells=cells,
    work=resumed,
    chart=charts.small_maps,
    points=charts.small_maps_points,
    guidances=GUIDANCES,
    tables={"gains": partial(counted_gains_table, speedups=SMALL)},
    slow=True,
)
