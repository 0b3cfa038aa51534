"""Resizes and crops of the networks' own protocols, each named by who uses it.

Scores depend on them: on noise, two of these resizes differ by several grey levels on average.
All take pictures (H, W, 3) uint8, and return tensors (3, h, w) in float32.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # github.com/openai/CLIP
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
GREY_MEAN = (123.675, 116.28, 103.53)  # ImageNet's, in grey levels; open-mmlab/mmdetection
GREY_STD = (58.395, 57.12, 57.375)


def channels_first(picture: np.ndarray) -> Tensor:
    """Turn a picture (H, W, 3) uint8 into a tensor (3, H, W), grey levels in float32."""
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float()


def clean(picture: np.ndarray, side: int = 299) -> Tensor:
    """Resize as clean-fid does: PIL's bicubic on each channel in float, clipped to 0 to 255.

    Source: Parmar et al., CVPR 2022.
    """
    channels = [
        np.asarray(
            Image.fromarray(picture[..., i].astype(np.float32)).resize(
                (side, side), Image.Resampling.BICUBIC
            )
        )
        for i in range(3)
    ]
    return torch.from_numpy(np.stack(channels)).clip(0, 255)


def tensorflow(picture: np.ndarray, side: int = 299) -> Tensor:
    """Resize as TensorFlow 1 does: bilinear, source = target x in / out, without antialiasing.

    Source: the graph of guided-diffusion's evaluator, which is that of the first FIDs.
    """
    x = channels_first(picture)
    for axis in (1, 2):
        place = torch.arange(side, dtype=torch.float32) * (x.shape[axis] / side)
        low = place.long()
        high = (low + 1).clamp(max=x.shape[axis] - 1)
        share = (place - low).view(-1, 1) if axis == 1 else place - low
        x = x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share
    return x


def half_pixel(picture: np.ndarray, side: int = 299) -> Tensor:
    """Resize as pytorch-fid does: bilinear with half-pixel centers, without antialiasing.

    Its network then maps grey levels by x / 127.5 - 1, not by (x - 128) / 128: that is done here.
    """
    x = interpolate(
        channels_first(picture)[None], (side, side), mode="bilinear", align_corners=False
    )[0]
    return x * (128 / 127.5)


def antialias(picture: np.ndarray, side: int = 299) -> Tensor:
    """Resize as torchmetrics from 1.8 does: bilinear with antialiasing."""
    x = channels_first(picture)[None]
    return interpolate(x, (side, side), mode="bilinear", align_corners=False, antialias=True)[0]


RESIZES = {
    "clean": clean,
    "tensorflow": tensorflow,
    "half-pixel": half_pixel,
    "antialias": antialias,
}
"""The resizes to 299 x 299 of Inception's scores, by name."""


def clip_crop(picture: np.ndarray, side: int = 224) -> Tensor:
    """Resize and crop as CLIP does: shorter side to `side` by PIL's bicubic, center crop, normal.

    The longer side is cut to a whole number; the crop starts at the rounded half of what is over.
    """
    h, w = picture.shape[:2]
    height, width = (side, int(side * w / h)) if h <= w else (int(side * h / w), side)
    image = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
    top, left = round((height - side) / 2), round((width - side) / 2)
    crop = np.asarray(image)[top : top + side, left : left + side]
    return normalized(channels_first(crop) / 255, CLIP_MEAN, CLIP_STD)


def float_crop(picture: np.ndarray, side: int = 224, antialias: bool = True) -> Tensor:
    """Resize as HPSv2's code does: bicubic on floats, so that torchvision decides antialiasing.

    From torchvision 0.17 it antialiases, before it did not; scores differ by about 2. The result
    is not clipped. Source: tgxs002/HPSv2.
    """
    x = channels_first(picture)[None] / 255
    h, w = picture.shape[:2]
    size = (side, int(side * w / h)) if h <= w else (int(side * h / w), side)
    x = interpolate(x, size, mode="bicubic", align_corners=False, antialias=antialias)[0]
    top, left = (round((n - side) / 2) for n in size)
    return normalized(x[:, top : top + side, left : left + side], CLIP_MEAN, CLIP_STD)


def detector_input(picture: np.ndarray, long: int = 1333, short: int = 800) -> Tensor:
    """Resize, pad and normalize as mmdetection's test pipeline does.

    Keeps the ratio, fits into `long` x `short`, bilinear without antialiasing, rounded (within one
    grey level of OpenCV); pads right and bottom to a multiple of 32 with grey 128.
    """
    h, w = picture.shape[:2]
    size = detector_size(h, w, long, short)
    x = interpolate(channels_first(picture)[None], size, mode="bilinear", align_corners=False)[0]
    padded = torch.full((3, *(-(-n // 32) * 32 for n in size)), 128.0)
    padded[:, : size[0], : size[1]] = x.round().clamp(0, 255)
    return normalized(padded, GREY_MEAN, GREY_STD)


def detector_size(h: int, w: int, long: int = 1333, short: int = 800) -> tuple[int, int]:
    """Return the size to which a picture of h x w pixels is resized before padding.

    >>> detector_size(1024, 1024), detector_size(512, 1024)
    ((800, 800), (667, 1333))
    """
    scale = min(long / max(h, w), short / min(h, w))
    return int(h * scale + 0.5), int(w * scale + 0.5)


def normalized(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Subtract the mean and divide by the deviation of each channel of x (3, H, W)."""
    return (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
