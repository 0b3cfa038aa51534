"""Scores and kept tokens of a trace, and how far masks of kept tokens agree."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from fastvar_lab.instruments.trace import Trace
from fastvar_lab.seam import Grid, Site
from fastvar_lab.tokens import wide


def as_map(trace: Trace, step: int, values: Tensor) -> Tensor:
    """Reshape values of a step's tokens (B, L) to maps (B, h, w), without prefix tokens."""
    grid = trace.grids[step]
    return rearrange(values[:, grid.prefix :], "b (h w) -> b h w", h=grid.h)


def score_map(trace: Trace, step: int, site: Site, row: int = 0) -> np.ndarray:
    """Return the scores of one sublayer's tokens as a map (h, w); dense steps have scores too.

    Scores are squared distances to the spatial mean (paper, Algorithm 1), in squared feature
    units, unless the trace was recorded with another selector.

    >>> import fastvar_lab as fv
    >>> _, trace = fv.observe(fv.load("tiny"), "a red ring", fv.PRESETS["tiny"], seed=1)
    >>> score_map(trace, 9, fv.Site(0, "attn")).shape
    (32, 32)

    `step` may be negative, counted from the end. Raises ValueError if the site has no record.
    """
    return as_map(trace, step, _recorded(trace.scores, trace.grids[step], site))[row].cpu().numpy()


def _recorded(record: Mapping[tuple[int, Site], Tensor], grid: Grid, site: Site) -> Tensor:
    """Look up the record of a site at a step; raise ValueError that names the recorded sites."""
    if (grid.index, site) in record:
        return record[grid.index, site]
    sites = sorted({s for step, s in record if step == grid.index})
    extent = (
        f"recorded there are {sites[0]} to {sites[-1]}" if sites else "nothing is recorded there"
    )
    raise ValueError(f"no {site} at step {grid.index} ({grid.name}); {extent}")


def kept_map(trace: Trace, step: int, site: Site, row: int = 0) -> np.ndarray:
    """Return the mask of the tokens of a step that one sublayer forwarded: (h, w), bool.

    It is False everywhere at a skipped step. `step` may be negative, counted from the end. Raises
    ValueError if the site has no record.

    >>> import fastvar_lab as fv
    >>> _, trace = fv.observe(fv.load("tiny"), "a red ring", fv.PRESETS["tiny"], seed=1)
    >>> float(kept_map(trace, 9, fv.Site(0, "attn")).mean())
    0.25
    """
    grid = trace.grids[step]
    if grid.index in trace.tokens and trace.tokens[grid.index] is None:
        return np.zeros((grid.h, grid.w), dtype=bool)
    return as_map(trace, step, _recorded(trace.kept, grid, site))[row].cpu().numpy()


def scores(trace: Trace) -> pd.DataFrame:
    """Summarise the scores of each sublayer; the more uneven they are, the clearer the selection.

    Columns: step, size, layer, kind, row, mean, std, gini (0 if all scores are equal, at most 1;
    nan if some are negative), and kept, the share of tokens forwarded.

    >>> import fastvar_lab as fv
    >>> _, trace = fv.observe(fv.load("tiny"), "a red ring", fv.PRESETS["tiny"], seed=1)
    >>> float(scores(trace).groupby("size").kept.mean()["24x24"])
    0.5
    """
    rows = []
    for (step, site), values in trace.scores.items():
        maps = as_map(trace, step, wide(values)).flatten(1)
        kept = as_map(trace, step, trace.kept[step, site]).flatten(1)
        n = maps.shape[1]
        ranked = maps.sort(dim=1).values
        weight = 2 * torch.arange(1, n + 1, device=maps.device) - n - 1
        gini = (ranked * weight).sum(1) / (n * maps.sum(1)).clamp(min=1e-12)
        gini[ranked[:, 0] < 0] = float("nan")
        for row in range(len(maps)):
            rows.append(
                {
                    "step": step,
                    "size": trace.size(step),
                    "layer": site.layer,
                    "kind": site.kind,
                    "row": row,
                    "mean": float(maps[row].mean()),
                    "std": float(maps[row].std(unbiased=False)),
                    "gini": float(gini[row]),
                    "kept": float(kept[row].float().mean()),
                }
            )
    return pd.DataFrame(rows)


def overlap(first: Tensor, second: Tensor) -> float:
    """Return the intersection over union of two masks of one shape; 1 if both are empty."""
    union = (first | second).sum()
    return float((first & second).sum() / union) if union else 1.0


def chance(first: float, second: float) -> float:
    """Return the expected overlap of two random masks that keep these shares of the tokens.

    >>> round(chance(0.5, 0.25), 3)
    0.2
    """
    both = first * second
    return both / (first + second - both) if first or second else 1.0


def agreement(trace: Trace, between: str, kind: str = "attn") -> pd.DataFrame:
    """Compare kept masks between "layers" of a step, guidance "rows", or "steps".

    Columns: step, size, layer, other (the layer, row or step compared with), overlap in [0, 1],
    chance (the overlap of random masks). Masks of two steps are compared on the smaller map, where
    a token counts as kept if at least half of its cells are. Only pruned sublayers are compared.
    "rows" compares the conditional half of the batch with the null half. Raises ValueError for
    another `between`.

    >>> import fastvar_lab as fv
    >>> _, trace = fv.observe(fv.load("tiny"), "a red ring", fv.PRESETS["tiny"], seed=1)
    >>> rows = agreement(trace, "layers")
    >>> bool(rows.overlap.mean() > rows.chance.mean())
    True
    """
    masks = {
        (step, site.layer): as_map(trace, step, mask)
        for (step, site), mask in trace.kept.items()
        if site.kind == kind and not bool(mask.all())
    }
    rows = []

    def note(step: int, layer: int, other: int, a: Tensor, b: Tensor) -> None:
        shares = float(a.float().mean()), float(b.float().mean())
        common = {"step": step, "size": trace.size(step), "layer": layer, "other": other}
        rows.append({**common, "overlap": overlap(a, b), "chance": chance(*shares)})

    if between == "layers":
        for (step, a), (other, b) in combinations(masks, 2):
            if step == other:
                note(step, a, b, masks[step, a], masks[other, b])
    elif between == "rows":
        for (step, layer), mask in masks.items():
            if len(mask) == 2 * len(trace.canvases[step]):
                first, second = mask.chunk(2)
                note(step, layer, 1, first, second)
    elif between == "steps":
        for (step, a), (other, b) in combinations(masks, 2):
            if a == b and step < other:
                small, large = masks[step, a], masks[other, b].float().unsqueeze(1)
                shrunk = F.interpolate(large, small.shape[-2:], mode="area").squeeze(1) >= 0.5
                note(step, a, other, small[: len(shrunk)], shrunk)  # null rows may be dropped
    else:
        raise ValueError(f"masks are compared between layers, rows or steps; not {between!r}")
    columns = ["step", "size", "layer", "other", "overlap", "chance"]
    return pd.DataFrame(rows, columns=columns)
