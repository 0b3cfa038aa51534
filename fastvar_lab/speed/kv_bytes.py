"""Bytes of keys and values that a method holds, computed."""

from __future__ import annotations

from fastvar_lab.audit import audited
from fastvar_lab.models.model import Model
from fastvar_lab.seam import Method


def kv_bytes(model: Model, method: Method) -> int:
    """Return the most bytes of keys and values that later steps read, of one picture.

    Methods that drop or quantise them say what they hold (`held_bytes`); attention here masks what
    they drop. Of all others it is what the cache allocates.

    >>> import fastvar_lab as fv
    >>> model = fv.load("tiny")
    >>> round(kv_bytes(model, fv.Dense()) / kv_bytes(model, fv.QuantKV(4)), 1)
    7.8
    """
    grids, backbone = model.grids(), model.transformer
    config, rows = backbone.config, 2 if backbone.guided(model.sampling) else 1
    held = getattr(method, "held_bytes", None)
    if held is not None:
        sizes = (grids, model.depth, config.heads, config.width // config.heads)
        return int(max(held(*sizes, rows=rows, itemsize=model.dtype.itemsize)))
    run = audited(method, grids, model.depth, backbone.kinds)
    cache = backbone.new_cache(grids, rows, run)
    cache.expect(run.keys_read(grids, rows == 2, resumable=False))
    return int(cache.planned)


def held_share(model: Model, method: Method) -> float | None:
    """Return the most bytes that a cache method holds over those of the whole cache in 16 bits.

    None for a method that changes no cache.

    >>> import fastvar_lab as fv
    >>> round(held_share(fv.load("tiny"), fv.QuantKV(4)) or 0, 3)
    0.262
    """
    held = getattr(method, "held_bytes", None)
    if held is None:
        return None
    grids, depth, config = model.grids(), model.depth, model.transformer.config
    head_dim = config.width // config.heads
    whole = 4 * depth * config.width * sum(grid.tokens for grid in grids[:-1])
    return max(held(grids, depth, config.heads, head_dim, rows=1, itemsize=2)) / whole
