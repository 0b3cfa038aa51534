"""Infinity: bitwise next-scale prediction with text (transformer only), by its released names.

Source: released Infinity code (parameter names, packing orders, formulas). The embedded `tiny`
model is this class, and so are the official sizes. Nothing here knows of pruning: every sublayer
is handed, as a closed branch, to the Runner of the generation. A model converted to bfloat16
computes in it throughout, but for text norm, rotary positions and head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from fastvar_lab.backbones.branches import Append, add_attention, add_feed_forward
from fastvar_lab.backbones.layers import (
    AdaLNHeadNorm,
    AffineNorm,
    CrossAttention,
    FeedForward,
    Modulation,
    RMSNorm,
    SelfAttention,
    TextPool,
    WideLinear,
    additive,
    modulate,
    normal,
    rounded,
)
from fastvar_lab.backbones.positions import ROTARY_MODES, interpolated_rotary, rotary, sines
from fastvar_lab.backbones.protocol import Backbone
from fastvar_lab.cache import KVCache
from fastvar_lab.draws import Stream
from fastvar_lab.sampling import Sampling, bit_probabilities, guide
from fastvar_lab.scales import infinity
from fastvar_lab.seam import Grid, Runner, Site
from fastvar_lab.tokens import wide
from fastvar_lab.values import Shown, optional


@dataclass(frozen=True, repr=False)
class InfinityConfig(Shown):
    """Sizes of one Infinity transformer.

    `reference` is the rotary grid (H, W), see `rotary`; None is the released rule, the last map of
    the 1M schedule nearest in aspect, whatever is drawn. `rotary_mode` is one of `ROTARY_MODES`.
    The level embedding is added before the first layer and, with `level_every`, again before every
    so many layers (released code: `add_lvl_embeding_only_first_block` 0, once for every chunk of
    layers).
    """

    depth: int
    width: int
    heads: int
    ffn: int
    bits: int
    text_width: int
    text_length: int
    reference: tuple[int, int] | None = None
    patch: int = 1  # a token covers patch x patch cells of the tokenizer's latent
    levels: int = 15
    pool_heads: int = 16
    waves: int = 0  # waves per axis of learnt absolute positions (tiny); 0 in released models
    rotary_mode: str = optional("scaled")
    level_every: int = optional(0)

    def __post_init__(self) -> None:
        if self.rotary_mode not in ROTARY_MODES:
            raise ValueError(
                f"rotary_mode must be one of {', '.join(ROTARY_MODES)}; not {self.rotary_mode!r}"
            )
        if self.level_every < 0:
            raise ValueError(f"level_every is a number of layers, or 0; not {self.level_every}")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def token_bits(self) -> int:
        """The number of bits of one token."""
        return self.bits * self.patch**2


class Text(NamedTuple):
    """Encoded prompts: features (n, T, D), and the mask (n, T) of those that are not padding."""

    features: Tensor
    mask: Tensor


def _padded(text: Text, length: int) -> Text:
    """Pad a text to (n, length, D)."""
    missing = length - text.mask.shape[1]
    return Text(F.pad(text.features, (0, 0, 0, missing)), F.pad(text.mask, (0, missing)))


@dataclass
class State:
    """The state of one generation: condition, modulation, text memory, KV cache, positions."""

    start: Tensor  # (B, 1, C), the first token
    head: tuple[Tensor, Tensor]
    modulations: list[Modulation]
    memories: list[tuple[Tensor, Tensor]]
    text_mask: Tensor  # (B, 1, 1, T), added to scores
    constants: list[tuple[Tensor, Tensor]]  # of self-attention, by layer
    cache: Append
    tables: dict[int, Tensor]  # rotary tables by scale step
    levels: Tensor  # level embeddings (S, C) of the trained steps

    def on(self, rows: slice) -> State:
        """Return the state restricted to some guidance rows."""
        return replace(
            self,
            start=self.start[rows],
            head=(self.head[0][rows], self.head[1][rows]),
            modulations=[Modulation(*(m[rows] for m in mod)) for mod in self.modulations],
            memories=[(k[rows], v[rows]) for k, v in self.memories],
            text_mask=self.text_mask[rows],
            cache=cast(KVCache, self.cache).on(rows),
        )

    def table(self, grid: Grid) -> Tensor:
        """Return the rotary table of a forward, concatenated over its steps."""
        tables = [self.tables[step.index] for step in grid.steps]
        return tables[0] if len(tables) == 1 else torch.cat(tables)

    def add_level(self, x: Tensor, grid: Grid, counts: Sequence[int]) -> Tensor:
        """Add the level embedding again, to tokens (B, L, C): `counts` of each step."""
        if len(grid.steps) == 1:
            return x + self.levels[grid.index]
        parts = [self.levels[s.index].expand(n, -1) for s, n in zip(grid.steps, counts)]
        return x + torch.cat(parts)


class InfinityBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward; each is one branch."""

    def __init__(self, config: InfinityConfig) -> None:
        super().__init__()
        self.ada_gss = nn.Parameter(normal(1, 1, 6, config.width) / config.width**0.5)
        self.sa = SelfAttention(config.width, config.heads)
        self.ca = CrossAttention(config.width, config.heads)
        self.ca_norm = AffineNorm(config.width, eps=1e-6)
        self.ffn = FeedForward(config.width, config.ffn)
        self.level_every = config.level_every
        self.rounded = False  # see `round_text_attention`

    def forward(self, x: Tensor, *, layer: int, grid: Grid, state: State, run: Runner) -> Tensor:
        """Pass the three branches of this layer to `run`, in order."""
        if self.level_every and layer and layer % self.level_every == 0:
            counts = [step.tokens for step in grid.steps]
            if x.shape[1] != grid.tokens:  # some stay out of all layers
                counts = [run.forwarded(Site(layer, "attn"), step) for step in grid.steps]
            x = state.add_level(x, grid, counts)
        x = add_attention(x, self.sa, layer, grid, state, run, state.table(grid))
        cross = partial(self._cross, layer=layer, grid=grid, state=state, run=run)
        x = x + run.sublayer(Site(layer, "cross"), grid, cross, x)
        return add_feed_forward(x, self.ffn, layer, grid, state, run)

    def _cross(
        self,
        x: Tensor,
        index: Tensor | None = None,
        *,
        layer: int,
        grid: Grid,
        state: State,
        run: Runner,
    ) -> Tensor:
        memory = state.memories[layer]

        def attend(q: Tensor) -> Tensor:
            scale = q.shape[-1] ** -0.5
            site = Site(layer, "cross")
            if not self.rounded:
                return run.attend(site, grid, q, *memory, state.text_mask, scale)
            q, k, v = (rounded(t) for t in (q, *memory))
            return rounded(run.attend(site, grid, q, k, v, state.text_mask, scale))

        out = self.ca(self.ca_norm(x), attend)
        return wide(out) if self.rounded else out


class Infinity(Backbone):
    """The transformer: bits of the next scale from the latent so far and a text."""

    kinds = ("attn", "cross", "ffn")
    condition = Text
    unguided = 1.0
    tempered = True

    def __init__(self, config: InfinityConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.cfg_uncond = nn.Parameter(normal(config.text_length, config.text_width) * 0.02)
        self.pos_start = nn.Parameter(normal(1, 1, width) * 0.02)
        self.text_norm = RMSNorm(config.text_width)
        pool = TextPool(width, config.text_width, config.pool_heads)
        self.text_proj_for_sos = nn.ModuleDict({"ca": pool})
        self.text_proj_for_ca = nn.Sequential(
            nn.Linear(config.text_width, width),
            nn.GELU(approximate="tanh"),
            nn.Linear(width, width),
        )
        self.lvl_embed = nn.Embedding(config.levels, width)
        nn.init.normal_(self.lvl_embed.weight, std=0.02)
        self.word_embed = nn.Linear(config.token_bits, width)
        if config.waves:
            self.places = nn.Linear(4 * config.waves, width, bias=False)
        self.shared_ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(InfinityBlock(config) for _ in range(config.depth))
        self.head_nm = AdaLNHeadNorm(width)
        self.head = WideLinear(width, 2 * config.token_bits)

    @property
    def _blocks(self) -> list[InfinityBlock]:
        return cast(list[InfinityBlock], list(self.blocks))

    def initialize(self) -> None:
        """Initialise weights for training: open gates, branches with small outputs."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.word_embed.weight, std=0.3)
        if self.config.waves:
            nn.init.trunc_normal_(self.places.weight, std=0.05)  # as large as the level embedding
        for block in self._blocks:
            nn.init.zeros_(block.ada_gss)
            block.ada_gss.data[:, :, :2] = 1.0
            for out in (block.sa.proj, block.ca.proj, block.ffn.fc2):
                nn.init.trunc_normal_(out.weight, std=0.02 / (3 * len(self.blocks)) ** 0.5)

    def with_null(self, text: Text) -> Text:
        """Append the null prompt, as long as each prompt, for guidance: (2n, T, D)."""
        self._check(text)
        null = self.cfg_uncond[: text.features.shape[1]].expand_as(text.features)
        return Text(torch.cat((text.features, null)), text.mask.repeat(2, 1))

    def with_negative(self, text: Text, negative: Text) -> Text:
        """Append the encoded negative prompts, of any length: (2n, T, D)."""
        self._check(text)
        self._check(negative)
        longest = max(text.mask.shape[1], negative.mask.shape[1])
        texts = (_padded(text, longest), _padded(negative, longest))
        return Text(*(torch.cat(parts) for parts in zip(*texts)))

    def _check(self, text: Text) -> None:
        """Raise ValueError for a text of the wrong shape, width or length."""
        features, mask = text
        if features.ndim != 3 or mask.shape != features.shape[:2] or mask.dtype != torch.bool:
            raise ValueError(
                "a Text has features (n, T, D) and a mask (n, T) of True and False; not "
                f"{tuple(features.shape)} and {tuple(mask.shape)} in {mask.dtype}"
            )
        length, width = features.shape[1:]
        if width != self.config.text_width or length > self.config.text_length:
            raise ValueError(
                f"this model reads up to {self.config.text_length} text tokens of width "
                f"{self.config.text_width}; not {length} of width {width}"
            )

    def begin(self, text: Text, grids: Sequence[Grid], run: Runner) -> State:
        """Compute the values that all steps share; allocate the KV cache for `run.forwarded`."""
        self._check(text)
        cache = self.new_cache(grids, len(text.mask), run)
        return self.state(text, grids, cache)

    def state(self, text: Text, grids: Sequence[Grid], cache: Append) -> State:
        """Return the state around a cache, with the values that all scale steps share."""
        features = self.text_norm(text.features) * text.mask.unsqueeze(-1)
        features = features.to(self.pos_start.dtype)
        condition = self.text_proj_for_sos["ca"](features, text.mask)
        memory = self.text_proj_for_ca(features)
        with torch.autocast(features.device.type, enabled=False):
            precise = condition.to(self.pos_start.dtype)
            shared, head = self.shared_ada_lin(precise), self.head_nm.modulation(precise)
        shared = rearrange(shared, "b (six c) -> b 1 six c", six=6)
        blocks, steps = self._blocks, [g.index for g in grids]
        memories = CrossAttention.memories([block.ca for block in blocks], memory)
        offsets = torch.stack([block.ada_gss for block in blocks])  # (layers, 1, 1, 6, C)
        return State(
            start=condition.unsqueeze(1) + self.pos_start,
            head=head,
            modulations=Modulation.unpack(shared + offsets),
            memories=memories,
            text_mask=additive(text.mask, memories[0][0].dtype),
            constants=SelfAttention.constants([block.sa for block in blocks]),
            cache=cache,
            tables=dict(zip(steps, self.positions(grids), strict=True)),
            levels=self.lvl_embed(torch.arange(self.config.levels, device=features.device)),
        )

    @property
    def rounds_text_attention(self) -> bool:
        """Whether text attention rounds to bfloat16; see `round_text_attention`."""
        return cast(TextPool, self.text_proj_for_sos["ca"]).rounded

    def round_text_attention(self, rounded: bool) -> None:
        """Set whether text attention and pooling round to bfloat16, as released kernels do."""
        cast(TextPool, self.text_proj_for_sos["ca"]).rounded = rounded
        for block in self._blocks:
            block.rounded = rounded

    def positions(self, grids: Sequence[Grid]) -> list[Tensor]:
        """Return the rotary tables (h * w, head_dim / 2), complex, of the steps of a schedule."""
        if not grids:
            return []
        config, device, last = self.config, self.pos_start.device, grids[-1]
        reference = config.reference or infinity(last.h / last.w)[-1]
        if config.rotary_mode == "interpolated":
            return [
                interpolated_rotary(g.h, g.w, reference, config.head_dim, device) for g in grids
            ]
        maps = [(g.h, g.w) for g in grids]
        references = maps if config.rotary_mode == "absolute" else [reference] * len(maps)
        return rotary(maps, references, config.head_dim, device)

    def embed(self, state: State, grid: Grid, latent: Tensor) -> Tensor:
        """Return the tokens (B, L, C) of the first layer from the resized latent (n, d, h, w)."""
        where = self.where(grid, state.levels)
        if grid.index == 0:
            return (state.start + where).expand(-1, grid.tokens, -1)
        tokens = self.embed_latent(latent)
        tokens = (tokens + where).to(tokens.dtype)  # rounded once
        return tokens.repeat(len(state.start) // len(tokens), 1, 1)

    def where(self, grid: Grid, levels: Tensor) -> Tensor:
        """Return the step's row of `levels` (S, C), plus learnt positions (h * w, C) if any."""
        level = levels[grid.index]
        if grid.index == 0 or not self.config.waves:
            return level
        waves = sines(grid.h, grid.w, self.config.waves, level.device)
        return level + self.places(waves.to(level.dtype))

    def embed_latent(self, latent: Tensor) -> Tensor:
        """Project a resized latent (n, d, h, w) to tokens (n, h * w, C).

        The layout of a linear map's input decides how its sum is rounded: under autocast, whether
        the bias is added before rounding or after. The released input is contiguous, except in
        patchified models on a GPU; official precision follows it.
        """
        flat = rearrange(latent, "b d h w -> b (h w) d").to(self.pos_start.dtype)
        if self.config.patch == 1 and self.rounds_text_attention:
            flat = flat.contiguous()
        return self.word_embed(flat)

    def logits(self, state: State, x: Tensor) -> Tensor:
        """Return the logits (B, L, d, 2) of each bit being 0 or 1, in float32 or float64."""
        x, (up, shift) = wide(x), state.head
        with torch.autocast(x.device.type, enabled=False):
            out = self.head(modulate(x, up.to(x.dtype), shift.to(x.dtype)))
        return rearrange(out, "b l (d two) -> b l d two", two=2)

    def sublayer_flops(self, kind: str, tokens: int, keys: int) -> float:
        c = self.config.width
        per_token = {
            "attn": 8 * c * c + 4 * c * keys,
            "cross": 4 * c * c + 4 * c * keys,
            "ffn": 4 * c * self.config.ffn,
        }
        return float(tokens * per_token[kind])

    def ends_flops(self, grid: Grid) -> tuple[float, float]:
        head = 4.0 * self.config.width * self.config.token_bits * grid.tokens
        places = 8.0 * self.config.waves * self.config.width * grid.tokens
        return (head / 2 + places) * (grid.index > 0), head

    def check_sampling(self, sampling: Sampling, grids: Sequence[Grid]) -> None:
        """Raise ValueError for a sampling that bits do not allow, too."""
        super().check_sampling(sampling, grids)
        _check_bits(sampling)

    def guidance(self, state: State, grid: Grid, sampling: Sampling) -> float:
        return sampling.guidance_at(grid.index)

    def sample(
        self,
        state: State,
        x: Tensor,
        grid: Grid,
        paired: bool,
        sampling: Sampling,
        draws: Stream,
        codebook: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Draw bits from the last layer's x (B, L, C); temperature is applied before guidance."""
        logits = self.logits(state, x) * (1 / sampling.temperature_at(grid.index))
        if paired:
            logits = guide(logits, self.guidance(state, grid, sampling))
        return self.draw(logits, grid, sampling, draws), logits

    def draw(
        self,
        logits: Tensor,
        grid: Grid,
        sampling: Sampling,
        draws: Stream,
        codebook: Tensor | None = None,
    ) -> Tensor:
        """Draw the bits (n, L, d) of a step from logits that include the temperature.

        Raises ValueError for `smooth` or a `top_k` of 1, which mix or cut rows of a codebook.
        """
        _check_bits(sampling)
        return draws.pick(grid.index, bit_probabilities(logits, sampling.top_p)).bool()


def _check_bits(sampling: Sampling) -> None:
    """Raise ValueError for settings that mix or cut rows of a codebook."""
    if sampling.smooth or sampling.top_k == 1:
        raise ValueError(
            "this model draws bits: smooth must be False and top_k 0; for the likelier value "
            "of every bit lower top_p to 0.5"
        )
