"""What to drop from the cache of keys and values, at equal bytes."""

from __future__ import annotations

import random

from fastvar_lab.experiments.base import Experiment, Lines
from fastvar_lab.experiments.verdicts import Claim, line_over
from fastvar_lab.frames import CACHE
from fastvar_lab.measure.scalekv_budgets import budgets
from fastvar_lab.methods.calibrated_keys import DRAFTERS, ORDERS
from fastvar_lab.methods.heatkv import HeatKV
from fastvar_lab.methods.quantkv import QuantKV
from fastvar_lab.methods.scalekv import ScaleKV
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts
from fastvar_lab.seam import Method

HEATKV, CHANCE = "blocks by attention (HeatKV)", "blocks by chance"
SOFTMAX, RAW = "tokens by attention (ScaleKV, paper)", "tokens by products (ScaleKV, code)"
QUANTISED = "fewer bits (VAR-Q)"
BUDGETS = (0.5, 0.25, 0.1)
SINKS, LEAST = 3, 40  # steps of HeatKV that stay; keys of a layer below which no budget is tried


def methods(model: Model) -> Lines:
    """Drop blocks or tokens by several scores, or bits.

    HeatKV's orders and ScaleKV's drafters are calibrated for the shipped model. For another one
    HeatKV is left out, and all layers have one budget.
    """
    grids, heads = model.grids(), model.transformer.config.heads
    keys = sum(grid.tokens for grid in grids[:-1])
    shares = [share for share in BUDGETS if share * keys >= LEAST]
    drafters = DRAFTERS.get(model.name, ())

    def heatkv(orders: tuple[tuple[int, ...], ...]) -> dict[str, Method]:
        return {f"keeps {100 * share:g} %": HeatKV(share, orders, SINKS) for share in shares}

    def scalekv(score: str) -> dict[str, Method]:
        counts = {share: budgets(grids, model.depth, drafters, share) for share in shares}
        return {
            f"keeps {100 * share:g} %": ScaleKV(counts[share], drafters, score) for share in shares
        }

    drawn = random.Random(0)
    pairs, sources = range(model.depth * heads), len(grids) - 1 - SINKS
    chance = tuple(tuple(drawn.sample(pairs, len(pairs))) for _ in range(sources))
    return {
        **({HEATKV: heatkv(ORDERS[model.name])} if model.name in ORDERS else {}),
        **({CHANCE: heatkv(chance)} if sources > 0 else {}),
        SOFTMAX: scalekv("softmax"),
        RAW: scalekv("raw"),
        QUANTISED: {f"{bits} bits": QuantKV(bits) for bits in (8, 4, 2)},
    }


EXPERIMENT = Experiment(
    question="Which keys and values can be dropped, at equal bytes?",
    source="HeatKV, ScaleKV, VAR-Q: memory alone, no claim of speed",
    methods=methods,
    chart=charts.by_operations,
    points=charts.operations_points,
    timed=False,
    claims=(
        Claim(
            "Blocks of heads are better to drop than tokens",
            "HeatKV: twice the compression of earlier methods at equal fidelity",
            line_over(HEATKV, SOFTMAX, cost=CACHE),
        ),
        Claim(
            "HeatKV's calibrated order is better than chance",
            "HeatKV, 10 prompts; HACK: a random split of heads FID 2.70 against 2.06",
            line_over(HEATKV, CHANCE, cost=CACHE),
        ),
        Claim(
            "ScaleKV's score of the paper is better than that of its code",
            "the paper: softmax and average; the released code: raw products and maximum",
            line_over(SOFTMAX, RAW, cost=CACHE),
        ),
        Claim(
            "Fewer bits are better than fewer keys",
            "VAR-Q has no published quality; HeatKV and ScaleKV drop keys",
            line_over(QUANTISED, HEATKV, cost=CACHE),
        ),
    ),
)
