"""Ranks families of methods at equal speed, by interpolation of their frontiers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fastvar_lab.frames import GUIDANCE
from fastvar_lab.measure.speedup import undisturbed

TARGETS = (1.5, 2.0, 3.0, 4.0)
"""Speedups, or savings, at which families are compared."""

DRAWS = 1000  # bootstrap resamples of the pictures
COSTS = {"speedup": "time", "saving": "cost", "kv_saving": "cost"}
"""Columns that say how much faster or smaller a method is, and the kind of rows that hold them."""


def frontier(speed: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return the places of the points that no other beats in both, by rising speed.

    >>> frontier(np.array([3.0, 1.0, 2.0]), np.array([30.0, 40.0, 29.0])).tolist()
    [1, 0]
    """
    order = np.lexsort((-mean, -speed))
    best = np.maximum.accumulate(mean[order])
    kept = [i for n, i in enumerate(order) if n == 0 or mean[i] > best[n - 1]]
    return np.array(kept[::-1], int)


def interpolated(
    speed: np.ndarray, means: np.ndarray, targets: Sequence[float] = TARGETS
) -> np.ndarray:
    """Return qualities (D, T) at target speeds, from points of rising speed (S,), means (D, S).

    Linear in the logarithm of the speed. A target below the slowest point has that point's
    quality, which is faster than asked; one beyond the fastest point has none (nan).

    >>> interpolated(np.array([1.0, 4.0]), np.array([[40.0, 30.0]]), (2.0, 5.0)).tolist()
    [[35.0, nan]]
    """
    x, at = np.log(speed), np.log(np.asarray(targets))
    out = np.array([np.interp(at, x, row) for row in means])
    out[:, at > x[-1] + 1e-9] = np.nan
    return out


def ranking(
    frame: pd.DataFrame,
    value: str = "psnr",
    by: str = "speedup",
    targets: Sequence[float] = TARGETS,
) -> pd.DataFrame:
    """Rank the families of a comparison at each target; a row a guidance scale, family and target.

    `by` is the measured "speedup", or the counted "saving" of operations or "kv_saving" of bytes.
    `mean` is the quality of the family's frontier at the target, `low` and `high` its 95 %
    bootstrap interval over the pictures; `behind` is how far it is behind the best family there,
    with the paired interval. All families share the resampled pictures. Frontiers are those of the
    means over all pictures. Disturbed timings are left out, and families without a point.
    """
    rows = list[dict[str, object]]()
    groups = frame.groupby(GUIDANCE) if GUIDANCE in frame else [(None, frame)]
    for guidance, part in groups:
        drawn = _frontiers(part, value, by, targets)
        for t, target in enumerate(targets):
            reached = {name: each[:, t] for name, each in drawn.items() if each[0, t] == each[0, t]}
            best = max(reached, key=lambda name: reached[name][0], default=None)
            for name, each in drawn.items():
                axis = part.axis[part.family == name].iloc[0] if "axis" in part else None
                row = {GUIDANCE: guidance, "axis": axis, "family": name, "target": target}
                if name in reached and best is not None:
                    gap = reached[best] - each[:, t]
                    row |= _estimate("", each[:, t]) | _estimate("behind", gap)
                rows.append(row)
    columns = [GUIDANCE, "axis", "family", "target", "mean", "low", "high"]
    columns += ["behind", "behind_low", "behind_high"]
    return pd.DataFrame(rows, columns=columns)


def _estimate(name: str, drawn: np.ndarray) -> dict[str, float]:
    """Return the first value, of all pictures, and the interval of the resampled others."""
    low, high = np.quantile(drawn[1:], (0.025, 0.975))
    head, end = (f"{name}_", name) if name else ("", "mean")
    return {end: float(drawn[0]), f"{head}low": float(low), f"{head}high": float(high)}


def _frontiers(
    frame: pd.DataFrame, value: str, by: str, targets: Sequence[float]
) -> dict[str, np.ndarray]:
    """Return for each family its quality at the targets: of all pictures, then of resamples."""
    pictures = frame[(frame.kind == "quality") & (frame.family != "full")]
    costs = undisturbed(frame[frame.kind == COSTS[by]]).groupby("method")[by].mean()
    table = pictures.pivot_table(index="method", columns="picture", values=value)
    table = table.dropna().loc[lambda t: t.index.isin(costs.dropna().index)]
    families = pictures.drop_duplicates("method").set_index("method").family
    rng, n = np.random.default_rng(0), table.shape[1]
    weights = np.vstack([np.full(n, 1 / max(n, 1)), rng.multinomial(n, [1 / n] * n, DRAWS) / n])
    out = dict[str, np.ndarray]()
    for name, part in table.groupby(families.reindex(table.index), sort=False):
        speed, values = costs[part.index].to_numpy(float), part.to_numpy(float)
        best = frontier(speed, values.mean(1))
        if speed[best[-1]] > 1.01:
            out[str(name)] = interpolated(speed[best], weights @ values[best].T, targets)
    return out


def ranking_table(frame: pd.DataFrame, value: str = "psnr") -> pd.DataFrame:
    """Write the ranking at equal measured time, and beside it at equal operations.

    A line for each guidance scale and family, the best at twice the speed first. Columns are the
    targets: the quality with its 95 % interval, nothing where a family is not as fast.
    """
    return _written(frame, value, {"": "speedup", " operations": "saving"})


def memory_table(frame: pd.DataFrame, value: str = "psnr") -> pd.DataFrame:
    """Write the ranking at equal bytes of keys and values, of the families that save them."""
    cache = frame[(frame.axis == "cache") | (frame.family == "full")] if "axis" in frame else frame
    return _written(cache, value, {" fewer bytes": "kv_saving"})


def _written(frame: pd.DataFrame, value: str, costs: dict[str, str]) -> pd.DataFrame:
    """Write rankings side by side; the first one orders the lines."""
    parts = list[pd.DataFrame]()
    for title, by in costs.items():
        if by not in frame or frame[by].isna().all():
            continue
        rows = ranking(frame, value, by)
        rows["text"] = [
            "" if pd.isna(r["mean"]) else f"{r['mean']:.1f} ({r.low:.1f} to {r.high:.1f})"
            for _, r in rows.iterrows()
        ]
        rows[GUIDANCE] = rows[GUIDANCE].astype(object).fillna("")
        index = [GUIDANCE, "family"]
        wide = rows.pivot_table(index=index, columns="target", values="text", aggfunc="first")
        wide.columns = [f"{target:g}x{title}" for target in wide]
        if not parts:
            at = rows[rows.target == (2.0 if len(TARGETS) > 1 else TARGETS[0])]
            order = at.sort_values([GUIDANCE, "mean"], ascending=[True, False])
            wide = wide.reindex(pd.MultiIndex.from_frame(order[index]))
        parts.append(wide)
    if not parts:
        return pd.DataFrame(columns=[GUIDANCE, "family"])
    table = pd.concat(parts, axis=1).loc[parts[0].index].fillna("")
    table = table.loc[(table != "").any(axis=1)].reset_index()
    return table.loc[:, (table != "").any()]
