"""Positions of tokens: rotary tables of maps, their rotation of pairs, and sines of places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from fastvar_lab.tokens import wide

ROTARY_MODES = ("absolute", "interpolated", "scaled")
"""Rotary positions by name: `rope2d_normalized_by_hw` 0, 1 and 2 of the released code."""

ROTARY_SIDE = 128  # cells along the longer side of the grid of "interpolated" positions


def angular_rates(width: int, stride: int, device: torch.device | str) -> Tensor:
    """Return rotary frequencies 10000 ** (-i / width), every stride-th i, rounded as released."""
    return 1.0 / 10000.0 ** (torch.arange(0, width, stride, device=device).float() / width)


def rotary(
    maps: Sequence[tuple[int, int]],
    references: Sequence[tuple[int, int]],
    head_dim: int,
    device: torch.device | str = "cpu",
) -> list[Tensor]:
    """Return the 2-D rotary tables of maps (h, w), unit complex numbers (h * w, head_dim / 2) each.

    Positions are normalised to the reference grid of a map, `round(i * H / h)`; the first half of
    the pairs turns with y, the second with x. Source: released Infinity, `rope2d_normalized_by_hw`
    = 2.
    """
    places = []
    for (h, w), (height, width) in zip(maps, references, strict=True):
        y, x = (np.arange(n, dtype=np.float32) for n in (h, w))
        y, x = np.round(y * np.float32(height / h)), np.round(x * np.float32(width / w))
        places.append(np.stack((np.repeat(y, w), np.tile(x, h)), axis=1))
    yx = torch.from_numpy(np.concatenate(places)).to(device)  # (cells of all maps, 2)
    angles = (yx.unsqueeze(-1) * angular_rates(head_dim // 2, 2, device)).flatten(1)
    tables = torch.complex(angles.cos(), angles.sin())  # not `polar`, whose last digits differ
    return list(tables.split([h * w for h, w in maps]))


def rotate_(x: Tensor, table: Tensor) -> Tensor:
    """Rotate neighbouring pairs of x (B, K, H, c) by a table (K, c / 2) or (B, K, c / 2).

    In place where x is float32 already; returns float32 at least.
    """
    pairs = torch.view_as_complex(wide(x).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs.mul_(table.unsqueeze(-2).to(pairs.dtype))).flatten(-2)


def sines(h: int, w: int, waves: int, device: torch.device) -> Tensor:
    """Sines and cosines of each cell's place as a share of the sides: (h * w, 4 * waves)."""
    shares = ((torch.arange(n, device=device).float() + 0.5) / n for n in (h, w))
    cells = torch.stack(torch.meshgrid(*shares, indexing="ij"), dim=-1)
    turns = cells.unsqueeze(-1) * torch.pi * torch.arange(1, waves + 1, device=device).float()
    return rearrange([turns.sin(), turns.cos()], "wave h w side f -> (h w) (side wave f)")


def interpolated_rotary(
    h: int, w: int, reference: tuple[int, int], head_dim: int, device: torch.device
) -> Tensor:
    """Return the rotary table (h * w, head_dim / 2) of an h x w map, resized from a fine grid.

    The grid has `ROTARY_SIDE` cells along its longer side and the aspect of `reference`; its
    cosines and sines are resized bilinearly, corners to corners. Source: released Infinity,
    `rope2d_normalized_by_hw` = 1.
    """
    height, width = reference
    longer = max(height, width)
    rows, columns = (
        ROTARY_SIDE if side == longer else int(ROTARY_SIDE / longer * side)
        for side in (height, width)
    )
    (grid,) = rotary([(rows, columns)], [(rows, columns)], head_dim, device)
    parts = rearrange(torch.view_as_real(grid), "(h w) c two -> two c h w", h=rows)
    parts = F.interpolate(parts, size=(h, w), mode="bilinear", align_corners=True)
    return torch.view_as_complex(rearrange(parts, "two c h w -> (h w) c two").contiguous())
