"""Calibrates ScaleKV on a model: which layers are drafters, and what every layer may keep."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from fastvar_lab.generation import generate
from fastvar_lab.measure.head_weights import head_weights
from fastvar_lab.methods.prune import Dense
from fastvar_lab.methods.ratios import ScaleName
from fastvar_lab.methods.scalekv import Count, ScaleKV
from fastvar_lab.models.model import Model
from fastvar_lab.prompts import Item
from fastvar_lab.seam import Grid, Runner, Site, Wrapper

TOP = 16  # keys of the history that a query's selective attention counts; a guess
SHARE = 1 / 16  # of the layers that are drafters: 2 of 32 for 2B, 3 of 40 for 8B
DECAY = 0.35  # what refiners lose up to the last step: the release for 2B goes from 650 to 420


class Selectivity(Wrapper):
    """Measures the attention selectivity of every layer and step: `index[step][layer]`.

    It is the mean attention to the current map times the sum of a query's `TOP` largest weights on
    earlier steps, both over rows, heads and queries.
    """

    def __init__(self, inner: Runner, grids: Sequence[Grid], depth: int) -> None:
        super().__init__(inner)
        self.index = torch.zeros(len(grids), depth, dtype=torch.float64)

    def attend(
        self,
        site: Site,
        grid: Grid,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        if site.kind == "attn" and grid.index:
            current, selective = list[Tensor](), list[Tensor]()
            for weights in head_weights(q, k, scale):
                past, now = weights.split((k.shape[2] - grid.tokens, grid.tokens), dim=-1)
                current.append(now.sum(-1).mean())
                top = past.topk(min(TOP, past.shape[-1]), dim=-1, sorted=False).values
                selective.append(top.sum(-1).mean())
            value = torch.stack(current).mean() * torch.stack(selective).mean()
            self.index[grid.index, site.layer] = value.double().cpu()
        return self.inner.attend(site, grid, q, k, v, mask, scale)


def budgets(
    grids: Sequence[Grid], depth: int, drafters: Sequence[int], budget: float, window: int = 16
) -> dict[ScaleName, Count]:
    """Return what refiners and drafters hand into each step that would exceed a budget.

    All layers together hold as much as if each held the share `budget` of the keys before the last
    step. Refiners hold less from step to step, down to 1 - `DECAY` of it, and drafters what they
    leave, up to all keys that there are. Raises ValueError for a budget below the window.

    >>> from fastvar_lab.scales import TINY, grids
    >>> budgets(grids(TINY), 8, (0,), 0.25)
    {-3: (353, 521), -2: (296, 921), -1: (243, 1291)}
    """
    whole = sum(grid.tokens for grid in grids[:-1])
    each = budget * whole
    if not 0 < budget <= 1 or each * (1 - DECAY) < window:
        raise ValueError(
            f"the budget is a share of all keys in (0, 1] that leaves refiners {window} tokens or "
            f"more; {budget} leaves {each * (1 - DECAY):.0f} of {whole}"
        )
    steps = [grid.index for grid in grids[1:] if sum(g.tokens for g in grids[: grid.index]) > each]
    many, few, out = depth - len(drafters), len(drafters), dict[ScaleName, Count]()
    for i, step in enumerate(steps):
        there = sum(grid.tokens for grid in grids[:step])
        refiner = each * (1 - DECAY * (i + 1) / len(steps))
        drafter = min((depth * each - many * refiner) / few, there) if few else each
        refiner = min((depth * each - few * drafter) / many, there) if many else each
        out[step - len(grids)] = (round(refiner), round(drafter))
    return out


def scalekv(
    model: Model, items: Sequence[Item], budget: float = 0.1, score: str = "softmax"
) -> ScaleKV:
    """Return ScaleKV with drafters calibrated on some prompts, each generated in full.

    The selectivity of layers is standardised within each step and averaged over the steps with a
    budget; the layers with the lowest are drafters. Source: ScaleKV (arXiv 2505.19602). Guessed:
    `TOP`, the number of drafters, the decay of refiners, and the mean over steps. Raises ValueError
    for a budget that does not fit.
    """
    grids, depth = model.grids(), model.depth
    count = max(1, round(depth * SHARE)) if depth > 1 else 0
    counts = budgets(grids, depth, range(count), budget)
    blank = ScaleKV(counts, tuple(range(count)), score)
    steps = [*blank.budgets(grids, depth)]  # raises early, for steps that are too small
    total = torch.zeros(depth, dtype=torch.float64)
    for item in tqdm(items, desc="calibrate scalekv", unit="picture", leave=False):
        watches = list[Selectivity]()

        def watch(run: Runner, into: list[Selectivity] = watches) -> Runner:
            into.append(Selectivity(run, grids, depth))
            return into[0]

        generate(model, item.prompt, Dense(), seed=item.seed, watch=[watch])
        index = watches[0].index[steps]
        spread = index.std(dim=1, keepdim=True).clamp(min=1e-12) if depth > 1 else 1
        total += ((index - index.mean(dim=1, keepdim=True)) / spread).sum(dim=0)
    order = total.argsort(stable=True).tolist()
    drafters = tuple(sorted(order[:count]))
    return ScaleKV(counts, drafters, score)
