"""How well predicted times agree with measured ones, over many schedules."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd

from fastvar_lab.generation import generate
from fastvar_lab.methods.planned import Planned
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.planning import cost
from fastvar_lab.planning.planner import Planner
from fastvar_lab.seam import Method
from fastvar_lab.speed.timed import paired, turns

SIDES = (32, 64)
SCHEDULES, SEED = 20, 29  # other random schedules than those of the fit


def measured(planner: Planner, plan: Method, repeats: int = 5) -> tuple[list[float], list[float]]:
    """Measure full generation and a plan in turns; return milliseconds of one picture of both."""
    prompt = planner.calibration.items[0].prompt
    once = partial(
        generate, planner.model, prompt, seed=0, sizes=planner.sizes, sampling=planner.sampling
    )
    runs = turns(
        {"full": partial(once, Dense()), "fast": partial(once, plan)}, repeats,
        progress="measure" if planner.progress else None,
    )  # fmt: skip
    full, fast = ([1e3 * run.seconds for run in runs[name]] for name in ("full", "fast"))
    return full, fast


def predictions(
    model: Model,
    sides: Sequence[int] = SIDES,
    repeats: int = 5,
    plans: Sequence[Planned] = (),
    progress: bool = True,
) -> pd.DataFrame:
    """Predict and measure the time of schedules at several sizes of the last map.

    The schedules are `plans`, and random ones up to 20. Columns: `side`, `schedule` (its `repr`),
    `predicted_ms` and `measured_ms` of one picture, `error`, the relative error of the time, and
    `speedup_error`, that of the speedup over full generation. Measured times are medians of turns,
    in which full generation runs, too, and measured speedups medians of the ratios of single turns.
    Full generation has a row as `Dense()`.
    """
    rows = list[dict[str, object]]()
    for side in sides:
        sizes = model.sizes_to(side, side)
        grids, prompt = model.grids(sizes), model.example
        random = cost.random_schedules(model, grids, max(0, SCHEDULES - len(plans)), SEED)
        methods: list[Method] = [Dense(), *plans, *random]
        times = cost.measure(model, prompt, sizes, progress=progress)
        timed = turns(
            {repr(m): partial(generate, model, prompt, m, seed=0, sizes=sizes) for m in methods},
            repeats, progress=f"{side}x{side}" if progress else None,
        )  # fmt: skip
        text = len(prompt.split())
        predicted = np.array([cost.total(times, model, m, grids, text) for m in methods])
        seconds = [[run.seconds for run in timed[repr(method)]] for method in methods]
        measured = np.array([1e3 * statistics.median(turn) for turn in seconds])
        ratios = np.array([paired(seconds[0], turn).speedup.median for turn in seconds])
        speedups = predicted[0] / predicted, ratios
        for i, method in enumerate(methods):
            rows.append(
                {
                    "side": side,
                    "schedule": repr(method),
                    "predicted_ms": predicted[i],
                    "measured_ms": measured[i],
                    "error": predicted[i] / measured[i] - 1,
                    "speedup_error": speedups[0][i] / speedups[1][i] - 1,
                }
            )
    return pd.DataFrame(rows)


def table(frame: pd.DataFrame) -> str:
    """Write predicted beside measured times for a terminal, with the median errors.

    >>> row = {"side": 32, "schedule": "Dense()", "predicted_ms": 21.0, "measured_ms": 20.0}
    >>> print(table(pd.DataFrame([{**row, "error": 0.05, "speedup_error": 0.0}])))
    last map, predicted ms, measured ms, error
       32x32         21.0         20.0    5.0 %
    32x32: median error of 1 schedules 5.0 % of the time, 0.0 % of the speedup
    """
    lines = ["last map, predicted ms, measured ms, error"]
    for row in frame.itertuples():
        lines.append(
            f"{f'{row.side}x{row.side}':>8} {row.predicted_ms:12.1f} {row.measured_ms:12.1f} "
            f"{row.error:7.1%}".replace("%", " %")
        )
    for side, part in frame.groupby("side"):
        lines.append(
            f"{side}x{side}: median error of {len(part)} schedules "
            f"{100 * part.error.abs().median():.1f} % of the time, "
            f"{100 * part.speedup_error.abs().median():.1f} % of the speedup"
        )
    return "\n".join(lines)
