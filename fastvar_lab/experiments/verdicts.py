"""Claims: what a paper says, and the verdict of a measured interval on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fastvar_lab.frames import GUIDANCE, OPERATIONS, by_guidance, counted
from fastvar_lab.measure.statistics import bootstrap, bootstrap_of, paired, paired_at_equal

HOLDS, FAILS, DEPENDS, OPEN = "holds", "does not hold", "depends", "cannot tell"
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


def above(
    gap: Mapping[str, float], unit: str, what: str, least: float = 0.0, sign: str = "+"
) -> Answer:
    """Judge a difference that the claim says is more than `least`, by its paired interval.

    `sign` is "" for what is no difference.
    """
    bound = f", to be above {least}" if least else ""
    middle, low, high = (f"{gap[name]:{sign}.2f}" for name in ("difference", "low", "high"))
    text = f"{what}: {middle}{unit} ({low} to {high}, n = {gap['n']}{bound})"
    return Answer(text, verdict(gap["low"] > least, gap["high"] <= least, gap["n"]))


def together(answers: Sequence[Answer]) -> Answer:
    """Join the answers to one claim: it holds if all do, and does not if one does not.

    >>> together([Answer("a", HOLDS), Answer("b", OPEN)])
    Answer(text='a; b', verdict='cannot tell')
    """
    verdicts = {answer.verdict for answer in answers}
    joined = next((v for v in (FAILS, DEPENDS, OPEN) if v in verdicts), HOLDS)
    return Answer("; ".join(answer.text for answer in answers), joined)


def mean(values: np.ndarray) -> dict[str, float]:
    """Return a mean with its interval, as `above` takes it."""
    low, high = bootstrap(values)
    return {"difference": float(np.mean(values)), "low": low, "high": high, "n": len(values)}


def median(turns: np.ndarray) -> dict[str, float]:
    """Return a median with its interval, as `above` takes it: for what was timed turn by turn.

    >>> median(np.array([2.0, 2.0, 9.0]))["difference"]
    2.0
    """
    low, high = bootstrap_of(float, [turns])
    return {"difference": float(np.median(turns)), "low": low, "high": high, "n": len(turns)}


def line_over(
    first: str,
    second: str,
    value: str = "psnr",
    guidance: float | None = None,
    cost: str = OPERATIONS,
) -> Callable[[pd.DataFrame], Answer]:
    """Make the answer to a claim that one line is better than another at equal operations.

    More of `value` counts as better: of an error, the line that is said to have less comes second.
    `cost` may be another column that is to be equal. With `guidance` it is asked at that scale of
    a frame with several, else at each. Where the lines cross, it depends on the cost.
    """

    def answer_at(frame: pd.DataFrame, scale: float | None) -> Answer:
        rows = frame if scale is None else frame[frame[GUIDANCE] == scale]
        gap = paired_at_equal(counted(rows), first, second, value, cost)
        where = "" if scale is None else f" at guidance {scale:g}"
        least, most = (f"{100 * gap[end]:.0f}" for end in ("from", "to"))
        span = least if least == most else f"{least} to {most}"
        answer = _over(first, second, value, f"{where}, at {span} % of the {cost}", gap)
        if not gap["crosses"] or gap["n"] < FEWEST:
            return answer
        ends = f"{gap['at_from']:+.2f} at {least} %, {gap['at_to']:+.2f} at {most} %"
        return Answer(f"{answer.text}; {ends}", DEPENDS)

    def answer(frame: pd.DataFrame) -> Answer:
        quality(frame, value)  # raises where it was not measured
        scales = [None] if GUIDANCE not in frame else sorted(frame[GUIDANCE].unique())
        scales = scales if guidance is None else [guidance]
        return together([answer_at(frame, scale) for scale in scales])

    return answer


def method_over(
    first: str, second: str, value: str = "psnr", least: float = 0.0
) -> Callable[[pd.DataFrame], Answer]:
    """Make the answer to a claim that one method is better than another of the same operations.

    It must be better by more than `least`, which may be negative, at each guidance scale. More of
    `value` counts as better, as in `line_over`.
    """

    def answer_at(rows: pd.DataFrame, scale: float | None) -> Answer:
        missing = {first, second} - set(rows.method)
        if missing:
            raise ValueError(f"the frame has no method {' and '.join(sorted(missing))}")
        where = "" if scale is None else f" at guidance {scale:g}"
        return _over(first, second, value, where, paired(rows, first, second, value), least)

    def answer(frame: pd.DataFrame) -> Answer:
        parts = by_guidance(quality(frame, value))
        return together([answer_at(rows, scale) for scale, rows in parts])

    return answer


def _over(
    first: str, second: str, value: str, where: str, gap: Mapping[str, float], least: float = 0.0
) -> Answer:
    """Judge a difference of two lines or methods, with its unit, or what it is a difference of."""
    unit, what = (" dB", "") if value == "psnr" else ("", f", {value.replace('_', ' ')}")
    return above(gap, unit, f"{first} over {second}{what}{where}", least)


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
