"""Figures from arrays: no torch, no generation, one function a figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from skimage.transform import resize

FULL, FAST = sns.color_palette("deep")[0], sns.color_palette("deep")[3]
WIDTH = 7.2  # inches, a two-column paper's text width


@contextmanager
def style() -> Iterator[None]:
    """Paper style for what is drawn inside; nothing outside is changed."""
    small: dict[Any, Any] = {
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "legend.fontsize": 7,
        "legend.title_fontsize": 7,
        "pdf.fonttype": 42,  # embedded, editable fonts
    }
    with (
        sns.axes_style("ticks"),
        sns.plotting_context("paper"),
        mpl.rc_context({**small, "xtick.labelsize": 7, "ytick.labelsize": 7}),
    ):
        yield


def picture(axes: Axes, image: np.ndarray, title: str = "") -> None:
    """Show an image (H, W, 3) or (H, W) without ticks."""
    axes.imshow(image, interpolation="none" if image.shape[0] >= 128 else "nearest")
    axes.set_title(title)
    axes.set_axis_off()


def kept_overlay(image: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Show which tokens were forwarded: those of no layer go dark, those of all stay as they are.

    `image` (H, W, 3) in [0, 1], `share` (h, w) of layers that forwarded a token.
    """
    light = resize(share, image.shape[:2], order=0)[..., None]
    return image * (0.15 + 0.85 * light)


def comparison(
    full: np.ndarray,
    fast: np.ndarray,
    shares: dict[str, np.ndarray],
    scales: Sequence[str],
    ms_full: Sequence[float],
    ms_fast: Sequence[float],
    title: str,
    note: str,
    unit: str = "ms",
) -> Figure:
    """Full and fast generation side by side, their difference, the kept tokens, cost per scale.

    Images (H, W, 3) in [0, 1]; `shares` maps a label to a (h, w) map of forwarded tokens.
    """
    with style():
        columns = 3 + len(shares)
        fig = Figure(figsize=(WIDTH, WIDTH / columns + 2.1), layout="constrained")
        fig.suptitle(title, fontsize=9)
        grid = fig.add_gridspec(2, columns, height_ratios=(WIDTH / columns, 1.6))
        gap = np.abs(full - fast)
        gain = 1 if gap.max() == 0 else max(1, int(1 / max(np.quantile(gap, 0.999), 0.05)))
        panels = [
            (full, "full"),
            (fast, "FastVAR"),
            (np.clip(gap * gain, 0, 1), f"difference x {gain}" if gain > 1 else "difference"),
            *((kept_overlay(fast, share), label) for label, share in shares.items()),
        ]
        for i, (image, label) in enumerate(panels):
            picture(fig.add_subplot(grid[0, i]), image, label)
        axes = fig.add_subplot(grid[1, :])
        place = np.arange(len(scales))
        axes.bar(place - 0.2, ms_full, 0.38, color=FULL, label=f"full, {sum(ms_full):.0f} {unit}")
        axes.bar(
            place + 0.2, ms_fast, 0.38, color=FAST, label=f"FastVAR, {sum(ms_fast):.0f} {unit}"
        )
        axes.set_xticks(place, scales)
        axes.set(xlabel="token map of the scale step", ylabel="time (ms)" if unit == "ms" else unit)
        axes.legend(frameon=False, title=note, title_fontsize=7, alignment="left")
        sns.despine(ax=axes)
    return fig


def steps(rows: Mapping[str, Sequence[np.ndarray]], scales: Sequence[str]) -> Figure:
    """Show the decoded image after every scale step, one row per prompt (paper, Fig. A.2)."""
    with style():
        cell = WIDTH / len(scales)
        height = (cell + 0.14) * len(rows) + 0.35
        fig = Figure(
            figsize=(WIDTH, height),
            layout=ConstrainedLayoutEngine(
                w_pad=0.01,
                h_pad=0.07,
                hspace=0,
                wspace=0,
                rect=(0, 0.14 / height, 1, 1 - 0.14 / height),
            ),
        )
        grid = fig.subplots(len(rows), len(scales), squeeze=False)
        for i, (prompt, images) in enumerate(rows.items()):
            for axes, image, scale in zip(grid[i], images, scales, strict=True):
                picture(axes, image, scale if i == 0 else "")
            first = grid[i][0]
            note = first.text(0, -0.05, prompt, style="italic", transform=first.transAxes, va="top")
            note.set_in_layout(False)
    return fig
