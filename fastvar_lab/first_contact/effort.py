"""What a check takes: forwards, operations, memory, and the speed of a device."""

from __future__ import annotations

import time

import torch

from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.models.requirements import memory
from fastvar_lab.seam import Grid
from fastvar_lab.speed.flops import step_flops, total

FIRST_TOKENS = 1000  # tokens of the first scales, over which sublayers are left out one by one
REORDERED = 6  # likelihoods of the first scales with tensors in another order, and in theirs


def effort(model: Model) -> tuple[int, float]:
    """Return the number of forwards of a check and their operations, guidance rows included."""
    full = total(step_flops(model, Dense(), model.grids()))
    sites = model.depth * len(model.transformer.kinds) + REORDERED
    share = sum(g.tokens for g in first_steps(model)) / sum(g.tokens for g in model.grids())
    return sites + 12, full * (9 / 2 + sites * share / 2 + 2)


def needed(model: Model, dtype: str) -> int:
    """Return the bytes that a check needs at most: weights, KV cache of one picture, decoder."""
    parts = sum(p.numel() for part in model.parts for p in part.parameters())
    cache = memory(model, model.tokenizer.config.stride * model.sizes[-1][0])
    factor = 1 if dtype == "bfloat16" else 2
    return factor * cache + parts * getattr(torch, dtype).itemsize // 2


def speed(device: str, dtype: str) -> float:
    """Return the operations per second of a large product, measured in well under a second."""
    side = 4096 if device != "cpu" else 768
    x = torch.randn(side, side, device=device, dtype=getattr(torch, dtype))
    for _ in range(2):
        begin = time.perf_counter()
        product = x @ x
        float(product[0, 0])  # waits for the device
    return 2 * side**3 / (time.perf_counter() - begin) / 2  # layers reach about half of it


def first_steps(model: Model) -> list[Grid]:
    """Return the first scale steps, at least two, that have at most `FIRST_TOKENS` tokens."""
    grids, count = list(model.grids()), 0
    for i, grid in enumerate(grids):
        count += grid.tokens
        if count > FIRST_TOKENS:
            return grids[: max(i, 2)]
    return grids
