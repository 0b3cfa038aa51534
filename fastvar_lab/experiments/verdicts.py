"""Claims: what a paper says, and the verdict of a measured interval on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fastvar_lab.measure.statistics import bootstrap

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot tell"
FEWEST = 8  # pictures, or turns, below which an interval decides nothing


@dataclass(frozen=True)
class Answer:
    """A measured number with its interval, and the verdict."""

    text: str
    verdict: str


@dataclass(frozen=True)
class Claim:
    """What a paper says, with its own number, and how an experiment's frame answers it.

    `answer` raises ValueError, in one sentence, for a frame that cannot answer.
    """

    statement: str
    paper: str
    answer: Callable[[pd.DataFrame], Answer]


def verdict(yes: bool, no: bool, n: float) -> str:
    """Judge by what an interval of `n` values excludes."""
    return OPEN if n < FEWEST else HOLDS if yes else FAILS if no else OPEN


def above(gap: Mapping[str, float], unit: str, what: str, least: float = 0.0) -> Answer:
    """Judge a difference that the claim says is more than `least`, by its paired interval."""
    bound = f", to be above {least}" if least else ""
    text = (
        f"{what}: {gap['difference']:+.2f}{unit} "
        f"({gap['low']:+.2f} to {gap['high']:+.2f}, n = {gap['n']}{bound})"
    )
    return Answer(text, verdict(gap["low"] > least, gap["high"] <= least, gap["n"]))


def mean(values: np.ndarray) -> dict[str, float]:
    """Return a mean with its interval, as `above` takes it."""
    low, high = bootstrap(values)
    return {"difference": float(np.mean(values)), "low": low, "high": high, "n": len(values)}


def quality(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    """Return the rows of pictures; raise ValueError if a metric was not measured."""
    rows = frame[frame.kind == "quality"]
    if value not in rows or rows[value].isna().all():
        what = "the prompts have no judge" if value == "right" else f"{value} was not measured"
        raise ValueError(what)
    return rows


def label(rows: pd.DataFrame, what: str) -> str:
    """Return the label of the one method among rows; raise ValueError if there is none or more."""
    names = list(rows.method.unique())
    if len(names) != 1:
        raise ValueError(f"there must be one method {what}; there are {', '.join(names) or 'none'}")
    return str(names[0])
