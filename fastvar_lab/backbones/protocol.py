"""What the next-scale loop asks of a backbone; Infinity, VAR and HART answer to it.

A backbone of one's own is a `Backbone`, whose layers offer every sublayer to the runner, beside a
`Quantizer` (`quantize.py`), an `AutoEncoder` and a `ConditionEncoder`: put together as a `Model`,
every method, instrument and widget takes it. `tests/test_own_backbone.py` holds one of 90 lines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn

from fastvar_lab.cache import KVCache, compute_dtype
from fastvar_lab.draws import Stream
from fastvar_lab.sampling import Sampling, guide
from fastvar_lab.seam import Block, Grid, Runner, Site


class State(Protocol):
    """What one generation owns; a backbone adds what it needs."""

    cache: Any  # what `Backbone.new_cache` made

    def on(self, rows: slice) -> Any:
        """Return the same state for some guidance rows: views of whatever has them.

        The cache takes part as `cache.on(rows)`, so that both go on from the same keys.
        """
        ...


class Backbone(nn.Module, ABC):
    """A next-scale transformer. `state` is whatever its `begin` returns, a `State`.

    Its `blocks` are called as `block(x, layer=, grid=, state=, run=)`, x (B, L, C), and return x
    with every sublayer added: `x + run.sublayer(Site(layer, kind), grid, branch, x)` for each of
    `kinds` in turn, where `branch(x, index=None)` takes any tokens and their positions (B, K).
    Self-attention appends to the cache and goes through `run.attend`.
    """

    config: Any  # has depth, width, heads, head_dim, and levels: how many steps it can tell apart
    kinds: tuple[str, ...]  # of "attn", "cross", "ffn"
    condition: type = object  # of what encoded prompts are
    unguided: float  # the guidance scale that needs no null rows
    prefix = 0  # text tokens that enter with the first scale step
    blocks: nn.ModuleList
    head: nn.Linear  # its weight tells device and type

    @abstractmethod
    def with_null(self, condition: Any) -> Any:
        """Append the null condition of every picture, for guidance."""

    @abstractmethod
    def begin(self, condition: Any, grids: Sequence[Grid], run: Runner) -> Any:
        """Make the state of one generation."""

    @abstractmethod
    def embed(self, state: Any, grid: Grid, latent: Tensor) -> Tensor:
        """Tokens (B, L, C) that enter the first layer, from the latent resized to (n, d, h, w)."""

    def new_cache(self, grids: Sequence[Grid], rows: int, run: Runner) -> KVCache:
        """Allocate the KV cache of a generation to what `run` will forward."""
        config, weight = self.config, next(self.blocks.parameters())
        capacities = [
            sum(run.forwarded(Site(layer, "attn"), grid) for grid in grids)
            for layer in range(config.depth)
        ]
        dtype = compute_dtype(weight)
        return KVCache(capacities, rows, config.heads, config.head_dim, dtype, weight.device)

    def layers(self, state: Any, grid: Grid, run: Runner) -> list[Block]:
        """Close the layers over one scale step."""
        return [
            partial(block, layer=i, grid=grid, state=state, run=run)
            for i, block in enumerate(self.blocks)
        ]

    @abstractmethod
    def logits(self, state: Any, x: Tensor) -> Tensor:
        """Logits of the step's tokens, float32 at least."""

    @abstractmethod
    def guidance(self, state: Any, grid: Grid, sampling: Sampling) -> float:
        """Return the scale s of a step's guidance, `s * cond + (1 - s) * null`."""

    @abstractmethod
    def draw(
        self,
        logits: Tensor,
        grid: Grid,
        sampling: Sampling,
        draws: Stream,
        codebook: Tensor | None = None,
    ) -> Tensor:
        """Draw the tokens of a step from its guided logits (n, L, ...).

        Returns bits (n, L, d), rows of the codebook (n, L), or codes themselves, floating.
        """

    def sample(
        self,
        state: Any,
        x: Tensor,
        grid: Grid,
        paired: bool,
        sampling: Sampling,
        draws: Stream,
        codebook: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Draw the tokens of a step from what the last layer returned, x (B, L, C).

        `paired` x holds null rows for guidance. Returns the guided logits (n, L, ...) too.
        """
        logits = self.logits(state, x)
        if paired:
            logits = guide(logits, self.guidance(state, grid, sampling))
        return self.draw(logits, grid, sampling, draws, codebook), logits

    @abstractmethod
    def sublayer_flops(self, kind: str, tokens: int, keys: int) -> float:
        """Count the products of one sublayer on one row: tokens in, keys attended to."""

    @abstractmethod
    def ends_flops(self, grid: Grid) -> tuple[float, float]:
        """Count the products of a step's embedding, on one picture, and head, on one row."""

    @property
    def finish_flops(self) -> float:
        """Products that a token of the last step costs after the head, on one row."""
        return 0.0


class ConditionEncoder(nn.Module, ABC):
    """Turns prompts into what a backbone is conditioned on; `example` is one that it takes."""

    example = "a cat on a mat"

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Any:
        """Encode prompts."""
