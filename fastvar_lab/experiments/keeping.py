"""Settings that experiments share: tokens kept at the last two steps, from mild to extreme."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastvar_lab.experiments.base import Methods
from fastvar_lab.methods.prune import Prune
from fastvar_lab.methods.ratios import ScaleName
from fastvar_lab.seam import Method

Ratios = dict[ScaleName, float]

KEEPS: dict[str, Ratios] = {
    "keeps 75, 50 %": {-2: 0.25, -1: 0.5},
    "keeps 50, 25 %": {-2: 0.5, -1: 0.75},
    "keeps 25, 10 %": {-2: 0.75, -1: 0.9},
}
"""Shares pruned of the last two scales, by what a label says is kept of them."""


def keeping(method: Callable[..., Method] = Prune, least: int = 3, **fields: Any) -> Methods:
    """Return a method at the settings of `KEEPS`, or at the `least` last of them.

    >>> [*keeping(least=2)]
    ['keeps 50, 25 %', 'keeps 25, 10 %']
    """
    return {name: method(ratios, **fields) for name, ratios in [*KEEPS.items()][-least:]}
