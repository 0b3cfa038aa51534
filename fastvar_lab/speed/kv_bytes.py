"""Bytes of keys and values that a method holds, computed."""

from __future__ import annotations

from fastvar_lab.models.model import Model
from fastvar_lab.seam import Method


def held_share(model: Model, method: Method) -> float | None:
    """Return the most bytes that a cache method holds over those of the whole cache in 16 bits.

    None for a method that changes no cache. A method inside another, such as a `Tail`, counts as it
    does alone.

    >>> import fastvar_lab as fv
    >>> round(held_share(fv.load("tiny"), fv.QuantKV(4)) or 0, 3)
    0.262
    """
    while hasattr(method, "method"):  # inside others, such as a Tail
        method = method.method
    held = getattr(method, "held_bytes", None)
    if held is None:
        return None
    grids, depth, config = model.grids(), model.depth, model.transformer.config
    head_dim = config.width // config.heads
    whole = 4 * depth * config.width * sum(grid.tokens for grid in grids[:-1])
    return max(held(grids, depth, config.heads, head_dim, rows=1, itemsize=2)) / whole
