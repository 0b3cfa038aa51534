"""Masks of token maps as short text: rows and columns, such as "3-5:10-20 6:9-22"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fastvar_lab.errors import short
from fastvar_lab.methods.ratios import ScaleName, pairs_by_scale

LARGEST = 4096  # rows and columns of a map
_RANGES = r"\d{1,4}(?:-\d{1,4})?(?:,\d{1,4}(?:-\d{1,4})?)*"

Cells = dict[int, tuple[int, ...]]
"""The marked columns of each row of a map."""


def read_cells(text: str) -> Cells:
    """Read the marked cells of a mask; raise ValueError for text that is none.

    >>> read_cells("0-1:2-3 4:0,2")
    {0: (2, 3), 1: (2, 3), 4: (0, 2)}
    """
    marked: dict[int, set[int]] = {}
    for term in text.split():
        if not re.fullmatch(f"{_RANGES}:{_RANGES}", term):
            raise ValueError(
                f"a mask is written as rows and columns, such as '3-5:10-20 6:9-22'; not "
                f"{short(text, 40)!r}"
            )
        rows, columns = (_numbers(part) for part in term.split(":"))
        for row in rows:
            marked.setdefault(row, set()).update(columns)
    return {row: tuple(sorted(marked[row])) for row in sorted(marked)}


def write_cells(cells: Mapping[int, Sequence[int]]) -> str:
    """Write marked cells; equal masks have equal text, and rows with equal columns share a term.

    >>> write_cells({0: (2, 3), 1: (2, 3), 4: (0, 2)})
    '0-1:2-3 4:0,2'
    """
    rows: dict[tuple[int, ...], list[int]] = {}
    for row in sorted(cells):
        columns = tuple(sorted(set(cells[row])))
        if columns:
            rows.setdefault(columns, []).append(row)
    return " ".join(f"{_ranges(same)}:{_ranges(columns)}" for columns, same in rows.items())


def mask_text(mask: Any) -> str:
    """Write a mask (h, w) of booleans.

    >>> mask_text(np.eye(3, dtype=bool))
    '0:0 1:1 2:2'
    """
    array = np.asarray(mask)
    if array.ndim != 2 or array.dtype != bool:
        raise ValueError(
            f"a mask is a map (h, w) of booleans; not {array.dtype} of shape {array.shape}"
        )
    return write_cells({row: np.flatnonzero(array[row]).tolist() for row in range(len(array))})


def mask_of(text: str, h: int, w: int) -> np.ndarray:
    """Read a mask as booleans (h, w); raise ValueError for cells outside of the map.

    >>> mask_of("1:0", 2, 2).tolist()
    [[False, False], [True, False]]
    """
    mask = np.zeros((h, w), bool)
    for row, columns in read_cells(text).items():
        if row >= h or columns[-1] >= w:
            outside = f"row {row}, column {columns[-1]}"
            raise ValueError(f"a map of {h}x{w} has no {outside}, which is painted")
        mask[row, list(columns)] = True
    return mask


class ByScale(tuple[tuple[ScaleName, str], ...]):
    """Pairs of scale name and mask, written as the mapping that they came from."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{name!r}: {text!r}" for name, text in self) + "}"


def by_scale(masks: Any) -> ByScale:
    """Convert masks by scale, as text or as arrays of booleans, to a value; empty ones are left.

    Raises ValueError for anything else.

    >>> by_scale({-1: np.eye(2, dtype=bool), -2: ""})
    {-1: '0:0 1:1'}
    """
    named = pairs_by_scale("painted masks are given by scale, such as {-1: '3-5:10-20'}", masks)
    written = [
        (name, write_cells(read_cells(m)) if isinstance(m, str) else mask_text(m))
        for name, m in named
    ]
    return ByScale(sorted(((n, text) for n, text in written if text), key=lambda p: _place(p[0])))


def _place(name: ScaleName) -> tuple[int, ...]:
    return (name,) if isinstance(name, int) else tuple(name)


def _numbers(text: str) -> list[int]:
    """Read "1,4-6" as numbers."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        low, high = int(first), int(last or first)
        if not low <= high < LARGEST:
            raise ValueError(f"rows and columns go upwards, below {LARGEST}; not {part}")
        numbers += range(low, high + 1)
    return numbers


def _ranges(numbers: Iterable[int]) -> str:
    """Write ascending numbers as "1,4-6"."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)
