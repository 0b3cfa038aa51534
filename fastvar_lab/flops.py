"""Counted operations of a generation: every product issued, two per multiply-add.

Counts follow what the runner says it forwards: kept tokens, each layer's own KV length, all
guidance rows. Text encoder, text memory and decoder are not in it.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastvar_lab.models import Model
from fastvar_lab.seam import Grid, Method, Site


def step_flops(
    model: Model,
    method: Method,
    grids: Sequence[Grid],
    words: int = 8,
    pictures: int = 1,
    guided: bool = True,
) -> list[dict[str, float]]:
    """FLOPs of each scale step by kind: attn, cross, ffn, and ends (embedding and head).

    `words` counts the prompt's tokens. The embedding runs once per picture, all else once per
    guidance row.
    """
    config = model.transformer.config
    c, hidden, depth = config.width, config.ffn, config.depth
    runner = method.start(grids, depth)
    acts = method.acts(grids)
    seen = [0] * depth
    out = []
    for grid, act in zip(grids, acts, strict=True):
        live = pictures * (1 if act[-1] == "cond" or not guided else 2)
        cost = dict.fromkeys(("attn", "cross", "ffn", "ends"), 0.0)
        for layer in range(depth):
            k = runner.forwarded(Site(layer, "attn"), grid)
            seen[layer] += k
            cost["attn"] += live * (8 * c * c * k + 4 * c * k * seen[layer])
            k = runner.forwarded(Site(layer, "cross"), grid)
            cost["cross"] += live * (4 * c * c * k + 4 * c * k * words)
            k = runner.forwarded(Site(layer, "ffn"), grid)
            cost["ffn"] += live * 4 * c * hidden * k
        if act[0] != "skip":
            embedding = pictures * 2.0 * c * config.bits * grid.tokens
            cost["ends"] = live * 4.0 * c * config.bits * grid.tokens + embedding * (grid.index > 0)
        out.append(cost)
    return out


def total(costs: Sequence[dict[str, float]]) -> float:
    """Sum of all steps and kinds."""
    return sum(sum(cost.values()) for cost in costs)


def forwarded(model: Model, method: Method, grids: Sequence[Grid]) -> list[float]:
    """Tokens of each step that go through a sublayer, the mean over all sublayers."""
    runner = method.start(grids, model.depth)
    sites = [Site(i, kind) for i in range(model.depth) for kind in ("attn", "cross", "ffn")]
    return [sum(runner.forwarded(s, g) for s in sites) / len(sites) for g in grids]
