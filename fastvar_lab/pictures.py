"""Pictures between tensors and arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def to_tensor(pictures: Sequence[np.ndarray], device: torch.device | str = "cpu") -> Tensor:
    """Stack (H, W, 3) uint8 pictures as (n, 3, H, W) float32 in [-1, 1], channels last."""
    batch = torch.from_numpy(np.stack(pictures)).to(device)
    return batch.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(images: Tensor) -> np.ndarray:
    """Turn images (n, 3, H, W) in [0, 1] into (n, H, W, 3) uint8, rounded.

    >>> to_uint8(torch.full((1, 3, 2, 2), 0.5))[0, 0, 0]
    array([128, 128, 128], dtype=uint8)
    """
    return (images.detach().permute(0, 2, 3, 1) * 255 + 0.5).clamp(0, 255).byte().cpu().numpy()
