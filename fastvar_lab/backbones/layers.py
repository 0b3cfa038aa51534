"""Building blocks shared by the families: cosine attention, feed-forward, adaLN.

Parameter names are the released ones. Shapes: x (B, L, C); rows B conditional first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from fastvar_lab.backbones.positions import rotate_
from fastvar_lab.cache import compute_dtype
from fastvar_lab.tokens import wide

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(q, k, v) of one step, each (B, H, K, c) -> (B, H, K, c); where caches and masks come in.

q and v are in the type that attention computes in; k may be wider.
"""

MAX_LOG_SCALE = math.log(100.0)


def normal(*shape: int) -> Tensor:
    """Draw from the standard normal: `torch.randn`, which on meta first opens torch's compiler."""
    return torch.empty(*shape).normal_()


def rounded(x: Tensor) -> Tensor:
    """Round to bfloat16 and convert back, like values in a bfloat16 kernel.

    Types of 16 bits stay: the released code calls its kernel in them as they are.
    """
    return x if x.dtype.itemsize == 2 else x.bfloat16().to(x.dtype)


def promoted(x: Tensor) -> Tensor:
    """Convert x to float32 under autocast, unless it is float64; otherwise return it unchanged.

    CUDA's autocast does so itself for norms and exponentials; a CPU's does not. With it official
    precision means the same types on every device.
    """
    return wide(x) if torch.is_autocast_enabled(x.device.type) else x


def unit(x: Tensor, precise: bool = False, eps: float = 1e-12) -> Tensor:
    """Scale x (..., c) to length 1, in float32 at least under autocast or if `precise`."""
    wider = torch.promote_types(x.dtype, torch.float32)
    kind = wider if precise or torch.is_autocast_enabled(x.device.type) else None
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=kind).clamp_min(eps)


def modulate(x: Tensor, scale_plus_one: Tensor, shift: Tensor, eps: float = 1e-6) -> Tensor:
    """Apply LayerNorm without weights, then adaLN: `LN(x) * (1 + scale) + shift`."""
    return torch.addcmul(shift, F.layer_norm(promoted(x), x.shape[-1:], eps=eps), scale_plus_one)


class AffineNorm(nn.LayerNorm):
    """LayerNorm over x (..., C) in the type of x, whatever type its weights are stored in."""

    def forward(self, x: Tensor) -> Tensor:
        x = promoted(x)
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, x.shape[-1:], weight, bias, self.eps)


class Modulation(NamedTuple):
    """adaLN of one layer, (B, 1, C) each; `up` is 1 + scale. 1 = attention, 2 = feed-forward."""

    gate1: Tensor
    gate2: Tensor
    up1: Tensor
    up2: Tensor
    shift1: Tensor
    shift2: Tensor

    @classmethod
    def unpack(cls, packed: Tensor) -> list[Modulation]:
        """Split the released packing of all layers (layers, B, 1, 6, C): gates, scales, shifts."""
        ups = packed[:, :, :, 2:4] + 1  # of all layers at once
        modulations = []
        for layer, up in zip(packed, ups, strict=True):
            gate1, gate2, _, _, shift1, shift2 = layer.unbind(2)
            up1, up2 = up.unbind(2)
            modulations.append(cls(gate1, gate2, up1, up2, shift1, shift2))
        return modulations


class Projection(nn.Linear):
    """A linear map whose bias is passed as an argument: released q, k, v biases are separate."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(width, out, bias=False)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Project x (..., C) and add the bias (out,)."""
        return F.linear(x, self.weight, bias)


def project(x: Tensor, linear: nn.Module, bias: Tensor) -> Tensor:
    """Project and add a bias, through a `Projection` or a module that replaces it.

    An adapter or a quantised layer need not know of the bias; hooks on any of them act.
    """
    if isinstance(linear, Projection):
        return linear(x, bias)
    return linear(x) + bias


class WideLinear(nn.Linear):
    """A linear map that computes in the dtype of its input, not of its weights."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


def qk_and_v(x: Tensor, linear: nn.Module, bias: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Project x (B, K, C) by one fused layer: q and k (B, K, 2H, c), and v (B, K, H, c).

    Queries and keys stay together, so that what both go through is computed at once.
    """
    qkv = rearrange(project(x, linear, bias), "b l (h c) -> b l h c", h=3 * heads)
    return qkv[:, :, : 2 * heads], qkv[:, :, 2 * heads :]


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a mask (B, T) to a term (B, 1, 1, T) for attention scores: 0 or -inf.

    Rows begin at multiples of eight values, where the fused kernels want them.
    """
    rows, t = mask.shape
    bias = mask.new_zeros(rows, 1, 1, t + -t % 8, dtype=dtype)[..., :t]
    return bias.masked_fill_(~mask[:, None, None], float("-inf"))


class Biased(Protocol):
    """An attention whose projection has separate biases of q, k and v."""

    @property
    def q_bias(self) -> Tensor: ...

    @property
    def zero_k_bias(self) -> Tensor: ...

    @property
    def v_bias(self) -> Tensor: ...


def biases(layers: Sequence[Biased]) -> list[Tensor]:
    """Return the bias of q, k, v (3C,) of each layer, in the type of products."""
    parts = [p for layer in layers for p in (layer.q_bias, layer.zero_k_bias, layer.v_bias)]
    together = torch.cat(parts).to(compute_dtype(layers[0].q_bias))
    return list(together.view(len(layers), -1))


class SelfAttention(nn.Module):
    """Cosine attention with a learned log temperature per head and optional rotary positions.

    `scale` is that of the products of queries and keys.
    """

    scale = 1.0
    zero_k_bias: Tensor

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale_mul_1H11 = nn.Parameter(torch.full((1, heads, 1, 1), math.log(4.0)))
        self.mat_qkv = Projection(width, 3 * width)
        self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(width)) for _ in range(2))
        self.register_buffer("zero_k_bias", torch.zeros(width))
        self.proj = nn.Linear(width, width)

    @staticmethod
    def constants(layers: Sequence[SelfAttention]) -> list[tuple[Tensor, Tensor]]:
        """Return each layer's bias of q, k, v (3C,) and head temperatures (H, 1), for all steps."""
        logs = torch.stack([layer.scale_mul_1H11 for layer in layers]).clamp(max=MAX_LOG_SCALE)
        scales = promoted(logs).exp().view(len(layers), -1, 1)
        return list(zip(biases(layers), scales, strict=True))

    def forward(
        self,
        x: Tensor,
        attend: Attend,
        constants: tuple[Tensor, Tensor],
        table: Tensor | None = None,
    ) -> Tensor:
        """Project, normalise, rotate, attend, project back: (B, K, C) -> (B, K, C)."""
        bias, scale = constants
        qk, v = qk_and_v(x, self.mat_qkv, bias, self.heads)
        qk = unit(qk, precise=table is not None)  # rotation is in float32
        qk[:, :, : self.heads].mul_(scale)
        if table is not None:
            qk = rotate_(qk, table)
        q, k, v = (rearrange(t, "b l h c -> b h l c") for t in (*qk.chunk(2, dim=2), v))
        q = q.to(v.dtype)  # keys are rounded in the cache
        return self.proj(rearrange(attend(q, k, v), "b h l c -> b l (h c)"))


class CrossAttention(nn.Module):
    """Plain attention to a text memory, scaled by head_dim ** -0.5."""

    zero_k_bias: Tensor

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.mat_q = nn.Linear(width, width)
        self.mat_kv = Projection(width, 2 * width)
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("zero_k_bias", torch.zeros(width))
        self.proj = nn.Linear(width, width)

    @staticmethod
    def memories(layers: Sequence[CrossAttention], text: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Project text (B, T, C) to the keys and values (B, H, T, c) of each layer."""
        parts = [part for layer in layers for part in (layer.zero_k_bias, layer.v_bias)]
        memories = []
        for layer, bias in zip(layers, torch.cat(parts).view(len(layers), -1), strict=True):
            kv = project(text, layer.mat_kv, bias)
            k, v = rearrange(kv, "b t (two h c) -> two b h t c", two=2, h=layer.heads).contiguous()
            memories.append((k, v))
        return memories

    def forward(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """Attend from x (B, K, C); `attend` holds the memory, (B, H, K, c) -> (B, H, K, c)."""
        q = rearrange(self.mat_q(x), "b l (h c) -> b h l c", h=self.heads)
        return self.proj(rearrange(attend(q), "b h l c -> b l (h c)"))


class TextPool(nn.Module):
    """Attention pooling of the text with one learned query, for condition and first token."""

    zero_k_bias: Tensor

    def __init__(self, width: int, text_width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.rounded = heads, False
        self.mat_q = nn.Parameter(normal(1, heads, width // heads) * 0.02)
        self.mat_kv = Projection(text_width, 2 * width)
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("zero_k_bias", torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Pool features (B, T, D) where mask (B, T): (B, C)."""
        kv = project(features, self.mat_kv, torch.cat((self.zero_k_bias, self.v_bias)))
        k, v = rearrange(kv, "b t (two h c) -> two b h t c", two=2, h=self.heads)
        q = rearrange(self.mat_q, "one h c -> one h 1 c").repeat(len(features), 1, 1, 1).to(k.dtype)
        if self.rounded:
            q, k, v = (rounded(t) for t in (q, k, v))
        pooled = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        pooled = rounded(pooled) if self.rounded else pooled
        return self.proj(rearrange(pooled, "b h 1 c -> b (h c)"))


class RMSNorm(nn.Module):
    """Root-mean-square norm with a weight, computed and returned in float32 or float64.

    `narrow` returns the input's type instead, the weight applied in that type (HART).
    """

    def __init__(self, width: int, eps: float = 1e-6, narrow: bool = False) -> None:
        super().__init__()
        self.weight, self.eps, self.narrow = nn.Parameter(torch.ones(width)), eps, narrow

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape[-1:]
        if not self.narrow:
            return F.rms_norm(wide(x), shape, eps=self.eps) * self.weight
        weight = self.weight.to(x.dtype)
        if not torch.is_autocast_enabled(x.device.type):
            return F.rms_norm(x, shape, weight, eps=self.eps)
        # there a GPU returns float32, which the released code rounds before the product
        return F.rms_norm(x, shape, eps=self.eps).to(x.dtype) * weight


class FeedForward(nn.Module):
    """fc2(GELU-tanh(fc1))."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class GatedFeedForward(nn.Module):
    """down(SiLU(gate) * up), without biases: the feed-forward of Llama."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)).mul_(self.up_proj(x)))


class StepEmbedding(nn.Module):
    """A step number as a vector: a 256-wide sinusoid through a two-layer MLP (HART)."""

    def __init__(self, width: int, sinusoid: int = 256) -> None:
        super().__init__()
        self.sinusoid = sinusoid
        self.mlp = nn.Sequential(nn.Linear(sinusoid, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, step: Tensor) -> Tensor:
        """Embed step numbers (...), on the model's device: (..., width)."""
        half = self.sinusoid // 2
        rate = -math.log(10000.0) / half * torch.arange(half, device=step.device).float()
        angle = wide(step.unsqueeze(-1)) * rate.exp()
        kinds = (p.dtype for p in self.mlp.parameters() if p.is_floating_point())
        rows = torch.cat((angle.cos(), angle.sin()), dim=-1)
        if (kind := next(kinds, None)) is None:  # quantised layers take rows in float32
            return self.mlp(rows.float().view(-1, self.sinusoid))
        return self.mlp(rows.to(kind))


class AdaLNHeadNorm(nn.Module):
    """LayerNorm before the head, modulated by the condition: scale first, then shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def modulation(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return (1 + scale, shift), (B, 1, C) each, from the condition (B, C)."""
        scale, shift = self.ada_lin(condition).unsqueeze(1).chunk(2, dim=-1)
        return scale + 1, shift
