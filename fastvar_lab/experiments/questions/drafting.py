"""Drafting with a large VAR and refining with a small one."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from fastvar_lab.draft_and_refine import draft_and_refine
from fastvar_lab.experiments.base import Cell, Experiment, Question, in_turns
from fastvar_lab.generation import generate
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.loading import load
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts
from fastvar_lab.seam import Method
from fastvar_lab.speed import flops
from fastvar_lab.store import Rows


def methods(model: Model) -> Mapping[str, Method]:
    """Return none: drafting is no method of one model."""
    return {}


def cells(question: Question) -> list[list[Cell]]:
    """Return a timed cell for each number of steps drafted."""
    cuda = question.model.device.type == "cuda"
    drafter = "var-d30" if cuda else "var-d20"  # the paper's; what a laptop holds
    steps = (6, 7, 8, 9) if question.scope.name == "paper" else (6, 8)
    pair = {"kind": "time", "drafter": drafter, "refiner": "var-d16"}
    repeats = question.scope.repeats
    return [[Cell({**pair, "drafted": drafted}, repeats=repeats) for drafted in steps]]


def drafting(model: Model, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Rows]]:
    """Time of CoDe on two VARs with random weights, and its share of their keys: cost alone."""
    names = (cells[0].columns["drafter"], cells[0].columns["refiner"])
    large, small = (load(name, "random", model.device, model.dtype) for name in names)
    small = replace(small, tokenizer=large.tokenizer, quantizer=large.quantizer)
    grids = large.grids()

    def once(cell: Cell) -> float:
        if not cell.columns["drafted"]:
            return generate(large, "0", Dense(), seed=0).seconds
        return draft_and_refine(large, small, "0", cell.columns["drafted"], seed=0).seconds

    base = Cell({**cells[0].columns, "drafted": 0}, repeats=cells[0].repeats)
    whole, rest = (flops.step_flops(m, Dense(), grids, text_tokens=0) for m in (large, small))
    keys = [m.depth * m.transformer.config.width for m in (large, small)]
    for cell, pairs in in_turns(cells, once, base, float):
        drafted = cell.columns["drafted"]
        tokens = [sum(g.tokens for g in part) for part in (grids, grids[:drafted])]
        row = {
            "method": f"CoDe, {drafted} of {len(grids)} steps drafted",
            "family": "CoDe",
            "ms": statistics.median(pairs.fast) * 1e3,
            "ms_full": statistics.median(pairs.full) * 1e3,
            **pairs.speedup.columns(),
            "speedup_flop_bound": flops.total(whole)
            / (flops.total(whole[:drafted]) + flops.total(rest)),
            "kv_share": max(keys[0] * tokens[1], keys[1] * tokens[0]) / (keys[0] * tokens[0]),
        }
        yield cell, [row]


EXPERIMENT = Experiment(
    question="What does drafting with a large VAR and refining with a small one (CoDe) save?",
    source="Chen et al., CVPR 2025: 1.7x with 8 steps drafted",
    methods=methods,
    cells=cells,
    work=drafting,
    subject="VARs of the named depths, random weights: time alone",
    chart=charts.speedups,
    version=3,
    slow=True,
    speed=True,
)
