"""Zero-shot editing: the tokens of a picture, and masks of those that stay.

In-painting draws the inside of a region anew, out-painting all but the inside, and class editing
draws it as another class. `generate` takes the tokens as `given` and the mask as `keep`. Source:
released VAR code, zero-shot editing notebook.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastvar_lab.models.model import Model
from fastvar_lab.scales import Sizes, as_sizes

Box = tuple[float, float, float, float]
"""A region as shares of the sides: top, left, bottom, right."""

SLACK = 0.1
"""How far values of pictures may lie outside of [0, 1], as bicubic resizing leaves them."""


def region_mask(h: int, w: int, box: Box, outpaint: bool = False) -> Tensor:
    """Return the mask (h, w) of tokens that stay: those outside of `box`, bool.

    With `outpaint`, those inside. Raises ValueError for a box that is no region of the picture, or
    covers no token.

    >>> region_mask(2, 4, (0.0, 0.5, 1.0, 1.0)).int()
    tensor([[1, 1, 0, 0],
            [1, 1, 0, 0]], dtype=torch.int32)
    """
    top, left, bottom, right = box
    if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
        raise ValueError(
            "a region is top, left, bottom and right as shares of the sides, such as "
            f"(0.25, 0.25, 0.75, 0.75); not {tuple(box)}"
        )
    inside = torch.zeros(h, w, dtype=torch.bool)
    inside[round(top * h) : round(bottom * h), round(left * w) : round(right * w)] = True
    if not inside.any():
        raise ValueError(f"the region {tuple(box)} covers no token of a map of {h}x{w}")
    return inside if outpaint else ~inside


def parse_region(text: str) -> Box:
    """Read a region, `top,left,bottom,right`; raise ValueError for anything else.

    >>> parse_region("0.25,0.25,0.75,0.75")
    (0.25, 0.25, 0.75, 0.75)
    """
    try:
        top, left, bottom, right = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"a region is top,left,bottom,right, such as 0.25,0.25,0.75,0.75; not {text!r}"
        ) from None
    return top, left, bottom, right


def picture_size(model: Model, sizes: Sizes) -> tuple[int, int]:
    """Return height and width in pixels of the pictures of a schedule."""
    stride = model.tokenizer.config.stride * model.quantizer.patch
    height, width = (stride * side for side in sizes[-1])
    return height, width


@torch.no_grad()
def encode_pictures(
    model: Model, pictures: Tensor, sizes: Sequence[tuple[int, int]] | None = None
) -> list[Tensor]:
    """Encode pictures (n, 3, H, W) in [0, 1] to the tokens of each scale step, as in a Generation.

    Raises ValueError for pictures of another size than the schedule, for values beyond what
    resizing leaves of [0, 1], and for a model without an encoder.
    """
    maps = model.sizes if sizes is None else as_sizes(sizes)
    tokenizer, quantizer = model.tokenizer, model.quantizer
    if not hasattr(tokenizer, "encode") or not hasattr(quantizer, "encode"):
        raise ValueError(f"{model.name} has no encoder of pictures")
    height, width = picture_size(model, maps)
    if tuple(pictures.shape[1:]) != (3, height, width):
        raise ValueError(
            f"{model.name} encodes pictures of shape (n, 3, {height}, {width}) under this "
            f"schedule; not {tuple(pictures.shape)}"
        )
    if not pictures.is_floating_point() or not _within(pictures, -SLACK, 1 + SLACK):
        raise ValueError(
            f"{model.name} encodes pictures of floats in [0, 1]; not {pictures.dtype} in "
            f"[{float(pictures.min()):g}, {float(pictures.max()):g}]"
        )
    latent: Any = tokenizer.encode(pictures.to(model.device))
    return quantizer.encode(latent, maps)


def _within(x: Tensor, least: float, most: float) -> bool:
    """Return whether all values are numbers in [least, most]."""
    return x.numel() == 0 or bool(((x >= least) & (x <= most)).all())
