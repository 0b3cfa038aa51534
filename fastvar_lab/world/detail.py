"""Measures of detail: what a score by objects does not see, and a distance to one picture blurs.

Each is measured in a picture and in the rendered truth of the same prompt. The places and looks
that a prompt leaves open differ between the two, so no pixels are compared: each value is that of
the picture over that of the truth, 1 where detail is right, less where it is lost, more where it
is overdone.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import ndimage

from fastvar_lab.world.detect import Region, as_shares, segment
from fastvar_lab.world.grammar import Prompt
from fastvar_lab.world.render import render
from fastvar_lab.world.scene import compose
from fastvar_lab.world.textures import PERIODS, SHADE, fit, tone

MEASURES = ("contrast", "period", "parts", "outline", "grain")
TURNS = np.radians(np.arange(-24, 25, 4))  # of a texture against the picture
SCALES = np.geomspace(0.8, 1.25, 9)  # of its period
LEAST = 1e-3  # share of the truth that counts as nothing
PHASES, SAMPLES = 8, 400  # phases on each axis, and pixels, at which a texture is fitted
BAND = 4  # pixels of 256, the longest wave of the background that counts as grain


def detail(prompt: Prompt, image: np.ndarray, seed: int) -> dict[str, float]:
    """Measure a picture (H, W, 3) uint8 against a rendering of its prompt from `seed`.

    Returns, as shares of the truth:

    - `contrast`: of light and dark tone in textured objects;
    - `period`: of their stripes, dots and checks;
    - `parts`: the number of separate stripes, dots and checks in an object;
    - `outline`: the steepness of the edges between objects and background;
    - `grain`: the standard deviation of the background's waves up to 1/64 of the side;

    and `error`, the mean of |log2| of those that are there. A measure is nan where the picture
    shows nothing to measure it on, such as no textured object.
    """
    seen, true = measures(image, prompt), _truth(prompt, seed, *image.shape[:2])
    shares = {name: seen[name] / true.get(name, 1.0) for name in seen}
    error = [abs(np.log2(max(share, LEAST))) for share in shares.values()]
    values = dict.fromkeys(MEASURES, float("nan")) | shares
    return values | {"error": float(np.mean(error)) if error else float("nan")}


@lru_cache(maxsize=1024)
def _truth(prompt: Prompt, seed: int, height: int, width: int) -> dict[str, float]:
    """Measure the rendering of a prompt; many methods draw the same prompts."""
    return measures(render(compose(prompt, seed, height / width), (height, width)), prompt)


def measures(image: np.ndarray, prompt: Prompt | None = None) -> dict[str, float]:
    """Measure one picture (H, W, 3): each of `MEASURES` that it shows, as a mean over objects.

    A prompt's textures are looked for where its shapes are; without one, those that are detected.
    """
    picture = as_shares(image)
    side = min(picture.shape[:2])
    regions, mask = segment(picture)
    textures = {g.shape: g.texture for g in prompt.groups if g.texture} if prompt else {}
    values: dict[str, list[float]] = {name: [] for name in MEASURES}
    for region in regions:
        seen = region.detection
        texture = textures.get(seen.shape, seen.texture)
        if texture in PERIODS:
            for name, value in zip(MEASURES, _fit(picture, region, texture, side), strict=False):
                values[name].append(value)
        values["outline"].append(_outline(picture, region, mask))
    values["grain"].append(_grain(picture, mask, side))
    finite = {name: [v for v in measured if np.isfinite(v)] for name, measured in values.items()}
    return {name: float(np.mean(measured)) for name, measured in finite.items() if measured}


def _fit(
    picture: np.ndarray, region: Region, texture: str, side: int
) -> tuple[float, float, float]:
    """Fit a texture to an object: contrast, period, and number of parts, as shares of the ideal."""
    value = picture[region.box].max(-1)
    core = ndimage.binary_erosion(np.pad(region.mask, 1), iterations=max(1, round(side / 128)))
    core = core[1:-1, 1:-1]
    y, x = np.nonzero(core)
    if len(y) < 64:
        return (float("nan"),) * 3
    every = max(1, len(y) // SAMPLES)
    places, dark = (x[::every] / side, y[::every] / side), -value[core][::every]
    place = fit(texture, places, dark, 2 / side, TURNS, SCALES, PHASES)
    rows, columns = np.indices(value.shape) / side
    ideal = tone(texture, *place.coordinates(columns, rows), 1 / side)
    slope, bright = np.polyfit(ideal[core], value[core], 1)
    parts = _count(value < bright + slope / 2, core), _count(ideal > 0.5, core)
    return -slope / (bright * (1 - SHADE)), place.scale, parts[0] / max(1, parts[1])


def _count(dark: np.ndarray, core: np.ndarray) -> int:
    """Count the separate dark parts of an object that its outline does not cut to a sliver."""
    labels, _ = ndimage.label(ndimage.binary_erosion(dark & core))
    areas = np.bincount(labels.ravel())[1:]
    return int((areas > 0.25 * np.median(areas)).sum()) if len(areas) else 0


def _outline(picture: np.ndarray, region: Region, mask: np.ndarray) -> float:
    """Return the mean steepness of an object's edge: its share of the contrast per pixel."""
    top, left = (max(0, s.start - 6) for s in region.box)
    window = np.s_[top : region.box[0].stop + 6, left : region.box[1].stop + 6]
    patch, inside = picture[window], np.zeros(picture.shape[:2], bool)
    inside[region.box] = region.mask
    inside, outside = inside[window], ~ndimage.binary_dilation(mask, iterations=4)[window]
    core = ndimage.binary_erosion(inside, iterations=3)
    if not core.any() or not outside.any():
        return float("nan")
    near, far = (
        patch[
            tuple(ndimage.distance_transform_edt(~m, return_distances=False, return_indices=True))
        ]
        for m in (core, outside)
    )
    span = near - far  # from the nearest background to the nearest inner pixel
    depth = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    share = ((patch - far) * span).sum(-1) / np.maximum((span**2).sum(-1), 1e-6)
    edge = [np.median(share[(depth > low) & (depth <= low + 1)]) for low in (-2, 0)]
    return float(edge[1] - edge[0])


def _grain(picture: np.ndarray, mask: np.ndarray, side: int) -> float:
    """Return the standard deviation of the background's short waves."""
    away = ~ndimage.binary_dilation(mask, iterations=max(2, round(side / 32)))
    grey, sigma = picture.mean(-1), BAND * side / 256
    weight = ndimage.gaussian_filter(away.astype(np.float32), sigma)
    smooth = ndimage.gaussian_filter(np.where(away, grey, 0), sigma) / np.maximum(weight, 1e-6)
    rest = (grey - smooth)[away]
    return float(rest.std()) if rest.size > 100 else float("nan")
