"""Ratios by scale as plain values, and read from text; without torch, so that errors come fast."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fastvar_lab.errors import short
from fastvar_lab.scales import whole

ScaleName = int | tuple[int, int]
"""A scale step: negative from the end (-1 is the last), else a side (24) or a map (28, 21)."""


def scale_name(name: Any) -> ScaleName:
    """Convert a scale name to plain integers; raise ValueError if it is not one.

    >>> scale_name([28, 21])
    (28, 21)
    """
    try:
        if isinstance(name, tuple | list):
            h, w = name
            return whole("side", h), whole("side", w)
        return whole("scale", name)
    except (TypeError, ValueError):
        raise ValueError(
            f"a scale is named from the end (-1), by a side (24) or a map (28, 21); not {name!r}"
        ) from None


def pairs_by_scale(what: str, values: Any) -> list[tuple[ScaleName, Any]]:
    """Return what a mapping by scale, or pairs, hold; raise ValueError, `what` they do, for others.

    >>> pairs_by_scale("ratios map scales to shares", {-1: 0.5})
    [(-1, 0.5)]
    """
    try:
        if isinstance(values, str | bytes):
            raise TypeError
        items = values.items() if isinstance(values, Mapping) else values
        pairs = [(name, value) for name, value in items]
    except (TypeError, ValueError):
        raise ValueError(f"{what}; not {short(repr(values))}") from None
    return [(scale_name(name), value) for name, value in pairs]


def share(name: Any, ratio: Any) -> float:
    """Convert the ratio of a scale to a float in [0, 1], or raise ValueError."""
    try:
        number = float("nan") if isinstance(ratio, str | bool) else float(ratio)
    except (TypeError, ValueError):
        number = float("nan")
    if not 0 <= number <= 1:
        raise ValueError(f"the ratio of scale {name} must lie in [0, 1]; not {ratio!r}")
    return number


def parse_ratios(text: str) -> dict[ScaleName, float]:
    """Parse `-2:0.5,-1:0.75`, `24:0.5,32:0.75` or `28x21:0.4`; raise ValueError for other text."""
    ratios: dict[ScaleName, float] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(-?\d+)(?:x(\d+))?\s*:\s*([^\s:]+)\s*", part)
        try:
            if match is None:
                raise ValueError
            ratio = float(match[3])
        except ValueError:
            raise ValueError(
                f"cannot read {part.strip()!r} in the ratios {text!r}; "
                "write SCALE:RATIO,... as in -2:0.5,-1:0.75 or 24:0.5,32:0.75"
            ) from None
        name: ScaleName = int(match[1]) if match[2] is None else (int(match[1]), int(match[2]))
        if name in ratios:
            twice = part.rpartition(":")[0].strip()
            raise ValueError(f"the ratios {text!r} name scale {twice} twice")
        ratios[name] = share(name, ratio)
    return ratios
