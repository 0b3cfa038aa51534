"""A live object to try `attach` on: an Infinity as another repository would build it.

It holds the weights of the shipped model under the released names, layers in chunks, in plain
torch modules, and has a sampler of its own: straight-line code that shares nothing with the
backbones here. Notebooks and tests attach it in place of the released object.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvar_lab.models.loading import load

CHUNKS = 2


def live_infinity() -> LiveInfinity:
    """Return a live Infinity that draws the closed world of the shipped model.

    Its `vae_decode` and `encode_text` are functions, as `attach` takes them; `rotary_grid` is
    the reference of its rotary positions.

    >>> import fastvar_lab as fv
    >>> live = live_infinity()
    >>> fv.attach(live, tokenizer=live.vae_decode, text=live.encode_text, name="live").family
    'infinity'
    """
    return LiveInfinity()


class LiveBlock(nn.Module):
    """One layer: self-attention, attention to the text, feed-forward."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        shared: Tensor,
        turns: Tensor,
        past: Tensor | None,
        heads: int,
    ) -> tuple[Tensor, Tensor]:
        """Run the layer on x (2, L, C); return it with keys and values so far."""
        gate1, gate2, scale1, scale2, shift1, shift2 = (shared + self.ada_gss).unbind(2)
        part = self.sa
        bias = torch.cat((part.q_bias, part.zero_k_bias, part.v_bias))
        packed = part.mat_qkv(_norm(x) * (1 + scale1) + shift1) + bias
        q, k, v = (_heads(t, heads) for t in packed.chunk(3, -1))
        q = F.normalize(q, dim=-1) * part.scale_mul_1H11.clamp(max=math.log(100)).exp()
        now = torch.stack((_turn(F.normalize(k, dim=-1), turns), v))
        past = now if past is None else torch.cat((past, now), dim=3)
        x = x + part.proj(_attend(_turn(q, turns), past[0], past[1], 1.0)) * gate1
        part, norm = self.ca, self.ca_norm
        bias = torch.cat((part.zero_k_bias, part.v_bias))
        k, v = (_heads(t, heads) for t in (part.mat_kv(memory) + bias).chunk(2, -1))
        q = _heads(part.mat_q(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, 1e-6)), heads)
        x = x + part.proj(_attend(q, k, v, q.shape[-1] ** -0.5))
        hidden = self.ffn.fc1(_norm(x) * (1 + scale2) + shift2)
        return x + self.ffn.fc2(F.gelu(hidden, approximate="tanh")) * gate2, past


class LiveInfinity(nn.Module):
    """The stand-in; `autoregressive_infer` is its sampler."""

    if TYPE_CHECKING:  # modules and parameters have the names of a table

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self) -> None:
        super().__init__()
        model = load("tiny")
        config, state = model.transformer.config, model.transformer.state_dict()
        inner = config.depth // CHUNKS
        for key, tensor in state.items():
            head, _, rest = key.partition(".")
            if head == "blocks":
                number, _, rest = rest.partition(".")
                chunk, place = divmod(int(number), inner)
                key = f"block_chunks.{chunk}.module.{place}.{rest}"
            _put(self, key, tensor)
        self.num_heads, self.rope2d_normalized_by_hw = config.heads, 2
        self.add_lvl_embeding_only_first_block = 1  # spelled so in the released code
        self.rotary_grid, self.scales, self.bits = config.reference, model.sizes, config.bits
        self._pieces = (model.tokenizer, model.text_encoder)  # a tuple: no modules of this one
        self.eval()

    def vae_decode(self, latent: Tensor) -> Tensor:
        """Decode latents (n, d, H, W) to pictures (n, 3, h, w) in [0, 1]."""
        return self._pieces[0].decode(latent)

    def encode_text(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Encode prompts: features (n, T, D), mask (n, T)."""
        features, mask = cast(Any, self._pieces[1].encode(prompts))
        return features, mask

    @torch.no_grad()
    def autoregressive_infer(
        self, prompt: str, seed: int, cfg: float = 2.0, tau: float = 0.6
    ) -> Tensor:
        """Sample one picture (1, 3, h, w) in [0, 1]."""
        features, mask = self.encode_text([prompt])
        text = features[0][mask[0]]
        rows = [_rms(t, self.text_norm.weight) for t in (text, self.cfg_uncond[: len(text)])]
        start = torch.cat([self._pooled(row) for row in rows])  # (2, C)
        memory = torch.stack(
            [self._sub("text_proj_for_ca.2")(F.gelu(self._sub("text_proj_for_ca.0")(row),
                                                    approximate="tanh")) for row in rows]
        )  # fmt: skip
        shared = self._sub("shared_ada_lin.1")(F.silu(start)).reshape(2, 1, 6, -1)
        rng, (tall, wide) = torch.Generator().manual_seed(seed), self.scales[-1]
        latent, past = torch.zeros(1, self.bits, tall, wide), dict[int, Tensor]()
        for step, (h, w) in enumerate(self.scales):
            x = self._entering(step, h, w, start, latent)
            turns, layer = _turns(h, w, self.rotary_grid, x.shape[-1] // self.num_heads), 0
            for chunk in self.block_chunks.children():
                for block in cast(Any, chunk).module.children():
                    x, past[layer] = block(
                        x, memory, shared, turns, past.get(layer), self.num_heads
                    )
                    layer += 1
            scale, shift = (
                self._sub("head_nm.ada_lin.1")(F.silu(start)).reshape(2, 1, 2, -1).unbind(2)
            )
            logits = self.head(_norm(x) * (1 + scale) + shift).reshape(2, h * w, -1, 2) / tau
            logits = cfg * logits[0] + (1 - cfg) * logits[1]
            bits = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=rng)
            code = (2.0 * bits.reshape(h, w, -1) - 1).permute(2, 0, 1)[None] / self.bits**0.5
            latent = (
                latent + F.interpolate(code[:, :, None], (1, tall, wide), mode="trilinear")[:, :, 0]
            )
        return self.vae_decode(latent)

    def _sub(self, name: str) -> Any:
        return self.get_submodule(name)

    def _pooled(self, row: Tensor) -> Tensor:
        """Pool text (T, D) by the learned query: (1, C)."""
        part = self._sub("text_proj_for_sos.ca")
        bias = torch.cat((part.zero_k_bias, part.v_bias))
        k, v = (_heads(t, part.mat_q.shape[1]) for t in (part.mat_kv(row) + bias).chunk(2, -1))
        q = part.mat_q[0].unsqueeze(1)
        return part.proj(_attend(q, k, v, q.shape[-1] ** -0.5))

    def _entering(self, step: int, h: int, w: int, start: Tensor, latent: Tensor) -> Tensor:
        level = self.lvl_embed.weight[step]
        if step == 0:
            return start[:, None] + self.pos_start + level
        small = F.interpolate(latent[:, :, None], (1, h, w), mode="trilinear")[:, :, 0]
        x = self.word_embed(small.flatten(2).transpose(1, 2)) + level
        shares = [(torch.arange(n) + 0.5) / n for n in (h, w)]
        cells = torch.cartesian_prod(*shares) * math.pi  # (h w, 2)
        waves = self.places.weight.shape[1] // 4
        angles = (cells[:, :, None] * torch.arange(1, waves + 1)).transpose(1, 2)
        parts = [part(angles).transpose(1, 2) for part in (torch.sin, torch.cos)]
        where = torch.stack(parts, -1).transpose(2, 3)  # (h w, side, sine or cosine, wave)
        return (x + self.places(where.flatten(1))).expand(2, -1, -1)


def _put(root: nn.Module, key: str, tensor: Tensor) -> None:
    """Put a copy of a tensor into a tree of modules, as a layer where torch has one."""
    *path, leaf = key.split(".")
    owner = root
    for i, name in enumerate(path):
        if name not in owner._modules:
            module = nn.Module()
            if i == len(path) - 1 and leaf == "weight":
                module = _layer(name, tensor)
            elif path[0] == "block_chunks" and i == 3:
                module = LiveBlock()
            owner.add_module(name, module)
        owner = cast(nn.Module, owner._modules[name])
    value = tensor.detach().clone()
    if leaf == "zero_k_bias":
        owner.register_buffer(leaf, value)
    else:
        owner.register_parameter(leaf, nn.Parameter(value))


def _layer(name: str, weight: Tensor) -> nn.Module:
    if weight.ndim != 2:
        return nn.Module()
    if name == "lvl_embed":
        return nn.Embedding(len(weight), weight.shape[1], device="meta")
    return nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def _rms(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight


def _heads(x: Tensor, count: int) -> Tensor:
    """Split (..., L, C) into heads: (..., H, L, c)."""
    return x.unflatten(-1, (count, -1)).transpose(-2, -3)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    out = F.scaled_dot_product_attention(q, k, v, scale=scale)
    return out.transpose(-2, -3).flatten(-2)


def _turns(h: int, w: int, grid: tuple[int, int], width: int) -> Tensor:
    """Angles (h w, c / 2) of a map: the first half of the pairs turns with y, the second with x."""
    rates = 10000.0 ** -(torch.arange(0, width // 2, 2) / (width // 2))
    sides = [torch.round(torch.arange(n) * (m / n)) for n, m in zip((h, w), grid, strict=True)]
    return (torch.cartesian_prod(*sides)[:, :, None] * rates).flatten(1)


def _turn(x: Tensor, angles: Tensor) -> Tensor:
    """Turn neighbouring pairs of x (B, H, L, c)."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)
