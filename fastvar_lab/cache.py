"""The KV cache of one generation: allocated once, appended in place. Keys and values live here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

ALL = slice(None)


class Owed(NamedTuple):
    """Tokens of a layer that only `rows` have: the others were away."""

    begin: int
    end: int
    rows: slice


def compute_dtype(weight: Tensor) -> torch.dtype:
    """Return the type that products with a weight come out in: autocast's where it is on."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


class KVCache:
    """Keys and values per layer, (B, H, capacity, c) each; `lengths[layer]` tokens are filled.

    Guidance rows may be away for a step, or in some layers alone. They keep their place: when they
    are back, they find the keys and values of the rows that ran meanwhile, copied then.
    """

    def __init__(
        self,
        capacities: Sequence[int],
        rows: int,
        heads: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.store = [
            torch.empty(2, rows, heads, n, head_dim, dtype=dtype, device=device) for n in capacities
        ]
        self.lengths = [0] * len(capacities)
        self.owed: list[list[Owed]] = [[] for _ in capacities]

    def append(self, layer: int, k: Tensor, v: Tensor, rows: slice = ALL) -> tuple[Tensor, Tensor]:
        """Add k, v (B, H, K, c) of one step, of any type; return views of all there are so far.

        `rows` are those that k and v are of: all of them, or the first or the second half.
        """
        begin, end = self.lengths[layer], self.lengths[layer] + k.shape[2]
        store = self.store[layer]
        if end > store.shape[3]:
            raise ValueError(
                f"layer {layer} has room for the {store.shape[3]} tokens that the "
                f"runner's `forwarded` promised over all steps; {end} came"
            )
        if self.owed[layer]:
            self._settle(layer, rows)
        if rows != ALL:
            self.owed[layer].append(Owed(begin, end, rows))
        keys, values = store[:, rows]
        keys[:, :, begin:end] = k
        values[:, :, begin:end] = v
        self.lengths[layer] = end
        return keys[:, :, :end], values[:, :, :end]

    def _settle(self, layer: int, rows: slice) -> None:
        """Copy to rows that are back what was appended while they were away."""
        store, still = self.store[layer], list[Owed]()
        half = store.shape[1] // 2
        for owed in self.owed[layer]:
            if owed.rows == rows:
                still.append(owed)
                continue
            away = slice(0, half) if owed.rows.start else slice(half, 2 * half)
            place = slice(owed.begin, owed.end)
            store[:, away, :, place] = store[:, owed.rows, :, place]
        self.owed[layer] = still

    def on(self, rows: slice) -> RowsOfCache:
        """Append to and read from these rows only."""
        return RowsOfCache(self, rows)

    def copy_prefix(self, other: KVCache, lengths: Sequence[int]) -> None:
        """Fill this cache with the first `lengths[layer]` tokens of another."""
        for mine, theirs, n in zip(self.store, other.store, lengths, strict=True):
            mine[:, :, :, :n] = theirs[:, :, :, :n]
        self.lengths = list(lengths)
        self.owed = [
            [owed for owed in layer if owed.end <= n]
            for layer, n in zip(other.owed, lengths, strict=True)
        ]

    @property
    def bytes(self) -> int:
        """Memory that the keys and values occupy."""
        return sum(s.numel() * s.element_size() for s in self.store)


@dataclass
class RowsOfCache:
    """A KV cache as some guidance rows see it."""

    cache: KVCache
    rows: slice

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add k, v (B, H, K, c) of these rows; return views of all there are of them."""
        return self.cache.append(layer, k, v, self.rows)
