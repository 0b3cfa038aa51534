"""Counted operations and bytes of a generation: every product issued, two per multiply-add.

Counts follow what the runner says it forwards: kept tokens, each layer's own KV length, all
guidance rows. Text encoder, text memory and decoder are not in it, nor what a method spends on
choosing tokens: next to nothing for scores, the products of all pairs for `Merge`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from fastvar_lab.models.model import Model
from fastvar_lab.seam import Act, Grid, Method, Site


def calls(
    model: Model, method: Method, grids: Sequence[Grid], words: int
) -> Iterator[tuple[Grid, Act, list[tuple[str, int, int]]]]:
    """Walk the steps: what a method does there, and kind, tokens and keys of every sublayer."""
    runner = method.start(grids, model.depth)
    seen = [0] * model.depth
    for grid, act in zip(grids, method.acts(grids), strict=True):
        made = []
        for layer in range(model.depth):
            seen[layer] += runner.forwarded(Site(layer, "attn"), grid)
            keys = {"attn": seen[layer], "cross": words, "ffn": 0}
            for kind in model.transformer.kinds:
                made.append((kind, runner.forwarded(Site(layer, kind), grid), keys[kind]))
        yield grid, act, made


def rows(act: Act, pictures: int, guided: bool) -> int:
    """Count the guidance rows that run."""
    return pictures * (1 if act[-1] == "cond" or not guided else 2)


def step_flops(
    model: Model,
    method: Method,
    grids: Sequence[Grid],
    words: int = 8,
    pictures: int = 1,
    guided: bool = True,
) -> list[dict[str, float]]:
    """FLOPs of each scale step by kind of sublayer, and of its ends (embedding and head).

    `words` counts the prompt's tokens. The embedding runs once per picture, all else once per
    guidance row.
    """
    backbone, out = model.transformer, []
    for grid, act, made in calls(model, method, grids, words):
        live = rows(act, pictures, guided)
        cost = dict.fromkeys((*backbone.kinds, "ends"), 0.0)
        for kind, tokens, keys in made:
            cost[kind] += live * backbone.sublayer_flops(kind, tokens, keys)
        if act[0] != "skip":
            embedding, head = backbone.ends_flops(grid)
            if grid == grids[-1]:
                head += backbone.finish_flops * grid.h * grid.w
            cost["ends"] = pictures * embedding + live * head
        out.append(cost)
    return out


def step_bytes(
    model: Model,
    method: Method,
    grids: Sequence[Grid],
    words: int = 8,
    pictures: int = 1,
    guided: bool = True,
) -> list[float]:
    """Count the bytes that each scale step cannot but read: weights once, keys and values.

    Activations, which a fused kernel need not send to memory, are left out: this is a floor.
    """
    backbone, out = model.transformer, []
    size = backbone.head.weight.element_size()
    for grid, act, made in calls(model, method, grids, words):
        live = rows(act, pictures, guided)
        count = sum(sublayer_bytes(model, kind, live, keys) for kind, n, keys in made if n)
        if act[0] != "skip":
            ends = sum(backbone.ends_flops(Grid(grid.index, 1, 1)))
            count += size * (ends + backbone.finish_flops * (grid == grids[-1])) / 2
        out.append(count)
    return out


def sublayer_bytes(model: Model, kind: str, live: int, keys: int) -> float:
    """Count the bytes that one sublayer cannot but read for `live` rows: weights, keys, values."""
    backbone = model.transformer
    read = backbone.sublayer_flops(kind, 1, 0) / 2 + live * 2 * keys * backbone.config.width
    return read * backbone.head.weight.element_size()


def named(methods: object) -> None:
    """Raise ValueError unless methods come by their labels."""
    if not isinstance(methods, Mapping):
        raise ValueError(f"methods are given by label, {{'mine': method}}; not as {methods!r}")


def total(costs: Sequence[dict[str, float]]) -> float:
    """Sum of all steps and kinds."""
    return sum(sum(cost.values()) for cost in costs)


def forwarded(model: Model, method: Method, grids: Sequence[Grid]) -> list[float]:
    """Tokens of each step that go through a sublayer, the mean over all sublayers."""
    runner = method.start(grids, model.depth)
    sites = [Site(i, kind) for i in range(model.depth) for kind in model.transformer.kinds]
    return [sum(runner.forwarded(s, g) for s in sites) / len(sites) for g in grids]


def costs(
    model: Model,
    methods: Mapping[str, Method],
    sizes: Sequence[tuple[int, int]] | None = None,
) -> pd.DataFrame:
    """Count what methods cost at every scale step, one row a step and method.

    Columns: method, step, size, tokens (forwarded by a sublayer, the mean over all), gflop of one
    guided picture.

    >>> import fastvar_lab as fv
    >>> frame = costs(fv.load("tiny"), {"full": fv.Dense(), "fast": fv.Prune({-1: 0.75})})
    >>> frame.groupby("method").tokens.sum().to_dict()
    {'fast': 1753.0, 'full': 2521.0}
    """
    named(methods)
    grids, table = model.grids(sizes), []
    for name, method in methods.items():
        tokens = forwarded(model, method, grids)
        for grid, cost, n in zip(grids, step_flops(model, method, grids), tokens, strict=True):
            place = {"method": name, "step": grid.index, "size": grid.name}
            table.append({**place, "tokens": n, "gflop": sum(cost.values()) / 1e9})
    return pd.DataFrame(table)
