"""Means with 95 % intervals, paired with the unpruned picture of the same seed.

Of hits, which are 0 or 1, they are score intervals: a bootstrap of hits that are all alike has no
width. Of everything else they are bootstraps. Values that are nan are left out.

Bootstraps and the score interval of one share are scipy's. Those of a mean of shares and of a
difference of paired shares are formulas that it does not have, and stand here with their sources.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from scipy import stats

DRAWS = 2000
HITS = ("right",)  # columns of frames that hold hits

Values: TypeAlias = Sequence[float] | np.ndarray | pd.Series
Interval = tuple[float, float]
UNKNOWN = (float("nan"), float("nan"))


def bootstrap(values: Values) -> Interval:
    """95 % bootstrap interval of the mean, by percentiles; of one value, that value alone."""
    data = _known(values)
    return _bootstrap([data], np.mean, vectorized=True) if len(data) else UNKNOWN


def bootstrap_of(statistic: Callable[..., float], samples: Sequence[Values]) -> Interval:
    """95 % bootstrap interval of a statistic of medians, one of each independent sample.

    >>> bootstrap_of(lambda a, b: a / b, [[2.0, 2.0], [1.0, 1.0]])
    (2.0, 2.0)
    """

    def of_medians(*drawn: np.ndarray) -> float:
        return float(statistic(*(np.median(sample) for sample in drawn)))

    return _bootstrap([np.asarray(sample, dtype=float) for sample in samples], of_medians)


def _bootstrap(
    samples: Sequence[np.ndarray], statistic: Callable[..., Any], vectorized: bool = False
) -> Interval:
    # scipy wants two values of each sample: one is drawn as often as one likes
    pairs = [np.repeat(sample, 2) if len(sample) == 1 else sample for sample in samples]
    found = stats.bootstrap(
        pairs,
        statistic,
        n_resamples=DRAWS,
        vectorized=vectorized,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def wilson(hits: Values) -> Interval:
    """95 % score interval of the share of hits.

    >>> low, high = wilson([1.0] * 24)
    >>> round(low, 3), high
    (0.862, 1.0)
    """
    data = _known(hits)
    if not len(data):
        return UNKNOWN
    share = stats.binomtest(int(data.sum()), len(data)).proportion_ci(method="wilson")
    return float(share.low), float(share.high)


def wilson_of_means(groups: Sequence[Values]) -> Interval:
    """95 % interval of the mean over groups of their shares of hits, each weighed alike.

    Source: Zou and Donner, Statistics in Medicine 2008 (MOVER), from each group's score interval.
    """
    means = np.array([_known(group).mean() for group in groups])
    low, high = np.array([wilson(group) for group in groups]).T
    down, up = (float(np.linalg.norm(reach)) / len(groups) for reach in (means - low, high - means))
    return float(means.mean()) - down, float(means.mean()) + up


def wilson_of_gap(first: Values, second: Values) -> Interval:
    """95 % score interval of the difference of two shares of hits, on the same pictures.

    Source: Newcombe, Statistics in Medicine 1998, paired proportions, method 10.

    >>> low, high = wilson_of_gap([1.0] * 24, [1.0] * 24)
    >>> round(low, 3), round(high, 3)
    (-0.138, 0.138)
    """
    pairs = np.stack((np.asarray(first, dtype=float), np.asarray(second, dtype=float)))
    pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
    if not pairs.size:
        return UNKNOWN
    (one, other), (low, high) = pairs.mean(axis=1), np.array([wilson(hits) for hits in pairs]).T
    both, n = float(pairs.prod(axis=0).mean() - one * other), pairs.shape[1]
    both = max(0.0, both - 0.5 / n) if both > 0 else both  # the correction for continuity
    spread = float(np.sqrt(one * (1 - one) * other * (1 - other)))
    alike = both / spread if spread else 0.0

    def reach(a: float, b: float) -> float:
        return float(np.sqrt(max(0.0, a * a - 2 * alike * a * b + b * b)))

    gap = float(one - other)
    return gap - reach(one - low[0], high[1] - other), gap + reach(high[0] - one, other - low[1])


def _known(values: Values) -> np.ndarray:
    data = np.asarray(values, dtype=float)
    return data[~np.isnan(data)]


def summary(frame: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Mean, interval (low, high) and n of a column for every group."""
    rows = []
    for names, group in frame.groupby(list(by), sort=False, dropna=False):
        low, high = (wilson if value in HITS else bootstrap)(group[value])
        rows.append(
            {
                **dict(zip(by, names, strict=True)),
                "mean": float(group[value].mean()),
                "low": low,
                "high": high,
                "n": int(group[value].notna().sum()),
            }
        )
    return pd.DataFrame(rows)


def paired(frame: pd.DataFrame, first: str, second: str, value: str) -> dict[str, float]:
    """Mean difference of a value between two methods on the same pictures, with its interval."""
    wide = frame.pivot_table(index="picture", columns="method", values=value)
    one, other = wide[first], wide[second]
    low, high = wilson_of_gap(one, other) if value in HITS else bootstrap(one - other)
    gap = (one - other).dropna()
    return {"difference": float(gap.mean()), "low": low, "high": high, "n": len(gap)}
