"""Parts that the widgets share: messages, and work in the background."""

from __future__ import annotations

import html
from collections.abc import Callable
from functools import partial
from typing import Any

import ipywidgets as widgets

from fastvar_lab.errors import short
from fastvar_lab.experiments.explore import Stopped
from fastvar_lab.widgets.lifetime import Owner
from fastvar_lab.widgets.worker import Newest

Work = Callable[[Callable[[], bool]], Callable[[], None]]

LONGEST = 240  # characters of a message


class Status(widgets.HTML):
    """One line of status; errors are marked as alerts."""

    def __init__(self) -> None:
        super().__init__()
        self.add_class("fv-status")

    def say(self, text: str) -> None:
        """Show a message."""
        self.value = f'<span role="status">{html.escape(text)}</span>'

    def fail(self, error: Exception) -> None:
        """Show an error: a sentence, never a traceback."""
        expected = isinstance(error, ValueError | OSError | RuntimeError)
        text = str(error) if expected else f"{type(error).__name__}: {error}"
        text = html.escape(short(text, LONGEST))
        self.value = f'<span role="alert">{text}</span>'


class Live(Owner):
    """A widget that computes in a background thread: the newest request wins, errors are shown.

    `run_stop` stops the running request, or runs it again. `work(stopped)` computes in the
    background and returns a function that shows the result. That function is called only if no
    newer request has come, and no request starts while it runs. `work` raises Stopped when
    `stopped()` is true. What is on the page is dimmed until the result of the last request is
    there: `results` are the boxes that hold it. `idle` stands on the button while nothing runs.
    """

    idle = "Run"

    def __init__(self) -> None:
        self.worker, self.status = Newest(), Status()
        self.results: list[Any] = []
        tip = "run again, or stop what runs"
        self.run_stop = widgets.Button(description=self.idle, tooltip=tip)
        self.run_stop.add_class("fv-go")
        self.run_stop.on_click(lambda _: self.guarded(self._run_or_stop))
        super().__init__()

    @property
    def keeps_earlier(self) -> bool:
        """Whether pictures of an earlier request stay on the page when the last one is stopped."""
        return False

    def update(self) -> None:
        """Request the result for the current controls; returns at once."""
        raise NotImplementedError

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the pending request; return whether it ended within `timeout` seconds."""
        return self.worker.wait(timeout)

    def stale(self, old: bool = True) -> None:
        """Dim the results, or show them as those of the last request."""
        for part in self.results:
            (part.add_class if old else part.remove_class)("fv-stale")

    def ask(self, work: Work) -> None:
        """Run `work` in the worker thread, in place of any earlier request."""
        self.worker.cancel()  # else a request that ends now would reset the button
        self.stale()
        self.status.say("generating")
        self.run_stop.description = "Stop"

        def done(stopped: Callable[[], bool]) -> None:
            try:
                show = work(stopped)
            except Stopped:
                return
            except Exception as error:  # a thread's traceback would be lost
                show = partial(self.failed, error)
            with self.worker.lock:
                if stopped():
                    return
                try:
                    show()
                except Exception as error:
                    self.failed(error)
                self.run_stop.description = self.idle

        self.worker.ask(done)

    def failed(self, error: Exception) -> None:
        """Show an error of the work."""
        self.status.fail(error)

    def drop(self) -> None:
        """Cancel the running and the pending request."""
        self.worker.cancel()
        self.run_stop.description = self.idle

    def release(self) -> None:
        self.drop()

    def guarded(self, act: Callable[[], None]) -> None:
        """Call `act`; show an error in the widget and cancel what runs."""
        try:
            act()
        except Exception as error:  # a callback's traceback would go to a log
            self.drop()
            self.stale()
            self.failed(error)

    def _run_or_stop(self) -> None:
        if self.run_stop.description == "Stop":
            self.drop()
            kept = self.keeps_earlier
            self.status.say(
                "stopped; the pictures are those of an earlier request" if kept else "stopped"
            )
        else:
            self.update()
