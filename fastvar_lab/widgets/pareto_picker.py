"""ParetoPicker: a trade-off plot whose points are generated and sent to an Explorer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import ipywidgets as widgets
import pandas as pd

from fastvar_lab.experiments.explore import Exploration
from fastvar_lab.methods.parse import read_method
from fastvar_lab.models.model import Model
from fastvar_lab.plotting.charts import front, tradeoff_points
from fastvar_lab.plotting.tables import compared, metric_columns
from fastvar_lab.seam import Method
from fastvar_lab.widgets.explorer import Explorer
from fastvar_lab.widgets.fields import Choice
from fastvar_lab.widgets.page import Scatter, Viewer, box, button, style_sheet
from fastvar_lab.widgets.panel import Live

SEND = "Send to the Explorer"
FIRST = "psnr"  # the quality that is shown first


class ParetoPicker(Live):
    """Plots quality against measured speedup of a frame, with the Pareto front as a line.

    Picking a point generates its picture beside the full one; a button sends its schedule to
    `explorer`. `frame` comes from `compare` or an experiment that compares methods, such as
    `ratio_tradeoff`; every metric in it can be shown. Methods whose timing was disturbed are left
    out. `methods` are those of its labels that hold rules of your own, which cannot be read back
    from its column `repr`.

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
        prompt: str | None = None,
        seed: int = 0,
        *,
        methods: Mapping[str, Method] | None = None,
    ) -> None:
        super().__init__()
        pictures, _ = compared(frame)
        self.frame, self.explorer, self.lab = frame, explorer, Exploration(model)
        self.prompt, self.seed = (model.example if prompt is None else prompt), seed
        self.reprs = dict(zip(frame.method, frame.repr, strict=True))
        self.methods = dict(methods or {})
        titles = {title: column for column, (title, _) in metric_columns(pictures).items()}
        first = FIRST if FIRST in titles.values() else next(iter(titles.values()))
        self.value = Choice("quality", first, "What is shown upwards.", list(titles.items()))
        self.scatter = Scatter(x_label="measured speedup")
        names = list(tradeoff_points(frame, self.value.value).method)
        points = [("none picked", -1), *((name, i) for i, name in enumerate(names))]
        self.point = Choice("point", -1, "The method whose picture is drawn.", points)
        self.hand_over = button(
            SEND, "Set the Explorer's controls to this method",
            lambda: self.guarded(self._hand_over),
        )  # fmt: skip
        self.hand_over.disabled = True
        self.viewer = Viewer({"full": "full", "picked": "picked"})
        shown = box("fv-shown", self.viewer)
        self.results = [shown]
        buttons = box("fv-row", self.run_stop, self.hand_over, self.status)
        fields = box("fv-fields", self.value, self.point)
        side = box("fv-main", fields, buttons, shown)
        self.children = (style_sheet(), box("fv-page", self.scatter, side))
        self.add_class("fastvar-widget")
        self.add_class("fastvar-pareto")
        self._draw()
        widgets.link((self.scatter, "picked"), (self.point, "value"))
        self.value.observe(lambda _: self.guarded(self._draw), "value")
        self.scatter.observe(lambda _: self.guarded(self.update), "picked")
        self.viewer.observe(lambda change: self.viewed(change.new), "views")

    @property
    def method(self) -> Method | None:
        """The method of the picked point; None if no point is picked."""
        if self.scatter.picked < 0:
            return None
        name = self.scatter.points[self.scatter.picked]["name"]
        return self.methods[name] if name in self.methods else read_method(self.reprs[name])

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
        name = self.point.text

        def work(stopped: Callable[[], bool]) -> Callable[[], None]:
            comparison = self.lab.compare(self.prompt, self.seed, method, stopped)

            def show() -> None:
                self.viewer.put("full", comparison.full, alt=f"{self.prompt}, drawn in full")
                self.viewer.put("picked", comparison.fast, note=name, alt=f"drawn by {name}")
                self.stale(False)
                self.status.say(f"PSNR {comparison.psnr:.1f} dB, SSIM {comparison.ssim:.3f}")

            return show

        self.ask(work)

    def release(self) -> None:
        super().release()
        self.lab.release()

    def _draw(self) -> None:
        """Plot the points of the chosen quality measure."""
        points = tradeoff_points(self.frame, self.value.value)
        best = set(front(points, "speedup", "mean").method)
        self.scatter.y_label = self.value.text
        self.scatter.points = [
            {"x": p["speedup"], "y": p["mean"], "name": p["method"], "front": p["method"] in best}
            for p in points.to_dict("records")
        ]

    def _hand_over(self) -> None:
        """Set the Explorer's controls to the picked method."""
        method = self.method
        if self.explorer is not None and method is not None:
            self.explorer.apply(method)
            self.hand_over.description = "Sent to the Explorer"
