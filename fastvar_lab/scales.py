"""Scale schedules as data: the token maps (h, w) a picture grows through, and their Grids."""

from __future__ import annotations

from collections.abc import Sequence

from fastvar_lab.seam import Grid

Sizes = tuple[tuple[int, int], ...]


def square(*sides: int) -> Sizes:
    """Name a schedule of square maps by their sides."""
    return tuple((s, s) for s in sides)


TINY = square(1, 2, 4, 6, 8, 12, 16, 20, 24, 32)
INFINITY_1M = square(1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)


def grids(sizes: Sequence[tuple[int, int]], prefix: int = 0) -> tuple[Grid, ...]:
    """Turn a schedule into steps; `prefix` text tokens ride along with the first one."""
    if not sizes:
        raise ValueError("a scale schedule needs at least one map")
    for h, w in sizes:
        if h < 1 or w < 1:
            raise ValueError(f"a token map is at least 1x1; not {h}x{w} in {list(sizes)}")
    return tuple(Grid(i, h, w, prefix if i == 0 else 0) for i, (h, w) in enumerate(sizes))


def stretch(sizes: Sequence[tuple[int, int]], h: int, w: int) -> Sizes:
    """Scale a schedule to end at an h x w map, keeping its number of steps.

    Used for other aspect ratios and for zero-shot larger pictures: the first map
    stays, the sides of later ones grow in proportion, and the number of level embeddings stays.
    """
    last_h, last_w = sizes[-1]
    if h < 1 or w < 1:
        raise ValueError(f"the final token map is at least 1x1; not {h}x{w}")
    fit = [(max(1, round(a * h / last_h)), max(1, round(b * w / last_w))) for a, b in sizes[1:-1]]
    return (sizes[0], *fit, (h, w))


def parse_size(text: str) -> tuple[int, int]:
    """Read a token map, `32` or `32x48` (height x width)."""
    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(p.isdigit() and 1 <= int(p) <= 512 for p in parts):
        raise ValueError(f"a size is a token map such as 32 or 32x48, sides 1 to 512; not {text!r}")
    return int(parts[0]), int(parts[-1])
