"""An auxiliary loss: a middle layer of the transformer predicts the object at each token.

The bit loss alone binds places to nouns slowly: of two objects, one takes the other's shape. Here a
linear map of a middle layer's tokens predicts shape, color and texture; it is dropped after
training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from fastvar_lab.tokens import gather
from fastvar_lab.training.focus import LOOKS


def marked(looks: Tensor) -> Tensor:
    """Encode look maps one-hot: (B, sum of LOOKS, H, W).

    `looks` (B, 3, H, W) are class indices of shape, color and texture, see `look_maps`.
    """
    planes = [F.one_hot(x.long(), k) for x, k in zip(looks.unbind(1), LOOKS, strict=True)]
    return rearrange(torch.cat(planes, dim=-1).float(), "b h w k -> b k h w")


def shares(marks: Tensor, h: int, w: int) -> Tensor:
    """Return the share of each token's cell that each class covers: (B, h * w, sum of LOOKS)."""
    return rearrange(F.interpolate(marks, size=(h, w), mode="area"), "b k h w -> b (h w) k")


class Namer(nn.Module):
    """A linear map from a token's features to the shape, color and texture at its cell."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, sum(LOOKS))

    def forward(
        self,
        x: Tensor,
        looks: Tensor,
        sizes: Sequence[tuple[int, int]],
        positions: Sequence[Tensor | None],
    ) -> tuple[Tensor, float]:
        """Return the cross-entropy, and the shape accuracy on object tokens of the last map.

        `x` (B, L, C) are the tokens of all scales, `positions` (B, K) their raster positions in
        each map, None for all. Objects and background have equal weight in every scale's loss.
        """
        marks, picked = marked(looks), list[Tensor]()
        for (h, w), at in zip(sizes, positions, strict=True):
            each = shares(marks, h, w)
            picked.append(each if at is None else gather(each, at))
        counts = torch.cat([_halves(1 - s[..., 0]) for s in picked], dim=1) / len(picked)
        odds = self.head(self.norm(x.float())).split(LOOKS, dim=-1)
        truth = torch.cat(picked, dim=1).split(LOOKS, dim=-1)
        losses = [
            -((target * guess.log_softmax(-1)).sum(-1) * counts).sum()
            for guess, target in zip(odds, truth, strict=True)
        ]
        with torch.no_grad():
            guess, target = (t[0][:, -picked[-1].shape[1] :] for t in (odds, truth))
            inside = target[..., 0] < 0.5
            hit = guess[..., 1:].argmax(-1) == target[..., 1:].argmax(-1)
            right = float((hit & inside).sum() / inside.sum().clamp(min=1))
        return torch.stack(losses).sum(), right


def _halves(inside: Tensor) -> Tensor:
    """Return token weights (B, K) in which objects and background sum to one half each."""
    outside = 1 - inside
    return inside / (2 * inside.sum() + 1e-6) + outside / (2 * outside.sum() + 1e-6)
