"""The KV cache of one generation: allocated once, appended in place. Keys and values live here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def compute_dtype(weight: Tensor) -> torch.dtype:
    """Return the type that products with a weight come out in: autocast's where it is on."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


class KVCache:
    """Keys and values per layer, (B, H, capacity, c) each; `lengths[layer]` tokens are filled.

    Dropped guidance rows stay in memory, unused, so that a snapshot can go back before the drop.
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
        self.rows = slice(None)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add k, v (B, H, K, c) of one step, of any type; return views of all there are so far."""
        begin, end = self.lengths[layer], self.lengths[layer] + k.shape[2]
        if end > self.store[layer].shape[3]:
            raise ValueError(
                f"layer {layer} has room for the {self.store[layer].shape[3]} tokens that the "
                f"runner's `forwarded` promised over all steps; {end} came"
            )
        keys, values = self.store[layer][:, self.rows]
        keys[:, :, begin:end] = k
        values[:, :, begin:end] = v
        self.lengths[layer] = end
        return keys[:, :, :end], values[:, :, :end]

    def keep_rows(self, rows: slice) -> None:
        """Append to and read from these rows only, from now on."""
        self.rows = rows

    def copy_prefix(self, other: KVCache, lengths: Sequence[int]) -> None:
        """Fill this cache with the first `lengths[layer]` tokens of another."""
        for mine, theirs, n in zip(self.store, other.store, lengths, strict=True):
            mine[:, :, :, :n] = theirs[:, :, :, :n]
        self.lengths = list(lengths)

    @property
    def bytes(self) -> int:
        """Memory that the keys and values occupy."""
        return sum(s.numel() * s.element_size() for s in self.store)
