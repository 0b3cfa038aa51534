"""Pictures: conversion between tensors and arrays, and writing to files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from skimage.io import imsave
from torch import Tensor

from fastvar_lab.files import write


def to_tensor(pictures: Sequence[np.ndarray], device: torch.device | str = "cpu") -> Tensor:
    """Stack (H, W, 3) uint8 pictures as (n, 3, H, W) float32 in [-1, 1], channels last."""
    batch = torch.from_numpy(np.stack(pictures)).to(device)
    return batch.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(images: Tensor) -> np.ndarray:
    """Convert images (n, 3, H, W) in [0, 1] to (n, H, W, 3) uint8, rounded.

    Raises ValueError for values that are no numbers.

    >>> to_uint8(torch.full((1, 3, 2, 2), 0.5))[0, 0, 0]
    array([128, 128, 128], dtype=uint8)
    """
    if bool(images.isnan().any()):
        raise ValueError("the images hold values that are no numbers; there is no picture of them")
    return (images.detach().permute(0, 2, 3, 1) * 255 + 0.5).clamp(0, 255).byte().cpu().numpy()


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 as PNG."""
    write(path, lambda p: imsave(p, image, check_contrast=False))


def file_name(prompt: str, seed: int, size: str, key: str, pruned: bool = False) -> str:
    """Return the file name of a picture: other contents have other names.

    Prompt (shortened for file systems), seed, last map and method are for people; `key` hashes
    all that the content depends on.

    >>> file_name("a red ring", 1, "32x32", "5d1c9a02", pruned=True)
    'a-red-ring-1-32x32-pruned-5d1c9a02.png'
    """
    slug = "-".join("".join(c if c.isalnum() else " " for c in prompt).split())
    cut = slug.encode()[:100].decode(errors="ignore")
    return f"{cut}-{seed}-{size}{'-pruned' if pruned else ''}-{key}.png"
