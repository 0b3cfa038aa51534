"""ParetoPicker: a trade-off plot whose points are generated and sent to an Explorer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import ipywidgets as widgets
import pandas as pd

from fastvar_lab.experiments.explore import Exploration
from fastvar_lab.methods.parse import read_method
from fastvar_lab.methods.prune import Prune
from fastvar_lab.models.model import Model
from fastvar_lab.plotting.charts import front, tradeoff_points
from fastvar_lab.plotting.tables import compared, metric_columns
from fastvar_lab.seam import Method
from fastvar_lab.widgets.explorer import Explorer
from fastvar_lab.widgets.page import Scatter
from fastvar_lab.widgets.panel import Gallery, Live, control

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
        self.value = control(widgets.Dropdown, "quality", options=titles)
        if FIRST in titles.values():
            self.value.value = FIRST
        self.scatter = Scatter(x_label="measured speedup")
        names = list(tradeoff_points(frame, self.value.value).method)
        points = [("none picked", -1), *((name, i) for i, name in enumerate(names))]
        self.point = control(widgets.Dropdown, "point", options=points)
        self.hand_over = widgets.Button(description="Send to the Explorer", disabled=True)
        self.hand_over.layout.width = "auto"
        self.gallery = Gallery(("full", "picked"))
        buttons = widgets.HBox([self.run_stop, self.hand_over])
        side = widgets.VBox([self.value, self.point, self.gallery, self.status, buttons])
        row = widgets.HBox([self.scatter, side], layout={"flex_flow": "row wrap"})
        self.children = (row,)
        self.add_class("fastvar-pareto")
        self._draw()
        widgets.link((self.scatter, "picked"), (self.point, "value"))
        self.value.observe(lambda _: self.guarded(self._draw), "value")
        self.scatter.observe(lambda _: self.guarded(self.update), "picked")
        self.hand_over.on_click(lambda _: self.guarded(self._hand_over))

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
        self.hand_over.description = "Send to the Explorer"
        method = self.method
        if method is None:
            self.status.say("pick a point")
            return
        self.hand_over.disabled = self.explorer is None or not isinstance(method, Prune)
        name = self.point.label

        def work(stopped: Callable[[], bool]) -> Callable[[], None]:
            comparison = self.lab.compare(self.prompt, self.seed, method, stopped)

            def show() -> None:
                self.gallery.put("full", comparison.full)
                self.gallery.put("picked", comparison.fast, name)
                self.status.say(f"PSNR {comparison.psnr:.1f} dB, SSIM {comparison.ssim:.3f}")

            return show

        self.ask(work)

    def _draw(self) -> None:
        """Plot the points of the chosen quality measure."""
        points = tradeoff_points(self.frame, self.value.value)
        best = set(front(points, "speedup", "mean").method)
        self.scatter.y_label = self.value.label
        self.scatter.points = [
            {"x": p["speedup"], "y": p["mean"], "name": p["method"], "front": p["method"] in best}
            for p in points.to_dict("records")
        ]

    def _hand_over(self) -> None:
        """Set the Explorer's controls to the picked method."""
        method = self.method
        if self.explorer is not None and isinstance(method, Prune):
            self.explorer.apply(method)
            self.hand_over.description = "Sent to the Explorer"
