"""Textures: the share of dark tone at a place, and the turn, period and phase that fit a region."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

SHADE = 0.42  # brightness of a texture's second tone relative to its color
STRIPE_PERIOD = 0.075
DOT_PERIOD, DOT_RADIUS = 0.1, 0.032
CHECKER_CELL = 0.052
PERIODS = {"striped": STRIPE_PERIOD, "dotted": DOT_PERIOD, "checkered": 2 * CHECKER_CELL}


class Fit(NamedTuple):
    """How a texture lies in a region: correlation, turn in radians, relative period, phases."""

    match: float = 0.0
    turn: float = 0.0
    scale: float = 1.0
    right: float = 0.0
    down: float = 0.0

    def coordinates(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the texture's coordinates of places in the picture."""
        a, b = turned(u, v, self.turn)
        return a / self.scale + self.right, b / self.scale + self.down


def tone(texture: str, u: np.ndarray, v: np.ndarray, pixel: float) -> np.ndarray:
    """Return the share of the dark tone at (u, v), in units of the side; edges are `pixel` wide."""
    if texture not in PERIODS:
        return np.zeros_like(u)
    return _tone(texture, _wave(texture, u), _wave(texture, v), pixel)


def fit(
    texture: str,
    places: tuple[np.ndarray, np.ndarray],
    dark: np.ndarray,
    pixel: float,
    turns: Iterable[float],
    scales: Iterable[float],
    phases: int,
) -> Fit:
    """Find the turn, relative period and phase at which a texture correlates best with `dark`.

    `places` are coordinates u and v (N,) in units of the side, `dark` (N,) is any measure of the
    dark tone there, and `phases` are tried along each axis. The first of equals is returned.
    """
    dark = (dark - dark.mean()).astype(np.float64)
    energy = (dark**2).sum()
    shift = np.arange(phases)[:, None] / phases * PERIODS[texture]
    best = Fit()
    for turn in turns:
        u, v = turned(*places, turn)
        for scale in scales:
            right, down = (_wave(texture, axis / scale + shift) for axis in (u, v))
            across = right[:1] if texture == "striped" else right  # equal along the stripes
            ideal = _tone(texture, across[None], down[:, None], pixel)
            norm = (ideal**2).sum(-1) - ideal.sum(-1) ** 2 / len(dark)
            match = (ideal @ dark) / np.sqrt(norm * energy + 1e-12)
            if match.max() > best.match:
                row, column = np.unravel_index(match.argmax(), match.shape)
                at = float(shift[column, 0]), float(shift[row, 0])
                best = Fit(float(match.max()), turn, scale, *at)
    return best


def turned(u: np.ndarray, v: np.ndarray, turn: float) -> tuple[np.ndarray, np.ndarray]:
    """Turn coordinates by an angle in radians."""
    return u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)


def _wave(texture: str, t: np.ndarray) -> np.ndarray:
    """Return what a texture's tone depends on along one axis: a signed distance, or a share."""
    if texture == "striped":
        return np.abs((t / STRIPE_PERIOD + 0.25) % 1.0 - 0.5) - 0.25
    if texture == "checkered":
        return CHECKER_CELL / 2 - np.abs(t % (2 * CHECKER_CELL) - CHECKER_CELL)
    return (t / DOT_PERIOD + 0.5) % 1.0 - 0.5


def _tone(texture: str, u: np.ndarray, v: np.ndarray, pixel: float) -> np.ndarray:
    """Return the share of the dark tone where the waves along both axes are `u` and `v`."""
    if texture == "striped":
        depth = v * STRIPE_PERIOD
    elif texture == "checkered":
        depth = (np.sign(u) * np.sign(v)).astype(np.float64)
        depth *= np.minimum(np.abs(u), np.abs(v))
    else:
        depth = np.hypot(u, v)
        depth *= -DOT_PERIOD
        depth += DOT_RADIUS
    depth /= pixel
    depth += 0.5
    return np.clip(depth, 0, 1, out=depth)
