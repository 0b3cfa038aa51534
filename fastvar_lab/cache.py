"""The KV cache of one generation: allocated once, filled in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

ALL = slice(None)


class Owed(NamedTuple):
    """A range of tokens of a layer that only `rows` have computed; the other rows lack them."""

    begin: int
    end: int
    rows: slice


def compute_dtype(weight: Tensor) -> torch.dtype:
    """Return the dtype of products with a weight: under autocast its dtype, else the weight's."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


class KVCache:
    """Keys and values per layer, (B, H, capacity, c) each; `lengths[layer]` tokens are filled.

    Guidance rows may be absent for a step or in some layers. When they return, they get copies of
    the keys and values that the other rows computed in the meantime.
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
        """Append k, v (B, H, K, c) of one step, of any dtype; return views of all keys and values.

        `rows` are the rows of k and v: all, or the first or second half. Raises ValueError beyond
        the capacity.
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
        """Copy keys and values to returning rows that were appended in their absence."""
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
        """Return a view of the cache for these rows."""
        return RowsOfCache(self, rows)

    def copy_prefix(self, other: KVCache, lengths: Sequence[int]) -> None:
        """Fill this cache with the first `lengths[layer]` tokens of another."""
        for target, source, n in zip(self.store, other.store, lengths, strict=True):
            target[:, :, :, :n] = source[:, :, :, :n]
        self.lengths = list(lengths)
        self.owed = [
            [owed for owed in layer if owed.end <= n]
            for layer, n in zip(other.owed, lengths, strict=True)
        ]

    @property
    def bytes(self) -> int:
        """The memory of keys and values, in bytes."""
        return sum(s.numel() * s.element_size() for s in self.store)


@dataclass
class RowsOfCache:
    """A view of a KV cache for some guidance rows."""

    cache: KVCache
    rows: slice

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append k, v (B, H, K, c) of these rows; return views of all their keys and values."""
        return self.cache.append(layer, k, v, self.rows)
