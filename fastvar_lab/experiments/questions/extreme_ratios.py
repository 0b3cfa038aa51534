"""Whole scale steps skipped."""

from __future__ import annotations

import pandas as pd

from fastvar_lab.experiments.base import Experiment
from fastvar_lab.experiments.verdicts import Answer, Claim, above, label, quality
from fastvar_lab.measure.statistics import paired
from fastvar_lab.methods.prune import Prune
from fastvar_lab.methods.ratios import ScaleName
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts
from fastvar_lab.plotting.tables import pruned_shares
from fastvar_lab.seam import Method

SCHEDULES: tuple[dict[ScaleName, float], ...] = (
    {-1: 0.75},
    {-1: 1.0},
    {-2: 0.5, -1: 0.75},
    {-2: 0.5, -1: 1.0},
    {-2: 1.0, -1: 1.0},
    {-3: 0.5, -2: 1.0, -1: 1.0},
    {-4: 0.4, -3: 0.5, -2: 1.0, -1: 1.0},
    {-3: 1.0, -2: 1.0, -1: 1.0},
)


def methods(model: Model) -> list[Method]:
    """Skip more and more of the last scales (Table A.3)."""
    return [Prune(ratios) for ratios in SCHEDULES]


def whole_ratios_break_small_models(frame: pd.DataFrame) -> Answer:
    """Task score lost when the last step is skipped, its neighbour half pruned; or the last three.

    A tenth lost is what counts as broken; the verdict is that of the last step.
    """
    pictures, shares = quality(frame, "right"), pruned_shares(frame).round(2)
    full = label(pictures[pictures.family == "full"], "that prunes nothing")
    last, three = (
        above(
            paired(pictures, full, _that_prunes(shares, ends), "right"),
            "",
            f"task score lost by skipping {what}",
            0.1,
        )
        for ends, what in (
            ((0, 0.5, 1), "the last step, half of the one before pruned"),
            ((1, 1, 1), "the last three"),
        )
    )
    return Answer(f"{last.text}; {three.text}", last.verdict)


def _that_prunes(shares: pd.DataFrame, ends: tuple[float, ...]) -> str:
    """Return the label of the method whose last scales have these shares pruned, and no others."""
    wanted = [0.0] * (shares.shape[1] - len(ends)) + list(ends)
    labels = shares.index[(shares == wanted).all(axis=1)]
    if not len(labels):
        raise ValueError(f"no method prunes the shares {ends} of the last scales alone")
    return str(labels[0])


EXPERIMENT = Experiment(
    question="Can whole scale steps be skipped?",
    source="FastVAR, supplement, Table A.3",
    methods=methods,
    chart=charts.methods,
    claims=(
        Claim(
            "Skipping steps breaks small models",
            "HART destroyed, Infinity-2B fine (Table A.3)",
            whole_ratios_break_small_models,
        ),
    ),
)
