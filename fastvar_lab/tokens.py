"""Pure functions on token maps (B, L, C): gather, scatter, resize, nearest kept token."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def has_content(x: Tensor) -> bool:
    """Return whether x holds values, as opposed to shapes alone while memory is counted.

    What is computed from a tensor without content must not be kept for later generations.
    """
    return not x.is_meta and type(x).__name__ != "FakeTensor"


def wide(x: Tensor) -> Tensor:
    """Convert x to float32, unless it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return the matrix product a @ b in float32 at least: autocast would compute in 16 bits."""
    with uncast(a.device):
        return wide(a) @ wide(b)


def uncast(device: torch.device) -> AbstractContextManager[None]:
    """Return a block in which products have the type of their factors, also under autocast."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def distance_to_mean(x: Tensor) -> Tensor:
    """Return the squared distance of every token of x (B, L, C) to the spatial mean: (B, L).

    The score of pivotal token selection (FastVAR, Algorithm 1), in float32 at least. Two tokens
    are equally far from their mean; they get one score, where rounding would tell them apart.
    """
    if x.shape[1] == 2:
        gap = wide(x[:, :1]) - wide(x[:, 1:])
        return (gap.square().sum(dim=-1) / 4).expand(-1, 2)
    precise = torch.promote_types(x.dtype, torch.float32)
    mean = x.mean(dim=1, keepdim=True, dtype=precise)
    return F.mse_loss(x, mean.expand_as(x), reduction="none").sum(dim=-1)


def gather(x: Tensor, index: Tensor) -> Tensor:
    """Take the tokens at index (B, K) from x (B, L, C): (B, K, C)."""
    (view,) = _as_16_bytes(x)
    taken = view.gather(1, index.unsqueeze(-1).expand(-1, -1, view.shape[-1]))
    return taken if view is x else taken.view(x.dtype)


def scatter(base: Tensor, index: Tensor, fresh: Tensor) -> Tensor:
    """Write fresh (B, K, C) over base (B, L, C) at index (B, K), in place; return base."""
    below, above = _as_16_bytes(base, fresh)
    below.scatter_(1, index.unsqueeze(-1).expand_as(above), above)
    return base


def _as_16_bytes(*maps: Tensor) -> tuple[Tensor, ...]:
    """View token maps as elements of 16 bytes, which are copied faster, if all of them allow it.

    With gradients enabled the maps are returned unchanged, because the view has no gradient.
    """
    if torch.is_grad_enabled() or len({x.dtype for x in maps}) > 1:
        return maps
    for x in maps:
        steps = (x.shape[-1], x.storage_offset(), *x.stride()[:-1])
        fits = not any(step * x.element_size() % 16 for step in steps) and x.is_contiguous()
        if not fits or x.data_ptr() % 16 or x.device.type == "mps":  # mps has no complex128
            return maps
    return tuple(x.view(torch.complex128) for x in maps)


def rows_like(x: Tensor, rows: int, live: slice) -> Tensor:
    """Bring what was computed for some guidance rows (B, ...) to those that run: (rows, ...).

    `live` are the rows that run. Rows that were absent take the values of those that ran; fused
    streams take the conditional rows' values.
    """
    if len(x) > rows:
        x = x[live]
    if len(x) > rows:
        x = x[:rows]
    return x if len(x) == rows else x.repeat(rows // len(x), *[1] * (x.ndim - 1))


def same_rows(*parts: Tensor) -> list[Tensor]:
    """Bring what layers computed for guidance rows (B, ...) to the rows of the part with most.

    Where streams were fused, both rows take the values of the conditional ones.
    """
    most = max(map(len, parts))
    return [rows_like(part, most, slice(None)) for part in parts]


def resize(x: Tensor, old: tuple[int, int], new: tuple[int, int], mode: str = "area") -> Tensor:
    """Resize a token map (B, h * w, C) from `old` to `new` (h, w); always returns a new tensor."""
    picture = rearrange(x, "b (h w) c -> b c h w", h=old[0], w=old[1])
    align = {} if mode in ("area", "nearest") else {"align_corners": False}
    return rearrange(F.interpolate(picture, size=new, mode=mode, **align), "b c h w -> b (h w) c")


def nearest_kept(index: Tensor, h: int, w: int) -> Tensor:
    """Return the position in `index` of the kept token nearest to every cell: (B, h * w).

    Distances are Euclidean on the h x w map; ties go to the first token in `index` (B, K).
    """
    cells = torch.arange(h * w, device=index.device)
    place = torch.stack((cells // w, cells % w), dim=-1).float()  # (L, 2)
    kept = place[index]  # (B, K, 2)
    exact = "donot_use_mm_for_euclid_dist"  # matrix products on a GPU may round too coarsely
    far = torch.cdist(place.expand(len(index), -1, -1), kept, compute_mode=exact)
    return far.argmin(dim=-1)
