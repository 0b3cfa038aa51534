"""LPIPS, the learned distance of two pictures, with AlexNet's features.

Source: Zhang et al., CVPR 2018. AlexNet's file is torchvision's alexnet-owt-7be5be79.pth; the
weights of the five layers ship with torchmetrics, and with lpips.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from fastvar_lab.networks.exact import exact

WIDTHS = (64, 192, 384, 256, 256)
PLACES = (0, 3, 6, 8, 10)  # of the convolutions in torchvision's `features`
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # lpips, ScalingLayer
_KERNELS = ((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))  # size, stride, padding
_POOLED_BEFORE = (1, 2)  # convolutions whose input is pooled


class LPIPS(nn.Module):
    """The distance of two batches of pictures; `unit` divides AlexNet's widths, for tests."""

    def __init__(self, unit: int = 1) -> None:
        super().__init__()
        widths = [width // unit for width in WIDTHS]
        self.features = nn.ModuleDict(
            {
                str(place): nn.Conv2d(before, width, kernel, stride, padding)
                for place, before, width, (kernel, stride, padding) in zip(
                    PLACES, (3, *widths), widths, _KERNELS
                )
            }
        )
        self.heads = nn.ParameterList([torch.rand(width) / width for width in widths])
        self.config = {"unit": unit}

    def taps(self, x: Tensor) -> list[Tensor]:
        """Return the five layers' features of pictures in [0, 1], of unit length per place."""
        shift, scale = (x.new_tensor(v).view(3, 1, 1) for v in (_SHIFT, _SCALE))
        x, features = (2 * x - 1 - shift) / scale, []
        for i, conv in enumerate(self.features.values()):
            x = relu(conv(max_pool2d(x, 3, stride=2) if i in _POOLED_BEFORE else x))
            features.append(x / (1e-8 + x.square().sum(1, keepdim=True)).sqrt())
        return features

    @exact()
    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the distances (n,) of pictures (n, 3, H, W) in [0, 1]."""
        gaps = [
            ((a - b).square() * head.view(-1, 1, 1)).sum(1).mean((1, 2))
            for a, b, head in zip(self.taps(one), self.taps(other), self.heads)
        ]
        return torch.stack(gaps).sum(0)
