"""The picture after every scale step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fastvar_lab.experiments.base import Cell, Experiment, Question
from fastvar_lab.instruments.observe import observe
from fastvar_lab.measure.quality import psnr
from fastvar_lab.measure.scale_steps import images
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts
from fastvar_lab.seam import Method
from fastvar_lab.store import Rows


def cells(question: Question) -> list[list[Cell]]:
    """Return a cell for each batch of prompts and method."""
    return [
        [
            Cell({"first": first}, method, label, items, first, question.prompts.judge)
            for label, method in question.methods.items()
        ]
        for first, items in question.batches()
    ]


def outputs(model: Model, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Rows]]:
    """Yield the cells of a batch of prompts with their rows; full generation is drawn once."""
    full: np.ndarray | None = None
    for cell in cells:
        assert cell.method is not None
        shown = _pictures(model, cell, cell.method)
        if full is None:
            full = (shown if cell.method == Dense() else _pictures(model, cell, Dense()))[-1]
        yield cell, _rows(model, cell, shown, full)


def _rows(model: Model, cell: Cell, shown: np.ndarray, full: np.ndarray) -> Rows:
    """Whether the picture is right after every step, and how far from the full final one."""
    sizes = [grid.name for grid in model.grids()]
    return [
        {
            "step": step,
            "size": sizes[step],
            "picture": cell.first + i,
            "group": item.group,
            "psnr": psnr(pictures[i], full[i]),
            **cell.score(i, pictures[i]),
        }
        for step, pictures in enumerate(shown)
        for i, item in enumerate(cell.items)
    ]


def _pictures(model: Model, cell: Cell, method: Method) -> np.ndarray:
    """Decode after every step: (steps, n, H, W, 3) uint8."""
    _, trace = observe(model, cell.prompts, method, seed=cell.seeds)
    return (images(trace, model.decode) * 255).round().astype(np.uint8)


EXPERIMENT = Experiment(
    question="After which step is the picture there, and right?",
    source="FastVAR, supplement, Fig. A.2",
    cells=cells,
    work=outputs,
    chart=charts.outputs,
    seed=23,
    version=4,
)
