"""Counts the operations and bytes of a generation; a multiply-add counts as two operations.

Counts follow the declarations of a method, which the generation loop enforces: guidance rows in its
acts, tokens in its runner's `forwarded`, and the KV length of each layer. For a method that
decides from the data they are upper bounds (see `exact`). Not counted: text encoder, projection of
the text to keys and values, decoder, and the method's selection of tokens, which is negligible for
scores but `AttentionEntropy` (the attention of one whole step once more), and takes the products of
all pairs for `Merge`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import NamedTuple

import pandas as pd

from fastvar_lab.audit import audited
from fastvar_lab.models.model import Model
from fastvar_lab.models.precision import packed_parts, weight_of, weight_shape
from fastvar_lab.sampling import Sampling
from fastvar_lab.seam import Grid, Method, Rows, Site


class Call(NamedTuple):
    """One sublayer call at one step: guidance rows per picture, tokens, and keys attended to."""

    site: Site
    rows: int
    tokens: int
    keys: int


class Step(NamedTuple):
    """The work of one scale step: guidance rows per picture at the head, and the sublayer calls."""

    grid: Grid
    rows: int
    calls: list[Call]


def steps(
    model: Model,
    method: Method,
    grids: Sequence[Grid],
    text_tokens: int,
    sampling: Sampling | None = None,
) -> Iterator[Step]:
    """Yield the work of each step under a method; `text_tokens` is the number of prompt tokens.

    `sampling`, by default the model's, says whether null rows run, before which layer guidance
    merges them, and in how many forwards a step is drawn.
    """
    backbone, sampling = model.transformer, sampling or model.sampling
    merge = backbone.merge_layer(sampling)
    runner = audited(method, grids, model.depth, backbone.kinds, merge)
    cached = [0] * model.depth
    guided = backbone.guided(sampling)
    for grid, act in zip(grids, runner.acts, strict=True):
        calls = list[Call]()
        parts: tuple[int, ...] = (grid.tokens,)
        if not act.skips:
            parts = backbone.parts(grids, grid.index, sampling)
        for layer in range(model.depth):
            live = _live(act.rows_at(layer), guided)
            for part in parts:
                tokens = {
                    kind: part if len(parts) > 1 else runner.forwarded(Site(layer, kind), grid)
                    for kind in backbone.kinds
                }
                cached[layer] += tokens["attn"]
                keys = {"attn": cached[layer], "cross": text_tokens, "ffn": 0}
                for kind in backbone.kinds:
                    calls.append(Call(Site(layer, kind), live, tokens[kind], keys[kind]))
        yield Step(grid, _live(act.rows_at_head, guided), calls)


def _live(rows: Rows, guided: bool) -> int:
    """Return the number of guidance rows per picture."""
    return rows.each if guided else min(rows.each, 1)


def exact(method: Method, grids: Sequence[Grid]) -> bool:
    """Return whether a method's counts are exact; False if it decides from the data."""
    return all(act.exact for act in method.acts(grids))


def step_flops(
    model: Model,
    method: Method,
    grids: Sequence[Grid],
    text_tokens: int = 8,
    pictures: int = 1,
    sampling: Sampling | None = None,
) -> list[dict[str, float]]:
    """Return the FLOPs of each scale step, by kind of sublayer and for its ends.

    `sampling` as in `steps`. "ends" are embedding and head. `text_tokens` is the number of prompt
    tokens. The embedding runs once per picture, everything else once per guidance row.
    """
    backbone, out, sampling = model.transformer, [], sampling or model.sampling
    for grid, rows, calls in steps(model, method, grids, text_tokens, sampling):
        cost = dict.fromkeys((*backbone.kinds, "ends"), 0.0)
        for site, live, tokens, keys in calls:
            cost[site.kind] += pictures * live * backbone.sublayer_flops(site.kind, tokens, keys)
        if rows:
            embedding, head = backbone.ends_flops(grid)
            last = backbone.finish_flops(grid, rows, sampling) if grid == grids[-1] else 0.0
            cost["ends"] = pictures * (embedding + rows * head + last)
        out.append(cost)
    return out


def step_bytes(
    model: Model,
    method: Method,
    grids: Sequence[Grid],
    text_tokens: int = 8,
    pictures: int = 1,
    sampling: Sampling | None = None,
) -> list[float]:
    """Return a lower bound of the bytes read in each scale step: weights once, keys and values.

    Weights count as they are stored, keys and values as they are cached. Activations are left out,
    because a fused kernel need not write them to memory.
    """
    backbone, out, sampling = model.transformer, [], sampling or model.sampling
    size, stored = model.dtype.itemsize, _stored_bytes(model)
    for grid, rows, calls in steps(model, method, grids, text_tokens, sampling):
        count = sum(
            sublayer_bytes(model, site.kind, pictures * live, keys, stored)
            for site, live, tokens, keys in calls
            if tokens
        )
        if rows:
            one = Grid(grid.index, 1, 1)
            last = backbone.finish_flops(one, 1, sampling) if grid == grids[-1] else 0.0
            count += size * (sum(backbone.ends_flops(one)) + last) / 2
        out.append(count)
    return out


def sublayer_bytes(
    model: Model, kind: str, live: int, keys: int, stored: float | None = None
) -> float:
    """Return a lower bound of the bytes read by one sublayer for `live` rows.

    `stored` are the bytes of one of its weights, by default the mean over all layers.
    """
    backbone = model.transformer
    weights = backbone.sublayer_flops(kind, 1, 0) / 2
    cached = model.autocast or next(backbone.blocks.parameters()).dtype
    values = live * 2 * keys * backbone.config.width
    return weights * (stored or _stored_bytes(model)) + values * cached.itemsize


def _stored_bytes(model: Model) -> float:
    """Return the bytes of a stored weight of the layers, adapters left out: 4 in float32."""
    count = size = 0
    for name, layer in model.transformer.blocks.named_modules():
        weight, shape = weight_of(layer), weight_shape(layer)
        if weight is None or len(shape) != 2 or "lora_" in name or hasattr(layer, "base_layer"):
            continue
        count += prod(shape)
        size += sum(part.numel() * part.itemsize for part in packed_parts(layer) or [weight])
    return size / count if count else model.dtype.itemsize


def named(methods: object) -> None:
    """Raise ValueError unless `methods` maps labels to methods."""
    if not isinstance(methods, Mapping):
        raise ValueError(
            f"methods must be a mapping by label, such as {{'mine': method}}; not {methods!r}"
        )


def total(costs: Sequence[dict[str, float]]) -> float:
    """Sum FLOPs over all steps and kinds."""
    return sum(sum(cost.values()) for cost in costs)


def forwarded(model: Model, method: Method, grids: Sequence[Grid]) -> list[float]:
    """Return the number of tokens forwarded in each step, averaged over all sublayers."""
    runner = audited(method, grids, model.depth, model.transformer.kinds)
    sites = [Site(i, kind) for i in range(model.depth) for kind in model.transformer.kinds]
    return [sum(runner.forwarded(s, g) for s in sites) / len(sites) for g in grids]


def costs(
    model: Model,
    methods: Mapping[str, Method],
    sizes: Sequence[tuple[int, int]] | None = None,
) -> pd.DataFrame:
    """Count the cost of methods at every scale step: one row per step and method.

    Columns: method, step, size, rows (guidance rows that run), tokens (forwarded, averaged over
    sublayers), gflop (of one picture under the model's sampling), exact (False if the counts are
    upper bounds).

    >>> import fastvar_lab as fv
    >>> frame = costs(fv.load("tiny"), {"full": fv.Dense(), "fast": fv.Prune({-1: 0.75})})
    >>> frame.groupby("method").tokens.sum().to_dict()
    {'fast': 1753.0, 'full': 2521.0}
    """
    named(methods)
    grids, table = model.grids(sizes), []
    guided = model.transformer.guided(model.sampling)
    for name, method in methods.items():
        tokens = forwarded(model, method, grids)
        counts = zip(grids, method.acts(grids), step_flops(model, method, grids), tokens)
        for grid, act, cost, n in counts:
            table.append(
                {
                    "method": name,
                    "step": grid.index,
                    "size": grid.name,
                    "rows": (act.rows_at(0) if guided or act.skips else Rows.COND).value,
                    "tokens": n,
                    "gflop": sum(cost.values()) / 1e9,
                    "exact": act.exact,
                }
            )
    return pd.DataFrame(table)
