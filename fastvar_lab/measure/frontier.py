"""Fronts of quality over speed, and what methods of one curve, or of several, reach at a speed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

import numpy as np
import pandas as pd

from fastvar_lab.frames import BY_HAND, FULL, GUIDANCE, NOTE, ROWS, by_guidance, check_one_place
from fastvar_lab.measure.speedup import undisturbed
from fastvar_lab.measure.statistics import bootstrap

SPEEDUPS = (1.5, 2.0, 3.0, 4.0)
"""The speedups at which planned schedules are judged."""


def front(points: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Keep the points that no other beats in both columns, by rising x."""
    ranked = points.sort_values([x, y], ascending=[False, False])
    best = ranked[y].cummax()
    return ranked[(ranked[y] >= best) & ~ranked[y].duplicated()].sort_values(x)


def reached(values: pd.DataFrame, speedups: pd.Series, speedup: float) -> pd.Series | None:
    """Return what methods reach at a speedup, picture by picture; None if none is so fast.

    `values` (pictures, methods) are qualities, `speedups` those of the methods. The front of their
    means is interpolated between its two nearest methods, linearly in time: what one gets who uses
    either in such shares that the mean time is the wanted one. Where even the slowest method is
    faster than wanted, it is taken as it is.

    >>> values = pd.DataFrame({"slow": [40.0, 42.0], "fast": [30.0, 34.0], "bad": [20.0, 20.0]})
    >>> speedups = pd.Series({"slow": 1.0, "fast": 2.0, "bad": 1.5})
    >>> reached(values, speedups, 4 / 3).tolist()
    [35.0, 38.0]
    """
    mixed = mixture(values.mean().to_numpy(), speedups[values.columns].to_numpy(), speedup)
    if mixed is None:
        return None
    left, right, share = mixed
    if share == 1:  # what the left one lacks does not count
        return values.iloc[:, right]
    return (1 - share) * values.iloc[:, left] + share * values.iloc[:, right]


Curves = Iterable[Collection[str]]
"""Methods that lie on one curve of quality over speed; see `curves`."""


def envelope(
    values: pd.DataFrame, speedups: pd.Series, methods: Curves, speedup: float
) -> pd.Series | None:
    """Return what the curve reaches that is the best at a speedup; None if none is so fast.

    Each curve is interpolated on its own, see `reached`, so that one more never lowers the
    envelope. Methods whose speedup or quality is not known stay out.

    >>> values = pd.DataFrame({"slow": [40.0], "fast": [30.0], "other": [34.0]})
    >>> speedups = pd.Series({"slow": 1.0, "fast": 2.0, "other": 4 / 3})
    >>> [envelope(values, speedups, curves, 4 / 3).item() for curves in
    ...  ([["slow", "fast"]], [["slow", "fast"], ["other"]], [["slow", "fast", "other"]])]
    [35.0, 35.0, 34.0]
    """
    best: pd.Series | None = None
    for curve in methods:
        known = [m for m in values if m in curve and m in speedups.index]
        there = reached(values[known], speedups, speedup) if known else None
        if there is not None and (best is None or there.mean() > best.mean()):
            best = there
    return best


def mixture(
    means: np.ndarray, speedups: np.ndarray, speedup: float
) -> tuple[int, int, float] | None:
    """Return the two methods whose mixture reaches a speedup, and the share of the second.

    `means` and `speedups` are those of methods; see `reached`. Methods without one stay out.

    >>> mixture(np.array([41.0, 32.0]), np.array([1.0, 2.0]), 4 / 3)
    (0, 1, 0.5)
    """
    order = np.lexsort((-means, -speedups))
    best = list[int]()  # from the fastest on, each better than all before it
    for place in order[~np.isnan(means[order] + speedups[order])]:
        if not best or means[place] > means[best[-1]]:
            best.append(int(place))
    faster = [place for place in best if speedups[place] >= speedup]
    if not faster:
        return None
    right, slower = faster[-1], best[len(faster) :]
    if not slower:
        return right, right, 1.0
    left = slower[0]
    times = 1 / speedups[left], 1 / speedup, 1 / speedups[right]
    return left, right, float((times[0] - times[1]) / (times[0] - times[2]))


ENVELOPES = KEPT, WHOLE = "null rows kept", "whole grid"
"""The envelopes of schedules by hand: of those that run null rows at all steps, and of all."""


def gains(
    frame: pd.DataFrame,
    speedups: Sequence[float] = SPEEDUPS,
    value: str = "psnr",
    speed: str = "speedup",
) -> pd.DataFrame:
    """Return what planned schedules gain over the envelopes of those by hand, at equal speed.

    `frame` compares them at one guidance scale; of its columns, `value` is the quality, of which
    more is better, and `speed` the speedup, measured or counted. Columns of what is returned:
    `envelope`, `at` (the speedup), `difference` with `low` and `high` (95 % bootstrap interval over
    the pictures), and `n`; nan where one side does not reach a speedup. Which methods are on a
    front is decided on these same pictures, which favors the side with more methods: the one by
    hand. Raises ValueError for several models, machines or guidance scales.
    """
    check_one_place(frame)
    pictures = frame[frame.kind == "quality"]
    times = undisturbed(frame[frame.kind == "time"]).set_index("method")[speed]
    values = pictures.pivot_table(index="picture", columns="method", values=value)
    return _over_hand(frame, values, times, groups(frame)["planned"], speedups)


def counted_gains(
    frame: pd.DataFrame, speedups: Sequence[float], planned: Collection[str] | None = None
) -> pd.DataFrame:
    """Return what schedules gain in PSNR over those by hand, at equal counted operations.

    `frame` has a row a method and picture, with `speedup_flop_bound`; `planned` are the labels of
    the schedules, by default all planned ones. Columns are those of `gains`.
    """
    values = frame.pivot_table(index="picture", columns="method", values="psnr")
    bounds = frame.groupby("method").speedup_flop_bound.mean()
    return _over_hand(
        frame, values, bounds, groups(frame)["planned"] if planned is None else planned, speedups
    )


def _over_hand(
    frame: pd.DataFrame,
    values: pd.DataFrame,
    costs: pd.Series,
    planned: Collection[str],
    speedups: Sequence[float],
) -> pd.DataFrame:
    """Return a row for each envelope of schedules by hand and each speedup; see `gain`."""
    return pd.DataFrame(
        {"envelope": name, "at": at, **gain(values, costs, [planned], by_hand, at)}
        for name, by_hand in hand_curves(frame).items()
        for at in speedups
    )


def gains_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Write what planned schedules gain in PSNR at equal measured speed; see `gains`.

    A line for each guidance scale and speedup, a column for each envelope: the difference with its
    interval, nothing where one side is not as fast.

    >>> rows = [{"kind": "quality", "family": family, "method": family, "picture": 0, "psnr": psnr}
    ...         for family, psnr in (("planned", 33.5), ("FastVAR", 32.0))]
    >>> rows += [{"kind": "time", "family": r["family"], "method": r["method"], "speedup": 2.0}
    ...          for r in rows]
    >>> gains_table(pd.DataFrame(rows)).iloc[1].to_dict()
    {'speedup': '2x', 'null rows kept': '+1.5 (+1.5 to +1.5)', 'whole grid': '+1.5 (+1.5 to +1.5)'}
    """
    whole = _written(frame, gains)
    whole.attrs[NOTE] = _NOTE.format("measured speed")
    return whole


def counted_gains_table(frame: pd.DataFrame, speedups: Sequence[float]) -> pd.DataFrame:
    """Write what planned schedules gain at equal counted operations, as `gains_table` does."""
    whole = _written(frame, partial(counted_gains, speedups=speedups))
    whole.attrs[NOTE] = _NOTE.format("counted operations")
    return whole


_NOTE = (
    "PSNR (dB) to full generation, planned schedules beside the best by hand at equal {}, with "
    "95 % intervals over the pictures: beside those that keep the null rows, and beside all."
)


def _written(frame: pd.DataFrame, gained: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """Write gains as a table: a line for each guidance scale and speedup."""
    parts = []
    for scale, part in by_guidance(frame):
        rows = gained(part)
        rows["speedup"] = [f"{at:g}x" for at in rows["at"]]
        rows["text"] = [
            f"{row.difference:+.1f} ({row.low:+.1f} to {row.high:+.1f})" if row.n else ""
            for row in rows.itertuples()
        ]
        table = rows.pivot(index="speedup", columns="envelope", values="text").reset_index()
        if scale is not None:
            table.insert(0, GUIDANCE, scale)
        parts.append(table.rename_axis(None, axis=1))
    return pd.concat(parts, ignore_index=True)


def gain(
    values: pd.DataFrame, speedups: pd.Series, ours: Curves, others: Curves, speedup: float
) -> dict[str, float]:
    """Return the mean difference between two envelopes at a speedup, on the same pictures.

    Keys: difference, low and high (95 % bootstrap interval over pictures), n; nan, and 0 pictures,
    where one does not reach the speedup. See `envelope`.

    >>> values = pd.DataFrame({"mine": [41.0, 43.0], "theirs": [40.0, 41.0]})
    >>> speedups = pd.Series({"mine": 2.0, "theirs": 2.0})
    >>> gain(values, speedups, [["mine"]], [["theirs"]], 2.0)["difference"]
    1.5
    """
    sides = [envelope(values, speedups, methods, speedup) for methods in (ours, others)]
    gaps = pd.Series(dtype=float)
    if sides[0] is not None and sides[1] is not None:
        gaps = sides[0] - sides[1]
    low, high = bootstrap(gaps)
    n = int(gaps.count())
    return {"difference": float(gaps.mean()) if n else np.nan, "low": low, "high": high, "n": n}


def hand_curves(frame: pd.DataFrame) -> dict[str, list[set[str]]]:
    """Return the curves of schedules by hand that make each of the `ENVELOPES`.

    A curve has all ratios of those that drop null rows from the same step on, in the same layers.
    """
    dropped = first_null(frame)
    keys = pd.DataFrame({"dropped": dropped, "layers": ""})
    if "layers" in frame:
        keys["layers"] = frame.drop_duplicates("method").set_index("method").layers.fillna("")
    keys = keys[keys.index.isin(groups(frame)["by hand"])]
    parts = {key: set(part.index) for key, part in keys.groupby(["dropped", "layers"])}
    kept = [methods for (step, _), methods in parts.items() if not step]
    return {KEPT: kept, WHOLE: list(parts.values())}


def groups(frame: pd.DataFrame) -> dict[str, set[str]]:
    """Return the methods of a frame that are planned, by hand, and others, without full ones."""
    families = frame.dropna(subset=["method"]).drop_duplicates("method").set_index("method").family
    planned = families.str.startswith("planned")
    hand = families.isin(BY_HAND)
    others = ~planned & ~hand & (families != FULL)
    sides = {"planned": planned, "by hand": hand, "others": others}
    return {name: set(families.index[chosen]) for name, chosen in sides.items()}


def first_null(frame: pd.DataFrame) -> pd.Series:
    """Return by method the column of the first step that runs without null rows, or nothing."""
    rows = frame.drop_duplicates("method").set_index("method").filter(regex=f"^{ROWS}") == 1
    first = rows.apply(lambda row: next((step for step, alone in row.items() if alone), ""), axis=1)
    return first if len(rows.columns) else pd.Series("", rows.index)
