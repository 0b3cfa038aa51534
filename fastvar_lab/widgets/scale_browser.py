"""ScaleBrowser: shows one generation scale step by scale step."""

from __future__ import annotations

import ipywidgets as widgets
import numpy as np

from fastvar_lab.instruments.trace import Trace
from fastvar_lab.measure.masks import kept_map, score_map
from fastvar_lab.measure.scale_steps import added, images, spectra
from fastvar_lab.methods.select import FarFromMean
from fastvar_lab.models.loading import load
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import panels
from fastvar_lab.seam import Site
from fastvar_lab.widgets.panel import PIXELS, Gallery, Status, control

PIVOTAL = repr(FarFromMean())
SO_FAR, ADDED, SCORES, KEPT = "picture so far", "added by this step", "scores", "kept tokens"


class ScaleBrowser(widgets.VBox):
    """Shows the scale steps of a trace, with a slider through them.

    Each step shows the picture so far, the difference that the step added (around grey), its
    spectrum beside the final one, and the scores and kept tokens of a sublayer. `model` decodes
    the canvases; by default it is opened by the name in the trace. Raises ValueError if its weights
    are not those that the trace was made with.

    >>> import fastvar_lab as fv
    >>> model = fv.load("tiny")
    >>> _, trace = fv.observe(model, "a red circle", fv.PRESETS["tiny"], seed=1)
    >>> browser = ScaleBrowser(trace, model)
    >>> browser.step.value = 9
    >>> browser.status.value
    '<span role="status">32x32: 256 of 1024 tokens forwarded by attn of layer 0</span>'
    """

    def __init__(self, trace: Trace, model: Model | None = None) -> None:
        self.trace, self.model = trace, _model_of(trace, model)
        steps = [(trace.size(step), step) for step in sorted(trace.canvases)]
        sites = {site for _, site in trace.scores}
        last = max(site.layer for site in sites)
        kinds = [k for k in self.model.transformer.kinds if any(s.kind == k for s in sites)]
        self.step = control(widgets.SelectionSlider, "scale step", options=steps)
        self.layer = control(widgets.IntSlider, "layer", min=0, max=last)
        self.kind = control(widgets.Dropdown, "sublayer", options=kinds)
        prompts = trace.provenance.get("prompts", ["0"])
        named = [(f"{i + 1}: {p}", i) for i, p in enumerate(prompts)]
        self.picture = control(widgets.Dropdown, "picture", options=named)
        self.status = Status()
        self.gallery = Gallery((SO_FAR, ADDED, SCORES, KEPT))
        self.spectrum = widgets.Image(format="png")
        self.spectrum.layout.width = f"{2 * PIXELS}px"
        controls = [self.step, self.layer, self.kind]
        if len(prompts) > 1:
            controls.append(self.picture)
        super().__init__([*controls, self.status, self.gallery, self.spectrum])
        self.add_class("fastvar-scales")
        for changed in (self.step, self.layer, self.kind, self.picture):
            changed.observe(lambda _: self.update(), "value")
        self.update()

    def update(self) -> None:
        """Show the step of the slider."""
        try:
            self._show(self.step.value, self.picture.value)
        except Exception as error:  # a callback's traceback would go to a log
            self.status.fail(error)

    def _show(self, step: int, row: int) -> None:
        """Show step `step` of the picture with index `row`."""
        trace, decode = self.trace, self.model.decode
        place = sorted(trace.canvases).index(step)
        so_far = images(trace, decode)[place, row]
        frequencies, amplitudes = spectra(trace, decode)
        self.gallery.put(SO_FAR, so_far)
        moved = added(trace, decode)[place, row]
        gap = panels.difference(moved)
        self.gallery.put(ADDED, gap.picture, f"x {gap.gain}")
        lines = {f"after {trace.size(step)}": amplitudes[place, row], "final": amplitudes[-1, row]}
        self.spectrum.value = panels.spectra(frequencies, lines).png()
        site = Site(self.layer.value, self.kind.value)
        kept = kept_map(trace, step, site, row)
        if (step, site) not in trace.scores:
            self.gallery.put(SCORES, np.full((8, 8, 3), 0.5))
            self.gallery.put(KEPT, panels.kept_overlay(so_far, kept))
            self.status.say(f"{trace.size(step)}: skipped, no token forwarded")
            return
        scores = score_map(trace, step, site, row)
        rule = trace.provenance.get("scores", PIVOTAL)
        spread = f"{'PTS' if rule == PIVOTAL else rule}: {scores.min():.3g} to {scores.max():.3g}"
        self.gallery.put(SCORES, panels.enlarged(panels.heat(scores), PIXELS), spread)
        self.gallery.put(KEPT, panels.kept_overlay(so_far, kept))
        self.status.say(
            f"{trace.size(step)}: {kept.sum()} of {kept.size} tokens forwarded by {site.kind} "
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
