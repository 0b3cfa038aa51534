"""Quality of many methods on the same pictures, each resumed where it leaves the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fastvar_lab.branching import Branches, branching
from fastvar_lab.experiments.base import Cell
from fastvar_lab.generation import generate
from fastvar_lab.measure.quality import psnr
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.pictures import to_uint8
from fastvar_lab.seam import Grid, Method
from fastvar_lab.speed import flops
from fastvar_lab.store import Rows


def resumed(model: Model, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Rows]]:
    """Yield cells with a row a picture: PSNR to full generation, the judge's score, and the bound.

    The bound is the speedup that counted operations allow. The cells have the same items and sizes,
    and a method each. No picture is kept.
    """
    first, grids = cells[0], model.grids(cells[0].sizes)
    of_method: dict[Any, list[Cell]] = {}
    for cell in cells:
        of_method.setdefault(cell.method, []).append(cell)
    full = generate(
        model, first.prompts, Dense(), seed=first.seeds, sizes=first.sizes, snapshot=True
    )
    references, branches = to_uint8(model.decode(full.canvas)), Branches(model, full)
    for method in branching(list(of_method), grids):
        pictures = to_uint8(model.decode(branches.run(method).canvas))
        speedup = bound(model, method, grids, first.text_tokens)
        for cell in of_method[method]:
            rows = [
                {
                    "picture": cell.first + i,
                    "psnr": psnr(picture, reference),
                    **cell.score(i, picture),
                    "speedup_flop_bound": speedup,
                }
                for i, (picture, reference) in enumerate(zip(pictures, references, strict=True))
            ]
            yield cell, rows


def bound(model: Model, method: Method, grids: Sequence[Grid], text_tokens: int) -> float:
    """Return counted operations of full generation over those of a method."""
    costs = [flops.total(flops.step_flops(model, m, grids, text_tokens)) for m in (Dense(), method)]
    return costs[0] / costs[1]
