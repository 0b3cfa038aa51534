"""From logits to outcomes: guidance, temperature, nucleus cut for bits."""

from __future__ import annotations

import torch
from torch import Tensor


def guide(logits: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: logits (2n, ...), conditional rows first -> (n, ...).

    `scale * cond + (1 - scale) * null`, Infinity's constant form.
    """
    cond, null = logits.chunk(2)
    return scale * cond + (1 - scale) * null


def bit_probabilities(logits: Tensor, top_p: float) -> Tensor:
    """Softmax over (..., 2) in float32; a bit value of probability <= 1 - top_p never happens."""
    p = logits.float().softmax(-1)
    if top_p <= 0 or top_p >= 1:
        return p
    rare = p <= 1 - top_p
    sure = p > p.flip(-1)
    return torch.where(rare.any(-1, keepdim=True) & (p != p.flip(-1)), sure.to(p.dtype), p)
