"""Spectra of what every scale step adds."""

from __future__ import annotations

import pandas as pd

from fastvar_lab.experiments.base import Cell, Each, Experiment, Question
from fastvar_lab.experiments.verdicts import Answer, Claim, above, mean
from fastvar_lab.frames import FULL
from fastvar_lab.instruments.observe import observe
from fastvar_lab.measure.relations import convergence
from fastvar_lab.measure.scale_steps import energy, spectrum_frame
from fastvar_lab.measure.spectral_gap import gap_to_last
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts
from fastvar_lab.seam import Method
from fastvar_lab.store import Rows


def methods(model: Model) -> dict[str, Method]:
    """Return full generation alone."""
    return {FULL: Dense()}


def cells(question: Question) -> list[list[Cell]]:
    """Return a cell for each batch of prompts."""
    batches = question.batches()
    return [[Cell({"first": first}, items=items, first=first)] for first, items in batches]


def spectra(model: Model, cell: Cell) -> Rows:
    """Spectra of image and latent after every step, energy added, tokens settled."""
    _, trace = observe(model, cell.prompts, Dense(), seed=cell.seeds)
    out: Rows = []
    for what, frame in (
        ("spectrum", spectrum_frame(trace, model.decode).drop(columns="to_last")),
        ("energy", energy(trace, model.decode)),
        ("settled", convergence(trace, model.decode)),
    ):
        frame = frame.assign(picture=frame.picture + cell.first, what=what)
        out += frame.to_dict("records")
    return out


def late_steps_add_high_frequencies(frame: pd.DataFrame) -> Answer:
    """How much more of the spectrum is missing at high than at low frequencies, two steps early."""
    rows = frame[(frame.what == "spectrum") & (frame.domain == "image")]
    rows = rows.assign(to_last=gap_to_last(rows))
    steps = sorted(rows.step.unique())
    if len(steps) < 3:
        raise ValueError("the schedule has too few steps to look two back")
    rows = rows[rows.step == steps[-3]]
    edge = rows.frequency.quantile([0.25, 0.75])
    high = rows[rows.frequency >= edge[0.75]].groupby("picture").to_last.mean().abs()
    low = rows[rows.frequency <= edge[0.25]].groupby("picture").to_last.mean().abs()
    gap = mean((high - low).to_numpy())
    return above(gap, " in log10", "missing at high over low frequencies")


EXPERIMENT = Experiment(
    question="Which frequencies does each step add, and when do tokens settle?",
    source="FastVAR, Fig. 3b",
    methods=methods,
    cells=cells,
    work=Each(spectra),
    chart=charts.spectra,
    points=charts.spectra_points,
    claims=(
        Claim(
            "Late steps add high frequencies",
            "Fig. 3b, no number",
            late_steps_add_high_frequencies,
        ),
    ),
    seed=23,
)
