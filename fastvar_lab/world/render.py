"""The renderer: draws a scene as an antialiased RGB picture of any size, deterministically."""

from __future__ import annotations

import numpy as np

from fastvar_lab.world.grammar import COLORS
from fastvar_lab.world.scene import Object, Scene
from fastvar_lab.world.textures import SHADE, tone

GRAIN = 0.012  # standard deviation of the background's 1/f texture


def render(scene: Scene, size: int | tuple[int, int] = 256) -> np.ndarray:
    """Draw `scene` as (H, W, 3) uint8; `size` is the side, or (height, width), in pixels."""
    height, width = (size, size) if isinstance(size, int) else size
    side = min(height, width)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
    ramp = (x - width / 2) * np.cos(scene.direction) + (y - height / 2) * np.sin(scene.direction)
    grey = scene.level + scene.slope * ramp / side
    image = np.repeat(grey[..., None], 3, axis=2).astype(np.float32)
    for item in scene.objects:
        _paint(image, item, side)
    image += grain(height, width, scene.noise_seed)[..., None]
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def grain(height: int, width: int, seed: int) -> np.ndarray:
    """Return (H, W) noise of amplitude spectrum 1/f, zero mean, standard deviation `GRAIN`."""
    white = np.random.default_rng(seed).standard_normal((height, width), dtype=np.float32)
    f = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width) * width)
    f[0, 0] = np.inf
    pink = np.fft.irfft2(np.fft.rfft2(white) / f, s=(height, width))
    return (pink * (GRAIN / pink.std())).astype(np.float32)


def distance(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the signed distance to a shape of size 1, negative inside and exact at its edges."""
    if shape == "circle":
        return np.hypot(u, v) - 0.95
    if shape == "ring":
        return np.abs(np.hypot(u, v) - 0.76) - 0.27
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.84
    if shape == "triangle":  # equilateral, its centre of mass at the origin
        slanted = np.abs(u) * np.cos(np.pi / 6) - v * np.sin(np.pi / 6)
        return np.maximum(v, slanted) - 0.6
    if shape == "cross":
        across, along = np.minimum(np.abs(u), np.abs(v)), np.maximum(np.abs(u), np.abs(v))
        return np.maximum(across - 0.33, along - 1.03)
    if shape == "star":  # fold all points to half a point, which has one straight edge
        sector = np.pi / 5
        angle = np.abs((np.arctan2(u, -v) + sector) % (2 * sector) - sector)
        radius = np.hypot(u, v)
        tip, notch = 1.18, 0.52
        end = np.array([notch * np.cos(sector), notch * np.sin(sector)])
        edge = end - np.array([tip, 0.0])
        normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
        return (radius * np.cos(angle) - tip) * normal[0] + radius * np.sin(angle) * normal[1]
    raise ValueError(f"unknown shape {shape!r}")


def _paint(image: np.ndarray, item: Object, side: int) -> None:
    """Draw an object into `image` (H, W, 3) in place."""
    height, width, _ = image.shape
    cx, cy, radius = item.x * width, item.y * height, item.size * side
    reach = 1.3 * radius + 2
    top, bottom = max(0, int(cy - reach)), min(height, int(cy + reach) + 1)
    left, right = max(0, int(cx - reach)), min(width, int(cx + reach) + 1)
    y, x = np.mgrid[top:bottom, left:right].astype(np.float32) + 0.5
    c, s = np.cos(np.radians(item.angle)), np.sin(np.radians(item.angle))
    u, v = (x - cx) * c + (y - cy) * s, (y - cy) * c - (x - cx) * s
    alpha = np.clip(0.5 - distance(item.shape, u / radius, v / radius) * radius, 0, 1)[..., None]
    dark = tone(item.texture, u / side, v / side, 1 / side)[..., None]
    paint = np.array(COLORS[item.color], np.float32) * (1 - dark * (1 - SHADE))
    patch = image[top:bottom, left:right]
    patch += alpha * (paint - patch)
