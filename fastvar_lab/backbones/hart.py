"""HART: hybrid tokens, a codebook row and a continuous residual, by its released names.

Source: released HART code (parameter names, formulas) in the configuration of the 0.7B release:
Llama-style blocks without modulation. The text enters as the first scale step's tokens; the last
of them predicts the 1x1 map. The last map may be drawn in several forwards over random parts
(mask iterations). Deviation: released code shuffles an order of tokens that a single forward never
looks at; it is not drawn here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from fastvar_lab.backbones.branches import Append
from fastvar_lab.backbones.layers import (
    AdaLNHeadNorm,
    GatedFeedForward,
    Projection,
    RMSNorm,
    StepEmbedding,
    biases,
    qk_and_v,
)
from fastvar_lab.backbones.positions import angular_rates
from fastvar_lab.backbones.protocol import Backbone
from fastvar_lab.backbones.quantize import check_share
from fastvar_lab.backbones.residual_diffusion import ResidualDiffusion, diffusion_flops
from fastvar_lab.cache import KVCache, compute_dtype
from fastvar_lab.draws import Stream
from fastvar_lab.sampling import Sampling, cut, draw_rows, guide, ramp
from fastvar_lab.seam import Grid, Runner, Site
from fastvar_lab.tokens import gather, wide
from fastvar_lab.values import Shown, optional


@dataclass(frozen=True, repr=False)
class HARTConfig(Shown):
    """Sizes of one HART transformer; the defaults are the 0.7B release's.

    `share_quant_resi` is the tokenizer's, see `VectorQuantizer`.
    """

    depth: int = 24
    width: int = 1536
    heads: int = 24
    hidden: int = 4096
    sides: tuple[int, ...] = (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)
    context: int = 300
    context_width: int = 1536
    vocabulary: int = 4096
    code: int = 32
    diffusion_width: int = 1024
    diffusion_depth: int = 6
    diffusion_steps: int = 8
    early: int = 7  # steps before this one draw among the top 600 rows, later ones among 300
    share_quant_resi: int = optional(4)

    def __post_init__(self) -> None:
        check_share(self.share_quant_resi)

    @property
    def levels(self) -> int:
        """The number of scale steps of the trained schedule."""
        return len(self.sides)

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


class Context(NamedTuple):
    """Encoded prompts: features (n, T, D), and the position of each token in the text (n, T)."""

    features: Tensor
    positions: Tensor


Table = tuple[Tensor, Tensor]
"""Cosines and sines (B, L, c)."""


@dataclass
class HARTState:
    """The state of one generation: text tokens, head modulation, KV cache, positions by step."""

    context: Tensor  # (B, T, C)
    head: tuple[Tensor, Tensor]
    cache: Append
    levels: Tensor  # (steps, C)
    tables: dict[int, Table]
    biases: list[Tensor]  # of q, k, v, by layer
    times: Tensor  # embedded steps of the residual diffusion (steps, width)
    steps: int

    def on(self, rows: slice) -> HARTState:
        """Return the state restricted to some guidance rows."""
        return replace(
            self,
            context=self.context[rows],
            head=(self.head[0][rows], self.head[1][rows]),
            tables={i: (c[rows], s[rows]) for i, (c, s) in self.tables.items()},
            cache=cast(KVCache, self.cache).on(rows),
        )

    def table(self, grid: Grid) -> Table:
        """Return the positions of a forward, concatenated over its steps."""
        tables = [self.tables[step.index] for step in grid.steps]
        if len(tables) == 1:
            return tables[0]
        cos, sin = (torch.cat(parts, dim=1) for parts in zip(*tables, strict=True))
        return cos, sin


def turn(x: Tensor, table: Table) -> Tensor:
    """Mix the two halves of x (B, K, H, c): x cos + (-second, first) sin, in x's own type.

    Over a map, the first half is turned by y and the second by x, as released: no rotation
    unless both agree. The minus is in the table.
    """
    cos, sin = (t.unsqueeze(2) for t in table)
    first, second = x.chunk(2, dim=-1)
    # not `addcmul_`: the released code rounds both products
    return (x * cos).add_(torch.cat((second, first), dim=-1).mul_(sin))


class HARTAttention(nn.Module):
    """Plain attention, scaled by 0.25 * head_dim ** -0.5."""

    zero_k_bias: Tensor

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(width)) for _ in range(2))
        self.register_buffer("zero_k_bias", torch.zeros(width))
        self.qkv_proj = Projection(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        table: Table,
        bias: Tensor,
        *,
        site: Site,
        grid: Grid,
        cache: Append,
        run: Runner,
    ) -> Tensor:
        """Project, rotate, attend over the cache, project back: (B, K, C) -> (B, K, C)."""
        qk, v = qk_and_v(x, self.qkv_proj, bias, self.heads)
        qk = turn(qk, table)
        q, k, v = (rearrange(t, "b l h c -> b h l c") for t in (*qk.chunk(2, dim=2), v))
        keys = cache.append(site.layer, k, v)
        attended = run.attend(site, grid, q, *keys, scale=0.25 * q.shape[-1] ** -0.5)
        return self.proj(rearrange(attended, "b h l c -> b l (h c)"))


class HARTBlock(nn.Module):
    """Attention and feed-forward with one shared norm; each is one branch."""

    def __init__(self, config: HARTConfig) -> None:
        super().__init__()
        self.attn = HARTAttention(config.width, config.heads)
        self.ffn = GatedFeedForward(config.width, config.hidden)
        self.ln_wo_grad = RMSNorm(config.width, narrow=True)

    def forward(
        self, x: Tensor, *, layer: int, grid: Grid, state: HARTState, run: Runner
    ) -> Tensor:
        """Pass the two branches of this layer to `run`, in order."""
        where = Site(layer, "attn")
        call = partial(self._attend, site=where, grid=grid, state=state, run=run)
        x = x + run.sublayer(where, grid, call, x)
        return x + run.sublayer(Site(layer, "ffn"), grid, self._feed, x)

    def _attend(
        self,
        x: Tensor,
        index: Tensor | None = None,
        *,
        site: Site,
        grid: Grid,
        state: HARTState,
        run: Runner,
    ) -> Tensor:
        cos, sin = state.table(grid)
        if index is not None:
            cos, sin = gather(cos, index), gather(sin, index)
        normed, bias = self.ln_wo_grad(x), state.biases[site.layer]
        return self.attn(normed, (cos, sin), bias, site=site, grid=grid, cache=state.cache, run=run)

    def _feed(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        return self.ffn(self.ln_wo_grad(x))


class HeadNorm(AdaLNHeadNorm):
    """RMS norm before the head, modulated by the pooled text."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.ln_wo_grad = RMSNorm(width)


class HART(Backbone):
    """The transformer: codebook rows of the next scale, and residuals at the last one."""

    kinds = ("attn", "ffn")
    condition = Context
    unguided = 0.0
    guides_layers = False  # the diffusion is guided too, and needs both rows

    def __init__(self, config: HARTConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.prefix = config.context - 1  # the last text token is the token of the 1x1 map
        self.word_embed = nn.Linear(config.code, width)
        self.context_embed = nn.Linear(config.context_width, width)
        self.context_norm = RMSNorm(config.context_width, narrow=True)
        self.lvl_embed = StepEmbedding(width)
        self.blocks = nn.ModuleList(HARTBlock(config) for _ in range(config.depth))
        self.head_nm = HeadNorm(width)
        self.head = nn.Linear(width, config.vocabulary)
        self.decoder_norm = RMSNorm(width, narrow=True)
        self.diffloss = ResidualDiffusion(
            config.diffusion_width,
            config.diffusion_depth,
            config.code,
            width,
            config.diffusion_steps,
        )

    @property
    def _blocks(self) -> list[HARTBlock]:
        return cast(list[HARTBlock], list(self.blocks))

    def with_null(self, context: Context) -> Context:
        """Append the null prompts: no features, all at position 0."""
        return Context(*(torch.cat((part, torch.zeros_like(part))) for part in context))

    def with_negative(self, context: Context, negative: Context) -> Context:
        """Append the encoded negative prompts: (2n, T, D)."""
        return Context(*(torch.cat(parts) for parts in zip(context, negative)))

    def parts(self, grids: Sequence[Grid], step: int, sampling: Sampling) -> tuple[int, ...]:
        """Return the numbers of tokens that the mask iterations of the last step draw.

        After iteration i of N, cos(pi / 2 * i / N) of the map is still masked. Source: released
        HART code.
        """
        length, count = grids[step].tokens, sampling.mask_iterations
        if step < len(grids) - 1 or step == 0 or count == 1:
            return (length,)
        masked = [length]
        for i in range(1, count):
            left = int(np.floor(length * np.cos(math.pi / 2.0 * i / count)))
            masked.append(max(1, min(masked[-1] - 1, left)))
        masked.append(0)
        return tuple(before - after for before, after in pairwise(masked))

    def part(self, state: HARTState, grid: Grid, index: Tensor) -> HARTState:
        """Return the state for a forward of the tokens at index (B, K) of a step."""
        cos, sin = (gather(part, index) for part in state.tables[grid.index])
        return replace(state, tables={**state.tables, grid.index: (cos, sin)})

    def check_final(self, sampling: Sampling, grids: Sequence[Grid]) -> None:
        """Raise ValueError for more mask iterations than there are tokens to draw in them."""
        parts = self.parts(grids, len(grids) - 1, sampling)
        if min(parts) < 1:
            raise ValueError(
                f"{sampling.mask_iterations} mask iterations leave one without tokens on a last "
                f"map of {grids[-1].tokens}"
            )

    def begin(self, context: Context, grids: Sequence[Grid], run: Runner) -> HARTState:
        """Compute the values that all steps share; allocate the KV cache for `run.forwarded`."""
        config, weight = self.config, self.decoder_norm.weight
        features, places = (tuple(part.shape) for part in context)
        if len(features) != 3 or (*places, config.context_width) != features:
            raise ValueError(
                f"a Context has features (n, T, {config.context_width}) and positions (n, T); not "
                f"{features} and {places}"
            )
        if features[1] != config.context:
            raise ValueError(f"this model reads {config.context} text tokens; not {features[1]}")
        text = self.context_embed(self.context_norm(context.features.to(weight.dtype)))
        cache = self.new_cache(grids, len(text), run)
        return HARTState(
            context=text,
            head=self.head_nm.modulation(text.amax(dim=1)),
            cache=cache,
            levels=self.lvl_embed(torch.arange(len(grids), device=text.device)),
            tables=self.tables(grids, context.positions),
            biases=biases([block.attn for block in self._blocks]),
            times=self.diffloss.times(text.device),
            steps=len(grids),
        )

    def tables(self, grids: Sequence[Grid], places: Tensor) -> dict[int, Table]:
        """Return the positions of steps for `turn`, in the type of queries and keys.

        `places` (B, T) are the text's own positions. A map's places are measured on the last map
        trained, and begin where the text ends.
        """
        device, c, side = places.device, self.config.head_dim, self.config.sides[-1]
        cells = [np.zeros((0, 2), np.float32)]
        for grid in grids[1:]:
            y, x = (np.arange(n, dtype=np.float32) / n * side for n in (grid.h, grid.w))
            cells.append(np.stack((np.repeat(y, grid.w), np.tile(x, grid.h)), axis=1))
        yx = torch.from_numpy(np.concatenate(cells)).to(device)  # (cells of all maps, 2)
        text, end = places.float().unsqueeze(-1), places[:, -1:, None].float()
        halves = (yx + end).unsqueeze(-1) * angular_rates(c, 4, device)  # (B, cells, 2, c / 4)
        words = (text * angular_rates(c, 2, device)).unsqueeze(2).expand(-1, -1, 2, -1)
        turns = halves.unsqueeze(3).expand(-1, -1, -1, 2, -1)  # y, y, x, x
        angles = torch.cat((words.flatten(2), turns.flatten(2)), dim=1)
        kind = compute_dtype(self.decoder_norm.weight)
        cos, sin = angles.cos().to(kind), angles.sin().to(kind)
        sin[..., : c // 2].neg_()
        lengths = [grid.tokens for grid in grids]
        steps = [grid.index for grid in grids]
        pairs = zip(cos.split(lengths, dim=1), sin.split(lengths, dim=1), strict=True)
        return dict(zip(steps, pairs, strict=True))

    def embed(self, state: HARTState, grid: Grid, latent: Tensor) -> Tensor:
        """Return the tokens (B, L, C) that enter the first layer; at the first step, the text."""
        level = state.levels[grid.index]
        if grid.index == 0:
            return state.context + level
        flat = rearrange(latent, "b d h w -> b (h w) d").to(self.decoder_norm.weight.dtype)
        tokens = self.word_embed(flat) + level
        return tokens.repeat(len(state.context) // len(tokens), 1, 1)

    def logits(self, state: HARTState, x: Tensor) -> Tensor:
        """Return the logits (B, L, V) of a map's tokens, in float32 or float64."""
        up, shift = state.head
        x = torch.addcmul(wide(shift), self.head_nm.ln_wo_grad(x), wide(up))
        return wide(self.head(x.to(self.decoder_norm.weight.dtype)))

    def guidance(self, state: HARTState, grid: Grid, sampling: Sampling) -> float:
        """Return 1 + t, where t grows with the step from 0; a list holds the values of t."""
        return 1 + _ratio(state.steps, grid, sampling)

    def draw(
        self,
        logits: Tensor,
        grid: Grid,
        sampling: Sampling,
        draws: Stream,
        codebook: Tensor | None = None,
    ) -> Tensor:
        """Draw codebook rows (n, L), or their mixtures (n, L, d).

        A `top_k` of 0 draws among the 600 and later 300 likeliest rows, as the released sampler
        does whatever its own `top_k` is; another value replaces both numbers.
        """
        return self._draw(logits, grid, self.config.levels, sampling, draws, codebook)[1]

    def _draw(
        self,
        logits: Tensor,
        grid: Grid,
        steps: int,
        sampling: Sampling,
        draws: Stream,
        codebook: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        top_k = sampling.top_k or (600 if grid.index < self.config.early else 300)
        logits = cut(logits / sampling.temperature_at(grid.index), top_k, sampling.top_p)
        progress = _progress(grid, steps)
        return draw_rows(logits, grid.index, progress, sampling.smooth, draws, codebook)

    def sample(
        self,
        state: HARTState,
        x: Tensor,
        grid: Grid,
        paired: bool,
        sampling: Sampling,
        draws: Stream,
        codebook: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Draw rows or mixtures; at the last step codes with their residuals, (n, L, d)."""
        assert codebook is not None
        x = x[:, grid.prefix :]
        logits = self.logits(state, x)
        if paired:
            logits = guide(logits, self.guidance(state, grid, sampling))
        rows, drawn = self._draw(logits, grid, state.steps, sampling, draws, codebook)
        if grid.index < state.steps - 1:
            return drawn, logits
        if not sampling.residuals:
            return (drawn if sampling.smooth else F.embedding(rows, codebook)), logits
        codes = F.embedding(rows, codebook)
        shown = self.word_embed(codes.to(self.decoder_norm.weight.dtype))
        features = self.decoder_norm(x + shown.repeat(2 if paired else 1, 1, 1))
        guidance = _ratio(state.steps, grid, sampling) if paired else None
        residual = self.diffloss(features, state.times, grid.index, guidance, draws)
        return (drawn if sampling.smooth else codes) + residual, logits

    def sublayer_flops(self, kind: str, tokens: int, keys: int) -> float:
        c = self.config.width
        return float(
            tokens * {"attn": 8 * c * c + 4 * c * keys, "ffn": 6 * c * self.config.hidden}[kind]
        )

    def ends_flops(self, grid: Grid) -> tuple[float, float]:
        config, tokens = self.config, grid.h * grid.w
        head = 2.0 * config.width * config.vocabulary * tokens
        if grid.index == 0:
            return 2.0 * config.width * config.context_width * grid.tokens, head
        return 2.0 * config.width * config.code * tokens, head

    def finish_flops(self, last: Grid, rows: int, sampling: Sampling) -> float:
        if not sampling.residuals:
            return 0.0
        config = self.config
        sizes = (config.diffusion_width, config.diffusion_depth, config.code, config.width)
        condition, network = diffusion_flops(*sizes, config.diffusion_steps)
        plain = _ratio(last.index + 1, last, sampling) == 1
        return last.h * last.w * (rows * condition + (min(rows, 1) if plain else rows) * network)


def _ratio(steps: int, grid: Grid, sampling: Sampling) -> float:
    """Return t of a step's guidance, (1 + t) * cond - t * null."""
    if isinstance(sampling.guidance, tuple):
        return sampling.guidance[grid.index]
    return ramp(sampling.guidance, steps, hold=1)[grid.index]


def _progress(grid: Grid, steps: int) -> float:
    """Return the share of the schedule done, for guidance; the last step reuses the one before."""
    return min(grid.index, steps - 2) / (steps - 1) if steps > 1 else 0.0
