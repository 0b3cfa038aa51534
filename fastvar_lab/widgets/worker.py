"""A background worker that serves the newest request and drops the others."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from contextlib import suppress
from weakref import WeakSet

EVERY: WeakSet[Newest] = WeakSet()


@atexit.register
def end() -> None:
    """Let nothing compute any more while the interpreter goes."""
    workers = list(EVERY)
    for worker in workers:
        worker.cancel()
    for worker in workers:
        worker.wait(10)


class Newest:
    """Runs `work(stopped)` for the newest of the requests, after a short pause without another.

    `stopped` tells the running work that a newer request, or `cancel`, has come.
    """

    def __init__(self, pause: float = 0.15) -> None:
        self.pause = pause
        self.lock = threading.Condition()
        self.number = 0
        self.pending: Callable[[Callable[[], bool]], None] | None = None
        self.busy = False
        self.thread: threading.Thread | None = None
        EVERY.add(self)

    def ask(self, work: Callable[[Callable[[], bool]], None]) -> None:
        """Replace whatever was asked before."""
        with self.lock:
            self.number += 1
            self.pending, self.busy = work, True
            if self.thread is None or not self.thread.is_alive():
                self.thread = threading.Thread(target=self._serve, daemon=True)
                self.thread.start()
            self.lock.notify_all()

    def cancel(self) -> None:
        """Stop what runs, and forget what waits."""
        with self.lock:
            self.number += 1
            self.pending = None
            self.lock.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing runs or waits; tell whether that was so in time."""
        with self.lock:
            return self.lock.wait_for(lambda: not self.busy, timeout)

    def _serve(self) -> None:
        while True:
            with self.lock:
                number = self.number
                while self.lock.wait_for(lambda n=number: self.number != n, self.pause):  # type: ignore[misc]
                    number = self.number  # asked again within the pause
                work, self.pending = self.pending, None
                if work is None:
                    self.busy = False
                    self.thread = None
                    self.lock.notify_all()
                    return
            with suppress(BaseException):  # work says itself what went wrong; the next is served
                work(lambda n=number: self.number != n)  # type: ignore[misc]
