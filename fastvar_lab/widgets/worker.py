"""A background worker that runs the newest request and drops the others."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from contextlib import suppress
from weakref import WeakSet

EVERY: WeakSet[Newest] = WeakSet()


@atexit.register
def end() -> None:
    """Stop every worker before the interpreter exits."""
    workers = list(EVERY)
    for worker in workers:
        worker.cancel()
    for worker in workers:
        worker.wait(10)


class Newest:
    """Runs `work(stopped)` of the newest request, once `pause` seconds pass without another.

    `stopped()` returns true once a newer request or `cancel` has come.
    """

    def __init__(self, pause: float = 0.05) -> None:
        self.pause = pause
        self.lock = threading.Condition()
        self.number = 0
        self.pending: Callable[[Callable[[], bool]], None] | None = None
        self.busy = False
        self.thread: threading.Thread | None = None
        EVERY.add(self)

    def ask(self, work: Callable[[Callable[[], bool]], None]) -> None:
        """Request `work`, in place of any earlier request."""
        with self.lock:
            self.number += 1
            self.pending, self.busy = work, True
            if self.thread is None or not self.thread.is_alive():
                self.thread = threading.Thread(target=self._serve, daemon=True)
                self.thread.start()
            self.lock.notify_all()

    def cancel(self) -> None:
        """Stop the running request and drop the pending one."""
        with self.lock:
            self.number += 1
            self.pending = None
            self.lock.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until no request runs or is pending; return whether `timeout` sufficed."""
        with self.lock:
            return self.lock.wait_for(lambda: not self.busy, timeout)

    def _serve(self) -> None:
        while True:
            with self.lock:
                number = self.number
                while self.pending is not None and self.lock.wait_for(
                    lambda n=number: self.number != n,  # type: ignore[misc]
                    self.pause,
                ):
                    number = self.number  # another request came within the pause
                work, self.pending = self.pending, None
                if work is None:
                    self.busy = False
                    self.thread = None
                    self.lock.notify_all()
                    return
            with suppress(BaseException):  # work shows its own errors; the thread goes on
                work(lambda n=number: self.number != n)  # type: ignore[misc]
