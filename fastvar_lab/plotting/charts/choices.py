"""Chart of a schedule chosen for each picture: what that gains over one for all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from fastvar_lab.frames import FULL, GUIDANCE, OPERATIONS, by_guidance, counted
from fastvar_lab.measure.choice import best_choice, predicted
from fastvar_lab.measure.statistics import bootstrap
from fastvar_lab.plotting.style import FAST, OTHER, WIDTH, Figure, style

FEATURES = "features"
"""The kind of a frame's rows that hold what is known of a picture when the choice is made."""

BY_PICTURE, MIXED, ORACLE = "by what is known", "mildest and fastest, by lot", "by the truth"
GAIN, PREDICTION = "gain", "prediction"
RULES = {MIXED: OTHER, BY_PICTURE: FAST, ORACLE: OTHER}
KNOWN = ["update", "fine", "uneven"]


def choice_points(frame: pd.DataFrame) -> pd.DataFrame:
    """Sum up what `choice` draws, at each guidance scale.

    A row of `what` "gain" is the mean difference in dB of a rule over the schedule of middle cost,
    with its 95 % interval, `n`, and in `shares` how often the rule takes each schedule; all rules
    spend at most the middle schedule's operations on average. A row of "prediction" is a picture:
    what is predicted for the middle schedule, and what is measured. A frame that is summed up
    already is returned as it is.
    """
    if "what" in frame:
        return frame
    rows = [
        {**row, **({} if scale is None else {GUIDANCE: float(scale)})}
        for scale, part in by_guidance(frame)
        for row in _at_one_scale(part)
    ]
    return pd.DataFrame(rows)


def _at_one_scale(frame: pd.DataFrame) -> Iterator[dict[str, object]]:
    drawn = counted(frame)
    drawn = drawn[drawn.family != FULL]
    costs = drawn.groupby("method")[OPERATIONS].mean().sort_values(ascending=False)
    values = drawn.pivot_table(index="picture", columns="method", values="psnr")[costs.index]
    known = frame[frame.kind == FEATURES].set_index("picture").loc[values.index, KNOWN]
    quality, cost = values.to_numpy(), costs.to_numpy()
    middle = len(cost) // 2
    expected = predicted(known.to_numpy(dtype=float), quality)
    first = (cost[middle] - cost[-1]) / max(cost[0] - cost[-1], 1e-12)
    shares = np.zeros((3, *quality.shape))
    shares[0, :, 0], shares[0, :, -1] = first, 1 - first
    for place, wanted in ((1, expected), (2, quality)):
        picks = best_choice(wanted, cost, cost[middle])
        shares[place, np.arange(len(picks)), picks] = 1
    for rule, share in zip((MIXED, BY_PICTURE, ORACLE), shares, strict=True):
        gaps = (share * quality).sum(1) - quality[:, middle]
        low, high = bootstrap(gaps)
        yield {
            "what": GAIN, "rule": rule, "difference": float(gaps.mean()), "low": low, "high": high,
            "n": len(gaps), "operations": float((share * cost).sum(1).mean()),
            "shares": ", ".join(
                f"{name}: {s:.0%}" for name, s in zip(costs.index, share.mean(0), strict=True)
            ),
        }  # fmt: skip
    for picture, a, b in zip(values.index, expected[:, middle], quality[:, middle], strict=True):
        yield {"what": PREDICTION, "picture": picture, "predicted": float(a), "measured": float(b)}


def choice(frame: pd.DataFrame) -> Figure:
    """Gain in dB of choices over one schedule for all; predicted beside measured quality."""
    rows = choice_points(frame)
    scales = by_guidance(rows)
    with style():
        fig = Figure(figsize=(WIDTH, 2.1 * len(scales)), layout="constrained")
        grid = fig.subplots(len(scales), 2, squeeze=False, width_ratios=(1.6, 1))
        for (scale, here), (left, right) in zip(scales, grid, strict=True):
            if left is not grid[0][0]:
                left.sharex(grid[0][0])  # before it draws: both intervals count
            _gains(left, here[here.what == GAIN])
            _predictions(right, here[here.what == PREDICTION])
            if scale is not None:
                left.set_title(f"guidance {scale:g}")
        for axes in grid.flat:
            axes.grid(lw=0.4, color="0.9")
            sns.despine(ax=axes)
    return fig


def _gains(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw one line a rule: the gain with its interval."""
    for place, row in enumerate(rows.itertuples()):
        spread = [[row.difference - row.low], [row.high - row.difference]]
        axes.errorbar(
            row.difference, -place, xerr=spread, fmt="o", ms=4, lw=1, color=RULES[str(row.rule)]
        )
    axes.axvline(0, lw=0.8, color="0.6")
    axes.set_yticks(-np.arange(len(rows)), list(rows.rule))
    axes.set(xlabel="gain over one schedule for all (dB)", ylim=(-len(rows) + 0.5, 0.5))


def _predictions(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw each picture's measured quality over the predicted one, with their correlation."""
    axes.plot(rows.predicted, rows.measured, ".", ms=4, color=FAST, mew=0)
    axes.axline((rows.measured.mean(),) * 2, slope=1, lw=0.8, color="0.6")
    r = rows.predicted.corr(rows.measured)
    axes.set(
        title=f"r = {r:.2f}, n = {len(rows)}",
        xlabel="predicted PSNR (dB)",
        ylabel="measured PSNR (dB)",
    )
