"""Pure functions on token maps (B, L, C): gather, scatter, resize, nearest kept neighbour."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """Return x in float32 at least."""
    return x if x.dtype == torch.float64 else x.float()


def distance_to_mean(x: Tensor) -> Tensor:
    """Squared distance of every token of x (B, L, C) to the spatial mean: (B, L).

    The score of pivotal token selection (FastVAR, Algorithm 1), in float32 at least.
    """
    precise = torch.promote_types(x.dtype, torch.float32)
    return (x - x.mean(dim=1, keepdim=True, dtype=precise)).square_().sum(dim=-1)


def gather(x: Tensor, index: Tensor) -> Tensor:
    """Take the tokens at index (B, K) from x (B, L, C): (B, K, C)."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def scatter(base: Tensor, index: Tensor, fresh: Tensor) -> Tensor:
    """Write fresh (B, K, C) over base (B, L, C) at index (B, K), in place; return base."""
    return base.scatter_(1, index.unsqueeze(-1).expand_as(fresh), fresh)


def resize(x: Tensor, old: tuple[int, int], new: tuple[int, int], mode: str = "area") -> Tensor:
    """Resize a token map (B, h * w, C) from `old` to `new` (h, w); always returns a new tensor."""
    picture = rearrange(x, "b (h w) c -> b c h w", h=old[0], w=old[1])
    align = {} if mode in ("area", "nearest") else {"align_corners": False}
    return rearrange(F.interpolate(picture, size=new, mode=mode, **align), "b c h w -> b (h w) c")


def nearest_kept(index: Tensor, h: int, w: int) -> Tensor:
    """For every cell of an h x w map, which of the kept ones is nearest: (B, h * w) into K.

    Euclidean distance on the map; ties go to the first in `index` (B, K).
    """
    cells = torch.arange(h * w, device=index.device)
    place = torch.stack((cells // w, cells % w), dim=-1).float()  # (L, 2)
    kept = place[index]  # (B, K, 2)
    return torch.cdist(place.expand(len(index), -1, -1), kept).argmin(dim=-1)
