"""HeatKV: keys and values are dropped in blocks of one head and one source step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from fastvar_lab.errors import short
from fastvar_lab.methods.registry import method
from fastvar_lab.methods.spaces import Subject, space
from fastvar_lab.scales import whole
from fastvar_lab.seam import DENSE, Act, Grid, Rows, Runner, Site


class Block(NamedTuple):
    """The keys and values that one head of one layer computed at one step."""

    source: int
    layer: int
    head: int


def check_sinks(sinks: int, grids: Sequence[Grid]) -> None:
    """Raise ValueError unless a source step is left between the sinks and the last step."""
    if not 1 <= sinks <= len(grids) - 2:
        raise ValueError(
            f"sinks must be 1 to {len(grids) - 2} with {len(grids)} steps; not {sinks}"
        )


@method
@dataclass(frozen=True)
class HeatKV:
    """Keep at most the share `budget` of keys and values; drop the blocks least attended to.

    A block holds the keys and values of one head of one layer from one source step. `orders` are
    calibrated, one for each source step from `sinks` on but the last: all pairs layer * H + head,
    the least attended first (`fastvar_lab calibrate heatkv`). Before step t, the first x_t pairs of
    each source step are gone, x_t = ceil(N (c_t - b C) / (c_t - c_sinks)), where c_t are the keys
    of one head before step t, C those before the last step, and N the pairs. The first `sinks`
    steps are never dropped. With `strict`, blocks that go after a step are dropped within it, last
    layer first and larger sources first, as soon as the cache would exceed its budget.

    Source: HeatKV (arXiv 2605.14877), code arm-research/heatkv at 96dc288, whose scripts keep 3
    sink steps. Attention here masks the dropped blocks, which has its results, but not its memory
    or speed: `held_keys` computes what a ragged cache holds. With the released orders, the blocks
    missing at each step are those of the code, all of them, for Infinity 2B and 8B at budgets of
    0.05, 0.1 and 0.2.

    >>> from fastvar_lab.scales import TINY, grids
    >>> method = HeatKV(0.25, orders=(tuple(range(32)),) * 6)
    >>> [method.dropped_pairs(grids(TINY), step) for step in (7, 8, 9)]
    [10, 20, 25]
    """

    family: ClassVar[str] = "HeatKV"
    budget: float
    orders: tuple[tuple[int, ...], ...] = field(
        metadata={"lines": lambda value, grids: _orders_as_text(value, grids)}
    )
    sinks: int = 3
    strict: bool = True

    def __post_init__(self) -> None:
        try:
            orders = tuple(tuple(whole("pair", pair) for pair in order) for order in self.orders)
        except (TypeError, ValueError):
            raise ValueError(
                "orders must hold pairs of layer and head, numbered from 0, for each source step; "
                f"not {short(self.orders)}"
            ) from None
        object.__setattr__(self, "orders", orders)
        if not 0 < self.budget <= 1:
            raise ValueError(f"the budget is a share of all keys in (0, 1]; not {self.budget}")
        if self.sinks < 1:
            raise ValueError(f"sinks must be 1 or more; not {self.sinks}")
        whole_orders = [order for order in orders if sorted(order) == list(range(self.pairs))]
        if not orders or len(whole_orders) < len(orders):
            raise ValueError(
                "orders must hold every pair of layer and head once for each source step, numbered "
                f"from 0; not {short(orders)}"
            )

    @property
    def pairs(self) -> int:
        """N: the pairs of layer and head."""
        return len(self.orders[0])

    def heads(self, depth: int) -> int:
        """Return the number of heads; raise ValueError if the orders are of another model."""
        if self.pairs % depth:
            raise ValueError(
                f"the orders hold {self.pairs} pairs of layer and head, which {depth} layers do "
                "not divide; they were calibrated on another model"
            )
        return self.pairs // depth

    def dropped_pairs(self, grids: Sequence[Grid], step: int) -> int:
        """Return x_t: how many pairs of each source step are gone before a step.

        Raises ValueError for a budget below the share of the sink steps, and for orders of another
        schedule.
        """
        check_sinks(self.sinks, grids)
        if len(self.orders) != len(grids) - 1 - self.sinks:
            raise ValueError(
                f"orders must hold one for each of the {len(grids) - 1 - self.sinks} source steps "
                f"between {self.sinks} sinks and the last of {len(grids)} steps; not "
                f"{len(self.orders)}"
            )
        sinks = sum(grid.tokens for grid in grids[: self.sinks])
        keys = sum(grid.tokens for grid in grids[:step])
        most = self.budget * sum(grid.tokens for grid in grids[:-1])
        if most < sinks:
            least = ceil(1e4 * sinks * self.budget / most) / 1e4
            raise ValueError(
                f"budget must be at least {least:g}, the share of the {self.sinks} sinks, which "
                f"are never dropped; not {self.budget}"
            )
        if keys <= most:
            return 0
        return min(self.pairs, ceil(self.pairs * (keys - most) / (keys - sinks)))

    def gone(self, grids: Sequence[Grid], depth: int, step: int) -> set[Block]:
        """Return the blocks that are gone before a step."""
        heads, count = self.heads(depth), self.dropped_pairs(grids, step)
        return {
            Block(self.sinks + i, *divmod(pair, heads))
            for i, order in enumerate(self.orders[: max(0, step - self.sinks)])
            for pair in order[:count]
        }

    def schedule(self, grids: Sequence[Grid], depth: int) -> list[list[set[Block]]]:
        """Return the blocks of each layer that its attention misses: `[step][layer]`."""
        out: list[list[set[Block]]] = []
        for step in range(len(grids)):
            gone = self.gone(grids, depth, step)
            early = self._early(grids, depth, step, gone) if self.strict else {}
            out.append(
                [
                    {block for block in gone if block.layer == layer} | early.get(layer, set())
                    for layer in range(depth)
                ]
            )
        return out

    def _early(
        self, grids: Sequence[Grid], depth: int, step: int, gone: set[Block]
    ) -> dict[int, set[Block]]:
        """Return the blocks of each layer that are dropped before it runs at a step."""
        early: dict[int, set[Block]] = {}
        if step == len(grids) - 1:  # its own keys and values are needed by no later step
            return early
        heads = self.heads(depth)
        rank = {
            Block(self.sinks + i, *divmod(pair, heads)): place
            for i, order in enumerate(self.orders)
            for place, pair in enumerate(order)
        }
        leaving = self.gone(grids, depth, step + 1) - gone
        waiting = sorted(leaving, key=lambda b: (-b.layer, -b.source, rank[b]))
        most = self.budget * self.pairs * sum(grid.tokens for grid in grids[:-1])
        held = self.pairs * sum(grid.tokens for grid in grids[:step])
        held -= sum(grids[block.source].tokens for block in gone)
        for layer in range(depth):
            held += heads * grids[step].tokens
            passed = [block for block in waiting if block.layer <= layer]
            waiting = [block for block in waiting if block.layer > layer]
            held -= sum(grids[block.source].tokens for block in passed)
            for block in list(waiting):
                if held <= most:
                    break
                if block.source < step:  # later layers have not written this step's block yet
                    early.setdefault(block.layer, set()).add(block)
                    waiting.remove(block)
                    held -= grids[block.source].tokens
        return early

    def held_keys(self, grids: Sequence[Grid], depth: int) -> list[int]:
        """Return the keys that a ragged cache holds before each step, over all layers and heads.

        Times 2 * head_dim * bytes per value, and rows, it is the memory of keys and values.
        """
        return [
            self.pairs * sum(grid.tokens for grid in grids[:step])
            - sum(grids[block.source].tokens for block in self.gone(grids, depth, step))
            for step in range(len(grids))
        ]

    def held_bytes(
        self,
        grids: Sequence[Grid],
        depth: int,
        heads: int,
        head_dim: int,
        rows: int = 2,
        itemsize: int = 4,
    ) -> list[int]:
        """Return the bytes of keys and values before each step, of a ragged cache."""
        return [2 * head_dim * rows * itemsize * keys for keys in self.held_keys(grids, depth)]

    def acts(self, grids: Sequence[Grid]) -> tuple[Act, ...]:
        counts = [self.dropped_pairs(grids, step) for step in range(len(grids))]
        changed = [
            counts[step] > 0 or (self.strict and counts[min(step + 1, len(counts) - 1)] > 0)
            for step in range(len(grids))
        ]
        return tuple(Act(Rows.BOTH, (self,)) if some else DENSE for some in changed)

    def cache_index(self, grids: Sequence[Grid]) -> int | None:
        return None

    def stateful_from(self, grids: Sequence[Grid]) -> int:
        """Return the number of steps: its runner carries nothing from step to step."""
        return len(grids)

    def start(
        self,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor] | None = None,
    ) -> Runner:
        return HeatKVRunner(self, grids, depth)


def _orders_as_text(orders: Sequence[Sequence[int]], grids: Sequence[Grid]) -> list[str]:
    """Write the order of each source step: pairs of layer and head, the first to drop first."""
    sources = grids[-1 - len(orders) : -1]
    return [f"{grid.name}: {' '.join(map(str, order))}" for grid, order in zip(sources, orders)]


class HeatKVRunner(Runner):
    """One generation under `HeatKV`: masks dropped blocks in attention."""

    def __init__(self, method: HeatKV, grids: Sequence[Grid], depth: int) -> None:
        self.heads, self.missing = method.heads(depth), method.schedule(grids, depth)
        ends = [sum(grid.tokens for grid in grids[: i + 1]) for i in range(len(grids))]
        self.spans = [slice(end - grid.tokens, end) for end, grid in zip(ends, grids, strict=True)]

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
        if site.kind != "attn":
            return k, v, mask
        if q.shape[1] != self.heads:
            raise ValueError(
                f"the orders are of a model with {self.heads} heads; this one has {q.shape[1]}"
            )
        missing = self.missing[grid.index][site.layer]
        if missing:
            table = torch.zeros(1, self.heads, 1, k.shape[2], dtype=q.dtype)
            for block in missing:
                table[:, block.head, :, self.spans[block.source]] = float("-inf")
            mask = table.to(q.device)
        return k, v, mask


def _published(subject: Subject) -> list[HeatKV]:
    """Return the budgets of the released code, with orders calibrated on the model."""
    measured = subject.calibrated("heatkv", budget=1.0)
    return [replace(measured, budget=budget) for budget in (0.1, 0.05)]


@space(
    "HeatKV", "cache", _published,
    budget=(0.9, 0.75, 0.6, 0.5, 0.4, 0.33, 0.25, 0.2, 0.15, 0.1, 0.05),
    sinks=(2, 3, 4), strict=(True, False),
)  # fmt: skip
def _heatkv(subject: Subject, budget: float, sinks: int, strict: bool) -> HeatKV:
    measured = subject.calibrated("heatkv", budget=1.0, sinks=sinks)
    return replace(measured, budget=budget, strict=strict)
