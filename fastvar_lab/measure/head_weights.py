"""Attention weights in full, one head at a time: those of all heads would not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from fastvar_lab.tokens import product


def head_weights(q: Tensor, k: Tensor, scale: float) -> Iterator[Tensor]:
    """Yield each head's attention (B, K, T) of queries q (B, H, K, c) to keys k (B, H, T, c).

    In float32 at least; rows sum to 1. `scale` multiplies the products.

    >>> import torch
    >>> q, k = torch.ones(1, 2, 3, 4), torch.ones(1, 2, 5, 4)
    >>> [weights.shape for weights in head_weights(q, k, 0.5)]
    [torch.Size([1, 3, 5]), torch.Size([1, 3, 5])]
    """
    for queries, keys in zip(q.unbind(1), k.unbind(1), strict=True):
        yield (product(queries, keys.transpose(-1, -2)) * scale).softmax(-1)
