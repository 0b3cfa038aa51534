"""PaintPanel: tokens that are painted by hand become the selector of method A."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import anywidget
import ipywidgets as widgets
import numpy as np
import traitlets
from matplotlib.colors import to_hex

from fastvar_lab.methods.painted_mask import mask_text
from fastvar_lab.methods.schedule import Scheduled, find, share_of
from fastvar_lab.methods.select_painted import Painted
from fastvar_lab.models.model import Model
from fastvar_lab.plotting.style import KEPT, PRUNED
from fastvar_lab.seam import Method
from fastvar_lab.widgets.fields import Choice
from fastvar_lab.widgets.page import box, button, heading, png
from fastvar_lab.widgets.panel import Status
from fastvar_lab.widgets.scale_strip import legend
from fastvar_lab.widgets.scripts import script

KEEP, PRUNE, FREE = "k", "p", "."


class Paint(anywidget.AnyWidget):
    """A map of tokens over a picture: `marks` has a letter for each of h x w tokens."""

    _esm = script("paint.js")
    picture = traitlets.Bytes(png(np.full((8, 8, 3), 128, np.uint8))).tag(sync=True)
    alt = traitlets.Unicode("tokens to paint").tag(sync=True)
    h = traitlets.Int(1).tag(sync=True)
    w = traitlets.Int(1).tag(sync=True)
    marks = traitlets.Unicode(FREE).tag(sync=True)
    tool = traitlets.Unicode(KEEP).tag(sync=True)
    brush = traitlets.Int(1).tag(sync=True)
    colors = traitlets.Dict({KEEP: to_hex(KEPT), PRUNE: to_hex(PRUNED)}).tag(sync=True)


class PaintPanel(widgets.Box):
    """Paints tokens to keep or to prune at a scale step.

    `method()` returns method A, `use` sets it; `mask(step)` returns its kept tokens (h, w), or
    None. While A selects painted tokens, every stroke changes it. `painted` is the selector.
    """

    def __init__(
        self,
        model: Model,
        method: Callable[[], Method],
        use: Callable[[Method], None],
        mask: Callable[[int], np.ndarray | None],
    ) -> None:
        self.model, self.method, self.use, self.mask = model, method, use, mask
        self.marks: dict[int, str] = {}  # by step
        self.quiet = False
        grids = model.grids()
        steps = [(grid.name, grid.index) for grid in grids if not grid.prefix]
        self.step = Choice("scale to paint", len(grids) - 1, "The scale step.", steps)
        self.tool = Choice(
            "brush paints", KEEP, "What a stroke does; K, P and Delete do each at the cursor.",
            [("to keep", KEEP), ("to prune", PRUNE), ("free again", FREE)],
        )  # fmt: skip
        self.size = Choice(
            "brush size",
            1,
            "Tokens along a side of the brush.",
            [(str(n), n) for n in (1, 2, 3, 5)],
        )
        self.paint = Paint()
        self.paint.add_class("fastvar-paint")
        self.status = Status()
        acts = box(
            "fv-row",
            button("Use in A", "Let A select the painted tokens", self._guard(self.apply)),
            button("Match the share", "Prune at this scale exactly what is painted to prune, "
                   "or all but what is painted to keep", self._guard(self.match)),
            button("Take A's mask", "Paint what A keeps and prunes in the layer in view",
                   self._guard(self.take)),
            button("Clear", "Free all tokens of this scale", self._guard(self.clear)),
        )  # fmt: skip
        key = widgets.HTML(legend({"keep": to_hex(KEPT), "prune": to_hex(PRUNED)}))
        fields = box("fv-fields", self.step, self.tool, self.size)
        super().__init__([heading("Paint the mask"), fields, acts, self.status, self.paint, key])
        self.add_class("fv-part")
        self.step.observe(lambda _: self._guard(self._turn)(), "value")
        self.tool.observe(lambda change: setattr(self.paint, "tool", change.new), "value")
        self.size.observe(lambda change: setattr(self.paint, "brush", change.new), "value")
        self.paint.observe(lambda change: self._guard(self._stroke)(), "marks")
        self._turn()

    def _guard(self, act: Callable[[], None]) -> Callable[[], None]:
        def guarded() -> None:
            try:
                act()
            except Exception as error:  # a callback's traceback would go to a log
                self.status.fail(error)

        return guarded

    @property
    def painted(self) -> Painted:
        """The selector of what is painted, with A's own selector for the other tokens."""
        select = getattr(self.method(), "select", None)
        others = select.others if isinstance(select, Painted) else select
        sides: list[dict[int, str]] = []
        grids = self.model.grids()
        for letter in (KEEP, PRUNE):
            masks = {step: self._array(step) == letter for step in self.marks}
            sides.append({s - len(grids): mask_text(m) for s, m in masks.items()})
        selector = Painted(*cast(Any, sides))
        return selector if others is None else replace(selector, others=others)

    def _array(self, step: int) -> np.ndarray:
        grid = self.model.grids()[step]
        return np.array(list(self.marks[step])).reshape(grid.h, grid.w)

    def apply(self) -> None:
        """Set A's selector to what is painted."""
        method = self.method()
        if not hasattr(method, "select"):
            raise ValueError("painted tokens are a selector; choose FastVAR as method A")
        painted: Any = self.painted
        if painted == Painted(others=painted.others):
            painted = painted.others
        self.use(cast(Method, replace(cast(Any, method), select=painted)))
        self._count()

    def match(self) -> None:
        """Set A's share at this scale to the painted number of tokens, and use the paint."""
        method, step = self.method(), self.step.value
        if not isinstance(method, Scheduled) or not hasattr(method, "select"):
            raise ValueError("painted tokens are a selector; choose FastVAR as method A")
        marks = self.paint.marks
        keep, prune = marks.count(KEEP), marks.count(PRUNE)
        if not keep and not prune:
            raise ValueError("paint some tokens first")
        pruned = prune or len(marks) - keep
        if pruned == len(marks):
            raise ValueError("all tokens are painted to prune; a share of 100 % skips the step")
        grids = self.model.grids()
        ratios = {find(name, grids) - len(grids): ratio for name, ratio in method.pairs}
        ratios[step - len(grids)] = share_of(len(marks), pruned)
        self.use(replace(cast(Any, method), ratios=ratios, select=self.painted))
        self._count()

    def take(self) -> None:
        """Paint what A keeps and prunes at this scale."""
        mask = self.mask(self.step.value)
        if mask is None:
            raise ValueError("there is no picture yet")
        if mask.all() or not mask.any():
            raise ValueError("A computes all tokens of this scale, or none: nothing to take")
        self.paint.marks = "".join(KEEP if kept else PRUNE for kept in mask.flatten())

    def clear(self) -> None:
        """Free all tokens of this scale."""
        self.paint.marks = FREE * len(self.paint.marks)

    def adopt(self, method: Method) -> None:
        """Paint what a method's selector has painted, when A was set to it elsewhere."""
        select = getattr(method, "select", None)
        if not isinstance(select, Painted) or select == self.painted:
            return
        self.marks = {}
        for step, (keep, prune) in select.masks(self.model.grids()).items():
            letters = np.where(keep, KEEP, np.where(prune, PRUNE, FREE))
            self.marks[step] = "".join(letters.flatten().tolist())
        self._turn()

    def show(self, picture: np.ndarray) -> None:
        """Show A's picture (H, W, 3) under the paint."""
        self.paint.picture = png(picture)

    def _turn(self) -> None:
        """Show the paint of another scale."""
        grid = self.model.grids()[self.step.value]
        self.quiet = True
        try:
            with self.paint.hold_sync():
                self.paint.h, self.paint.w = grid.h, grid.w
                self.paint.marks = self.marks.get(grid.index, FREE * (grid.h * grid.w))
                self.paint.alt = f"tokens of {grid.name}"
        finally:
            self.quiet = False
        self._count()

    def _stroke(self) -> None:
        """Take over what was painted; A follows if it selects painted tokens."""
        grid = self.model.grids()[self.step.value]
        if self.quiet or len(self.paint.marks) != grid.h * grid.w:
            return
        self.marks[grid.index] = self.paint.marks
        if isinstance(getattr(self.method(), "select", None), Painted):
            self.apply()
        self._count()

    def _count(self) -> None:
        """Say what is painted, and whether A uses it."""
        marks, select = self.paint.marks, getattr(self.method(), "select", None)
        used = isinstance(select, Painted) and select == self.painted
        self.status.say(
            f"{marks.count(KEEP)} to keep, {marks.count(PRUNE)} to prune, of {len(marks)}; "
            + ("A selects them" if used else "not used by A yet")
        )
