"""The Inception network of FID and IS, in plain torch.

It is the network "2015-12-05" of TensorFlow with torchvision's names of weights, so that the file
pt_inception-2015-12-05-6726825d.pth of pytorch-fid opens as it is. It departs from torchvision's
network in four ways: 1008 classes, average pools that leave out the padding, a maximum pool in
the last block, and no auxiliary head. Source: Szegedy et al., CVPR 2016; Heusel et al., NeurIPS
2017; github.com/mseitzer/pytorch-fid.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d, relu

from fastvar_lab.networks.exact import exact

SIDE = 299  # pixels
SPATIAL = 7  # channels whose map is kept for sFID


class Activations(NamedTuple):
    """What the scores read of n pictures.

    `pooled` (n, 2048) for FID, precision and recall; `spatial` (n, 2023) for sFID, channels last
    as in guided-diffusion's reference files; `logits` (n, 1008) without bias for IS.
    """

    pooled: Tensor
    spatial: Tensor
    logits: Tensor


class Conv(nn.Module):
    """A convolution without bias, batch norm and ReLU."""

    def __init__(
        self,
        width_in: int,
        width: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.bn(self.conv(x)))


def _wide(width_in: int, width: int) -> Conv:
    return Conv(width_in, width, (1, 7), padding=(0, 3))


def _tall(width_in: int, width: int) -> Conv:
    return Conv(width_in, width, (7, 1), padding=(3, 0))


def _average(x: Tensor) -> Tensor:
    return avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class Block(nn.Module):
    """Branches over one input, concatenated."""

    def chain(self, x: Tensor, *names: str) -> Tensor:
        """Apply convolutions one after the other."""
        for name in names:
            x = self.get_submodule(name)(x)
        return x


class Small(Block):
    """The blocks 5b to 5d, on maps of 35 x 35."""

    def __init__(self, width: int, pool: int, unit: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(width, 64 // unit)
        self.branch5x5_1 = Conv(width, 48 // unit)
        self.branch5x5_2 = Conv(48 // unit, 64 // unit, 5, padding=2)
        self.branch3x3dbl_1 = Conv(width, 64 // unit)
        self.branch3x3dbl_2 = Conv(64 // unit, 96 // unit, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96 // unit, 96 // unit, 3, padding=1)
        self.branch_pool = Conv(width, pool // unit)

    def forward(self, x: Tensor) -> Tensor:
        parts = (
            self.branch1x1(x),
            self.chain(x, "branch5x5_1", "branch5x5_2"),
            self.chain(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
            self.branch_pool(_average(x)),
        )
        return torch.cat(parts, 1)


class FirstReduction(Block):
    """The block 6a, from 35 x 35 to 17 x 17."""

    def __init__(self, width: int, unit: int) -> None:
        super().__init__()
        self.branch3x3 = Conv(width, 384 // unit, 3, stride=2)
        self.branch3x3dbl_1 = Conv(width, 64 // unit)
        self.branch3x3dbl_2 = Conv(64 // unit, 96 // unit, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96 // unit, 96 // unit, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.chain(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
        return torch.cat((self.branch3x3(x), double, max_pool2d(x, 3, stride=2)), 1)


class Factored(Block):
    """The blocks 6b to 6e: convolutions of 7 x 7 in two parts."""

    def __init__(self, width: int, inner: int, unit: int) -> None:
        super().__init__()
        out, inner = 192 // unit, inner // unit
        self.branch1x1 = Conv(width, out)
        self.branch7x7_1 = Conv(width, inner)
        self.branch7x7_2 = _wide(inner, inner)
        self.branch7x7_3 = _tall(inner, out)
        self.branch7x7dbl_1 = Conv(width, inner)
        self.branch7x7dbl_2 = _tall(inner, inner)
        self.branch7x7dbl_3 = _wide(inner, inner)
        self.branch7x7dbl_4 = _tall(inner, inner)
        self.branch7x7dbl_5 = _wide(inner, out)
        self.branch_pool = Conv(width, out)

    def forward(self, x: Tensor) -> Tensor:
        parts = (
            self.branch1x1(x),
            self.chain(x, *(f"branch7x7_{i}" for i in (1, 2, 3))),
            self.chain(x, *(f"branch7x7dbl_{i}" for i in range(1, 6))),
            self.branch_pool(_average(x)),
        )
        return torch.cat(parts, 1)


class SecondReduction(Block):
    """The block 7a, from 17 x 17 to 8 x 8."""

    def __init__(self, width: int, unit: int) -> None:
        super().__init__()
        out = 192 // unit
        self.branch3x3_1 = Conv(width, out)
        self.branch3x3_2 = Conv(out, 320 // unit, 3, stride=2)
        self.branch7x7x3_1 = Conv(width, out)
        self.branch7x7x3_2 = _wide(out, out)
        self.branch7x7x3_3 = _tall(out, out)
        self.branch7x7x3_4 = Conv(out, out, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        parts = (
            self.chain(x, "branch3x3_1", "branch3x3_2"),
            self.chain(x, *(f"branch7x7x3_{i}" for i in range(1, 5))),
            max_pool2d(x, 3, stride=2),
        )
        return torch.cat(parts, 1)


class Last(Block):
    """The blocks 7b and 7c, on maps of 8 x 8; the last one pools by the maximum."""

    def __init__(self, width: int, unit: int, maximum: bool) -> None:
        super().__init__()
        out, self.maximum = 384 // unit, maximum
        self.branch1x1 = Conv(width, 320 // unit)
        self.branch3x3_1 = Conv(width, out)
        self.branch3x3_2a = Conv(out, out, (1, 3), padding=(0, 1))
        self.branch3x3_2b = Conv(out, out, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = Conv(width, 448 // unit)
        self.branch3x3dbl_2 = Conv(448 // unit, out, 3, padding=1)
        self.branch3x3dbl_3a = Conv(out, out, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = Conv(out, out, (3, 1), padding=(1, 0))
        self.branch_pool = Conv(width, 192 // unit)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.chain(x, "branch3x3dbl_1", "branch3x3dbl_2")
        pooled = max_pool2d(x, 3, stride=1, padding=1) if self.maximum else _average(x)
        parts = (
            self.branch1x1(x),
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(pooled),
        )
        return torch.cat(parts, 1)


class Inception(nn.Module):
    """The network of FID and IS; `unit` divides all widths, for tests."""

    def __init__(self, unit: int = 1) -> None:
        super().__init__()

        def n(width: int) -> int:
            return width // unit

        self.Conv2d_1a_3x3 = Conv(3, n(32), 3, stride=2)
        self.Conv2d_2a_3x3 = Conv(n(32), n(32), 3)
        self.Conv2d_2b_3x3 = Conv(n(32), n(64), 3, padding=1)
        self.Conv2d_3b_1x1 = Conv(n(64), n(80))
        self.Conv2d_4a_3x3 = Conv(n(80), n(192), 3)
        self.Mixed_5b = Small(n(192), 32, unit)
        self.Mixed_5c = Small(n(256), 64, unit)
        self.Mixed_5d = Small(n(288), 64, unit)
        self.Mixed_6a = FirstReduction(n(288), unit)
        self.Mixed_6b = Factored(n(768), 128, unit)
        self.Mixed_6c = Factored(n(768), 160, unit)
        self.Mixed_6d = Factored(n(768), 160, unit)
        self.Mixed_6e = Factored(n(768), 192, unit)
        self.Mixed_7a = SecondReduction(n(768), unit)
        self.Mixed_7b = Last(n(1280), unit, maximum=False)
        self.Mixed_7c = Last(n(2048), unit, maximum=True)
        self.fc = nn.Linear(n(2048), 1008)
        self.config = {"unit": unit}

    @exact()
    def forward(self, x: Tensor) -> Activations:
        """Return the activations of pictures (n, 3, 299, 299) in grey levels, 0 to 255."""
        x = (x - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(max_pool2d(x, 3, stride=2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(max_pool2d(x, 3, stride=2))))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        spatial = self.Mixed_6d.branch1x1(x)[:, :SPATIAL].permute(0, 2, 3, 1).flatten(1)
        x = self.Mixed_7a(self.Mixed_6e(self.Mixed_6d(x)))
        pooled = self.Mixed_7c(self.Mixed_7b(x)).mean((2, 3))
        return Activations(pooled, spatial, pooled @ self.fc.weight.T)
