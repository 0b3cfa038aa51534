"""Means with 95 % intervals, and paired differences between methods on the same pictures.

Intervals of hits (0 or 1) are score intervals, because a bootstrap of identical hits has no width.
All other intervals are bootstraps. Values that are nan are left out.

Bootstraps and the score interval of one share come from scipy. It has no interval of a mean of
shares or of a difference of paired shares; those are implemented here, with their sources.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from scipy import stats

from fastvar_lab.frames import LINE, OPERATIONS, PLACE, check_one_place, holds_hits

DRAWS = 2000  # bootstrap resamples
EQUAL = 1e-4  # of full cost: kept counts are rounded to whole tokens

Values: TypeAlias = Sequence[float] | np.ndarray | pd.Series
Interval = tuple[float, float]
UNKNOWN = (float("nan"), float("nan"))


def bootstrap(values: Values) -> Interval:
    """Return the 95 % percentile bootstrap interval of the mean; of one value, that value twice."""
    return _of_mean(_valid(values).tobytes())


@lru_cache(maxsize=4096)
def _of_mean(values: bytes) -> Interval:
    """Return the interval of floats: a figure and its tables ask for many of them again."""
    data = np.frombuffer(values)
    return _bootstrap([data], np.mean, vectorized=True) if len(data) else UNKNOWN


def bootstrap_of_ratio(parts: Values, wholes: Values) -> Interval:
    """Return the 95 % bootstrap interval of a sum of parts over the sum of their wholes.

    It is that of the mean where all wholes are equal.

    >>> bootstrap_of_ratio([1.0, 6.0], [1.0, 3.0])
    (1.0, 2.0)
    """
    pairs = np.asarray(parts, dtype=float), np.asarray(wholes, dtype=float)
    if (pairs[1] == pairs[1][:1]).all():
        return bootstrap(pairs[0] / pairs[1])

    def ratio(part: np.ndarray, whole: np.ndarray, axis: int = -1) -> Any:
        return part.sum(axis) / whole.sum(axis)

    return _bootstrap(pairs, ratio, vectorized=True, paired=True)


def bootstrap_of(statistic: Callable[..., float], samples: Sequence[Values]) -> Interval:
    """Return the 95 % bootstrap interval of a statistic of the medians of independent samples.

    >>> bootstrap_of(lambda a, b: a / b, [[2.0, 2.0], [1.0, 1.0]])
    (2.0, 2.0)
    """

    def of_medians(*drawn: np.ndarray) -> float:
        return float(statistic(*(np.median(sample) for sample in drawn)))

    return _bootstrap([np.asarray(sample, dtype=float) for sample in samples], of_medians)


def _bootstrap(
    samples: Sequence[np.ndarray], statistic: Callable[..., Any], **options: bool
) -> Interval:
    # scipy needs at least two values per sample; repeating a single value changes no resample
    pairs = [np.repeat(sample, 2) if len(sample) == 1 else sample for sample in samples]
    interval = stats.bootstrap(
        pairs,
        statistic,
        n_resamples=DRAWS,
        method="percentile",
        **options,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def wilson(hits: Values) -> Interval:
    """Return the 95 % Wilson score interval of the share of hits.

    >>> low, high = wilson([1.0] * 24)
    >>> round(low, 3), high
    (0.862, 1.0)
    """
    data = _valid(hits)
    if not len(data):
        return UNKNOWN
    share = stats.binomtest(int(data.sum()), len(data)).proportion_ci(method="wilson")
    return float(share.low), float(share.high)


def wilson_of_means(groups: Sequence[Values]) -> Interval:
    """Return the 95 % interval of the unweighted mean of several groups' shares of hits.

    Source: Zou and Donner, Statistics in Medicine 2008 (MOVER), applied to Wilson intervals.
    """
    means = np.array([_valid(group).mean() for group in groups])
    low, high = np.array([wilson(group) for group in groups]).T
    down, up = (float(np.linalg.norm(reach)) / len(groups) for reach in (means - low, high - means))
    return float(means.mean()) - down, float(means.mean()) + up


def wilson_of_gap(first: Values, second: Values) -> Interval:
    """Return the 95 % score interval of the difference of two shares of hits, same pictures.

    Source: Newcombe, Statistics in Medicine 1998, paired proportions, method 10.

    >>> low, high = wilson_of_gap([1.0] * 24, [1.0] * 24)
    >>> round(low, 3), round(high, 3)
    (-0.138, 0.138)
    """
    pairs = np.stack((np.asarray(first, dtype=float), np.asarray(second, dtype=float)))
    pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
    if not pairs.size:
        return UNKNOWN
    (p1, p2), (low, high) = pairs.mean(axis=1), np.array([wilson(hits) for hits in pairs]).T
    both, n = float(pairs.prod(axis=0).mean() - p1 * p2), pairs.shape[1]
    both = max(0.0, both - 0.5 / n) if both > 0 else both  # continuity correction
    spread = float(np.sqrt(p1 * (1 - p1) * p2 * (1 - p2)))
    correlation = both / spread if spread else 0.0

    def reach(a: float, b: float) -> float:
        return float(np.sqrt(max(0.0, a * a - 2 * correlation * a * b + b * b)))

    gap = float(p1 - p2)
    return gap - reach(p1 - low[0], high[1] - p2), gap + reach(high[0] - p1, p2 - low[1])


def _valid(values: Values) -> np.ndarray:
    """Return the values that are not nan, as floats."""
    data = np.asarray(values, dtype=float)
    return data[~np.isnan(data)]


def summary(frame: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Return the mean, its 95 % interval (low, high) and n of the column `value` for each group.

    Raises ValueError for rows of several models, machines or guidance scales that `by` does not
    tell apart.
    """
    check_one_place(frame, [column for column in PLACE if column not in by])
    rows, interval = [], wilson if holds_hits(frame, value) else bootstrap
    for names, group in frame.groupby(list(by), sort=False, dropna=False)[value]:
        low, high = interval(group)
        rows.append(
            {
                **dict(zip(by, names, strict=True)),
                "mean": float(group.mean()),
                "low": low,
                "high": high,
                "n": int(group.notna().sum()),
            }
        )
    return pd.DataFrame(rows)


def paired_at_equal(
    frame: pd.DataFrame, first: str, second: str, value: str, cost: str = OPERATIONS
) -> dict[str, float]:
    """Return the mean difference (first - second) of two lines on the same pictures, at equal cost.

    `frame` is that of `counted`. A line's value of a picture between its settings is interpolated
    over `cost`. Differences are taken at the settings of both lines that lie within the range of
    both, and averaged by picture. Keys as in `paired`, and `from` and `to`, the least and the
    greatest of these costs, with the differences there, `at_from` and `at_to`; `crosses` is 1 if
    either line is better somewhere by its interval, else 0. Raises ValueError for lines of which no
    costs are equal.
    """
    tables = [
        frame[frame[LINE] == line].pivot_table(index="picture", columns=cost, values=value)
        for line in (first, second)
    ]
    for line, table in zip((first, second), tables, strict=True):
        if table.empty:
            raise ValueError(f"the frame has no line {line!r}")
    x, other = (table.columns.to_numpy(dtype=float) for table in tables)
    low, high = max(x.min(), other.min()), min(x.max(), other.max())
    costs = np.unique([*x, *other])
    apart = np.diff(costs, prepend=-np.inf) > EQUAL  # of those that rounding sets apart, one
    points = [c for c in costs[apart] if low - EQUAL <= c <= high + EQUAL]
    if not points:
        raise ValueError(f"{first} and {second} have no {cost} in common")
    pictures = tables[0].index.intersection(tables[1].index)
    a, b = (
        np.array([np.interp(points, table.columns, row) for row in table.loc[pictures].to_numpy()])
        for table in tables
    )
    intervals = [bootstrap(gap) for gap in (a - b).T]
    gaps, at = (a - b).mean(axis=1), np.nanmean(a - b, axis=0)
    low, high = bootstrap(gaps)
    return {
        "difference": float(np.nanmean(gaps)),
        "low": low,
        "high": high,
        "n": int(np.isfinite(gaps).sum()),
        "from": points[0],
        "to": points[-1],
        "at_from": float(at[0]),
        "at_to": float(at[-1]),
        "crosses": float(max(low for low, _ in intervals) > 0 > min(high for _, high in intervals)),
    }


def paired(frame: pd.DataFrame, first: str, second: str, value: str) -> dict[str, float]:
    """Return the mean difference (first - second) of a value on the same pictures.

    Keys: difference, low and high (95 % interval), n (number of pictures). Raises ValueError for
    several values of one picture and method, such as those of several guidance scales.
    """
    measured = frame.dropna(subset=[value])
    if measured.duplicated(["picture", "method"]).any():
        raise ValueError(f"{value} stands several times for a picture and method: take one scale")
    table = frame.pivot_table(index="picture", columns="method", values=value)
    a, b = table[first], table[second]
    low, high = wilson_of_gap(a, b) if holds_hits(frame, value) else bootstrap(a - b)
    gap = (a - b).dropna()
    return {"difference": float(gap.mean()), "low": low, "high": high, "n": len(gap)}
