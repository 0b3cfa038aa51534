"""What was tried: settings to go back to, pins, and a report of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ipywidgets as widgets

from fastvar_lab.experiments.exploration_report import Tried, write_report
from fastvar_lab.files import expanded, file_stem
from fastvar_lab.methods.columns import family
from fastvar_lab.widgets.fields import Field
from fastvar_lab.widgets.page import Strip, box, button, cell, heading, png
from fastvar_lab.widgets.panel import Status

MOST = 24  # settings that are kept beside the pinned ones


class HistoryPanel(widgets.Box):
    """Keeps the last settings and the pinned ones; `back(tried)` is called with a picked one."""

    def __init__(self, back: Callable[[Tried], None], folder: str | Path) -> None:
        self.back, self.folder = back, expanded(folder)
        self.tried: list[Tried] = []
        self.pinned: list[Tried] = []
        self.pngs: dict[int, bytes] = {}  # of the settings in the strip, by their id
        self.strip = Strip(label="what was tried, the last first: pick one to go back", width=92)
        self.status = Status()
        self.pin = button("Pin", "Keep the settings that are shown, or let them go", self._pin)
        self.write = button(
            "Write report", "A web page with the pinned settings, or all, and a folder of its data",
            self._report,
        )  # fmt: skip
        self.name = Field("report as", "report", f"The name of the report's folder, in {folder}.")
        row = box("fv-row", self.pin, self.write, self.status)
        super().__init__([heading("What was tried"), self.strip, self.name, row])
        self.add_class("fv-part")
        self.strip.observe(lambda _: self._picked(self.strip.picked), "picks")

    @property
    def shown(self) -> list[Tried]:
        """The settings in the strip: the pinned ones, then the others, the last first."""
        return [*self.pinned, *(t for t in reversed(self.tried) if t not in self.pinned)]

    def add(self, tried: Tried) -> None:
        """Remember settings, once."""
        self.tried = [*(t for t in self.tried if t != tried), tried][-MOST:]
        self._draw(tried)

    def release(self) -> None:
        """Forget what is not pinned."""
        self.tried = []
        self._draw(None)

    def _draw(self, current: Tried | None) -> None:
        shown = self.shown
        known = self.pngs
        self.pngs = {id(t): known.get(id(t)) or png(t.pictures[0]) for t in shown}
        self.strip.picked = -1
        self.strip.cells = [
            cell(
                f"{t.psnr:.1f} dB",
                [(self.pngs[id(t)], f"A: {family(t.a)}, {t.title}")],
                [("pinned, " if t in self.pinned else "") + family(t.a), f"{t.speedup:.2f} x"],
                tip=f"{t.model}: {t.a!r} beside {t.b!r}; {t.title}",
            )
            for t in shown
        ]
        if current is not None:
            self.strip.picked = shown.index(current)

    def _picked(self, index: int) -> None:
        if 0 <= index < len(self.strip.cells):
            self.back(self.shown[index])

    def _current(self) -> Tried | None:
        return self.tried[-1] if self.tried else None

    def _pin(self) -> None:
        current = self._current()
        if current is None:
            self.status.fail(ValueError("nothing was tried yet"))
        elif current in self.pinned:
            self.pinned.remove(current)
            self.status.say("no longer pinned")
        else:
            self.pinned.append(current)
            self.status.say("pinned")
        self._draw(current)

    def _report(self) -> None:
        self.name.error = ""
        try:
            stem = file_stem(self.name.value, ["html"])
        except ValueError as error:
            self.name.error = str(error)
            self.status.fail(ValueError("nothing was written"))
            return
        try:
            if not self.folder.is_dir():
                raise ValueError(f"the folder {self.folder} does not exist")
            path = unused_folder(self.folder.absolute() / stem)
            place = write_report(path, self.pinned or self.tried)
            self.status.say(f"wrote {place}/index.html")
        except (ValueError, OSError) as error:
            self.status.fail(error)


def unused_folder(path: Path) -> Path:
    """Return `path`, or path-2, path-3, ... if a file or folder of that name exists."""
    free, turn = path, 1
    while free.exists():
        turn += 1
        free = path.with_name(f"{path.name}-{turn}")
    return free
