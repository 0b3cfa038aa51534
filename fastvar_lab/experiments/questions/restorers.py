"""Rules that fill pruned places."""

from __future__ import annotations

from dataclasses import replace

from fastvar_lab.experiments.base import Experiment, Methods
from fastvar_lab.methods.prune import Prune
from fastvar_lab.methods.registry import restorers
from fastvar_lab.methods.select import FarFromMean, Random
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts


def methods(model: Model) -> Methods:
    """Fill pruned places in other ways than from the cache, for good and for random choices."""
    base = Prune({-2: 0.5, -1: 0.75})
    return {
        f"{name}, {choice}": replace(base, select=select, restore=restore)
        for choice, select in (("PTS", FarFromMean()), ("random", Random()))
        for name, restore in restorers().items()
    }


EXPERIMENT = Experiment(
    question="Does the cache restore pruned places better than other rules?",
    source="section 3.3; no table was printed",
    methods=methods,
    chart=charts.methods,
)
