"""How figures look, and how they are written: the same bytes each time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib import figure

from fastvar_lab.files import write

FULL, FAST = sns.color_palette("deep")[0], sns.color_palette("deep")[3]
WIDTH = 7.2  # inches, a two-column paper's text width


class Figure(figure.Figure):
    """A figure that shows itself at the end of a notebook cell, without pyplot."""

    def _repr_png_(self) -> bytes:
        return self.png()

    def png(self, dpi: int = 150) -> bytes:
        """Draw as PNG."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=dpi)
        return buffer.getvalue()


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


def write_figure(path: str | Path, drawn: figure.Figure, dpi: int = 200) -> None:
    """Write a figure by its ending (png, pdf, svg) without dates or versions inside."""
    path = Path(path)
    drop = {".png": ["Software"], ".pdf": ["CreationDate", "Creator", "Producer"], ".svg": ["Date"]}
    metadata = dict.fromkeys(drop.get(path.suffix, []))
    with mpl.rc_context({"svg.hashsalt": "fastvar_lab"}):
        write(path, lambda p: drawn.savefig(p, dpi=dpi, metadata=metadata))
