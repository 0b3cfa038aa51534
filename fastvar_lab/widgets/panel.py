"""What the widgets are made of: labelled controls, pictures swapped in place, messages."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable
from typing import Any

import ipywidgets as widgets
import numpy as np
from PIL import Image

PIXELS = 204  # side of a picture on the page
LABEL = {"description_width": "130px"}


def png(image: np.ndarray) -> bytes:
    """Encode (H, W, 3) uint8, or floats in [0, 1], as PNG."""
    if image.dtype != np.uint8:
        image = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def control(kind: Any, description: str, **options: Any) -> Any:
    """Make a control with its label, as wide as its column."""
    layout = options.pop("layout", None) or widgets.Layout(width="auto")
    return kind(description=description, style=LABEL, layout=layout, **options)


class Gallery(widgets.HBox):
    """Titled pictures side by side; `put` swaps one in place, so that nothing flickers."""

    def __init__(self, titles: Iterable[str], pixels: int = PIXELS) -> None:
        blank = png(np.full((8, 8, 3), 128, np.uint8))
        self.pictures = {
            title: widgets.Image(
                value=blank,
                format="png",
                layout=widgets.Layout(width=f"{pixels}px", height=f"{pixels}px"),
            )
            for title in titles
        }
        for title, image in self.pictures.items():
            image.add_class("fastvar-" + title.split()[0].lower())  # no tooltip: images break on it
        shown = [widgets.VBox([widgets.Label(t), image]) for t, image in self.pictures.items()]
        super().__init__(shown, layout=widgets.Layout(flex_flow="row wrap"))

    def put(self, title: str, image: np.ndarray | bytes) -> None:
        """Show another picture (H, W, 3), or PNG bytes, under a title."""
        self.pictures[title].value = image if isinstance(image, bytes) else png(image)


class Status(widgets.HTML):
    """One line about what goes on; errors are marked as alerts."""

    def say(self, text: str) -> None:
        """Show a message."""
        self.value = f'<span role="status">{html.escape(text)}</span>'

    def fail(self, error: Exception) -> None:
        """Show an error: a sentence, never a traceback."""
        known = isinstance(error, ValueError | OSError | RuntimeError)
        text = str(error) if known else f"{type(error).__name__}: {error}"
        self.value = f'<span style="color:#d9534f" role="alert">{html.escape(text)}</span>'
