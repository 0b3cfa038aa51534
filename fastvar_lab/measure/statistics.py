"""Means with 95 % bootstrap intervals, paired with the unpruned picture of the same seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

DRAWS = 2000


def interval(values: Sequence[float] | np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean; nan values are left out."""
    data = np.asarray(values, dtype=float)
    data = data[~np.isnan(data)]
    if not len(data):
        return float("nan"), float("nan")
    picked = np.random.default_rng(seed).integers(len(data), size=(DRAWS, len(data)))
    low, high = np.quantile(data[picked].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def interval_of(
    statistic: Callable[..., float], samples: Sequence[Sequence[float]], seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of a statistic of medians, one of each independent sample.

    >>> interval_of(lambda a, b: a / b, [[2.0, 2.0], [1.0, 1.0]])
    (2.0, 2.0)
    """
    rng = np.random.default_rng(seed)
    drawn = [np.asarray(s)[rng.integers(len(s), size=(DRAWS, len(s)))] for s in samples]
    medians = np.stack([np.median(d, axis=1) for d in drawn], axis=1)
    low, high = np.quantile([statistic(*row) for row in medians], (0.025, 0.975))
    return float(low), float(high)


def summary(frame: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Mean, interval (low, high) and n of a column for every group."""
    rows = []
    for names, group in frame.groupby(list(by), sort=False, dropna=False):
        low, high = interval(group[value].to_numpy())
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
    gap = (wide[first] - wide[second]).to_numpy()
    low, high = interval(gap)
    n = int(np.isfinite(gap).sum())
    return {"difference": float(np.nanmean(gap)), "low": low, "high": high, "n": n}
