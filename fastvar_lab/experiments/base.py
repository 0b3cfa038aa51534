"""What an experiment is: a question, its jobs, and the work that answers them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastvar_lab.experiments.store import Rows
from fastvar_lab.models import Model

Settings = dict[str, Any]


@dataclass(frozen=True)
class Scope:
    """How much to run: prompts per setting, timed repeats."""

    name: str
    prompts: int
    repeats: int


SCOPES = {
    "quick": Scope("quick", 4, 1),
    "default": Scope("default", 24, 3),
    "paper": Scope("paper", 112, 5),
}


@dataclass(frozen=True)
class Experiment:
    """One question. `jobs` says what to compute, `work` computes one job, cell by cell.

    A job is a list of cells that share work (one dense generation, many methods); each cell is
    plain settings, and `work(model, cells)` yields each with its rows. `version` is part of every
    cell's address: raise it when the numbers' meaning changes.
    """

    name: str
    question: str
    source: str
    jobs: Callable[[Model, Scope], list[list[Settings]]]
    work: Callable[[Model, Sequence[Settings]], Iterator[tuple[Settings, Rows]]]
    version: int = 1
    slow: bool = False
    exclusive: bool = False  # its cells are timed, so they never run side by side
