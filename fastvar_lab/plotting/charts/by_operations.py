"""Quality against what it costs in operations or memory, one line for each way of a question."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from fastvar_lab.frames import CACHE, GUIDANCE, LINE, OPERATIONS, by_guidance, counted
from fastvar_lab.measure.statistics import summary
from fastvar_lab.plotting.charts.axes import wrapped
from fastvar_lab.plotting.style import WIDTH, Figure, Look, looks, style

COSTS = {
    OPERATIONS: "operations (% of full)",
    CACHE: "keys and values held (% of full in 16 bits)",
}
QUALITIES = {
    "psnr": "PSNR to full (dB)",
    "spectrum_error": "spectrum error",
    "detail_error": "error of detail (octaves)",
}
HEIGHT = 2.3  # inches of a row of panels


def operations_points(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a line, setting and quality: its costs, and the mean with its 95 % interval.

    >>> from fastvar_lab.experiments.run import run
    >>> points = operations_points(run("skipping", "quick", progress=False))
    >>> [*points.columns]
    ['line', 'method', 'operations', 'value', 'mean', 'low', 'high', 'n']
    """
    pictures = counted(frame)
    pictures = pictures[pictures.family != "full"]
    keys = [c for c in (GUIDANCE, LINE, "method", OPERATIONS, CACHE) if c in pictures]
    values = [value for value in QUALITIES if value in pictures]
    rows = [summary(pictures, keys, value).assign(value=value) for value in values]
    return pd.concat(rows, ignore_index=True)[[*keys, "value", "mean", "low", "high", "n"]]


def by_operations(frame: pd.DataFrame) -> Figure:
    """Draw quality over counted operations, or over held keys: one line each, 95 % intervals.

    `frame` is that of an untimed experiment with lines, or its points. Several guidance scales
    stand in rows.

    >>> from fastvar_lab.experiments.run import run
    >>> by_operations(run("skipping", "quick", progress=False)).axes[0].get_xlabel()
    'operations (% of full)'
    """
    points = frame if "value" in frame else operations_points(frame)
    cost = CACHE if CACHE in points and points[CACHE].notna().any() else OPERATIONS
    values = [value for value in QUALITIES if (points.value == value).any()]
    scales = by_guidance(points)
    styles = looks(points[LINE])
    with style():
        fig = Figure(figsize=(WIDTH, HEIGHT * len(scales)), layout="constrained")
        grid = fig.subplots(len(scales), len(values), squeeze=False)
        for row, (scale, here) in zip(grid, scales, strict=True):
            for axes, value in zip(row, values, strict=True):
                for line, part in here[here.value == value].groupby(LINE, sort=False):
                    _draw(axes, part.sort_values(cost), cost, str(line), styles[line])
                n = f", n = {points.n.max()}" if value == "psnr" else ""
                axes.set(xlabel=COSTS[cost], ylabel=f"{QUALITIES[value]}{n}")
                axes.grid(lw=0.4, color="0.9")
                sns.despine(ax=axes)
            if scale is not None:
                row[0].set_title(f"guidance {scale:g}", loc="left")
        grid[0, -1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def _draw(axes: Axes, part: pd.DataFrame, cost: str, line: str, look: Look) -> None:
    """Draw the settings of one line, by rising cost."""
    color, marker = look
    spread = np.abs([part["mean"] - part.low, part.high - part["mean"]])
    axes.errorbar(
        100 * part[cost],
        part["mean"],
        yerr=spread,
        fmt=f"{marker}-",
        ms=3,
        lw=1,
        elinewidth=0.5,
        color=color,
        label="\n".join(wrapped([line])),
    )
