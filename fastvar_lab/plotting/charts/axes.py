"""Axes that charts share: panels, bars with intervals, colors of methods."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from fastvar_lab.frames import check_one_place
from fastvar_lab.measure.speedup import DISTURBED, disturbances
from fastvar_lab.plotting.style import PALETTE, Figure, Look, legend_label, looks

LONGEST = 34  # characters of a label on one line
COLUMN = 3.4  # inches, one column of a two-column paper


def panels(
    width: float = COLUMN, height: float = 2.2, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """Make a figure, in inches, with panels side by side."""
    fig = Figure(figsize=(width, height), layout="constrained")
    return fig, list(fig.subplots(1, columns, squeeze=False)[0])


def method_looks(frame: pd.DataFrame) -> dict[str, Look]:
    """Give each method of a frame its family's look, or one of its own if the family has several.

    >>> frame = pd.DataFrame({"method": ["full", "mine"], "family": ["full", "FastVAR"]})
    >>> method_looks(frame)["mine"] == looks(["FastVAR"])["FastVAR"]
    True
    """
    families = dict(zip(frame.method, frame.family, strict=True))
    first = {family: method for method, family in reversed(families.items())}
    names = {m: family if first[family] == m else m for m, family in families.items()}
    styles = looks(names.values())
    return {method: styles[name] for method, name in names.items()}


def step_colors(n: int) -> list[tuple[float, float, float]]:
    """Give a color (RGB) to each of n scale steps, dark to bright, all to be told from white.

    >>> len(step_colors(10))
    10
    """
    return [mpl.colormaps["plasma"](place)[:3] for place in np.linspace(0, 0.92, n)]


def bars(axes: Axes, rows: pd.DataFrame, low: str, high: str) -> None:
    """Draw a summary as points with intervals, one method a row, best known order kept."""
    y = places(axes, len(rows))
    spread = np.abs([rows["mean"] - rows[low], rows[high] - rows["mean"]])
    axes.errorbar(rows["mean"], y, xerr=spread, fmt="o", ms=3.5, lw=1, color=PALETTE[0])
    axes.set_yticks(y, wrapped(rows.method))
    axes.grid(axis="x", lw=0.4, color="0.9")
    sns.despine(ax=axes)


def wrapped(labels: Iterable[str]) -> list[str]:
    r"""Break long labels into lines, after commas.

    >>> wrapped(["FastVAR 24x24: 50 %, 32x32: 75 %, layers 3 to 27"])
    ['FastVAR 24x24: 50 %, 32x32: 75 %,\nlayers 3 to 27']
    """
    lines = [fill(label.replace(" ", "\xa0").replace(",\xa0", ", "), LONGEST) for label in labels]
    return [line.replace("\xa0", " ") for line in lines]


def places(axes: Axes, n: int) -> np.ndarray:
    """Give places of n rows from the top, the same in every panel."""
    axes.set_ylim(-0.5, n - 0.5)
    return np.arange(n)[::-1]


def marked(frame: pd.DataFrame) -> pd.DataFrame:
    """Say in the names of methods that a timing of theirs was disturbed.

    Raises ValueError for timings of several models, machines or guidance scales.

    >>> frame = pd.DataFrame({"method": ["full", "mine"], "disturbed": [False, True]})
    >>> marked(frame).method.to_list()
    ['full', 'mine, timing disturbed']
    """
    check_one_place(frame)
    wide = set(frame.method[disturbances(frame)])
    return frame.assign(method=[f"{m}, {DISTURBED}" if m in wide else m for m in frame.method])


def speedup_colors(rows: pd.DataFrame) -> list[tuple[float, float, float, float]]:
    """Give the color (RGBA) of each row's speedup: pale if its timing was disturbed."""
    return [(*PALETTE[0], 0.3 if wide else 1.0) for wide in disturbances(rows)]


def medians(axes: Axes, frame: pd.DataFrame, x: str, y: str) -> None:
    """Draw medians over the turns side by side, and what the middle half of them spans."""
    frame = marked(frame)
    spread = {"estimator": "median", "errorbar": ("pi", 50), "err_kws": {"lw": 1}}
    by_method(axes, frame, x, y, **spread)


def by_method(axes: Axes, frame: pd.DataFrame, x: str, y: str, **options: Any) -> None:
    """Draw bars side by side, one color a method."""
    frame = frame.assign(method=frame.method.map(legend_label))
    colors = {method: look.color for method, look in method_looks(frame).items()}
    sns.barplot(frame, x=x, y=y, hue="method", palette=colors, saturation=1, ax=axes, **options)
    axes.legend(frameon=False)
    sns.despine(ax=axes)
