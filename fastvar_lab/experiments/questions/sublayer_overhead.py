"""What selecting and restoring tokens adds to a sublayer."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fastvar_lab.experiments.base import Cell, Each, Experiment, Methods, Question
from fastvar_lab.experiments.verdicts import Answer, Claim, verdict
from fastvar_lab.frames import FASTVAR
from fastvar_lab.measure.statistics import bootstrap_of
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts
from fastvar_lab.speed.sublayers import PRUNED, sublayer_times
from fastvar_lab.store import Rows

NOTHING = 0.1  # share that is next to nothing below


def methods(model: Model) -> Methods:
    """Return the schedule under which sublayers are timed."""
    return {FASTVAR: PRUNED}


def cells(question: Question) -> list[list[Cell]]:
    """Return one timed cell."""
    repeats = 3 * question.scope.repeats
    return [[Cell({}, PRUNED, FASTVAR, (question.timed,), repeats=repeats)]]


def overhead(model: Model, cell: Cell) -> Rows:
    """Milliseconds of selection, restoration, attention and feed-forward of one call."""
    times = sublayer_times(model, cell.items[0].prompt, cell.repeats)
    names = ("pts_ms", "ctr_ms", "attention_ms_full", "ffn_ms_full")
    return [
        {"kind": name.split("_")[0], "turn": turn, "ms": ms}
        for name in names
        for turn, ms in enumerate(times[name])
    ]


def overhead_is_negligible(frame: pd.DataFrame) -> Answer:
    """Divide selection and restoration of one sublayer by its full attention."""

    def share(pts: float, ctr: float, attention: float) -> float:
        return (pts + ctr) / attention

    ms = [frame.ms[frame.kind == kind].to_numpy() for kind in ("pts", "ctr", "attention")]
    n, (low, high) = min(map(len, ms)), bootstrap_of(share, ms)
    text = (
        f"PTS and CTR take {share(*map(np.median, ms)):.1%} of attention "
        f"({low:.1%} to {high:.1%}, n = {n}, to be below {NOTHING:.0%})"
    )
    return Answer(text, verdict(high < NOTHING, low >= NOTHING, n))


EXPERIMENT = Experiment(
    question="What do selection and restoration add to a sublayer?",
    source="FastVAR, supplement, Fig. A.1",
    methods=methods,
    cells=cells,
    work=Each(overhead),
    chart=charts.overhead,
    claims=(
        Claim(
            "PTS and CTR cost next to nothing",
            "0.83 ms of 10.97 ms, 7.6 % (Fig. A.1)",
            overhead_is_negligible,
        ),
    ),
    version=3,
    speed=True,
)
