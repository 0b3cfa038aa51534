"""Widgets with JavaScript of their own, and the style sheet that all widgets share."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import anywidget
import ipywidgets as widgets
import numpy as np
import traitlets
from matplotlib.colors import to_hex
from PIL import Image

from fastvar_lab.plotting.style import FAST, OTHER
from fastvar_lab.widgets.scripts import HERE, script

SLOTS = 6  # pictures of a viewer


def png(image: np.ndarray) -> bytes:
    """Encode (H, W, 3) or (H, W), uint8 or floats in [0, 1], as PNG."""
    if image.dtype != np.uint8:
        image = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def style_sheet() -> widgets.HTML:
    """Return the style of the widgets, to be a child of each outermost one."""
    sheet = widgets.HTML(f"<style>{(HERE / 'widgets.css').read_text(encoding='utf-8')}</style>")
    sheet.add_class("fv-style")
    return sheet


def box(name: str, *children: Any) -> widgets.Box:
    """Return a box of classes of the style sheet, which alone says how it is laid out."""
    group = widgets.Box(children)
    for each in name.split():
        group.add_class(each)
    return group


def heading(text: str) -> widgets.HTML:
    """Return a heading of a part of a widget."""
    title = widgets.HTML(f'<div role="heading" aria-level="3">{html.escape(text)}</div>')
    title.add_class("fv-heading")
    return title


def visible(widget: Any, shown: bool) -> None:
    """Show a widget, or hide it."""
    (widget.remove_class if shown else widget.add_class)("fv-hidden")


def button(label: str, tip: str, act: Callable[[], None]) -> widgets.Button:
    """Return a button that calls `act`."""
    control = widgets.Button(description=label, tooltip=tip)
    control.on_click(lambda _: act())
    return control


class ColorBar(NamedTuple):
    """What the colors of a picture mean: colors of CSS, evenly spaced, and what the ends are."""

    colors: Sequence[str]
    low: str
    high: str


class CopyButton(anywidget.AnyWidget):
    """A button that copies `text` to the clipboard."""

    _esm = script("copy.js")
    label = traitlets.Unicode("Copy").tag(sync=True)
    text = traitlets.Unicode("").tag(sync=True)


class Viewer(anywidget.AnyWidget):
    """Titled pictures of one place, side by side, that zoom, pan and point together.

    `put` swaps one in place, so that nothing flickers. `mode` "swipe" lays the second picture over
    the first. `place` is the marked place (x, y), each in [0, 1], or empty; arrow keys move it by
    one of `cells`. Pictures of one `group` point together. `views` is the number of views on pages.

    >>> viewer = Viewer({"kept": "kept tokens"})
    >>> viewer.put("kept", np.zeros((4, 4, 3)), note="of 32x32", alt="a black square")
    >>> viewer.p0["note"]
    'of 32x32'
    """

    _esm = script("viewer.js")
    mode = traitlets.Unicode("side").tag(sync=True)
    place: traitlets.List[float] = traitlets.List().tag(sync=True)
    cells = traitlets.Int(32).tag(sync=True)
    group = traitlets.Unicode("").tag(sync=True)
    views = traitlets.Int(0)
    p0, p1, p2, p3, p4, p5 = (traitlets.Dict().tag(sync=True) for _ in range(SLOTS))

    def __init__(self, titles: Mapping[str, str]) -> None:
        super().__init__()
        self.slots = {name: f"p{i}" for i, name in enumerate(titles)}
        self.titles = dict(titles)
        self.on_msg(self._received)
        for name in titles:
            self.put(name, np.full((8, 8, 3), 128, np.uint8), alt="not drawn yet")

    def put(
        self, name: str, image: np.ndarray, *, title: str = "", note: str = "", alt: str = "",
        cells: bool = False, hidden: bool = False, bar: ColorBar | None = None,
    ) -> None:  # fmt: skip
        """Replace a picture (H, W, 3). `cells` keeps the edges of enlarged cells sharp.

        `bar` stands under the picture.
        """
        self.titles[name] = title or self.titles[name]
        state = {
            "name": name, "title": self.titles[name], "note": note, "cells": cells,
            "alt": alt or self.titles[name], "hidden": hidden, "data": png(image),
            "bar": None if bar is None else bar._asdict(),
        }  # fmt: skip
        setattr(self, self.slots[name], state)

    def data(self, name: str) -> bytes:
        """Return the PNG of a picture."""
        return getattr(self, self.slots[name])["data"]

    def _received(self, _: Any, content: Any, buffers: Any) -> None:
        if isinstance(content, dict) and isinstance(content.get("views"), int):
            self.views += content["views"]


class Player(anywidget.AnyWidget):
    """Buttons and keys that go through steps, at a speed, once or in a loop.

    `step` is the index that it asks for; it waits until the same stands in `shown`, so that no
    picture is passed over. `last` is the index of the last step.
    """

    _esm = script("player.js")
    step = traitlets.Int(0).tag(sync=True)
    shown = traitlets.Int(0).tag(sync=True)
    last = traitlets.Int(0).tag(sync=True)


class Strip(anywidget.AnyWidget):
    """A row of cells to pick from by click or arrow keys; `picked` is an index, -1 for none.

    `picks` counts the clicks and keys that picked a cell, the same one again too. Each of `cells`
    is made by `cell`. `width` is the least width of a cell in pixels.
    """

    _esm = script("strip.js")
    label = traitlets.Unicode("").tag(sync=True)
    width = traitlets.Int(56).tag(sync=True)
    cells: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    picked = traitlets.Int(-1).tag(sync=True)
    picks = traitlets.Int(0).tag(sync=True)


def cell(
    name: str,
    images: Sequence[tuple[np.ndarray | bytes, str]],
    lines: Sequence[str] = (),
    bars: Sequence[Mapping[str, Any]] = (),
    tip: str = "",
    cells: bool = False,
) -> dict[str, Any]:
    """Return a cell of a `Strip`: `images` are pictures, or their PNG, with alt texts."""
    pngs = [(image if isinstance(image, bytes) else png(image), alt) for image, alt in images]
    return {
        "name": name, "lines": list(lines), "bars": list(bars), "tip": tip,
        "images": [{"data": data, "alt": alt, "cells": cells} for data, alt in pngs],
    }  # fmt: skip


class Scatter(anywidget.AnyWidget):
    """A scatter plot whose points can be picked by mouse or keyboard.

    `points` are dicts with the keys x, y, x_range and y_range (their intervals), name, lines
    (the values as written), cells (the same as the columns of a table), front (whether the point
    lies on the Pareto front, which is drawn as steps) and inside (whether it lies in the brushed
    ranges). `picked` and `pointed` are indices of points, -1 for none. `x_span` and `y_span` are
    the brushed ranges, (low, high), each of them None where nothing bounds it.
    """

    _esm = script("scatter.js")
    points: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    front_color = traitlets.Unicode(to_hex(FAST)).tag(sync=True)
    color = traitlets.Unicode(to_hex(OTHER)).tag(sync=True)
    picked = traitlets.Int(-1).tag(sync=True)
    pointed = traitlets.Int(-1).tag(sync=True)
    x_label = traitlets.Unicode("").tag(sync=True)
    y_label = traitlets.Unicode("").tag(sync=True)
    x_span: traitlets.List[Any] = traitlets.List([None, None]).tag(sync=True)
    y_span: traitlets.List[Any] = traitlets.List([None, None]).tag(sync=True)


class PointsTable(anywidget.AnyWidget):
    """The points of a `Scatter` that lie in the brushed ranges, as a table; names pick them.

    `columns` are the titles: of the names, and of the cells of each point.
    """

    _esm = script("points_table.js")
    points: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    columns: traitlets.List[str] = traitlets.List().tag(sync=True)
    picked = traitlets.Int(-1).tag(sync=True)
    pointed = traitlets.Int(-1).tag(sync=True)
