"""The judge: a picture to the objects in it, by colour segmentation and matched shapes.

No learned parts. Objects are saturated and the background grey, so a threshold on chroma
separates them; each region's shape is the rotated template that overlaps it best, its color the
nearest hue, its texture read from how the tone varies inside.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage
from skimage.measure import label, regionprops
from skimage.transform import resize

from fastvar_lab.world.grammar import COLORS, SHAPES
from fastvar_lab.world.render import (
    CHECKER_CELL,
    DOT_PERIOD,
    SHADE,
    STRIPE_PERIOD,
    distance,
    tone,
)

CHROMA = 0.13  # least max - min over channels, after a light blur
SMALLEST = 0.004  # least area of an object over the picture's
TEMPLATE = 48  # templates are compared at this size, bounding box to bounding box
ANGLES = tuple(range(-24, 25, 6))


@dataclass(frozen=True)
class Detection:
    """One object found: looks, centre (fractions of width and height) and area share."""

    shape: str
    color: str
    texture: str
    x: float
    y: float
    area: float


def detect(image: np.ndarray) -> list[Detection]:
    """Find the objects of a picture (H, W, 3), uint8 or float in [0, 1], largest first."""
    picture = image.astype(np.float32) / (255 if image.dtype == np.uint8 else 1)
    height, width, _ = picture.shape
    side = min(height, width)
    smooth = ndimage.gaussian_filter(picture, (side / 256, side / 256, 0))
    mask = smooth.max(-1) - smooth.min(-1) > CHROMA
    found = []
    for region in regionprops(label(mask, connectivity=1)):
        if region.area < SMALLEST * side * side:
            continue
        inside = region.image
        top, left, bottom, right = region.bbox
        patch = picture[top:bottom, left:right]
        shape, angle = _shape(inside)
        found.append(
            Detection(
                shape=shape,
                color=_color(patch[inside]),
                texture=_texture(patch, inside, angle, side),
                x=float((region.centroid[1] + 0.5) / width),
                y=float((region.centroid[0] + 0.5) / height),
                area=float(region.area / (height * width)),
            )
        )
    return sorted(found, key=lambda d: -d.area)


@lru_cache
def _templates() -> tuple[list[tuple[str, int, float]], np.ndarray]:
    names, masks = [], []
    y, x = np.mgrid[-1.6:1.6:192j, -1.6:1.6:192j]
    for shape in SHAPES:
        for angle in ANGLES if shape not in ("circle", "ring") else (0,):
            c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
            inside = distance(shape, x * c + y * s, y * c - x * s) < 0
            rows, cols = np.where(inside.any(1))[0], np.where(inside.any(0))[0]
            crop = inside[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
            names.append((shape, angle, crop.shape[0] / crop.shape[1]))
            masks.append(_square(crop))
    return names, np.stack(masks)


def _square(mask: np.ndarray) -> np.ndarray:
    return resize(mask.astype(np.float32), (TEMPLATE, TEMPLATE), order=1, anti_aliasing=True)


def _shape(mask: np.ndarray) -> tuple[str, float]:
    """Match a region to the templates by overlap (min over max), bounding boxes aligned."""
    names, masks = _templates()
    own = _square(mask)
    overlap = np.minimum(masks, own).sum((1, 2)) / np.maximum(masks, own).sum((1, 2))
    aspect = mask.shape[0] / mask.shape[1]
    stretch = np.abs(np.log([aspect / a for _, _, a in names]))
    best = int(np.argmax(overlap - 0.5 * stretch))
    return names[best][0], float(names[best][1])


def _color(pixels: np.ndarray) -> str:
    """Name the hue that the chroma-weighted pixels have on average."""
    chroma = pixels.max(1) - pixels.min(1)
    strong = pixels[chroma >= np.quantile(chroma, 0.5)].astype(np.float64)
    mean = strong.mean(0)
    hue = colorsys.rgb_to_hsv(*mean)[0]

    def away(name: str) -> float:
        apart = abs(colorsys.rgb_to_hsv(*COLORS[name])[0] - hue)
        return min(apart, 1 - apart)

    return min(COLORS, key=away)


def _texture(patch: np.ndarray, mask: np.ndarray, angle: float, side: int) -> str:
    """Compare the tone inside with each texture, over rotations and shifts; solid if it is flat."""
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
    u0, v0 = (x - (mask.shape[1] - 1) / 2) / side, (y - (mask.shape[0] - 1) / 2) / side
    weights = inside - inside.mean()
    scores = {}
    for texture, period in _PERIODS.items():
        best = 0.0
        for turn in np.radians(np.arange(-24, 25, 4)):
            u, v = u0 * np.cos(turn) + v0 * np.sin(turn), v0 * np.cos(turn) - u0 * np.sin(turn)
            for du in np.arange(4) / 4 * period if texture != "striped" else (0.0,):
                for dv in np.arange(4) / 4 * period:
                    ideal = tone(texture, u + du, v + dv, 2 / side)
                    ideal = ideal - ideal.mean()
                    norm = np.sqrt((ideal**2).sum() * (weights**2).sum())
                    best = max(best, float((ideal * weights).sum() / (norm + 1e-9)))
        scores[texture] = best
    return max(scores, key=scores.__getitem__)


_PERIODS = {"striped": STRIPE_PERIOD, "dotted": DOT_PERIOD, "checkered": 2 * CHECKER_CELL}
