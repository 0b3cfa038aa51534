"""Widgets with JavaScript of their own: a copy button and a scatter plot with pickable points."""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets
from matplotlib.colors import to_hex

from fastvar_lab.plotting.style import FAST, OTHER

HERE = Path(__file__).parent


class CopyButton(anywidget.AnyWidget):
    """A button that copies `text` to the clipboard."""

    _esm = HERE / "copy.js"
    label = traitlets.Unicode("Copy").tag(sync=True)
    text = traitlets.Unicode("").tag(sync=True)


class Scatter(anywidget.AnyWidget):
    """A scatter plot whose points can be picked by mouse or keyboard.

    `points` are dicts with the keys x, y, name and front (whether the point lies on the Pareto
    front, which is drawn as a line). `picked` is the index of the picked point, -1 for none.
    """

    _esm = HERE / "scatter.js"
    points: traitlets.List[dict[str, object]] = traitlets.List().tag(sync=True)
    front_color = traitlets.Unicode(to_hex(FAST)).tag(sync=True)
    color = traitlets.Unicode(to_hex(OTHER)).tag(sync=True)
    picked = traitlets.Int(-1).tag(sync=True)
    x_label = traitlets.Unicode("").tag(sync=True)
    y_label = traitlets.Unicode("").tag(sync=True)
