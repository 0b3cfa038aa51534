"""Time and task scores of larger pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pandas as pd

from fastvar_lab.experiments.base import (
    Cell,
    Experiment,
    Question,
    has_random_weights,
    timed_cells,
)
from fastvar_lab.experiments.verdicts import Answer, Claim, label, verdict
from fastvar_lab.experiments.watching import total_ms, watched
from fastvar_lab.generation import generate
from fastvar_lab.measure.statistics import bootstrap_of
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.pictures import to_uint8
from fastvar_lab.plotting import charts
from fastvar_lab.plotting.charts import exponent, exponents
from fastvar_lab.scales import stretch
from fastvar_lab.speed import flops
from fastvar_lab.store import Rows

SIDES = (16, 24, 32, 48, 64)
SCORED = (32, 48)
LINEAR = 1.15  # greatest exponent that is called about linear


def cells(question: Question) -> list[list[Cell]]:
    """Return cells to time by side and method, and to score where the prompts have a judge.

    Random weights are timed alone.
    """
    sides = (*SIDES, 96) if question.scope.name == "paper" else SIDES
    repeats = 2 * question.scope.repeats
    schedules = {side: stretch(question.model.sizes, side, side) for side in sides}
    timed = [timed_cells(question, repeats, schedules[s], what="time", side=s) for s in sides]
    if question.prompts.judge is None or has_random_weights(question.model):
        return timed
    scored = [
        [
            Cell({"what": "zero-shot", "side": side}, items=items, first=first,
                 judge=question.prompts.judge)
            for side in SCORED
        ]
        for first, items in question.batches()
    ]  # fmt: skip
    return [*timed, *scored]


def resolution(model: Model, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Rows]]:
    """Time to a final map of so many tokens along a side; task scores of larger pictures.

    Timed schedules are stretched, so that all have as many steps; scored ones are the model's.
    """
    if cells[0].columns["what"] == "time":
        yield from _growth(model, cells)
        return
    for cell in cells:
        side = cell.columns["side"]
        sizes = model.sizes_to(side, side)
        generation = generate(model, cell.prompts, Dense(), seed=cell.seeds, sizes=sizes)
        yield (
            cell,
            [
                {"picture": cell.first + i, **item._asdict(), **cell.score(i, picture)}
                for i, (item, picture) in enumerate(
                    zip(cell.items, to_uint8(model.decode(generation.canvas)), strict=True)
                )
            ],
        )


def _growth(model: Model, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Rows]]:
    grids = model.grids(cells[0].sizes)
    for cell, pairs in watched(model, cells):
        assert cell.method is not None
        cost = flops.total(flops.step_flops(model, cell.method, grids, cell.text_tokens))
        yield (
            cell,
            [
                {
                    "turn": turn,
                    "ms": total_ms(watch),
                    "gflop": cost / 1e9,
                    "tokens": grids[-1].tokens,
                    "disturbed": pairs.speedup.disturbed,
                }
                for turn, watch in enumerate(pairs.fast)
            ],
        )


def cost_grows_linearly(frame: pd.DataFrame) -> Answer:
    """Exponents of time over tokens, pruned and full: over all sizes, and over the last two."""
    rows = frame[frame.what == "time"]
    label(rows[rows.family != "full"], "that prunes")  # the times of several are not one line
    n = int(rows.groupby(["method", "side"]).size().min())
    full, pruned = (_fit(rows[(rows.family == "full") == is_full]) for is_full in (True, False))
    text = (
        f"time over tokens of the final map: exponent {pruned['text']} pruned, n = {n}, to be at "
        f"most {LINEAR}; {full['text']} full; between the two largest maps "
        f"{pruned['end']:.2f} pruned, {full['end']:.2f} full"
    )
    yes = pruned["high"] <= LINEAR and pruned["high"] < full["low"]
    no = pruned["low"] > LINEAR or pruned["low"] >= full["high"]
    return Answer(text, verdict(yes, no, n))


def _fit(timed: pd.DataFrame) -> dict[str, Any]:
    ms = timed.groupby("tokens").ms
    tokens, turns = list(ms.groups), [turn.to_numpy() for _, turn in ms]
    (whole, end), (low, high) = exponents(timed), bootstrap_of(partial(_slope, tokens), turns)
    return {"text": f"{whole:.2f} ({low:.2f} to {high:.2f})", "end": end, "low": low, "high": high}


def _slope(tokens: Sequence[float], *ms: float) -> float:
    return exponent(tokens, ms)


EXPERIMENT = Experiment(
    question="How does time grow with the picture, and do larger pictures stay right?",
    source="FastVAR, section 4.3; supplement, Fig. A.5",
    cells=cells,
    work=resolution,
    chart=charts.scaling,
    claims=(Claim("Cost grows about linearly", "abstract, no exponent", cost_grows_linearly),),
    seed=23,
    version=4,
    slow=True,
    speed=True,
)
