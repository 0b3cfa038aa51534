"""Charts of what scale steps add, and how they relate."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from fastvar_lab.frames import check_one_place
from fastvar_lab.measure.spectral_gap import gap_to_last
from fastvar_lab.measure.statistics import summary
from fastvar_lab.plotting.charts.axes import COLUMN, method_looks, panels, step_colors
from fastvar_lab.plotting.style import PALETTE, WIDTH, Figure, legend_label, style


def spectra_points(frame: pd.DataFrame) -> pd.DataFrame:
    """Sum up what `spectra` draws: mean, low, high and n over pictures of each frequency and step.

    A frame that is summed up already is returned as it is.

    >>> from fastvar_lab.experiments.run import run
    >>> list(spectra_points(run("spectra", "quick", progress=False)).what.unique())
    ['settled', 'spectrum']
    """
    if "mean" in frame:
        return frame
    lines = frame[(frame.what == "spectrum") & (frame.domain == "image")]
    lines = lines.assign(to_last=gap_to_last(lines))
    lines = summary(lines, ["what", "step", "size", "frequency"], "to_last")
    settled = summary(frame[frame.what == "settled"], ["what", "step", "size"], "settled")
    return pd.concat([lines, settled]).sort_values(["what", "step"], kind="stable")


def spectra(frame: pd.DataFrame) -> Figure:
    """Spectrum of the picture after every step as its gap to the final one, and what settles.

    >>> from fastvar_lab.experiments.run import run
    >>> spectra(run("spectra", "quick", progress=False)).axes[0].get_ylabel()
    'log10 amplitude, gap to final'
    """
    rows = spectra_points(frame)
    with style():
        fig, (left, right) = panels(WIDTH, 2.4, 2)
        lines = rows[rows.what == "spectrum"].groupby("size", sort=False)
        for color, (size, part) in zip(step_colors(len(lines)), lines):
            part = part.sort_values("frequency")
            left.plot(part.frequency, part["mean"], lw=1, color=color, label=size)
            left.fill_between(part.frequency, part.low, part.high, color=color, alpha=0.2, lw=0)
        left.set(xlabel="frequency (cycles per pixel)", ylabel="log10 amplitude, gap to final")
        left.legend(frameon=False, title="after step", loc="center left", bbox_to_anchor=(1, 0.5))
        settled = rows[rows.what == "settled"]
        right.errorbar(
            np.arange(len(settled)),
            settled["mean"],
            yerr=np.abs([settled["mean"] - settled.low, settled.high - settled["mean"]]),
            fmt="o-",
            ms=3,
            lw=1,
            color=PALETTE[0],
        )
        right.set_xticks(np.arange(len(settled)), settled["size"], rotation=45)
        right.set(xlabel="after step", ylabel=f"share of places settled, n = {settled.n.max()}")
        for axes in (left, right):
            sns.despine(ax=axes)
    return fig


def outputs(frame: pd.DataFrame) -> Figure:
    """PSNR to the full final picture after every step, and task score where there is a judge."""
    titles = {"psnr": "PSNR to the full result (dB)"}
    if "right" in frame and frame.right.notna().any():
        titles["right"] = f"task score, n = {frame.picture.nunique()}"
    looks = method_looks(frame)
    with style():
        fig, row = panels(WIDTH if len(titles) > 1 else COLUMN, 2.3, len(titles))
        sizes = list(dict.fromkeys(frame["size"]))
        itself = (frame.family == "full") & (frame.step == frame.step.max())
        for axes, (value, title) in zip(row, titles.items(), strict=True):
            shown = frame[~itself] if value == "psnr" else frame
            for method, part in shown.groupby("method", sort=False):
                rows, (color, marker) = summary(part, ["size"], value), looks[method]
                x = [sizes.index(s) for s in rows["size"]]
                axes.plot(x, rows["mean"], f"{marker}-", ms=3, lw=1, color=color,
                          label=legend_label(method))  # fmt: skip
                axes.fill_between(x, rows.low, rows.high, color=color, alpha=0.15, lw=0)
            axes.set_xticks(np.arange(len(sizes)), sizes, rotation=45)
            axes.set(xlabel="after step", ylabel=title)
            axes.grid(lw=0.4, color="0.9")
            sns.despine(ax=axes)
        row[-1].legend(frameon=False)
    return fig


def relation_points(frame: pd.DataFrame) -> pd.DataFrame:
    """Sum up what `relations` draws: mean, low, high and n (batches of prompts) of every pair.

    A frame that is summed up already is returned as it is.

    >>> from fastvar_lab.experiments.run import run
    >>> list(relation_points(run("cross_scale", "quick", progress=False)).what.unique())
    ['attention', 'similarity']
    """
    if "mean" in frame:
        return frame
    check_one_place(frame)
    pair = ["what", "step", "size", "source", "source_size"]
    parts = []
    for what, value in (("attention", "share"), ("similarity", "cosine")):
        each = frame[frame.what == what].groupby([*pair, "first"], sort=False)[value].mean()
        parts.append(summary(each.reset_index(), pair, value))
    return pd.concat(parts, ignore_index=True)


def _matrix(axes: Axes, rows: pd.DataFrame, title: str) -> None:
    steps = list(dict.fromkeys([*rows.source_size, *rows["size"]]))
    table = rows.pivot_table(index="size", columns="source_size", values="mean")
    table = table.reindex(
        index=[size for size in steps if size in table.index],
        columns=[size for size in steps if size in table.columns],
    )
    sns.heatmap(table, ax=axes, cmap="viridis", annot=True, fmt=".2f", annot_kws={"size": 5},
                cbar=False)  # fmt: skip
    axes.set(xlabel="source step", ylabel="step", title=title)


def relations(frame: pd.DataFrame) -> Figure:
    """Attention by source step, and likeness of sublayer outputs (paper, Fig. 3c).

    >>> from fastvar_lab.experiments.run import run
    >>> relations(run("cross_scale", "quick", progress=False)).axes[0].get_ylabel()
    'step'
    """
    rows = relation_points(frame)
    with style():
        fig, (left, right) = panels(WIDTH, 2.9, 2)
        _matrix(left, rows[rows.what == "attention"], "share of attention")
        _matrix(right, rows[rows.what == "similarity"], "cosine of sublayer outputs")
    return fig
