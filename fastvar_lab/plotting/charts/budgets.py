"""Charts of planned schedules: what they gain over schedules by hand, and where pruning hurts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from fastvar_lab.frames import GUIDANCE, PLANNED_AT, by_guidance, check_one_place
from fastvar_lab.measure.frontier import (
    ENVELOPES,
    WHOLE,
    counted_gains,
    envelope,
    gains,
    groups,
    hand_curves,
)
from fastvar_lab.measure.ranking import LEAST
from fastvar_lab.measure.speedup import undisturbed
from fastvar_lab.plotting.charts.comparisons import tradeoff_points
from fastvar_lab.plotting.style import (
    FAST,
    FULL,
    MARKERS,
    OTHER,
    PALETTE,
    WIDTH,
    Figure,
    style,
)

POINTS = 60  # at which envelopes are drawn
PLANNED = FULL  # full generation is no point of these charts
KIND_NAMES = {"attn": "attention", "cross": "cross-attention", "ffn": "feed-forward"}
TRANSFERRED = (2.0, 3.0)
"""Speedups, in operations, at which schedules are judged elsewhere."""
SMALL = (1.25, 1.5, 2.0, 3.0)
"""Speedups, in operations, at which schedules of small maps are judged."""
SHADES = dict(zip(ENVELOPES, (FAST, PALETTE[1]), strict=True))


def budget_points(frame: pd.DataFrame) -> pd.DataFrame:
    """Sum up what `budget` draws: a row a method, and a row a gain, at each guidance scale.

    A frame that is summed up already is returned as it is.
    """
    if "what" in frame:
        return frame
    parts = []
    for scale, part in _scales(frame):
        compared = part[part.kind != "grid"]
        points = tradeoff_points(compared)
        parts.append(_envelopes(compared).assign(what="envelope", **scale))
        points = points[points.speedup_flop_bound > LEAST]  # the others drew full generation
        points["group"] = [
            next(name for name, methods in groups(compared).items() if method in methods)
            for method in points.method
        ]
        n = {"n": compared.picture.nunique()}
        parts.append(points.assign(what="method", **n, **scale))
        parts.append(gains(compared).assign(what="gain", **scale))
    return pd.concat(parts, ignore_index=True)


def _envelopes(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what the schedules by hand reach at many speedups: `envelope`, `speedup`, `mean`."""
    pictures = frame[frame.kind == "quality"]
    speedups = undisturbed(frame[frame.kind == "time"]).set_index("method").speedup
    means = pictures.groupby("method").psnr.mean().to_frame().T
    rows = []
    for name, curves in hand_curves(frame).items():
        known = speedups[speedups.index.isin(set().union(*curves))].dropna()
        if known.empty:  # all timings were disturbed
            continue
        for speedup in np.geomspace(known.min(), known.max() * (1 - 1e-9), POINTS):
            best = envelope(means, speedups, curves, speedup)
            assert best is not None
            rows.append({"envelope": name, "speedup": speedup, "mean": best.item()})
    return pd.DataFrame(rows)


def budget(frame: pd.DataFrame) -> Figure:
    """PSNR over speedup of planned schedules and those by hand, and the gain at equal speed."""
    rows = budget_points(frame)
    scales = list(_scales(rows))
    with style():
        fig = Figure(figsize=(WIDTH, 4.3), layout="constrained")
        grid = fig.subplots(2, len(scales), squeeze=False, sharey="row", height_ratios=(1.7, 1))
        for (scale, part), upper, lower in zip(scales, *grid, strict=True):
            title = f"guidance {scale[GUIDANCE]:g}" if scale else ""
            _fronts(upper, part[part.what == "method"], part[part.what == "envelope"])
            upper.set(title=title, xlabel="measured speedup")
            _gains(lower, part[part.what == "gain"])
            lower.set(xlabel="at the measured speedup")
        n = int(rows.n.max())
        grid[0][0].set(ylabel=f"PSNR to full (dB), n = {n}")
        grid[1][0].set(ylabel="gain of planned (dB)")
        beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
        grid[0][-1].legend(frameon=False, **beside)
        grid[1][-1].legend(frameon=False, title="over those by hand", **beside)
        for axes in grid.flat:
            axes.grid(lw=0.4, color="0.9")
            sns.despine(ax=axes)
    return fig


def _scales(frame: pd.DataFrame) -> Iterator[tuple[dict[str, float], pd.DataFrame]]:
    """Split a frame by guidance scale, each with the column that says which."""
    for scale, part in by_guidance(frame):
        yield {} if scale is None else {GUIDANCE: float(scale)}, part


def _fronts(axes: Axes, points: pd.DataFrame, envelopes: pd.DataFrame) -> None:
    """Draw schedules by hand as dots with their two envelopes, planned ones with intervals."""
    hand = points[points.group == "by hand"]
    axes.plot(hand.speedup, hand["mean"], ".", ms=2.5, color=OTHER, mew=0, label="by hand")
    for name, best in envelopes.groupby("envelope", sort=False):
        label, color = f"by hand, {name}", SHADES[str(name)]
        axes.plot(best.speedup, best["mean"], "-", lw=1, color=color, label=label)
    others = points[points.group == "others"]
    if len(others):
        axes.plot(
            others.speedup, others["mean"], "x", ms=3, mew=0.8, color=PALETTE[2], label="the bench"
        )
    planned = points[points.group == "planned"].sort_values("speedup")
    spread = np.abs([planned["mean"] - planned.low, planned.high - planned["mean"]])
    across = np.abs([planned.speedup - planned.speedup_low, planned.speedup_high - planned.speedup])
    axes.errorbar(
        planned.speedup, planned["mean"], yerr=spread, xerr=across, fmt="o-", ms=3.5, lw=1.2,
        elinewidth=0.6, color=PLANNED, label="planned",
    )  # fmt: skip
    axes.set_xscale("log", base=2)
    ticks = [1, 1.5, 2, 3, 4, 6, 8]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)


def _gains(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw gains over both envelopes, side by side at each speedup, with their intervals."""
    at = sorted(rows["at"].unique())
    by_envelope = rows.groupby("envelope", sort=False)
    for shift, marker, (name, part) in zip((-0.1, 0.1), MARKERS, by_envelope):
        part = part.set_index("at").reindex(at)
        spread = np.abs([part.difference - part.low, part.high - part.difference])
        axes.errorbar(
            np.arange(len(at)) + shift, part.difference, yerr=spread, fmt=marker, ms=3.5, lw=1,
            color=SHADES[str(name)], label=str(name),
        )  # fmt: skip
    axes.axhline(0, lw=0.8, color="0.6")
    axes.set_xticks(np.arange(len(at)), [f"{each:g}" for each in at])
    axes.set_xlim(-0.5, len(at) - 0.5)


def sublayer_points(frame: pd.DataFrame) -> pd.DataFrame:
    """Sum up what `sublayer_sensitivity` draws: PSNR, share of operations saved, PSNR a percent.

    PSNR is that of the mean squared error over pictures. `psnr_percent` is the PSNR that would be
    left if the error were spread over what it saves: that of one percent of all operations. A frame
    that is summed up already is returned as it is. Raises ValueError for several guidance scales.
    """
    if "psnr_percent" in frame:
        return frame
    check_one_place(frame)
    by = ["step", "size", "kind", "layer", "pruned"]
    groups = frame.assign(error=10 ** (-frame.psnr / 10)).groupby(by, sort=False)
    rows = groups.agg(
        error=("error", "mean"), bound=("speedup_flop_bound", "first"), n=("picture", "nunique")
    ).reset_index()
    saved = 1 - 1 / rows.bound
    psnr = -10 * np.log10(rows.error)
    rows = rows.assign(psnr=psnr, saved=saved, psnr_percent=psnr + 10 * np.log10(100 * saved))
    return rows.drop(columns=["error", "bound"])


def sublayer_sensitivity(frame: pd.DataFrame) -> Figure:
    """PSNR that is left if one sublayer of one step is pruned, and PSNR for what that saves.

    One column a kind of sublayer; steps over layers. Light is where pruning is cheap.

    >>> place = {"step": 9, "size": "32x32", "kind": "ffn", "layer": 0, "pruned": 0.5}
    >>> frame = pd.DataFrame([{**place, "picture": 0, "psnr": 40.0, "speedup_flop_bound": 1.02}])
    >>> sublayer_sensitivity(frame).axes[0].get_title()
    'feed-forward'
    """
    rows = sublayer_points(frame)
    rows = rows[rows.pruned == rows.pruned.min()]
    kinds = list(rows["kind"].unique())
    values = {
        "psnr": "PSNR (dB)",
        "psnr_percent": "PSNR (dB) per\n1 % of operations saved",
    }
    with style():
        height = 1.0 + 0.34 * rows.step.nunique()
        fig = Figure(figsize=(WIDTH, 2 * height), layout="constrained")
        grid = fig.subplots(len(values), len(kinds), squeeze=False, sharey=True)
        for (value, title), line in zip(values.items(), grid, strict=True):
            low, high = rows[value].min(), rows[value].max()
            for kind, axes in zip(kinds, line, strict=True):
                table = rows[rows["kind"] == kind].pivot_table(
                    index=["step", "size"], columns="layer", values=value
                )
                table.index = table.index.get_level_values("size")
                image = sns.heatmap(
                    table, ax=axes, cmap="viridis", vmin=low, vmax=high, annot=True, fmt=".0f",
                    annot_kws={"size": 5.5}, cbar=False, linewidths=0.4,
                ).collections[0]  # fmt: skip
                axes.set(xlabel="layer", ylabel="", title=KIND_NAMES.get(str(kind), str(kind)))
                axes.tick_params(length=0, rotation=0)
            line[0].set_ylabel("scale step")
            fig.colorbar(image, ax=list(line), label=title, aspect=12)
    return fig


def transfer_points(frame: pd.DataFrame) -> pd.DataFrame:
    """Sum up what `transfer` draws: gains over schedules by hand, where plans are used elsewhere.

    Columns beside those of `gain`: `setting`, the guidance scale, and `planned`, the scale that the
    schedules were planned at: schedules that do not say it, at the one where they are judged.
    Speedups are those of counted operations. A frame that is summed up already is returned as it
    is.
    """
    if "difference" in frame:
        return frame
    rows = []
    for scale, part in _scales(frame):
        for setting, there in part.groupby("setting", sort=False):
            methods = there.drop_duplicates("method").set_index("method")
            planned = methods.reindex(columns=[PLANNED_AT])[PLANNED_AT].fillna(
                scale.get(GUIDANCE, 0)
            )
            planned = planned[planned.index.isin(groups(there)["planned"])]
            for at_scale, names in planned.groupby(planned):
                gained = counted_gains(there, TRANSFERRED, list(names.index))
                place = {"setting": setting, "planned": at_scale, **scale}
                rows.append(gained.assign(**place)[[*place, *gained.columns]])
    return pd.concat(rows, ignore_index=True)


def transfer(frame: pd.DataFrame) -> Figure:
    """Gain of planned schedules over those by hand at equal operations, by setting and guidance."""
    rows = transfer_points(frame)
    rows = rows[rows.envelope == WHOLE]
    scales = list(_scales(rows))
    with style():
        fig = Figure(figsize=(WIDTH, 2.2), layout="constrained")
        (grid,) = fig.subplots(1, len(scales), squeeze=False, sharey=True)
        for (scale, part), axes in zip(scales, grid, strict=True):
            settings = list(part.setting.unique())
            lines = sorted(
                part.groupby(["planned", "at"]), key=lambda pair: not _same(pair[0][0], scale)
            )
            for i, ((planned, at), line) in enumerate(lines):
                line = line.set_index("setting").reindex(settings)
                spread = np.abs([line.difference - line.low, line.high - line.difference])
                place = np.arange(len(settings)) + (i - (len(lines) - 1) / 2) * 0.15
                axes.errorbar(
                    place, line.difference, yerr=spread, fmt=MARKERS[list(TRANSFERRED).index(at)],
                    ms=3.5, lw=1, color=PLANNED if _same(planned, scale) else OTHER,
                    label=f"{'this' if _same(planned, scale) else 'the other'} guidance, {at:g}x",
                )  # fmt: skip
            axes.axhline(0, lw=0.8, color="0.6")
            axes.set_xticks(np.arange(len(settings)), settings)
            n = int(part.n.max())
            title = f"guidance {scale[GUIDANCE]:g}, n = {n}" if scale else f"n = {n}"
            axes.set(title=title, xlabel="judged on")
            axes.grid(axis="y", lw=0.4, color="0.9")
            sns.despine(ax=axes)
        grid[0].set_ylabel("gain over the best by hand (dB)")
        beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
        grid[-1].legend(frameon=False, title="planned at", **beside)
    return fig


def small_maps_points(frame: pd.DataFrame) -> pd.DataFrame:
    """Sum up what `small_maps` draws: gains over schedules by hand at equal counted operations.

    A frame that is summed up already is returned as it is.
    """
    if "difference" in frame:
        return frame
    parts = [counted_gains(part, SMALL).assign(**scale) for scale, part in _scales(frame)]
    return pd.concat(parts, ignore_index=True)


def small_maps(frame: pd.DataFrame) -> Figure:
    """Gain of planned schedules over those by hand, over counted speedups, by guidance scale."""
    scales = list(_scales(small_maps_points(frame)))
    with style():
        fig = Figure(figsize=(WIDTH, 2.2), layout="constrained")
        (grid,) = fig.subplots(1, len(scales), squeeze=False, sharey=True)
        for (scale, part), axes in zip(scales, grid, strict=True):
            _gains(axes, part)
            title = f"guidance {scale[GUIDANCE]:g}, " if scale else ""
            axes.set(title=f"{title}n = {part.n.max():g}", xlabel="at times fewer operations")
            axes.grid(lw=0.4, color="0.9")
            sns.despine(ax=axes)
        grid[0].set_ylabel("gain of planned (dB)")
        beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
        grid[-1].legend(frameon=False, title="over those by hand", **beside)
    return fig


def _same(planned: float, scale: dict[str, float]) -> bool:
    return GUIDANCE not in scale or planned == scale[GUIDANCE]
