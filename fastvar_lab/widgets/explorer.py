"""Explorer: two methods on one prompt, side by side, with their masks and their cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from fastvar_lab.errors import PromptError
from fastvar_lab.experiments.exploration_report import Tried
from fastvar_lab.experiments.explore import Comparison, Duel, Exploration
from fastvar_lab.frames import FULL
from fastvar_lab.methods.restore import Restorer
from fastvar_lab.methods.select import Selector
from fastvar_lab.models.model import Model
from fastvar_lab.planning.plans import frontier
from fastvar_lab.request import prompt_text
from fastvar_lab.seam import Method
from fastvar_lab.widgets.budget_panel import BudgetPanel, Plans
from fastvar_lab.widgets.comparison_view import ComparisonView
from fastvar_lab.widgets.fields import Choice
from fastvar_lab.widgets.history_panel import HistoryPanel
from fastvar_lab.widgets.lifetime import close_parts
from fastvar_lab.widgets.method_panel import MethodPanel
from fastvar_lab.widgets.model_picker import ModelPicker, Models, by_name
from fastvar_lab.widgets.offer import misfit, offered
from fastvar_lab.widgets.page import box, button, heading, style_sheet
from fastvar_lab.widgets.paint_panel import PaintPanel
from fastvar_lab.widgets.panel import Live
from fastvar_lab.widgets.python_source import python_source
from fastvar_lab.widgets.request_panel import RequestPanel, carried
from fastvar_lab.widgets.saving import SavingPanel
from fastvar_lab.widgets.survey_panel import SurveyPanel
from fastvar_lab.widgets.time_panel import TimePanel
from fastvar_lab.widgets.token_panel import Subject, TokenPanel
from fastvar_lab.widgets.worker import Newest

IDLE = 0.5  # seconds without a request, after which neighbours are drawn ahead
GONE = "The kernel that drew this has ended: run the cell again."


class Explorer(Live):
    """Compares two methods on a prompt, live; by default FastVAR with full generation.

    A change of a control computes the affected steps again; the newest change wins, and errors
    show where they arise. `a` and `b` are the panels of the methods, `method` is that of A. `shown`
    is the last comparison of A with full generation, `duel` that of A with B. `apply` sets A's
    controls to a method, `wait` waits for the pending picture. `close` frees what it holds.

    Of several `models`, in a list or by name, a picker chooses the one that draws, as `pick(name)`
    does in code. It brings its own controls. A prompt that it can draw stays, and so do methods if
    it has the same scale steps and layers.

    `selectors`, `restorers` and `methods` add user-defined ones, by name, to those of the library;
    a method is offered for the models that it fits, and raises ValueError if it fits none.
    `plans` are speedups, each with a method for it and maybe the PSNR that it keeps in dB: a time
    budget and a quality target choose from them; by default from the schedules that ship for the
    model. Given plans are those of the first model. The neighbours of the plan that is shown are
    drawn ahead while nothing else runs. Files are saved in `folder`.

    >>> import fastvar_lab as fv
    >>> explorer = Explorer(fv.load("tiny"), "a red circle", seed=1)
    >>> explorer.ratios[-1].value = 0.9
    >>> explorer.wait()
    True
    >>> explorer.shown.speedup_flop_bound > 1.5
    True
    """

    def __init__(
        self,
        models: Models,
        prompt: str | int | None = None,
        seed: int = 0,
        *,
        selectors: Mapping[str, Selector] | None = None,
        restorers: Mapping[str, Restorer] | None = None,
        methods: Mapping[str, Method] | None = None,
        plans: Plans | None = None,
        folder: str | Path = ".",
    ) -> None:
        super().__init__()
        self.models = by_name(models)
        self.rules = dict(selectors or {}), dict(restorers or {}), dict(methods or {})
        for name, method in self.rules[2].items():
            reasons = [misfit(method, model) for model in self.models.values()]
            if all(reasons):
                raise ValueError(f"the method {name!r} fits no model: {reasons[0]}")
        self.plans = plans
        self.duel: Duel | None = None
        self.paused = False
        self.ahead = Newest(pause=IDLE)
        self.picker = ModelPicker(self.models)
        self.saving = SavingPanel(lambda: self.duel, folder)
        self.history = HistoryPanel(lambda tried: self.guarded(lambda: self._back(tried)), folder)
        self.progress = widgets.IntProgress()
        self.progress.layout.visibility = "hidden"
        self._build(self.models[self.picker.value], prompt, seed)
        self.add_class("fastvar-widget")
        self.add_class("fastvar-explorer")
        self.picker.observe(lambda change: self.guarded(lambda: self._switch(change.new)), "value")
        self.guarded(self.update)

    def _build(self, model: Model, prompt: str | int | None, seed: int) -> None:
        """Make the controls of a model and what shows its pictures."""
        self.model, self.lab = model, Exploration(model)
        shipped = self.plans is None or model is not next(iter(self.models.values()))
        self.budget = BudgetPanel(
            frontier(model) if shipped else self.plans or (),
            lambda method: self.guarded(lambda: self.apply(method)),
        )
        offer = offered(model, *self.rules, [plan.method for plan in self.budget.plans])
        others = (method for name, method in offer.families.items() if name != FULL)
        first = model.preset or next(others)
        self.request = RequestPanel(
            model, model.example if prompt is None else prompt_text(prompt), seed, self.guarded
        )
        changed = partial(self.guarded, self.update)
        self.a = MethodPanel(offer, first, changed, "method A")
        self.b = MethodPanel(offer, offer.families[FULL], changed, "method B")
        self.progress.max = len(model.sizes)
        self.view = ComparisonView(
            model, f"explorer-{id(self)}-{id(self.lab)}", self.worker.lock, self.guarded,
            lambda: self.time.times,
        )  # fmt: skip
        self.viewer, self.strip = self.view.viewer, self.view.strip
        self.results = self.view.results
        self.survey = SurveyPanel(model, self._measured, self._request, self._open)
        self.time = TimePanel(model, self._measured, self._request, lambda _: self.view.masks())
        self.whose = Choice(
            "tokens of", "a", "The method whose tokens are looked at.",
            [("method A", "a"), ("method B", "b")],
        )  # fmt: skip
        self.token = TokenPanel(
            model,
            model.grids(),
            self.viewer,
            self._subject,
            lambda: self.view.sight,
            self.view.go,
            self.whose,
        )
        self.paint = PaintPanel(model, lambda: self.a.method, self._use, self.view.kept)
        self._lay_out()
        self._connect()

    def pick(self, name: str) -> None:
        """Show another of the models; raise ValueError for a name that is none of theirs."""
        self.picker.value = name

    def _switch(self, name: str) -> None:
        """Rebuild the controls for another model, and free the generations of the one before."""
        before, model, page = self.model, self.models[name], self.children
        prompt, seed = carried(self.prompt.value, before, model), self.seed.value
        methods: list[Method] = []
        with suppress(ValueError):  # what could not be read is not carried over
            methods = [*self._methods()]
        self._free()
        self._build(model, prompt, seed)
        for part in page:
            close_parts(part, self._lasting)
        if (model.sizes, model.depth) == (before.sizes, before.depth):
            for panel, method in zip((self.a, self.b), methods, strict=False):
                with suppress(ValueError):  # its controls do not know it: the preset stays
                    panel.apply(method)
        self.update()

    @property
    def _lasting(self) -> tuple[widgets.Widget, ...]:
        """The parts that stay when the model changes."""
        return (
            self.picker, self.saving, self.history, self.run_stop, self.status, self.progress
        )  # fmt: skip

    def _lay_out(self) -> None:
        """Arrange the parts; the style sheet places them by the width there is."""
        self.copy_a = button("B like A", "Set method B to what A is", self._copy)
        self.swap = button("Swap A and B", "Exchange the two methods", self._swap)
        gone = widgets.HTML(f'<div class="fv-gone-note">{GONE}</div>')
        methods = box("fv-part", heading("Method A"), self.budget, self.a)
        against = box(
            "fv-part fv-after",
            heading("compared with B"),
            self.b,
            box("fv-row", self.copy_a, self.swap),
        )
        main = box(
            "fv-main",
            gone,
            box("fv-row", self.run_stop, self.status, self.progress),
            *self.view.parts,
        )
        side = box("fv-side", self.picker, self.request, methods, against)
        page = box(
            "fv-page",
            side,
            main,
            box(
                "fv-wide", self.token, self.paint, self.history, self.time, self.survey,
                self.saving,
            ),
        )  # fmt: skip
        self.children = (style_sheet(), page)

    def _connect(self) -> None:
        """Call `update` when the request changes, and `_draw` when what is shown of it does."""
        for field in (self.request.prompt, self.request.seed):
            field.observe(lambda _: self.guarded(self.update), ["value", "invalid"])
        view = self.view
        for control, name in ((view.layer, "value"), (view.kind, "value"), (view.strip, "picked")):
            control.observe(lambda _: self.token.guarded(self.token.update), name)
        self.viewer.observe(lambda change: self.viewed(change.new), "views")

    @property
    def prompt(self) -> Any:
        """The control of the prompt."""
        return self.request.prompt

    @property
    def seed(self) -> Any:
        """The control of the seed."""
        return self.request.seed

    @property
    def ratios(self) -> Mapping[int, Any]:
        """The controls of A's pruned shares by scale, named from the end; empty without any."""
        return self.a.shares

    @property
    def method(self) -> Method:
        """The method that A's controls are set to."""
        return self.a.method

    @property
    def shown(self) -> Comparison | None:
        """The last comparison of A with full generation."""
        return self.duel.a if self.duel else None

    @property
    def keeps_earlier(self) -> bool:
        return self.duel is not None

    def apply(self, method: Method) -> None:
        """Set A's controls to a method; raise ValueError if they cannot express it."""
        self.a.apply(method)
        self.update()

    def python(self) -> str:
        """Write the state of A's controls as Python; see `python_source`."""
        return python_source(self.model, self.prompt.value, self.seed.value, self.method)

    def _methods(self) -> tuple[Method, Method]:
        """Return both methods; raise ValueError for one whose controls show an error."""
        for panel in (self.a, self.b):
            if panel.wrong:
                raise ValueError(f"{panel.label}: see what stands under its settings")
        return self.a.method, self.b.method

    def _measured(self) -> tuple[Method, Method]:
        """Return both methods to who computes with them now: nothing else shall run beside that."""
        self.ahead.cancel()
        self.ahead.wait(5)
        return self._methods()

    def _request(self) -> tuple[str, int]:
        """Return prompt and seed; raise ValueError, said under its field, for what is none."""
        self.request.check(self.model)
        return self.prompt.value, self.seed.value

    def _open(self, prompt: str, seed: int) -> None:
        """Show another prompt and seed."""
        self.paused = True
        try:
            self.prompt.put(prompt)
            self.seed.put(seed)
        finally:
            self.paused = False
        self.guarded(self.update)

    def _back(self, tried: Tried) -> None:
        """Go back to settings that were tried."""
        self.paused = True
        try:
            self.pick(tried.model)
            self.a.apply(tried.a)
            self.b.apply(tried.b)
        finally:
            self.paused = False
        self._open(tried.prompt, tried.seed)

    def _subject(self, stopped: Callable[[], bool]) -> Subject | None:
        """Return what the tokens of the chosen method belong to."""
        duel, slot = self.duel, self.whose.value
        if duel is None:
            return None
        self.ahead.cancel()
        comparison = duel.a if slot == "a" else duel.b
        drawn = self.lab.drawn(comparison, slot, stopped)
        self._look_ahead()
        generation, outputs = (drawn.generation, drawn.outputs) if drawn else (None, None)
        return Subject(comparison.trace, 0, generation, f", {slot.upper()}", outputs=outputs)

    def _use(self, method: Method) -> None:
        """Set A's controls to a method, and show an error of it where it arises."""
        self.guarded(lambda: self.apply(method))

    def _copy(self) -> None:
        self.guarded(lambda: self.b.apply(self.a.method))
        self.guarded(self.update)

    def _swap(self) -> None:
        def exchange() -> None:
            a, b = self._methods()
            self.a.apply(b)
            self.b.apply(a)
            self.update()

        self.guarded(exchange)

    def update(self) -> None:
        """Request the pictures of the current controls; returns at once."""
        if self.paused or self.closed:
            return
        self.time.forget()
        prompt, seed = self._request()
        a, b = self._methods()
        self.ahead.cancel()
        self.saving.say(self.python())
        self.budget.follow(a)
        self.survey.follow((a, b))

        def begins(step: int) -> None:
            self.progress.value = step + 1
            self.progress.layout.visibility = "visible"

        def work(stopped: Callable[[], bool]) -> Callable[[], None]:
            start = time.perf_counter()
            try:
                duel = self.lab.duel(prompt, seed, a, b, stopped, begins)
            finally:
                self.progress.layout.visibility = "hidden"
            return partial(self.show, duel, time.perf_counter() - start)

        self.ask(work)

    def _look_ahead(self) -> None:
        """Draw what may be asked for next, while nothing else runs.

        That is the generation of A where its picture was drawn ahead, for a token's life, and the
        plans beside A.
        """
        duel, lab = self.duel, self.lab
        if duel is None or self.closed or self.asleep:
            return
        places = self.budget.beside(duel.a.method)
        if not places and lab.drawn_of(duel.a.trace) is not None:
            return

        def work(stopped: Callable[[], bool]) -> None:
            lab.drawn(duel.a, stopped=stopped)
            for method in places:
                lab.prepare(method, stopped)

        self.ahead.ask(work)

    def failed(self, error: Exception) -> None:
        """Show an error of the work, under the prompt if it is of the prompt."""
        if isinstance(error, PromptError):
            self.prompt.error = str(error)
            error = ValueError("the prompt: see what stands under it")
        self.status.fail(error)

    def show(self, duel: Duel, seconds: float | None = None) -> None:
        """Show two methods' pictures, numbers, masks and cost."""
        self.duel = duel
        self.view.show(duel)
        self.token.forget()
        self.token.update()
        self.paint.show(duel.a.fast)
        self.paint.adopt(duel.a.method)
        whole, part, skipped = duel.a.work
        duration = "" if seconds is None else f" in {seconds:.2f} s"
        self.status.say(
            f"done{duration}. A computes {whole} steps in full, {part} in part, and skips {skipped}"
        )
        self.stale(False)
        self.history.add(
            Tried(
                duel.a.prompt, duel.a.seed, duel.a.method, duel.b.method,
                (duel.a.fast, duel.b.fast), duel.psnr, duel.ssim, duel.a.speedup_flop_bound,
                python_source(self.model, duel.a.prompt, duel.a.seed, duel.a.method),
                duel.a.trace.provenance, self.picker.value, duel.a.caption,
            )
        )  # fmt: skip
        self._look_ahead()

    def wake(self) -> None:
        self.guarded(self.update)

    def release(self) -> None:
        """Drop generations, pictures and what was tried; `update` draws them again."""
        self.history.release()
        self._free()

    def _free(self) -> None:
        """Drop what was drawn by the model."""
        super().release()
        self.ahead.cancel()
        self.survey.release()
        self.time.release()
        self.token.release()
        self.worker.wait(5)
        self.ahead.wait(5)
        self.lab.release()
        self.duel = self.view.duel = None
