"""ParetoPicker: a trade-off whose points can be picked, looked at, and sent to an Explorer."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as widgets
import pandas as pd

from fastvar_lab import demo
from fastvar_lab.charts import front, tradeoff_points
from fastvar_lab.explore import Exploration, Stopped
from fastvar_lab.methods.prune import Prune
from fastvar_lab.methods.written import read_method
from fastvar_lab.models import Model
from fastvar_lab.widgets.explorer import Explorer
from fastvar_lab.widgets.page import Scatter
from fastvar_lab.widgets.panel import Gallery, Status, control
from fastvar_lab.widgets.worker import Newest

VALUES = {"PSNR to full (dB)": "psnr", "SSIM to full": "ssim", "task score": "right"}


class ParetoPicker(widgets.VBox):
    """Quality against measured speedup of an experiment's frame, the Pareto front joined.

    Picking a point generates its picture beside the full one; a button sends its schedule to
    `explorer`. `frame` comes from an experiment that compares methods, such as `ratio_tradeoff`.

    >>> import fastvar_lab as fv
    >>> from fastvar_lab.experiments.run import run
    >>> frame = run("ratio_tradeoff", "quick", progress=False)
    >>> picker = ParetoPicker(frame, fv.load("tiny"))
    >>> picker.scatter.picked = 0
    >>> picker.method == read_method(picker.methods[picker.scatter.points[0]["name"]])
    True
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        model: Model,
        explorer: Explorer | None = None,
        prompt: str = demo.PROMPT,
        seed: int = 0,
    ) -> None:
        missing = {"kind", "method", "repr"} - set(frame.columns)
        if missing:
            raise ValueError(
                "the frame must come from an experiment that compares methods; it lacks "
                + ", ".join(sorted(missing))
            )
        self.frame, self.explorer, self.worker = frame, explorer, Newest()
        self.lab, self.asked = Exploration(model), (prompt, seed)
        self.methods = dict(zip(frame.method, frame.repr, strict=True))
        self.value = control(widgets.Dropdown, "quality", options=VALUES)
        self.scatter = Scatter(x_label="measured speedup")
        self.point = control(widgets.Dropdown, "point", options=[])
        self.hand_over = widgets.Button(description="Send to the Explorer", disabled=True)
        self.hand_over.layout.width = "auto"
        self.status = Status()
        self.gallery = Gallery(("full", "FastVAR"))
        side = widgets.VBox([self.value, self.point, self.gallery, self.status, self.hand_over])
        super().__init__([widgets.HBox([self.scatter, side], layout={"flex_flow": "row wrap"})])
        self.add_class("fastvar-pareto")
        self._points()
        self.value.observe(lambda _: self._guarded(self._points), "value")
        self.scatter.observe(lambda _: self._guarded(self._picked), "picked")
        self.point.observe(lambda _: self._guarded(self._named), "value")
        self.hand_over.on_click(lambda _: self._guarded(self._hand_over))

    @property
    def method(self) -> Prune | None:
        """The method that is picked."""
        if self.scatter.picked < 0:
            return None
        name = self.scatter.points[self.scatter.picked]["name"]
        found = read_method(self.methods[name])
        if not isinstance(found, Prune):
            raise ValueError(f"{name} is no schedule of pruned scales")
        return found

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the picture that was asked for; tell whether it came in time."""
        return self.worker.wait(timeout)

    def _points(self) -> None:
        points = tradeoff_points(self.frame, self.value.value)
        best = set(front(points, "speedup", "mean").method)
        self.scatter.y_label = self.value.label
        self.scatter.points = [
            {"x": p.speedup, "y": p.mean, "name": p.method, "front": p.method in best}
            for p in points.rename_axis(None).itertuples()
        ]
        names = [p["name"] for p in self.scatter.points]
        kept = self.scatter.picked
        self.point.options = [("none picked", -1), *((n, i) for i, n in enumerate(names))]
        self.point.value = kept

    def _named(self) -> None:
        self.scatter.picked = self.point.value

    def _picked(self) -> None:
        self.point.value = self.scatter.picked
        method = self.method
        self.hand_over.disabled = method is None or self.explorer is None
        if method is None:
            return
        self.status.say("generating")

        def work(stopped: Callable[[], bool]) -> None:
            try:
                found = self.lab.compare(*self.asked, method, stopped)
            except Stopped:
                pass
            except Exception as error:  # a thread's traceback would go nowhere
                self.status.fail(error)
            else:
                self.gallery.put("full", found.full)
                self.gallery.put("FastVAR", found.fast)
                self.status.say(f"PSNR {found.psnr:.1f} dB, SSIM {found.ssim:.3f}")

        self.worker.ask(work)

    def _hand_over(self) -> None:
        method = self.method
        if method is not None and self.explorer is not None:
            self.explorer.apply(method)
            self.status.say("sent to the Explorer")

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # a callback's traceback would go to a log
            self.status.fail(error)
