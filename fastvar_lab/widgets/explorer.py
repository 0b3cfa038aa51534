"""Explorer: a prompt, sliders for what is pruned, and what that does to picture, masks and cost."""

from __future__ import annotations

import html
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
from PIL import Image
from skimage.transform import resize

from fastvar_lab import demo, plots
from fastvar_lab.explore import Comparison, Exploration, Stopped
from fastvar_lab.methods.prune import Prune
from fastvar_lab.methods.restore import CachedBranch, NearestKept, Restorer, Zero
from fastvar_lab.methods.schedule import ScaleName
from fastvar_lab.methods.select import (
    FarFromMean,
    HighPass,
    NearMean,
    Random,
    Selector,
    UniformGrid,
)
from fastvar_lab.models import Model
from fastvar_lab.output import write_figure
from fastvar_lab.widgets.worker import Newest

SELECTORS: dict[str, Selector] = {
    "far from mean (PTS)": FarFromMean(),
    "local high-pass": HighPass(),
    "random": Random(),
    "uniform grid": UniformGrid(),
    "near mean": NearMean(),
}
RESTORERS: dict[str, Restorer] = {
    "cached branch (CTR)": CachedBranch(),
    "cached, bilinear": CachedBranch("bilinear"),
    "nearest kept": NearestKept(),
    "zero": Zero(),
}
SCALES = 4  # of the last ones have a slider
PIXELS = 240  # side of a picture on the page


def png(image: np.ndarray) -> bytes:
    """Encode (H, W, 3) uint8 as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


class Explorer(widgets.VBox):
    """Full against pruned generation of a prompt, live.

    Only what changed is computed again; the newest change wins; errors show in the widget. `method`
    is the schedule that the controls stand for, `shown` the last comparison.
    """

    def __init__(self, model: Model, prompt: str = demo.PROMPT, seed: int = 0) -> None:
        self.model, self.lab, self.worker = model, Exploration(model), Newest()
        self.shown: Comparison | None = None
        sizes = [f"{h}x{w}" for h, w in model.sizes]
        wide = widgets.Layout(width="auto")
        named = {"description_width": "130px"}

        def make(kind: Any, description: str, **options: Any) -> Any:
            return kind(description=description, style=named, layout=wide, **options)

        self.prompt = make(widgets.Text, "prompt", value=prompt, continuous_update=False)
        self.seed = make(widgets.BoundedIntText, "seed", value=seed, min=0, max=2**31 - 1)
        self.ratios = {
            -back: make(
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
        steps: list[tuple[str, int | None]] = [("last unpruned step", None)]
        steps += [(f"{size}", i - len(sizes)) for i, size in enumerate(sizes[:-1])]
        self.cache = make(widgets.Dropdown, "restored from", options=steps)
        self.layers = make(
            widgets.IntRangeSlider,
            "layers pruned",
            value=(0, model.depth - 1),
            min=0,
            max=model.depth - 1,
            continuous_update=False,
        )
        self.select = make(widgets.Dropdown, "selector", options=list(SELECTORS))
        self.restore = make(widgets.Dropdown, "restorer", options=list(RESTORERS))
        self.scale = make(
            widgets.Dropdown, "mask of step", options=[(s, i) for i, s in enumerate(sizes)][::-1]
        )
        self.layer = make(widgets.IntSlider, "mask of layer", min=0, max=model.depth - 1)
        self.kind = make(widgets.Dropdown, "mask of", options=list(model.transformer.kinds))
        self.stop = widgets.Button(description="Stop", tooltip="stop the running generation")
        self.schedule = widgets.Textarea(
            description="as Python", layout=widgets.Layout(width="auto", height="5em")
        )
        self.name = widgets.Text(description="save as", value="exploration")
        self.save = widgets.Button(description="Save figure", tooltip="PDF and PNG, full and fast")
        self.keep = widgets.Button(description="Save trace", tooltip="one safetensors file")
        self.status = widgets.HTML()
        self.numbers, self.costs = widgets.HTML(), widgets.HTML()
        size = widgets.Layout(width=f"{PIXELS}px", height=f"{PIXELS}px")
        titles = ("full", "FastVAR", "difference", "kept tokens")
        self.pictures = {
            title: widgets.Image(
                value=png(np.full((8, 8, 3), 128, np.uint8)),
                format="png",
                layout=size,
                tooltip=title,
            )
            for title in titles
        }
        shown = [
            widgets.VBox([widgets.Label(title), image]) for title, image in self.pictures.items()
        ]
        method = [self.cache, self.layers, self.select, self.restore]
        left = widgets.VBox([self.prompt, self.seed, *self.ratios.values(), *method])
        mask = widgets.VBox([self.scale, self.layer, self.kind, self.costs])
        left.layout.width = mask.layout.width = "49%"
        super().__init__(
            [
                widgets.HBox([left, mask]),
                widgets.HBox([self.stop, self.status]),
                widgets.HBox(shown, layout=widgets.Layout(flex_flow="row wrap")),
                self.numbers,
                self.schedule,
                widgets.HBox([self.name, self.save, self.keep]),
            ]
        )
        for control in (self.prompt, self.seed, *self.ratios.values(), *method):
            control.observe(lambda _: self.update(), "value")
        for control in (self.scale, self.layer, self.kind):
            control.observe(lambda _: self._guarded(self._mask), "value")
        self.stop.on_click(lambda _: self.worker.cancel())
        self.save.on_click(lambda _: self._guarded(self._save_figure))
        self.keep.on_click(lambda _: self._guarded(self._save_trace))
        self.update()

    @property
    def method(self) -> Prune:
        """The schedule that the controls stand for."""
        ratios: dict[ScaleName, float] = {
            name: round(slider.value, 2) for name, slider in self.ratios.items() if slider.value
        }
        restore = RESTORERS[self.restore.value]
        low, high = self.layers.value
        whole = (low, high) == (0, self.model.depth - 1)
        return Prune(
            dict(sorted(ratios.items())),
            select=SELECTORS[self.select.value],
            restore=restore,
            cache_step=self.cache.value if restore.needs_cache and ratios else None,
            layers=None if whole else (low, high + 1),
        )

    def python(self) -> str:
        """Write the schedule as Python that runs in a fresh kernel."""
        method = self.method
        words = [f"{dict(method.pairs)}"]
        if method.select != FarFromMean():
            words.append(f"select=fv.{method.select!r}")
        if method.restore != CachedBranch():
            words.append(f"restore=fv.{method.restore!r}")
        if method.cache_step is not None:
            words.append(f"cache_step={method.cache_step}")
        if method.layers is not None:
            words.append(f"layers={method.layers}")
        return (
            "import fastvar_lab as fv\n"
            f"model = fv.load({self.model.name!r})\n"
            f"method = fv.Prune({', '.join(words)})\n"
            f"made = fv.generate(model, {self.prompt.value!r}, method, seed={self.seed.value})"
        )

    def update(self) -> None:
        """Ask for the picture that the controls stand for; returns at once."""
        self.status.value = "generating ..."
        try:
            prompt, seed, method = self.prompt.value, int(self.seed.value), self.method
            self.schedule.value = self.python()
        except ValueError as error:
            self._say(error)
            return

        def work(stopped: Callable[[], bool]) -> None:
            try:
                found = self.lab.compare(prompt, seed, method, stopped)
            except Stopped:
                self.status.value = "stopped"
            except (ValueError, RuntimeError) as error:
                self._say(error)
            else:
                if not stopped():
                    self.show(found)

        self.worker.ask(work)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the picture that was asked for; tell whether it came in time."""
        return self.worker.wait(timeout)

    def show(self, found: Comparison) -> None:
        """Put a comparison on the page."""
        self.shown = found
        gap = np.abs(found.full.astype(int) - found.fast).astype(float)
        gain = max(1.0, 255 / max(float(np.quantile(gap, 0.999)), 12.0))
        self.pictures["full"].value = png(found.full)
        self.pictures["FastVAR"].value = png(found.fast)
        self.pictures["difference"].value = png(np.clip(gap * gain, 0, 255).astype(np.uint8))
        self._mask()
        bits = [f"{1 - a:.1%}" for a in found.agreement if a == a]
        self.numbers.value = (
            f"<b>{found.speedup:.2f}</b> times fewer operations, PSNR <b>{found.psnr:.1f}</b> dB, "
            f"SSIM <b>{found.ssim:.3f}</b>; bits changed by step: {', '.join(bits)}"
        )
        self.costs.value = self._bars(found)
        self.status.value = f"ran from step {found.first_step + 1} of {len(self.model.sizes)}"

    def _bars(self, found: Comparison) -> str:
        """Cost per scale as plain HTML: swapped in place, readable in any theme."""
        most = max(found.gflop_full)
        rows = []
        for (h, w), full, fast in zip(
            self.model.sizes, found.gflop_full, found.gflop_fast, strict=True
        ):
            bars = "".join(
                f'<div style="width:{100 * value / most:.1f}%;height:5px;background:{color}"></div>'
                for value, color in ((full, "#4c72b0"), (fast, "#c44e52"))
            )
            rows.append(
                f'<tr><td style="padding-right:6px">{h}x{w}</td><td style="width:70%">{bars}</td>'
                f"<td>{fast:.1f} of {full:.1f} GFLOP</td></tr>"
            )
        return f'<table style="width:100%;font-size:11px">{"".join(rows)}</table>'

    def _mask(self) -> None:
        if self.shown is None:
            return
        step, trace = self.scale.value, self.shown.trace
        kept = [
            mask
            for (s, site), mask in trace.kept.items()
            if (s, site.layer, site.kind) == (step, self.layer.value, self.kind.value)
        ]
        picture = self.shown.fast / 255
        if kept:
            grid = trace.grids[step]
            share = kept[0][0, grid.prefix :].view(grid.h, grid.w).cpu().numpy().astype(float)
        else:
            share = np.zeros((1, 1))  # a skipped step forwards nothing
        over = plots.kept_overlay(resize(picture, picture.shape[:2]), share)
        self.pictures["kept tokens"].value = png((over * 255).round().astype(np.uint8))

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (ValueError, OSError) as error:
            self._say(error)

    def _say(self, error: Exception) -> None:
        text = html.escape(str(error))
        self.status.value = f'<span style="color:#c44e52" role="alert">{text}</span>'

    def _save_figure(self) -> None:
        if self.shown is None:
            raise ValueError("there is no picture to save yet")
        found, trace = self.shown, self.shown.trace
        pruned = [s for s, a in enumerate(self.method.acts(trace.grids)) if a[0] == "prune"]
        shares = {
            f"kept at {trace.size(s)}": trace.kept_share(s, "attn").cpu().numpy()
            for s in pruned[-2:]
        }
        figure = plots.comparison(
            found.full / 255,
            found.fast / 255,
            shares,
            [trace.size(g.index) for g in trace.grids],
            found.gflop_full,
            found.gflop_fast,
            f"{self.prompt.value}, seed {self.seed.value}: PSNR {found.psnr:.1f} dB",
            f"{found.speedup:.2f} times fewer operations",
            unit="GFLOP",
        )
        for ending in ("pdf", "png"):
            write_figure(Path(f"{self.name.value}.{ending}"), figure)
        self.status.value = f"saved {html.escape(self.name.value)}.pdf and .png"

    def _save_trace(self) -> None:
        if self.shown is None:
            raise ValueError("there is no trace to save yet")
        path = Path(f"{self.name.value}.safetensors")
        self.shown.trace.save(path)
        self.status.value = f"saved {html.escape(str(path))}"
