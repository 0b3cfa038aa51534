"""The style of figures and widgets, and the writing of figures with reproducible bytes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib import figure
from matplotlib.ticker import LogFormatter
from PIL import Image

from fastvar_lab.files import expanded, write

PALETTE = tuple(sns.color_palette("colorblind"))
"""The colors of categories, RGB in [0, 1]: colorblind-safe, in the order of use."""

FULL, FAST = PALETTE[0], PALETTE[3]
"""The colors of full and of pruned generation."""

KEPT, PRUNED = PALETTE[0], PALETTE[3]
"""The colors of tokens that are painted to be kept and to be pruned."""

OTHER = "0.6"
"""The grey of secondary data, such as methods behind a Pareto front."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDTH = 7.2  # inches, a two-column paper's text width


class Look(NamedTuple):
    """The color (RGB in [0, 1]) and marker of a method family."""

    color: tuple[float, float, float]
    marker: str


LOOKS = {
    "full": Look(FULL, "o"),
    "FastVAR": Look(FAST, "s"),
    "skipping": Look(PALETTE[1], "^"),
    "ToMe": Look(PALETTE[2], "D"),
    "CoDe": Look(PALETTE[4], "v"),
}
"""The looks of the library's method families, in every figure and widget."""


def looks(families: Iterable[str]) -> dict[str, Look]:
    """Return the look of each family: that in `LOOKS`, or an unused one in the order given.

    If there are more families than colors, colors repeat with other markers.

    >>> by_family = looks(["mine", "FastVAR", "mine"])
    >>> by_family["FastVAR"] == LOOKS["FastVAR"], by_family["mine"].color in (FULL, FAST)
    (True, False)
    """
    names = list(dict.fromkeys(families))
    used = {LOOKS[name].color for name in names if name in LOOKS} | {FULL, FAST}
    free = [color for color in PALETTE if color not in used]
    others = (
        Look(free[i % len(free)], MARKERS[(i + i // len(free)) % len(MARKERS)])
        for i in range(len(names))
    )
    return {name: LOOKS[name] if name in LOOKS else next(others) for name in names}


def legend_label(text: object) -> str:
    """Write a label so that legends show it: matplotlib leaves out those that begin with `_`.

    >>> legend_label("_mine"), legend_label("full")
    (' _mine', 'full')
    """
    return f" {text}" if str(text).startswith("_") else str(text)


_SAVING: dict[Any, Any] = {
    "pdf.fonttype": 42,  # TrueType, which journals ask for; Type 3 is matplotlib's default
    "ps.fonttype": 42,
    "svg.hashsalt": "fastvar_lab",
}  # settings that matplotlib reads when it saves a figure


class Figure(figure.Figure):
    """A matplotlib figure that displays in notebooks without pyplot.

    Its text is shown as it is written: dollar signs of a prompt are no mathematics. A label of
    yours that is mathematics says so: `axes.set_title("$x^2$").set_parse_math(True)`.
    """

    def _repr_png_(self) -> bytes:
        return self.png()

    def png(self, dpi: int = 150) -> bytes:
        """Render as PNG."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=dpi)
        return buffer.getvalue()

    def array(self, dpi: int = 150) -> np.ndarray:
        """Render to pixels (H, W, 3), uint8."""
        return np.asarray(Image.open(io.BytesIO(self.png(dpi))).convert("RGB"))

    def draw(self, renderer: Any) -> None:
        """Draw like matplotlib, with tick labels as they are written."""
        for axes in self.axes:
            for axis in (axes.xaxis, axes.yaxis):
                # matplotlib writes powers of ten as mathematics, and makes ticks when it draws
                powers = isinstance(axis.get_major_formatter(), LogFormatter)
                for label in axis.get_ticklabels():
                    label.set_parse_math(powers)
        super().draw(renderer)

    def savefig(self, *args: Any, **kwargs: Any) -> None:
        """Save like matplotlib, with TrueType fonts in PDFs, whatever the user's settings are."""
        with _defaults():
            super().savefig(*args, **kwargs)


@contextmanager
def _defaults() -> Iterator[None]:
    """Use matplotlib's defaults inside the context: those of a user's matplotlibrc do not count."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SAVING)
        yield


@contextmanager
def style() -> Iterator[None]:
    """Draw in paper style inside the context, whatever the user's style; that stays unchanged."""
    small: dict[Any, Any] = {
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "legend.fontsize": 7,
        "legend.title_fontsize": 7,
        "text.parse_math": False,
        "text.usetex": False,
    }
    with (
        _defaults(),
        sns.axes_style("ticks"),
        sns.plotting_context("paper"),
        mpl.rc_context({**small, "xtick.labelsize": 7, "ytick.labelsize": 7}),
    ):
        yield


def write_figure(path: str | Path, drawing: figure.Figure, dpi: int = 200) -> None:
    """Write a figure as png, pdf or svg, by the suffix of `path`, without dates or versions."""
    path = expanded(path)
    drop = {".png": ["Software"], ".pdf": ["CreationDate", "Creator", "Producer"], ".svg": ["Date"]}
    metadata = dict.fromkeys(drop.get(path.suffix, []))
    with _defaults():  # `drawing` may be a plain matplotlib figure
        write(path, lambda p: drawing.savefig(p, dpi=dpi, metadata=metadata))
