"""Time of every scale step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from fastvar_lab.experiments.base import Cell, Experiment, Question, timed_cells
from fastvar_lab.experiments.verdicts import Answer, Claim, above, median
from fastvar_lab.experiments.watching import watched
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts
from fastvar_lab.speed import flops
from fastvar_lab.store import Rows


def cells(question: Question) -> list[list[Cell]]:
    """Return a timed cell a method."""
    return [timed_cells(question, 3 * question.scope.repeats)]


def latency(model: Model, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Rows]]:
    """Milliseconds, counted operations and tokens of every scale step, turn by turn."""
    grids = model.grids()
    for cell, pairs in watched(model, cells):
        assert cell.method is not None
        costs = flops.step_flops(model, cell.method, grids, text_tokens=cell.text_tokens)
        tokens = flops.forwarded(model, cell.method, grids)
        clocks = [watch.step_ms() for watch in pairs.fast]
        yield (
            cell,
            [
                {
                    "turn": turn,
                    "step": g.index,
                    "size": g.name,
                    "ms": ms[g.index],
                    "share": ms[g.index] / sum(ms.values()),
                    "gflop": sum(costs[g.index].values()) / 1e9,
                    "tokens": tokens[g.index],
                    "disturbed": pairs.speedup.disturbed,
                }
                for turn, ms in enumerate(clocks)
                for g in grids
            ],
        )


def late_steps_take_the_time(frame: pd.DataFrame) -> Answer:
    """Share of the last two steps in a full generation's time, turn by turn."""
    rows = frame[(frame.family == "full") & (frame.step >= frame.step.max() - 1)]
    shares = rows.groupby("turn").share.sum().to_numpy()
    return above(median(shares), "", "share of the last two steps", 0.5, sign="")


EXPERIMENT = Experiment(
    question="Which scale steps take the time?",
    source="FastVAR, Fig. 2",
    cells=cells,
    work=latency,
    chart=charts.latency,
    claims=(
        Claim(
            "Large steps dominate the time",
            "last two steps 60 % (Fig. 2a, digitised)",
            late_steps_take_the_time,
        ),
    ),
    version=4,
    speed=True,
)
