"""A planned schedule chosen for each picture, beside one for all, at equal mean operations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from fastvar_lab.experiments.base import Cell, Each, Experiment, Methods, Question
from fastvar_lab.experiments.questions.budget import GUIDANCES, NO_PLANS
from fastvar_lab.experiments.verdicts import Answer, Claim, quality, verdict
from fastvar_lab.frames import GUIDANCE
from fastvar_lab.instruments.observe import observe
from fastvar_lab.instruments.trace import Trace
from fastvar_lab.measure.scale_steps import radial_spectrum
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.planning.plans import frontier
from fastvar_lab.plotting import charts
from fastvar_lab.plotting.charts.choices import BY_PICTURE, FEATURES
from fastvar_lab.store import Rows
from fastvar_lab.tokens import wide

SPEEDUPS = (1.5, 2.0, 3.0)  # of the schedules that are chosen from


def methods(model: Model) -> Methods:
    """Return the schedules that are chosen from; ValueError if none were planned for a model."""
    plans = [p for p in frontier(model, cost="operations") if p.speedup in SPEEDUPS]
    if not plans:
        raise ValueError(NO_PLANS.format(model.name))
    return {f"planned {plan.speedup:g}x": plan.method for plan in plans}


def cells(question: Question) -> list[list[Cell]]:
    """Return a cell for each batch of prompts, with the last step that all methods leave whole."""
    grids = question.model.grids()
    whole = list(Dense().acts(grids))
    changed = [
        next((s for s, (a, b) in enumerate(zip(method.acts(grids), whole, strict=True)) if a != b),
             len(grids))
        for method in question.methods.values()
    ]  # fmt: skip
    step = max(min(changed) - 1, 0)
    return [
        [Cell({"kind": FEATURES, "step": step}, items=items, first=first)]
        for first, items in question.batches()
    ]


def features(model: Model, cell: Cell) -> Rows:
    """Measure, for each picture, what is known when the last whole step ends.

    `update`: the root mean square of what the step adds to the latent, over that of the latent.
    `fine`: how far the upper half of the latent's spectrum, up to what the step's map can hold,
    is above the lower half, in log10 of the amplitude. `uneven`: the standard deviation of the
    scores of pivotal token selection over their mean, as a mean over sublayers.
    """
    step = int(cell.columns["step"])
    _, trace = observe(model, cell.prompts, Dense(), seed=cell.seeds)
    after = wide(trace.canvases[step]).cpu()
    update = after if step == 0 else after - wide(trace.canvases[step - 1]).cpu()
    size = (update.square().mean((1, 2, 3)) / after.square().mean((1, 2, 3))).sqrt()
    highest = 0.5 * trace.grids[step].h / after.shape[-2]
    uneven = _unevenness(trace, step, len(cell.items))
    return [
        {
            "picture": cell.first + i,
            "update": float(size[i]),
            "fine": _fine(after[i].permute(1, 2, 0).numpy(), highest),
            "uneven": float(uneven[i]),
        }
        for i in range(len(cell.items))
    ]


def _fine(latent: np.ndarray, highest: float) -> float:
    """Return the mean log10 amplitude above half of a frequency over that below it."""
    frequency, amplitude = radial_spectrum(latent)
    within = frequency <= highest
    upper = within & (frequency > highest / 2)
    if not upper.any() or upper.sum() == within.sum():
        return 0.0  # a map of one cell has no spectrum
    return float(amplitude[upper].mean() - amplitude[within & ~upper].mean())


def _unevenness(trace: Trace, step: int, n: int) -> np.ndarray:
    """Return (n,) the relative spread of the scores of each picture's conditional row."""
    scores = [wide(values[:n]) for (s, _), values in trace.scores.items() if s == step]
    spread = [s.std(1, correction=0) / s.mean(1).clamp_min(1e-12) for s in scores]
    return torch.stack(spread).mean(0).cpu().numpy()


def compared(question: Question, frame: pd.DataFrame) -> Methods:
    """Return the schedules that are chosen from: they are compared on the same prompts."""
    return question.methods


def beats_one_for_all(frame: pd.DataFrame) -> Answer:
    """Judge the gain of the choice over the schedule for all, at every guidance scale."""
    quality(frame, "psnr")
    rows = charts.choice_points(frame)
    rows = rows[rows.rule == BY_PICTURE]
    text = "; ".join(
        f"{where}{row.difference:+.2f} dB ({row.low:+.2f} to {row.high:+.2f})"
        for row in rows.itertuples()
        for where in [f"guidance {getattr(row, GUIDANCE):g}: " if GUIDANCE in rows else ""]
    )
    n = int(rows.n.min())
    answer = verdict(bool((rows.low > 0).all()), bool((rows.high <= 0).any()), n)
    return Answer(f"{text}; n = {n}", answer)


EXPERIMENT = Experiment(
    question="Does a schedule planned for operations, chosen for each picture, beat one for all?",
    source="ours; SkipVAR and SparseVAR decide by picture and print no such control",
    methods=methods,
    cells=cells,
    work=Each(features),
    then=compared,
    chart=charts.choice,
    points=charts.choice_points,
    claims=(
        Claim(
            "Planned schedules chosen by picture beat one for all at equal mean operations",
            "ours: update, spectrum and scores of the last whole step tell enough",
            beats_one_for_all,
        ),
    ),
    guidances=GUIDANCES,
    timed=False,
)
