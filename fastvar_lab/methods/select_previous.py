"""Selectors that look at the step before: change of layers, entropy of attention and of outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fastvar_lab.methods.observer import Map, Observed, Observer
from fastvar_lab.methods.registry import selector
from fastvar_lab.methods.schedule import settle_layers
from fastvar_lab.seam import Grid, Handles, Site
from fastvar_lab.tokens import product, rows_like, same_rows, wide


def middle_chunk(depth: int) -> tuple[int, int]:
    """Return the layers of SparseVAR's chunk in a model of any depth: from 3/8 to 1/2.

    >>> middle_chunk(32), middle_chunk(8), middle_chunk(1)
    ((12, 16), (3, 4), (0, 1))
    """
    first = min(round(depth * 3 / 8), depth - 1)
    return first, max(first + 1, depth // 2)


def chunk_checked(layers: tuple[int, int] | None, depth: int, name: str) -> tuple[int, int]:
    """Return the layers of a chunk; raise ValueError if the model has fewer."""
    first, end = middle_chunk(depth) if layers is None else layers
    if not 0 <= first < end <= depth:
        raise ValueError(
            f"{name}: layers must be a range (first, end) of the {depth} layers; not {layers!r}"
        )
    return first, end


@selector("block change")
@dataclass(frozen=True)
class BlockChange(Observed):
    """The change of a token across some layers at the step before: mean square over channels.

    `layers` is a half-open range; by default SparseVAR's chunk, layers 12 to 15 of 32, at the same
    share of the depth. Maps are resized by the nearest token. Tokens that were dropped from the
    whole stack at the step before did not change, and score 0. Source: SparseVAR, figure; constants
    from a port of its released code.
    """

    layers: tuple[int, int] | None = None
    looks_back: ClassVar[bool] = True

    def __post_init__(self) -> None:
        settle_layers(self)

    def observer(self, grids: Sequence[Grid], depth: int, since: int) -> Observer:
        return ChangeObserver(chunk_checked(self.layers, depth, repr(self)), since)


class ChangeObserver(Observer):
    """Sums what a chunk of layers adds to each token; `last` is the map of the step before."""

    by_step = True

    def __init__(self, layers: tuple[int, int], since: int) -> None:
        super().__init__(since)
        self.layers = range(*layers)
        self.now: Tensor | None = None
        self.last: Map | None = None

    def added(self, site: Site, grid: Grid, delta: Tensor, index: Tensor | None) -> None:
        if grid.index < self.since or site.layer not in self.layers:
            return
        delta = wide(delta)  # under autocast the sublayers of a layer differ in type
        if self.now is None:
            self.now = delta.new_zeros(len(delta), grid.tokens, delta.shape[-1])
        self.now, delta = same_rows(self.now, delta)
        if index is None:
            self.now += delta
        else:
            index = rows_like(index, len(delta), slice(None))
            self.now.scatter_add_(1, index.unsqueeze(-1).expand_as(delta), delta)

    def after(self, grid: Grid, logits: Tensor | None) -> None:
        if self.now is not None:
            change = wide(self.now[:, grid.prefix :]).square().mean(dim=-1)
            self.last, self.now = Map(change, grid), None

    def scores(self, x: Tensor, grid: Grid, site: Site) -> Tensor:
        assert self.last is not None
        return self.last.on(grid, len(x), self.live).squeeze(-1)


def signed(keep: str, rule: object) -> int:
    """Return 1 to keep the highest entropies, -1 to keep the lowest; raise ValueError otherwise."""
    if keep not in ("high", "low"):
        raise ValueError(f"{type(rule).__name__}: keep must be high or low; not {keep!r}")
    return 1 if keep == "high" else -1


@selector("attention entropy, low kept", keep="low")
@selector("attention entropy, high kept")
@dataclass(frozen=True)
class AttentionEntropy(Observed):
    """Entropy of a token's self-attention at the step before: the mean over layers and heads.

    It is measured once, at the last step that computes every token, and resized to later steps.
    `keep` says which tokens are kept: those of "high" entropy (NOVA drops low entropy) or of "low"
    (ToProVAR drops high entropy). Neither method is complete here, because their constants are
    not published; only the sign is asked. `layers`, a half-open range, are those that are looked
    at, default all; a few need less time. Guessed: the mean over layers, the step.

    >>> AttentionEntropy(keep="low")
    AttentionEntropy(keep='low', layers=None)
    """

    keep: str = "high"
    layers: tuple[int, int] | None = None
    looks_back: ClassVar[bool] = True

    def __post_init__(self) -> None:
        signed(self.keep, self)
        settle_layers(self)

    def observer(self, grids: Sequence[Grid], depth: int, since: int) -> Observer:
        layers = chunk_checked(self.layers or (0, depth), depth, repr(self))
        return _AttentionEntropy(signed(self.keep, self), since, range(*layers))


class _AttentionEntropy(Observer):
    by_step = True

    def __init__(self, sign: int, since: int, layers: range) -> None:
        super().__init__(since)
        self.layers = layers
        self.sign, self.waiting, self.total = sign, list[tuple[Tensor, Tensor, float]](), None

    total: Tensor | None
    grid: Grid

    def attended(self, site: Site, grid: Grid, q: Tensor, k: Tensor, scale: float) -> None:
        if grid.index == self.since and site.layer in self.layers:
            self.waiting.append((q, k, scale))

    def added(self, site: Site, grid: Grid, delta: Tensor, index: Tensor | None) -> None:
        # after the branch, so that these products are counted as the method's own
        while self.waiting:
            q, k, scale = self.waiting.pop()
            entropy = attention_entropy(q, k, scale)[:, grid.prefix :]
            if self.total is not None:
                total, entropy = same_rows(self.total, entropy)
                entropy = total + entropy
            self.total = entropy
            self.grid = grid

    def scores(self, x: Tensor, grid: Grid, site: Site) -> Tensor:
        assert self.total is not None
        return self.sign * Map(self.total, self.grid).on(grid, len(x), self.live).squeeze(-1)


def attention_entropy(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Return the entropy of each query's attention in nats, averaged over heads: (B, K).

    One head at a time, to save memory.
    """
    total = wide(q).new_zeros(q.shape[0], q.shape[2])
    for head in range(q.shape[1]):
        logits = product(q[:, head], k[:, head].transpose(-1, -2)) * scale
        log_p = logits.log_softmax(-1)
        total -= (log_p.exp() * log_p).sum(-1)
    return total / q.shape[1]


@selector("output entropy, low kept", keep="low")
@selector("output entropy, high kept")
@dataclass(frozen=True)
class OutputEntropy(Observed):
    """Entropy of a token's drawn distribution at the step before; one set for both rows.

    Of bits it is the mean over bits, of codebook rows that of the row; logits are the guided ones,
    with temperature, before top-p and top-k. `keep` is as in `AttentionEntropy`.
    """

    keep: str = "high"
    looks_back: ClassVar[bool] = True

    def __post_init__(self) -> None:
        signed(self.keep, self)

    def observer(self, grids: Sequence[Grid], depth: int, since: int) -> Observer:
        return _OutputEntropy(signed(self.keep, self), since)


class _OutputEntropy(Observer):
    by_step = by_logits = True

    def __init__(self, sign: int, since: int) -> None:
        super().__init__(since)
        self.sign = sign
        self.left: Callable[[Grid], float] = lambda grid: 1.0
        self.last: Map | None = None

    def prepare(self, handles: Handles) -> None:
        super().prepare(handles)
        self.left = handles.left

    def after(self, grid: Grid, logits: Tensor | None) -> None:
        if logits is not None and grid.index >= self.since:
            log_p = (wide(logits) / self.left(grid)).log_softmax(-1)
            entropy = -(log_p.exp() * log_p).nan_to_num().sum(-1)
            self.last = Map(entropy.flatten(2).mean(-1) if entropy.dim() > 2 else entropy, grid)

    def scores(self, x: Tensor, grid: Grid, site: Site) -> Tensor:
        assert self.last is not None
        return self.sign * self.last.on(grid, len(x), self.live).squeeze(-1)
