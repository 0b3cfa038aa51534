"""The preset beside full generation."""

from __future__ import annotations

from fastvar_lab.experiments.base import Experiment
from fastvar_lab.plotting import charts

EXPERIMENT = Experiment(
    question="What does the preset change in a picture?",
    source="FastVAR, supplement, Figs A.3 and A.4",
    chart=charts.methods,
)
