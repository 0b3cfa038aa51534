"""The scale steps in a row: the kept tokens of each, and what each costs."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.colors import to_hex

from fastvar_lab.experiments.explore import Duel
from fastvar_lab.experiments.step_times import StepTimes
from fastvar_lab.measure.masks import kept_map
from fastvar_lab.plotting import panels
from fastvar_lab.plotting.style import FAST, FULL, PALETTE
from fastvar_lab.seam import Site
from fastvar_lab.widgets.page import Strip, cell

COLORS = {"full": to_hex(FULL), "A": to_hex(FAST), "B": to_hex(PALETTE[2])}

LIGHT = 0.92  # of kept tokens in a mask

TERMS = {
    "scale step": "The picture is drawn in steps; each draws one map of tokens, from 1x1 to the "
    "largest, and adds it to the picture so far.",
    "kept tokens": "Only these go through the sublayer; the places of the others are filled from "
    "an earlier step. A skipped step computes nothing.",
    "attn, cross, ffn": "The sublayers of a layer: attention among the tokens of this and earlier "
    "steps, attention to the words of the prompt, and the feed-forward network.",
    "PTS": "Pivotal token selection: keeps tokens far from the mean of their map, which carry "
    "edges and texture.",
    "CTR": "Cached token restoration: fills a pruned token with what the same place got at the "
    "cached step, resized.",
    "operations": "Counted multiplications and additions, in GFLOP; the same on every machine.",
    "PSNR, SSIM": "How alike two pictures are: from 30 dB and 0.9 up they are hard to tell apart; "
    "equal pictures have 58.9 dB, which rounding to 8 bits leaves, and 1.",
}


def terms() -> str:
    """Write the words that stand on the page, with what they mean, as HTML."""
    rows = "".join(
        f"<dt>{html.escape(term)}</dt><dd>{html.escape(text)}</dd>" for term, text in TERMS.items()
    )
    return f'<dl class="fv-terms">{rows}</dl>'


def legend(entries: Mapping[str, str]) -> str:
    """Write a legend, from labels to colors of CSS, as HTML."""
    marks = "".join(
        f'<span><i style="background:{color}"></i>{html.escape(label)}</span>'
        for label, color in entries.items()
    )
    return f'<div class="fv-legend">{marks}</div>'


class ScaleStrip(Strip):
    """Shows for each scale step the tokens that method A keeps, and the cost of each method."""

    def __init__(self, sizes: Sequence[str]) -> None:
        super().__init__(label="scale steps: pick one to see its kept tokens", width=64)
        self.sizes, self.unit, self.named = list(sizes), "", list[str]()

    def show(self, duel: Duel, site: Site, times: StepTimes | None = None) -> None:
        """Show the masks of a sublayer, and the operations of every step or its measured times."""
        bars = _times(times) if times else _operations(duel)
        most = max(bar.high for steps in bars.values() for bar in steps)
        cells = []
        for step, size in enumerate(self.sizes):
            kept = kept_map(duel.a.trace, step, site)
            state = f"{kept.mean():.0%}" if kept.any() else "skipped"
            sticks = [
                {
                    "color": COLORS[name], "text": f"{name}: {steps[step].text}",
                    "value": steps[step].value / most, "low": steps[step].low / most,
                    "high": steps[step].high / most,
                }
                for name, steps in bars.items()
            ]  # fmt: skip
            texts = ", ".join(f"{name}: {steps[step].text}" for name, steps in bars.items())
            tip = f"{size}: {int(kept.sum())} of {kept.size} tokens kept. {texts}"
            mask = panels.kept_overlay(np.full((*kept.shape, 3), LIGHT), kept)
            image = mask, f"kept tokens of {size}: {state}"
            cells.append(cell(size, [image], [state], sticks, tip, cells=True))
        self.cells = cells
        self.unit = "ms, with quartiles" if times else "GFLOP"
        self.named = list(bars)

    def key(self) -> str:
        """Write the legend of the strip as HTML."""
        names = {"full": "full generation", "A": "method A", "B": "method B"}
        bars = {f"{names[name]}, {self.unit}": COLORS[name] for name in self.named}
        shades = panels.kept_overlay(np.full((1, 2, 3), LIGHT), np.array([[True, False]]))[0]
        return legend({**bars, "kept": to_hex(shades[0]), "pruned": to_hex(shades[1])})


class Bar(NamedTuple):
    """A value with its spread, and how it is written."""

    value: float
    low: float
    high: float
    text: str


def _operations(duel: Duel) -> dict[str, list[Bar]]:
    costs = {"full": duel.a.gflop_full, "A": duel.a.gflop_fast}
    if duel.b.gflop_fast != duel.b.gflop_full:
        costs["B"] = duel.b.gflop_fast
    return {n: [Bar(c, c, c, f"{c:.1f} GFLOP") for c in steps] for n, steps in costs.items()}


def _times(times: StepTimes) -> dict[str, list[Bar]]:
    return {
        name: [Bar(t.median, t.q1, t.q3, f"{t.median:.1f} ms") for t in steps]
        for name, steps in times.steps.items()
    }
