"""ScaleKV: every layer keeps the keys and values that a few queries of the step attend to most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvar_lab.errors import short
from fastvar_lab.methods.ratios import ScaleName, pairs_by_scale
from fastvar_lab.methods.registry import method
from fastvar_lab.methods.schedule import find
from fastvar_lab.methods.spaces import Subject, space
from fastvar_lab.scales import whole
from fastvar_lab.seam import DENSE, Act, Branch, Grid, Rows, Runner, Site
from fastvar_lab.tokens import product
from fastvar_lab.values import one_of

Count = int | tuple[int, ...]
SCORES = ("softmax", "raw")

PUBLISHED = (0.2, 0.1, 0.04)
"""Shares of all keys that the paper keeps."""


@method
@dataclass(frozen=True)
class ScaleKV:
    """Drop keys and values by importance after a step; drafter layers keep more than refiners.

    `kept` maps a scale to the number of tokens that each layer hands into that step: one number,
    (refiner, drafter), or one for each layer; `drafters` are the layers with the larger one. What
    is dropped never returns. After a step, `window` queries at the centres of a grid of patches
    look at all cached keys, for each row and head. The window's own keys stay, and those with the
    highest scores.

    `score="softmax"` is the paper: the mean attention of the window, smoothed by an average over
    `pool` neighbouring keys. "raw" is the released code: the sum of scaled products without
    softmax, smoothed by the maximum, with the window's keys at minus infinity before. Budgets of
    all layers and `drafters` come from a calibration on 10 prompts there; for Infinity 2B at 1M and
    10 % see `scalekv_release`.

    Source: ScaleKV (arXiv 2505.19602), code StargazerX0/ScaleKV at eb0615a. Departures: the code
    recomputes queries by a plain projection, without bias, norm, temperature and rotary angles,
    against keys that have them all; here both are those of the attention, divided by the root of
    head_dim. For the same queries and keys, the kept sets equal those of the code. Attention masks
    what is dropped: it has the quality of the method, not its memory or speed. `held_keys` computes
    what is kept.

    >>> from fastvar_lab.scales import TINY, grids
    >>> ScaleKV({24: 400, 32: (300, 500)}, drafters=(0,)).held_keys(grids(TINY), depth=2)[-2:]
    [800, 800]
    """

    family: ClassVar[str] = "ScaleKV"
    kept: Mapping[ScaleName, Count] | tuple[tuple[ScaleName, Count], ...]
    drafters: tuple[int, ...] = ()
    score: str = one_of("softmax", SCORES)
    window: int = 16
    pool: int = 5
    keeps_by_row: ClassVar[bool] = True  # rows that leave do not come back

    @classmethod
    def example(cls, grids: Sequence[Grid], depth: int) -> ScaleKV:
        """Return a method to begin with: layers hand half of all tokens into the last step."""
        before = sum(grid.tokens for grid in grids[:-1])
        return cls({-1: max(16, before // 2)})

    def __post_init__(self) -> None:
        pairs = pairs_by_scale(
            "kept maps scales to numbers of tokens, such as {-1: 400}", self.kept
        )
        settled = tuple((name, self._count(name, count)) for name, count in pairs)
        object.__setattr__(self, "kept", settled)
        try:
            if isinstance(self.drafters, str | bytes | Mapping):
                raise TypeError
            drafters = tuple(whole("drafter", layer) for layer in self.drafters)
        except (TypeError, ValueError):
            raise ValueError(
                f"drafters must be numbers of layers, such as (0, 5); not {short(self.drafters)}"
            ) from None
        object.__setattr__(self, "drafters", drafters)
        if self.score not in SCORES:
            raise ValueError(f"score must be softmax or raw; not {self.score!r}")
        if self.window < 1 or isqrt(self.window) ** 2 != self.window:
            raise ValueError(f"window must be a square number of queries; not {self.window}")
        if self.pool < 1 or self.pool % 2 == 0:
            raise ValueError(f"pool must be an odd number of keys; not {self.pool}")

    def _count(self, name: Any, count: Any) -> Count:
        """Return one or several numbers of kept tokens; raise ValueError for anything else."""
        several = tuple(count) if isinstance(count, Sequence) else (count, count)
        if len(several) < 2 or not all(isinstance(n, int) and n >= self.window for n in several):
            raise ValueError(
                f"scale {name} keeps {self.window} tokens or more, the window, as one number, as "
                f"(refiner, drafter), or one for each layer; not {count!r}"
            )
        return count if isinstance(count, int) else several

    def budgets(self, grids: Sequence[Grid], depth: int) -> dict[int, list[int]]:
        """Return the tokens that each layer hands into each step; raise if they do not fit."""
        if any(not 0 <= layer < depth for layer in self.drafters):
            raise ValueError(f"drafters {self.drafters} are not among the {depth} layers")
        out: dict[int, list[int]] = {}
        for name, count in cast(tuple[tuple[ScaleName, Count], ...], self.kept):
            step, counts = find(name, grids), count if isinstance(count, tuple) else (count, count)
            if len(counts) not in (2, depth):
                raise ValueError(f"scale {name} has {len(counts)} counts; there are {depth} layers")
            if not step or step in out:
                raise ValueError(f"scale {name} is the first step, or is named twice")
            side = min(grids[step - 1].h, grids[step - 1].w)
            if side**2 < self.window:
                raise ValueError(
                    f"{self.window} queries look back from {grids[step - 1].name}, the step before "
                    f"scale {name}; it is too small"
                )
            pair = len(counts) == 2
            out[step] = [
                counts[layer in self.drafters if pair else layer] for layer in range(depth)
            ]
        return out

    def held_keys(self, grids: Sequence[Grid], depth: int) -> list[int]:
        """Return the tokens that all layers together hold before each step.

        Times 2 * heads * head_dim * bytes per value, and rows, it is the memory.
        """
        budgets, layers, out = self.budgets(grids, depth), [0] * depth, []
        for step, grid in enumerate(grids):
            if step in budgets:
                layers = [min(n, most) for n, most in zip(layers, budgets[step], strict=True)]
            out.append(sum(layers))
            layers = [n + grid.tokens for n in layers]
        return out

    def held_bytes(
        self,
        grids: Sequence[Grid],
        depth: int,
        heads: int,
        head_dim: int,
        rows: int = 2,
        itemsize: int = 4,
    ) -> list[int]:
        """Return the bytes of keys and values before each step."""
        each = 2 * heads * head_dim * rows * itemsize
        return [each * tokens for tokens in self.held_keys(grids, depth)]

    def acts(self, grids: Sequence[Grid]) -> tuple[Act, ...]:
        first = min((find(name, grids) for name, _ in cast(Any, self.kept)), default=len(grids))
        # the step before looks for what to drop after it
        late = len(grids) - max(first - 1, 0)
        return (DENSE,) * (len(grids) - late) + (Act(Rows.BOTH, (self,)),) * late

    def cache_index(self, grids: Sequence[Grid]) -> int | None:
        return None

    def start(
        self,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor] | None = None,
    ) -> Runner:
        return ScaleKVRunner(self, grids, depth)


class ScaleKVRunner(Runner):
    """One generation under `ScaleKV`; `index[layer]` are the tokens (B, H, n) that it holds."""

    def __init__(self, method: ScaleKV, grids: Sequence[Grid], depth: int) -> None:
        self.method, self.budgets = method, method.budgets(grids, depth)
        self.first = min(self.budgets, default=len(grids))
        self.index: dict[int, Tensor] = {}
        self.waiting: tuple[Tensor, Tensor, float] | None = None  # q, k, scale of this attention
        self.live = slice(None)  # the guidance rows that run

    def keep_rows(self, rows: slice) -> None:
        self.live = rows

    def reads(
        self,
        site: Site,
        grid: Grid,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        scale: float = 1.0,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        if site.kind != "attn" or grid.index < self.first - 1:
            return k, v, mask
        index = self.index.get(site.layer)
        if index is not None:
            if len(index) != len(q):  # rows have left
                index = index[self.live]
            new = torch.arange(k.shape[2] - grid.tokens, k.shape[2], device=k.device)
            index = torch.cat((index, new.expand(*index.shape[:2], -1)), dim=-1)
            table = q.new_full((*index.shape[:2], k.shape[2]), float("-inf"))
            mask = table.scatter_(-1, index, 0.0).unsqueeze(2)
            self.index[site.layer] = index
        if grid.index + 1 in self.budgets:
            self.waiting = q, k, scale
        return k, v, mask

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        out = branch(x)
        if self.waiting is not None:
            q, k, scale = self.waiting
            self.waiting = None
            self._evict(site.layer, grid, q, k, scale)
        return out

    def _evict(self, layer: int, grid: Grid, q: Tensor, k: Tensor, scale: float) -> None:
        """Choose the tokens that a layer hands into the next step."""
        held = self.index.get(layer)
        if held is None:
            held = torch.arange(k.shape[2], device=k.device).expand(*k.shape[:2], -1)
        budget = self.budgets[grid.index + 1][layer]
        if held.shape[-1] <= budget:
            self.index[layer] = held
            return
        keys = k.gather(2, held.unsqueeze(-1).expand(-1, -1, -1, k.shape[-1]))
        keep = important(q, keys, grid, budget, self.method, scale)
        self.index[layer] = held.gather(-1, keep)


def window_positions(h: int, w: int, window: int) -> list[int]:
    """Return the centres of a square grid of `window` patches of a map, as positions.

    >>> window_positions(8, 8, 4)
    [9, 13, 41, 45]
    """
    side = isqrt(window)
    rows, columns = ([i * (n // side) + (n // side - 1) // 2 for i in range(side)] for n in (h, w))
    return [row * w + column for row in rows for column in columns]


def important(
    q: Tensor, k: Tensor, grid: Grid, budget: int, method: ScaleKV, scale: float = 1.0
) -> Tensor:
    """Return the keys to keep, (B, H, budget) in order, of k (B, H, T, c) by queries q of a step.

    The last keys are those of the step itself.
    """
    spots = torch.tensor(window_positions(grid.h, grid.w, method.window), device=q.device)
    spots = spots + grid.prefix
    positions = spots + k.shape[2] - grid.tokens
    products = product(q[:, :, spots], k.transpose(-1, -2))
    blocked = torch.zeros(k.shape[2], dtype=torch.bool, device=k.device).index_fill_(
        0, positions, True
    )
    if method.score == "raw":
        total = (products / q.shape[-1] ** 0.5).sum(dim=2).masked_fill(blocked, float("-inf"))
        pooled = F.max_pool1d(total, method.pool, stride=1, padding=method.pool // 2)
    else:
        total = (products * scale).softmax(-1).mean(dim=2)
        pooled = F.avg_pool1d(total, method.pool, stride=1, padding=method.pool // 2)
    pooled = pooled.masked_fill(blocked, float("-inf"))
    rest = pooled.topk(budget - len(spots), dim=-1).indices
    return torch.cat((rest, positions.expand(*rest.shape[:2], -1)), dim=-1).sort(dim=-1).values


RELEASED_2B = {8: (632, 920), 9: (594, 1490), 10: (526, 2510), 11: (420, 4100)}
"""Tokens of refiners and drafters by the step that they are handed into, Infinity 2B, 10 %."""


def scalekv_release(score: str = "raw") -> ScaleKV:
    """Return ScaleKV with the released budgets of Infinity 2B at 1M and 10 % of the cache.

    Layers 0 and 23 are drafters, layer 0 alone at the last step. Source: StargazerX0/ScaleKV at
    eb0615a, budgets/2b_10%_budget.json.
    """
    counts: dict[ScaleName, Count] = {step - 13: both for step, both in RELEASED_2B.items()}
    return ScaleKV({**counts, -1: (6385,) + (465,) * 31}, drafters=(0, 23), score=score)


@space(
    "ScaleKV", "cache",
    lambda subject: [subject.calibrated("scalekv", budget=share) for share in PUBLISHED],
    budget=(0.9, 0.75, 0.6, 0.5, 0.4, 0.33, 0.25, 0.2, 0.15, 0.1, 0.05),
    score=SCORES, pool=(1, 3, 5, 9), window=(4, 16),
)  # fmt: skip
def _scalekv(subject: Subject, budget: float, score: str, pool: int, window: int) -> ScaleKV:
    """Keep a share of all keys, with calibrated drafters: nothing is dropped before it is full."""
    measured = subject.calibrated("scalekv", budget=budget)
    return replace(measured, score=score, pool=pool, window=window)
