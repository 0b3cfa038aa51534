"""Explorer: a prompt, sliders for what is pruned, and what that does to picture, masks and cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from matplotlib.colors import to_hex

from fastvar_lab.experiments.explore import Comparison, Exploration
from fastvar_lab.files import expanded, unused
from fastvar_lab.measure.masks import kept_map
from fastvar_lab.methods import registry
from fastvar_lab.methods.prune import Prune
from fastvar_lab.methods.restore import CachedBranch, Restorer
from fastvar_lab.methods.schedule import ScaleName, find
from fastvar_lab.methods.select import FarFromMean, Selector
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import panels
from fastvar_lab.plotting.style import FAST, FULL, write_figure
from fastvar_lab.seam import Site
from fastvar_lab.widgets.page import CopyButton
from fastvar_lab.widgets.panel import Gallery, Live, control
from fastvar_lab.widgets.prompt_picker import PromptPicker
from fastvar_lab.world.grammar import parse

LATEST = 0  # stands for no cache step of its own; None would leave a control blank
SCALES = 4  # of the last ones have a slider


class Explorer(Live):
    """Full against pruned generation of a prompt, live.

    Only what changed is computed again; the newest change wins; errors show in the widget. `method`
    is the schedule that the controls stand for, `shown` the last comparison. `apply` sets the
    controls to a method, `wait` waits for the picture that was asked for. `selectors` and
    `restorers` offer rules of your own, by name, beside those that ship here.

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
        sizes = [grid.name for grid in model.grids()]
        first = model.example if prompt is None else prompt
        self.prompt = control(widgets.Text, "prompt", value=first, continuous_update=False)
        self.seed = control(widgets.BoundedIntText, "seed", value=seed, min=0, max=2**31 - 1)
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
            value=(0, model.depth - 1),
            min=0,
            max=model.depth - 1,
            continuous_update=False,
        )
        self.select = control(widgets.Dropdown, "selector", options=list(self.selectors))
        self.restore = control(widgets.Dropdown, "restorer", options=list(self.restorers))
        named = [(size, i) for i, size in enumerate(sizes)]
        self.scale = control(widgets.Dropdown, "mask of step", options=named[::-1])
        self.layer = control(widgets.IntSlider, "mask of layer", min=0, max=model.depth - 1)
        self.kind = control(widgets.Dropdown, "mask of", options=list(model.transformer.kinds))
        self.progress = widgets.IntProgress(
            description="scale steps", max=len(sizes), style={"description_width": "initial"}
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
        pickers: list[Any] = []
        if model.grammar is parse:  # the picker offers the closed world's words
            pickers = [PromptPicker(self.prompt, self.guarded)]
        method = [self.cache, self.layers, self.select, self.restore]
        left = widgets.VBox([self.seed, *self.ratios.values(), *method])
        right = widgets.VBox([self.scale, self.layer, self.kind, self.costs])
        left.layout.width = right.layout.width = "49%"
        self.children = (
            self.prompt,
            *pickers,
            widgets.HBox([left, right]),
            widgets.HBox([self.run_stop, self.progress, self.status]),
            self.gallery,
            self.numbers,
            self.schedule,
            widgets.HBox([self.copy, self.name, self.save, self.keep]),
        )
        self.add_class("fastvar-explorer")
        for changed in (self.prompt, self.seed, *self.ratios.values(), *method):
            changed.observe(lambda _: self.guarded(self.update), "value")
        for changed in (self.scale, self.layer, self.kind):
            changed.observe(lambda _: self.guarded(self._mask), "value")
        self.save.on_click(lambda _: self.guarded(self._save_figure))
        self.keep.on_click(lambda _: self.guarded(self._save_trace))
        self.guarded(self.update)

    @property
    def method(self) -> Prune:
        """The schedule that the controls stand for."""
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
        """Set the controls to a method; raise ValueError for one that they cannot stand for."""
        if not isinstance(method, Prune):
            raise ValueError(f"the controls stand for a Prune; not {method!r}")
        grids = self.model.grids()
        method.start(grids, self.model.depth)  # refuse what does not fit before anything moves
        method.acts(grids)
        ratios = {step - len(grids): r for step, r in method.by_step(grids).items()}
        beyond = [grids[step].name for step in ratios.keys() - self.ratios.keys()]
        if beyond:
            raise ValueError(f"there is no slider for the scale {', '.join(beyond)}")
        uneven = [r for r in ratios.values() if r != round(r, 2)]
        if uneven:
            raise ValueError(f"sliders stand for whole percents; not {uneven[0]}")
        low, high = method.layers or (0, self.model.depth)
        select = _known(method.select, self.selectors, "selector")
        restore = _known(method.restore, self.restorers, "restorer")
        cache = method.cache_step
        step = LATEST if cache is None else find(cache, grids) - len(grids)
        plain = Prune(
            method.ratios, method.select, method.restore, method.cache_step, method.layers
        )
        if plain != method:
            raise ValueError(f"the controls stand for whole sublayers of both rows; not {method!r}")
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
        """Write the schedule as Python that runs in a fresh kernel, your own rules imported."""
        method = self.method
        words = [f"{dict(method.pairs)}"]
        if method.select != FarFromMean():
            words.append(f"select={_called(method.select)}")
        if method.restore != CachedBranch():
            words.append(f"restore={_called(method.restore)}")
        if method.cache_step is not None:
            words.append(f"cache_step={method.cache_step}")
        if method.layers is not None:
            words.append(f"layers={method.layers}")
        source = self.model.source
        opened = f"model = {source}" if source else "# model: as you made it"
        if source and self.model.sizes != self.model.opened:
            opened += f"\nmodel.sizes = {self.model.sizes}"
        torch = "import torch\n\n" if "torch." in source else ""
        return (
            f"{torch}import fastvar_lab as fv\n\n{opened}\n"
            f"method = fv.Prune({', '.join(words)})\n"
            f"made = fv.generate(model, {self.prompt.value!r}, method, seed={self.seed.value})\n"
            "picture = fv.to_uint8(model.decode(made.canvas))[0]"
        )

    def update(self) -> None:
        """Ask for the picture that the controls stand for; returns at once."""
        if self.paused:
            return
        prompt, seed, method = self.prompt.value, int(self.seed.value), self.method
        self.schedule.value = self.copy.text = self.python()

        def begins(step: int) -> None:
            self.progress.value = step + 1
            self.progress.layout.display = ""

        def work(stopped: Callable[[], bool]) -> Callable[[], None]:
            try:
                found = self.lab.compare(prompt, seed, method, stopped, begins)
            finally:
                self.progress.layout.display = "none"
            return partial(self.show, found)

        self.ask(work)

    def show(self, found: Comparison) -> None:
        """Put a comparison on the page."""
        self.shown = found
        gap = panels.difference(found.fast, found.full)
        self.gallery.put("full", found.full)
        self.gallery.put("FastVAR", found.fast)
        self.gallery.put("difference", gap.picture, f"x {gap.gain}")
        self._mask()
        changed = zip(self.model.sizes, found.agreement, strict=True)
        parts = [f"{h}x{w} {1 - a:.1%}" for (h, w), a in changed if a < 1]  # skipped ones are nan
        unit = "bits" if self.model.quantizer.codebook is None else "tokens"
        counted = any(a == a for a in found.agreement)  # mixtures of codes are not
        self.numbers.value = (
            f"<b>{found.speedup_flop_bound:.2f}</b> times fewer operations, "
            f"PSNR <b>{found.psnr:.1f}</b> dB, SSIM <b>{found.ssim:.3f}</b>; "
            f"{unit} changed: {', '.join(parts) or ('none' if counted else 'not counted')}"
        )
        self.costs.value = self._bars(found)
        again = len(self.model.sizes) - found.first_step
        self.status.say(f"done: FastVAR ran {again} of {len(self.model.sizes)} scale steps")

    def _bars(self, found: Comparison) -> str:
        """Cost per scale as plain HTML: swapped in place, readable in any theme."""
        most = max(found.gflop_full)
        rows = []
        for (h, w), full, fast in zip(
            self.model.sizes, found.gflop_full, found.gflop_fast, strict=True
        ):
            bars = "".join(
                f'<div style="width:{100 * value / most:.1f}%;height:5px;background:{color}"></div>'
                for value, color in ((full, to_hex(FULL)), (fast, to_hex(FAST)))
            )
            rows.append(
                f'<tr><td style="padding-right:6px">{h}x{w}</td><td style="width:60%">{bars}</td>'
                f'<td style="white-space:nowrap">{fast:.1f} of {full:.1f} GFLOP</td></tr>'
            )
        return f'<table style="width:100%;font-size:11px;line-height:15px">{"".join(rows)}</table>'

    def _mask(self) -> None:
        with self.worker.lock:  # the worker shows a mask, too
            found = self.shown
            if found is None:
                return
            site = Site(self.layer.value, self.kind.value)
            share = kept_map(found.trace, self.scale.value, site)
            self.gallery.put("kept tokens", panels.kept_overlay(found.fast / 255, share))

    def _save_figure(self) -> None:
        found = self.shown
        if found is None:
            raise ValueError("there is no picture to save yet")
        trace = found.trace
        pruned = [s for s, a in enumerate(found.method.acts(trace.grids)) if a.key]
        shares = {
            f"kept at {trace.size(s)}": trace.kept_share(s, "attn").cpu().numpy()
            for s in pruned[-2:]
        }
        figure = panels.comparison(
            found.full / 255,
            found.fast / 255,
            shares,
            [trace.size(g.index) for g in trace.grids],
            found.gflop_full,
            found.gflop_fast,
            f"{found.prompt}, seed {found.seed}: PSNR {found.psnr:.1f} dB",
            f"{found.speedup_flop_bound:.2f} times fewer operations",
            unit="GFLOP",
        )
        path = self._unused("pdf", "png")
        for ending in ("pdf", "png"):
            write_figure(path.with_name(f"{path.name}.{ending}"), figure)
        self.status.say(f"saved {path}.pdf and .png")

    def _save_trace(self) -> None:
        if self.shown is None:
            raise ValueError("there is no trace to save yet")
        path = self._unused("safetensors")
        self.shown.trace.save(path.with_name(f"{path.name}.safetensors"))
        self.status.say(f"saved {path}.safetensors")

    def _unused(self, *endings: str) -> Path:
        """Return where to save: nothing is overwritten."""
        if not self.name.value.strip() or self.name.value.endswith("/"):
            raise ValueError("name the file to save, without its ending")
        path = expanded(self.name.value).absolute()
        if not path.parent.is_dir():
            raise ValueError(f"the folder {path.parent} is not there")
        return unused(path, endings)


def _called(rule: Any) -> str:
    """Write a rule as Python, from `fv` if it ships here."""
    ships = registry.classes().get(type(rule).__name__) is type(rule)
    return f"fv.{rule!r}" if ships else repr(rule)


def _known(value: Any, choices: Mapping[str, Any], what: str) -> str:
    for name, choice in choices.items():
        if choice == value:
            return name
    raise ValueError(f"the {what} must be one of {', '.join(choices)}; not {value!r}")
