"""Many methods on the same prompts: steps that they share are computed once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from fastvar_lab.generation import Generation, resume
from fastvar_lab.models.model import Model
from fastvar_lab.seam import Method
from fastvar_lab.snapshots import resume_step

M = TypeVar("M", bound=Method)


class Branches:
    """Finishes one full generation under many methods, each resumed where it leaves the others.

    `full` is a generation with a snapshot. Besides it, only the generations are kept from which
    the last method was resumed: the methods should come in the order of `branching`.

    >>> import fastvar_lab as fv
    >>> model = fv.load("tiny")
    >>> full = fv.generate(model, "a red ring", fv.Dense(), seed=1, snapshot=True)
    >>> branches = Branches(model, full)
    >>> [branches.run(fv.Prune({-2: 0.5, -1: last})).first_step for last in (0.5, 0.75)]
    [8, 9]
    """

    def __init__(self, model: Model, full: Generation) -> None:
        self.model, self.path = model, [full]

    def run(self, method: Method) -> Generation:
        """Generate under a method, with the same result as from scratch."""
        steps = [self._step(base, method) for base in self.path]
        while len(steps) > 1 and steps[-1] <= steps[-2]:
            steps.pop()
            self.path.pop()
        generation = resume(self.model, self.path[-1], method, snapshot=True)
        self.path.append(generation)
        return generation

    def _step(self, base: Generation, method: Method) -> int:
        assert base.snapshot is not None
        return resume_step(base.snapshot, method, self.model)


def branching(model: Model, methods: Iterable[M], sizes: object = None) -> Iterator[M]:
    """Yield methods in an order in which those that share their first steps follow each other."""
    grids = model.grids(sizes)  # type: ignore[arg-type]
    yield from sorted(methods, key=lambda m: [repr(act) for act in m.acts(grids)])
