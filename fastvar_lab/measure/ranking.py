"""Ranks families of methods at equal speed, by interpolation of their fronts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fastvar_lab.frames import (
    CACHE,
    FULL,
    GUIDANCE,
    NOTE,
    OPERATIONS,
    by_guidance,
    check_one_place,
    not_larger,
    titles,
)
from fastvar_lab.measure.controls import left_out, timing_gap, without_stand_ins
from fastvar_lab.measure.frontier import SPEEDUPS, mixture, reached
from fastvar_lab.measure.quality import METRICS, Metric
from fastvar_lab.measure.speedup import undisturbed
from fastvar_lab.measure.statistics import DRAWS

BY = ("speedup", OPERATIONS, CACHE)
"""What families may be equal in: measured time, counted operations, bytes of keys and values."""

TIMES = 200
"""Draws of the measured times, each for as many of the draws of pictures."""

LEAST = 1.01
"""Savings up to which a method counts as full generation, whose PSNR to itself means nothing."""


def direction(value: str, frame: pd.DataFrame | None = None) -> int:
    """Return 1 if more of a quality is better, -1 if less is, 0 for neither.

    `value` is the column of a metric or of one of its several values, or "detail_error", the
    distance to the truth. Of metrics of your own a `frame` says it; without, more is better.

    >>> [direction(value) for value in ("psnr", "lpips", "detail_error", "vif", "vif_red")]
    [1, -1, -1, 0, 0]
    """
    if value == "detail_error":
        return -1
    own = frame is not None and value in titles(frame)
    noted, shipped = {} if frame is None else not_larger(frame), None if own else _shipped(value)
    larger = noted.get(value, shipped.larger if shipped else True)
    return 0 if larger is None else 1 if larger else -1


def _shipped(value: str) -> Metric | None:
    """Return the metric of a column; None if it does not ship here."""
    names = (m for m in METRICS.values() if value == m.name or value.startswith(f"{m.name}_"))
    return next(names, None)


def _title(value: str, frame: pd.DataFrame) -> str:
    """Return the title of the column of a metric: shipped, or of your own."""
    shipped, user_titles = _shipped(value), titles(frame)
    if value in user_titles:
        return user_titles[value][0]
    return shipped.heading(value)[0] if shipped else value


def savings(frame: pd.DataFrame, by: str = "speedup") -> pd.Series:
    """Return how many times faster or smaller than full generation each method is.

    Measured speedups, without disturbed ones; or counted shares, means over the pictures where they
    depend on them. Methods that are not known stay out. Raises ValueError for anything but `BY`.
    """
    if by not in BY:
        raise ValueError(f"families are equal in {', '.join(BY)}; not {by!r}")
    if by not in frame:
        return pd.Series(dtype=float)
    if by == "speedup":
        times = undisturbed(frame[frame.kind == "time"])
        return times.dropna(subset=[by]).set_index("method")[by]
    shares = frame[frame.kind == "operations"].dropna(subset=[by])
    return 1 / shares.groupby("method")[by].mean()


def ranking(
    frame: pd.DataFrame,
    value: str = "psnr",
    by: str = "speedup",
    targets: Sequence[float] = SPEEDUPS,
) -> pd.DataFrame:
    """Compare the families of a frame at each target; a row a guidance scale, family and target.

    `mean` is what a family's front reaches there (see `frontier.reached`), `low` and `high` its
    95 % bootstrap interval over the pictures and, by `speedup`, over measured times: each draw
    takes the speedups from the intervals of their timings. `behind` is how far it is behind the
    best family there, with the interval of the paired differences, and positive also where less is
    better. nan where a family is not as fast. Which methods are on a front is decided on these same
    pictures. Left out are methods that save nothing, disturbed timings, and settings that do a
    control's work alone (`controls.stand_ins`). Raises ValueError for several models or machines.
    """
    check_one_place(frame, ["model", "machine"])
    scales = by_guidance(frame)
    rows = [row for scale, part in scales for row in _ranked(scale, part, value, by, targets)]
    columns = [GUIDANCE, "family", "target", "mean", "low", "high", "behind", "behind_low"]
    return pd.DataFrame(rows, columns=[*columns, "behind_high"])


def family_gap(
    frame: pd.DataFrame,
    first: str,
    second: str,
    target: float,
    value: str = "psnr",
    by: str = "speedup",
) -> dict[str, float]:
    """Return how much better a family is than another at a target, as `ranking` compares them.

    `frame` is of one guidance scale. Keys: difference (first - second; its sign turned where less
    is better), low and high (95 % interval), n (number of pictures). Raises ValueError for a family
    that is not there or not as fast.
    """
    sides, known, drawn, _ = _compared(frame, value, by)
    gap, draws = 0.0, np.zeros(DRAWS)
    for family, sign in ((first, 1), (second, -1)):
        there = reached(sides[family], known, target) if family in sides else None
        if there is None:
            raise ValueError(f"no setting of {family} saves {target:g}x")
        gap += sign * float(there.mean())
        draws = draws + sign * _resampled(sides[family], drawn, target)
    low, high = np.nanpercentile(draws, (2.5, 97.5))
    n = len(sides[first].index.intersection(sides[second].index))
    return {"difference": gap, "low": float(low), "high": float(high), "n": n}


def _compared(
    frame: pd.DataFrame, value: str, by: str
) -> tuple[dict[str, pd.DataFrame], pd.Series, pd.DataFrame, int]:
    """Return the qualities of each family (pictures, methods), more of which is better.

    With them the savings of the methods, draws of these, and the sign that was put on the value.
    """
    frame = without_stand_ins(frame)
    pictures = frame[(frame.kind == "quality") & (frame.family != FULL)]
    known = savings(frame, by)
    known = known[known > LEAST]
    sign = direction(value, frame) or 1
    table = sign * pictures.pivot_table(index="picture", columns="method", values=value)
    families = pictures[pictures.method.isin(known.index)].groupby("family", sort=False)
    sides = {str(name): table[list(part.method.unique())] for name, part in families}
    return sides, known, drawn_savings(frame, by, known), sign


def _ranked(
    scale: object, frame: pd.DataFrame, value: str, by: str, targets: Sequence[float]
) -> list[dict[str, object]]:
    """Compare the families at one guidance scale."""
    sides, known, drawn, sign = _compared(frame, value, by)
    rows = list[dict[str, object]]()
    for target in targets:
        there = {name: reached(values, known, target) for name, values in sides.items()}
        means = {name: float(v.mean()) for name, v in there.items() if v is not None}
        resampled = {name: _resampled(sides[name], drawn, target) for name in means}
        best = max(means, key=means.__getitem__) if means else ""
        for name in there:
            row: dict[str, object] = {GUIDANCE: scale, "family": name, "target": target}
            if name in means:
                low, high = np.sort(sign * np.nanpercentile(resampled[name], (2.5, 97.5)))
                near, far = np.nanpercentile(resampled[best] - resampled[name], (2.5, 97.5))
                row |= {"mean": sign * means[name], "low": low, "high": high}
                row |= {"behind": means[best] - means[name], "behind_low": near, "behind_high": far}
            rows.append(row)
    return rows


def drawn_savings(frame: pd.DataFrame, by: str, known: pd.Series) -> pd.DataFrame:
    """Draw the savings of methods: a row for each of `TIMES` draws, one row where all are counts.

    The logarithm of a speedup is drawn from the normal distribution of which its measured interval
    holds 95 %.
    """
    times = frame[frame.kind == "time"].drop_duplicates("method").set_index("method")
    if by != "speedup" or "speedup_low" not in times:
        return known.to_frame().T
    wide = np.log(times.speedup_high / times.speedup_low).reindex(known.index).fillna(0.0)
    noise = np.random.default_rng(0).normal(size=(TIMES, len(known))) / (2 * 1.96)
    return pd.DataFrame(known.to_numpy() * np.exp(noise * wide.to_numpy()), columns=known.index)


def _resampled(values: pd.DataFrame, drawn: pd.DataFrame, target: float) -> np.ndarray:
    """Return what methods reach at a target in each draw of savings and of pictures, a mean each.

    Where the drawn savings reach no target, the best that is as fast as they allow.
    """
    table, means, reached_there = values.to_numpy(), values.mean().to_numpy(), list[np.ndarray]()
    for savings_ in drawn[values.columns].to_numpy():
        mixed = mixture(means, savings_, min(target, np.nanmax(savings_)))
        assert mixed is not None
        left, right, share = mixed
        both = (
            table[:, right]
            if share == 1
            else (1 - share) * table[:, left] + share * table[:, right]
        )
        reached_there.append(both)
    index = np.random.default_rng(0).integers(len(table), size=(DRAWS, len(table)))
    draws = np.stack(reached_there)[np.arange(DRAWS) % len(reached_there)]
    return np.nanmean(np.take_along_axis(draws, index, axis=1), axis=1)


def ranking_table(frame: pd.DataFrame, value: str = "psnr") -> pd.DataFrame:
    """Write the ranking at equal measured time, and beside it at equal operations.

    A line for each guidance scale and family, the best at twice the speed first, and the best at
    1.5 times the speed first of those that are not as fast. Columns are the targets: the quality
    with its 95 % interval, nothing where a family is not as fast. A family that reaches no target
    has no line.

    >>> rows = [{"kind": "quality", "family": "mine", "method": "a", "picture": 0, "psnr": 30.0},
    ...         {"kind": "time", "family": "mine", "method": "a", "speedup": 2.2}]
    >>> ranking_table(pd.DataFrame(rows)).iloc[0].to_dict()
    {'family': 'mine', '1.5x': '30.0 (30.0 to 30.0)', '2x': '30.0 (30.0 to 30.0)'}
    """
    columns = {"": "speedup", " operations": OPERATIONS}
    return _noted(_written(frame, value, columns), frame, _title(value, frame), value)


def detail_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Write the ranking by detail: how far it is from that of rendered truth, in octaves.

    >>> rows = [{"kind": "quality", "family": "a", "method": "a", "picture": 0, "detail_error": 1},
    ...         {"kind": "time", "family": "a", "method": "a", "speedup": 1.6}]
    >>> detail_table(pd.DataFrame(rows)).iloc[0].to_dict()
    {'family': 'a', '1.5x': '1.00 (1.00 to 1.00)'}
    """
    if "detail_error" not in frame:
        return pd.DataFrame(columns=[GUIDANCE, "family"])
    columns = {"": "speedup", " operations": OPERATIONS}
    table = _written(frame, "detail_error", columns, digits=2)
    return _noted(table, frame, "Distance of detail to rendered truth in octaves", "detail_error")


def memory_table(frame: pd.DataFrame, value: str = "psnr") -> pd.DataFrame:
    """Write the ranking at equal bytes of keys and values, of the families that save them."""
    table = _written(frame, value, {" fewer bytes": CACHE})
    return _noted(table, frame, _title(value, frame), value)


def _noted(table: pd.DataFrame, frame: pd.DataFrame, title: str, value: str) -> pd.DataFrame:
    """Note under a table its unit, what is better, what intervals hold, and what is left out."""
    sign, gap = direction(value, frame), timing_gap(frame)
    better = f" {'more' if sign > 0 else 'less'} is better," if sign else ""
    note = f"{title},{better} with 95 % intervals over the pictures"
    if any(str(column).endswith("x") for column in table):
        note += " and, at equal measured speed, over the turns of each timing"
        if gap == gap:
            apart = f"{100 * gap:.0f} % apart"
            note += f"; timings of equal work were up to {apart}, which the intervals leave out"
    table.attrs[NOTE] = " ".join(filter(None, (f"{note}.", left_out(frame))))
    return table


def _written(
    frame: pd.DataFrame, value: str, columns: Mapping[str, str], digits: int = 1
) -> pd.DataFrame:
    """Write rankings side by side; the first one orders the lines."""
    parts, index = list[pd.DataFrame](), [GUIDANCE, "family"]
    for title, by in columns.items():
        rows = ranking(frame, value, by)
        if rows.empty:
            continue
        rows[GUIDANCE] = rows[GUIDANCE].astype(object).fillna("")
        rows["text"] = [
            ""
            if np.isnan(r["mean"])
            else f"{r['mean']:.{digits}f} ({r.low:.{digits}f} to {r.high:.{digits}f})"
            for _, r in rows.iterrows()
        ]
        wide = rows.pivot_table(index=index, columns="target", values="text", aggfunc="first")
        wide.columns = pd.Index([f"{target:g}x{title}" for target in wide])
        behind = rows.pivot_table(index=index, columns="target", values="behind", dropna=False)
        order = behind.reset_index().sort_values([GUIDANCE, 2.0, *behind.columns])
        parts.append(wide.reindex(pd.MultiIndex.from_frame(order[index])))
    if not parts:
        return pd.DataFrame(columns=index)
    table = pd.concat(parts, axis=1, sort=False).fillna("")
    table = table[(table != "").any(axis=1)].reset_index()
    return table.loc[:, (table != "").any()]
