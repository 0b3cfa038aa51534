"""Keys and values that cache methods hold between steps, as a share of the whole cache."""

from __future__ import annotations

from fastvar_lab.methods.heatkv import HeatKV
from fastvar_lab.methods.quantkv import QuantKV
from fastvar_lab.methods.scalekv import ScaleKV
from fastvar_lab.models.model import Model
from fastvar_lab.seam import Method


def held_share(model: Model, method: Method) -> float | None:
    """Return the most bytes held before a step over those of the whole cache in 16 bits.

    The last step's keys and values, which no step reads later, do not count. None for a method that
    changes no cache.

    >>> import fastvar_lab as fv
    >>> round(held_share(fv.load("tiny"), fv.QuantKV(4)), 3)
    0.262
    """
    grids, depth, config = model.grids(), model.depth, model.transformer.config
    tokens = sum(grid.tokens for grid in grids[:-1])
    if isinstance(method, QuantKV):
        held = max(method.held_bytes(grids, depth, config.heads, config.head_dim, rows=1))
        return held / (4 * depth * config.heads * config.head_dim * tokens)
    if isinstance(method, HeatKV):
        return max(method.held_keys(grids, depth)) / (method.pairs * tokens)
    if isinstance(method, ScaleKV):
        return max(method.held_keys(grids, depth)) / (depth * tokens)
    return None
