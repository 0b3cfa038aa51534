"""The chart of pruning beside reduced precision: quality, time, memory."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from fastvar_lab.measure.quality import MOST_PSNR
from fastvar_lab.measure.statistics import summary
from fastvar_lab.plotting.charts.axes import medians, method_looks, panels
from fastvar_lab.plotting.style import WIDTH, Figure, legend_label, style


def precisions(frame: pd.DataFrame) -> Figure:
    """Draw PSNR to full generation in float32, time, and memory of one released size.

    A bar beside a point is the PSNR to expect if the errors of precision and pruning added. Times
    are medians over the turns; of memory the weights are pale, and the rest is what a generation
    takes beside them.
    """
    drawn, times, counted = (frame[frame.what == what] for what in ("quality", "time", "memory"))
    with style():
        drawers = {_quality: drawn, _times: times, _memory: counted}
        shown = [(draw, part) for draw, part in drawers.items() if len(part)]
        fig, row = panels(WIDTH, 2.7, len(shown))
        for axes, (draw, part) in zip(row, shown, strict=True):
            draw(axes, part)
            axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2,
                        borderaxespad=0, columnspacing=0.8, handletextpad=0.4)  # fmt: skip
    return fig


def _times(axes: Axes, times: pd.DataFrame) -> None:
    medians(axes, times, x="precision", y="ms")
    axes.set(xlabel="", ylabel="time (ms)")
    axes.tick_params(axis="x", rotation=30)


def _quality(axes: Axes, drawn: pd.DataFrame) -> None:
    looks, names = method_looks(drawn), list(drawn.precision.unique())
    settings = list(drawn.method.unique())
    error = drawn.pivot_table(index="picture", columns=["precision", "method"], values="error")
    full = drawn[drawn.family == "full"].method.iloc[0]
    for i, setting in enumerate(settings):
        part = summary(drawn[drawn.method == setting], ["precision"], "psnr").set_index("precision")
        shown = [name for name in names if error[name, setting].any()]
        place = (
            np.array([names.index(name) for name in shown]) + (i - (len(settings) - 1) / 2) * 0.2
        )
        part = part.loc[shown]
        spread = np.abs([part["mean"] - part.low, part.high - part["mean"]])
        color, marker = looks[setting]
        axes.errorbar(place, part["mean"], yerr=spread, fmt=marker, ms=3.5, lw=1, color=color,
                      label=legend_label(setting))  # fmt: skip
        if setting != full:
            both = [n for n in shown if n != names[0]]
            level = [_psnr(error[n, full] + error[names[0], setting]).mean() for n in both]
            axes.plot(np.array([place[shown.index(n)] for n in both]) + 0.08, level, "_",
                      ms=7, color="0.3")  # fmt: skip
    axes.plot([], [], "_", ms=7, color="0.3", label="errors added")
    axes.set_xticks(range(len(names)), names, rotation=30)
    axes.set(ylabel=f"PSNR to full in {names[0]} (dB), n = {drawn.picture.nunique()}")
    axes.grid(axis="y", lw=0.4, color="0.9")
    sns.despine(ax=axes)


def _psnr(error: pd.Series) -> pd.Series:
    """Return the PSNR in dB, at most `MOST_PSNR`, of mean square errors of values in 0 to 255."""
    return np.log10(255**2 / error).mul(10).clip(upper=MOST_PSNR)


def _memory(axes: Axes, counted: pd.DataFrame) -> None:
    release = counted.release.iloc[0]
    part = counted[counted.release == release]
    names, looks = list(part.precision.unique()), method_looks(part)
    count = part.method.nunique()
    step = 0.76 / count
    for i, (setting, rows) in enumerate(part.groupby("method", sort=False)):
        rows = rows.set_index("precision").loc[names]
        place = np.arange(len(names)) + (i - (count - 1) / 2) * step
        color, width, weights = looks[setting].color, 0.95 * step, rows.weight_bytes / 1e9
        axes.bar(place, weights, width, color=color, alpha=0.4)
        axes.bar(place, rows.peak_bytes / 1e9 - weights, width, bottom=weights, color=color,
                 label=legend_label(setting))  # fmt: skip
    axes.set_xticks(range(len(names)), names, rotation=30)
    axes.set(ylabel=f"memory of {release} (GB)")
    sns.despine(ax=axes)
