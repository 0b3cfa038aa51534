"""Charts from tidy frames, one function per kind of experiment: no torch, no generation."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from fastvar_lab.measure.statistics import summary
from fastvar_lab.plotting.style import WIDTH, Figure, style
from fastvar_lab.plotting.tables import compared

COLUMN = 3.4  # inches, one column of a two-column paper
PALETTE = sns.color_palette("colorblind")


def _axes(
    width: float = COLUMN, height: float = 2.2, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    fig = Figure(figsize=(width, height), layout="constrained")
    return fig, list(fig.subplots(1, columns, squeeze=False)[0])


def _bars(axes: Axes, rows: pd.DataFrame, low: str, high: str) -> None:
    """Draw a summary as points with intervals, one method a row, best known order kept."""
    places = _rows(axes, len(rows))
    spread = np.abs([rows["mean"] - rows[low], rows[high] - rows["mean"]])
    axes.errorbar(rows["mean"], places, xerr=spread, fmt="o", ms=3.5, lw=1, color=PALETTE[0])
    axes.set_yticks(places, rows.method)
    axes.grid(axis="x", lw=0.4, color="0.9")
    sns.despine(ax=axes)


def _looks() -> Iterator[dict[str, Any]]:
    """Give every line a color, a marker and a dash, so that they differ in grey as well."""
    for line, color in zip(cycle(("o-", "s--", "^:", "D-.")), cycle(PALETTE)):
        yield {"line": line, "color": color}


def _rows(axes: Axes, n: int) -> np.ndarray:
    """Give places of n rows from the top, the same in every panel."""
    axes.set_ylim(-0.5, n - 0.5)
    return np.arange(n)[::-1]


def _turns(axes: Axes, frame: pd.DataFrame, x: str, y: str) -> None:
    """Draw medians over the turns side by side, and what the middle half of them spans."""
    spread = {"estimator": "median", "errorbar": ("pi", 50), "err_kws": {"lw": 1}}
    _by_method(axes, frame, x, y, **spread)


def _by_method(axes: Axes, frame: pd.DataFrame, x: str, y: str, **options: Any) -> None:
    """Draw bars side by side, one color a method."""
    colors = PALETTE[: frame.method.nunique()]
    sns.barplot(frame, x=x, y=y, hue="method", palette=colors, saturation=1, ax=axes, **options)
    axes.legend(frameon=False)
    sns.despine(ax=axes)


def methods(frame: pd.DataFrame) -> Figure:
    """Compare methods: PSNR to the full picture, task score, measured speedup; 95 % intervals.

    >>> from fastvar_lab.experiments.run import run
    >>> methods(run("caching_step", "quick", progress=False)).axes[0].get_xlabel()
    'PSNR to the full picture (dB)'
    """
    made, times = compared(frame)
    order = [m for m in made.method.unique() if m != "full"]
    with style():
        fig, (left, middle, right) = _axes(WIDTH, 0.16 * len(order) + 1.0, 3)
        close = summary(made[made.method != "full"], ["method"], "psnr")
        _bars(left, close, "low", "high")
        left.set_xlabel("PSNR to the full picture (dB)")
        score = summary(made, ["method"], "right")
        full = score[score.method == "full"].iloc[0]
        middle.axvspan(full.low, full.high, color="0.92", lw=0)
        middle.axvline(full["mean"], color="0.6", lw=0.8)
        _bars(middle, score[score.method != "full"], "low", "high")
        middle.set_xlabel(f"task score (grey: full), n = {int(full.n)}")
        middle.set_yticks(middle.get_yticks(), [])
        _speedups(right, times.loc[order])
    return fig


def sensitivity(frame: pd.DataFrame) -> Figure:
    """PSNR against the share pruned, one line a scale, and the time each saves.

    >>> from fastvar_lab.experiments.run import run
    >>> sensitivity(run("scale_sensitivity", "quick", progress=False)).axes[0].get_ylabel()
    'PSNR to full (dB), n = 2'
    """
    made = frame[(frame.kind == "quality") & (frame.method != "full")]
    rows = summary(made, ["method"], "psnr")
    rows[["scale", "ratio"]] = rows.method.str.extract(r"(\S+) (\d+)%")
    rows["ratio"] = rows.ratio.astype(float)
    times = frame[frame.kind == "time"].set_index("method")
    rows["saved"] = 100 * (1 - 1 / times.speedup.reindex(rows.method).to_numpy())
    with style():
        fig, (left, right) = _axes(WIDTH, 2.3, 2)
        for color, (scale, part) in zip(PALETTE, rows.groupby("scale", sort=False)):
            left.plot(part.ratio, part["mean"], "o-", ms=3, lw=1, color=color, label=scale)
            left.fill_between(part.ratio, part.low, part.high, color=color, alpha=0.15, lw=0)
            right.plot(part.saved, part["mean"], "o-", ms=3, lw=1, color=color, label=scale)
        psnr = f"PSNR to full (dB), n = {made.picture.nunique()}"
        left.set(xlabel="share of one scale's tokens pruned (%)", ylabel=psnr)
        left.set_xticks(sorted(rows.ratio.unique()))
        right.set(xlabel="time saved (%)")
        right.legend(
            frameon=False, title="scale pruned", loc="center left", bbox_to_anchor=(1, 0.5)
        )
        for axes in (left, right):
            axes.grid(lw=0.4, color="0.9")
            sns.despine(ax=axes)
    return fig


def front(points: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Keep the points that no other beats in both columns, by rising x."""
    ranked = points.sort_values([x, y], ascending=[False, False])
    best = ranked[y].cummax()
    return ranked[(ranked[y] >= best) & ~ranked[y].duplicated()].sort_values(x)


def tradeoff_points(frame: pd.DataFrame, value: str = "psnr") -> pd.DataFrame:
    """One row a method: mean, low and high of a quality, speedup with its range, its bound.

    >>> from fastvar_lab.experiments.run import run
    >>> points = tradeoff_points(run("ratio_tradeoff", "quick", progress=False))
    >>> list(points.columns[:4])
    ['method', 'mean', 'low', 'high']
    """
    made, times = compared(frame)
    rows = summary(made[made.method != "full"], ["method"], value).set_index("method")
    measured = ["speedup", "speedup_min", "speedup_max", "speedup_flop_bound"]
    return rows.join(times.reindex(columns=measured)).reset_index()


def _ranges(axes: Axes, points: pd.DataFrame, line: str, **options: Any) -> None:
    """Draw qualities over speedups: 95 % intervals upright, the range of the turns across."""
    upright = np.abs([points["mean"] - points.low, points.high - points["mean"]])
    across = np.abs([points.speedup - points.speedup_min, points.speedup_max - points.speedup])
    axes.errorbar(
        points.speedup,
        points["mean"],
        xerr=across,
        yerr=upright,
        fmt=line,
        elinewidth=0.5,
        **options,
    )


def family(method: str) -> str:
    """Name the family of a method: its label up to the first number.

    >>> family("FastVAR norm 50%, 75%")
    'FastVAR norm'
    """
    return re.split(r"\s*-?\d", method)[0] or method


def tradeoff(frame: pd.DataFrame) -> Figure:
    """Quality against measured speedup, with the Pareto front.

    >>> from fastvar_lab.experiments.run import run
    >>> tradeoff(run("ratio_tradeoff", "quick", progress=False)).axes[0].get_ylabel()
    'PSNR to full (dB)'
    """
    with style():
        fig, pair = _axes(WIDTH, 2.6, 2)
        score = f"task score, n = {frame.picture.nunique()}"
        for axes, value, label in zip(pair, ("psnr", "right"), ("PSNR to full (dB)", score)):
            points = tradeoff_points(frame, value)
            _ranges(axes, points, "o", ms=2.5, color="0.7")
            best = front(points, "speedup", "mean")
            axes.plot(best.speedup, best["mean"], "o-", ms=3.5, lw=1, color=PALETTE[3],
                      label="Pareto front")  # fmt: skip
            axes.set(xlabel="measured speedup", ylabel=label)
            axes.grid(lw=0.4, color="0.9")
            sns.despine(ax=axes)
        pair[0].legend(frameon=False)
    return fig


def rivals(frame: pd.DataFrame) -> Figure:
    """Quality against measured speedup, one line a family of methods: compare at equal time.

    Methods whose labels are alike up to their first number are a family.

    >>> from fastvar_lab.experiments.run import run
    >>> rivals(run("rivals", "quick", progress=False)).axes[0].get_xlabel()
    'measured speedup'
    """
    with style():
        fig, pair = _axes(WIDTH, 2.4, 2)
        for axes, value in zip(pair, ("psnr", "right")):
            points = tradeoff_points(frame, value)
            families = points.groupby(points.method.map(family), sort=False)
            for look, (name, part) in zip(_looks(), families):
                _ranges(axes, part.sort_values("speedup"), ms=3, lw=1, label=name, **look)
            axes.set_xlabel("measured speedup")
            axes.grid(lw=0.4, color="0.9")
            sns.despine(ax=axes)
        pair[0].set_ylabel("PSNR to the full picture (dB)")
        pair[1].set_ylabel(f"task score, n = {frame.picture.nunique()}")
        pair[0].legend(frameon=False)
    return fig


def latency(frame: pd.DataFrame) -> Figure:
    """Milliseconds of every scale step, full and pruned.

    >>> from fastvar_lab.experiments.run import run
    >>> latency(run("latency_by_scale", "quick", progress=False)).axes[0].get_ylabel()
    'time (ms)'
    """
    with style():
        fig, (axes,) = _axes()
        _turns(axes, frame, x="size", y="ms")
        axes.set(xlabel="token map of the scale step", ylabel="time (ms)")
        axes.tick_params(axis="x", rotation=45)
    return fig


def modules(frame: pd.DataFrame) -> Figure:
    """Milliseconds of one layer's sublayers at the last three steps (paper, Fig. A.1).

    >>> from fastvar_lab.experiments.run import run
    >>> modules(run("module_profile", "quick", progress=False)).axes[0].get_ylabel()
    'time of one layer (ms)'
    """
    last = sorted(frame.step.unique())[-3:]
    with style():
        fig, (axes,) = _axes()
        part = frame[frame.step.isin(last)]
        part = part.assign(what=part["kind"] + ", " + part["size"])
        _turns(axes, part, x="what", y="ms")
        axes.set(xlabel="", ylabel="time of one layer (ms)")
        axes.tick_params(axis="x", rotation=60)
    return fig


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
        fig, (left, right) = _axes(WIDTH, 2.4, 2)
        lines = rows[rows.what == "spectrum"].groupby("size", sort=False)
        for color, (size, part) in zip(sns.color_palette("viridis", len(lines)), lines):
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
    """PSNR to the full final picture, and task score, after every step."""
    with style():
        fig, pair = _axes(WIDTH, 2.3, 2)
        sizes = list(dict.fromkeys(frame["size"]))
        for axes, value in zip(pair, ("psnr", "right")):
            own = (frame.method == "full") & (frame.step == frame.step.max())  # equal to itself
            shown = frame[~own] if value == "psnr" else frame
            by_method = shown.groupby("method", sort=False)
            for look, (method, part) in zip(_looks(), by_method):
                rows = summary(part, ["size"], value)
                place = [sizes.index(s) for s in rows["size"]]
                color = look["color"]
                axes.plot(place, rows["mean"], look["line"], ms=3, lw=1, color=color, label=method)
                axes.fill_between(place, rows.low, rows.high, color=color, alpha=0.15, lw=0)
            axes.set_xticks(np.arange(len(sizes)), sizes, rotation=45)
            axes.set_xlabel("after step")
            axes.grid(lw=0.4, color="0.9")
            sns.despine(ax=axes)
        pair[0].set_ylabel("PSNR to the full result (dB)")
        pair[1].set_ylabel(f"task score, n = {frame.picture.nunique()}")
        pair[1].legend(frameon=False)
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
    pair = ["what", "step", "size", "source", "source_size"]
    found = []
    for what, value in (("attention", "share"), ("similarity", "cosine")):
        each = frame[frame.what == what].groupby([*pair, "first"], sort=False)[value].mean()
        found.append(summary(each.reset_index(), pair, value))
    return pd.concat(found, ignore_index=True)


def _matrix(axes: Axes, rows: pd.DataFrame, title: str) -> None:
    order = list(dict.fromkeys([*rows.source_size, *rows["size"]]))
    table = rows.pivot_table(index="size", columns="source_size", values="mean")
    table = table.reindex(index=[s for s in order if s in table.index], columns=order)
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
        fig, (left, right) = _axes(WIDTH, 2.9, 2)
        _matrix(left, rows[rows.what == "attention"], "share of attention")
        _matrix(right, rows[rows.what == "similarity"], "cosine of sublayer outputs")
    return fig


def exponent(tokens: Sequence[float], ms: Sequence[float]) -> float:
    """Slope of log time over log tokens, fitted over all sizes.

    >>> round(exponent([1, 2, 4], [1, 4, 16]), 3)
    2.0
    """
    return float(np.polyfit(np.log(tokens), np.log(ms), 1)[0])


def exponents(timed: pd.DataFrame) -> tuple[float, float]:
    """Return the exponent over all sizes of one method, and between its two largest."""
    ms = timed.groupby("tokens").ms.median()
    return exponent(ms.index, ms), exponent(ms.index[-2:], ms.tail(2))


def scaling(frame: pd.DataFrame) -> Figure:
    """Time against tokens of the final map, with fitted exponents; scores of larger pictures."""
    rows, scored = (frame[frame.what == what] for what in ("time", "zero-shot"))
    with style():
        fig, (axes, *scores) = _axes(*((WIDTH, 2.2, 2) if len(scored) else ()))
        for color, (method, part) in zip(PALETTE, rows.groupby("method", sort=False)):
            label = "{}, exponent {:.2f}, at the end {:.2f}".format(method, *exponents(part))
            axes.loglog(
                part.groupby("tokens").ms.median(), "o-", ms=3, lw=1, color=color, label=label
            )
        axes.set(xlabel="tokens of the final map", ylabel="time (ms)")
        axes.grid(lw=0.4, color="0.9")
        axes.legend(frameon=False)
        sns.despine(ax=axes)
        for right in scores:
            known = summary(scored, ["side"], "right")
            known["method"] = [f"{s}x{s}" for s in known.side]
            _bars(right, known, "low", "high")
            right.set(xlabel=f"task score, n = {scored.picture.nunique()}", ylabel="final map")
            right.set_xlim(0, 1.02)  # a whole dot at 1
    return fig


def kernels(frame: pd.DataFrame) -> Figure:
    """Time under unfused and fused attention, full and pruned (paper, Table 5).

    >>> from fastvar_lab.experiments.run import run
    >>> kernels(run("attention_kernels", "quick", progress=False)).axes[0].get_ylabel()
    'attention'
    """
    with style():
        fig, (axes,) = _axes(COLUMN, 1.8)
        _turns(axes, frame, x="ms", y="kernel")
        axes.set(xlabel="time (ms)", ylabel="attention")
    return fig


def memory(frame: pd.DataFrame) -> Figure:
    """Megabytes of KV cache and restore cache by final map.

    >>> from fastvar_lab.experiments.run import run
    >>> memory(run("memory", "quick", progress=False)).axes[0].get_ylabel()
    'caches (MB)'
    """
    with style():
        fig, (axes,) = _axes(COLUMN, 2.5)
        sides, methods = sorted(frame.side.unique()), frame.groupby("method", sort=False)
        width = 0.8 / len(methods)
        for i, (method, part) in enumerate(methods):
            place = np.arange(len(sides)) + (i - (len(methods) - 1) / 2) * width
            kv, held = part.kv_measured / 1e6, part.held_measured / 1e6
            axes.bar(place, kv, width * 0.95, color=PALETTE[i], label=method)
            axes.bar(place, held, width * 0.95, bottom=kv, color=PALETTE[i], alpha=0.4)
        axes.bar(0, 0, color="0.3", alpha=0.4, label="held to restore from")
        axes.set_xticks(np.arange(len(sides)), [f"{s}x{s}" for s in sides])
        axes.set(xlabel="final token map", ylabel="caches (MB)")
        axes.legend(frameon=False)
        sns.despine(ax=axes)
    return fig


def costs(frame: pd.DataFrame) -> Figure:
    """Draw what `flops.costs` counted: operations of every scale step, one bar a method.

    >>> import fastvar_lab as fv
    >>> frame = fv.costs(fv.load("tiny"), {"full": fv.Dense(), "fast": fv.Prune({-1: 0.75})})
    >>> costs(frame).axes[0].get_ylabel()
    'GFLOP'
    """
    with style():
        fig, (axes,) = _axes(WIDTH, 1.9)
        sums = frame.groupby("method", sort=False).gflop.sum()
        labels = {name: f"{name}, {gflop:.0f} GFLOP" for name, gflop in sums.items()}
        named = frame.assign(method=frame.method.map(labels))
        _by_method(axes, named, x="size", y="gflop")
        axes.set(xlabel="token map of the scale step", ylabel="GFLOP")
    return fig


def overhead(frame: pd.DataFrame) -> Figure:
    """Milliseconds of one call: attention, feed-forward, selection, restoration.

    >>> from fastvar_lab.experiments.run import run
    >>> overhead(run("sublayer_overhead", "quick", progress=False)).axes[0].get_xlabel()
    'time of one call at the last step (ms)'
    """
    with style():
        fig, (axes,) = _axes(COLUMN, 1.6)
        names = {"attention": "attention", "ffn": "feed-forward", "pts": "PTS", "ctr": "CTR"}
        part = frame.groupby("kind").ms.median()
        bars = axes.barh(
            [names[k] for k in names][::-1], [part[k] for k in names][::-1], color=PALETTE[0]
        )
        axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=6)
        axes.set(xlabel="time of one call at the last step (ms)")
        sns.despine(ax=axes)
    return fig


def speedups(frame: pd.DataFrame) -> Figure:
    """Measured speedups beside what counted operations allow.

    >>> rows = [{"method": "CoDe", "speedup": 1.2, "speedup_flop_bound": 1.4}]
    >>> speedups(pd.DataFrame(rows)).axes[0].get_xlabel()
    'speedup'
    """
    with style():
        fig, (axes,) = _axes(COLUMN, 0.2 * len(frame) + 0.9)
        _speedups(axes, frame.set_index("method"))
        axes.set_yticks(axes.get_yticks(), frame.method)
    return fig


def _speedups(axes: Axes, times: pd.DataFrame) -> None:
    """Draw measured speedups as bars, with their range if known, their bounds as ticks."""
    places = _rows(axes, len(times))
    spread = None
    if "speedup_min" in times:
        spread = [times.speedup - times.speedup_min, times.speedup_max - times.speedup]
    axes.barh(places, times.speedup, 0.6, xerr=spread, error_kw={"lw": 0.8, "ecolor": "0.3"},
              color=PALETTE[0], label="measured")  # fmt: skip
    axes.plot(times.speedup_flop_bound, places, "|", ms=8, color="k", label="FLOP bound")
    axes.set_yticks(places, [])
    axes.set_xlabel("speedup")
    axes.axvline(1, color="0.6", lw=0.8)
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    sns.despine(ax=axes)


def suite(cases: pd.DataFrame, growing: pd.DataFrame) -> Figure:
    """Draw the paper's suite: speedups beside bounds, one generation by scale, growth with size.

    `growing` are the cases of one model at several sizes, by `tokens` of the last map; fewer than
    two are not drawn.
    """
    alone = cases[cases.pictures == 1]
    bars = alone[alone.group != "growth"] if (alone.group != "growth").any() else alone
    with style():
        panels = 2 + (len(growing) > 1)
        fig, (left, middle, *right) = _axes(WIDTH, max(2.4, 0.2 * len(bars) + 1.2), panels)
        places = np.arange(len(bars))[::-1]
        left.barh(places, bars.speedup, color=PALETTE[0])
        left.plot(bars.speedup_flop_bound, places, "k|", ms=7, label="bound by operations")
        left.set_yticks(places, [_wrapped(name) for name in bars.name], fontsize=6)
        left.set(xlabel="speedup over the full run", ylim=(-0.7, len(bars) + 0.6))
        left.legend(frameon=False, loc="upper right")
        shown = bars.iloc[0]
        for color, way in zip(PALETTE, ("full", "fast")):
            ms, floor = shown[f"step_ms_{way}"], shown[f"step_floor_ms_{way}"]
            ran = [t if scale not in shown.skipped or way == "full" else np.nan
                   for t, scale in zip(ms, shown.scales)]  # fmt: skip
            middle.semilogy(ran, "o-", ms=3, lw=1, color=color, label=way)
            middle.semilogy([f or np.nan for f in floor], ":", lw=1, color=color)
        middle.set_xticks(range(len(shown.scales)), shown.scales, rotation=60, fontsize=6)
        middle.set(ylabel="time (ms), dotted: floor", title=shown["name"])
        middle.legend(frameon=False)
        for axes in right:
            for color, way in zip(PALETTE, ("full", "fast")):
                ms = growing[f"ms_{way}"]
                label = f"{way}, exponent {exponent(growing.tokens, ms):.2f}"
                axes.loglog(growing.tokens, ms, "o-", ms=3, lw=1, color=color, label=label)
            axes.set(xlabel="tokens of the final map", ylabel="time (ms)")
            axes.legend(frameon=False)
        for axes in (left, middle, *right):
            sns.despine(ax=axes)
    return fig


def _wrapped(name: str) -> str:
    model, size, *rest = name.split(" ")
    return f"{model} {size}" + (f"\n{' '.join(rest)}" if rest else "")


CHARTS: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "latency_by_scale": latency,
    "module_profile": modules,
    "sublayer_overhead": overhead,
    "spectra": spectra,
    "cross_scale": relations,
    "intermediate_outputs": outputs,
    "resolution_scaling": scaling,
    "attention_kernels": kernels,
    "memory": memory,
    "scale_sensitivity": sensitivity,
    "ratio_tradeoff": tradeoff,
    "extreme_ratios": methods,
    "caching_step": methods,
    "selectors": methods,
    "restorers": methods,
    "depth_of_pruning": methods,
    "side_by_side": methods,
    "rivals": rivals,
    "drafting": speedups,
}
"""A frame of the experiment, or its `POINTS`, to a figure."""

POINTS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "spectra": spectra_points,
    "cross_scale": relation_points,
}
"""Sums of frames too long to keep beside a figure."""
