"""A time budget, or a quality to keep: sliders along the methods that were planned for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ipywidgets as widgets

from fastvar_lab.errors import short
from fastvar_lab.seam import Method
from fastvar_lab.widgets.fields import Index

Plans = Sequence[tuple[float, Method] | tuple[float, Method, float | None]]
"""Speedups, each with the method that was planned for it, and the PSNR to full that it kept, if
that is known."""

BY_HAND = "as A is set"


class Plan(NamedTuple):
    """A speedup, the method planned for it, and its PSNR to full generation in dB, or nan."""

    speedup: float
    method: Method
    psnr: float = math.nan


class BudgetPanel(widgets.Box):
    """Sets method A to a planned one: `budget` by its speedup, `target` by the PSNR it must keep.

    `pick(method)` is called with the method. Of the plans that keep a target the fastest is taken.
    `follow(method)` moves the sliders to where a method stands. Without plans nothing is shown;
    without their PSNR there is no target.
    """

    def __init__(self, plans: Plans, pick: Callable[[Method], None]) -> None:
        self.plans = sorted(map(_plan, _several(plans)), key=lambda plan: plan.speedup)
        self.pick, self.quiet = pick, False
        places = [(f"{plan.speedup:.2f} x", i) for i, plan in enumerate(self.plans)]
        self.budget = Index(
            "time budget", None,
            "Sets A to the method planned for this speedup.",
            [(BY_HAND, None), *places],
        )  # fmt: skip
        known = [plan.psnr for plan in self.plans if math.isfinite(plan.psnr)]
        steps = range(math.floor(max(known)), math.floor(min(known)) - 1, -1) if known else ()
        self.target = Index(
            "quality target", None,
            "Sets A to the fastest planned method whose mean PSNR to full generation is at least "
            "this, on the prompts that it was planned on.",
            [(BY_HAND, None), *((f"{step} dB", step) for step in steps)],
        )  # fmt: skip
        self.note = widgets.HTML()
        self.note.add_class("fv-quiet")
        super().__init__([self.budget, self.target, self.note])
        self.add_class("fv-part-inner")
        if not known:
            self.target.add_class("fv-hidden")
        if not self.plans:
            self.add_class("fv-hidden")
        self.budget.observe(lambda change: self._chosen(change.new), "value")
        self.target.observe(lambda change: self._chosen(self.keeping(change.new)), "value")

    def keeping(self, psnr: float | None) -> int | None:
        """Return the index of the fastest plan that keeps a PSNR in dB; None if none does."""
        able = [i for i, plan in enumerate(self.plans) if psnr is not None and plan.psnr >= psnr]
        return max(able, default=None)

    def beside(self, method: Method) -> list[Method]:
        """Return the methods of the plans beside that of a method, the faster one first."""
        place = self._place(method)
        near = (0,) if place is None else (place + 1, place - 1)
        return [self.plans[i].method for i in near if 0 <= i < len(self.plans)]

    def _place(self, method: Method) -> int | None:
        return next((i for i, plan in enumerate(self.plans) if plan.method == method), None)

    def follow(self, method: Method) -> None:
        """Move the sliders to a method's plan, or to none."""
        place = self._place(method)
        plan = None if place is None else self.plans[place]
        self.quiet = True
        try:
            self.budget.value = place
            if plan is None or not math.isfinite(plan.psnr):
                self.target.value = None
            elif self.keeping(self.target.value) != place:
                self.target.value = math.floor(plan.psnr)
        finally:
            self.quiet = False
        self.note.value = "" if plan is None else _note(plan)

    def _chosen(self, place: int | None) -> None:
        if place is not None and not self.quiet:
            self.pick(self.plans[place].method)


def _several(plans: Any) -> Iterable[Any]:
    """Return given plans; raise ValueError for what holds none, such as the path of a file."""
    if isinstance(plans, (str, Path)) or not isinstance(plans, Iterable):
        raise ValueError(
            f"plans are a list, as frontier returns it, of a file with file=...; not {short(plans)}"
        )
    return plans


def _plan(entry: Any) -> Plan:
    """Return a given plan; raise ValueError for what is none."""
    try:
        speedup, method, *psnr = entry
        kept = math.nan if psnr in ([], [None]) else float(*psnr)
        if not (0 < float(speedup) < math.inf and hasattr(method, "acts")):
            raise TypeError("no speedup, or no method")
        return Plan(float(speedup), method, kept)
    except (TypeError, ValueError):
        raise ValueError(
            "a plan is a speedup, a method, and maybe the PSNR that it keeps, such as "
            f"(2.0, Prune({{-1: 0.5}}), 38.5); not {short(entry)}"
        ) from None


def _note(plan: Plan) -> str:
    kept = "" if not math.isfinite(plan.psnr) else f", for {plan.psnr:.1f} dB on average"
    return f"planned for {plan.speedup:.2f} times the speed{kept}"
