"""Residual branches: a layer's attention and feed-forward, norm to gate, as the runner gets them.

Shapes: x (B, L, C); rows B conditional first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from torch import Tensor

from fastvar_lab.backbones.layers import FeedForward, Modulation, SelfAttention, modulate
from fastvar_lab.seam import Grid, Runner, Site


class Append(Protocol):
    """A KV cache: takes the keys and values of a step and returns all so far."""

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append k, v (B, H, K, c), rounded to one dtype; return views of all keys and values."""
        ...


class Shared(Protocol):
    """What the blocks of a generation share: by layer, and the KV cache."""

    @property
    def modulations(self) -> Sequence[Modulation]: ...

    @property
    def constants(self) -> Sequence[tuple[Tensor, Tensor]]: ...

    @property
    def cache(self) -> Append: ...


def add_attention(
    x: Tensor,
    attention: SelfAttention,
    layer: int,
    grid: Grid,
    state: Shared,
    run: Runner,
    table: Tensor | None = None,
) -> Tensor:
    """Pass a layer's self-attention to `run`, and add what it returns to x (B, L, C)."""
    site = Site(layer, "attn")
    branch = partial(
        attention_branch,
        attention=attention,
        constants=state.constants[layer],
        mod=state.modulations[layer],
        site=site,
        grid=grid,
        cache=state.cache,
        run=run,
        table=table,
    )
    return x + run.sublayer(site, grid, branch, x)


def add_feed_forward(
    x: Tensor, ffn: FeedForward, layer: int, grid: Grid, state: Shared, run: Runner
) -> Tensor:
    """Pass a layer's feed-forward to `run`, and add what it returns to x (B, L, C)."""
    branch = partial(feed_forward_branch, ffn=ffn, mod=state.modulations[layer])
    return x + run.sublayer(Site(layer, "ffn"), grid, branch, x)


def attention_branch(
    x: Tensor,
    index: Tensor | None = None,
    *,
    attention: SelfAttention,
    constants: tuple[Tensor, Tensor],
    mod: Modulation,
    site: Site,
    grid: Grid,
    cache: Append,
    run: Runner,
    table: Tensor | None = None,
) -> Tensor:
    """Return self-attention as a branch: modulated norm, attention over the cache, gate.

    The gate leaves the type as it is, as the released product in place does; that of feed-forward
    does not.
    """
    if table is not None and index is not None:
        table = table[index]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return run.attend(site, grid, q, *cache.append(site.layer, k, v), scale=attention.scale)

    out = attention(modulate(x, mod.up1, mod.shift1), attend, constants, table)
    return (out * mod.gate1).to(out.dtype)


def feed_forward_branch(
    x: Tensor, index: Tensor | None = None, *, ffn: FeedForward, mod: Modulation
) -> Tensor:
    """Return feed-forward as a branch: modulated norm, FFN, gate."""
    return ffn(modulate(x, mod.up2, mod.shift2)) * mod.gate2
