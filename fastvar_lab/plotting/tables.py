"""Tables of an experiment's frame: one line a method or setting, for terminals and papers."""

from __future__ import annotations

import pandas as pd

from fastvar_lab.measure.statistics import summary

QUALITIES = {
    "right": ("score", 2),
    "psnr": ("PSNR (dB)", 1),
    "ssim": ("SSIM", 3),
    "ms_ssim": ("MS-SSIM", 3),
    "vif": ("VIF", 3),
    "spectrum_error": ("spectrum error", 3),
}
SETTINGS = ("method", "kernel", "what", "domain", "side", "size", "source_size", "kind")
MEASURED = (
    "ms",
    "speedup",
    "speedup_flop_bound",
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
)


def tabulate(frame: pd.DataFrame) -> pd.DataFrame:
    """Summarise a frame: per method means with 95 % intervals and measured speedups.

    Speedups are medians of turns, the least and greatest in square brackets.
    Frames of experiments that compare no methods give the means of what was measured by setting.

    >>> made = {"kind": "quality", "method": "full", "right": 1.0}
    >>> time = {"kind": "time", "method": "full", "speedup": 1.0, "speedup_flop_bound": 1.0}
    >>> tabulate(pd.DataFrame([{**made, "picture": i} for i in (0, 1)] + [time])).T[0].to_list()
    ['full', '1.00 (0.34 to 1.00)', '1.00', '1.00', '2']
    """
    if "kind" not in frame or not (frame.kind == "quality").any():
        by = [c for c in SETTINGS if c in frame and frame[c].notna().any()]
        numbers = [c for c in MEASURED if c in frame]
        kinds = {c: "median" if c == "ms" else "mean" for c in numbers}
        means = frame.groupby(by, sort=False, dropna=False).agg(kinds)
        return means.map(_digits).reset_index().fillna("")
    made, times = compared(frame)
    out = pd.DataFrame({"method": made.method.unique()})
    for column, (title, digits) in QUALITIES.items():
        if column in made and made[column].notna().any():
            rows = summary(made, ["method"], column)
            out[title] = [
                f"{r['mean']:.{digits}f} ({r.low:.{digits}f} to {r.high:.{digits}f})"
                for _, r in rows.iterrows()
            ]
    out["speedup"] = [_speedup(times.loc[m]) for m in out.method]
    out["FLOP bound"] = [f"{times.speedup_flop_bound[m]:.2f}" for m in out.method]
    out["n"] = [str((made.method == m).sum()) for m in out.method]
    return out


def compared(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split a frame that compares methods: a row a picture and method, and times by method.

    Raises ValueError for a frame of anything else, and for one in which a method stands twice.
    """
    lacking = {"kind", "method"} - set(frame.columns)
    if lacking or not {"quality", "time"} <= set(frame.kind):
        raise ValueError(
            "the frame must come from `compare` or an experiment that compares methods, with its "
            "rows of both kinds, quality and time"
        )
    made, times = frame[frame.kind == "quality"], frame[frame.kind == "time"].set_index("method")
    twice = [
        *made.method[made.duplicated(["method", "picture"])],
        *times.index[times.index.duplicated()],
    ]
    if twice:
        raise ValueError(
            f"{twice[0]!r} stands twice in the frame; frames cannot be joined: `compare` the "
            "methods of both in one call, which measures nothing anew"
        )
    untimed = sorted({"full", *made.method} - set(times.index))
    if untimed or "full" not in set(made.method):
        raise ValueError(f"the frame lacks rows of {', '.join(untimed) or 'full'}")
    return made, times


def _speedup(row: pd.Series) -> str:
    """Write a median speedup, and the least and greatest of its turns where they are known."""
    if "speedup_min" not in row:
        return f"{row.speedup:.2f}"
    return f"{row.speedup:.2f} [{row.speedup_min:.2f} to {row.speedup_max:.2f}]"


def _digits(mean: float) -> str:
    """Write four digits of a mean, nothing for one that was not measured."""
    return "" if mean != mean else f"{mean:.0f}" if abs(mean) >= 1000 else f"{mean:.4g}"


def markdown(table: pd.DataFrame) -> str:
    """Write a table as Markdown.

    >>> print(markdown(pd.DataFrame({"method": ["full"], "ms": [1.5]})))
    | method | ms |
    |---|---|
    | full | 1.5 |
    <BLANKLINE>
    """
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).values.tolist()]
    lines = ["| " + " | ".join(str(v).replace("|", r"\|") for v in row) + " |" for row in rows]
    lines[1] = lines[1].replace(" ", "")
    return "\n".join(lines) + "\n"


def latex(table: pd.DataFrame) -> str:
    """Write a table as LaTeX with booktabs' rules, its special characters escaped."""
    columns = "l" + "r" * (len(table.columns) - 1)
    style = table.style.format(escape="latex").format_index(escape="latex", axis=1)
    return str(style.hide(axis="index").to_latex(hrules=True, column_format=columns))
