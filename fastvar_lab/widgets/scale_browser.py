"""ScaleBrowser: shows one generation scale step by scale step."""

from __future__ import annotations

import numpy as np

from fastvar_lab.generation import Generation
from fastvar_lab.instruments.redraw import redrawn
from fastvar_lab.instruments.trace import Trace
from fastvar_lab.measure.masks import kept_map, score_map
from fastvar_lab.measure.scale_steps import added, images, spectra
from fastvar_lab.methods.select import FarFromMean
from fastvar_lab.models.loading import load
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import panels
from fastvar_lab.seam import Site
from fastvar_lab.widgets.fields import Choice, Index
from fastvar_lab.widgets.lifetime import Owner
from fastvar_lab.widgets.page import Viewer, box, style_sheet
from fastvar_lab.widgets.panel import Status
from fastvar_lab.widgets.token_panel import Sight, Subject, TokenPanel

PIVOTAL = repr(FarFromMean())
ADDED = "added by this step"


class ScaleBrowser(Owner):
    """Shows the scale steps of a trace, with a slider through them.

    Each step shows the picture so far, the difference that the step added (around grey), its
    spectrum beside the final one, and the scores and kept tokens of a sublayer. `model` decodes
    the canvases; by default it is opened by the name in the trace. A click shows a token's life;
    its attention is read from `generation`, which has a snapshot, and without one drawn again.
    Raises ValueError if the model's weights are not those that the trace was made with.

    >>> import fastvar_lab as fv
    >>> model = fv.load("tiny")
    >>> _, trace = fv.observe(model, "a red circle", fv.PRESETS["tiny"], seed=1)
    >>> browser = ScaleBrowser(trace, model)
    >>> browser.step.value = 9
    >>> browser.status.value
    '<span role="status">32x32: 256 of 1024 tokens forwarded by attn of layer 0</span>'
    """

    def __init__(
        self, trace: Trace, model: Model | None = None, generation: Generation | None = None
    ) -> None:
        super().__init__()
        self.trace, self.model = trace, _model_of(trace, model)
        steps = [(trace.size(step), step) for step in sorted(trace.canvases)]
        sites = {site for _, site in trace.scores}
        last = max(site.layer for site in sites)
        kinds = [k for k in self.model.transformer.kinds if any(s.kind == k for s in sites)]
        self.step = Index("scale step", steps[0][1], "The step that is shown.", steps)
        layers = [(str(layer), layer) for layer in range(last + 1)]
        self.layer = Choice("layer", 0, "The layer of scores and kept tokens.", layers)
        self.kind = Choice("sublayer", kinds[0], "Its sublayer.", [(k, k) for k in kinds])
        prompts = trace.provenance.get("prompts", ["0"])
        named = [(f"{i + 1}: {p}", i) for i, p in enumerate(prompts)]
        self.picture = Choice("picture", 0, "The picture of the batch.", named)
        self.status = Status()
        self.viewer = Viewer(
            {"sofar": "picture so far", "added": ADDED, "scores": "scores", "kept": "kept tokens"}
        )
        self.viewer.group = f"scales-{id(self)}"
        self.generation, self.undrawn = generation, ""
        self.token = TokenPanel(
            self.model, trace.grids, self.viewer, self._subject, self._sight, self._go
        )
        self.spectrum = Viewer({"spectrum": "spectrum"})
        self.spectrum.add_class("fv-chart")
        if len(prompts) == 1:
            self.picture.add_class("fv-hidden")
        fields = box("fv-fields", self.step, self.layer, self.kind, self.picture)
        main = box("fv-part", fields, self.status, self.viewer, self.spectrum)
        self.children = (style_sheet(), main, self.token)
        self.add_class("fastvar-widget")
        self.add_class("fastvar-scales")
        self.viewer.observe(lambda change: self.viewed(change.new), "views")
        for changed in (self.step, self.layer, self.kind, self.picture):
            changed.observe(lambda _: self.update(), "value")
            changed.observe(lambda _: self.token.guarded(self.token.update), "value")
        self.update()

    def _subject(self) -> Subject:
        """Return what tokens belong to; a generation that is not here is drawn again, once."""
        note = ""
        if self.generation is None and not self.undrawn:
            try:
                self.generation = redrawn(self.model, self.trace)
            except ValueError as error:
                self.undrawn = str(error)
        if self.generation is None:
            note = self.undrawn
        return Subject(self.trace, self.picture.value, self.generation, "", note)

    def _sight(self) -> Sight:
        return Sight(self.step.value, self.layer.value, self.kind.value)

    def _go(self, sight: Sight) -> None:
        """Show another step and sublayer."""
        self.layer.value, self.kind.value, self.step.value = sight.layer, sight.kind, sight.step

    def release(self) -> None:
        """Drop the generation; it is drawn again on demand."""
        self.token.release()
        self.generation = None

    def update(self) -> None:
        """Show the step of the slider."""
        try:
            self._show(self.step.value, self.picture.value)
        except Exception as error:  # a callback's traceback would go to a log
            self.status.fail(error)

    def _show(self, step: int, row: int) -> None:
        """Show step `step` of the picture with index `row`."""
        trace, decode, put = self.trace, self.model.decode, self.viewer.put
        place = sorted(trace.canvases).index(step)
        size = trace.size(step)
        so_far = images(trace, decode)[place, row]
        frequencies, amplitudes = spectra(trace, decode)
        self.viewer.cells = max(trace.grids[step].h, trace.grids[step].w)
        put("sofar", so_far, alt=f"picture after {size}")
        gap = panels.difference(added(trace, decode)[place, row])
        put("added", gap.picture, note=f"x {gap.gain}", alt=f"what {size} added, around grey")
        lines = {f"after {size}": amplitudes[place, row], "final": amplitudes[-1, row]}
        chart = panels.spectra(frequencies, lines).array()
        self.spectrum.put("spectrum", chart, alt=f"spectrum after {size}, and the final one")
        site = Site(self.layer.value, self.kind.value)
        kept = kept_map(trace, step, site, row)
        alt = (
            f"tokens that {site.kind} of layer {site.layer} computes at {size} bright, others dark"
        )
        put("kept", panels.kept_overlay(so_far, kept), alt=alt)
        if (step, site) not in trace.scores:
            put("scores", np.full((8, 8, 3), 0.5), note="none", alt="no scores: skipped")
            self.status.say(f"{size}: skipped, no token forwarded")
            return
        scores = score_map(trace, step, site, row)
        rule = trace.provenance.get("scores", PIVOTAL)
        spread = f"{'PTS' if rule == PIVOTAL else rule}: {scores.min():.3g} to {scores.max():.3g}"
        put("scores", panels.heat(scores), note=spread, alt=f"scores at {size}", cells=True)
        self.status.say(
            f"{size}: {kept.sum()} of {kept.size} tokens forwarded by {site.kind} "
            f"of layer {site.layer}"
        )


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
