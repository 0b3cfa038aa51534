"""Pruning under fused and unfused attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import pandas as pd

from fastvar_lab.experiments.base import Cell, Experiment, Question, in_turns, timed_cells
from fastvar_lab.experiments.verdicts import Answer, Claim, above, label, median
from fastvar_lab.frames import FULL
from fastvar_lab.generation import generate
from fastvar_lab.instruments.unfused import Unfused
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts
from fastvar_lab.seam import Runner
from fastvar_lab.speed.peak import peak_bytes
from fastvar_lab.store import Rows


class Cost(NamedTuple):
    """Seconds of a generation, and the bytes of the largest attention matrix that it makes."""

    seconds: float
    largest: int


def cells(question: Question) -> list[list[Cell]]:
    """Return a timed cell for each kernel and method."""
    repeats = 3 * question.scope.repeats
    by_kernel = [timed_cells(question, repeats, kernel=k) for k in ("unfused", "fused")]
    return [[cell for cells in by_kernel for cell in cells]]


def kernels(model: Model, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Rows]]:
    """Time and memory under fused and unfused attention, turn by turn (paper, Table 5).

    Memory is the peak of a run of its own on a GPU; on a CPU that of the largest matrix alone.
    """

    def once(cell: Cell) -> Cost:
        seen = list[Unfused]()

        def watch(run: Runner) -> Runner:
            seen.append(Unfused(run))
            return seen[0]

        watchers = [watch] if cell.columns["kernel"] == "unfused" else []
        assert cell.method is not None
        generation = generate(model, cell.prompts, cell.method, watch=watchers)
        return Cost(generation.seconds, seen[0].largest if seen else 0)

    first = cells[0]
    base = Cell({"kernel": "unfused"}, Dense(), FULL, first.items, repeats=first.repeats)
    for cell, pairs in in_turns(cells, once, base, lambda cost: cost.seconds):
        peak = peak_bytes(model.device, partial(once, cell))
        yield (
            cell,
            [
                {"turn": turn, "ms": cost.seconds * 1e3, "bytes": peak or cost.largest,
                 "disturbed": pairs.speedup.disturbed}
                for turn, cost in enumerate(pairs.fast)
            ],
        )  # fmt: skip


def combines_with_fused_attention(frame: pd.DataFrame) -> Answer:
    """Speedup of fusing and pruning over that of the better one alone, turn by turn."""
    full = label(frame[frame.family == "full"], "that prunes nothing")
    fast = label(frame[frame.family != "full"], "that prunes")
    ms = frame.pivot_table(index="turn", columns=["kernel", "method"], values="ms")
    speedup = (1 / ms).mul(ms["unfused", full], axis=0)
    names = {"fused": ("fused", full), "pruned": ("unfused", fast), "both": ("fused", fast)}
    medians = {name: float(speedup[cell].median()) for name, cell in names.items()}
    better = max(("fused", "pruned"), key=lambda name: medians[name])
    gap = (speedup[names["both"]] - speedup[names[better]]).to_numpy()
    each = ", ".join(f"{name} {times:.2f}x" for name, times in medians.items())
    answer = above(median(gap), "x", f"both over {better} alone")
    return Answer(f"{each}; {answer.text}", answer.verdict)


EXPERIMENT = Experiment(
    question="Does pruning combine with fused attention?",
    source="FastVAR, Table 5",
    cells=cells,
    work=kernels,
    chart=charts.kernels,
    claims=(
        Claim(
            "Pruning combines with fused attention",
            "pruned 2.1x with slow attention, 2.7x with both (Table 5)",
            combines_with_fused_attention,
        ),
    ),
    version=4,
    speed=True,
)
