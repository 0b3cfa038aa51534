"""Multi-scale binary spherical quantisation (Infinity's tokenizer): a latent as bits per scale.

Shapes: latents (B, d, H, W); bits of a scale (B, h * w, d) in raster order, bool. A code lies on
the unit sphere, `(2 * bit - 1) / sqrt(d)`; bit 1 means positive. Source: facts of the released
Infinity code (trilinear with one frame is bilinear; encoding shrinks by area).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def codes(bits: Tensor, h: int, w: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn bits (B, h * w, d) into codes (B, d, h, w)."""
    signs = rearrange(bits, "b (h w) d -> b d h w", h=h, w=w).to(dtype)
    return (2 * signs - 1) / bits.shape[-1] ** 0.5


def upsample(code: Tensor, h: int, w: int) -> Tensor:
    """Bring a code map to the final size, bilinearly; the final size itself is returned as is."""
    if code.shape[-2:] == (h, w):
        return code
    return F.interpolate(code, size=(h, w), mode="bilinear")


def next_input(latent: Tensor, h: int, w: int) -> Tensor:
    """Resize the latent so far to the next scale's map (bilinear, no antialias, as released)."""
    return upsample(latent, h, w)


def encode(
    latent: Tensor,
    sizes: Sequence[tuple[int, int]],
    flip: float | Tensor = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Quantise a latent over `sizes`: labels per scale, and the latent so far after each scale.

    `flip` is the share of bits inverted after labelling, a number or one per picture (B,):
    bitwise self-correction, where later labels answer for earlier mistakes.
    """
    d, (H, W) = latent.shape[1], latent.shape[-2:]
    so_far, labels, states = torch.zeros_like(latent), [], []
    noisy = torch.is_tensor(flip) or flip > 0
    for h, w in sizes:
        rest = F.interpolate(latent - so_far, size=(h, w), mode="area")
        bit = rest > 0
        labels.append(rearrange(bit, "b d h w -> b (h w) d"))
        if noisy:
            share = flip.view(-1, 1, 1, 1) if torch.is_tensor(flip) else flip
            draw = torch.rand(bit.shape, generator=generator).to(bit.device)
            bit = bit ^ (draw < share)
        code = (2 * bit.to(latent.dtype) - 1) / d**0.5
        so_far = so_far + upsample(code, H, W)
        states.append(so_far)
    return labels, states


def straight_through(
    latent: Tensor, sizes: Sequence[tuple[int, int]], shown: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Quantise with gradients passed straight to the latent; return the result and commitment.

    The commitment is the mean squared distance of the latent to its quantisation over all
    scales; `shown` (B,) limits the returned result of each picture to its first scales.
    """
    with torch.no_grad():
        _, states = encode(latent, sizes)
        result = states[-1]
        if shown is not None:
            result = torch.stack([states[int(k) - 1][i] for i, k in enumerate(shown)])
    return latent + (result - latent).detach(), (latent - states[-1]).square().mean()
