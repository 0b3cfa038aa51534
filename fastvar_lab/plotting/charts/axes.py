"""Axes that charts share: panels, bars with intervals, colors of methods."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from fastvar_lab.plotting.style import FAST, FULL, Figure

COLUMN = 3.4  # inches, one column of a two-column paper
PALETTE = sns.color_palette("colorblind")


def panels(
    width: float = COLUMN, height: float = 2.2, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """Make a figure, in inches, with panels side by side."""
    fig = Figure(figsize=(width, height), layout="constrained")
    return fig, list(fig.subplots(1, columns, squeeze=False)[0])


def method_colors(frame: pd.DataFrame) -> dict[str, Any]:
    """Give each method of a frame its color: full and FastVAR theirs, others those that are left.

    >>> frame = pd.DataFrame({"method": ["full", "mine"], "family": ["full", "FastVAR"]})
    >>> method_colors(frame) == {"full": FULL, "mine": FAST}
    True
    """
    families = dict(zip(frame.method, frame.get("family", frame.method), strict=True))
    colors: dict[str, Any] = {}
    others = cycle(color for i, color in enumerate(PALETTE) if i not in (0, 3))
    for method, family in families.items():
        own = {"full": FULL, "FastVAR": FAST}.get(family)
        colors[method] = next(others) if own is None or own in colors.values() else own
    return colors


def bars(axes: Axes, rows: pd.DataFrame, low: str, high: str) -> None:
    """Draw a summary as points with intervals, one method a row, best known order kept."""
    y = places(axes, len(rows))
    spread = np.abs([rows["mean"] - rows[low], rows[high] - rows["mean"]])
    axes.errorbar(rows["mean"], y, xerr=spread, fmt="o", ms=3.5, lw=1, color=PALETTE[0])
    axes.set_yticks(y, rows.method)
    axes.grid(axis="x", lw=0.4, color="0.9")
    sns.despine(ax=axes)


def looks() -> Iterator[dict[str, Any]]:
    """Give every line a color, a marker and a dash, so that they differ in grey as well."""
    for line, color in zip(cycle(("o-", "s--", "^:", "D-.")), cycle(PALETTE)):
        yield {"line": line, "color": color}


def places(axes: Axes, n: int) -> np.ndarray:
    """Give places of n rows from the top, the same in every panel."""
    axes.set_ylim(-0.5, n - 0.5)
    return np.arange(n)[::-1]


def medians(axes: Axes, frame: pd.DataFrame, x: str, y: str) -> None:
    """Draw medians over the turns side by side, and what the middle half of them spans."""
    spread = {"estimator": "median", "errorbar": ("pi", 50), "err_kws": {"lw": 1}}
    by_method(axes, frame, x, y, **spread)


def by_method(axes: Axes, frame: pd.DataFrame, x: str, y: str, **options: Any) -> None:
    """Draw bars side by side, one color a method."""
    colors = method_colors(frame)
    sns.barplot(frame, x=x, y=y, hue="method", palette=colors, saturation=1, ax=axes, **options)
    axes.legend(frameon=False)
    sns.despine(ax=axes)
