"""Tables of an experiment's frame: one line a method or setting, for terminals and papers."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from fastvar_lab.frames import (
    CACHE,
    GUIDANCE,
    KEPT,
    NOTE,
    OPERATIONS,
    PLACE,
    SCORE,
    by_guidance,
    check_one_place,
    counted,
    is_described,
    titles,
)
from fastvar_lab.measure.quality import METRICS
from fastvar_lab.measure.speedup import DISTURBED, disturbances
from fastvar_lab.measure.statistics import summary

TAKEN = ("method", "speedup", "FLOP bound", "n", *PLACE)  # titles of a comparison's other columns
SETTINGS = (
    "method",
    "precision",
    "release",
    "kernel",
    "what",
    "domain",
    "side",
    "size",
    "source_size",
    "kind",
)
MEASURED = (
    "ms",
    "speedup",
    "speedup_flop_bound",
    "gap",
    "choosing",
    "restoring",
    "products",
    "rest",
    "kv_share",
    "share",
    "cosine",
    "kv_measured",
    "held_measured",
    "right",
    "settled",
    "energy",
    "to_last",
    "psnr",
    "psnr_same",
    "weight_bytes",
    "cache_bytes",
    "peak_bytes",
)

BYTES = ("kv_measured", "held_measured", "weight_bytes", "cache_bytes", "peak_bytes")
"""Those that are bytes, written in megabytes."""

HEADINGS = {
    "release": "released model", "side": "map side (tokens)", "size": "map",
    "source_size": "attended map",
    "ms": "time (ms)", "speedup_flop_bound": "FLOP bound", "kv_share": "share of KV cache",
    "kv_measured": "KV cache (MB)", "held_measured": "restore cache (MB)",
    "weight_bytes": "weights (MB)", "cache_bytes": "caches (MB)", "peak_bytes": "peak (MB)",
    "right": "score", "psnr": "PSNR (dB)", "psnr_same": "PSNR, same precision (dB)",
}  # fmt: skip
"""What tables of settings call columns, where that is not their name."""

POINTS = {"mean", "low", "high", "n"}
"""Columns of frames that hold the points of a figure in place of its pictures."""

SAME = 1e-4
"""Width of an interval of equal values: in float32, MS-SSIM of equal pictures is 1 within 2e-5."""

SHARES = ("gap", "choosing", "restoring", "products", "rest")
"""Those that are shares of a time, written in per cent."""


def tabulate(frame: pd.DataFrame) -> pd.DataFrame:
    """Summarise a frame: per method means with 95 % intervals and measured speedups.

    Speedups are medians of turns, their interval in square brackets. A merged frame has a line for
    each model and machine. Frames of experiments that compare no methods give the means of what
    was measured by setting, with a note beside disturbed timings. Columns of your own that hold
    text are settings too, and those of numbers are measured where no usual one is.

    >>> full = {"method": "full", "family": "full"}
    >>> row = {"kind": "quality", "right": 1.0, **full}
    >>> time = {"kind": "time", "speedup": 1.0, "speedup_flop_bound": 1.0, **full}
    >>> tabulate(pd.DataFrame([{**row, "picture": i} for i in (0, 1)] + [time])).T[0].to_list()
    ['full', '1.00 (0.34 to 1.00)', '1.00', '1.00', '2']
    """
    if "kind" not in frame or not (frame.kind == "quality").any():
        return _settings_table(frame)
    if not (frame.kind == "time").any():
        return _counted_table(frame)
    parts = [_compared_table(part, place) for place, part in _places(frame)]
    return pd.concat(parts, ignore_index=True).fillna("")


def _settings_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Average what was measured, by setting; times are medians."""
    known = {*SETTINGS, *MEASURED, *PLACE}
    own = [c for c in map(str, frame.columns) if c not in known and not is_described(c)]
    text = [c for c in own if not is_numeric_dtype(frame[c])]
    several = [c for c in PLACE if c in frame and frame[c].nunique() > 1]
    by = [*several, *(c for c in SETTINGS if c in frame and frame[c].notna().any()), *text]
    if by and set(frame.columns) >= POINTS:
        return _points_table(frame, by)
    numbers = [c for c in MEASURED if c in frame and frame[c].notna().any()]
    numbers = numbers or [c for c in own if c not in text]
    kinds = {c: "median" if c == "ms" else "mean" for c in numbers}
    megabytes = {c: frame[c] / 1e6 for c in numbers if c in BYTES}
    noted = frame.assign(**megabytes, disturbed=disturbances(frame))
    groups = noted.groupby(by or noted.index.map(lambda row: "all"), sort=False, dropna=False)
    table = groups.agg(kinds)
    table = table.apply(lambda part: part.map(_percent if part.name in SHARES else _digits))
    wide = groups.disturbed.any()
    if wide.any():
        table["note"] = [DISTURBED if any_wide else "" for any_wide in wide]
    return table.reset_index(drop=not by).fillna("").rename(columns=HEADINGS)


def _points_table(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Write the points of a figure whose pictures are summed up: means with their intervals."""
    lines: list[dict[str, Any]] = []
    for place, part in frame.groupby(by, sort=False, dropna=False):
        mean = _digits(part["mean"].mean())
        if len(part) == 1:
            mean += f" ({_digits(part.low.item())} to {_digits(part.high.item())})"
        lines.append({**dict(zip(by, place, strict=True)), "mean": mean, "n": str(part.n.max())})
    table = pd.DataFrame(lines).fillna("").rename(columns=HEADINGS)
    if frame.groupby(by, dropna=False).size().max() > 1:
        table.attrs[NOTE] = "A mean without an interval is of several points of the figure."
    return table


def _compared_table(frame: pd.DataFrame, place: dict[str, Any]) -> pd.DataFrame:
    """Summarise the comparison on one machine of one model."""
    pictures, times = compared(frame)
    out = pd.DataFrame({"method": pictures.method.unique()})
    for column, (title, digits) in metric_columns(pictures).items():
        out[title] = _intervals(pictures, column, digits)
    out["speedup"] = [_speedup(times.loc[m]) for m in out.method]
    out["FLOP bound"] = [f"{times.speedup_flop_bound[m]:.2f}" for m in out.method]
    out["n"] = [str((pictures.method == m).sum()) for m in out.method]
    for column, value in reversed(place.items()):
        out.insert(0, column, value)
    return out


def _counted_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Summarise a comparison that times nothing, of each model at each guidance scale."""
    if "model" in frame and frame.model.nunique() > 1:
        of_each = [
            (name, _counted_table(part)) for name, part in frame.groupby("model", sort=False)
        ]
        for name, part in of_each:
            part.insert(0, "model", name)
        return pd.concat([part for _, part in of_each], ignore_index=True).fillna("")
    costed = (frame.kind == "operations").any()
    pictures, tables = counted(frame) if costed else frame, list[pd.DataFrame]()
    for scale, part in by_guidance(pictures):
        out = pd.DataFrame({"method": part.method.unique()})
        for column, (title, digits) in metric_columns(part).items():
            out[title] = _intervals(part, column, digits)
        for column, title in ((OPERATIONS, "operations"), (CACHE, "cache")):
            if column in part and part[column].notna().any():
                shares = part.groupby("method", sort=False)[column].mean()
                out[title] = ["" if s != s else f"{100 * s:.0f} %" for s in shares]
        out["n"] = [str((part.method == m).sum()) for m in out.method]
        if scale is not None:
            out.insert(0, GUIDANCE, scale)
        tables.append(out)
    return pd.concat(tables, ignore_index=True).fillna("")


def _intervals(pictures: pd.DataFrame, column: str, digits: int) -> list[str]:
    """Write each method's mean with its interval; nothing where full is compared with itself."""
    full = set(pictures.method[pictures.family == "full"])
    return [
        f"{row['mean']:.{digits}f} ({row.low:.{digits}f} to {row.high:.{digits}f})"
        if row.n and not (column in METRICS and row.method in full and row.high - row.low < SAME)
        else ""
        for _, row in summary(pictures, ["method"], column).iterrows()
    ]


def _places(frame: pd.DataFrame) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Split a comparison by model and machine; a machine's times go with its model's pictures."""
    several = [c for c in PLACE if c in frame and frame[c].nunique() > 1]
    if not several:
        return [({}, frame)]
    times = frame[frame.kind == "time"]
    places = []
    for _, row in times[several].drop_duplicates().iterrows():
        place = {column: row[column] for column in several}
        same = pd.Series(True, index=frame.index)
        for column, value in place.items():
            same &= (frame[column] == value) | (frame[column].isna() & (frame.kind == "quality"))
        places.append((place, frame[same]))
    return places


def metric_columns(pictures: pd.DataFrame) -> dict[str, tuple[str, int]]:
    """Return the columns of metrics with title and digits: shipped ones first, then your own.

    A title that another column has already is followed by the name of the column.
    """
    known = {SCORE: ("score", 2)} | {m.name: (m.title, m.digits) for m in METRICS.values()}
    user_titles = titles(pictures)
    for column in pictures.select_dtypes("number"):
        if not is_described(column) and column not in known:
            shipped = [m for m in METRICS.values() if column.startswith(f"{m.name}_")]
            usual = shipped[0].heading(column) if shipped else (column, 3)
            known[column] = user_titles.get(column, usual)
    columns, taken = dict[str, tuple[str, int]](), set(TAKEN)
    for column, (title, digits) in known.items():
        if column in pictures and pictures[column].notna().any():
            title = f"{title} ({column})" if title in taken else title
            columns[column] = title, digits
            taken.add(title)
    return columns


def compared(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split a frame that compares methods: a row a picture and method, and times by method.

    Raises ValueError for a frame of anything else, for one of several models, machines or guidance
    scales, and for one in which a method stands twice.
    """
    lacking = {"kind", "method", "family"} - set(frame.columns)
    if lacking or not {"quality", "time"} <= set(frame.kind):
        raise ValueError(
            "the frame must come from `compare` or an experiment that compares methods, with its "
            "rows of both kinds, quality and time"
        )
    check_one_place(frame)
    pictures = frame[frame.kind == "quality"]
    times = frame[frame.kind == "time"].set_index("method")
    twice = [
        *pictures.method[pictures.duplicated(["method", "picture"])],
        *times.index[times.index.duplicated()],
    ]
    if twice:
        raise ValueError(
            f"{twice[0]!r} stands twice in the frame; join frames by `merge`, or `compare` the "
            "methods of both in one call, which measures nothing again"
        )
    untimed = sorted({"full", *pictures.method} - set(times.index))
    if untimed or "full" not in set(pictures.method):
        raise ValueError(f"the frame lacks rows of {', '.join(untimed) or 'full'}")
    return pictures, times


def pruned_shares(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the share of tokens pruned by method and scale: one row a method, one column a scale.

    >>> rows = [{"method": "full", "family": "full", "kept_2x2": 4},
    ...         {"method": "mine", "family": "FastVAR", "kept_2x2": 1}]
    >>> pruned_shares(pd.DataFrame(rows)).loc["mine"].to_dict()
    {'2x2': 0.75}
    """
    columns = {f"{KEPT}{scale}": scale for scale in scales(frame)}
    kept = frame.drop_duplicates("method").set_index("method")[[*columns]].astype(float)
    shares = 1 - kept / kept.loc[frame.method[frame.family == "full"].iloc[0]]
    return shares.rename(columns=columns)


def scales(frame: pd.DataFrame) -> list[str]:
    """Name the scale steps that a frame has columns of, in order.

    >>> scales(pd.DataFrame({"kept_1x1": [1], "kept_2x2": [4]}))
    ['1x1', '2x2']
    """
    columns = [c for c in frame if str(c).startswith(KEPT) and frame[c].notna().any()]
    return [str(c).removeprefix(KEPT) for c in columns]


def _speedup(row: pd.Series) -> str:
    """Write a median speedup, and its interval where it is known."""
    disturbed = f", {DISTURBED}" if row.get("disturbed") in (True,) else ""
    if "speedup_low" not in row or pd.isna(row.speedup_low):
        return f"{row.speedup:.2f}{disturbed}"
    return f"{row.speedup:.2f} [{row.speedup_low:.2f} to {row.speedup_high:.2f}]{disturbed}"


def _digits(mean: float) -> str:
    """Write four digits of a mean, nothing for one that was not measured."""
    return "" if mean != mean else f"{mean:.0f}" if abs(mean) >= 1000 else f"{mean:.4g}"


def _percent(share: float) -> str:
    """Write a share in per cent, nothing for one that was not measured."""
    return "" if share != share else f"{round(100 * share, 1) + 0.0:.1f} %"


MARKUP = re.compile(r"[\\`*<|$~]|\](?=\()|(?<!\w)_|_(?!\w)")
"""What Markdown would read as more than text."""


def markdown(table: pd.DataFrame, markup: Collection[str] = ()) -> str:
    r"""Write a table as Markdown; text is escaped, except in the columns that hold `markup`.

    >>> print(markdown(pd.DataFrame({"method": ["full", "a|b *c*"], "ms": [1.5, 2]})))
    | method     | ms   |
    |:-----------|:-----|
    | full       | 1.5  |
    | a\|b \*c\* | 2.0  |
    <BLANKLINE>
    """
    text = table.astype(str)
    for column in text:
        special = MARKUP if column not in markup else re.compile(r"\|")
        text[column] = [escaped(cell, special) for cell in text[column]]
    text.columns = [escaped(str(name)) for name in text]
    return str(text.to_markdown(index=False, disable_numparse=True)) + "\n"


def escaped(text: str, special: re.Pattern[str] = MARKUP) -> str:
    r"""Escape in one line of text what Markdown would read as more.

    >>> print(escaped("a|b *c*"))
    a\|b \*c\*
    """
    return one_line(special.sub(r"\\\g<0>", text))


def latex(table: pd.DataFrame, caption: str = "", label: str = "") -> str:
    r"""Write a table as LaTeX with booktabs' rules, its special characters escaped.

    With a caption it is a whole float, which `label` names for references.

    >>> "{[}mine], 50 \\% \\$" in latex(pd.DataFrame({"method": ["[mine], 50 % $"]}))
    True
    """
    columns = "l" + "r" * (len(table.columns) - 1)
    table = table.map(lambda cell: one_line(cell) if isinstance(cell, str) else cell)
    style = table.style.format(escape="latex").format_index(escape="latex", axis=1)
    floating: Any = {}
    if caption:
        text = re.sub(r"[&%$#_{}]", r"\\\g<0>", one_line(caption))
        floating = {"caption": text, "label": label, "position_float": "centering"}
    text = str(style.hide(axis="index").to_latex(hrules=True, column_format=columns, **floating))
    # after a rule or the end of a row, LaTeX takes a bracket or a star for an option
    return re.sub(r"^(\s*)([\[*])", r"\1{\2}", text, flags=re.M)


def one_line(text: str) -> str:
    """Join the lines of a cell."""
    return " ".join(text.split("\n"))
