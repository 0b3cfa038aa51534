"""Fronts of quality over speed, and what groups of methods reach at the same speed."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

from fastvar_lab.measure.statistics import bootstrap


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
    points = pd.DataFrame({"speedup": speedups[values.columns], "mean": values.mean()})
    best = front(points.dropna(), "speedup", "mean")
    faster = best[best.speedup >= speedup]
    if faster.empty:
        return None
    right, slower = faster.index[0], best[best.speedup < speedup]
    if slower.empty:
        return values[right]
    left = slower.index[-1]
    times = 1 / np.array([best.speedup[left], speedup, best.speedup[right]])
    share = (times[0] - times[1]) / (times[0] - times[2])
    return (1 - share) * values[left] + share * values[right]


def gain(
    values: pd.DataFrame,
    speedups: pd.Series,
    ours: Collection[str],
    others: Collection[str],
    speedup: float,
) -> dict[str, float]:
    """Return the mean difference between two groups of methods at a speedup, on the same pictures.

    Keys: difference, low and high (95 % bootstrap interval over pictures), n. Which methods are on
    a front is decided on these same pictures, which favors the group with more methods. Raises
    ValueError if a group does not reach the speedup.

    >>> values = pd.DataFrame({"mine": [41.0, 43.0], "theirs": [40.0, 41.0]})
    >>> speedups = pd.Series({"mine": 2.0, "theirs": 2.0})
    >>> gain(values, speedups, ["mine"], ["theirs"], 2.0)["difference"]
    1.5
    """
    sides = []
    for group in (ours, others):
        side = reached(values[[m for m in values if m in group]], speedups, speedup)
        if side is None:
            raise ValueError(f"no method of {', '.join(map(str, group))} is {speedup:g}x as fast")
        sides.append(side)
    gaps = (sides[0] - sides[1]).dropna()
    low, high = bootstrap(gaps)
    return {"difference": float(gaps.mean()), "low": low, "high": high, "n": len(gaps)}
