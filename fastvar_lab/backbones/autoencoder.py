"""The convolutional autoencoder under every tokenizer here.

Keys follow the VQ-GAN lineage (`encoder.down.0.block.1.conv2.weight`, ...); Infinity's released
files add `.conv` and `.norm` to the last module's name. Shapes: images
(B, 3, H, W) in [-1, 1]; latents (B, d, H / stride, W / stride).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from fastvar_lab.backbones.quantize import HybridQuantizer, VectorQuantizer
from fastvar_lab.tokens import wide


@dataclass(frozen=True)
class AutoEncoderConfig:
    """Widths per level from fine to coarse; each level after the first halves the map.

    `patch` > 1 folds patch x patch pixels into channels before the first convolution, which
    keeps full-resolution convolutions (the whole cost on a CPU) out of small tokenizers.
    """

    channels: int
    widths: tuple[int, ...]
    encoder_blocks: int = 2
    decoder_blocks: int = 3
    patch: int = 1
    attention: bool = False  # in the coarsest level and in the middle, as in VAR
    encoder_context: tuple[int, ...] = ()  # widths of coarser maps in the middle (tiny)
    decoder_context: tuple[int, ...] = ()

    @property
    def stride(self) -> int:
        """The number of pixels per latent cell along each side."""
        return int(self.patch * 2 ** (len(self.widths) - 1))


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=1e-6)


class ResBlock(nn.Module):
    """norm, SiLU, conv, twice, around a skip (1x1 when the width changes)."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(width_in), nn.Conv2d(width_in, width, 3, padding=1)
        self.norm2, self.conv2 = _norm(width), nn.Conv2d(width, width, 3, padding=1)
        self.nin_shortcut = nn.Identity() if width_in == width else nn.Conv2d(width_in, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class Downsample(nn.Module):
    """Halve the map: zero-pad right and bottom, 3x3 convolution of stride 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the map: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class AttnBlock(nn.Module):
    """Single-head attention over the cells of a map, around a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv = _norm(width), nn.Conv2d(width, 3 * width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        # fused kernels need a head dimension
        qkv = rearrange(self.qkv(self.norm(x)), "b (t c) h w -> t b 1 (h w) c", t=3)
        y = F.scaled_dot_product_attention(*qkv)
        return x + self.proj_out(rearrange(y, "b 1 (h w) c -> b c h w", h=x.shape[-2]))


class Context(nn.Module):
    """Add context from coarser maps, each half the size of the last, around a skip.

    What it adds begins at zero, so that it can be put into a trained autoencoder.
    """

    def __init__(self, width: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        inner = (width, *widths)
        pairs = list(pairwise(inner))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.block = nn.ModuleList(ResBlock(b, b) for b in widths)
        self.bottom = ResBlock(inner[-1], inner[-1])
        self.up = nn.ModuleList(nn.Conv2d(b, a, 3, padding=1) for a, b in pairs)
        for conv in self.up[:1]:
            nn.init.zeros_(cast(nn.Conv2d, conv).weight)
            nn.init.zeros_(cast(Tensor, cast(nn.Conv2d, conv).bias))

    def forward(self, x: Tensor) -> Tensor:
        finer = []
        for down, block in zip(self.down, self.block, strict=True):
            finer.append(x)
            x = block(down(x))
        x = self.bottom(x)
        for up, skip in zip(reversed(self.up), reversed(finer), strict=True):
            x = skip + up(F.interpolate(x, skip.shape[-2:], mode="nearest"))
        return x


def _level(width_in: int, width: int, blocks: int, attention: bool) -> nn.ModuleDict:
    inner = [width_in] + [width] * (blocks - 1)
    level = nn.ModuleDict({"block": nn.ModuleList(ResBlock(a, width) for a in inner)})
    if attention:
        level["attn"] = nn.ModuleList(AttnBlock(width) for _ in inner)
    return level


def _run_level(level: Any, x: Tensor) -> Tensor:
    for i, block in enumerate(level["block"]):
        x = block(x)
        if "attn" in level:
            x = level["attn"][i](x)
    return x


def _middle(config: AutoEncoderConfig, context: tuple[int, ...]) -> nn.ModuleDict:
    width = config.widths[-1]
    middle = nn.ModuleDict({"block_1": ResBlock(width, width)})
    if config.attention:
        middle["attn_1"] = AttnBlock(width)
    if context:
        middle["context"] = Context(width, context)
    middle["block_2"] = ResBlock(width, width)
    return middle


class Encoder(nn.Module):
    """Encodes images to latents."""

    def __init__(self, config: AutoEncoderConfig) -> None:
        super().__init__()
        widths, self.patch = config.widths, config.patch
        self.conv_in = nn.Conv2d(3 * config.patch**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        for i, width in enumerate(widths):
            last = i == len(widths) - 1
            attention = config.attention and last
            level = _level(widths[max(i - 1, 0)], width, config.encoder_blocks, attention)
            if not last:
                level["downsample"] = Downsample(width)
            self.down.append(level)
        self.mid = _middle(config, config.encoder_context)
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.channels, 3, padding=1)

    def features(self, image: Tensor) -> Tensor:
        """Return the features before the last convolution: (B, width, H / stride, W / stride)."""
        x = self.conv_in(F.pixel_unshuffle(image, self.patch))
        level: Any
        for level in self.down:
            x = _run_level(level, x)
            if "downsample" in level:
                x = level["downsample"](x)
        for block in self.mid.values():
            x = block(x)
        return F.silu(self.norm_out(x))

    def forward(self, image: Tensor) -> Tensor:
        return self.conv_out(self.features(image))


class Decoder(nn.Module):
    """Decodes latents to images, without clamping."""

    def __init__(self, config: AutoEncoderConfig) -> None:
        super().__init__()
        widths, self.patch = config.widths, config.patch
        self.conv_in = nn.Conv2d(config.channels, widths[-1], 3, padding=1)
        self.mid = _middle(config, config.decoder_context)
        self.up = nn.ModuleList()
        for i, width in enumerate(widths):
            top = min(i + 1, len(widths) - 1)
            attention = config.attention and i == len(widths) - 1
            level = _level(widths[top], width, config.decoder_blocks, attention)
            if i > 0:
                level["upsample"] = Upsample(width)
            self.up.append(level)
        self.norm_out = _norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3 * config.patch**2, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.conv_in(latent)
        for block in self.mid.values():
            x = block(x)
        level: Any
        for level in reversed(self.up):
            x = _run_level(level, x)
            if "upsample" in level:
                x = level["upsample"](x)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(x))), self.patch)


class AutoEncoder(nn.Module):
    """The encoder and decoder of a tokenizer; its quantiser is in `quantize`."""

    def __init__(self, config: AutoEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    def channels_last(self) -> AutoEncoder:
        """Store convolution weights channels last, which is about a third faster on a CPU."""
        return cast(AutoEncoder, cast(nn.Module, self).to(memory_format=torch.channels_last))  # type: ignore[call-overload]

    def encode(self, pictures: Tensor) -> Tensor:
        """Encode pictures (B, 3, H, W) in [0, 1] to latents (B, d, h, w), float32 or float64."""
        weight = self.encoder.conv_in.weight
        return wide(self.encoder((2 * pictures - 1).to(weight.dtype)))

    def decode(self, latent: Tensor) -> Tensor:
        """Decode a latent (B, d, h, w) to pictures (B, 3, H, W) in [0, 1], float32."""
        weight = self.decoder.conv_in.weight
        return (self.decoder(latent.to(weight.dtype)).float().clamp(-1, 1) + 1) / 2


class VQTokenizer(AutoEncoder):
    """VAR's and HART's tokenizer: the autoencoder, a convolution on either side, a codebook."""

    def __init__(
        self,
        config: AutoEncoderConfig,
        vocabulary: int,
        scales: int,
        hybrid: bool = False,
        share_quant_resi: int = 4,
    ) -> None:
        super().__init__(config)
        quantizer = HybridQuantizer if hybrid else VectorQuantizer
        self.quantize = quantizer(vocabulary, config.channels, scales, share_quant_resi)
        self.quant_conv, self.post_quant_conv = (
            nn.Conv2d(config.channels, config.channels, 3, padding=1) for _ in range(2)
        )

    def encode(self, pictures: Tensor) -> Tensor:
        weight = self.quant_conv.weight
        return wide(self.quant_conv(super().encode(pictures).to(weight.dtype)))

    def decode(self, latent: Tensor) -> Tensor:
        return super().decode(self.post_quant_conv(latent.to(self.post_quant_conv.weight.dtype)))
