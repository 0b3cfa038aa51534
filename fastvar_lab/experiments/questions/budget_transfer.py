"""Planned schedules where they were not planned: other prompts, a larger map, other guidance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import pandas as pd

from fastvar_lab.experiments.base import BATCH, Cell, Experiment, Methods, Question
from fastvar_lab.experiments.questions.budget import (
    GUIDANCES,
    NO_PLANS,
    hand_methods,
    near_by_hand,
)
from fastvar_lab.experiments.resumed import bound, resumed
from fastvar_lab.frames import PLANNED_AT
from fastvar_lab.models.model import Model
from fastvar_lab.planning.plans import frontier
from fastvar_lab.plotting import charts
from fastvar_lab.plotting.charts.budgets import TRANSFERRED
from fastvar_lab.prompts import ClosedWorld, Item
from fastvar_lab.scales import Sizes
from fastvar_lab.seam import Method

CLOSE = 0.06  # relative distance from these within which schedules by hand are compared
LARGER = 48
LOOKED = 8  # prompts for which all by hand are drawn; scopes but "paper" stop there
PLAIN = "solid"
SETTING = "setting"  # the column that says where schedules are judged


class Setting(NamedTuple):
    """Where schedules are judged: pictures of some prompts, at a size."""

    name: str
    items: tuple[Item, ...]
    sizes: Sizes | None = None


def methods(model: Model) -> Methods:
    """Return the schedules for operations at all guidance scales; ValueError if there are none."""
    planned = {label: method for label, (_, method) in planned_at(model).items()}
    if not planned:
        raise ValueError(NO_PLANS.format(model.name))
    return planned


def planned_at(model: Model) -> dict[str, tuple[float, Method]]:
    """Return by label the guidance scale at which a schedule was planned, and the schedule."""
    return {
        f"planned {point.speedup:g}x at guidance {scale:g}": (scale, point.method)
        for scale in GUIDANCES
        for point in frontier(model, scale, "operations")
        if min(TRANSFERRED) * 0.8 <= point.speedup <= max(TRANSFERRED) * 1.25
    }


def opponents(model: Model, speedups: Sequence[float], sizes: Sizes | None = None) -> Methods:
    """Return the schedules by hand that cost about as much as the speeds compared at."""
    grids, text = model.grids(sizes), len(model.example.split())
    return {
        label: method
        for label, method in hand_methods(model, sizes).items()
        for speed in [bound(model, method, grids, text)]
        if any(abs(speed / at - 1) <= CLOSE for at in speedups)
    }


def settings(question: Question) -> Iterator[Setting]:
    """Yield where schedules are judged: held-out prompts, a larger map, textures and dots."""
    model, n = question.model, question.scope.prompts
    n = n if question.scope.name == "paper" else min(n, LOOKED)
    items = question.prompts.take(n)
    yield Setting("held-out prompts", items)
    if model.extends:
        yield Setting(f"{LARGER}x{LARGER}", items, model.sizes_to(LARGER, LARGER))
    if isinstance(question.prompts, ClosedWorld):
        textured = replace(question.prompts, tasks=("texture",)).take(4 * n)
        patterned = [item for item in textured if PLAIN not in item.prompt]
        yield Setting("textures and dots", tuple(patterned[:n]))


def cells(question: Question) -> list[list[Cell]]:
    """Return a cell for each setting, batch of prompts and method, planned or by hand."""
    every = {**question.methods, **opponents(question.model, TRANSFERRED)}
    planned = planned_at(question.model)
    scales = {label: {PLANNED_AT: planned[label][0]} for label in every if label in planned}
    return [
        [
            Cell({SETTING: place.name, **scales.get(label, {})}, method, label,
                 place.items[i : i + BATCH], i, question.prompts.judge, sizes=place.sizes)
            for label, method in every.items()
        ]
        for place in settings(question)
        for i in range(0, len(place.items), BATCH)
    ]  # fmt: skip


def narrow(question: Question, frame: pd.DataFrame) -> Callable[[Cell], bool]:
    """Keep planned schedules and, in each setting, those by hand that may be on an envelope."""
    near = {name: near_by_hand(rows) for name, rows in frame.groupby(SETTING)}

    def wanted(cell: Cell) -> bool:
        return cell.label in question.methods or cell.label in near[cell.columns[SETTING]]

    return wanted


EXPERIMENT = Experiment(
    question="Do schedules planned for operations hold on other prompts, maps and guidance scales?",
    source="ours",
    methods=methods,
    cells=cells,
    work=resumed,
    narrow=narrow,
    looked=LOOKED,
    chart=charts.transfer,
    points=charts.transfer_points,
    guidances=GUIDANCES,
    slow=True,
)
