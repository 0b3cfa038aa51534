"""Quantisers: they sum the tokens of all scales to a latent, and give the next scale's input.

Infinity's is multi-scale binary spherical quantisation: bits of a scale (B, h * w, d) in raster
order, bool; a code lies on the unit sphere, `(2 * bit - 1) / sqrt(d)`, bit 1 meaning positive
(released Infinity code; its trilinear resizing of one frame is bilinear, encoding shrinks by
area). VAR's looks codes up in a codebook and smooths them; HART's adds continuous residuals.
Latents are (B, d, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from fastvar_lab.seam import Grid


class Quantizer(Protocol):
    """The interface between the next-scale loop and a tokenizer."""

    @property
    def channels(self) -> int:
        """The number d of latent channels."""
        ...

    @property
    def patch(self) -> int:
        """The number of latent cells along each side of a token."""
        ...

    @property
    def codebook(self) -> Tensor | None:
        """The codes (V, d); None if tokens are bits."""
        ...

    def next_input(self, latent: Tensor, grid: Grid) -> Tensor:
        """Resize the latent so far (n, d, H, W) to a step's map (n, d, h, w)."""
        ...

    def accumulate(
        self, latent: Tensor, tokens: Tensor, grid: Grid, places: Tensor | None = None
    ) -> Tensor:
        """Add a step's tokens to the latent so far; return a new tensor.

        Codes count by `places` (n, L), bool or weights, where they are given: zero leaves one out.
        """
        ...


@cache
def code_entry(channels: int, dtype: torch.dtype) -> float:
    """Return the absolute value of a code's entries, 1 / sqrt(channels) as the released code does.

    It normalises a code again after making it, which may change the last binary digit.
    """
    code = torch.full((channels,), channels**-0.5, dtype=dtype, device="cpu")
    return float(F.normalize(code, dim=0)[0])


@dataclass(frozen=True)
class BitQuantizer:
    """Infinity's quantiser: tokens are bits (n, L, d p^2), each of p x p cells of the latent.

    With `patch` p > 1 (the released 8B) the latent is p times as fine as the token map.
    """

    channels: int
    patch: int = 1
    codebook: ClassVar[None] = None

    def __post_init__(self) -> None:
        # cached now, because a generation whose memory is counted has tensors without content
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            code_entry(self.channels, dtype)

    def next_input(self, latent: Tensor, grid: Grid) -> Tensor:
        p = self.patch
        cells = next_input(latent, p * grid.h, p * grid.w)
        return cells if p == 1 else F.pixel_unshuffle(cells, p)

    def encode(self, latent: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Quantise a latent: the bits (n, h * w, d p^2) of each scale."""
        p = self.patch
        bits, _ = encode(latent, [(p * h, p * w) for h, w in sizes])
        maps = (rearrange(b, "n (h w) d -> n d h w", h=p * h) for b, (h, w) in zip(bits, sizes))
        return [rearrange(F.pixel_unshuffle(m, p), "n d h w -> n (h w) d") for m in maps]

    def accumulate(
        self, latent: Tensor, tokens: Tensor, grid: Grid, places: Tensor | None = None
    ) -> Tensor:
        entry = code_entry(self.channels, latent.dtype)
        bits = rearrange(tokens, "b (h w) d -> b d h w", h=grid.h)
        code = bits.to(latent.dtype, memory_format=torch.contiguous_format)
        code = code.mul_(2 * entry).sub_(entry)  # exactly entry or -entry
        if places is not None:
            code = code * on_map(places, grid)
        if self.patch > 1:
            code = F.pixel_shuffle(code, self.patch)
        return latent + upsample(code, *latent.shape[-2:])


def check_share(convs: int) -> None:
    """Raise ValueError for what is no number of shared convolutions."""
    if convs < 0:
        raise ValueError(
            "share_quant_resi must be 0 (a convolution for each scale), or the number of "
            f"convolutions that the scales share; not {convs}"
        )


class VectorQuantizer(nn.Module):
    """VAR's quantiser: tokens are codebook rows (n, L); one of K convolutions smooths codes.

    phi(h) = h / 2 + conv(h) / 2, the conv being the one whose tick is nearest to the step's place
    in the schedule. `scales` is the schedule's number of steps. `share_quant_resi` is K; with 0
    every step of the `scales` has its own conv, with 1 all share one. Released key names.
    """

    def __init__(
        self, vocabulary: int, channels: int, scales: int, share_quant_resi: int = 4
    ) -> None:
        super().__init__()
        self.channels, self.scales, self.patch = channels, scales, 1
        self.embedding = nn.Embedding(vocabulary, channels)

        def convs(count: int) -> nn.ModuleList:
            layers = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(count))
            return nn.ModuleList(layers)

        self.quant_resi: nn.Module
        if share_quant_resi == 0:
            self.quant_resi = convs(scales)
        elif share_quant_resi == 1:
            self.quant_resi = nn.ModuleDict({"qresi": convs(1)[0]})
        else:
            self.quant_resi = nn.ModuleDict({"qresi_ls": convs(share_quant_resi)})

    @property
    def convs(self) -> list[nn.Conv2d]:
        """The convolutions, first scales first."""
        held = self.quant_resi
        if isinstance(held, nn.ModuleDict):
            held = held["qresi_ls"] if "qresi_ls" in held else nn.ModuleList([held["qresi"]])
        return cast(list[nn.Conv2d], list(cast(nn.ModuleList, held)))

    def phi(self, step: int) -> nn.Conv2d:
        """Return the convolution of a step, the nearest of K evenly spaced ones."""
        convs = self.convs
        place = step / max(1, self.scales - 1)
        half = 1 / (3 if len(convs) == 4 else 2) / len(convs)  # as released
        ticks = np.linspace(half, 1 - half, len(convs))
        return convs[int(np.abs(ticks - place).argmin())]

    def next_input(self, latent: Tensor, grid: Grid) -> Tensor:
        return F.interpolate(latent, size=(grid.h, grid.w), mode="area")

    @property
    def codebook(self) -> Tensor:
        return self.embedding.weight

    def codes(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Turn rows (n, L), or codes (n, L, d) themselves, into a map (n, d, h, w)."""
        codes = tokens if tokens.is_floating_point() else self.embedding(tokens)
        return rearrange(self._typed(codes), "b (h w) d -> b d h w", h=grid.h, w=grid.w)

    def _typed(self, codes: Tensor) -> Tensor:
        """Convert codes to the type of the weights; under autocast they stay as they are."""
        weight = self.embedding.weight
        return codes if torch.is_autocast_enabled(weight.device.type) else codes.to(weight.dtype)

    def accumulate(
        self, latent: Tensor, tokens: Tensor, grid: Grid, places: Tensor | None = None
    ) -> Tensor:
        code = self.codes(tokens, grid)
        if places is not None:
            code = self._typed(code * on_map(places, grid))
        if code.shape[-2:] != latent.shape[-2:]:
            code = F.interpolate(code, size=latent.shape[-2:], mode="bicubic")
        twice = code + self.phi(grid.index)(code)
        return torch.add(latent, twice, alpha=0.5).to(latent.dtype)

    def encode(self, latent: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Quantise a latent: the nearest codebook row of every cell, (n, h * w) per scale."""
        rest, tokens = latent, []
        for step, (h, w) in enumerate(sizes):
            cells = rest if step == len(sizes) - 1 else F.interpolate(rest, (h, w), mode="area")
            flat = rearrange(cells, "b d h w -> b (h w) d")
            book = self.embedding.weight.to(flat.dtype).expand(len(flat), -1, -1)
            tokens.append(torch.cdist(flat, book).argmin(-1))
            so_far = self.accumulate(torch.zeros_like(latent), tokens[-1], Grid(step, h, w))
            rest = rest - so_far
        return tokens


class HybridQuantizer(VectorQuantizer):
    """HART's quantiser: like VAR's, but codes of the final map, with residuals, stay unsmoothed."""

    def accumulate(
        self, latent: Tensor, tokens: Tensor, grid: Grid, places: Tensor | None = None
    ) -> Tensor:
        if (grid.h, grid.w) != latent.shape[-2:]:
            return super().accumulate(latent, tokens, grid, places)
        code = self.codes(tokens, grid)
        if places is not None:
            code = code * on_map(places, grid)
        return (latent + code).to(latent.dtype)


def on_map(places: Tensor, grid: Grid) -> Tensor:
    """Reshape a mask of positions (n, h * w) to a map (n, 1, h, w)."""
    return rearrange(places, "b (h w) -> b 1 h w", h=grid.h)


def upsample(code: Tensor, h: int, w: int) -> Tensor:
    """Resize a code map to the final size, bilinearly; a map of that size is returned unchanged."""
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
            draw = torch.rand(bit.shape, generator=generator, dtype=torch.float32, device="cpu")
            draw = draw.to(bit.device)
            bit = bit ^ (draw < share)
        code = (2 * bit.to(latent.dtype) - 1) / d**0.5
        so_far = so_far + upsample(code, H, W)
        states.append(so_far)
    return labels, states


def straight_through(
    latent: Tensor,
    sizes: Sequence[tuple[int, int]],
    flip: float | Tensor = 0.0,
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    """Quantise with gradients: the latent so far after each scale, (B, d, H, W) per scale.

    A state's gradient reaches what of the latent its map can hold: the means of its cells.
    """
    with torch.no_grad():
        _, states = encode(latent, sizes, flip, generator)
    means = [upsample(F.interpolate(latent, s, mode="area"), *latent.shape[-2:]) for s in sizes]
    return [mean + (state - mean).detach() for mean, state in zip(means, states, strict=True)]
