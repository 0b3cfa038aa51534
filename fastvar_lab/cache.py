"""The KV cache of one generation: each layer keeps the keys and values that a later step reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from fastvar_lab.seam import Rows

ALL = slice(None)


class Owed(NamedTuple):
    """A range of tokens of a layer that only `rows` have computed; the other rows lack them."""

    begin: int
    end: int
    rows: slice


class Held(NamedTuple):
    """Keys and values of a layer, (2, B, H, capacity, c), and which of the guidance rows B are."""

    rows: Rows
    kv: Tensor

    def of(self, rows: slice) -> Tensor:
        """Return those of `rows`, which must be among the held ones."""
        return self.kv[:, rows] if self.rows is Rows.BOTH else self.kv


def compute_dtype(weight: Tensor) -> torch.dtype:
    """Return the dtype of products with a weight: under autocast its dtype, else the weight's."""
    kind = weight.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return weight.dtype


def read_later(rows: Sequence[Rows]) -> list[Rows]:
    """Return for each step which rows the steps after it read; `rows` are those that each runs.

    >>> [read.value for read in read_later([Rows.BOTH, Rows.BOTH, Rows.COND, Rows.COND])]
    ['both', 'cond', 'cond', 'skip']
    """
    later, read = list[Rows](), Rows.SKIP
    for now in reversed(rows):
        later.append(read)
        read = now if read in (Rows.SKIP, now) else read if now is Rows.SKIP else Rows.BOTH
    return later[::-1]


class KVCache:
    """Keys and values per layer, (2, B, H, capacity, c) each; `lengths[layer]` tokens are stored.

    `tokens[layer][step]` is the number of tokens that a layer appends at a step. What no later step
    reads (see `expect`) is not stored: at the last step of a layer, keys and values pass through a
    buffer that all layers share, and a layer drops guidance rows that have run for the last time.

    Guidance rows may be absent for a step or in some layers. When they return, they get copies of
    the keys and values that the other rows computed in the meantime.
    """

    def __init__(
        self,
        tokens: Sequence[Sequence[int]],
        rows: int,
        heads: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.tokens = [tuple(layer) for layer in tokens]
        self.rows, self.heads, self.head_dim = rows, heads, head_dim
        self.dtype, self.device = dtype, device
        self.later = [[Rows.BOTH] * len(layer) for layer in tokens]
        self.step, self.resumable = 0, False
        self.held: list[Held | None] = [None] * len(tokens)
        self.lengths = [0] * len(tokens)
        self.owed: list[list[Owed]] = [[] for _ in tokens]
        self.passing: Tensor | None = None  # the buffer of what is not stored
        self.unsaved: tuple[Tensor, Tensor] | None = None  # what the next call stores, and where
        self.empty: Callable[..., Tensor] = torch.empty  # allocates; replaced to count

    def expect(self, later: Sequence[Sequence[Rows]], resumable: bool = False) -> None:
        """Declare which rows are read after each step of each layer, before anything is stored.

        Without it, all are. A `resumable` cache keeps what it has stored until it dies.
        """
        self.later, self.resumable = [list(layer) for layer in later], resumable

    def enter(self, step: int) -> None:
        """Begin a forward; `step` is the last of its scale steps."""
        self.step = step

    def append(self, layer: int, k: Tensor, v: Tensor, rows: slice = ALL) -> tuple[Tensor, Tensor]:
        """Append k, v (B, H, K, c) of one step, of any dtype; return views of all keys and values.

        `rows` are the rows of k and v: all, or the first or second half. The views are valid until
        the next call. Raises ValueError beyond the promised tokens.
        """
        if self.unsaved is not None:
            into, source = self.unsaved
            into.copy_(source)
            self.unsaved = None
        begin, end = self.lengths[layer], self.lengths[layer] + k.shape[2]
        later, promised = self.later[layer][self.step], sum(self.tokens[layer])
        if end > promised:
            raise ValueError(
                f"layer {layer} has room for the {promised} tokens that the "
                f"runner's `forwarded` promised over all steps; {end} came"
            )
        if self.owed[layer]:
            self._settle(layer, rows)
        held = self.held[layer]
        if held is None and later in (Rows.BOTH, self._named(rows)):
            held = self.held[layer] = self._room(layer, later)
        if held is None or later is not held.rows or end > held.kv.shape[3]:
            return self._pass(layer, k, v, rows)
        if later is Rows.BOTH and rows != ALL:
            self.owed[layer].append(Owed(begin, end, rows))
        keys, values = held.of(rows)
        keys[:, :, begin:end] = k
        values[:, :, begin:end] = v
        self.lengths[layer] = end
        return keys[:, :, :end], values[:, :, :end]

    def _pass(self, layer: int, k: Tensor, v: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Return all keys and values of `rows` in the shared buffer; keep what is read later."""
        begin, end = self.lengths[layer], self.lengths[layer] + k.shape[2]
        held, later = self.held[layer], self.later[layer][self.step]
        kv = self._buffer(2, len(k), self.heads, end, self.head_dim)
        for whole, fresh, half in zip(kv, (k, v), (0, 1), strict=True):
            if held is None:
                whole.copy_(fresh)
            else:  # one operation for past and present
                torch.cat((held.of(rows)[half, :, :, :begin], fresh), dim=2, out=whole)
        if later is not Rows.SKIP:
            if self._move(layer, later, end):
                fresh = kv[:, self._slice(later)] if rows == ALL else kv
                into = self.held[layer].kv[:, :, :, begin:end]  # type: ignore[union-attr]
                self.unsaved = into, fresh[:, :, :, begin:]  # runners may write on what they read
                self.lengths[layer] = end
        elif not self.resumable:
            self.held[layer] = None
        return kv[0], kv[1]

    def _move(self, layer: int, rows: Rows, end: int) -> bool:
        """Move a layer to a store of `rows` alone; tell whether `end` tokens fit there.

        If they do not, the runner forwards more than it promised for the step, which the generation
        loop reports after the step.
        """
        begin, held, room = self.lengths[layer], self.held[layer], self._room(layer, rows)
        if end > room.kv.shape[3]:
            return False
        if held is not None:
            self._settle(layer, self._slice(rows))
            room.kv[:, :, :, :begin] = held.of(self._slice(rows))[:, :, :, :begin]
        self.held[layer], self.owed[layer] = room, []
        return True

    def _settle(self, layer: int, rows: slice) -> None:
        """Copy keys and values to returning rows that were appended in their absence."""
        held, still = self.held[layer], list[Owed]()
        assert held is not None
        for owed in self.owed[layer]:
            if owed.rows == rows:
                still.append(owed)
                continue
            place = slice(owed.begin, owed.end)
            held.kv[:, self._other(owed.rows), :, place] = held.kv[:, owed.rows, :, place]
        self.owed[layer] = still

    def on(self, rows: slice) -> RowsOfCache:
        """Return a view of the cache for these rows."""
        return RowsOfCache(self, rows)

    def copy_prefix(self, other: KVCache, lengths: Sequence[int]) -> None:
        """Fill this cache with the first `lengths[layer]` tokens of a cache of all rows."""
        for layer, (source, n) in enumerate(zip(other.held, lengths, strict=True)):
            later = self.later[layer][self.step]
            if later is Rows.SKIP and self.resumable:  # from any of the steps before
                later = Rows.BOTH
            if later is Rows.SKIP or source is None:
                continue
            room, rows = self._room(layer, later), self._slice(later)
            room.kv[:, :, :, :n] = source.of(rows)[:, :, :, :n]
            owed = [lack for lack in other.owed[layer] if lack.end <= n]
            if later is not Rows.BOTH:
                for begin, end, ran in owed:
                    if ran != rows:
                        room.kv[:, :, :, begin:end] = source.kv[:, ran, :, begin:end]
                owed = []
            self.held[layer], self.lengths[layer], self.owed[layer] = room, n, owed

    def close(self) -> None:
        """Release the shared buffer, when the generation ends."""
        self.passing = self.unsaved = None

    @property
    def bytes(self) -> int:
        """The memory of stored keys and values, in bytes."""
        return sum(h.kv.numel() * h.kv.element_size() for h in self.held if h is not None)

    @property
    def planned(self) -> int:
        """The memory that the cache will take at most, in bytes, before anything is allocated.

        It is exact unless guidance rows are dropped, when it leaves out the layer that is moved.
        """
        values = 2 * self.heads * self.head_dim * self.dtype.itemsize
        stores = [
            max(self._count(rows) * self.stored(layer, rows) for rows in Rows if rows.each)
            for layer in range(len(self.tokens))
        ]
        return values * (sum(stores) + max(self._passing_tokens(), default=0))

    def stored(self, layer: int, rows: Rows) -> int:
        """Return the number of tokens for which a layer's store of `rows` has room."""
        steps = [i for i, later in enumerate(self.later[layer]) if later is rows]
        return sum(self.tokens[layer][: steps[-1] + 1]) if steps else 0

    def _room(self, layer: int, rows: Rows) -> Held:
        """Allocate a layer's store of `rows`."""
        shape = (2, self._count(rows), self.heads, self.stored(layer, rows), self.head_dim)
        return Held(rows, self.empty(shape, dtype=self.dtype, device=self.device))

    def _buffer(self, *shape: int) -> Tensor:
        """Return the shared buffer in a shape; its first use makes it large enough for all."""
        size = prod(shape)
        if self.passing is None or self.passing.numel() < size:
            self.passing = None  # before the larger one
            per_token = 2 * self.heads * self.head_dim
            most = max(size, *(per_token * tokens for tokens in self._passing_tokens()))
            self.passing = self.empty(most, dtype=self.dtype, device=self.device)
        return self.passing[:size].view(shape)

    def _passing_tokens(self) -> list[int]:
        """Return, for each layer, the most tokens times rows that are not stored in place."""
        most = []
        for tokens, later in zip(self.tokens, self.later, strict=True):
            steps = zip(tokens, later, [Rows.BOTH, *later], strict=False)
            changes = [i for i, (n, now, before) in enumerate(steps) if n and now is not before]
            most.append(
                max((self._live(i, later) * sum(tokens[: i + 1]) for i in changes), default=0)
            )
        return most

    def _live(self, step: int, later: Sequence[Rows]) -> int:
        """Return the rows that may run at a step: those that are read after the one before."""
        return self.rows if not step or later[step - 1] is Rows.BOTH else self.rows // 2

    def _count(self, rows: Rows) -> int:
        return self.rows if rows is Rows.BOTH else self.rows // 2

    def _named(self, rows: slice) -> Rows:
        return Rows.BOTH if rows == ALL else Rows.NULL if rows.start else Rows.COND

    def _slice(self, rows: Rows) -> slice:
        return rows.of(self.rows // 2)

    def _other(self, rows: slice) -> slice:
        return self._slice(Rows.COND if rows.start else Rows.NULL)


@dataclass
class RowsOfCache:
    """A view of a KV cache for some guidance rows."""

    cache: KVCache
    rows: slice

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append k, v (B, H, K, c) of these rows; return views of all their keys and values."""
        return self.cache.append(layer, k, v, self.rows)
