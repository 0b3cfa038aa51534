"""Many methods on the same prompts: steps that they share are computed once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from fastvar_lab.generation import Generation, resume
from fastvar_lab.models.model import Model
from fastvar_lab.seam import Grid, Method
from fastvar_lab.snapshots import resume_step

M = TypeVar("M", bound=Method)
ROOM = 2**30  # bytes of keys and values that branches keep beside those of the full generation


class Branches:
    """Finishes one full generation under many methods, each resumed where it leaves the others.

    `full` is a generation with a snapshot. Besides it, only the generations are kept from which
    the last method was resumed, and no more of them than have `room` (bytes of keys and values).
    The methods should come in the order of `branching`.

    >>> import fastvar_lab as fv
    >>> model = fv.load("tiny")
    >>> full = fv.generate(model, "a red ring", fv.Dense(), seed=1, snapshot=True)
    >>> branches = Branches(model, full)
    >>> [branches.run(fv.Prune({-2: 0.5, -1: last})).first_step for last in (0.5, 0.75)]
    [8, 9]
    """

    def __init__(self, model: Model, full: Generation, room: int = ROOM) -> None:
        if full.snapshot is None:
            raise ValueError("the generation kept no snapshot; generate it with snapshot=True")
        self.model, self.full, self.path = model, full, [full]
        self.most = 1 + room // max(1, full.snapshot.cache.bytes)

    def run(self, method: Method) -> Generation:
        """Generate under a method, with the same result as from scratch."""
        steps = [self._step(base, method) for base in self.path]
        while len(steps) > 1 and steps[-1] <= steps[-2]:
            steps.pop()
            self.path.pop()
        keep = len(self.path) < self.most
        generation = resume(self.model, self.path[-1], method, snapshot=keep)
        if keep:
            self.path.append(generation)
        return generation

    def _step(self, base: Generation, method: Method) -> int:
        assert base.snapshot is not None
        return resume_step(base.snapshot, method, self.model)


def branching(methods: Iterable[M], grids: Sequence[Grid]) -> list[M]:
    """Sort methods so that those that share their first steps follow each other.

    >>> from fastvar_lab.methods.prune import Prune
    >>> from fastvar_lab.scales import TINY, grids
    >>> ratios = [{-1: 0.5}, {-2: 0.5, -1: 0.5}, {-1: 0.75}, {-2: 0.5, -1: 0.75}]
    >>> [len(m.pairs) for m in branching(map(Prune, ratios), grids(TINY))]
    [2, 2, 1, 1]
    """
    return sorted(methods, key=lambda method: [repr(act) for act in method.acts(grids)])
