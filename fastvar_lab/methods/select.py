"""Selectors: score the tokens of a step; tokens with the highest scores are forwarded.

A selector is a frozen value whose `scores(x, grid, site)` maps x (B, L, C) to (B, L). Scores are
per row: tokens of conditional and null rows are selected separately, as in the released code.
`select_pairs.py` and `select_previous.py` have those that look at more than x, and `Shared`, one
set for both rows.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from fastvar_lab.draws import sent
from fastvar_lab.methods.registry import selector
from fastvar_lab.seam import Grid, Site
from fastvar_lab.tokens import distance_to_mean, product, wide


class Selector(Protocol):
    """Scores tokens; those with the highest scores are kept."""

    def scores(self, x: Tensor, grid: Grid, site: Site) -> Tensor:
        """Return scores (B, L) of tokens x (B, L, C), in float32 or float64."""
        ...


def check_selector(name: str, rule: object) -> None:
    """Raise ValueError unless the field `name` of a method or a rule holds a selector."""
    if isinstance(rule, type) or not hasattr(rule, "scores"):
        raise ValueError(f"{name} must be a selector such as HighPass(); not {rule!r}")


def score(
    rule: Selector, x: Tensor, grid: Grid, site: Site, observer: Selector | None = None
) -> Tensor:
    """Return a selector's scores (B, L) of x (B, L, C), checked; its `observer` computes them.

    Raises ValueError for another shape, for a dtype that is not floating, and for a selector that
    writes into x.
    """
    before = None if x.is_inference() else x._version
    scores = (observer or rule).scores(x, grid, site)
    check(f"{rule!r}.scores", scores, tuple(x.shape[:2]))
    if before is not None and x._version != before:
        raise ValueError(f"{rule!r}.scores writes into the tokens that it receives; work on a copy")
    return scores


def check(name: str, out: object, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the function `name` returned a floating tensor of the shape."""
    got = type(out).__name__
    if isinstance(out, Tensor):
        if tuple(out.shape) == shape and out.is_floating_point():
            return
        got = f"{out.dtype} of shape {tuple(out.shape)}"
    raise ValueError(f"{name} must return floats of shape {shape}; returned {got}")


def top(scores: Tensor, k: int, raster: bool = False) -> Tensor:
    """Return the k best tokens of each row, (B, k): best first, or in raster order."""
    return first(ranking(scores), k, raster)


def ranking(scores: Tensor) -> Tensor:
    """Return the tokens of each row, (B, L), best first; equal scores go by place."""
    # stable, where `topk` is not: whatever the batch and the device
    return scores.argsort(dim=1, descending=True, stable=True)


def first(ranked: Tensor, k: int, raster: bool = False) -> Tensor:
    """Return the first k of the ranked tokens, (B, k), as they are or in raster order."""
    index = ranked[:, :k]
    return index.sort(dim=1).values if raster else index


@selector("far from mean (PTS)")
@dataclass(frozen=True)
class FarFromMean:
    """Pivotal token selection: squared distance to the spatial mean (FastVAR, Algorithm 1).

    >>> x = torch.tensor([[[0.0], [0.0], [0.0], [8.0]]])  # (B, L, C)
    >>> FarFromMean().scores(x, Grid(0, 2, 2), Site(0, "attn"))
    tensor([[ 4.,  4.,  4., 36.]])
    """

    def scores(self, x: Tensor, grid: Grid, site: Site) -> Tensor:
        return distance_to_mean(x)


@selector("near mean")
@dataclass(frozen=True)
class NearMean:
    """The opposite of pivotal token selection: tokens nearest to the spatial mean.

    >>> x = torch.tensor([[[0.0], [0.0], [0.0], [8.0]]])  # (B, L, C)
    >>> NearMean().scores(x, Grid(0, 2, 2), Site(0, "attn"))
    tensor([[ -4.,  -4.,  -4., -36.]])
    """

    def scores(self, x: Tensor, grid: Grid, site: Site) -> Tensor:
        return -distance_to_mean(x)


@selector("local high-pass")
@dataclass(frozen=True)
class HighPass:
    """Squared distance to the mean of the 3 x 3 neighbourhood: local detail (as in StepVAR).

    >>> x = torch.tensor([[[0.0], [0.0], [0.0], [8.0]]])  # (B, L, C)
    >>> HighPass().scores(x, Grid(0, 2, 2), Site(0, "attn"))
    tensor([[ 4.,  4.,  4., 36.]])
    """

    def scores(self, x: Tensor, grid: Grid, site: Site) -> Tensor:
        if grid.h * grid.w == 2:
            return F.pad(distance_to_mean(x[:, grid.prefix :]), (grid.prefix, 0))
        image = rearrange(wide(x[:, grid.prefix :]), "b (h w) c -> b c h w", h=grid.h)
        local = F.avg_pool2d(image, 3, stride=1, padding=1, count_include_pad=False)
        energy = rearrange((image - local).square().sum(dim=1), "b h w -> b (h w)")
        return F.pad(energy, (grid.prefix, 0))  # text tokens have no neighbourhood


@selector("principal direction and high-pass (StepVAR)")
@dataclass(frozen=True)
class PrincipalHighPass:
    """Structure and texture: `weight` * |X_c v| + squared distance to the 3 x 3 mean (StepVAR).

    X_c are the centred tokens of a row and v their first principal direction, by `iterations` of
    v <- X_c^T X_c v / ||X_c^T X_c v||. Source: StepVAR (arXiv 2603.01757), of which the text was
    not at hand and no code is public. Guessed: `weight` 1, 5 iterations, and the start, the sum of
    the centred tokens weighted by their norms. The two terms have different units.

    >>> x = torch.tensor([[[0.0], [0.0], [0.0], [8.0]]])  # (B, L, C)
    >>> PrincipalHighPass().scores(x, Grid(0, 2, 2), Site(0, "attn"))
    tensor([[ 6.,  6.,  6., 42.]])
    """

    weight: float = 1.0
    iterations: int = 5

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf or not 1 <= self.iterations <= 1000:
            raise ValueError(
                "weight must be 0 or more, but finite, and iterations 1 to 1000; not "
                f"{self.weight} and {self.iterations}"
            )

    def scores(self, x: Tensor, grid: Grid, site: Site) -> Tensor:
        image = wide(x[:, grid.prefix :])
        centred = image - image.mean(dim=1, keepdim=True)
        v = (centred * centred.norm(dim=-1, keepdim=True)).sum(dim=1).unsqueeze(-1)
        for _ in range(self.iterations):
            v = F.normalize(product(centred.transpose(1, 2), product(centred, v)), dim=1)
        structure = F.pad(product(centred, v).squeeze(-1).abs(), (grid.prefix, 0))
        return self.weight * structure + HighPass().scores(x, grid, site)


@selector("random")
@dataclass(frozen=True)
class Random:
    """Uniformly random tokens, fixed by seed, step and sublayer, and equal in all rows.

    >>> first, second = (Random(1).scores(torch.zeros(1, 4, 1), Grid(0, 2, 2), Site(layer, "attn"))
    ...               for layer in (0, 1))
    >>> bool((first == second).any())
    False
    """

    seed: int = 0

    def scores(self, x: Tensor, grid: Grid, site: Site) -> Tensor:
        key = zlib.crc32(f"{self.seed}/{grid.index}/{site.layer}/{site.kind}".encode())
        host = torch.Generator("cpu").manual_seed(key)
        drawn = torch.rand(x.shape[1], generator=host, dtype=torch.float32, device="cpu")
        return sent(drawn, x.device).expand(x.shape[0], -1)


@selector("uniform grid")
@dataclass(frozen=True)
class UniformGrid:
    """Evenly spread tokens, on a lattice whose first k points cover the map for any k.

    >>> UniformGrid().scores(torch.zeros(1, 4, 1), Grid(0, 2, 2), Site(0, "attn")).argmax()
    tensor(0)
    """

    def scores(self, x: Tensor, grid: Grid, site: Site) -> Tensor:
        cells = torch.arange(x.shape[1], device=x.device)
        # plastic-number lattice (Roberts' R2): low discrepancy in two dimensions
        a, b = 0.7548776662466927, 0.5698402909980532
        rank = ((cells // grid.w).float() * a + (cells % grid.w).float() * b) % 1.0
        return -rank.expand(x.shape[0], -1)
