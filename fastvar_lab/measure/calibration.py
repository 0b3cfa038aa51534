"""Calibrates methods on a model: the constants that they need and nobody published."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from fastvar_lab.generation import generate
from fastvar_lab.measure.head_weights import head_weights
from fastvar_lab.methods.fastervar import FasterVAR
from fastvar_lab.methods.heatkv import HeatKV, check_sinks
from fastvar_lab.methods.prune import Dense
from fastvar_lab.methods.ratios import ScaleName
from fastvar_lab.methods.schedule import find
from fastvar_lab.models.model import Model
from fastvar_lab.prompts import Item
from fastvar_lab.seam import Block, Grid, Handles, Runner, Site, Stack, Wrapper
from fastvar_lab.tokens import wide


class AttentionMass(Wrapper):
    """Sums the attention that every head pays to every earlier step, on conditional rows.

    `mass[layer, head, source]` is the mean over queries and pictures, summed over later steps.
    """

    def __init__(self, inner: Runner, grids: Sequence[Grid], depth: int, heads: int) -> None:
        super().__init__(inner)
        self.lengths, self.pictures = [grid.tokens for grid in grids], 0
        self.mass = torch.zeros(depth, heads, len(grids), dtype=torch.float64)

    def prepare(self, handles: Handles) -> None:
        super().prepare(handles)
        self.pictures = handles.pictures

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
            rows = slice(0, self.pictures)
            for head, weights in enumerate(head_weights(q[rows], k[rows], scale)):
                parts = weights.mean(dim=(0, 1)).split(self.lengths[: grid.index + 1])
                by_step = torch.stack([part.sum() for part in parts[:-1]])
                self.mass[site.layer, head, : grid.index] += by_step.double().cpu()
        return self.inner.attend(site, grid, q, k, v, mask, scale)


def heatkv(model: Model, items: Sequence[Item], budget: float, sinks: int = 3) -> HeatKV:
    """Return HeatKV with orders calibrated on some prompts, each generated in full.

    The score of a block is the mean attention of all later steps (S-CAS); ties go by head, then
    layer, as in the released code. Raises ValueError for a budget that does not fit.
    """
    grids, heads = model.grids(), model.transformer.config.heads
    check_sinks(sinks, grids)
    blank = tuple(range(model.depth * heads))
    HeatKV(budget, (blank,) * (len(grids) - 1 - sinks), sinks).acts(grids)  # raises early
    total = torch.zeros(model.depth, heads, len(grids), dtype=torch.float64)
    for item in tqdm(items, desc="calibrate heatkv", unit="picture", leave=False):
        watches = list[AttentionMass]()

        def watch(run: Runner, into: list[AttentionMass] = watches) -> Runner:
            into.append(AttentionMass(run, grids, model.depth, heads))
            return into[0]

        generate(model, item.prompt, Dense(), seed=item.seed, watch=[watch])
        total += watches[0].mass
    orders = []
    for source in range(sinks, len(grids) - 1):
        scores = total[:, :, source].tolist()
        ranked = sorted(
            (scores[layer][head], head, layer)
            for layer in range(model.depth)
            for head in range(heads)
        )
        orders.append(tuple(layer * heads + head for _, head, layer in ranked))
    return HeatKV(budget, tuple(orders), sinks)


class ChunkInputs(Wrapper):
    """Measures the rank that keeps a share of the energy of the tokens before chunks of layers.

    `shares[step][chunk]` are ranks by row, over the tokens of the step.
    """

    def __init__(
        self, inner: Runner, steps: Sequence[int], firsts: Sequence[int], energy: float
    ) -> None:
        super().__init__(inner)
        self.firsts, self.energy = list(firsts), energy
        self.shares: dict[int, list[Tensor]] = {step: [] for step in steps}

    def stack(self, grid: Grid, blocks: Stack, x: Tensor) -> Tensor:
        if grid.index not in self.shares:
            return self.inner.stack(grid, blocks, x)
        watched = Stack([self._watched(grid, i, block) for i, block in enumerate(blocks)])
        return self.inner.stack(grid, watched, x)

    def _watched(self, grid: Grid, layer: int, block: Block) -> Block:
        if layer not in self.firsts:
            return block

        def run(x: Tensor) -> Tensor:
            self.shares[grid.index].append(rank_of(x, self.energy).double() / grid.tokens)
            return block(x)

        return run


def rank_of(x: Tensor, energy: float) -> Tensor:
    """Return the least rank of centred tokens x (B, L, C) that keeps a share of energy, (B,).

    Energy are squared singular values (FasterVAR).
    """
    centred = wide(x) - wide(x).mean(dim=1, keepdim=True)
    power = torch.linalg.svdvals(centred).square()
    reached = power.cumsum(-1) / power.sum(-1, keepdim=True) >= energy
    return reached.long().argmax(-1) + 1


def fastervar(
    model: Model,
    items: Sequence[Item],
    scales: Sequence[ScaleName],
    energy: float = 0.96,
    chunks: int = 8,
) -> FasterVAR:
    """Return FasterVAR with rank shares measured on some prompts, each generated in full.

    A share is the mean over prompts and rows of the rank that keeps `energy`, over the tokens.
    """
    if not 0 < energy < 1:
        raise ValueError(f"energy must lie in (0, 1); not {energy}")
    grids = model.grids()
    method = FasterVAR(dict.fromkeys(scales, 0.5), chunks=chunks)
    method.start(grids, model.depth)  # raises early
    steps = [find(name, grids) for name in scales]
    firsts = [first for first, _ in method.layers(model.depth)]
    totals = {step: torch.zeros(chunks, dtype=torch.float64) for step in steps}
    for item in tqdm(items, desc="calibrate fastervar", unit="picture", leave=False):
        watches = list[ChunkInputs]()

        def watch(run: Runner, into: list[ChunkInputs] = watches) -> Runner:
            into.append(ChunkInputs(run, steps, firsts, energy))
            return into[0]

        generate(model, item.prompt, Dense(), seed=item.seed, watch=[watch])
        for step in steps:
            totals[step] += torch.stack([s.mean() for s in watches[0].shares[step]]).cpu()
    shares = {
        name: tuple(min(round(float(s) / len(items), 5), 0.99999) for s in totals[step])
        for name, step in zip(scales, steps, strict=True)
    }
    return FasterVAR(shares, chunks=chunks)
