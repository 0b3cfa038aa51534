"""Quality against speed over ratios of the last three scales."""

from __future__ import annotations

from itertools import product

from fastvar_lab.experiments.base import Experiment
from fastvar_lab.methods.prune import Prune
from fastvar_lab.methods.ratios import ScaleName
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts
from fastvar_lab.seam import Method


def methods(model: Model) -> list[Method]:
    """Spread ratios over a grid on the last three scales, later ones pruned at least as much."""
    levels = (0.0, 0.25, 0.5, 0.75, 1.0)
    schedules: list[dict[ScaleName, float]] = [
        {scale: ratio for scale, ratio in zip((-3, -2, -1), ratios) if ratio}
        for ratios in product(levels, repeat=3)
        if list(ratios) == sorted(ratios) and ratios[-1] > 0 and ratios[0] < 1
    ]
    return [Prune(ratios) for ratios in schedules]


EXPERIMENT = Experiment(
    question="What quality does each speedup cost, over ratios of the last three scales?",
    source="FastVAR, section 4.3, Table 4",
    methods=methods,
    chart=charts.tradeoff,
    slow=True,
)
