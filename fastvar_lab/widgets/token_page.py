"""The pictures and tables of a token's life, from what `measure.token_life` found."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import anywidget
import numpy as np
import pandas as pd
import traitlets
from matplotlib.colors import to_hex

from fastvar_lab.instruments.trace import Trace
from fastvar_lab.measure.token_life import RESTORED, SKIPPED, Gaze, Patch
from fastvar_lab.plotting import panels
from fastvar_lab.widgets.page import cell, png
from fastvar_lab.widgets.scale_strip import legend
from fastvar_lab.widgets.scripts import script

ABSENT = np.array([0.45, 0.45, 0.45])  # the color of tokens without a key
NAMES = {"attn": "attention", "cross": "attention to the words", "ffn": "feed-forward"}


class Maps(anywidget.AnyWidget):
    """Small maps of one place; `picked` is (step, row, column, count of picks)."""

    _esm = script("maps.js")
    label = traitlets.Unicode("").tag(sync=True)
    group = traitlets.Unicode("").tag(sync=True)
    maps: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    picked: traitlets.List[int] = traitlets.List().tag(sync=True)


class Matrix(anywidget.AnyWidget):
    """Tables of colored cells, one a kind of sublayer; `picked` is (table, row, column)."""

    _esm = script("matrix.js")
    tables: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    picked: traitlets.List[int] = traitlets.List([0, 0, 0]).tag(sync=True)


def rank_tables(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a table a kind, steps by layers, whose colors are ranks: bright is the highest."""
    tables = []
    for kind, part in scores.groupby("kind", sort=False):
        layers = sorted(part.layer.unique())
        cells = []
        for _, line in part.groupby("step", sort=True):
            by_layer = {row.layer: row for row in line.itertuples()}
            cells.append([_square(by_layer[layer]) for layer in layers])
        name = NAMES.get(str(kind), str(kind))
        tables.append(
            {
                "kind": kind, "name": name, "label": f"rank in {name}, scale steps by layers",
                "rows": list(part.sort_values("step")["size"].unique()),
                "columns": [str(layer) for layer in layers], "cells": cells,
            }
        )  # fmt: skip
    return tables


def _square(row: Any) -> list[str]:
    """Return color, state and text of one sublayer."""
    where = f"{row.size}, {row.kind} of layer {row.layer}: {row.state}"
    if row.state == SKIPPED or row.rank != row.rank:
        return ["transparent", SKIPPED, where]
    share = 1 - (row.rank - 1) / max(row.tokens - 1, 1)
    text = f"{where}, rank {row.rank:.0f} of {row.tokens}, score {row.score:.4g}"
    return [color_of(share), row.state, text]


def color_of(share: float) -> str:
    """Return the color of a rank, as a share from 0, the lowest, to 1."""
    return _colors()[round(share * 255)]


@cache
def _colors() -> list[str]:
    return [to_hex(color) for color in panels.heat(np.arange(256)[None], 0.0, 255.0)[0]]


def rank_legend() -> str:
    """Write the legend of the tables of ranks as HTML."""
    colors = {"lowest rank": color_of(0), "middle": color_of(0.5), "highest": color_of(1)}
    marks = (
        '<div class="fv-legend"><span><i class="fv-square fv-kept" style="height:12px"></i>kept'
        '</span><span><i class="fv-square fv-restored" style="height:12px;background:#444"></i>'
        "restored</span><span>no frame: computed with all tokens</span></div>"
    )
    return legend(colors) + marks


def attention_maps(
    trace: Trace, gaze: Gaze, cells: Mapping[int, tuple[int, int]]
) -> list[dict[str, Any]]:
    """Return the maps of a token's attention, each over its own range; pruned tokens are grey."""
    maps = []
    for step, weights in gaze.maps.items():
        grid, share = trace.grids[step], gaze.shares[step]
        most = np.nanmax(weights) if np.isfinite(weights).any() else 0.0
        picture = panels.heat(np.nan_to_num(weights), 0.0, max(float(most), 1e-12))
        picture = np.where(np.isnan(weights)[..., None], ABSENT, picture)
        maps.append(
            {
                "step": step, "name": grid.name, "note": f"{share:.1%}", "h": grid.h, "w": grid.w,
                "cell": list(cells[step]), "data": png(picture),
                "alt": f"attention to {grid.name}, {share:.1%} of all",
                "tip": f"{share:.1%} of the attention; the brightest token has {most:.2%}",
            }
        )  # fmt: skip
    return maps


def word_bars(gaze: Gaze | None, pieces: Sequence[str]) -> str:
    """Write the attention to the words as bars, in HTML; rows without a name are summed."""
    if gaze is None or not len(gaze.text):
        return ""
    named = list(zip(pieces, gaze.text.tolist(), strict=False))
    rest = float(gaze.text[len(named) :].sum())
    if rest > 0.0005 or not named:
        named.append(("other rows" if named else "all rows of the text", rest))
    most = max(value for _, value in named) or 1.0
    rows = "".join(
        f'<span>{html.escape(word)}</span><i style="width:{100 * value / most:.1f}%"></i>'
        f"<span>{value:.1%}</span>"
        for word, value in named
    )
    return f'<div class="fv-words">{rows}</div>'


def patch_cells(patch: Patch, codes: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the patch after each step, with how far it is from the final one."""
    by_step = codes.set_index("step")
    cells = []
    for step, picture, far in zip(patch.steps, patch.pictures, patch.distance, strict=True):
        size, changed = by_step["size"][step], by_step.changed[step]
        lines = [f"{255 * far:.1f} off", "" if changed != changed else f"{changed:.0%} new"]
        settled = "settled" if step >= patch.settled else ""
        tip = f"after {size}: {255 * far:.2f} of 255 from the final patch. {settled}"
        alt = f"the patch after {size}"
        cells.append(cell(str(size), [(picture, alt)], [*lines, settled], (), tip, cells=True))
    return cells


def code_table(codes: pd.DataFrame) -> str:
    """Write the codes of a place, step by step, in HTML; bits that changed are underlined."""
    rows, before = [], ""
    for row in codes.itertuples():
        if not row.code:
            continue
        changes = len(before) == len(row.code) and set(row.code) <= {"0", "1"}
        text = "".join(
            f"<b>{a}</b>" if changes and a != b else html.escape(a)
            for a, b in zip(row.code, before if changes else row.code, strict=True)
        )
        rows.append(f'<tr><td>{row.size}</td><td class="fv-bits">{text}</td></tr>')
        before = row.code
    if not rows:
        return '<div class="fv-quiet">continuous codes, which have no text</div>'
    return f'<table class="fv-table" aria-label="codes by scale step">{"".join(rows)}</table>'


def summary(scores: pd.DataFrame, step: int, layer: int, kind: str, rule: str) -> str:
    """Write in one sentence what happened to a token at a step."""
    now = scores[scores.step == step]
    size = now["size"].iloc[0]
    counts = now.state.value_counts()
    if counts.get(SKIPPED, 0) == len(now):
        return f"{size} is skipped: nothing was drawn here."
    here = now[(now.layer == layer) & (now.kind == kind)].iloc[0]
    parts = [f"{counts[s]} {s}" for s in ("computed", "kept", "restored") if s in counts]
    rank = "" if here["rank"] != here["rank"] else (
        f" Rank {here['rank']:.0f} of {here.tokens} by {rule} in {kind} of layer {layer}, "
        f"{'restored' if here.state == RESTORED else here.state}."
    )  # fmt: skip
    return f"At {size}, of {len(now)} sublayers: {', '.join(parts)}.{rank}"
