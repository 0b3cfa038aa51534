"""Charts of what generation costs: time by step, module and size, operations, memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns

from fastvar_lab.measure.statistics import bootstrap_of, summary
from fastvar_lab.plotting.charts.axes import (
    COLUMN,
    bars,
    by_method,
    marked,
    medians,
    method_looks,
    panels,
    speedup_colors,
)
from fastvar_lab.plotting.style import FAST, FULL, PALETTE, WIDTH, Figure, legend_label, style

NAMES = {"full": "full", "fast": "FastVAR"}  # of the columns of a suite


def latency(frame: pd.DataFrame) -> Figure:
    """Milliseconds of every scale step, full and pruned.

    >>> from fastvar_lab.experiments.run import run
    >>> latency(run("latency_by_scale", "quick", progress=False)).axes[0].get_ylabel()
    'time (ms)'
    """
    with style():
        fig, (axes,) = panels()
        medians(axes, frame, x="size", y="ms")
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
        fig, (axes,) = panels()
        part = frame[frame.step.isin(last)]
        part = part.assign(what=part["kind"] + ", " + part["size"])
        medians(axes, part, x="what", y="ms")
        axes.set(xlabel="", ylabel="time of one layer (ms)")
        axes.tick_params(axis="x", rotation=60)
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
    """Time against tokens of the final map, with fitted exponents; scores of larger pictures.

    `frame` comes from `resolution_scaling`: times in ms, scores in 0 to 1.
    """
    rows, scored = (frame[frame.what == what] for what in ("time", "zero-shot"))
    rows = marked(rows)
    looks = method_looks(rows)
    with style():
        fig, (axes, *scores) = panels(*((WIDTH, 2.2, 2) if len(scored) else ()))
        for method, part in rows.groupby("method", sort=False):
            color, marker = looks[method]
            exponent_text = "exponent {:.2f}, at the end {:.2f}".format(*exponents(part))
            axes.loglog(
                part.groupby("tokens").ms.median(),
                f"{marker}-",
                ms=3,
                lw=1,
                color=color,
                label=f"{legend_label(method)}, {exponent_text}",
            )
        axes.set(xlabel="tokens of the final map", ylabel="time (ms)")
        axes.grid(lw=0.4, color="0.9")
        axes.legend(frameon=False)
        sns.despine(ax=axes)
        for right in scores:
            known = summary(scored, ["side"], "right")
            known["method"] = [f"{s}x{s}" for s in known.side]
            bars(right, known, "low", "high")
            right.set(xlabel=f"task score, n = {scored.picture.nunique()}", ylabel="final map")
            right.set_xlim(right=1 + 0.05 * (1 - known.low.min()))  # a whole dot at 1
    return fig


def kernels(frame: pd.DataFrame) -> Figure:
    """Time under unfused and fused attention, full and pruned (paper, Table 5).

    >>> from fastvar_lab.experiments.run import run
    >>> kernels(run("attention_kernels", "quick", progress=False)).axes[0].get_ylabel()
    'attention'
    """
    with style():
        fig, (axes,) = panels(COLUMN, 1.8)
        medians(axes, frame, x="ms", y="kernel")
        axes.set(xlabel="time (ms)", ylabel="attention")
    return fig


def memory(frame: pd.DataFrame) -> Figure:
    """Megabytes of KV cache and restore cache by final map.

    >>> from fastvar_lab.experiments.run import run
    >>> memory(run("memory", "quick", progress=False)).axes[0].get_ylabel()
    'caches (MB)'
    """
    with style():
        fig, (axes,) = panels(COLUMN, 2.5)
        sides, methods = sorted(frame.side.unique()), frame.groupby("method", sort=False)
        width, looks = 0.8 / len(methods), method_looks(frame)
        for i, (method, part) in enumerate(methods):
            place = np.arange(len(sides)) + (i - (len(methods) - 1) / 2) * width
            kv, held = part.kv_measured / 1e6, part.held_measured / 1e6
            axes.bar(place, kv, width * 0.95, color=looks[method].color,
                     label=legend_label(method))  # fmt: skip
            axes.bar(place, held, width * 0.95, bottom=kv, color=looks[method].color, alpha=0.4)
        axes.bar(0, 0, color="0.3", alpha=0.4, label="held to restore from")
        axes.set_xticks(np.arange(len(sides)), [f"{s}x{s}" for s in sides])
        axes.set(xlabel="final token map", ylabel="caches (MB)")
        axes.legend(frameon=False)
        sns.despine(ax=axes)
    return fig


def costs(frame: pd.DataFrame) -> Figure:
    """Draw what `flops.costs` counted: operations of every scale step, one bar a method.

    >>> import fastvar_lab as fv
    >>> methods = {"full": fv.Dense(), "FastVAR": fv.Prune({-1: 0.75})}
    >>> frame = fv.costs(fv.load("tiny"), methods)
    >>> costs(frame).axes[0].get_ylabel()
    'GFLOP'
    """
    with style():
        fig, (axes,) = panels(WIDTH, 1.9)
        sums = frame.groupby("method", sort=False).gflop.sum()
        labels = {name: f"{name}, {gflop:.0f} GFLOP" for name, gflop in sums.items()}
        named = frame.assign(method=frame.method.map(labels), family=frame.method)
        by_method(axes, named, x="size", y="gflop")
        axes.set(xlabel="token map of the scale step", ylabel="GFLOP")
    return fig


def overhead(frame: pd.DataFrame) -> Figure:
    """Milliseconds of one call, selection and restoration beside what they save; 95 % intervals.

    >>> from fastvar_lab.experiments.run import run
    >>> overhead(run("sublayer_overhead", "quick", progress=False)).axes[0].get_xlabel()
    'time of one call at the last step (ms)'
    """
    with style():
        fig, (axes,) = panels(COLUMN, 1.6)
        names = {"attention": "attention", "ffn": "feed-forward", "pts": "PTS", "ctr": "CTR"}
        rows = pd.DataFrame([
            {"method": f"{name}, {middle:.3g} ms", "mean": middle, "low": low, "high": high}
            for kind, name in names.items()
            for ms in [frame.ms[frame.kind == kind]]
            for middle, (low, high) in [(ms.median(), bootstrap_of(float, [ms]))]
        ])  # fmt: skip
        bars(axes, rows, "low", "high")
        axes.set(xlabel="time of one call at the last step (ms)", xscale="log")
    return fig


def batches(frame: pd.DataFrame) -> Figure:
    """Pictures a second and the memory counted, by batch size; dashed with graphs.

    >>> rows = [{"method": "full", "mode": "without graphs", "pictures": n, "per_second": 1.0,
    ...          "bytes_counted": n * 1e8} for n in (1, 2)]
    >>> batches(pd.DataFrame(rows)).axes[0].get_ylabel()
    'pictures a second'
    """
    with style():
        fig, (left, right) = panels(WIDTH, 2.2, 2)
        names = list(frame.method.unique())
        for (name, mode), part in frame.groupby(["method", "mode"], sort=False):
            line = {"color": PALETTE[names.index(name)], "ls": "-" if "without" in mode else "--"}
            label = f"{legend_label(name)}, {mode}"
            left.plot(part.pictures, part.per_second, "o", ms=3, lw=1, label=label, **line)
            right.plot(part.pictures, part.bytes_counted / 1e9, "o", ms=3, lw=1, **line)
        left.set(xlabel="pictures in a batch", ylabel="pictures a second")
        right.set(xlabel="pictures in a batch", ylabel="memory, counted (GB)")
        for axes in (left, right):
            axes.set_xticks(sorted(frame.pictures.unique()))
            axes.set_ylim(bottom=0)
            sns.despine(ax=axes)
        left.legend(frameon=False, fontsize=6)
    return fig


def suite(cases: pd.DataFrame, growing: pd.DataFrame) -> Figure:
    """Draw the paper's suite: speedups beside bounds, one generation by scale, growth with size.

    `growing` are the cases of one model at several sizes, by `tokens` of the last map; fewer than
    two are not drawn.
    """
    alone = cases[cases.pictures == 1]
    rows = alone[alone.group != "growth"] if (alone.group != "growth").any() else alone
    with style():
        columns = 2 + (len(growing) > 1)
        fig, (left, middle, *right) = panels(WIDTH, max(2.4, 0.2 * len(rows) + 1.2), columns)
        places = np.arange(len(rows))[::-1]
        left.barh(places, rows.speedup, color=speedup_colors(rows))
        left.plot(rows.speedup_flop_bound, places, "k|", ms=7, label="bound by operations")
        left.set_yticks(places, [_wrapped(name) for name in rows.name], fontsize=6)
        left.set(xlabel="speedup over the full run", ylim=(-0.7, len(rows) + 0.6))
        left.legend(frameon=False, loc="upper right")
        shown = rows.iloc[0]
        for color, way in zip((FULL, FAST), ("full", "fast")):
            ms, floor = shown[f"step_ms_{way}"], shown[f"step_floor_ms_{way}"]
            ran = [t if scale not in shown.skipped or way == "full" else np.nan
                   for t, scale in zip(ms, shown.scales)]  # fmt: skip
            middle.semilogy(ran, "o-", ms=3, lw=1, color=color, label=NAMES[way])
            middle.semilogy([f or np.nan for f in floor], ":", lw=1, color=color)
        middle.set_xticks(range(len(shown.scales)), shown.scales, rotation=60, fontsize=6)
        middle.set(ylabel="time (ms), dotted: floor", title=shown["name"])
        middle.legend(frameon=False)
        for axes in right:
            for color, way in zip((FULL, FAST), ("full", "fast")):
                ms = growing[f"ms_{way}"]
                label = f"{NAMES[way]}, exponent {exponent(growing.tokens, ms):.2f}"
                axes.loglog(growing.tokens, ms, "o-", ms=3, lw=1, color=color, label=label)
            axes.set(xlabel="tokens of the final map", ylabel="time (ms)")
            axes.legend(frameon=False)
        for axes in (left, middle, *right):
            sns.despine(ax=axes)
    return fig


def _wrapped(name: str) -> str:
    model, size, *rest = name.split(" ")
    return f"{model} {size}" + (f"\n{' '.join(rest)}" if rest else "")


ITEMS = {"choosing": "choosing", "restoring": "restoring", "products": "smaller products",
         "rest": "heads, draws, latents"}  # fmt: skip


def gaps(frame: pd.DataFrame) -> Figure:
    """Time beyond the bound by operations, item by item, as a share of the bound.

    >>> from fastvar_lab.experiments.run import run
    >>> gaps(run("speed_gap", "quick", progress=False)).axes[0].get_xlabel()
    'time beyond the bound (%)'
    """
    frame = marked(frame[frame.family != "full"])
    sides = sorted(frame.side.unique())
    with style():
        height = 0.16 * frame.method.nunique() + 1.0
        fig, row = panels(WIDTH, height, len(sides))
        order = list(dict.fromkeys(frame.method))
        for axes, side in zip(row, sides, strict=True):
            part = frame[frame.side == side].set_index("method").reindex(order)
            y, left, below = np.arange(len(order))[::-1], *np.zeros((2, len(order)))
            for color, (name, title) in zip(PALETTE, ITEMS.items()):
                values = 100 * part[name].fillna(0).to_numpy(float)
                start = np.where(values >= 0, left, below)
                axes.barh(y, values, 0.7, left=start, color=color, label=title)
                left, below = left + values.clip(min=0), below + values.clip(max=0)
            axes.plot(100 * part.gap, y, "|", ms=7, color="k", label="all")
            axes.axvline(0, color="0.6", lw=0.8)
            axes.set_yticks(y, order if axes is row[0] else [])
            axes.set(xlabel="time beyond the bound (%)", title=f"{side}x{side}")
            sns.despine(ax=axes)
        row[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return fig
