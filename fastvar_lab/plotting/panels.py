"""Figures of pictures and maps: each function draws one figure from arrays, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from textwrap import fill
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from skimage.transform import resize

from fastvar_lab.plotting.style import FAST, FULL, PALETTE, WIDTH, Figure, legend_label, style


def picture(axes: Axes, image: np.ndarray, title: str = "") -> None:
    """Show an image (H, W, 3) or (H, W) without ticks."""
    axes.imshow(image, interpolation="none" if image.shape[0] >= 128 else "nearest")
    axes.set_title(title)
    axes.set_axis_off()


def kept_overlay(image: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Darken a picture where tokens were pruned; tokens that every layer forwarded stay bright.

    `image` (H, W, 3) in [0, 1]; `share` (h, w) is the share of layers that forwarded a token.

    >>> kept_overlay(np.ones((2, 2, 3)), np.array([[1, 0]]))[0, :, 0].tolist()
    [1.0, 0.15]
    """
    light = resize(share.astype(float), image.shape[:2], order=0)[..., None]
    return image * (0.15 + 0.85 * light)


def heat(values: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """Color a map (h, w) from dark to bright: (h, w, 3) in [0, 1]; by default over its range.

    Places without a value, nan, are grey.

    >>> heat(np.array([[1.0, np.nan]])).round(2)[0, 1].tolist()
    [0.5, 0.5, 0.5]
    """
    norm = mpl.colors.Normalize(low, high)
    colors = mpl.colormaps["viridis"].with_extremes(bad="0.5")
    return colors(norm(np.ma.masked_invalid(values)))[..., :3]


def ends(values: np.ndarray) -> tuple[str, str]:
    """Write the least and the largest of the values that are there.

    >>> ends(np.array([0.5, np.nan, 2.0])), ends(np.array([np.nan]))
    (('0.5', '2'), ('none', 'none'))
    """
    there = values[~np.isnan(values)]
    return (f"{there.min():.3g}", f"{there.max():.3g}") if there.size else ("none", "none")


def heat_colors(stops: int = 9) -> list[str]:
    """Return evenly spaced colors of `heat`, from the lowest value to the highest.

    >>> len(set(heat_colors(9)))
    9
    """
    return [mpl.colors.to_hex(color) for color in heat(np.linspace(0, 1, stops)[None])[0]]


class Difference(NamedTuple):
    """A difference picture (H, W, 3) in [0, 1], mid-grey where nothing differs, and its gain."""

    picture: np.ndarray
    gain: int

    @property
    def title(self) -> str:
        """The title of the picture, with its gain.

        >>> difference(np.full((1, 1, 3), 0.1)).title
        'difference x 10'
        """
        return f"difference x {self.gain}"


GAINS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def difference(
    image: np.ndarray, reference: np.ndarray | None = None, gain: int | None = None
) -> Difference:
    """Show a signed difference as brightness around mid-grey: 0.5 + gain (image - reference) / 2.

    Both are (H, W, 3), uint8 or floats in [0, 1]; without a reference `image` is the difference.
    The default gain is the largest of `GAINS` that clips at most one value in a thousand; 1 for
    equal pictures.

    >>> picture, gain = difference(np.array([[[0.0, 0.1, -0.1]]]))
    >>> picture[0, 0].round(2).tolist(), gain
    ([0.5, 1.0, 0.0], 10)
    """
    gap = _floats(image) if reference is None else _floats(image) - _floats(reference)
    extent = float(np.quantile(np.abs(gap), 0.999))
    if gain is None:
        fitting = [gain for gain in GAINS if gain * extent <= 1 + 1e-9]
        gain = max(fitting, default=1) if extent > 0 else 1
    return Difference(np.clip(0.5 + gain * gap / 2, 0, 1), gain)


def _floats(image: np.ndarray) -> np.ndarray:
    return image / 255 if image.dtype == np.uint8 else np.asarray(image, dtype=float)


def gallery(images: Mapping[str, np.ndarray], columns: int = 4, width: float = WIDTH) -> Figure:
    """Draw titled pictures or maps in rows.

    Pictures (H, W, 3) are uint8 or floats in [0, 1], maps (h, w) are colored.

    >>> import numpy as np
    >>> gallery({"noise": np.random.rand(8, 8, 3), "a map": np.eye(4)}).axes[1].get_title()
    'a map'
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    with style():
        height = rows * (width / columns + 0.22)
        fig = Figure(figsize=(width, height), layout="constrained")
        grid = fig.subplots(rows, columns, squeeze=False).flatten()
        for axes in grid:
            axes.set_axis_off()
        for axes, (title, image) in zip(grid, images.items(), strict=False):
            picture(axes, heat(image) if image.ndim == 2 else image, title)
    return fig


def spectra(frequencies: np.ndarray, lines: Mapping[str, np.ndarray]) -> Figure:
    """Draw radial spectra: log10 amplitudes by frequency in cycles per pixel."""
    with style():
        fig = Figure(figsize=(3.4, 2.2), layout="constrained")
        axes = fig.subplots()
        for color, (label, amplitudes) in zip(cycle(PALETTE), lines.items()):
            axes.plot(frequencies, amplitudes, lw=1.2, color=color, label=legend_label(label))
        axes.set(xlabel="frequency (cycles per pixel)", ylabel="log10 amplitude")
        axes.legend(frameon=False)
        sns.despine(ax=axes)
    return fig


def comparison(
    full: np.ndarray,
    fast: np.ndarray,
    shares: dict[str, np.ndarray],
    scales: Sequence[str],
    cost_full: Sequence[float],
    cost_fast: Sequence[float],
    title: str,
    note: str,
    unit: str = "ms",
    *,
    name: str,
    base: str = "full",
) -> Figure:
    """Draw full and fast generation, their difference, kept tokens, and the cost per scale.

    Pictures are (H, W, 3) in [0, 1]. `shares` maps a label to a map (h, w) of the share of layers
    that forwarded each token. `cost_full` and `cost_fast` are in `unit`, one value per scale;
    `note` is the title of their legend, `name` that of the fast one's method. `base` names what
    stands in place of full generation, if that is another method.
    """
    with style():
        columns = 3 + len(shares)
        fig = Figure(figsize=(WIDTH, WIDTH / columns + 2.1), layout="constrained")
        fig.suptitle(title, fontsize=9)
        grid = fig.add_gridspec(2, columns, height_ratios=(WIDTH / columns, 1.6))
        gap = difference(fast, full)
        panels = [
            (full, base),
            (fast, name),
            (gap.picture, gap.title),
            *((kept_overlay(fast, share), label) for label, share in shares.items()),
        ]
        for i, (image, label) in enumerate(panels):
            picture(fig.add_subplot(grid[0, i]), image, label)
        axes = fig.add_subplot(grid[1, :])
        place = np.arange(len(scales))
        axes.bar(
            place - 0.2, cost_full, 0.38, color=FULL, label=f"{base}, {sum(cost_full):.0f} {unit}"
        )
        axes.bar(
            place + 0.2, cost_fast, 0.38, color=FAST, label=f"{name}, {sum(cost_fast):.0f} {unit}"
        )
        axes.set_xticks(place, scales)
        axes.set(xlabel="token map of the scale step", ylabel="time (ms)" if unit == "ms" else unit)
        axes.legend(frameon=False, title=note, title_fontsize=7, alignment="left")
        sns.despine(ax=axes)
    return fig


def steps(rows: Mapping[str, Sequence[np.ndarray]], scales: Sequence[str]) -> Figure:
    """Draw the decoded picture after every scale step, one row per prompt (paper, Fig. A.2).

    >>> pictures = np.random.default_rng(0).random((2, 8, 8, 3))
    >>> [axes.get_title() for axes in steps({"a red ring": pictures}, ["1x1", "2x2"]).axes]
    ['1x1', '2x2']
    """
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


def pairs(images: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Draw pairs of pictures, full above FastVAR, titled by prompt (paper, Figs A.3, A.4)."""
    with style():
        columns = len(images)
        cell = WIDTH / columns
        fig = Figure(figsize=(WIDTH, 2 * cell + 0.3), layout="constrained")
        grid = fig.subplots(2, columns, squeeze=False)
        for column, (prompt, pair) in zip(grid.T, images.items(), strict=True):
            for axes, image in zip(column, pair, strict=True):
                axes.imshow(image, interpolation="none")
                axes.set(xticks=[], yticks=[])
                sns.despine(ax=axes, left=True, bottom=True)
            column[0].set_title(fill(prompt, 18), fontsize=6, style="italic")
        for axes, name in zip(grid[:, 0], ("full", "FastVAR"), strict=True):
            axes.set_ylabel(name)
    return fig
