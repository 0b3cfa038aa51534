"""Each sublayer of each large scale step pruned alone: where planned schedules start from."""

from __future__ import annotations

from collections.abc import Mapping

from fastvar_lab.experiments.base import Cell, Experiment, Question
from fastvar_lab.experiments.resumed import resumed
from fastvar_lab.methods.planned import EIGHTHS
from fastvar_lab.models.model import Model
from fastvar_lab.planning.places import Tail, places_of, schedule
from fastvar_lab.plotting import charts
from fastvar_lab.seam import Method

LOOKED, PAPER = 4, 8  # prompts, and those of the scope "paper"
HALF = 4  # eighths of the tokens that are pruned


def methods(model: Model) -> Mapping[str, Method]:
    """Return none: the cells have a schedule each, which prunes half of one place."""
    return {}


def cells(question: Question) -> list[list[Cell]]:
    """Return a cell for each place and batch of prompts."""
    model, grids, quick = question.model, question.model.grids(), question.scope.name == "quick"
    most = PAPER if question.scope.name == "paper" else LOOKED
    return [
        [
            Cell(
                {
                    "step": place.step, "size": grids[place.step].name, "kind": place.kind,
                    "layer": place.layers.start, "pruned": HALF / EIGHTHS,
                },
                schedule([place], [str(HALF)], Tail(), grids, model.depth),
                items=items, first=first,
            )
            for place in places_of(model, grids, quick)
        ]
        for first, items in question.batches()
        if first < most
    ]  # fmt: skip


EXPERIMENT = Experiment(
    question="Which sublayers, at which scale step, can be pruned, and what does that save?",
    source="ours",
    methods=methods,
    cells=cells,
    work=resumed,
    chart=charts.sublayer_sensitivity,
    points=charts.sublayer_points,
    intervals=False,
    slow=True,
    version=2,
)
