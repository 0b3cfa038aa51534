"""Planned schedules beside those that people write by hand, at equal time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd

from fastvar_lab.experiments.base import Cell, Experiment, Methods, Question
from fastvar_lab.experiments.questions import rivals
from fastvar_lab.experiments.resumed import bound, resumed
from fastvar_lab.experiments.verdicts import Answer, Claim, quality, verdict
from fastvar_lab.frames import FASTVAR, SKIPPING, by_guidance
from fastvar_lab.measure.frontier import (
    KEPT,
    SPEEDUPS,
    WHOLE,
    envelope,
    gains,
    gains_table,
    hand_curves,
)
from fastvar_lab.methods.columns import family, labelled
from fastvar_lab.models.model import Model
from fastvar_lab.planning.by_hand import by_hand
from fastvar_lab.planning.plans import frontier
from fastvar_lab.planning.trials import TuningLog
from fastvar_lab.plotting import charts
from fastvar_lab.scales import Sizes
from fastvar_lab.speed import flops

GUIDANCES = (2.0, 4.0)
NO_PLANS = "no schedules were planned for {}: plan some, and give them as methods"
LOOKED = 4  # prompts on which the whole grid is looked at
BARS = {
    (KEPT, (1.5, 2.0)): 3.0,
    (WHOLE, (1.5, 2.0)): 1.0,
    (KEPT, (3.0, 4.0)): 1.5,
    (WHOLE, (3.0, 4.0)): 0.5,
}  # dB that planned schedules must gain, by envelope and speedups
SCORE_LOST = 0.02
JUDGED = (1.4, 8.0)  # speedups in operations of schedules that are compared on all prompts
NEAR = 0.5  # dB that these may be below the grid's envelope


def methods(model: Model) -> Methods:
    """Return the schedules that were planned for a model; ValueError if there are none."""
    plans = frontier(model)
    if not plans:
        raise ValueError(NO_PLANS.format(model.name))
    return {f"planned {plan.speedup:g}x": plan.method for plan in plans}


def hand_methods(model: Model, sizes: Sizes | None = None) -> Methods:
    """Return the schedules by hand, by label, under the model's schedule of maps or `sizes`."""
    grids, guided = model.grids(sizes), model.transformer.guided(model.sampling)
    return labelled(by_hand(grids, model.depth, guided), grids, model.depth)


def bench(model: Model) -> Methods:
    """Return the tuned rivals of the bench that are as fast as the schedules that are judged.

    Empty for a model that nobody has tuned. FastVAR and skipping stand in the grid.
    """
    if not TuningLog.read().of(model):
        return {}
    grids, text = model.grids(), len(model.example.split())
    return {
        label: method
        for label, method in rivals.methods(model).items()
        if family(method) not in (FASTVAR, SKIPPING)
        and (
            not flops.exact(method, grids)  # its data decide how fast it is
            or JUDGED[0] <= bound(model, method, grids, text) <= JUDGED[1]
        )
    }


def cells(question: Question) -> list[list[Cell]]:
    """Return a cell for each schedule by hand and each of the first batches of prompts."""
    grid = hand_methods(question.model)
    return [
        [Cell({"kind": "grid"}, method, label, items, first) for label, method in grid.items()]
        for first, items in question.batches()
        if first < LOOKED
    ]


def near_envelope(question: Question, frame: pd.DataFrame) -> Methods:
    """Return planned schedules, the bench's, and those by hand that may be on an envelope.

    That is decided on the prompts that were looked at, at equal operations, and for the speedups
    that are judged: measured ones lie below those in operations.
    """
    grid = frame[frame.kind == "grid"]
    bounds, near = grid.groupby("method").speedup_flop_bound.first(), near_by_hand(grid)
    hand = {
        label: method
        for label, method in hand_methods(question.model).items()
        if label in near and JUDGED[0] <= bounds[label] <= JUDGED[1]
    }
    return {**question.methods, **bench(question.model), **hand}


def near_by_hand(frame: pd.DataFrame) -> set[str]:
    """Return the schedules by hand that are at most `NEAR` below an envelope of theirs.

    The rows of `frame` are pictures of each, with `speedup_flop_bound`: envelopes are those at
    equal operations.
    """
    values = frame.pivot_table(index="picture", columns="method", values="psnr")
    bounds = frame.groupby("method").speedup_flop_bound.mean()
    near, envelopes = set[str](), hand_curves(frame)
    for label in set().union(*(part for curves in envelopes.values() for part in curves)):
        sides = [curves for curves in envelopes.values() if any(label in part for part in curves)]
        best = [envelope(values, bounds, curves, bounds[label]) for curves in sides]
        below = [float((there - values[label]).mean()) for there in best if there is not None]
        if min(below) <= NEAR:
            near.add(label)
    return near


def beats(over: str, speedups: Sequence[float], least: float, frame: pd.DataFrame) -> Answer:
    """Judge gains in dB over an envelope: all of `least` or more, and their intervals above 0."""
    rows, text = _gains(frame, over, speedups, "psnr", "{:+.2f}", " dB")
    yes = (rows.difference >= least) & (rows.low > 0)
    n = rows.n.max()
    return Answer(
        f"{text}; n = {n}, all to be at least {least} with intervals above 0",
        verdict(bool(yes.all()), bool((rows.difference < least).any()), n),
    )


def keeps_scores(frame: pd.DataFrame) -> Answer:
    """Task score against the whole envelope at all speedups, by the intervals."""
    quality(frame, "right")
    rows, text = _gains(frame, WHOLE, SPEEDUPS, "right", "{:+.3f}")
    n = rows.n.max()
    return Answer(
        f"{text}; n = {n}, none to be below -{SCORE_LOST}",
        verdict(bool((rows.low >= -SCORE_LOST).all()), bool((rows.high < -SCORE_LOST).any()), n),
    )


def _gains(
    frame: pd.DataFrame,
    over: str,
    speedups: Sequence[float],
    value: str,
    digits: str,
    unit: str = "",
) -> tuple[pd.DataFrame, str]:
    """Return gains at all guidance scales, and write them.

    A speedup that one side does not reach has nan, and so supports no claim. Raises ValueError
    where none is reached.
    """
    parts = []
    for guidance, part in by_guidance(frame):
        rows = gains(part, speedups, value)
        rows = rows[rows.envelope == over]
        scale = f"guidance {guidance:g}, " if guidance else ""
        parts.append(rows.assign(place=[f"{scale}{at:g}x" for at in rows["at"]]))
    rows = pd.concat(parts)
    if rows.difference.isna().all():
        raise ValueError(f"not both sides are fast enough at {rows.place.iloc[0]}")
    numbers = f"{digits}{unit} ({digits} to {digits})"
    texts = [
        f"{row.place}: "
        + (numbers.format(row.difference, row.low, row.high) if row.n else "not reached by both")
        for row in rows.itertuples()
    ]
    return rows, "; ".join(texts)


EXPERIMENT = Experiment(
    question=(
        "Are planned schedules better at equal time than the envelope of those by hand: the best "
        "of a grid of last steps pruned, skipped or without null rows?"
    ),
    source="ours",
    methods=methods,
    cells=cells,
    work=resumed,
    then=near_envelope,
    chart=charts.budget,
    points=charts.budget_points,
    claims=(
        *(
            Claim(
                f"Planned schedules beat those by hand, {over}, at {names} times the speed",
                f"ours: at least {least} dB, at both guidance scales",
                partial(beats, over, speedups, least),
            )
            for (over, speedups), least in BARS.items()
            for names in [" and ".join(f"{s:g}" for s in speedups)]
        ),
        Claim(
            "Planned schedules keep the task score of those by hand",
            f"ours: not below by more than {SCORE_LOST}",
            keeps_scores,
        ),
    ),
    guidances=GUIDANCES,
    tables={"gains": gains_table},
    slow=True,
)
