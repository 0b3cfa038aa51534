"""How figures and widgets look, and how figures are written: the same bytes each time."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import seaborn as sns
from matplotlib import figure

from fastvar_lab.files import expanded, write

PALETTE = tuple(sns.color_palette("colorblind"))
"""The colors of everything that is told apart: RGB in [0, 1]."""

FULL, FAST = PALETTE[0], PALETTE[3]
"""The pair of colors of full and pruned generation."""

OTHER = "0.6"
"""The grey of what is not the point, such as methods behind a front."""

ALERT = "#d9534f"
"""The color of an error in a widget."""

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
"""How the families that ship here look, in every figure and widget."""


def looks(families: Iterable[str]) -> dict[str, Look]:
    """Give each family its look: its own in `LOOKS`, or one that is left, in the order given.

    Colors repeat when there are more families than colors, with other markers.

    >>> found = looks(["mine", "FastVAR", "mine"])
    >>> found["FastVAR"] == LOOKS["FastVAR"], found["mine"].color in (FULL, FAST)
    (True, False)
    """
    named = list(dict.fromkeys(families))
    taken = {LOOKS[name].color for name in named if name in LOOKS} | {FULL, FAST}
    left = [color for color in PALETTE if color not in taken]
    others = (
        Look(left[i % len(left)], MARKERS[(i + i // len(left)) % len(MARKERS)])
        for i in range(len(named))
    )
    return {name: LOOKS[name] if name in LOOKS else next(others) for name in named}


_SAVING: dict[Any, Any] = {
    "pdf.fonttype": 42,  # TrueType, which journals ask for; Type 3 is matplotlib's default
    "ps.fonttype": 42,
    "svg.hashsalt": "fastvar_lab",
}  # read when a figure is saved, whatever style it was drawn in


class Figure(figure.Figure):
    """A figure that shows itself at the end of a notebook cell, without pyplot."""

    def _repr_png_(self) -> bytes:
        return self.png()

    def png(self, dpi: int = 150) -> bytes:
        """Draw as PNG."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=dpi)
        return buffer.getvalue()

    def savefig(self, *args: Any, **kwargs: Any) -> None:
        """Save as matplotlib does, with TrueType fonts in PDFs."""
        with mpl.rc_context(_SAVING):
            super().savefig(*args, **kwargs)


@contextmanager
def style() -> Iterator[None]:
    """Paper style for what is drawn inside; nothing outside is changed."""
    small: dict[Any, Any] = {
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "legend.fontsize": 7,
        "legend.title_fontsize": 7,
    }
    with (
        sns.axes_style("ticks"),
        sns.plotting_context("paper"),
        mpl.rc_context({**small, "xtick.labelsize": 7, "ytick.labelsize": 7}),
    ):
        yield


def write_figure(path: str | Path, drawn: figure.Figure, dpi: int = 200) -> None:
    """Write a figure by its ending (png, pdf, svg) without dates or versions inside."""
    path = expanded(path)
    drop = {".png": ["Software"], ".pdf": ["CreationDate", "Creator", "Producer"], ".svg": ["Date"]}
    metadata = dict.fromkeys(drop.get(path.suffix, []))
    with mpl.rc_context(_SAVING):  # `drawn` may be matplotlib's own
        write(path, lambda p: drawn.savefig(p, dpi=dpi, metadata=metadata))
