"""Unfused attention: materialises the whole attention matrix, which fused kernels avoid."""

from __future__ import annotations

from torch import Tensor

from fastvar_lab.seam import Grid, Runner, Site, Wrapper, block_causal
from fastvar_lab.tokens import product


class Unfused(Wrapper):
    """Computes attention by matrix products; `largest` is the largest matrix in bytes."""

    def __init__(self, inner: Runner) -> None:
        super().__init__(inner)
        self.largest = 0

    def attend(
        self,
        site: Site,
        grid: Grid,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        k, v, mask = self.inner.reads(site, grid, q, k, v, mask, scale)
        if site.kind == "attn" and len(grid.steps) > 1:
            lengths = [self.forwarded(site, step) for step in grid.steps]
            return block_causal(q, k, v, lengths, scale, self._products)
        return self._products(q, k, v, scale, mask)

    def _products(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None
    ) -> Tensor:
        weights = product(q, k.transpose(-1, -2)) * scale
        if mask is not None:
            weights = weights + mask
        self.largest = max(self.largest, weights.numel() * weights.element_size())
        return product(weights.softmax(-1), v).to(q.dtype)
