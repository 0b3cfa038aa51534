"""The scale steps in a row: the kept tokens of each, and what each costs."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import to_hex

from fastvar_lab.experiments.explore import Duel
from fastvar_lab.measure.masks import kept_map
from fastvar_lab.plotting import panels
from fastvar_lab.plotting.style import FAST, FULL, PALETTE
from fastvar_lab.seam import Site
from fastvar_lab.widgets.page import Strip, cell

COLORS = {"full": to_hex(FULL), "A": to_hex(FAST), "B": to_hex(PALETTE[2])}

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
    "equal pictures have 100 dB and 1.",
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
        self.sizes = list(sizes)

    def show(
        self, duel: Duel, site: Site, ms: Mapping[str, Sequence[Mapping[str, float]]] | None = None
    ) -> None:
        """Show the masks of a sublayer and the operations of every step, or its times.

        `ms` holds for "full", "A" and "B" the median, q1 and q3 of each step in milliseconds.
        """
        costs = {"full": duel.a.gflop_full, "A": duel.a.gflop_fast}
        if duel.b.gflop_fast != duel.b.gflop_full:
            costs["B"] = duel.b.gflop_fast
        most = max(map(max, costs.values()))
        if ms:
            most = max(step["q3"] for steps in ms.values() for step in steps)
        made = []
        for step, size in enumerate(self.sizes):
            kept = kept_map(duel.a.trace, step, site)
            share = kept.mean()
            state = "skipped" if not kept.any() else f"{share:.0%} kept"
            bars = []
            for name in ms or costs:
                bar: dict[str, object] = {"color": COLORS[name]}
                if ms:
                    times = ms[name][step]
                    bar["value"], bar["low"] = times["median"] / most, times["q1"] / most
                    bar["high"] = times["q3"] / most
                    bar["text"] = f"{name}: {times['median']:.1f} ms"
                else:
                    cost = costs[name][step]
                    bar |= {"value": cost / most, "text": f"{name}: {cost:.1f} GFLOP"}
                bars.append(bar)
            tip = f"{size}: {int(kept.sum())} of {kept.size} tokens kept. " + ", ".join(
                str(bar["text"]) for bar in bars
            )
            mask = panels.kept_overlay(np.full((*kept.shape, 3), 0.92), kept)
            alt = f"kept tokens of {size}: {state}"
            made.append(cell(size, [(mask, alt)], [state], bars, tip, cells=True))
        self.cells = made

    def key(self, b: bool, unit: str) -> str:
        """Write the legend of the strip as HTML; `b` says whether method B has bars."""
        bars = {"full generation": COLORS["full"], "method A": COLORS["A"]}
        bars |= {"method B": COLORS["B"]} if b else {}
        masks = {"kept": "#ebebeb", "pruned": "#232323"}
        return legend({**{f"{name}, {unit}": color for name, color in bars.items()}, **masks})
