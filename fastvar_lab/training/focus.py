"""Where a training step looks: which tokens of each map are trained, and how much they count.

Most of a picture is background, whose fine grain nobody can predict; what a prompt decides lies
in and around the objects. Training knows where they are, so it looks there more often.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvar_lab.world.grammar import COLORS, SHAPES, TEXTURES
from fastvar_lab.world.scene import REACH, Scene

BACKGROUND = 0.2  # what a token of background counts beside one of an object
LOOKS = (1 + len(SHAPES), 1 + len(COLORS), 1 + len(TEXTURES))  # answers to what lies in a cell
ELSEWHERE = 0.02  # chance of a cell of background to be a window's place, beside one of an object
DOTTED = 2.0  # what a dotted cell of an object counts on top of the 1 of any
SCATTERED = 0.25  # share of steps whose tokens are scattered, as pruning leaves them
JITTER = 0.06  # how far from its object a window lies, standard deviation, share of the side


def object_map(scene: Scene, h: int, w: int) -> Tensor:
    """Tell the cells (h, w) within reach of an object, bool."""
    short = min(h, w)
    y = (torch.arange(h) + 0.5).unsqueeze(1)
    x = torch.arange(w) + 0.5
    reached = torch.zeros(h, w, dtype=torch.bool)
    for o in scene.objects:
        reached |= torch.hypot(y - o.y * h, x - o.x * w) <= o.size * REACH * short + 0.5
    return reached


def look_maps(scene: Scene, h: int, w: int) -> Tensor:
    """Name what lies in each cell: shape, color and texture (3, h, w), 0 where nothing does."""
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
    """Weigh the tokens of every map, (B, h * w), mean 1, by the share of object in their cell.

    `objects` are object maps (B, H, W), bool.
    """
    maps = objects.unsqueeze(1).float()
    shares = [F.interpolate(maps, size=size, mode="area").flatten(1) for size in sizes]
    raw = [BACKGROUND + (1 - BACKGROUND) * share for share in shares]
    return [r / r.mean() for r in raw]


def window(h: int, w: int, most: int, centers: Tensor) -> Tensor:
    """Choose one window of about `most` tokens per picture: raster positions (B, K).

    It lies around `centers` (B, 2), y and x as shares of the sides, or as near as the map allows.
    """
    a, b = min(h, round((most * h / w) ** 0.5)), min(w, round((most * w / h) ** 0.5))
    room = torch.tensor([h - a, w - b])
    corner = (centers * torch.tensor([h, w]) - torch.tensor([a, b]) / 2).round().long()
    top, left = corner.clamp(torch.zeros(2, dtype=torch.long), room).unsqueeze(-1).unbind(1)
    rows, columns = top + torch.arange(a), left + torch.arange(b)
    return (rows.unsqueeze(2) * w + columns.unsqueeze(1)).flatten(1)


def centers(objects: Tensor, looks: Tensor, draw: torch.Generator) -> Tensor:
    """Draw a place per picture (B, 2), y and x in [0, 1], mostly in an object of `objects`.

    Dots are the hardest to keep apart, so where `looks` (B, 3, H, W) says dotted it counts more.
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
    """Choose which tokens of each map are trained: None for all, else raster positions (B, K).

    Larger maps than `most` tokens are sampled, either by a window around the place `around`
    (B, 2) of each picture at every scale, which keeps neighbourhoods dense, or scattered by
    `weights`, which is what pruning leaves in the KV cache.
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
