"""Rules that choose tokens."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from fastvar_lab.experiments.base import Experiment, Methods
from fastvar_lab.experiments.verdicts import Answer, Claim, above, label, quality
from fastvar_lab.measure.statistics import paired
from fastvar_lab.methods.prune import Prune
from fastvar_lab.methods.registry import selectors
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts


def methods(model: Model) -> Methods:
    """Choose tokens in other ways than by their distance to the mean."""
    base = Prune({-2: 0.5, -1: 0.75})
    return {name: replace(base, select=select) for name, select in selectors().items()}


def pts_keeps_what_matters(frame: pd.DataFrame) -> Answer:
    """PSNR of pivotal token selection over random tokens."""
    pictures = quality(frame, "psnr")
    pts, random = (
        label(pictures[pictures.selector == selector], f"that selects by {selector}")
        for selector in ("far from mean (PTS)", "random")
    )
    return above(paired(pictures, pts, random, "psnr"), " dB", "PTS over random")


EXPERIMENT = Experiment(
    question="Does the distance to the mean choose tokens better than other rules?",
    source="section 3.2; no table was printed",
    methods=methods,
    chart=charts.methods,
    claims=(Claim("PTS keeps what matters", "no table was printed", pts_keeps_what_matters),),
)
