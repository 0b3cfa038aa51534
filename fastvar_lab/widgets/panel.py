"""Parts that the widgets share: labelled controls, picture galleries, messages, background work."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import ipywidgets as widgets
import numpy as np
from matplotlib.colors import to_hex
from PIL import Image

from fastvar_lab.experiments.explore import Stopped
from fastvar_lab.plotting.style import ALERT, FAST, FULL
from fastvar_lab.widgets.worker import Newest

Work = Callable[[Callable[[], bool]], Callable[[], None]]

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


def cost_table(scales: Sequence[str], full: Sequence[float], fast: Sequence[float]) -> str:
    """Write the cost of each scale, in GFLOP, as an HTML table of bars, readable in any theme."""
    longest = max(full)
    rows = []
    for scale, *costs in zip(scales, full, fast, strict=True):
        bars = "".join(
            f'<div style="width:{100 * cost / longest:.1f}%;height:5px;background:{color}"></div>'
            for cost, color in zip(costs, (to_hex(FULL), to_hex(FAST)), strict=True)
        )
        rows.append(
            f'<tr><td style="padding-right:6px">{scale}</td><td style="width:60%">{bars}</td>'
            f'<td style="white-space:nowrap">{costs[1]:.1f} of {costs[0]:.1f} GFLOP</td></tr>'
        )
    return f'<table style="width:100%;font-size:11px;line-height:15px">{"".join(rows)}</table>'


class Gallery(widgets.HBox):
    """Titled pictures side by side; `put` swaps one in place, so that nothing flickers.

    >>> gallery = Gallery(["scores"])
    >>> gallery.put("scores", np.zeros((4, 4, 3)), "0 to 2")
    >>> gallery.labels["scores"].value
    'scores, 0 to 2'
    """

    def __init__(self, titles: Iterable[str], pixels: int = PIXELS) -> None:
        blank = png(np.full((8, 8, 3), 128, np.uint8))
        self.pictures = {
            title: widgets.Image(
                value=blank,
                format="png",
                layout=widgets.Layout(
                    width=f"{pixels}px", height=f"{pixels}px", object_fit="contain"
                ),
            )
            for title in titles
        }
        for title, image in self.pictures.items():
            image.add_class("fastvar-" + title.split()[0].lower())  # no tooltip: images break on it
        # not `Label`, which sets what stands between dollar signs as mathematics
        self.labels = {title: widgets.HTML(html.escape(title)) for title in self.pictures}
        shown = [widgets.VBox([self.labels[t], image]) for t, image in self.pictures.items()]
        super().__init__(shown, layout=widgets.Layout(flex_flow="row wrap"))

    def put(self, title: str, image: np.ndarray, note: str = "") -> None:
        """Replace the picture (H, W, 3) of a title; `note` is shown beside it, such as a range."""
        self.pictures[title].value = png(image)
        self.labels[title].value = html.escape(f"{title}, {note}" if note else title)


class Status(widgets.HTML):
    """One line of status; errors are marked as alerts."""

    def say(self, text: str) -> None:
        """Show a message."""
        self.value = f'<span role="status">{html.escape(text)}</span>'

    def fail(self, error: Exception) -> None:
        """Show an error: a sentence, never a traceback."""
        expected = isinstance(error, ValueError | OSError | RuntimeError)
        text = str(error) if expected else f"{type(error).__name__}: {error}"
        self.value = f'<span style="color:{ALERT}" role="alert">{html.escape(text)}</span>'


class Live(widgets.VBox):
    """A widget that computes in a background thread: the newest request wins, errors are shown.

    `run_stop` stops the running request, or runs it again. `work(stopped)` computes in the
    background and returns a function that shows the result. That function is called only if no
    newer request has come, and no request starts while it runs. `work` raises Stopped when
    `stopped()` is true.
    """

    def __init__(self) -> None:
        self.worker, self.status = Newest(), Status()
        self.run_stop = widgets.Button(description="Run")
        self.run_stop.on_click(lambda _: self.guarded(self._run_or_stop))
        super().__init__()

    def update(self) -> None:
        """Request the result for the current controls; returns at once."""
        raise NotImplementedError

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the pending request; return whether it ended within `timeout` seconds."""
        return self.worker.wait(timeout)

    def ask(self, work: Work) -> None:
        """Run `work` in the worker thread, in place of any earlier request."""
        self.worker.cancel()  # else a request that ends now would reset the button to "Run"
        self.status.say("generating")
        self.run_stop.description = "Stop"

        def done(stopped: Callable[[], bool]) -> None:
            try:
                show = work(stopped)
            except Stopped:
                return
            except Exception as error:  # a thread's traceback would be lost
                show = partial(self.status.fail, error)
            with self.worker.lock:
                if stopped():
                    return
                try:
                    show()
                except Exception as error:
                    self.status.fail(error)
                self.run_stop.description = "Run"

        self.worker.ask(done)

    def drop(self) -> None:
        """Cancel the running and the pending request."""
        self.worker.cancel()
        self.run_stop.description = "Run"

    def guarded(self, act: Callable[[], None]) -> None:
        """Call `act`; show an error in the widget and cancel what runs."""
        try:
            act()
        except Exception as error:  # a callback's traceback would go to a log
            self.drop()
            self.status.fail(error)

    def _run_or_stop(self) -> None:
        if self.run_stop.description == "Stop":
            self.drop()
            self.status.say("stopped")
        else:
            self.update()
