"""VAR: class-conditional next-scale prediction over a codebook, by its released names.

Source: released VAR code (parameter names, packing orders, formulas). Self-attention and
feed-forward branches, modulation and head are the blocks that Infinity uses; there is no text,
no rotary position, and guidance grows with the scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from fastvar_lab.backbones.branches import Append, add_attention, add_feed_forward
from fastvar_lab.backbones.layers import (
    AdaLNHeadNorm,
    Attend,
    FeedForward,
    Modulation,
    Projection,
    SelfAttention,
    biases,
    modulate,
    normal,
    qk_and_v,
)
from fastvar_lab.backbones.protocol import Backbone, ConditionEncoder
from fastvar_lab.backbones.quantize import check_share
from fastvar_lab.cache import KVCache
from fastvar_lab.class_names import class_number, titled
from fastvar_lab.draws import Stream
from fastvar_lab.errors import PromptError
from fastvar_lab.sampling import Sampling, cut, draw_rows, ramp
from fastvar_lab.seam import Grid, Runner
from fastvar_lab.tokens import has_content, resize, wide
from fastvar_lab.values import Shown, optional

LEFT_OUT = torch.iinfo(torch.int64).min
"""The label of a picture whose class is drawn."""


@dataclass(frozen=True, repr=False)
class VARConfig(Shown):
    """Sizes of one VAR transformer; width is 64 per layer and head in all released ones.

    Without `attn_l2_norm` attention is a plain product of queries and keys. `share_quant_resi` is
    the tokenizer's, see `VectorQuantizer`.
    """

    depth: int
    width: int
    heads: int
    sides: tuple[int, ...]
    shared_aln: bool = False
    classes: int = 1000
    vocabulary: int = 4096
    code: int = 32
    attn_l2_norm: bool = optional(True)
    share_quant_resi: int = optional(4)

    def __post_init__(self) -> None:
        check_share(self.share_quant_resi)

    @property
    def levels(self) -> int:
        """The number of scale steps with a level embedding."""
        return len(self.sides)

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


@dataclass
class VARState:
    """The state of one generation: first token, modulation, KV cache, positions by scale step."""

    start: Tensor  # (B, 1, C)
    head: tuple[Tensor, Tensor]
    modulations: list[Modulation]
    constants: list[tuple[Tensor, Tensor]]  # of attention, by layer
    cache: Append
    positions: dict[int, Tensor]  # (L, C)

    def on(self, rows: slice) -> VARState:
        """Return the state restricted to some guidance rows."""
        return replace(
            self,
            start=self.start[rows],
            head=(self.head[0][rows], self.head[1][rows]),
            modulations=[Modulation(*(m[rows] for m in mod)) for mod in self.modulations],
            cache=cast(KVCache, self.cache).on(rows),
        )


class ProductAttention(nn.Module):
    """Self-attention by products of queries and keys, scaled by 0.25 * head_dim ** -0.5.

    It takes the place of `SelfAttention` where keys and queries are not normalised.
    """

    zero_k_bias: Tensor

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, 0.25 * (width // heads) ** -0.5
        self.mat_qkv = Projection(width, 3 * width)
        self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(width)) for _ in range(2))
        self.register_buffer("zero_k_bias", torch.zeros(width))
        self.proj = nn.Linear(width, width)

    @staticmethod
    def constants(layers: Sequence[ProductAttention]) -> list[tuple[Tensor, Tensor]]:
        """Return each layer's bias of q, k, v (3C,), and no head temperatures (0,)."""
        return [(bias, bias.new_empty(0)) for bias in biases(layers)]

    def forward(
        self,
        x: Tensor,
        attend: Attend,
        constants: tuple[Tensor, Tensor],
        table: Tensor | None = None,
    ) -> Tensor:
        """Project, attend, project back: (B, K, C) -> (B, K, C)."""
        qk, v = qk_and_v(x, self.mat_qkv, constants[0], self.heads)
        q, k, v = (rearrange(t, "b l h c -> b h l c") for t in (*qk.chunk(2, dim=2), v))
        return self.proj(rearrange(attend(q, k, v), "b h l c -> b l (h c)"))


class VARBlock(nn.Module):
    """Self-attention and feed-forward; each is one branch."""

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        width = config.width
        attention = SelfAttention if config.attn_l2_norm else ProductAttention
        self.attn = attention(width, config.heads)
        self.ffn = FeedForward(width, 4 * width)
        if config.shared_aln:
            self.ada_gss = nn.Parameter(normal(1, 1, 6, width) / width**0.5)
        else:
            self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, *, layer: int, grid: Grid, state: VARState, run: Runner) -> Tensor:
        """Pass the two branches of this layer to `run`, in order."""
        x = add_attention(x, cast(SelfAttention, self.attn), layer, grid, state, run)
        return add_feed_forward(x, self.ffn, layer, grid, state, run)


class VAR(Backbone):
    """The transformer: codebook rows of the next scale from the latent so far and a class."""

    kinds = ("attn", "ffn")
    condition = Tensor
    unguided = 0.0

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        tokens = sum(s * s for s in config.sides)
        self.pos_start = nn.Parameter(normal(1, 1, width) * 0.02)
        self.pos_1LC = nn.Parameter(normal(1, tokens, width) * 0.02)
        self.word_embed = nn.Linear(config.code, width)
        self.class_emb = nn.Embedding(config.classes + 1, width)
        self.lvl_embed = nn.Embedding(config.levels, width)
        if config.shared_aln:
            self.shared_ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(VARBlock(config) for _ in range(config.depth))
        self.head_nm = AdaLNHeadNorm(width)
        self.head = nn.Linear(width, config.vocabulary)

    @property
    def _blocks(self) -> list[VARBlock]:
        return cast(list[VARBlock], list(self.blocks))

    def with_null(self, labels: Tensor) -> Tensor:
        """Append the null class for guidance: (2n,)."""
        labels = _whole(labels)
        return torch.cat((labels, torch.full_like(labels, self.config.classes)))

    def with_negative(self, labels: Tensor, negative: Tensor) -> Tensor:
        """Append the classes that guidance leads away from: (2n,)."""
        return torch.cat((_whole(labels), _whole(negative)))

    def drawn(self, labels: Tensor, draws: Stream) -> Tensor:
        """Return the labels, with those that are left out drawn uniformly."""
        if labels.device.type != "cpu" or not bool((labels == LEFT_OUT).any()):
            return labels
        drawn = draws.labels(len(labels), self.config.classes)
        return torch.where((labels == LEFT_OUT).to(drawn.device), drawn, labels.to(drawn.device))

    def check_conditions(self, labels: Any, negative: Any) -> None:
        for rows in (labels, negative):
            if rows is not None and has_content(rows):
                self._check(_whole(rows), drawn=rows is labels and rows.device.type == "cpu")

    def _check(self, labels: Tensor, drawn: bool = False) -> None:
        """Raise ValueError for what is no class; with `drawn` it may be left out."""
        wrong = (labels < 0) | (labels > self.config.classes)
        if drawn:
            wrong &= labels != LEFT_OUT
        if bool(wrong.any()):
            bad = int(labels[wrong][0])
            raise ValueError(f"a class lies in 0 to {self.config.classes - 1}; not {bad}")

    def begin(self, labels: Tensor, grids: Sequence[Grid], run: Runner) -> VARState:
        """Compute the values that all steps share; allocate the KV cache for `run.forwarded`."""
        config, labels = self.config, _whole(labels)
        if labels.device.type == "cpu":
            self._check(labels)
        condition = self.class_emb(labels)
        levels = self.lvl_embed(torch.arange(config.levels, device=labels.device))
        cache = self.new_cache(grids, len(labels), run)
        attentions = [cast(SelfAttention, block.attn) for block in self._blocks]
        return VARState(
            start=condition.unsqueeze(1) + self.pos_start,
            head=self.head_nm.modulation(condition),
            modulations=self.modulations(condition),
            constants=attentions[0].constants(attentions),
            cache=cache,
            positions=self.positions(grids, levels),
        )

    def modulations(self, condition: Tensor) -> list[Modulation]:
        """Return each layer's adaLN of the condition (B, C)."""
        if self.config.shared_aln:
            shared = rearrange(self.shared_ada_lin(condition), "b (s c) -> b 1 s c", s=6)
            packed = shared + torch.stack([block.ada_gss for block in self._blocks])
        else:
            active = F.silu(condition)  # with which every modulation begins
            each = torch.stack([b.ada_lin[1](active) for b in self._blocks])
            packed = rearrange(each, "layers b (s c) -> layers b 1 s c", s=6)
        return Modulation.unpack(packed)

    def positions(self, grids: Sequence[Grid], levels: Tensor) -> dict[int, Tensor]:
        """Return by step its row of `levels` (S, C) plus position embeddings (L, C).

        Those of a map that was not trained are resized.
        """
        learned, sides = list[Tensor](), self.config.sides
        for grid in grids:
            side, first = sides[grid.index], sum(s * s for s in sides[: grid.index])
            part = self.pos_1LC[:, first : first + side * side]
            if (grid.h, grid.w) != (side, side):
                part = resize(part, (side, side), (grid.h, grid.w), "bilinear")
            learned.append(part[0])
        added = [levels[grid.index].expand(grid.tokens, -1) for grid in grids]
        parts = torch.cat(learned).add_(torch.cat(added)).split([g.tokens for g in grids])
        return {grid.index: part for grid, part in zip(grids, parts, strict=True)}

    def embed(self, state: VARState, grid: Grid, latent: Tensor) -> Tensor:
        """Return the tokens (B, L, C) of the first layer from the resized latent (n, d, h, w)."""
        where = state.positions[grid.index]
        if grid.index == 0:
            return state.start + where
        flat = rearrange(latent, "b d h w -> b (h w) d").to(self.pos_start.dtype)
        tokens = self.word_embed(flat) + where
        return tokens.repeat(len(state.start) // len(tokens), 1, 1)

    def logits(self, state: VARState, x: Tensor) -> Tensor:
        """Return the logits (B, L, V), in float32 or float64 like the norm but not the product."""
        up, shift = state.head
        x = modulate(wide(x), wide(up), wide(shift))
        return wide(self.head(x.to(self.pos_start.dtype)))

    def sublayer_flops(self, kind: str, tokens: int, keys: int) -> float:
        c = self.config.width
        return float(tokens * {"attn": 8 * c * c + 4 * c * keys, "ffn": 16 * c * c}[kind])

    def ends_flops(self, grid: Grid) -> tuple[float, float]:
        per_width = 2.0 * self.config.width * grid.tokens
        return per_width * self.config.code * (grid.index > 0), per_width * self.config.vocabulary

    def _progress(self, grid: Grid) -> float:
        """Return the share of the trained schedule that is done."""
        return grid.index / max(1, self.config.levels - 1)

    def guidance(self, state: VARState, grid: Grid, sampling: Sampling) -> float:
        """Return 1 + t, where t grows linearly with the step from 0.

        t = guidance * step / (levels - 1), as released: a schedule shorter than the trained one
        ends below full guidance. A list holds the values of t.
        """
        if isinstance(sampling.guidance, tuple):
            return 1 + sampling.guidance[grid.index]
        return 1 + ramp(sampling.guidance, self.config.levels)[grid.index]

    def draw(
        self,
        logits: Tensor,
        grid: Grid,
        sampling: Sampling,
        draws: Stream,
        codebook: Tensor | None = None,
    ) -> Tensor:
        """Draw codebook rows (n, L); smooth sampling returns mixtures of rows (n, L, d) instead."""
        logits = logits / sampling.temperature_at(grid.index)
        logits = cut(logits, sampling.top_k, sampling.top_p)
        progress = self._progress(grid)
        return draw_rows(logits, grid.index, progress, sampling.smooth, draws, codebook)[1]


def _whole(labels: Tensor) -> Tensor:
    """Bring labels (n,) to int64: narrow integers cannot hold the null class."""
    if labels.ndim != 1 or labels.dtype not in _WHOLE:
        shape, dtype = tuple(labels.shape), labels.dtype
        raise ValueError(f"labels are whole numbers of shape (n,); not {dtype} of shape {shape}")
    return labels.long()


_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class LabelEncoder(ConditionEncoder):
    """Encodes class labels as the condition: numbers, "null" for no class, "random" for a draw.

    Classes that have `names` may be given by name, or as a caption has them, "207: golden
    retriever".
    """

    example = "0"
    left_out = "random"

    def __init__(self, classes: int, names: Sequence[str] = ()) -> None:
        super().__init__()
        self.classes = self.config = classes
        self.names = tuple(names)
        self.special: dict[object, int] = {"null": classes, self.left_out: LEFT_OUT}

    def encode(self, prompts: Sequence[str | int]) -> Tensor:
        """Convert labels, by number or name, to a tensor (n,); raise ValueError for any other."""
        return torch.tensor([self.check(prompt) for prompt in prompts], device="cpu")

    def check(self, prompt: str | int) -> int:
        """Return the row of a label's embedding; raise PromptError for what is no label."""
        return self.special[prompt] if prompt in self.special else self.label(prompt)

    def label(self, prompt: str | int) -> int:
        """Return the number of a class; raise PromptError for none."""
        whole = isinstance(prompt, Integral) and not isinstance(prompt, bool)
        text = str(int(cast(int, prompt))) if whole else str(prompt)
        try:
            return class_number(text, self.classes, self.names)
        except PromptError as error:
            raise PromptError(f"{error} (null and random are allowed too)") from None

    def caption(self, prompt: str) -> str:
        """Return a class with its name, and what is no class as it is."""
        try:
            return titled(self.label(prompt), self.names)
        except PromptError:
            return prompt
