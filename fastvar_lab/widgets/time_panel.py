"""Measured milliseconds beside counted operations."""

from __future__ import annotations

import html
from collections.abc import Callable

import ipywidgets as widgets

from fastvar_lab.experiments.step_times import StepTimes, step_times
from fastvar_lab.measure.speedup import DISTURBED, Speedup
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.seam import Method
from fastvar_lab.widgets.page import box, heading
from fastvar_lab.widgets.panel import Live


class TimePanel(Live):
    """Measures both methods and full generation in turns.

    `methods()` and `request()` return what the page is set to; `shown(times)` is called with the
    results. `times` are the last results.
    """

    def __init__(
        self,
        model: Model,
        methods: Callable[[], tuple[Method, Method]],
        request: Callable[[], tuple[str, int]],
        shown: Callable[[StepTimes], None],
    ) -> None:
        super().__init__()
        self.model, self.methods, self.request = model, methods, request
        self.shown = shown
        self.times: StepTimes | None = None
        self.table = widgets.HTML()
        self.results = [self.table]
        row = box("fv-row", self.run_stop, self.status)
        self.children = (heading("Time on this machine"), row, self.table)
        self.add_class("fv-part")
        self.forget()

    def forget(self) -> None:
        """Stop what is measured, and say that what is on the page has not been."""
        self.drop()
        self.times = None
        self.table.value = ""
        self.status.say("Run measures both methods and full generation, several times in turns.")

    def update(self) -> None:
        (a, b), (prompt, seed) = self.methods(), self.request()
        methods = {"full": Dense(), "A": a}
        if b != Dense():
            methods["B"] = b

        def work(stopped: Callable[[], bool]) -> Callable[[], None]:
            times = step_times(self.model, prompt, seed, methods, stopped)
            return lambda: self.show(times)

        self.ask(work)
        self.status.say("measuring; other work on this machine disturbs it")

    def show(self, times: StepTimes) -> None:
        """Show measured times."""
        self.times = times
        kinds = list(next(iter(times.kinds.values())))
        names = list(times.totals)
        head = "".join(f'<th scope="col">{html.escape(name)}, ms</th>' for name in names)
        rows = []
        for label in ["all steps", *kinds]:
            cells = []
            for name in names:
                t = times.totals[name] if label == "all steps" else times.kinds[name][label]
                cells.append(f"<td>{t.median:.1f} [{t.q1:.1f} to {t.q3:.1f}]</td>")
            rows.append(f'<tr><th scope="row">{label}</th>{"".join(cells)}</tr>')
        self.table.value = (
            f'<table class="fv-table"><tr><th scope="col">median [quartiles]</th>{head}</tr>'
            f"{''.join(rows)}</table>"
        )
        speeds = ", ".join(_written(n, s) for n, s in times.speedups.items() if n != "full")
        self.status.say(f"{speeds} ({times.turns} turns)")
        self.stale(False)
        self.shown(times)


def _written(name: str, speedup: Speedup) -> str:
    """Write how many times as fast a method is, and whether that can be trusted."""
    spread = f"{speedup.median:.2f} [{speedup.q1:.2f} to {speedup.q3:.2f}]"
    return f"{name}: {spread} times as fast{f', {DISTURBED}' if speedup.disturbed else ''}"
