"""Spaces: the settings of every family that a tuning tries, and those that were published.

A family says its space beside its method: a function that makes a method of some fields, marked
with the values that each field may take. That is the only edit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, Protocol

import numpy as np

from fastvar_lab.errors import unknown
from fastvar_lab.methods.ratios import ScaleName
from fastvar_lab.methods.registry import import_all, place
from fastvar_lab.seam import Grid, Method

AXES = ("control", "guidance", "selection", "granularity", "cache")
"""What families change: steps and rows alone, guidance rows, which tokens, what tokens skip, keys.

Families of "cache" save memory, the others operations."""

PRUNED = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 1.0)
"""Shares pruned that spaces choose from."""

MOST = 1500
"""The most settings of a space that are looked at; larger spaces are sampled."""


class Subject(Protocol):
    """What a space is asked for: a model, and what can be measured on it."""

    @property
    def depth(self) -> int:
        """The number of layers."""
        ...

    def grids(self) -> Sequence[Grid]:
        """Return the scale steps."""
        ...

    @property
    def rules(self) -> Sequence[str]:
        """The names of the rules of SkipVAR that were fitted on the model."""
        ...

    def calibrated(self, method: str, **options: Any) -> Any:
        """Return a method with its constants measured, see `measure.calibration`."""
        ...


@dataclass(frozen=True)
class Space:
    """The settings of one family.

    `build(subject, **fields)` makes a method, or raises ValueError for fields that do not go
    together; `options` are the values of each field, in an order in which neighbours are alike.
    `published(subject)` are the settings of the paper and of the released code.
    """

    family: str
    axis: str
    build: Callable[..., Method]
    options: Mapping[str, Sequence[Any]]
    published: Callable[[Subject], Sequence[Method]]

    @property
    def saves(self) -> str:
        """What its settings save: "operations", or "bytes" of keys and values."""
        return "bytes" if self.axis == "cache" else "operations"

    def places(self, seed: int = 0) -> Iterator[tuple[int, ...]]:
        """Yield the place of each setting among the options: all, or a sample of a large space."""
        sizes = [len(values) for values in self.options.values()]
        if prod(sizes) <= MOST:
            yield from product(*map(range, sizes))
            return
        rng = np.random.default_rng(seed)
        drawn = (tuple(int(rng.integers(size)) for size in sizes) for _ in range(2 * MOST))
        yield from list(dict.fromkeys(drawn))[:MOST]

    def method(self, subject: Subject, place: Sequence[int]) -> Method:
        """Return the method of a place; raise ValueError for one that there is not."""
        fields = zip(self.options.items(), place, strict=True)
        return self.build(subject, **{name: values[i] for (name, values), i in fields})


_SPACES: dict[str, Space] = {}


def space(
    family: str,
    axis: str,
    published: Callable[[Subject], Sequence[Method]] = lambda subject: (),
    **options: Sequence[Any],
) -> Callable[[Callable[..., Method]], Callable[..., Method]]:
    """Register the space of a family (a decorator of its `build`); `options` are its fields."""
    if axis not in AXES:
        raise ValueError(f"axis must be one of {', '.join(AXES)}; not {axis!r}")

    def mark(build: Callable[..., Method]) -> Callable[..., Method]:
        _SPACES[family] = Space(family, axis, build, options, published)
        return build

    return mark


def spaces() -> dict[str, Space]:
    """Return the space of every family that has one, by axis.

    >>> spaces()["ToMe"].axis
    'selection'
    """
    import_all()
    ranked = sorted(_SPACES.values(), key=lambda s: (AXES.index(s.axis), place(s.build)))
    return {space.family: space for space in ranked}


def find_space(family: str) -> Space:
    """Return the space of a family; raise ValueError, with the nearest names, if it has none."""
    if family not in spaces():
        raise unknown("family", family, spaces(), "`fastvar-lab tune`")
    return spaces()[family]


def axis_of(family: str) -> str | None:
    """Return the axis of a family; None if it has no space."""
    known = spaces().get(family)
    return None if known is None else known.axis


def rising(third: float, second: float, last: float) -> dict[ScaleName, float]:
    """Return shares of the last three steps without those of 0; ValueError if they do not rise.

    >>> rising(0.0, 0.5, 0.75)
    {-2: 0.5, -1: 0.75}
    """
    if not 0 <= third <= second <= last or last == 0:
        raise ValueError("shares rise with the step, and the last one is not 0")
    return {-i: share for i, share in ((3, third), (2, second), (1, last)) if share}
