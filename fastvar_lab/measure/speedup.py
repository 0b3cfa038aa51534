"""Speedups: the median ratio of paired times, its spread, and whether timing was disturbed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import quantile_test

WIDEST = 0.15
"""A measurement whose relative spread, (q3 - q1) / median, exceeds this counts as disturbed."""

DISTURBED = "timing disturbed"


@dataclass(frozen=True)
class Speedup:
    """A speedup: the median of `n` ratios full / fast, one ratio per turn.

    `q1` and `q3` are the quartiles of the ratios (linear interpolation); figures draw them as the
    spread. `low` and `high` are the 95 % interval of the median by order statistics; fewer than six
    turns allow no such interval, and they are the smallest and largest ratio. `disturbed` means
    that the spread is too wide for the median to be used; it is never set for a single turn.
    """

    median: float
    q1: float
    q3: float
    low: float
    high: float
    n: int
    disturbed: bool = False

    @classmethod
    def of(cls, full: Sequence[float], fast: Sequence[float], widest: float = WIDEST) -> Speedup:
        """Estimate the speedup from paired times, in any unit; entry i of both is turn i.

        Raises ValueError for empty sequences, different lengths, and times that are not finite and
        above 0: the spread of such ratios decides nothing.

        >>> print(Speedup.of([2.0, 2.2, 2.1], [1.0, 1.0, 1.0]))
        2.10 [2.05 to 2.15]
        """
        if len(full) != len(fast) or not len(full):
            raise ValueError(
                f"a speedup needs as many full as fast times; not {len(full)} and {len(fast)}"
            )
        times = np.array([full, fast], dtype=float)
        if not ((times > 0) & np.isfinite(times)).all():
            wrong = times[~((times > 0) & np.isfinite(times))][0]
            raise ValueError(f"times must be finite and above 0; not {wrong}")
        ratios = times[0] / times[1]
        q1, median, q3 = (float(q) for q in np.quantile(ratios, (0.25, 0.5, 0.75)))
        # nan if there are too few turns
        interval = quantile_test(ratios, q=median, p=0.5).confidence_interval(0.95)
        low, high = float(interval.low), float(interval.high)
        if np.isnan([low, high]).any():
            low, high = float(ratios.min()), float(ratios.max())
        return cls(median, q1, q3, low, high, len(ratios), (q3 - q1) / median > widest)

    @property
    def spread(self) -> float:
        """The relative spread of the ratios; it alone decides whether timing was disturbed."""
        return (self.q3 - self.q1) / self.median

    def columns(self) -> dict[str, Any]:
        """Return the columns of a frame: speedup, quartiles, interval, turns, disturbed."""
        return {
            "speedup": self.median,
            "speedup_q1": self.q1,
            "speedup_q3": self.q3,
            "speedup_low": self.low,
            "speedup_high": self.high,
            "turns": self.n,
            "disturbed": self.disturbed,
        }

    def __str__(self) -> str:
        note = f", {DISTURBED}" if self.disturbed else ""
        return f"{self.median:.2f} [{self.q1:.2f} to {self.q3:.2f}]{note}"


def disturbed(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether any row has a disturbed timing; such rows must not be stored.

    >>> disturbed([{"method": "a", "disturbed": False}, {"method": "b", "disturbed": True}])
    True
    """
    return any(
        row.get("disturbed") in (True,) for row in rows
    )  # None or nan in rows without a timing


def undisturbed(frame: pd.DataFrame) -> pd.DataFrame:
    """Drop the rows of disturbed timings, which fronts, recommendations and claims must not use.

    Rows without a timing are kept; a frame without the column `disturbed` is returned unchanged.

    >>> frame = pd.DataFrame({"method": ["a", "b", "c"], "disturbed": [False, True, None]})
    >>> undisturbed(frame).method.to_list()
    ['a', 'c']
    """
    return frame[~disturbances(frame)] if "disturbed" in frame else frame


def disturbances(frame: pd.DataFrame) -> pd.Series:
    """Return for each row of a frame whether its timing was disturbed; False without a timing."""
    if "disturbed" not in frame:
        return pd.Series(False, index=frame.index)
    return frame.disturbed.eq(True)
