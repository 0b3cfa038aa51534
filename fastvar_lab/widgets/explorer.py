"""Explorer: sliders for the pruned shares, and their effect on picture, masks and cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from fastvar_lab.experiments.explore import Comparison, Exploration
from fastvar_lab.files import expanded, unused
from fastvar_lab.measure.masks import kept_map
from fastvar_lab.methods import registry
from fastvar_lab.methods.prune import Prune
from fastvar_lab.methods.ratios import ScaleName
from fastvar_lab.methods.restore import Restorer
from fastvar_lab.methods.schedule import find
from fastvar_lab.methods.select import Selector
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import panels
from fastvar_lab.plotting.style import write_figure
from fastvar_lab.seam import Site
from fastvar_lab.widgets.page import CopyButton
from fastvar_lab.widgets.panel import Gallery, Live, control, cost_table
from fastvar_lab.widgets.prompt_picker import PromptPicker
from fastvar_lab.widgets.python_source import python_source
from fastvar_lab.world.grammar import parse

LATEST = 0  # means cache_step=None; the value None would leave the dropdown blank
SCALES = 4  # how many of the last scales have a slider


class Explorer(Live):
    """Compares full and pruned generation of a prompt, live.

    A change of a control computes the affected steps again; the newest change wins, and errors
    show in the widget. `method` is the method that the controls are set to, `shown` the last
    comparison. `apply` sets the controls to a method, `wait` waits for the pending picture.
    `selectors` and `restorers` add user-defined rules, by name, to those of the library.

    >>> import fastvar_lab as fv
    >>> explorer = Explorer(fv.load("tiny"), "a red circle", seed=1)
    >>> explorer.ratios[-1].value = 0.9
    >>> explorer.wait()
    True
    >>> explorer.shown.speedup_flop_bound > 1.5
    True
    """

    def __init__(
        self,
        model: Model,
        prompt: str | None = None,
        seed: int = 0,
        *,
        selectors: Mapping[str, Selector] | None = None,
        restorers: Mapping[str, Restorer] | None = None,
    ) -> None:
        super().__init__()
        self.selectors = {**registry.selectors(), **(selectors or {})}
        self.restorers = {**registry.restorers(), **(restorers or {})}
        self.model, self.lab = model, Exploration(model)
        self.shown: Comparison | None = None
        self.paused = False
        self._build_request(model.example if prompt is None else prompt, seed)
        self._build_schedule()
        self._build_mask()
        self._build_output()
        self._lay_out()
        self._connect()
        self.guarded(self.update)

    def _build_request(self, prompt: str, seed: int) -> None:
        """Make the controls of the prompt and the seed; a closed world's model has pickers too."""
        self.prompt = control(widgets.Text, "prompt", value=prompt, continuous_update=False)
        self.seed = control(widgets.BoundedIntText, "seed", value=seed, min=0, max=2**31 - 1)
        self.pickers: list[Any] = []
        if self.model.grammar is parse:  # the pickers offer the vocabulary of this grammar alone
            self.pickers = [PromptPicker(self.prompt, self.guarded)]

    def _build_schedule(self) -> None:
        """Make the controls of the method: a ratio a scale, cache step, layers and rules."""
        sizes = [grid.name for grid in self.model.grids()]
        self.ratios = {
            -back: control(
                widgets.FloatSlider,
                f"pruned at {sizes[-back]}",
                value={1: 0.75, 2: 0.5}.get(back, 0.0),
                min=0.0,
                max=1.0,
                step=0.05,
                readout_format=".0%",
                continuous_update=False,
            )
            for back in range(1, min(SCALES, len(sizes) - 1) + 1)
        }
        steps = [("last unpruned step", LATEST)]
        steps += [(size, i - len(sizes)) for i, size in enumerate(sizes[:-1])]
        self.cache = control(widgets.Dropdown, "restored from", options=steps)
        self.layers = control(
            widgets.IntRangeSlider,
            "layers pruned",
            value=(0, self.model.depth - 1),
            min=0,
            max=self.model.depth - 1,
            continuous_update=False,
        )
        self.select = control(widgets.Dropdown, "selector", options=list(self.selectors))
        self.restore = control(widgets.Dropdown, "restorer", options=list(self.restorers))

    def _build_mask(self) -> None:
        """Make the controls that name the step and sublayer whose kept tokens are shown."""
        steps = [(grid.name, grid.index) for grid in self.model.grids()]
        self.scale = control(widgets.Dropdown, "mask of step", options=steps[::-1])
        self.layer = control(widgets.IntSlider, "mask of layer", min=0, max=self.model.depth - 1)
        kinds = list(self.model.transformer.kinds)
        self.kind = control(widgets.Dropdown, "mask of", options=kinds)

    def _build_output(self) -> None:
        """Make the pictures, numbers and messages, and the controls that copy and save them."""
        self.progress = widgets.IntProgress(
            description="scale steps",
            max=len(self.model.sizes),
            style={"description_width": "initial"},
        )
        self.progress.layout.display = "none"
        self.schedule = control(
            widgets.Textarea,
            "as Python",
            layout=widgets.Layout(width="auto", height="8em"),
        )
        self.copy = CopyButton(label="Copy the Python")
        self.name = control(widgets.Text, "save as", value="exploration")
        self.save = widgets.Button(description="Save figure", tooltip="PDF and PNG, full and fast")
        self.keep = widgets.Button(description="Save trace", tooltip="one safetensors file")
        self.numbers, self.costs = widgets.HTML(), widgets.HTML()
        self.gallery = Gallery(("full", "FastVAR", "difference", "kept tokens"))

    def _lay_out(self) -> None:
        """Arrange the controls: request and method on the left, mask and costs on the right."""
        method = [self.cache, self.layers, self.select, self.restore]
        left = widgets.VBox([self.seed, *self.ratios.values(), *method])
        right = widgets.VBox([self.scale, self.layer, self.kind, self.costs])
        left.layout.width = right.layout.width = "49%"
        self.children = (
            self.prompt,
            *self.pickers,
            widgets.HBox([left, right]),
            widgets.HBox([self.run_stop, self.progress, self.status]),
            self.gallery,
            self.numbers,
            self.schedule,
            widgets.HBox([self.copy, self.name, self.save, self.keep]),
        )
        self.add_class("fastvar-explorer")

    def _connect(self) -> None:
        """Call `update` when request or method change, `_mask` when the mask's controls do."""
        request = (self.prompt, self.seed)
        method = (*self.ratios.values(), self.cache, self.layers, self.select, self.restore)
        for changed in (*request, *method):
            changed.observe(lambda _: self.guarded(self.update), "value")
        for changed in (self.scale, self.layer, self.kind):
            changed.observe(lambda _: self.guarded(self._mask), "value")
        self.save.on_click(lambda _: self.guarded(self._save_figure))
        self.keep.on_click(lambda _: self.guarded(self._save_trace))

    @property
    def method(self) -> Prune:
        """The method that the controls are set to."""
        ratios: dict[ScaleName, float] = {
            name: round(slider.value, 2) for name, slider in self.ratios.items() if slider.value
        }
        restore = self.restorers[self.restore.value]
        low, high = self.layers.value
        whole = (low, high) == (0, self.model.depth - 1)
        return Prune(
            dict(sorted(ratios.items())),
            select=self.selectors[self.select.value],
            restore=restore,
            cache_step=(self.cache.value or None) if restore.needs_cache and ratios else None,
            layers=None if whole else (low, high + 1),
        )

    def apply(self, method: Prune) -> None:
        """Set the controls to a method; raise ValueError if they cannot express it."""
        if not isinstance(method, Prune):
            raise ValueError(f"the controls express a Prune; not {method!r}")
        grids = self.model.grids()
        method.start(grids, self.model.depth)  # raises before any control is changed
        method.acts(grids)
        ratios = {step - len(grids): r for step, r in method.by_step(grids).items()}
        beyond = [grids[step].name for step in ratios.keys() - self.ratios.keys()]
        if beyond:
            raise ValueError(f"there is no slider for the scale {', '.join(beyond)}")
        uneven = [r for r in ratios.values() if r != round(r, 2)]
        if uneven:
            raise ValueError(f"sliders express whole percents; not {uneven[0]}")
        low, high = method.layers or (0, self.model.depth)
        select = _name_of(method.select, self.selectors, "selector")
        restore = _name_of(method.restore, self.restorers, "restorer")
        cache = method.cache_step
        step = LATEST if cache is None else find(cache, grids) - len(grids)
        plain = Prune(
            method.ratios, method.select, method.restore, method.cache_step, method.layers
        )
        if plain != method:
            raise ValueError(
                f"the controls express pruning of sublayers in both rows; not {method!r}"
            )
        self.paused = True
        try:
            for name, slider in self.ratios.items():
                slider.value = ratios.get(name, 0.0)
            self.select.value, self.restore.value = select, restore
            self.cache.value, self.layers.value = step, (low, high - 1)
        finally:
            self.paused = False
        self.update()

    def python(self) -> str:
        """Write the controls' state as Python; see `python_source`."""
        return python_source(self.model, self.prompt.value, self.seed.value, self.method)

    def update(self) -> None:
        """Request the picture of the current controls; returns at once."""
        if self.paused:
            return
        prompt, seed, method = self.prompt.value, int(self.seed.value), self.method
        self.schedule.value = self.copy.text = self.python()

        def begins(step: int) -> None:
            self.progress.value = step + 1
            self.progress.layout.display = ""

        def work(stopped: Callable[[], bool]) -> Callable[[], None]:
            try:
                comparison = self.lab.compare(prompt, seed, method, stopped, begins)
            finally:
                self.progress.layout.display = "none"
            return partial(self.show, comparison)

        self.ask(work)

    def show(self, comparison: Comparison) -> None:
        """Show a comparison."""
        self.shown = comparison
        gap = panels.difference(comparison.fast, comparison.full)
        self.gallery.put("full", comparison.full)
        self.gallery.put("FastVAR", comparison.fast)
        self.gallery.put("difference", gap.picture, f"x {gap.gain}")
        self._mask()
        changed = zip(self.model.sizes, comparison.agreement, strict=True)
        parts = [f"{h}x{w} {1 - a:.1%}" for (h, w), a in changed if a < 1]  # nan at skipped steps
        unit = "bits" if self.model.quantizer.codebook is None else "tokens"
        counted = any(a == a for a in comparison.agreement)  # all nan for mixtures of codes
        self.numbers.value = (
            f"<b>{comparison.speedup_flop_bound:.2f}</b> times fewer operations, "
            f"PSNR <b>{comparison.psnr:.1f}</b> dB, SSIM <b>{comparison.ssim:.3f}</b>; "
            f"{unit} changed: {', '.join(parts) or ('none' if counted else 'not counted')}"
        )
        scales = [f"{h}x{w}" for h, w in self.model.sizes]
        self.costs.value = cost_table(scales, comparison.gflop_full, comparison.gflop_fast)
        computed = len(self.model.sizes) - comparison.first_step
        self.status.say(f"done: FastVAR ran {computed} of {len(self.model.sizes)} scale steps")

    def _mask(self) -> None:
        """Show the kept tokens at the step and sublayer that the controls name."""
        with self.worker.lock:  # the worker thread calls this too
            comparison = self.shown
            if comparison is None:
                return
            site = Site(self.layer.value, self.kind.value)
            share = kept_map(comparison.trace, self.scale.value, site)
            self.gallery.put("kept tokens", panels.kept_overlay(comparison.fast / 255, share))

    def _save_figure(self) -> None:
        """Write the comparison figure as PDF and PNG."""
        comparison = self.shown
        if comparison is None:
            raise ValueError("there is no picture to save yet")
        trace = comparison.trace
        pruned = [s for s, a in enumerate(comparison.method.acts(trace.grids)) if a.key]
        shares = {
            f"kept at {trace.size(s)}": trace.kept_share(s, "attn").cpu().numpy()
            for s in pruned[-2:]
        }
        figure = panels.comparison(
            comparison.full / 255,
            comparison.fast / 255,
            shares,
            [trace.size(g.index) for g in trace.grids],
            comparison.gflop_full,
            comparison.gflop_fast,
            f"{comparison.prompt}, seed {comparison.seed}: PSNR {comparison.psnr:.1f} dB",
            f"{comparison.speedup_flop_bound:.2f} times fewer operations",
            unit="GFLOP",
        )
        path = self._unused("pdf", "png")
        for ending in ("pdf", "png"):
            write_figure(path.with_name(f"{path.name}.{ending}"), figure)
        self.status.say(f"saved {path}.pdf and .png")

    def _save_trace(self) -> None:
        """Write the trace of the pruned generation as safetensors."""
        if self.shown is None:
            raise ValueError("there is no trace to save yet")
        path = self._unused("safetensors")
        self.shown.trace.save(path.with_name(f"{path.name}.safetensors"))
        self.status.say(f"saved {path}.safetensors")

    def _unused(self, *endings: str) -> Path:
        """Return a path, without its suffix, at which no file is overwritten."""
        if not self.name.value.strip() or self.name.value.endswith("/"):
            raise ValueError("name the file to save, without its suffix")
        path = expanded(self.name.value).absolute()
        if not path.parent.is_dir():
            raise ValueError(f"the folder {path.parent} does not exist")
        return unused(path, endings)


def _name_of(rule: Any, choices: Mapping[str, Any], role: str) -> str:
    """Return the name under which a rule is offered; raise ValueError if it is not."""
    for name, choice in choices.items():
        if choice == rule:
            return name
    raise ValueError(f"the {role} must be one of {', '.join(choices)}; not {rule!r}")
