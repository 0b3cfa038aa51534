"""Jobs of methods as a whole: distances of all their pictures together, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastvar_lab.evaluators.local_features import distance, distance_interval, sums
from fastvar_lab.experiments.base import BATCH, Cell, Methods, Question, each
from fastvar_lab.experiments.jobs import (
    Addresses,
    CellJob,
    Disturbed,
    Job,
    PictureJob,
    method_columns,
)
from fastvar_lab.measure.quality import METRICS
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.prompts import Item
from fastvar_lab.seam import Method
from fastvar_lab.speed import flops
from fastvar_lab.speed.kv_bytes import kv_bytes
from fastvar_lab.speed.tally import as_run
from fastvar_lab.store import Rows, Store, key
from fastvar_lab.world.grammar import parse
from fastvar_lab.world.render import render
from fastvar_lab.world.scene import compose

COUNTED = 8  # pictures on which work that depends on the picture is counted
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
        return len(self.methods)

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

    def compute(self, model: Model, store: Store) -> Disturbed:
        """Measure every method's pictures; those that are not there are drawn."""
        at, truth = Addresses(model), None
        for label, method in self.methods.items():
            seen, size = [], (0, 0)
            for first in range(0, len(self.items), BATCH):
                part = self.items[first : first + BATCH]
                job = PictureJob({label: method}, part, first, (METRICS["psnr"],), self.experiment)
                for drawn in job.pictures(method, model, store):
                    seen.append(sums(model, drawn.picture))
                    size = (drawn.picture.shape[0], drawn.picture.shape[1])
            if truth is None:
                truth = [sums(model, rendering(item, size)) for item in self.items]
            low, high = distance_interval(seen, truth)
            row = {"frechet": distance(seen, truth), "frechet_low": low, "frechet_high": high}
            store.put(self.address(method, at), [row], self.experiment)
        return {}

    def rows(self, model: Model, store: Store, disturbed: Disturbed) -> Iterator[Rows | None]:
        at = Addresses(model)
        for label, method in self.methods.items():
            known = store.get(self.address(method, at))
            columns = method_columns(label, method, model)
            yield None if known is None else [{"kind": "set", **columns, **row} for row in known]


def rendering(item: Item, size: tuple[int, int]) -> np.ndarray:
    """Render the prompt of an item as a picture (H, W, 3) uint8; PromptError outside the world."""
    return render(compose(parse(item.prompt), item.seed, size[0] / size[1]), size)


def costs(model: Model, cell: Cell) -> Rows:
    """Count what a method saves: operations, picture by picture if they differ, and bytes."""
    method, grids = cell.method, model.grids()
    assert method is not None
    text = cell.text_tokens
    dense = flops.step_flops(model, Dense(), grids, text, sampling=model.sampling)
    held = {"kv_bytes": kv_bytes(model, method), "kv_saving": saved_bytes(model, method)}
    if flops.exact(method, grids):
        counted = flops.step_flops(model, method, grids, text, sampling=model.sampling)
        return [{"saving": flops.total(dense) / flops.total(counted), **held}]
    rows: Rows = []
    for picture, item in enumerate(cell.items):
        words = len(item.prompt.split())
        full = flops.step_flops(model, Dense(), grids, words, sampling=model.sampling)
        saving = flops.total(full) / as_run(model, method, item)
        rows.append({"picture": picture, "saving": saving, **held})
    return rows


def saved_bytes(model: Model, method: Method) -> float:
    """Return the bytes of keys and values of full generation over those of a method."""
    return kv_bytes(model, Dense()) / kv_bytes(model, method)


def whole_sets(question: Question, experiment: str = "") -> list[Job]:
    """Return the jobs that measure the methods of a comparison as a whole.

    Rows of kind "cost" for every method; of kind "set" where the prompts are of the closed world.
    """
    items = question.prompts.take(question.scope.prompts)
    cells = tuple(
        Cell({"kind": "cost"}, method, label, items[:COUNTED])
        for label, method in question.methods.items()
    )
    jobs: list[Job] = [CellJob("costs", 1, each(costs), cells, experiment)]
    if question.prompts.judge is not None and question.model.grammar is not None:
        jobs.append(DistanceJob(question.methods, items, experiment))
    return jobs
