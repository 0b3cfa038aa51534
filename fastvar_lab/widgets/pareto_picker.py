"""ParetoPicker: a trade-off plot whose points are generated and sent to an Explorer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd

from fastvar_lab.experiments.explore import Exploration
from fastvar_lab.frames import GUIDANCE
from fastvar_lab.measure.ranking import direction
from fastvar_lab.methods.parse import read_method
from fastvar_lab.models.model import Model
from fastvar_lab.plotting.charts import front, tradeoff_points
from fastvar_lab.plotting.tables import compared, metric_columns
from fastvar_lab.seam import Method
from fastvar_lab.widgets.explorer import Explorer
from fastvar_lab.widgets.fields import Choice
from fastvar_lab.widgets.number_fields import Span
from fastvar_lab.widgets.page import PointsTable, Scatter, Viewer, box, button, style_sheet
from fastvar_lab.widgets.panel import Live, Status

SEND = "Send to the Explorer"
SPEED = "measured speedup"
EVERY = (None, None)
FIRST = "psnr"  # the quality that is shown first


class ParetoPicker(Live):
    """Plots quality against measured speedup of a frame, with the Pareto front as steps.

    Points have the 95 % intervals of both, and stand in a table too. A range of speeds or qualities
    is brushed by a drag or typed; what lies outside is dimmed, and left out of the table. Picking a
    point generates its picture beside the full one; a button sends its schedule to `explorer`.
    `frame` comes from `compare` or an experiment that compares methods, such as `ratio_tradeoff`;
    every metric in it can be shown; one such as VIF, of which neither more nor less is better, has
    no front. Methods whose timing was disturbed, or that lack the metric, are left out. `methods`
    are those of its labels that hold rules of your own, which cannot be read back from its column
    `repr`. Pictures are drawn at the frame's guidance scale, if it names one. Raises ValueError for
    a frame of another model or other weights than those of `model`.

    >>> import fastvar_lab as fv
    >>> from fastvar_lab.experiments.run import run
    >>> frame = run("ratio_tradeoff", "quick", progress=False)
    >>> picker = ParetoPicker(frame, fv.load("tiny"))
    >>> picker.scatter.picked = 0
    >>> picker.method.pairs
    ((-1, 0.5),)
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        model: Model,
        explorer: Explorer | None = None,
        prompt: str | int | None = None,
        seed: int = 0,
        *,
        methods: Mapping[str, Method] | None = None,
    ) -> None:
        super().__init__()
        pictures, _ = compared(frame)
        model = _as_measured(model, frame)
        self.frame, self.explorer, self.lab = frame, explorer, Exploration(model)
        self.prompt, self.seed = str(model.example if prompt is None else prompt), seed
        self.reprs = dict(zip(frame.method, frame.repr, strict=True))
        self.methods = dict(methods or {})
        titles = {title: column for column, (title, _) in metric_columns(pictures).items()}
        first = FIRST if FIRST in titles.values() else next(iter(titles.values()))
        self.value = Choice("quality", first, "What is shown upwards.", list(titles.items()))
        self.scatter, self.table = Scatter(x_label=SPEED), PointsTable()
        self.spans = {
            "x": Span(SPEED, EVERY, "Show methods of this speed alone, such as 1.5 to 2"),
            "y": Span(
                "quality range", EVERY, "Show methods of this quality alone, such as 30 to 40"
            ),
        }
        self.clear = button("Show all", "Take back the ranges", self._clear)
        self.hand_over = button(
            SEND, "Set the Explorer's controls to this method",
            lambda: self.guarded(self._hand_over),
        )  # fmt: skip
        self.hand_over.disabled = True
        self.viewer = Viewer({"full": "full", "picked": "picked"})
        shown = box("fv-shown", self.viewer)
        self.results = [shown]
        buttons = box("fv-row", self.run_stop, self.hand_over, self.status)
        fields = box("fv-fields", self.value, *self.spans.values())
        side = box("fv-part-inner", self.table, buttons, shown)
        self.note = Status()
        plot = box("fv-part-inner", fields, box("fv-row", self.clear, self.note), self.scatter)
        self.children = (style_sheet(), box("fv-two", plot, side))
        self.add_class("fastvar-widget")
        self.add_class("fastvar-pareto")
        self._draw()
        for name in ("points", "picked", "pointed"):
            widgets.link((self.scatter, name), (self.table, name))
        for axis, span in self.spans.items():
            self.scatter.observe(lambda c, span=span: self._brushed(span, c.new), f"{axis}_span")
            span.observe(lambda _: self.guarded(self._draw), "value")
        self.value.observe(lambda _: self._measured(), "value")
        self.scatter.observe(lambda _: self.guarded(self.update), "picked")
        self.viewer.observe(lambda change: self.viewed(change.new), "views")

    @property
    def method(self) -> Method | None:
        """The method of the picked point; None if no point is picked."""
        name = self.name
        if not name:
            return None
        return self.methods[name] if name in self.methods else read_method(self.reprs[name])

    @property
    def name(self) -> str:
        """The label of the picked point; empty if no point is picked."""
        picked = self.scatter.picked
        return "" if picked < 0 else str(self.scatter.points[picked]["name"])

    def update(self) -> None:
        """Request the picture of the picked point; returns at once."""
        self.drop()
        self.hand_over.disabled = True
        self.hand_over.description = SEND
        method = self.method
        if method is None:
            self.status.say("pick a point")
            return
        self.hand_over.disabled = self.explorer is None
        name = self.name

        def work(stopped: Callable[[], bool]) -> Callable[[], None]:
            comparison = self.lab.compare(self.prompt, self.seed, method, stopped)

            def show() -> None:
                self.viewer.put("full", comparison.full, alt=f"{comparison.caption}, drawn in full")
                self.viewer.put("picked", comparison.fast, note=name, alt=f"drawn by {name}")
                self.stale(False)
                self.status.say(f"PSNR {comparison.psnr:.1f} dB, SSIM {comparison.ssim:.3f}")

            return show

        self.ask(work)

    def release(self) -> None:
        super().release()
        self.lab.release()

    def _draw(self) -> None:
        """Plot the points of the chosen quality measure, and write their table."""
        every = tradeoff_points(self.frame, self.value.value)
        points = every[np.isfinite(every[["mean", "speedup"]]).all(axis=1)]
        left = len(every) - len(points)
        sign = direction(self.value.value, self.frame)
        ranked = front(points.assign(mean=sign * points["mean"]), "speedup", "mean")
        best = set(ranked.method) if sign else set()
        spans = {axis: span.value for axis, span in self.spans.items()}
        self.scatter.y_label = self.value.text
        self.table.columns = ["method", "speedup [95 %]", f"{self.value.text} [95 %]", "front"]
        drawn = []
        for p in points.to_dict("records"):
            values = {"x": p["speedup"], "y": p["mean"]}
            ranges = {
                "x_range": _interval(p["speedup"], p["speedup_low"], p["speedup_high"]),
                "y_range": _interval(p["mean"], p["low"], p["high"]),
            }
            cells = [_written(values[axis], *ranges[f"{axis}_range"]) for axis in "xy"]
            inside = all(_within(values[axis], span) for axis, span in spans.items())
            ends = {
                "name": p["method"],
                "lines": [f"{cells[0]} times as fast", f"{self.value.text} {cells[1]}"],
                "cells": [*cells, "yes" if p["method"] in best else ""],
                "front": p["method"] in best, "inside": inside,
            }  # fmt: skip
            drawn.append({**values, **ranges, **ends})
        self.scatter.x_span, self.scatter.y_span = list(spans["x"]), list(spans["y"])
        names, picked = [point["name"] for point in drawn], self.name
        self.scatter.points = drawn
        self.scatter.picked = names.index(picked) if picked in names else -1
        self.note.say(f"{left} of {len(every)} methods lack this or a speedup" if left else "")

    def _brushed(self, span: Span, ends: list[float | None]) -> None:
        """Write a range that was brushed into its field."""
        low, high = (None if end is None else float(f"{end:.4g}") for end in ends)
        span.value = (low, high)

    def _measured(self) -> None:
        """Plot another quality measure; a range of the last one means nothing for it."""
        self.spans["y"].value = EVERY
        self.guarded(self._draw)

    def _clear(self) -> None:
        for span in self.spans.values():
            span.value = EVERY

    def _hand_over(self) -> None:
        """Set the Explorer's controls to the picked method."""
        method = self.method
        if self.explorer is not None and method is not None:
            if self.explorer.closed:
                raise ValueError("the Explorer is closed")
            ours, theirs = self.lab.model, self.explorer.model
            guidance, other = ours.sampling.guidance, theirs.sampling.guidance
            if ours.name == theirs.name and guidance != other:
                raise ValueError(
                    f"this was measured at guidance {guidance}, and the Explorer draws at {other}; "
                    f"open one of model.with_guidance({guidance})"
                )
            self.explorer.apply(method)
            self.hand_over.description = "Sent to the Explorer"


def _as_measured(model: Model, frame: pd.DataFrame) -> Model:
    """Return a view of the model at the frame's guidance scale; the model without one.

    Raises ValueError for a frame of another model or other weights.
    """

    def only(column: str) -> Any:
        values = frame[column].dropna().unique().tolist() if column in frame else []
        return values[0] if values else None

    name, weights, guidance = only("model"), only("weights"), only(GUIDANCE)
    if name is not None and str(name) != model.name:
        raise ValueError(f"the frame was measured on {name}; not on {model.name}")
    if isinstance(weights, str) and weights != model.fingerprint:
        raise ValueError(
            f"the frame was measured with the weights {weights} of {model.name}; the model has "
            f"{model.fingerprint} (other types, such as bfloat16, are other weights)"
        )
    if guidance is None or guidance == model.sampling.guidance:
        return model
    return model.with_guidance(float(guidance))


def _interval(value: float, low: float, high: float) -> list[float]:
    """Return the ends of an interval; both are the value where there is none."""
    return [low if math.isfinite(low) else value, high if math.isfinite(high) else value]


def _written(value: float, low: float, high: float) -> str:
    """Write a value with its interval, if it has one."""
    return f"{value:.2f}" if low == high else f"{value:.2f} [{low:.2f} to {high:.2f}]"


def _within(value: float, span: tuple[float | None, float | None]) -> bool:
    low, high = span
    return (low is None or value >= low) and (high is None or value <= high)
