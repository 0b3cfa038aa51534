"""The detector: finds the objects of a picture by color segmentation and template matching.

It has no learned parts. Objects are saturated and the background is grey, so a threshold on chroma
separates them. The shape of a region is the rotated template with the largest overlap, its color
the nearest hue, and its texture the pattern that matches the tone inside best.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from skimage.measure import label, regionprops

from fastvar_lab.world.grammar import COLORS, SHAPES
from fastvar_lab.world.render import distance
from fastvar_lab.world.textures import PERIODS, SHADE, fit

CHROMA = 0.13  # threshold on max - min over channels, after a light blur
SMALLEST = 0.004  # smallest area of an object, in squared short sides
TEMPLATE, SPAN = 48, 2.4  # size of templates in pixels, and their span in sqrt(area)
SAMPLES, PHASES = 500, 7  # number of pixels and of phases at which textures are compared
TURNS = np.radians(np.arange(-20, 21, 4))  # of a texture against the picture
ANGLES = tuple(range(-24, 25, 6))


@dataclass(frozen=True)
class Detection:
    """A detected object: its looks, centre (shares of width and height) and share of the area."""

    shape: str
    color: str
    texture: str
    x: float
    y: float
    area: float


class Region(NamedTuple):
    """A detected object with its box in the picture and its mask (h, w) in that box."""

    detection: Detection
    box: tuple[slice, slice]
    mask: np.ndarray


def detect(image: np.ndarray) -> list[Detection]:
    """Detect the objects of a picture (H, W, 3), uint8 or float in [0, 1]; largest first."""
    return [region.detection for region in segment(as_shares(image))[0]]


def as_shares(image: np.ndarray) -> np.ndarray:
    """Return a picture, uint8 or float, as float32 in [0, 1]."""
    return image.astype(np.float32) / (255 if image.dtype == np.uint8 else 1)


def segment(picture: np.ndarray) -> tuple[list[Region], np.ndarray]:
    """Segment a float picture (H, W, 3) in [0, 1]: its objects, largest first, and their pixels.

    The mask (H, W) of pixels also holds regions that are too small to be an object.
    """
    height, width, _ = picture.shape
    side = min(height, width)
    smooth = ndimage.gaussian_filter(picture, (side / 256, side / 256, 0))
    mask = smooth.max(-1) - smooth.min(-1) > CHROMA
    background = np.median(picture[~mask], axis=0) if not mask.all() else np.full(3, 0.5)
    regions = []
    for region in regionprops(label(mask, connectivity=1)):
        if region.area < SMALLEST * side * side:
            continue
        top, left, bottom, right = region.bbox
        patch = picture[top:bottom, left:right]
        inside = _sharpen(region.image, patch, background)
        detection = Detection(
            shape=_shape(inside),
            color=_color(patch[inside]),
            texture=_texture(patch, inside, side),
            x=float((region.centroid[1] + 0.5) / width),
            y=float((region.centroid[0] + 0.5) / height),
            area=float(region.area / (height * width)),
        )
        regions.append(Region(detection, (slice(top, bottom), slice(left, right)), inside))
    return sorted(regions, key=lambda region: -region.detection.area), mask


def _sharpen(mask: np.ndarray, patch: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Threshold a region at half its contrast to the background, the middle of blurred edges."""
    contrast = np.linalg.norm(patch - background, axis=-1)
    inside = ndimage.binary_opening(mask & (contrast > 0.5 * np.median(contrast[mask])))
    return inside if inside.sum() > 0.5 * mask.sum() else mask


@lru_cache
def _templates() -> tuple[list[str], np.ndarray]:
    """Return the shape names and masks (N, TEMPLATE, TEMPLATE) of all rotated templates."""
    names, masks = [], []
    y, x = np.mgrid[-1.6:1.6:160j, -1.6:1.6:160j]
    for shape in SHAPES:
        for angle in ANGLES if shape not in ("circle", "ring") else (0,):
            c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
            names.append(shape)
            masks.append(_normal(distance(shape, x * c + y * s, y * c - x * s) < 0))
    return names, np.stack(masks)


def _normal(mask: np.ndarray) -> np.ndarray:
    """Scale and centre a mask to a common area: (TEMPLATE, TEMPLATE) in [0, 1]."""
    centre, side = np.argwhere(mask).mean(axis=0), np.sqrt(mask.sum())
    steps = (np.arange(TEMPLATE) + 0.5) / TEMPLATE * SPAN - SPAN / 2
    rows, columns = np.meshgrid(centre[0] + steps * side, centre[1] + steps * side, indexing="ij")
    return ndimage.map_coordinates(mask.astype(np.float32), [rows, columns], order=1)


def _shape(mask: np.ndarray) -> str:
    """Return the shape whose template has the largest overlap with a region."""
    names, masks = _templates()
    normal = _normal(mask)
    overlap = np.minimum(masks, normal).sum((1, 2)) / np.maximum(masks, normal).sum((1, 2))
    return names[int(np.argmax(overlap))]


def _color(pixels: np.ndarray) -> str:
    """Return the color whose hue is nearest to the mean of the most saturated pixels."""
    chroma = pixels.max(1) - pixels.min(1)
    strong = pixels[chroma >= np.quantile(chroma, 0.5)].astype(np.float64)
    mean = strong.mean(0)
    hue = colorsys.rgb_to_hsv(*mean)[0]

    def hue_distance(name: str) -> float:
        gap = abs(colorsys.rgb_to_hsv(*COLORS[name])[0] - hue)
        return min(gap, 1 - gap)

    return min(COLORS, key=hue_distance)


def _texture(patch: np.ndarray, mask: np.ndarray, side: int) -> str:
    """Return the texture with the best correlation over rotations and shifts; solid if flat."""
    core = ndimage.binary_erosion(np.pad(mask, 1), iterations=max(1, round(side / 128)))[1:-1, 1:-1]
    if core.sum() < 0.2 * mask.sum():
        core = mask
    value = patch.max(-1)
    bright = np.quantile(value[core], 0.9)
    dark = np.clip((1 - value / bright) / (1 - SHADE), -0.5, 1.5)
    inside = dark[core]
    if inside.std() < 0.16:
        return "solid"
    y, x = np.nonzero(core)
    every = max(1, len(y) // SAMPLES)
    places, seen = (x[::every] / side, y[::every] / side), inside[::every]
    scores = {
        texture: fit(texture, places, seen, 2 / side, TURNS, (1.0,), PHASES).match
        for texture in PERIODS
    }
    return max(scores, key=scores.__getitem__)
