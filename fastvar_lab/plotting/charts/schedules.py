"""The picture of a schedule: scale steps by layers, one color a kind of sublayer."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.colors import to_rgb

from fastvar_lab.plotting.charts.budgets import KIND_NAMES
from fastvar_lab.plotting.style import PALETTE, WIDTH, Figure, style

LOOKS = dict(zip(KIND_NAMES, PALETTE, strict=False))


def schedule(frame: pd.DataFrame) -> Figure:
    """Draw what a schedule computes: a panel a kind, steps over layers, dark where all runs.

    `frame` has a row for each step, kind and layer: `size` of the map, `rows` that run, `kind`,
    `layer`, and `computed`, the share of the tokens that are. Steps of full work are left out.
    """
    kinds = list(dict.fromkeys(frame["kind"]))
    spared = frame[(frame.computed < 1) | (frame.rows != "both")]
    frame = frame[frame["step"] >= spared["step"].min()] if len(spared) else frame
    with style():
        height = 0.9 + 0.26 * frame["step"].nunique()
        fig = Figure(figsize=(WIDTH, height), layout="constrained")
        for kind, axes in zip(kinds, fig.subplots(1, len(kinds), squeeze=False)[0], strict=True):
            part = frame[frame["kind"] == kind]
            table = part.pivot_table(index="step", columns="layer", values="computed")
            steps = part.drop_duplicates("step").sort_values("step")
            shades = sns.light_palette(to_rgb(LOOKS.get(str(kind), PALETTE[0])), as_cmap=True)
            sns.heatmap(
                table, ax=axes, cmap=shades, vmin=0, vmax=1, annot=100 * table, fmt=".0f",
                annot_kws={"size": 5.5}, cbar=False, linewidths=0.4,
            )  # fmt: skip
            axes.set(xlabel="layer", ylabel="", title=f"{KIND_NAMES.get(str(kind), kind)}, % run")
            rows = [
                size if which == "both" else f"{size}, {which}"
                for size, which in zip(steps["size"], steps["rows"], strict=True)
            ]
            axes.set_yticklabels(rows if axes.get_subplotspec().is_first_col() else [], rotation=0)
            axes.tick_params(length=0)
    return fig
