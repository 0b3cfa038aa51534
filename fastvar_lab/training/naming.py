"""Ask the transformer, half-way up, what lies at each token: which word of the prompt belongs here.

Bits tell shapes apart late and weakly, so from them alone the way from a place to its noun is
learnt slowly: with two objects, one takes the other's shape. A linear map of a middle layer's
tokens names shape, color and texture instead; it is thrown away after training.
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
    """Mark the looks of every cell: (B, sum of LOOKS, H, W), ones and zeros.

    `looks` (B, 3, H, W) numbers shape, color and texture, see `look_maps`.
    """
    planes = [F.one_hot(x.long(), k) for x, k in zip(looks.unbind(1), LOOKS, strict=True)]
    return rearrange(torch.cat(planes, dim=-1).float(), "b h w k -> b k h w")


def shares(marks: Tensor, h: int, w: int) -> Tensor:
    """Share of every token's cell that each look covers: (B, h * w, sum of LOOKS)."""
    return rearrange(F.interpolate(marks, size=(h, w), mode="area"), "b k h w -> b (h w) k")


class Namer(nn.Module):
    """A linear map from a token's features to the looks of what lies there."""

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
        """Return the loss of naming, and the share of the last map's object tokens named rightly.

        `x` (B, L, C) are the tokens of all scales, `positions` (B, K) which ones, None for all.
        Half of every scale's loss is that of objects, half that of background.
        """
        marks, picked = marked(looks), list[Tensor]()
        for (h, w), at in zip(sizes, positions, strict=True):
            each = shares(marks, h, w)
            picked.append(each if at is None else gather(each, at))
        counts = torch.cat([_halves(1 - s[..., 0]) for s in picked], dim=1) / len(picked)
        odds = self.head(self.norm(x.float())).split(LOOKS, dim=-1)
        truth = torch.cat(picked, dim=1).split(LOOKS, dim=-1)
        losses = [
            -((wanted * guess.log_softmax(-1)).sum(-1) * counts).sum()
            for guess, wanted in zip(odds, truth, strict=True)
        ]
        with torch.no_grad():
            guess, wanted = (t[0][:, -picked[-1].shape[1] :] for t in (odds, truth))
            inside = wanted[..., 0] < 0.5
            hit = guess[..., 1:].argmax(-1) == wanted[..., 1:].argmax(-1)
            right = float((hit & inside).sum() / inside.sum().clamp(min=1))
        return torch.stack(losses).sum(), right


def _halves(inside: Tensor) -> Tensor:
    """Weigh tokens (B, K) by their share of object: object and background sum to a half each."""
    outside = 1 - inside
    return inside / (2 * inside.sum() + 1e-6) + outside / (2 * outside.sum() + 1e-6)
