"""Charts of frames that compare methods: quality, speed, and the one against the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from fastvar_lab.frames import CACHE, GUIDANCE, by_guidance, counted
from fastvar_lab.measure.controls import without_stand_ins
from fastvar_lab.measure.frontier import front
from fastvar_lab.measure.ranking import LEAST, savings
from fastvar_lab.measure.speedup import undisturbed
from fastvar_lab.measure.statistics import summary
from fastvar_lab.plotting.charts.axes import (
    COLUMN,
    bars,
    panels,
    places,
    speedup_colors,
    step_colors,
    wrapped,
)
from fastvar_lab.plotting.style import (
    FAST,
    OTHER,
    WIDTH,
    Figure,
    Look,
    legend_label,
    looks,
    style,
)
from fastvar_lab.plotting.tables import compared, pruned_shares

VALUES = {"psnr": "PSNR to full (dB)", "right": "task score"}


def methods(frame: pd.DataFrame) -> Figure:
    """Compare methods: PSNR to the full picture, task score, measured speedup; 95 % intervals.

    The score is left out where the prompts have no judge, the speedup where nothing was timed.

    >>> import fastvar_lab as fv
    >>> pruned = [fv.Prune({-1: 0.5}), fv.Prune({-1: 0.75})]
    >>> frame = fv.compare(fv.load("tiny"), pruned, fv.Scope("look", 2, 1), progress=False)
    >>> methods(frame).axes[0].get_xlabel()
    'PSNR to the full picture (dB)'
    """
    timed = (frame.kind == "time").any()
    pictures = compared(frame)[0] if timed else counted(frame)
    pruned = pictures[pictures.family != "full"]
    order = list(pruned.method.unique())
    with style():
        judged = "right" in measured(frame)
        lines = max(label.count("\n") + 1 for label in wrapped(order))
        height = (0.06 + 0.1 * lines) * len(order) + 1.0
        fig, (left, *others) = panels(WIDTH, height, 1 + judged + timed)
        bars(left, summary(pruned, ["method"], "psnr"), "low", "high")
        left.set_xlabel("PSNR to the full picture (dB)")
        for axes in others[:judged]:
            score = summary(pictures, ["family", "method"], "right")
            full = score[score.family == "full"].iloc[0]
            axes.axvspan(full.low, full.high, color="0.92", lw=0)
            axes.axvline(full["mean"], color="0.6", lw=0.8)
            bars(axes, score[score.family != "full"], "low", "high")
            axes.set_xlabel(f"task score (grey: full), n = {int(full.n)}")
            axes.set_yticks(axes.get_yticks(), [])
        if timed:
            _speedups(others[-1], compared(frame)[1].loc[order])
    return fig


def measured(frame: pd.DataFrame) -> dict[str, str]:
    """Return the qualities among `VALUES` that a frame holds, with what an axis says of them."""
    return {k: text for k, text in VALUES.items() if k in frame and frame[k].notna().any()}


def sensitivity(frame: pd.DataFrame) -> Figure:
    """PSNR against the share pruned, one line a scale, and the time each saves.

    >>> from fastvar_lab.experiments.run import run
    >>> sensitivity(run("scale_sensitivity", "quick", progress=False)).axes[0].get_ylabel()
    'PSNR to full (dB), n = 2'
    """
    pictures, times = compared(frame)
    shares = pruned_shares(frame)
    alone = shares[(shares > 0).sum(axis=1) == 1]  # methods that prune one scale
    rows = summary(pictures[pictures.method.isin(alone.index)], ["method"], "psnr")
    rows["scale"] = [alone.loc[method].idxmax() for method in rows.method]
    rows["share"] = [100 * alone.loc[method].max() for method in rows.method]
    speed = ["speedup", "speedup_low", "speedup_high"]
    clear = undisturbed(times).reindex(rows.method, columns=speed)
    rows[["saved", "saved_low", "saved_high"]] = 100 * (1 - 1 / clear.to_numpy())
    with style():
        fig, (left, right) = panels(WIDTH, 2.3, 2)
        lines = rows.groupby("scale", sort=False)
        for color, (scale, part) in zip(step_colors(len(lines)), lines):
            look = {"ms": 3, "lw": 1, "color": color, "label": scale}
            left.plot(part.share, part["mean"], "o-", **look)
            left.fill_between(part.share, part.low, part.high, color=color, alpha=0.15, lw=0)
            _ranges(right, part, "saved", "o-", **look)
        right.axvline(0, color="0.6", lw=0.8)
        psnr = f"PSNR to full (dB), n = {pictures.picture.nunique()}"
        left.set(xlabel="share of one scale's tokens pruned (%)", ylabel=psnr)
        left.set_xticks(sorted(rows.share.round().unique()))
        right.set(xlabel="time saved (%)")
        right.legend(
            frameon=False, title="scale pruned", loc="center left", bbox_to_anchor=(1, 0.5)
        )
        for axes in (left, right):
            axes.grid(lw=0.4, color="0.9")
            sns.despine(ax=axes)
    return fig


def tradeoff_points(frame: pd.DataFrame, value: str = "psnr") -> pd.DataFrame:
    """One row a method: mean, low and high of a quality, speedup with its interval, its bound.

    Methods whose timing was disturbed are left out.

    >>> from fastvar_lab.experiments.run import run
    >>> points = tradeoff_points(run("ratio_tradeoff", "quick", progress=False))
    >>> list(points.columns[:5])
    ['family', 'method', 'mean', 'low', 'high']
    """
    pictures, times = compared(frame)
    pruned = pictures[pictures.family != "full"]
    rows = summary(pruned, ["family", "method"], value).set_index("method")
    speed = ["speedup", "speedup_low", "speedup_high", "speedup_flop_bound"]
    clear = undisturbed(times).reindex(columns=speed)
    points = rows.join(clear, how="inner").reset_index()
    return points[["family", *points.columns.drop("family")]]


def _ranges(axes: Axes, points: pd.DataFrame, x: str, line: str, **options: Any) -> None:
    """Draw qualities over what is measured in column `x`, with the 95 % intervals of both."""
    upright = np.abs([points["mean"] - points.low, points.high - points["mean"]])
    across = np.abs([points[x] - points[f"{x}_low"], points[f"{x}_high"] - points[x]])
    axes.errorbar(
        points[x],
        points["mean"],
        xerr=across,
        yerr=upright,
        fmt=line,
        elinewidth=0.5,
        **options,
    )


def tradeoff(frame: pd.DataFrame) -> Figure:
    """Quality against measured speedup, with the Pareto front.

    >>> from fastvar_lab.experiments.run import run
    >>> tradeoff(run("ratio_tradeoff", "quick", progress=False)).axes[0].get_ylabel()
    'PSNR to full (dB)'
    """
    with style():
        fig, row, values = _qualities(frame, 2.6)
        for axes, value in zip(row, values):
            points = tradeoff_points(frame, value)
            _ranges(axes, points, "speedup", "o", ms=2.5, color=OTHER)
            best = front(points, "speedup", "mean")
            axes.plot(best.speedup, best["mean"], "o-", ms=3.5, lw=1, color=FAST,
                      drawstyle="steps-pre", label="Pareto front")  # fmt: skip
        scales = _named(row[0], front(tradeoff_points(frame), "speedup", "mean"), frame)
        row[0].legend(frameon=False, title=f"% pruned at {scales}", alignment="right")
    return fig


def _named(axes: Axes, points: pd.DataFrame, frame: pd.DataFrame) -> str:
    """Write beside each point the percentages that its method prunes; return of which scales."""
    shares = pruned_shares(frame)
    shares = shares.loc[:, (shares > 0).any()]
    axes.margins(x=0.1, y=0.12)
    for point in points.itertuples():
        text = " ".join(f"{100 * share:.0f}" for share in shares.loc[point.method])
        axes.annotate(text, (point.speedup, point.mean), (2.5, 2.5), fontsize=5, rotation=35,
                      textcoords="offset points", rotation_mode="anchor")  # fmt: skip
    return ", ".join(shares.columns)


def rivals(frame: pd.DataFrame) -> Figure:
    """Quality against measured speedup, one line a family of methods: compare at equal time.

    A frame of several guidance scales, or of more than two axes, is drawn by `by_axis`.

    >>> from fastvar_lab.experiments.run import run
    >>> rivals(run("ratio_tradeoff", "quick", progress=False)).axes[0].get_xlabel()
    'measured speedup'
    """
    several = GUIDANCE in frame and frame[GUIDANCE].nunique() > 1
    if "axis" in frame and (several or frame.axis.nunique() > 2):
        return by_axis(frame)
    styles = looks(frame.family)
    with style():
        fig, row, values = _qualities(frame, 2.4)
        for axes, value in zip(row, values):
            families = tradeoff_points(frame, value).groupby("family", sort=False)
            for name, part in families:
                color, marker = styles[name]
                options = {"color": color, "label": legend_label(name), "ms": 3, "lw": 1}
                _ranges(axes, part.sort_values("speedup"), "speedup", f"{marker}-", **options)
        row[0].legend(frameon=False)
    return fig


AXES = {
    "control": "steps and rows alone",
    "guidance": "guidance rows",
    "selection": "tokens of sublayers",
    "granularity": "tokens of stacks",
    "cache": "keys and values",
}
"""The panels of `by_axis`: the axis of a family, and its title."""

TICKS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16)


def by_axis(frame: pd.DataFrame) -> Figure:
    """PSNR against measured speedup by small multiples: a panel an axis, a row a guidance scale.

    The families of an axis are in color before all others in grey; the black line is the front of
    all. Settings that do a control's work alone stand for no family. Families that save keys and
    values stand over the bytes that they save; methods that save no operations either are left out.

    >>> import fastvar_lab as fv
    >>> ways = [fv.Prune({-2: 1.0, -1: 1.0}), fv.Prune({-1: 0.75})]
    >>> frame = fv.compare(fv.load("tiny"), ways, fv.Scope("look", 2, 1), progress=False)
    >>> [axes.get_title() for axes in by_axis(frame).axes][:2]
    ['steps and rows alone', 'tokens of sublayers']
    """
    shown = [axis for axis in AXES if (frame.axis == axis).any()]
    scales = [(scale, without_stand_ins(part)) for scale, part in by_guidance(frame)]
    drawn = [_saving_points(part) for _, part in scales]
    both = pd.concat(drawn)  # a family has one look at all guidance scales
    styles = {axis: looks(both.family[both.axis == axis]) for axis in shown}
    with style():
        fig = Figure(figsize=(WIDTH, 1.75 * len(scales) + 1.2), layout="constrained")
        grid = fig.subplots(len(scales), len(shown), squeeze=False, sharey=True)
        for row, (scale, part), points in zip(grid, scales, drawn, strict=True):
            row[0].set_ylabel("PSNR to full (dB)" + ("" if scale is None else f", cfg {scale:g}"))
            for axes, axis in zip(row, shown, strict=True):
                _frontier(axes, points, part, axis, styles[axis])
        for axes, axis in zip(grid[0], shown, strict=True):
            axes.set_title(AXES[axis])
        for column in grid.T:
            handles = dict[str, Any]()
            for axes in column:
                for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                    handles.setdefault(label, handle)
            if handles:  # else no cell of this axis has a speed yet
                column[-1].legend(handles.values(), handles, frameon=False, loc="upper center",
                                  bbox_to_anchor=(0.5, -0.3), fontsize=6)  # fmt: skip
    return fig


def _saving_points(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what `by_axis` draws at one guidance scale: the methods that save something."""
    points = tradeoff_points(frame).merge(
        frame[["method", "axis"]].drop_duplicates("method"), on="method"
    )
    saves = (points.speedup_flop_bound > LEAST) | (points.axis == "cache")
    return points[saves]  # the others drew full generation


def _frontier(
    axes: Axes, points: pd.DataFrame, frame: pd.DataFrame, axis: str, styles: Mapping[str, Look]
) -> None:
    """Draw one panel: the families of an axis, all others in grey, and the front of all."""
    mine = points[points.axis == axis].copy()
    others = points[(points.axis != axis) & (points.axis != "cache")]
    if axis == "cache":
        mine["speedup"] = savings(frame, CACHE).reindex(mine.method).to_numpy()
        mine["speedup_low"] = mine["speedup_high"] = mine.speedup
    else:
        for _, part in others.groupby("family", sort=False):
            part = part.sort_values("speedup")
            axes.plot(part.speedup, part["mean"], "-", lw=0.6, color="0.85", zorder=1)
        best = front(points[points.axis != "cache"], "speedup", "mean")
        options: dict[str, Any] = {"color": "k", "lw": 0.9, "label": "front of all families"}
        axes.plot(best.speedup, best["mean"], "-", zorder=2, **options)
    for name, part in mine.groupby("family", sort=False):
        color, marker = styles[str(name)]
        label = wrapped([legend_label(name)])[0]
        options = {"color": color, "label": label, "ms": 2.5, "lw": 0.9}
        _ranges(axes, part.sort_values("speedup"), "speedup", f"{marker}-", **options)
    axes.set(xscale="log", xlabel="fewer bytes" if axis == "cache" else "measured speedup")
    low, high = axes.get_xlim()
    ticks = [tick for tick in TICKS if low <= tick <= high]
    ticks = ticks[:: max(1, len(ticks) // 4)]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(lw=0.4, color="0.9")
    sns.despine(ax=axes)


def _qualities(frame: pd.DataFrame, height: float) -> tuple[Figure, list[Axes], list[str]]:
    """Make a panel over the measured speedup for each quality that a frame holds."""
    titles = measured(frame)
    fig, row = panels(WIDTH if len(titles) > 1 else COLUMN, height, len(titles))
    for axes, (value, title) in zip(row, titles.items(), strict=True):
        n = f", n = {frame.picture.nunique()}" if value == "right" else ""
        axes.set(xlabel="measured speedup", ylabel=f"{title}{n}")
        axes.grid(lw=0.4, color="0.9")
        sns.despine(ax=axes)
    return fig, row, list(titles)


def speedups(frame: pd.DataFrame) -> Figure:
    """Measured speedups beside what counted operations allow.

    >>> rows = [{"method": "CoDe", "speedup": 1.2, "speedup_flop_bound": 1.4}]
    >>> speedups(pd.DataFrame(rows)).axes[0].get_xlabel()
    'speedup'
    """
    with style():
        fig, (axes,) = panels(COLUMN, 0.2 * len(frame) + 0.9)
        _speedups(axes, frame.set_index("method"))
        axes.set_yticks(axes.get_yticks(), frame.method)
    return fig


def _speedups(axes: Axes, times: pd.DataFrame) -> None:
    """Draw measured speedups as bars, with their interval if known, their bounds as ticks.

    Disturbed ones are pale.
    """
    rows = places(axes, len(times))
    spread = None
    if "speedup_low" in times:
        spread = np.abs(
            [times.speedup - times.speedup_low, times.speedup_high - times.speedup]
        ).astype(float)
    axes.barh(rows, times.speedup, 0.6, xerr=spread, error_kw={"lw": 0.8, "ecolor": "0.3"},
              color=speedup_colors(times), label="measured")  # fmt: skip
    axes.plot(times.speedup_flop_bound, rows, "|", ms=8, color="k", label="FLOP bound")
    axes.set_yticks(rows, [])
    axes.set_xlabel("speedup")
    axes.axvline(1, color="0.6", lw=0.8)
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    sns.despine(ax=axes)
