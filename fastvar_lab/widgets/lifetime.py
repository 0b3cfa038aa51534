"""The life of a widget: what it holds is freed when it is closed, run again, or not seen any more.

ipywidgets keeps every widget until it is closed, and a notebook keeps every result that it showed.
So the pages say how many views there are: without one, what takes memory goes, and comes back when
the widget is shown again. One whose cell has run again is closed with its last view.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import ipywidgets as widgets
from IPython import get_ipython

LATEST: dict[str, int] = {}
"""The last execution of each notebook cell that made a widget."""


def this_cell() -> tuple[str, int]:
    """Return the notebook cell that runs, and the number of its execution; empty elsewhere."""
    shell = get_ipython()
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return "", 0
    cell = str(kernel.get_parent().get("metadata", {}).get("cellId", ""))
    return cell, int(shell.execution_count)


def close_parts(widget: widgets.Widget, keep: Sequence[widgets.Widget] = ()) -> None:
    """Close a widget with its children, their layouts and styles, and drop all observers.

    Those in `keep` stay as they are.
    """
    if any(widget is kept for kept in keep):
        return
    for child in getattr(widget, "children", ()):
        close_parts(child, keep)
    for name in ("layout", "style"):
        part = widget._trait_values.get(name)
        if isinstance(part, widgets.Widget):
            part.close()
    widget.unobserve_all()
    with suppress(Exception):  # a comm whose kernel is shutting down
        widgets.Widget.close(widget)


class Owner(widgets.VBox):
    """A widget that owns its parts: `close` closes them all, and calls `release`.

    A subclass frees in `release` what takes memory, and calls `viewed` with the number of views.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.execution = this_cell()
        self.asleep = self.closed = False
        if self.cell:
            LATEST[self.cell] = self.execution

    def release(self) -> None:
        """Free what takes memory; it is computed again on demand."""

    def wake(self) -> None:
        """Compute again what `release` freed; the widget is shown again."""

    def viewed(self, views: int) -> None:
        """Release without a view, or close if the cell has run again; wake with one."""
        if views > 0:
            if self.asleep and not self.closed:
                self.asleep = False
                self.wake()
        elif self.cell and LATEST.get(self.cell) != self.execution:
            self.close()
        else:
            self.asleep = True
            self.release()

    def close(self) -> None:
        """Close all parts, and free what they hold."""
        if getattr(self, "closed", True):
            return
        self.closed = True
        if self.children:  # else its construction has failed
            self.release()
        close_parts(self)
