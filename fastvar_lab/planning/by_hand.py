"""The schedules that people write by hand: a grid to which planned ones are compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement

from fastvar_lab.methods.prune import Prune
from fastvar_lab.methods.ratios import ScaleName
from fastvar_lab.seam import Grid

RATIOS = (0.0, 0.25, 0.5, 0.75, 1.0)
STEPS = 3  # last scale steps that are pruned, or run without null rows


def by_hand(grids: Sequence[Grid], depth: int, guided: bool = True) -> list[Prune]:
    """Return FastVAR schedules: ratios, steps without null rows, and layers, in all combinations.

    Ratios of the last three steps are 0, 25, 50, 75 or 100 %, rising; null rows run everywhere, or
    not in the last one, two or three steps; all layers are pruned, or all but the first quarter.
    Schedules that compute the same stand once. Two steps at least stay whole.

    >>> from fastvar_lab.scales import TINY, grids
    >>> len(by_hand(grids(TINY), depth=8))
    227
    """
    last = max(0, min(STEPS, len(grids) - 2))
    unique: dict[tuple[object, ...], Prune] = {}
    for ratios in combinations_with_replacement(RATIOS, last):
        pruned: dict[ScaleName, float] = {
            step - last: ratio for step, ratio in enumerate(ratios) if ratio
        }
        skipped = sum(ratio == 1 for ratio in ratios)
        for layers in _layers(depth) if any(0 < ratio < 1 for ratio in ratios) else (None,):
            for dropped in (0, *range(skipped + 1, last + 1)) if guided else (0,):
                if pruned or dropped:
                    rows = -dropped - 1 if dropped else None
                    prune = Prune(pruned, layers=layers, null_until=rows)
                    unique[ratios, layers, dropped] = prune
    return list(unique.values())


def _layers(depth: int) -> Iterator[tuple[int, int] | None]:
    yield None
    if depth >= 4:
        yield depth // 4, depth
