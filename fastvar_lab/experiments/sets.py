"""Jobs of methods as a whole: the distance of all their pictures together to rendered ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastvar_lab.evaluators.local_features import distance, distance_interval, sums
from fastvar_lab.experiments.base import BATCH, Methods, Question
from fastvar_lab.experiments.comparison import counting
from fastvar_lab.experiments.jobs import (
    Addresses,
    Disturbed,
    Done,
    Job,
    PictureJob,
    method_columns,
    nothing,
)
from fastvar_lab.frames import CELL
from fastvar_lab.models.model import Model
from fastvar_lab.prompts import Item
from fastvar_lab.seam import Method
from fastvar_lab.store import Rows, Store, key, short_key
from fastvar_lab.world.grammar import parse
from fastvar_lab.world.render import render
from fastvar_lab.world.scene import compose

VERSION = 1  # raise it when the distance means something else


@dataclass(frozen=True)
class DistanceJob:
    """The distance of all pictures of a method to renderings of their prompts, by method.

    Pictures are those that the experiment's quality is measured on; the store holds them.
    """

    methods: Methods
    items: tuple[Item, ...]
    experiment: str = ""

    @property
    def timed(self) -> bool:
        return False

    @property
    def waits(self) -> bool:
        return True

    def __len__(self) -> int:
        """Return how many batches of pictures and distances there are."""
        return len(self.methods) * (len(range(0, len(self.items), BATCH)) + 1)

    def address(self, method: Method, at: Addresses) -> dict[str, Any]:
        """Everything that a method's distance depends on."""
        pictures = [key(at.picture(method, item)) for item in self.items]
        return {"model": at.model.name, "distance": VERSION, "pictures": pictures}

    def missing(self, model: Model, store: Store) -> DistanceJob | None:
        at = Addresses(model)
        lacking = {
            label: method
            for label, method in self.methods.items()
            if store.get(self.address(method, at)) is None
        }
        return replace(self, methods=lacking) if lacking else None

    def compute(self, model: Model, store: Store, done: Done = nothing) -> Disturbed:
        """Draw the pictures that are not there, then measure those of each method."""
        at, truth = Addresses(model), list[Any]()
        for job in self._batches(self.methods):  # all methods of a batch from one snapshot
            job.draw(model, store, done)
        for label, method in self.methods.items():
            batches = self._batches({label: method})
            drawn = [
                one for job in batches for _, part in job.pictures(model, store) for one in part
            ]
            # drawn or read, they lie in memory alike: sums of floats depend on it
            pictures = [np.ascontiguousarray(one.picture) for one in drawn]
            if not truth:
                size = (pictures[0].shape[0], pictures[0].shape[1])
                truth = [sums(model, rendering(item, size)) for item in self.items]
            seen = [sums(model, picture) for picture in pictures]
            low, high = distance_interval(seen, truth)
            row = {"frechet": distance(seen, truth), "frechet_low": low, "frechet_high": high}
            store.put(self.address(method, at), [row], self.experiment)
            done()
        return {}

    def _batches(self, methods: Methods) -> Iterator[PictureJob]:
        """Yield the jobs that draw the pictures of methods, batch by batch."""
        for first in range(0, len(self.items), BATCH):
            part = self.items[first : first + BATCH]
            yield PictureJob(methods, part, first, (), self.experiment)

    def rows(self, model: Model, store: Store, disturbed: Disturbed) -> Iterator[Rows | None]:
        at = Addresses(model)
        for label, method in self.methods.items():
            address = self.address(method, at)
            columns = {"kind": "set", **method_columns(label, method, model)}
            known, last = store.get(address), {**columns, CELL: short_key(address)}
            yield None if known is None else [{**columns, **row, **last} for row in known]


def rendering(item: Item, size: tuple[int, int]) -> np.ndarray:
    """Render the prompt of an item as a picture (H, W, 3) uint8; PromptError outside the world."""
    return render(compose(parse(item.prompt), item.seed, size[0] / size[1]), size)


def whole_sets(question: Question, experiment: str = "") -> list[Job]:
    """Return the jobs that measure the methods of a timed comparison as a whole.

    Counted operations and bytes of every method, and the distance of its pictures to rendered ones
    where prompts are of the closed world.
    """
    jobs = counting(question, experiment)
    if question.prompts.judge is not None and question.model.grammar is not None:
        items = question.prompts.take(question.scope.prompts)
        jobs.append(DistanceJob(question.methods, items, experiment))
    return jobs
