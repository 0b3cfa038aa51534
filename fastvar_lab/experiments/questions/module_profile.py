"""Time of one layer's sublayers at every step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fastvar_lab.experiments.base import Cell, Experiment, Question, timed_cells
from fastvar_lab.experiments.watching import watched
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts
from fastvar_lab.store import Rows


def cells(question: Question) -> list[list[Cell]]:
    """Return a timed cell a method."""
    return [timed_cells(question, 3 * question.scope.repeats)]


def modules(model: Model, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Rows]]:
    """Milliseconds of one layer's sublayers at every step, turn by turn (paper, Fig. A.1)."""
    grids = model.grids()
    for cell, pairs in watched(model, cells, sublayers=True):
        yield (
            cell,
            [
                {
                    "turn": turn,
                    "step": step,
                    "size": grids[step].name,
                    "kind": kind,
                    "ms": ms / model.depth,
                    "disturbed": pairs.speedup.disturbed,
                }
                for turn, watch in enumerate(pairs.fast)
                for (step, kind), ms in watch.sublayer_ms().items()
            ],
        )


EXPERIMENT = Experiment(
    question="How much time do attention and feed-forward take in a layer, "
    "with and without pruning?",
    source="FastVAR, supplement, Fig. A.1",
    cells=cells,
    work=modules,
    chart=charts.modules,
    version=4,
    speed=True,
)
