"""The interface between the next-scale loop and backbones; Infinity, VAR and HART implement it.

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
    """The state of one generation; backbones add fields."""

    cache: Any  # from `Backbone.new_cache`

    def on(self, rows: slice) -> Any:
        """Return the state restricted to some guidance rows, as views.

        The cache takes part as `cache.on(rows)`, so that both go on from the same keys.
        """
        ...


class Backbone(nn.Module, ABC):
    """A next-scale transformer. `state` is the `State` that its `begin` returns.

    Its `blocks` are called as `block(x, layer=, grid=, state=, run=)`, x (B, L, C), and return x
    with every sublayer added: `x + run.sublayer(Site(layer, kind), grid, branch, x)` for each of
    `kinds` in turn, where `branch(x, index=None)` takes any tokens and their positions (B, K).
    Self-attention appends to the cache and goes through `run.attend`.
    """

    config: Any  # has depth, width, heads, head_dim, and levels, the number of level embeddings
    kinds: tuple[str, ...]  # of "attn", "cross", "ffn"
    condition: type = object  # the type of encoded prompts
    unguided: float  # the guidance scale that needs no null rows
    prefix = 0  # text tokens that enter with the first scale step
    blocks: nn.ModuleList
    head: nn.Linear  # its weight has the device and dtype of the model
    tempered = False  # whether the logits that `sample` returns are divided by the temperature
    guides_layers = True  # whether guidance may be applied to the output of a layer

    @abstractmethod
    def with_null(self, condition: Any) -> Any:
        """Append the null condition of every picture, for guidance: (2n, ...)."""

    def with_negative(self, condition: Any, negative: Any) -> Any:
        """Append the condition of negative prompts in place of the null condition: (2n, ...)."""
        raise ValueError(f"a {self._get_name()} takes no negative prompts")

    def drawn(self, condition: Any, draws: Stream) -> Any:
        """Return a condition (n, ...), with what it leaves to chance drawn; by default as it is."""
        return condition

    def guided(self, sampling: Sampling) -> bool:
        """Return whether null rows run under a sampling."""
        return any(value != self.unguided for value in sampling.guidances)

    def merge_layer(self, sampling: Sampling) -> int | None:
        """Return the layer before which guidance merges both rows; None at the logits.

        That is the depth where it is applied to the output of the last layer.
        """
        if not (sampling.guidance_layer and self.guided(sampling)):
            return None
        return self.config.depth + sampling.guidance_layer + 1

    def parts(self, grids: Sequence[Grid], step: int, sampling: Sampling) -> tuple[int, ...]:
        """Return the numbers of tokens of the forwards in which a step is drawn, by default one."""
        return (grids[step].tokens,)

    def part(self, state: Any, grid: Grid, index: Tensor) -> Any:
        """Return the state for a forward of the tokens at index (B, K) of a step."""
        raise NotImplementedError(f"a {self._get_name()} draws a step in one forward")

    def check_sampling(self, sampling: Sampling, grids: Sequence[Grid]) -> None:
        """Raise ValueError for a sampling that this model or schedule does not allow."""
        name, depth, layer = self._get_name(), self.config.depth, sampling.guidance_layer
        sampling.check_steps(len(grids))
        if layer and not self.guides_layers:
            raise ValueError(f"a {name} is guided at the logits alone; not at layer {layer}")
        if layer and -layer >= depth:
            raise ValueError(
                f"guidance_layer is 0, or -1 to {1 - depth} with {depth} layers; not {layer}"
            )
        self.check_final(sampling, grids)

    def check_conditions(self, condition: Any, negative: Any) -> None:
        """Raise ValueError for encoded conditions, or None, that would fail on a GPU."""

    def check_final(self, sampling: Sampling, grids: Sequence[Grid]) -> None:
        """Raise ValueError for settings of the last scale, which only HART has."""
        if sampling.mask_iterations != 1 or not sampling.residuals:
            raise ValueError(
                f"mask iterations and residuals belong to HART; a {self._get_name()} has one "
                "iteration and no residuals to leave out"
            )

    @abstractmethod
    def begin(self, condition: Any, grids: Sequence[Grid], run: Runner) -> Any:
        """Return the state of one generation."""

    @abstractmethod
    def embed(self, state: Any, grid: Grid, latent: Tensor) -> Tensor:
        """Return the tokens (B, L, C) of the first layer from the resized latent (n, d, h, w)."""

    def new_cache(self, grids: Sequence[Grid], rows: int, run: Runner) -> KVCache:
        """Return the empty KV cache of a generation, for the tokens that `run` will forward."""
        config, weight = self.config, next(self.blocks.parameters())
        tokens = [
            [run.forwarded(Site(layer, "attn"), grid) for grid in grids]
            for layer in range(config.depth)
        ]
        dtype = compute_dtype(weight)
        return KVCache(tokens, rows, config.heads, config.head_dim, dtype, weight.device)

    def layers(self, state: Any, grid: Grid, run: Runner) -> list[Block]:
        """Return the layers bound to one scale step."""
        return [
            partial(block, layer=i, grid=grid, state=state, run=run)
            for i, block in enumerate(self.blocks)
        ]

    @abstractmethod
    def logits(self, state: Any, x: Tensor) -> Tensor:
        """Return the logits of the step's tokens, in float32 or float64."""

    @abstractmethod
    def guidance(self, state: Any, grid: Grid, sampling: Sampling) -> float:
        """Return the scale s of a step's guidance, `s * cond + (1 - s) * null`.

        `sampling.guidance` may be a list: `sampling.guidance_at(grid.index)` is a step's value.
        """

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
        """Draw the tokens of a step from the output x (B, L, C) of the last layer.

        `paired` x holds null rows for guidance. Returns the guided logits (n, L, ...) too.
        """
        logits = self.logits(state, x)
        if paired:
            logits = guide(logits, self.guidance(state, grid, sampling))
        return self.draw(logits, grid, sampling, draws, codebook), logits

    @abstractmethod
    def sublayer_flops(self, kind: str, tokens: int, keys: int) -> float:
        """Count the operations of one sublayer on one row, for `tokens` and `keys`."""

    @abstractmethod
    def ends_flops(self, grid: Grid) -> tuple[float, float]:
        """Count the operations of a step's embedding, per picture, and head, per row."""

    def finish_flops(self, last: Grid, rows: int, sampling: Sampling) -> float:
        """Count the operations of the last step after the head, on one picture's guidance rows."""
        return 0.0


class ConditionEncoder(nn.Module, ABC):
    """Encodes prompts to the condition of a backbone; `example` is a valid prompt.

    `left_out` is the prompt that leaves the choice to chance, if there is one.
    """

    example = "a cat on a mat"
    left_out: str | None = None

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Any:
        """Encode prompts."""

    @property
    def encoded_prompts(self) -> tuple[str, ...]:
        """The prompts that it takes, if these are all; empty if it takes others too."""
        return ()

    def caption(self, prompt: str) -> str:
        """Return how captions write a prompt; a class number with its name."""
        return prompt

    def pieces(self, prompt: str) -> list[str]:
        """Return the parts of a prompt that have a row of their own in the condition, in order.

        By default its words; a list that is shorter than the condition leaves the rest unnamed.
        """
        return prompt.split()
