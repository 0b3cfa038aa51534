"""Speedups: the median ratio of paired times, with its spread and whether it can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import quantile_test

WIDEST = 0.15
"""The relative spread, (q3 - q1) / median, of a disturbed measurement's ratios: above this."""

DISTURBED = "timing disturbed"


@dataclass(frozen=True)
class Speedup:
    """How many times as fast: the median of `n` ratios full / fast, one of each turn.

    `q1` and `q3` are the quartiles of the ratios (linear), what a figure draws as their spread.
    `low` and `high` are the 95 % interval of the median by order statistics. Fewer than six turns
    allow none: then they are the least and the greatest ratio. `disturbed` says that the spread
    was too wide for the median to be used.
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
        """Estimate from the times of the same turns, in any unit.

        Raises ValueError for sequences of different lengths, none at all, or times not above 0.

        >>> print(Speedup.of([2.0, 2.2, 2.1], [1.0, 1.0, 1.0]))
        2.10 [2.05 to 2.15]
        """
        if len(full) != len(fast) or not len(full):
            raise ValueError(
                f"a speedup needs paired times, one of each a turn; not {len(full)} and {len(fast)}"
            )
        times = np.array([full, fast], dtype=float)
        if not (times > 0).all():
            raise ValueError(f"times must be above 0; the least is {times.min()}")
        ratios = times[0] / times[1]
        q1, median, q3 = (float(q) for q in np.quantile(ratios, (0.25, 0.5, 0.75)))
        # nan where the turns are too few
        interval = quantile_test(ratios, q=median, p=0.5).confidence_interval(0.95)
        low, high = float(interval.low), float(interval.high)
        if np.isnan([low, high]).any():
            low, high = float(ratios.min()), float(ratios.max())
        return cls(median, q1, q3, low, high, len(ratios), (q3 - q1) / median > widest)

    @property
    def spread(self) -> float:
        """The relative spread of the ratios: what alone decides whether they are disturbed."""
        return (self.q3 - self.q1) / self.median

    def columns(self) -> dict[str, Any]:
        """Return the columns of a row: speedup, its quartiles, its interval, turns, disturbed."""
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
    """Tell whether any of the rows is of a disturbed timing, so that they must not be kept.

    >>> disturbed([{"method": "a", "disturbed": False}, {"method": "b", "disturbed": True}])
    True
    """
    return any(row.get("disturbed") is True for row in rows)


def undisturbed(frame: pd.DataFrame) -> pd.DataFrame:
    """Drop the rows of disturbed timings: for fronts, recommendations and claims.

    Rows that hold no timing stay, and so does a frame without the column.

    >>> frame = pd.DataFrame({"method": ["a", "b", "c"], "disturbed": [False, True, None]})
    >>> undisturbed(frame).method.to_list()
    ['a', 'c']
    """
    if "disturbed" not in frame:
        return frame
    return frame[~frame.disturbed.eq(True)]
