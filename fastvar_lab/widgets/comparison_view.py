"""What the Explorer shows of a comparison: pictures, numbers, the masks of all steps, legends."""

from __future__ import annotations

import html
from collections.abc import Callable
from threading import Condition

import ipywidgets as widgets
import numpy as np

from fastvar_lab.experiments.explore import Duel
from fastvar_lab.experiments.step_times import StepTimes
from fastvar_lab.frames import FULL
from fastvar_lab.measure.masks import kept_map, score_map
from fastvar_lab.methods.columns import family as family_of
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import panels
from fastvar_lab.seam import Site
from fastvar_lab.widgets.fields import Choice, Toggle
from fastvar_lab.widgets.page import Viewer, box, heading, visible
from fastvar_lab.widgets.scale_strip import ScaleStrip, terms
from fastvar_lab.widgets.token_panel import Sight

TITLES = {
    "a": "A", "b": "B", "difference": "difference", "kept": "kept tokens of A",
    "scores": "scores of A",
}  # fmt: skip


class ComparisonView:
    """Shows two methods' pictures, their difference, numbers, and A's masks and scores.

    `parts` are its widgets from top to bottom, `results` those that are dimmed while they are old.
    Its controls say what is shown of the comparison: `mode`, `gain`, the sublayer (`layer` and
    `kind`), and the step picked in `strip`. `guarded` calls what they do, and shows errors; `lock`
    keeps two threads from writing at once. `times()` are measured times, if there are any.
    """

    def __init__(
        self,
        model: Model,
        group: str,
        lock: Condition,
        guarded: Callable[[Callable[[], None]], None],
        times: Callable[[], StepTimes | None],
    ) -> None:
        self.model, self.lock, self.times = model, lock, times
        self.guarded, self.quiet = guarded, False
        self.duel: Duel | None = None
        grids, kinds = model.grids(), model.transformer.kinds
        self.viewer = Viewer(TITLES)
        self.viewer.group = group
        self.viewer.cells = max(grids[-1].h, grids[-1].w)
        self.mode = Choice(
            "pictures", "side",
            "Side by side, or B over A with a line to swipe.",
            [("side by side", "side"), ("swipe between A and B", "swipe")],
        )  # fmt: skip
        self.gain = Choice(
            "difference", None,
            "How much the difference is enlarged; a fixed gain makes pictures comparable.",
            [("by itself", None), *((f"x {gain}", gain) for gain in panels.GAINS[:7])],
        )  # fmt: skip
        self.layer = Choice(
            "masks of layer", 0, "The layer whose kept tokens are shown.",
            [(str(layer), layer) for layer in range(model.depth)],
        )  # fmt: skip
        self.kind = Choice(
            "sublayer", kinds[0], "attention, attention to the words, or feed-forward",
            [(kind, kind) for kind in kinds],
        )  # fmt: skip
        self.strip = ScaleStrip([grid.name for grid in grids])
        self.strip.picked = len(grids) - 1
        self.numbers, self.key = widgets.HTML(), widgets.HTML()
        self._lay_out()
        self.gain.observe(lambda _: guarded(self.difference), "value")
        self.mode.observe(lambda change: setattr(self.viewer, "mode", change.new), "value")
        for control in (self.layer, self.kind):
            control.observe(lambda _: self._changed(self.masks), "value")
        self.strip.observe(lambda _: self._changed(self.mask), "picked")

    def _lay_out(self) -> None:
        """Arrange the parts; the style sheet places them by the width there is."""
        self.what = Toggle("What am I looking at?", False, "What the words on this page mean.")
        meaning = widgets.HTML(terms())
        visible(meaning, False)
        self.what.observe(lambda change: visible(meaning, change.new), "value")
        pictures, steps = box("fv-shown", self.viewer), box("fv-shown", self.strip)
        self.results = [self.numbers, pictures, steps]
        self.parts = [
            self.numbers,
            box("fv-fields", self.mode, self.gain),
            pictures,
            heading("Scale steps: kept tokens, and operations"),
            box("fv-fields", self.layer, self.kind),
            steps,
            self.key,
            self.what,
            meaning,
        ]

    @property
    def sight(self) -> Sight:
        """The step and sublayer in view."""
        return Sight(max(self.strip.picked, 0), self.layer.value, self.kind.value)

    @property
    def site(self) -> Site:
        """The sublayer in view."""
        return Site(self.layer.value, self.kind.value)

    def go(self, sight: Sight) -> None:
        """Show the masks of another step and sublayer."""
        there = self.sight
        self.quiet = True
        try:
            self.layer.value, self.kind.value = sight.layer, sight.kind
            self.strip.picked = sight.step
        finally:
            self.quiet = False
        self.guarded(self.mask if there[1:] == sight[1:] else self.masks)

    def _changed(self, draw: Callable[[], None]) -> None:
        if not self.quiet:
            self.guarded(draw)

    def kept(self, step: int) -> np.ndarray | None:
        """Return the tokens that A keeps at a step, in the sublayer in view."""
        return None if self.duel is None else kept_map(self.duel.a.trace, step, self.site)

    def show(self, duel: Duel) -> None:
        """Show two methods' pictures, numbers, masks and cost."""
        self.duel = duel
        a, b = family_of(duel.a.method), family_of(duel.b.method)
        prompt = f"{duel.a.caption}, seed {duel.a.seed}"
        self.viewer.put("a", duel.a.fast, title=f"A: {a}", alt=f"{prompt}, drawn by {a}")
        title = "B: full generation" if b == FULL else f"B: {b}"
        self.viewer.put("b", duel.b.fast, title=title, alt=f"{prompt}, drawn by {b}")
        self.numbers.value = _numbers(duel, self.model)  # before the masks, so that no error of
        # theirs leaves the numbers of other pictures here
        self.difference()
        self.masks()

    def difference(self) -> None:
        """Show the difference of both pictures with the chosen gain."""
        with self.lock:  # the worker thread calls this too
            if self.duel is None:
                return
            gap = panels.difference(self.duel.a.fast, self.duel.b.fast, self.gain.value)
            self.viewer.put(
                "difference", gap.picture, title="A minus B", note=f"x {gap.gain}, grey: equal",
                alt=f"difference of A and B, enlarged {gap.gain} times around grey",
            )  # fmt: skip

    def masks(self) -> None:
        """Show the masks of all steps at the sublayer that the controls name."""
        with self.lock:
            if self.duel is not None:
                self.strip.show(self.duel, self.site, self.times())
                self.key.value = self.strip.key()
                self.mask()

    def mask(self) -> None:
        """Show the kept tokens of the picked step over A's picture, and their scores."""
        with self.lock:
            step = self.strip.picked
            if self.duel is None or step < 0:
                return
            share = kept_map(self.duel.a.trace, step, self.site)
            self.viewer.cells = max(share.shape)
            self._scores(self.duel, step)
            size, site = self.strip.sizes[step], self.site
            note = f"{size}, {site.kind} of layer {site.layer}, {share.mean():.0%}"
            self.viewer.put(
                "kept", panels.kept_overlay(self.duel.a.fast / 255, share),
                title="kept tokens of A", note=note,
                alt=f"tokens that A computes at {size} bright, others dark",
            )  # fmt: skip

    def _scores(self, duel: Duel, step: int) -> None:
        """Show the scores of A's tokens at a step."""
        trace, size = duel.a.trace, self.strip.sizes[step]
        if (step, self.site) not in trace.scores:
            blank = np.full((8, 8, 3), 0.5)
            self.viewer.put("scores", blank, note="none", alt="no scores: skipped")
            return
        values = score_map(trace, step, self.site)
        note = f"{size}, {' to '.join(panels.ends(values))}"
        alt = f"scores of A's tokens at {size}, bright is high, grey without a score"
        self.viewer.put("scores", panels.heat(values), note=note, alt=alt, cells=True)


def _numbers(duel: Duel, model: Model) -> str:
    """Write the numbers of both methods as HTML."""
    against = "full" if family_of(duel.b.method) == FULL else "B"
    entries = [
        (f"{duel.a.speedup_flop_bound:.2f}", "times fewer operations, A"),
        (f"{duel.psnr:.1f} dB", f"PSNR of A to {against}"),
        (f"{duel.ssim:.3f}", f"SSIM of A to {against}"),
    ]
    if against == "B":
        entries += [
            (f"{duel.b.speedup_flop_bound:.2f}", "times fewer operations, B"),
            (f"{duel.a.psnr:.1f} / {duel.b.psnr:.1f} dB", "PSNR to full, A / B"),
        ]
    changed = zip(model.sizes, duel.a.agreement, strict=True)
    parts = [f"{h}x{w} {1 - a:.1%}" for (h, w), a in changed if a < 1]  # nan at skipped steps
    unit = "bits" if model.quantizer.codebook is None else "tokens"
    counted = any(a == a for a in duel.a.agreement)  # all nan for mixtures of codes
    note = f"{unit} changed by A: {', '.join(parts) or ('none' if counted else 'not counted')}"
    shown = "".join(
        f'<div class="fv-number"><b>{number}</b><span>{html.escape(what)}</span></div>'
        for number, what in entries
    )
    return f'<div class="fv-numbers">{shown}</div><div class="fv-quiet">{note}</div>'
