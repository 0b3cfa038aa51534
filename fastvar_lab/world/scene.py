"""Scenes: the objects of a picture as values, and their composition from a prompt.

Objects are placed in the order of the prompt, left to right and top to bottom, unless a relation
says otherwise; exact positions are random.

Lengths are shares of the picture's short side, positions shares of its width and height (y down).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fastvar_lab.world.grammar import (
    COLORS,
    MIRROR,
    RELATIONS,
    SHAPES,
    TEXTURES,
    Group,
    Prompt,
)

MAX_OBJECTS = 4
MAX_ANGLE = 20.0  # degrees
GAP = 0.035  # smallest distance between two objects
REACH = 1.2  # an object's circumscribed radius over its size
SIZES = {1: (0.14, 0.30), 2: (0.115, 0.235), 3: (0.11, 0.22), 4: (0.10, 0.20)}
ANCHORS = {  # mean positions of objects, in the order of the prompt
    1: ((0.5, 0.5),),
    2: ((0.27, 0.5), (0.73, 0.5)),
    3: ((0.27, 0.28), (0.73, 0.28), (0.5, 0.73)),
    4: ((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)),
}
WANDER = 0.08  # largest offset from the anchor along each axis, drawn uniformly
RELATION_MARGIN = 0.1  # smallest offset of two centres that counts as left of, above, ...


@dataclass(frozen=True)
class Object:
    """A textured shape with centre `x`, `y`, radius `size` and rotation `angle` in degrees."""

    shape: str
    color: str
    texture: str
    x: float
    y: float
    size: float
    angle: float = 0.0


@dataclass(frozen=True)
class Scene:
    """Objects on a grey background.

    The background has brightness `level` in [0, 1], a gradient of `slope` per short side along
    `direction` (radians), and noise from `noise_seed`.
    """

    objects: tuple[Object, ...]
    level: float = 0.58
    slope: float = 0.0
    direction: float = 0.0
    noise_seed: int = 0


def offset(first: tuple[float, float], second: tuple[float, float], aspect: float) -> np.ndarray:
    """Return second - first, as (dx, dy) in units of the short side; `aspect` is height / width."""
    width, height = (1.0, aspect) if aspect >= 1 else (1.0 / aspect, 1.0)
    return np.array([(second[0] - first[0]) * width, (second[1] - first[1]) * height])


def holds(relation: str, first: tuple, second: tuple, aspect: float = 1.0) -> bool:
    """Return whether the centre `first` is left of / right of / above / below `second`."""
    dx, dy = offset(first, second, aspect)
    return bool(
        {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[relation] >= RELATION_MARGIN
    )


def compose(prompt: Prompt, seed: int, aspect: float = 1.0) -> Scene:
    """Place the objects of a prompt; unspecified looks and positions are drawn from `seed`.

    Raises ValueError if the objects find no room at this `aspect` (height / width).
    """
    rng = np.random.default_rng(seed)
    looks = []
    for group in prompt.groups:
        color = group.color or str(rng.choice(list(COLORS)))
        texture = group.texture or str(rng.choice(TEXTURES))
        looks += [(group.shape, color, texture)] * group.count
    places = _places(rng, len(looks), aspect, prompt.relation)
    return Scene(
        objects=tuple(
            Object(*look, x, y, size, float(rng.uniform(-MAX_ANGLE, MAX_ANGLE)))
            for look, (x, y, size) in zip(looks, places, strict=True)
        ),
        level=float(rng.uniform(0.48, 0.68)),
        slope=float(rng.uniform(0.0, 0.12)),
        direction=float(rng.uniform(0.0, 2 * np.pi)),
        noise_seed=int(rng.integers(2**31)),
    )


def random_prompt(rng: np.random.Generator) -> Prompt:
    """Draw a training prompt: the kinds of the tasks and mixtures, with all looks specified."""

    def group(count: int = 1, shape: str | None = None) -> Group:
        color, texture = str(rng.choice(list(COLORS))), str(rng.choice(TEXTURES))
        return Group(count, shape or str(rng.choice(SHAPES)), color, texture)

    kind = rng.choice(["one", "two", "relation", "many", "mixed"], p=[0.2, 0.2, 0.25, 0.25, 0.1])
    if kind == "one":
        return Prompt((group(),))
    if kind == "many":
        return Prompt((group(int(rng.integers(2, MAX_OBJECTS + 1))),))
    if kind in ("two", "relation"):
        first, second = (str(s) for s in rng.choice(SHAPES, 2, replace=rng.random() < 0.1))
        relation = str(rng.choice(RELATIONS)) if kind == "relation" else None
        return Prompt((group(shape=first), group(shape=second)), relation)
    counts = [(1, 2), (2, 1), (1, 1, 1), (2, 2), (3, 1), (1, 3), (1, 1, 2), (1, 1, 1, 1)]
    return Prompt(tuple(group(n) for n in counts[rng.integers(len(counts))]))


def caption(prompt: Prompt, rng: np.random.Generator) -> Prompt:
    """Leave out some colors and textures of a prompt at random; the result is never held out."""
    while True:
        described = replace(
            prompt,
            groups=tuple(
                replace(
                    g,
                    color=g.color if rng.random() < 0.75 else None,
                    texture=g.texture if rng.random() < 0.45 else None,
                )
                for g in prompt.groups
            ),
        )
        if not described.held_out:
            return described


def _anchors(count: int, relation: str | None) -> np.ndarray:
    """Return the mean position of each object, (count, 2), according to the relation."""
    anchors = np.array(ANCHORS[count])
    if relation in ("above", "below"):
        anchors = anchors[:, ::-1]
    return anchors[::-1] if relation in MIRROR else anchors


def _places(
    rng: np.random.Generator, count: int, aspect: float, relation: str | None
) -> list[tuple[float, float, float]]:
    """Draw `count` positions and sizes (x, y, size) without overlap, inside the picture."""
    sides = np.array([1.0, aspect] if aspect >= 1 else [1.0 / aspect, 1.0])
    anchors = _anchors(count, relation) * sides
    low, high = SIZES[count]
    for attempt in range(10_000):
        shrink = max(0.0, 1.0 - attempt / 200)  # objects shrink with the number of attempts
        sizes = low * (1 + (high / low - 1) * shrink) ** rng.random(count)
        margin = REACH * sizes[:, None]
        least = np.maximum(anchors - WANDER, margin)
        most = np.minimum(anchors + WANDER, sides - margin)
        if (least > most).any():
            continue
        x, y = rng.uniform(least, most).T
        apart = np.hypot(x[:, None] - x, y[:, None] - y)
        reach = REACH * (sizes[:, None] + sizes) + GAP
        if (apart < reach)[np.triu_indices(count, 1)].any():
            continue
        places = zip(x / sides[0], y / sides[1], sizes, strict=True)
        return [(float(a), float(b), float(s)) for a, b, s in places]
    raise ValueError(f"no room for {count} objects at aspect {aspect:.2f}")
