"""Scale schedules as data: the sizes (h, w) of the token maps of a picture, and their Grids."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Any

from fastvar_lab.errors import short

if TYPE_CHECKING:  # `seam` imports torch; sizes are read without it, so that errors come fast
    from fastvar_lab.seam import Grid

Sizes = tuple[tuple[int, int], ...]


def square(*sides: int) -> Sizes:
    """Return a schedule of square maps with the given sides."""
    return tuple((s, s) for s in sides)


TINY = square(1, 2, 4, 6, 8, 12, 16, 20, 24, 32)
HART = square(1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)

# Infinity's schedules by height / width; a pixel budget takes their first maps
_INFINITY = {
    1.0: "1 2 4 6 8 12 16 20 24 32 40 48 64",
    1.25: "1 2 3 5x4 10x8 15x12 20x16 25x20 30x24 35x28 45x36 55x44 70x56",
    1.333: "1 2 4x3 8x6 12x9 16x12 20x15 24x18 28x21 36x27 48x36 60x45 72x54",
    1.5: "1 2 3x2 6x4 9x6 15x10 21x14 27x18 33x22 39x26 48x32 63x42 78x52",
    1.75: "1 2 3 7x4 11x6 14x8 21x12 28x16 35x20 42x24 56x32 70x40 84x48",
    2.0: "1 2 4x2 6x3 10x5 16x8 22x11 30x15 38x19 46x23 60x30 74x37 90x45",
    2.5: "1 2 5x2 10x4 15x6 20x8 25x10 30x12 40x16 50x20 65x26 80x32 100x40",
    3.0: "1 2 6x2 9x3 15x5 21x7 27x9 36x12 45x15 54x18 72x24 90x30 111x37",
}
ASPECTS = tuple(sorted((*_INFINITY, *(int(1000 / a) / 1000 for a in _INFINITY if a != 1))))
INFINITY_BUDGETS = {"0.06M": 7, "0.25M": 10, "0.60M": 12, "1M": 13}


def infinity(aspect: float = 1.0, budget: str = "1M") -> Sizes:
    """Return Infinity's schedule with the nearest aspect (height / width), for a pixel budget.

    Aspects below 1 are the transposes of those above 1; as in the released code their value is
    int(1000 / aspect) / 1000. Raises ValueError for an unknown budget or an aspect not above 0.
    """
    if budget not in INFINITY_BUDGETS:
        raise ValueError(f"budget must be one of {', '.join(INFINITY_BUDGETS)}; not {budget!r}")
    if not 0 < aspect < float("inf"):
        raise ValueError(f"an aspect, height over width, must be above 0; not {aspect}")
    mirrored = {int(1000 / a) / 1000: a for a in _INFINITY if a != 1}
    nearest = min((*_INFINITY, *mirrored), key=lambda a: abs(a - aspect))
    maps = _INFINITY[mirrored.get(nearest, nearest)].split()[: INFINITY_BUDGETS[budget]]
    sizes = tuple(parse_size(m) for m in maps)
    return tuple((w, h) for h, w in sizes) if nearest in mirrored else sizes


@dataclass(frozen=True)
class Buckets:
    """The trained schedules of a family, by aspect (height / width) and pixel budget.

    `schedule(aspect, budget)` returns the schedule of the nearest aspect. `budgets` are in
    ascending order.
    """

    aspects: tuple[float, ...]
    budgets: tuple[str, ...]
    schedule: Callable[[float, str], Sizes]

    def exactly(self, aspect: float, budget: str | None = None) -> Sizes:
        """Return the schedule of a trained aspect, by default for the largest budget.

        Raises ValueError, with the nearest aspects, for any other aspect.
        """
        if not aspect > 0:
            raise ValueError(f"an aspect must be above 0; not {aspect}")
        near = sorted(self.aspects, key=lambda trained: abs(trained - aspect))
        if abs(near[0] - aspect) > 0.002:
            raise ValueError(
                f"the aspect must be one of {', '.join(map(str, self.aspects))}; not {aspect} "
                f"(nearest: {near[0]} and {near[1]})"
            )
        return self.schedule(aspect, budget or self.budgets[-1])

    def square(self, side: int) -> Sizes | None:
        """Return the trained schedule that ends at a square map of `side` tokens, or None."""
        squares = (self.schedule(1.0, budget) for budget in self.budgets)
        return next((sizes for sizes in squares if sizes[-1] == (side, side)), None)


INFINITY_BUCKETS = Buckets(ASPECTS, tuple(INFINITY_BUDGETS), infinity)


def infinity_at(height: int, width: int) -> Sizes:
    """Return a schedule of Infinity for a picture of height x width pixels.

    It is the 1M schedule with the nearest aspect, stretched to end at height / 16 x width / 16
    tokens; sizes beyond training are zero-shot. Raises ValueError unless both sides are multiples
    of 16.
    """
    if height < 16 or width < 16 or height % 16 or width % 16:
        raise ValueError(f"sides must be multiples of 16 pixels; not {height}x{width}")
    return stretch(infinity(height / width), height // 16, width // 16)


def grids(sizes: Sequence[tuple[int, int]], prefix: int = 0) -> tuple[Grid, ...]:
    """Turn a schedule into scale steps; the first one includes `prefix` text tokens.

    Raises ValueError for an empty schedule, for entries that are not maps of 1x1 or more, and with
    text tokens for another first map than 1x1: their last one predicts it.
    """
    from fastvar_lab.seam import Grid

    maps = as_sizes(sizes)
    if prefix and maps[0] != (1, 1):
        raise ValueError(
            "the first map of this model is 1x1, which the last token of the text predicts; not "
            f"{maps[0][0]}x{maps[0][1]}"
        )
    return tuple(Grid(i, h, w, prefix if i == 0 else 0) for i, (h, w) in enumerate(maps))


def as_sizes(sizes: Iterable[Iterable[int]]) -> Sizes:
    """Convert a schedule, given as lists, an array or a tensor, to a tuple of tuples.

    Raises ValueError for anything that is not a schedule.

    >>> as_sizes([[1, 1], (2.0, 3)])
    Traceback (most recent call last):
    ValueError: the side of a map must be a whole number; not 2.0
    """
    try:
        maps = [tuple(size) for size in sizes]
    except TypeError:
        maps = [()]
    if not maps:
        raise ValueError("a scale schedule needs at least one map")
    if any(len(size) != 2 for size in maps):
        raise ValueError(f"a schedule must consist of maps (height, width); not {short(sizes)}")
    whole_maps = tuple((whole("side of a map", h), whole("side of a map", w)) for h, w in maps)
    for h, w in whole_maps:
        if h < 1 or w < 1:
            raise ValueError(
                f"a token map must be at least 1x1; not {h}x{w} in {short(whole_maps)}"
            )
    return whole_maps


def whole(what: str, value: Any) -> int:
    """Return a whole number, of Python, numpy or torch, as an int; raise ValueError for others."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return index(value)
    except TypeError:
        raise ValueError(f"the {what} must be a whole number; not {short(value)}") from None


def stretch(sizes: Sequence[tuple[int, int]], h: int, w: int) -> Sizes:
    """Scale a schedule to end at an h x w map, keeping its number of steps.

    It serves other aspect ratios, and larger pictures of models without level embeddings for more
    steps. The first map stays the same; the sides of later ones grow in proportion.

    >>> stretch(TINY, 40, 48)[-2:]
    ((30, 36), (40, 48))
    """
    last_h, last_w = sizes[-1]
    if h < 1 or w < 1:
        raise ValueError(f"the final token map must be at least 1x1; not {h}x{w}")
    fit = [(max(1, round(a * h / last_h)), max(1, round(b * w / last_w))) for a, b in sizes[1:-1]]
    return (sizes[0], *fit, (h, w))


def extend(sizes: Sequence[tuple[int, int]], side: int) -> Sizes:
    """Append larger maps to a schedule of square maps, growing at most as fast as its last step.

    The trained maps stay, because they decide the layout and the number of objects. Every further
    step needs a level embedding, trained or not. Raises ValueError for maps that are not square,
    and for a `side` that is not larger than the last.

    >>> extend(TINY, 48)[-3:]
    ((32, 32), (39, 39), (48, 48))
    """
    last = sizes[-1][0]
    if len(sizes) < 2 or any(h != w for h, w in sizes):
        raise ValueError(f"only a schedule of square maps can be extended; not {list(sizes)}")
    if side <= last:
        raise ValueError(
            f"a schedule that ends at {last} can only be extended to more; not to {side}"
        )
    growth = side / last
    steps = math.ceil(math.log(growth) / math.log(last / sizes[-2][0]))
    sides = (round(last * growth ** (i / steps)) for i in range(1, steps + 1))
    return (*sizes, *square(*sides))


def parse_size(text: str) -> tuple[int, int]:
    """Parse the size of a token map, `32` or `32x48` (height x width)."""
    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(p.isdigit() and 1 <= int(p) <= 512 for p in parts):
        raise ValueError(f"a size is a token map such as 32 or 32x48, sides 1 to 512; not {text!r}")
    return int(parts[0]), int(parts[-1])
