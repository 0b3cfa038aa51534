"""What an experiment is: a question, its jobs, and the work that answers them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from fastvar_lab.methods.prune import Dense
from fastvar_lab.methods.schedule import ScaleName
from fastvar_lab.models.model import Model, paper_preset
from fastvar_lab.prompts import Item, seeded
from fastvar_lab.seam import Method
from fastvar_lab.store import Rows

BATCH = 4
Settings = dict[str, Any]
Work = Callable[[Model, Settings], Rows]
Ratios = dict[ScaleName, float]
T = TypeVar("T")


@dataclass(frozen=True)
class Scope:
    """How much to run: prompts per setting, timed repeats.

    >>> Scope("look", prompts=4, repeats=3).prompts
    4
    """

    name: str
    prompts: int
    repeats: int

    def __post_init__(self) -> None:
        if self.prompts < 1 or self.repeats < 1:
            raise ValueError(f"a scope takes at least one prompt and one repeat; not {self}")


SCOPES = {
    "quick": Scope("quick", 2, 1),
    "default": Scope("default", 24, 3),
    "paper": Scope("paper", 112, 5),
}


@dataclass(frozen=True)
class Experiment:
    """One question. `jobs` says what to compute, `work` computes one job, cell by cell.

    A job is a list of cells that share work (one dense generation, many methods); each cell is
    plain settings, and `work(model, cells)` yields each with its rows. Cells with `repeats` are
    timed: nothing runs beside them. `version` is part of every cell's address: raise it when the
    numbers' meaning changes. Experiments that are `kept_as` one name share their cells, whatever
    their `labels`, the settings that only say what a cell is called.
    """

    name: str
    question: str
    source: str
    jobs: Callable[[Model, Scope], list[list[Settings]]]
    work: Callable[[Model, Sequence[Settings]], Iterator[tuple[Settings, Rows]]]
    version: int = 1
    slow: bool = False
    kept_as: str = ""
    labels: tuple[str, ...] = ()


def each_cell(
    name: str,
    question: str,
    source: str,
    jobs: Callable[[Model, Scope], list[list[Settings]]],
    work: Work,
    **options: Any,
) -> Experiment:
    """Make an experiment whose cells are worked on one by one."""
    return Experiment(name, question, source, jobs, partial(_each, work), **options)


def _each(work: Work, model: Model, cells: Sequence[Settings]) -> Iterator[tuple[Settings, Rows]]:
    for cell in cells:
        yield cell, work(model, cell)


def in_turns(
    cells: Sequence[Settings], once: Callable[[Settings], T], warm_up: bool = True
) -> list[list[T]]:
    """Measure cells one after the other, again and again: what slows one turn slows all in it.

    Returns each cell's measurements; a first turn that warms up is left out.

    >>> counted = iter(range(6))
    >>> in_turns([{"repeats": 2}, {"repeats": 2}], lambda cell: next(counted))
    [[2, 4], [3, 5]]
    """
    turns = [[once(cell) for cell in cells] for _ in range(cells[0]["repeats"] + warm_up)]
    return [list(found) for found in zip(*turns[warm_up:], strict=True)]


def ways(model: Model) -> dict[str, Method]:
    """Full generation and the model's own preset."""
    return {"full": Dense(), "fast": paper_preset(model)}


def told(methods: Mapping[str, Method]) -> list[Settings]:
    """Tell methods apart in cells: by what they are called, and as they are written."""
    return [{"method": name, "repr": repr(method)} for name, method in methods.items()]


def score(model: Model, prompt: str, picture: np.ndarray) -> float:
    """Judge a picture by the model's judge; nan for a model without one."""
    judge = model.prompts.judge
    return float("nan") if judge is None else judge(Item(prompt, 0), picture)


def draws_the_world(model: Model) -> bool:
    """Tell whether a model's pictures can be judged."""
    return model.prompts.judge is not None


def labelled(ratios: Ratios) -> str:
    """Name a schedule.

    >>> labelled({-2: 0.5, -1: 1.0})
    '-2: 50%, -1: 100%'
    """
    return ", ".join(f"{scale}: {ratio:.0%}" for scale, ratio in ratios.items())


def timed_prompt(model: Model) -> str:
    """Say what is drawn where time and memory alone are measured."""
    return model.example


def batches(model: Model, scope: Scope, seed: int) -> list[Settings]:
    """Draw the model's prompt set from `seed`, in batches that are generated together."""
    items = [
        {"task": item.group, "prompt": item.prompt, "seed": item.seed}
        for item in seeded(model.prompts, seed).take(scope.prompts)
    ]
    return [
        {"first": first, "batch": items[first : first + BATCH]}
        for first in range(0, len(items), BATCH)
    ]


def prompts_and_seeds(batch: Sequence[Settings]) -> tuple[list[str], list[int]]:
    """Take apart what `generate` is given."""
    return [item["prompt"] for item in batch], [item["seed"] for item in batch]
