"""ScaleBrowser: shows one generation scale step by scale step, beside full generation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.colors import to_hex

from fastvar_lab.draws import Keyed
from fastvar_lab.errors import short
from fastvar_lab.experiments.explore import Stoppable
from fastvar_lab.files import expanded
from fastvar_lab.frames import FULL
from fastvar_lab.generation import Generation
from fastvar_lab.instruments.observe import observe
from fastvar_lab.instruments.outputs import Outputs
from fastvar_lab.instruments.redraw import redrawn
from fastvar_lab.instruments.trace import Trace
from fastvar_lab.measure.masks import kept_map, score_map
from fastvar_lab.measure.scale_steps import added, images, most_telling, spectra
from fastvar_lab.methods.prune import Dense
from fastvar_lab.methods.select import FarFromMean
from fastvar_lab.models.loading import load
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import motion, panels
from fastvar_lab.seam import Site
from fastvar_lab.snapshots import Held
from fastvar_lab.widgets.fields import Choice, Field, Index
from fastvar_lab.widgets.page import ColorBar, Player, Viewer, box, button, style_sheet
from fastvar_lab.widgets.panel import Live, Status
from fastvar_lab.widgets.saving import free_path
from fastvar_lab.widgets.token_panel import Sight, Subject, TokenPanel

PIVOTAL = repr(FarFromMean())
SHADES = panels.kept_overlay(np.ones((1, 2, 3)), np.array([[False, True]]))[0]
KEPT = ColorBar([f"{to_hex(shade)} 50%" for shade in SHADES], "pruned", "computed")
GIVEN = ("given", "negative")
"""What a trace names but does not hold."""
SAME = ("prompts", "seeds", "sampling", "draws", "sizes", "weights", *GIVEN)
"""What two traces share whose steps are shown side by side."""
OPENED = "Opened on {}: of the steps where a part of the tokens is pruned, it adds most."


class ScaleBrowser(Live):
    """Shows the scale steps of a trace, and plays through them.

    Each step shows the picture so far, beside that of full generation and their difference if
    there is one; what the step added (around grey), its spectrum beside the final one, and the
    scores and kept tokens of a sublayer. It opens on the step that `most_telling` names. `full` is
    the trace of full generation with the same settings; without it `update` draws it, if draws are
    keyed and no tokens or negative prompts were given. `model` decodes the canvases; by default it
    is opened by the name in the trace. A click shows a token's life; its attention is read from
    `generation`, which has a snapshot, and without one is drawn again. The animation is exported
    into `folder`. Raises ValueError if the weights are not those that the trace was made with, and
    if `full` is of other settings.

    >>> import fastvar_lab as fv
    >>> model = fv.load("tiny")
    >>> _, trace = fv.observe(model, "a red circle", fv.PRESETS["tiny"], seed=1)
    >>> browser = ScaleBrowser(trace, model)
    >>> browser.step.value = 9
    >>> browser.status.value
    '<span role="status">32x32: 256 of 1024 tokens forwarded by attn of layer 0</span>'
    """

    idle = "Draw full generation too"

    def __init__(
        self,
        trace: Trace,
        model: Model | None = None,
        full: Trace | None = None,
        *,
        generation: Generation | None = None,
        folder: str | Path = ".",
    ) -> None:
        super().__init__()
        self.trace, self.model = trace, _model_of(trace, model)
        self.folder, self.charts = expanded(folder), dict[tuple[int, int], np.ndarray]()
        self.full = None if full is None else _beside(trace, full)
        self.steps = sorted(trace.canvases)
        first = most_telling(trace, self.model.decode)
        steps = [(trace.size(step), step) for step in self.steps]
        self.step = Index("scale step", first, "The step that is shown.", steps)
        self.player = Player(last=len(steps) - 1)
        self.player.step = self.player.shown = self.steps.index(first)
        sites = {site for _, site in trace.scores}
        last = max(site.layer for site in sites)
        kinds = [k for k in self.model.transformer.kinds if any(s.kind == k for s in sites)]
        layers = [(str(layer), layer) for layer in range(last + 1)]
        self.layer = Choice("layer", 0, "The layer of scores and kept tokens.", layers)
        self.kind = Choice("sublayer", kinds[0], "Its sublayer.", [(k, k) for k in kinds])
        prompts = trace.provenance.get("prompts", ["0"])
        seeds = trace.provenance.get("seeds", [0])
        names = [short(self.model.caption(prompt), 80) for prompt in prompts]
        if len(seeds) == len(names):  # else one stream of noise for the whole batch
            names = [f"{name}, seed {short(seeds[i], 20)}" for i, name in enumerate(names)]
        named = [(name, i) for i, name in enumerate(names)]
        self.picture = Choice("picture", 0, "The picture of the batch.", named)
        if len(prompts) == 1:
            self.picture.add_class("fv-hidden")
        self.viewer = Viewer(
            {
                "sofar": "picture so far", "full": "full generation so far",
                "gap": "their difference", "added": "added by this step", "scores": "scores",
                "kept": "kept tokens",
            }
        )  # fmt: skip
        self.viewer.group = f"scales-{id(self)}"
        self.generation, self.undrawn, self.quiet = generation, "", False
        self.outputs: Held | None = None  # of the generation, if it was drawn again
        self.token = TokenPanel(
            self.model, trace.grids, self.viewer, self._subject, self._sight, self._go
        )
        self.spectrum = Viewer({"spectrum": "spectrum"})
        self.spectrum.add_class("fv-chart")
        self.name = Field("save as", "scale_steps", f"The name of the file, in {folder}.")
        self.export = button("Save as GIF", "An animation of the steps", self._export)
        self.saved = Status()
        self._lay_out(OPENED.format(trace.size(first)) if _pruned(trace, first) else "")
        self._show()

    def _lay_out(self, note: str) -> None:
        """Arrange the parts, and connect them."""
        self.run_stop.tooltip = "Draw full generation of the same settings, to see both in step"
        if self.full is not None or self._dense or not self._repeatable:
            self.run_stop.add_class("fv-hidden")
        self.opened = Status()
        self.opened.say(note)
        fields = box("fv-fields", self.step, self.layer, self.kind, self.picture)
        main = box(
            "fv-part",
            fields,
            box("fv-row", self.player, self.run_stop),
            box("fv-row", self.status),
            self.viewer,
            self.spectrum,
            box("fv-row", self.opened),
            box("fv-fields", self.name),
            box("fv-row", self.export, self.saved),
        )
        self.children = (style_sheet(), main, self.token)
        self.add_class("fastvar-widget")
        self.add_class("fastvar-scales")
        self.viewer.observe(lambda change: self.viewed(change.new), "views")
        for changed in (self.step, self.layer, self.kind, self.picture):
            changed.observe(lambda _: self._changed(), "value")
        self.player.observe(lambda c: setattr(self.step, "value", self.steps[c.new]), "step")

    @property
    def _dense(self) -> bool:
        """Whether the trace is of full generation itself."""
        return self.trace.provenance.get("method") == repr(Dense())

    @property
    def _repeatable(self) -> bool:
        """Whether the trace says all that full generation of the same settings depends on."""
        kept = self.trace.provenance
        return (
            kept.get("draws") == repr(Keyed(tuple(kept.get("seeds", ()))))
            and kept.get("sampling") == repr(self.model.sampling)
            and not any(name in kept for name in GIVEN)
        )

    def _subject(self, stopped: Callable[[], bool]) -> Subject:
        """Return what tokens belong to; a generation that is not here is drawn again, once."""
        note = ""
        if self.generation is None and not self.undrawn:
            try:
                kept = Outputs(self.model)
                watch = partial(Stoppable, stopped=stopped, begins=lambda step: None)
                self.generation = redrawn(self.model, self.trace, [watch, *kept.watch])
                self.outputs = kept.by_site
            except ValueError as error:
                self.undrawn = str(error)
        if self.generation is None:
            note = self.undrawn
        return Subject(self.trace, self.picture.value, self.generation, "", note, self.outputs)

    def _sight(self) -> Sight:
        return Sight(self.step.value, self.layer.value, self.kind.value)

    def _go(self, sight: Sight) -> None:
        """Show another step and sublayer."""
        self.quiet = True
        try:
            self.layer.value, self.kind.value, self.step.value = sight.layer, sight.kind, sight.step
        finally:
            self.quiet = False
        self._show()

    def release(self) -> None:
        """Drop the generation; it is drawn again on demand."""
        super().release()
        self.token.release()
        self.generation, self.outputs = None, None

    def update(self) -> None:
        """Request full generation with the settings of the trace; returns at once."""
        if not self._repeatable:
            raise ValueError(
                "full generation takes keyed draws and the model's own sampling, without given "
                "tokens or negative prompts; give its trace as full"
            )
        kept = self.trace.provenance
        seeds = list(kept["seeds"])

        def work(stopped: Callable[[], bool]) -> Callable[[], None]:
            watch = partial(Stoppable, stopped=stopped, begins=lambda step: None)
            sizes = [(grid.h, grid.w) for grid in self.trace.grids]
            seed = seeds[0] if len(seeds) == 1 else seeds
            _, full = observe(
                self.model, list(kept["prompts"]), Dense(), seed=seed, sizes=sizes, watch=[watch]
            )
            images(_beside(self.trace, full), self.model.decode)
            return lambda: self._add(full)

        self.ask(work)

    def _add(self, full: Trace) -> None:
        """Show full generation beside the trace."""
        self.full = full
        self.run_stop.add_class("fv-hidden")
        self._show()

    def _changed(self) -> None:
        if not self.quiet:
            self._show()
            self.token.guarded(self.token.update)

    def _show(self) -> None:
        """Show the step of the slider."""
        try:
            self._draw(self.step.value, self.picture.value)
        except Exception as error:  # a callback's traceback would go to a log
            self.status.fail(error)
        self.player.step = self.player.shown = self.steps.index(self.step.value)

    def _draw(self, step: int, row: int) -> None:
        """Show step `step` of the picture with index `row`."""
        trace, decode, put = self.trace, self.model.decode, self.viewer.put
        place, size = self.steps.index(step), trace.size(step)
        so_far = images(trace, decode)[place, row]
        self.viewer.cells = max(trace.grids[step].h, trace.grids[step].w)
        put("sofar", so_far, note=f"after {size}", alt=f"picture after {size}")
        self._put_full(so_far, place, row, size)
        gap = panels.difference(added(trace, decode)[place, row])
        put("added", gap.picture, note=f"x {gap.gain}", bar=_around_grey(gap.gain),
            alt=f"what {size} added, around grey")  # fmt: skip
        self.spectrum.put(
            "spectrum",
            self._chart(place, row, size),
            alt=f"spectrum after {size}, and the final one",
        )
        site = Site(self.layer.value, self.kind.value)
        kept = kept_map(trace, step, site, row)
        alt = (
            f"tokens that {site.kind} of layer {site.layer} computes at {size} bright, others dark"
        )
        put("kept", panels.kept_overlay(so_far, kept), alt=alt, bar=KEPT)
        if (step, site) not in trace.scores:
            put("scores", np.full((8, 8, 3), 0.5), note="none", alt="no scores: skipped")
            self.status.say(f"{size}: skipped, no token forwarded")
            return
        scores = score_map(trace, step, site, row)
        rule = trace.provenance.get("scores", PIVOTAL)
        bar = ColorBar(panels.heat_colors(), *panels.ends(scores))
        put("scores", panels.heat(scores), note="PTS" if rule == PIVOTAL else rule, bar=bar,
            alt=f"scores at {size}, {bar.low} dark, {bar.high} bright, grey without a score",
            cells=True)  # fmt: skip
        self.status.say(
            f"{size}: {kept.sum()} of {kept.size} tokens forwarded by {site.kind} "
            f"of layer {site.layer}"
        )

    def _put_full(self, so_far: np.ndarray, place: int, row: int, size: str) -> None:
        """Show full generation at the same step, and the difference to it."""
        if self.full is None:
            for name in ("full", "gap"):
                self.viewer.put(name, np.full((8, 8, 3), 0.5), hidden=True)
            return
        full = images(self.full, self.model.decode)[place, row]
        self.viewer.put("full", full, note=f"after {size}", alt=f"full generation after {size}")
        gap = panels.difference(so_far, full)
        self.viewer.put(
            "gap", gap.picture, note=f"x {gap.gain}, grey: equal", bar=_around_grey(gap.gain),
            alt=f"difference to full generation after {size}, around grey",
        )  # fmt: skip

    def _chart(self, place: int, row: int, size: str) -> np.ndarray:
        """Return the drawn spectrum of a step; each is drawn once."""
        if (place, row) not in self.charts:
            frequencies, amplitudes = spectra(self.trace, self.model.decode)
            lines = {f"after {size}": amplitudes[place, row], "final": amplitudes[-1, row]}
            self.charts[place, row] = panels.spectra(frequencies, lines).array()
        return self.charts[place, row]

    def _export(self) -> None:
        """Write the animation of all steps as GIF."""
        try:
            path = free_path(self.name, self.folder, ["gif"])
            path = path.with_name(f"{path.name}.gif")
            motion.write_gif(path, self.frames())
            self.saved.say(f"saved {path}")
        except (ValueError, OSError) as error:
            self.saved.fail(error)

    def frames(self) -> list[motion.Frame]:
        """Draw the animation: the pictures so far in step, their difference, and kept tokens."""
        row, decode = self.picture.value, self.model.decode
        site = Site(self.layer.value, self.kind.value)
        fast = images(self.trace, decode)[:, row]
        columns = {"picture so far": [*fast]}
        if self.full is not None:
            full = images(self.full, decode)[:, row]
            gains = [panels.difference(a, b) for a, b in zip(fast, full, strict=True)]
            gain = min((g.gain for g in gains if g.picture.std() > 0), default=1)
            differences = [panels.difference(a, b, gain) for a, b in zip(fast, full, strict=True)]
            columns = {
                "full generation": [*full], **columns,
                differences[0].title: [gap.picture for gap in differences],
            }  # fmt: skip
        kept = [kept_map(self.trace, step, site, row) for step in self.steps]
        columns[f"tokens of {site.kind}, layer {site.layer}"] = [
            panels.kept_overlay(image, mask) for image, mask in zip(fast, kept, strict=True)
        ]
        scales = [self.trace.size(step) for step in self.steps]
        prompt = self.trace.provenance.get("prompts", [""])[row]
        return motion.in_step(columns, scales, f"“{self.model.caption(prompt)}”")


def _around_grey(gain: int) -> ColorBar:
    """Return the color bar of a difference picture."""
    greys = [to_hex((level,) * 3) for level in (0, 0.5, 1)]
    return ColorBar(greys, f"{-1 / gain:.3g}", f"+{1 / gain:.3g}")


def _pruned(trace: Trace, step: int) -> bool:
    """Return whether a part of the tokens is pruned at a step."""
    return any(not kept.all() for (s, _), kept in trace.kept.items() if s == step)


def _beside(trace: Trace, full: Trace) -> Trace:
    """Return the trace of full generation; raise ValueError if it has other settings."""
    for name in SAME:
        a, b = (repr(t.provenance.get(name)).replace("(", "[").replace(")", "]").replace(",]", "]")
                for t in (trace, full))  # fmt: skip
        if a != b:
            raise ValueError(
                f"{FULL} generation has other {name} than the trace: {b}, where that has {a}"
            )
    if sorted(trace.canvases) != sorted(full.canvases):
        raise ValueError("the traces hold different scale steps")
    return full


def _model_of(trace: Trace, model: Model | None) -> Model:
    """Return the model that made a trace; raise ValueError if `model` has other weights."""
    name, fingerprint = trace.provenance.get("model"), trace.provenance.get("weights")
    if model is None:
        model = load(str(name))
    if fingerprint is not None and model.fingerprint != fingerprint:
        raise ValueError(
            f"the trace was made with the weights {fingerprint} of {name}; "
            f"the given {model.name} has the weights {model.fingerprint}"
        )
    return model
