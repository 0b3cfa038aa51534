"""Each scale step pruned alone."""

from __future__ import annotations

import pandas as pd

from fastvar_lab.experiments.base import Experiment
from fastvar_lab.experiments.verdicts import Answer, Claim, above, quality
from fastvar_lab.measure.statistics import paired
from fastvar_lab.methods.prune import Prune
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts
from fastvar_lab.plotting.tables import pruned_shares
from fastvar_lab.seam import Method


def methods(model: Model) -> list[Method]:
    """Prune each of the last six scales alone at several ratios."""
    last = range(1, min(6, len(model.sizes) - 1) + 1)
    return [Prune({-back: ratio}) for back in last for ratio in (0.25, 0.5, 0.75, 1.0)]


def large_steps_are_robust(frame: pd.DataFrame) -> Answer:
    """PSNR of half of the last scale pruned over half of the smallest scale tried."""
    shares = pruned_shares(frame)
    half = [scale for scale in shares if (shares[scale].round(2) == 0.5).any()]
    if len(half) < 2:
        raise ValueError("no two scales are pruned by half")
    small, large = (shares.index[shares[scale].round(2) == 0.5][0] for scale in (half[0], half[-1]))
    gap = paired(quality(frame, "psnr"), large, small, "psnr")
    return above(gap, " dB", f"half of {half[-1]} pruned over half of {half[0]}")


EXPERIMENT = Experiment(
    question="Which scale steps can be pruned, and how much time does each save?",
    source="FastVAR, section 3.1, Figs 2 and 3",
    methods=methods,
    chart=charts.sensitivity,
    claims=(
        Claim(
            "Large steps are the robust ones",
            "HART: 48+64 at 50 % faster than 16+21 at 75 %, FID 5.71 lower (Table 4)",
            large_steps_are_robust,
        ),
    ),
    slow=True,
)
