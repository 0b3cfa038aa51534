"""Selects the tokens of each map that a training step uses, and their weights.

Most of a picture is background, whose grain cannot be predicted. The content of a prompt is in and
around the objects, whose positions are known in training, so tokens there are used more often.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvar_lab.world.grammar import COLORS, SHAPES, TEXTURES
from fastvar_lab.world.scene import REACH, Scene

BACKGROUND = 0.2  # weight of a background token relative to an object token
LOOKS = (1 + len(SHAPES), 1 + len(COLORS), 1 + len(TEXTURES))  # classes of a cell; 0: background
ELSEWHERE = 0.02  # chance of a background cell as a window centre, relative to an object cell
DOTTED = 2.0  # extra chance of a dotted object cell, added to the 1 of any object cell
SCATTERED = 0.25  # share of steps with scattered tokens, like the kept tokens of pruning
JITTER = 0.06  # standard deviation of a window's offset from its cell, as a share of the side


def object_map(scene: Scene, h: int, w: int) -> Tensor:
    """Return the mask (h, w), bool, of the cells within reach of an object."""
    short = min(h, w)
    y = (torch.arange(h) + 0.5).unsqueeze(1)
    x = torch.arange(w) + 0.5
    reached = torch.zeros(h, w, dtype=torch.bool)
    for o in scene.objects:
        reached |= torch.hypot(y - o.y * h, x - o.x * w) <= o.size * REACH * short + 0.5
    return reached


def look_maps(scene: Scene, h: int, w: int) -> Tensor:
    """Return shape, color and texture of each cell as class indices (3, h, w); 0 is background."""
    short = min(h, w)
    y = (torch.arange(h) + 0.5).unsqueeze(1)
    x = torch.arange(w) + 0.5
    maps = torch.zeros(3, h, w, dtype=torch.long)
    for o in scene.objects:
        inside = torch.hypot(y - o.y * h, x - o.x * w) <= o.size * short
        looks = (SHAPES.index(o.shape), list(COLORS).index(o.color), TEXTURES.index(o.texture))
        maps[:, inside] = torch.tensor(looks).unsqueeze(1) + 1
    return maps


def token_weights(objects: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return token weights (B, h * w), mean 1, of every map, by the share of object in each cell.

    `objects` are object maps (B, H, W), bool.
    """
    maps = objects.unsqueeze(1).float()
    shares = [F.interpolate(maps, size=size, mode="area").flatten(1) for size in sizes]
    raw = [BACKGROUND + (1 - BACKGROUND) * share for share in shares]
    return [r / r.mean() for r in raw]


def window(h: int, w: int, most: int, centers: Tensor) -> Tensor:
    """Return raster positions (B, K) of a window of about `most` tokens in each picture.

    `centers` (B, 2) are y and x as shares of the sides; windows are shifted to fit into the map.
    """
    a, b = min(h, round((most * h / w) ** 0.5)), min(w, round((most * w / h) ** 0.5))
    room = torch.tensor([h - a, w - b])
    corner = (centers * torch.tensor([h, w]) - torch.tensor([a, b]) / 2).round().long()
    top, left = corner.clamp(torch.zeros(2, dtype=torch.long), room).unsqueeze(-1).unbind(1)
    rows, columns = top + torch.arange(a), left + torch.arange(b)
    return (rows.unsqueeze(2) * w + columns.unsqueeze(1)).flatten(1)


def centers(objects: Tensor, looks: Tensor, draw: torch.Generator) -> Tensor:
    """Draw a window centre per picture: (B, 2), y and x as shares of the sides.

    Most lie in an object of `objects` (B, H, W). Dotted cells of `looks` (B, 3, H, W) are drawn
    more often, because dots are the hardest texture.
    """
    b, h, w = objects.shape
    chances = ELSEWHERE + objects.flatten(1).float()
    chances += DOTTED * (looks[:, 2].flatten(1) == 1 + TEXTURES.index("dotted"))
    cell = torch.multinomial(chances, 1, generator=draw).squeeze(1)
    place = torch.stack(((cell // w + 0.5) / h, (cell % w + 0.5) / w), dim=1)
    return place + JITTER * torch.randn(b, 2, generator=draw)


def sampled_positions(
    sizes: Sequence[tuple[int, int]],
    most: int,
    weights: Sequence[Tensor],
    around: Tensor,
    draw: torch.Generator,
) -> list[Tensor | None]:
    """Return the trained tokens of each map: None for all, else raster positions (B, K).

    Maps of more than `most` tokens are sampled. Either every scale has a window around `around`
    (B, 2), which keeps neighbourhoods dense, or tokens are drawn by `weights`, which resembles the
    KV cache after pruning.
    """
    scattered = bool(torch.rand((), generator=draw) < SCATTERED)
    positions: list[Tensor | None] = []
    for (h, w), chances in zip(sizes, weights, strict=True):
        if h * w <= most:
            positions.append(None)
        elif scattered:
            kept = torch.multinomial(chances, most, generator=draw)
            positions.append(kept.sort(dim=1).values)
        else:
            positions.append(window(h, w, most, around))
    return positions
