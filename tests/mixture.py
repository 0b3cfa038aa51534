"""Straight-line references of the released mixture of precisions, type by type.

What autocast does on a GPU is written out: `low` is its type (bfloat16 or float16), products run in
it, norms and exponentials in float32. Nothing here comes from the library and nothing runs under
autocast. Attention, resizing, rotation, and the product and sum after a norm are one call of torch
each, as in the library: kernels that round differently in float32 flip roundings to 16 bits.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from tests.reference import Log, filter_logits, mlp2, multinomial, sinusoid, turn2d

sdpa = F.scaled_dot_product_attention


def narrow(p, name, x, low):
    """A linear map in `low`, whatever its weights are stored in."""
    bias = p.get(name + ".bias")
    bias = None if bias is None else bias.to(low)
    return F.linear(x.to(low), p[name + ".weight"].to(low), bias)


def exact(p, name, x):
    """A linear map in float32."""
    return F.linear(x.float(), p[name + ".weight"].float(), p[name + ".bias"].float())


def fused(p, names, x, low):
    """Queries, keys and values of one map, whose bias has no part for keys."""
    biases = [p[name].to(low) for name in names[1:]]
    return F.linear(x.to(low), p[names[0]].to(low), torch.cat(biases))


def moved(x, up, shift):
    """adaLN in float32; `up` is 1 + scale in whatever type that sum had."""
    z = F.layer_norm(x.float(), x.shape[-1:], eps=1e-6)
    return torch.addcmul(shift.float(), z, up.float())


def split(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, H, L, c)


def joined(x):
    return x.transpose(1, 2).flatten(2)


class Attention:
    """Cosine attention over all steps so far: unit vectors and temperatures are float32."""

    def __init__(self, p, prefix, heads, low):
        self.p, self.prefix, self.heads, self.low = p, prefix, heads, low
        self.keys = self.values = None

    def __call__(self, z, angle=None):
        p, b = self.p, self.prefix
        names = [b + n for n in ("mat_qkv.weight", "q_bias", "zero_k_bias", "v_bias")]
        q, k, v = (split(t, self.heads) for t in fused(p, names, z, self.low).chunk(3, -1))
        # the clamp has the type of the stored parameter, the exponential float32
        heat = p[b + "scale_mul_1H11"].clamp(max=math.log(100)).float().exp()
        q, k = F.normalize(q.float(), dim=-1) * heat, F.normalize(k.float(), dim=-1)
        if angle is not None:
            q, k = spun(q, angle), spun(k, angle)
        k = k.to(self.low)
        self.keys = k if self.keys is None else torch.cat((self.keys, k), 2)
        self.values = v if self.values is None else torch.cat((self.values, v), 2)
        out = sdpa(q.to(self.low), self.keys, self.values, scale=1.0)
        return narrow(p, b + "proj", joined(out), self.low)


def spun(x, angle):
    """Rotate pairs of x (B, H, L, c) as complex numbers, in float32."""
    pairs = torch.view_as_complex(x.transpose(1, 2).contiguous().unflatten(-1, (-1, 2)))
    turned = pairs * torch.complex(angle.cos(), angle.sin())[:, None]
    return torch.view_as_real(turned).flatten(-2).transpose(1, 2)


def feed(p, b, z, low):
    return narrow(p, b + "fc2", F.gelu(narrow(p, b + "fc1", z, low), approximate="tanh"), low)


@torch.no_grad()
def infinity(
    state, features, mask, sizes, reference, depth, heads, bits, *, low, patch, pool_heads, seed,
    cfg, tau, top_p=0.97,
):  # fmt: skip
    p = {k: v.to(low) if k.startswith("blocks.") else v for k, v in state.items()}
    n, length = features.shape[:2]
    log, rng = Log(), torch.Generator().manual_seed(seed)
    log.logits = []
    text = torch.cat((features, p["cfg_uncond"][:length].expand_as(features)))
    mask = mask.repeat(2, 1)
    text = F.rms_norm(text, text.shape[-1:], eps=1e-6) * p["text_norm.weight"] * mask[..., None]
    ca = "text_proj_for_sos.ca."
    k, v = fused(p, [ca + "mat_kv.weight", ca + "zero_k_bias", ca + "v_bias"], text, low).chunk(
        2, -1
    )
    q = p[ca + "mat_q"].to(low).transpose(0, 1).expand(2 * n, pool_heads, 1, -1)
    pooled = sdpa(q, split(k, pool_heads), split(v, pool_heads), attn_mask=mask[:, None, None])
    cond = narrow(p, ca + "proj", joined(pooled)[:, 0], low)
    width = cond.shape[-1]
    memory = narrow(p, "text_proj_for_ca.0", text, low)
    memory = narrow(p, "text_proj_for_ca.2", F.gelu(memory, approximate="tanh"), low)
    # adaLN and the head's modulation come with autocast off
    act = F.silu(cond.float())
    shared = exact(p, "shared_ada_lin.1", act).reshape(2 * n, 1, 6, width)
    scale, shift = exact(p, "head_nm.ada_lin.1", act).reshape(2 * n, 1, 2, width).unbind(2)
    hidden = torch.zeros(2 * n, 1, 1, length, dtype=low).masked_fill(
        ~mask[:, None, None], -math.inf
    )
    memories = []
    for i in range(depth):
        names = [f"blocks.{i}.ca.{s}" for s in ("mat_kv.weight", "zero_k_bias", "v_bias")]
        memories.append([split(t, heads) for t in fused(p, names, memory, low).chunk(2, -1)])
    selves = [Attention(p, f"blocks.{i}.sa.", heads, low) for i in range(depth)]
    latent = torch.zeros(n, bits, patch * sizes[-1][0], patch * sizes[-1][1])
    for s, (h, w) in enumerate(sizes):
        level = p["lvl_embed.weight"][s]
        if s == 0:
            x = cond[:, None] + p["pos_start"] + level  # float32
        else:
            small = latent
            if latent.shape[-2:] != (patch * h, patch * w):
                small = F.interpolate(latent, size=(patch * h, patch * w), mode="bilinear")
            small = F.pixel_unshuffle(small, patch).flatten(2).transpose(1, 2)
            # a contiguous input: the bias is added before rounding; else after a first rounding
            if patch == 1:
                x = narrow(p, "word_embed", small.contiguous(), low)
            else:
                x = small.to(low) @ p["word_embed.weight"].to(low).t() + p["word_embed.bias"].to(
                    low
                )
            x = (x.float() + level).to(low).repeat(2, 1, 1)
        angle = turn2d(h, w, reference, width // heads)
        for i in range(depth):
            b = f"blocks.{i}."
            g1, g2, s1, s2, b1, b2 = (shared + p[b + "ada_gss"].float()).unbind(2)
            out = selves[i](moved(x, s1 + 1, b1), angle)
            x = x + (out.float() * g1).to(low)  # the product is in place, so it stays narrow
            weight, bias = p[b + "ca_norm.weight"].float(), p[b + "ca_norm.bias"].float()
            z = F.layer_norm(x.float(), (width,), weight, bias, 1e-6)
            q = split(narrow(p, b + "ca.mat_q", z, low), heads)
            out = sdpa(q, *memories[i], attn_mask=hidden, scale=(width // heads) ** -0.5)
            x = x + narrow(p, b + "ca.proj", joined(out), low).float()
            x = x + feed(p, b + "ffn.", moved(x, s2 + 1, b2), low).float() * g2
        logits = exact(p, "head", moved(x, scale + 1, shift)) / tau
        logits = cfg * logits[:n] + (1 - cfg) * logits[n:]
        log.logits.append(logits)
        p_bits = torch.softmax(filter_logits(logits.reshape(n, -1, 2), 0, top_p), -1)
        drawn = multinomial(p_bits, rng, log).reshape(n, h * w, -1)
        log.tokens.append(drawn)
        code = F.pixel_shuffle((2.0 * drawn - 1).transpose(1, 2).reshape(n, -1, h, w), patch)
        code = F.normalize(code / math.sqrt(bits), dim=1)
        if code.shape[-2:] != latent.shape[-2:]:
            code = F.interpolate(code, size=latent.shape[-2:], mode="bilinear")
        latent = latent + code
    return latent, log


def smoothed(q, step, steps, code, low):
    """phi: half the code, and half a convolution in `low`."""
    ticks = np.linspace(1 / 12, 11 / 12, 4)
    k = int(np.argmin(np.abs(ticks - step / (steps - 1))))
    w, b = (q[f"quantize.quant_resi.qresi_ls.{k}.{n}"].to(low) for n in ("weight", "bias"))
    return 0.5 * code + 0.5 * F.conv2d(code.to(low), w, b, padding=1)


@torch.no_grad()
def var(state, book, labels, sides, depth, heads, *, low, shared, seed, cfg, top_k, top_p):
    p, table = state, book["quantize.embedding.weight"]
    log, rng = Log(), torch.Generator().manual_seed(seed)
    log.logits = []
    n, steps, side = len(labels), len(sides), sides[-1]
    rows = torch.cat((labels, torch.full_like(labels, len(p["class_emb.weight"]) - 1)))
    cond = p["class_emb.weight"][rows]
    width = cond.shape[-1]
    act = F.silu(cond)
    selves = [Attention(p, f"blocks.{i}.attn.", heads, low) for i in range(depth)]
    latent, begin = torch.zeros(n, table.shape[1], side, side), 0
    for s, pn in enumerate(sides):
        where = p["pos_1LC"][0, begin : begin + pn * pn] + p["lvl_embed.weight"][s]
        begin += pn * pn
        if s == 0:
            x = (cond[:, None] + p["pos_start"]) + where
        else:
            small = F.interpolate(latent, size=(pn, pn), mode="area").flatten(2).transpose(1, 2)
            x = (narrow(p, "word_embed", small, low) + where).repeat(2, 1, 1)
        for i in range(depth):
            b = f"blocks.{i}."
            if shared:  # a narrow product plus float32 offsets
                packed = narrow(p, "shared_ada_lin.1", act, low).reshape(2 * n, 1, 6, width)
                packed = packed + p[b + "ada_gss"]
            else:
                packed = narrow(p, b + "ada_lin.1", act, low).reshape(2 * n, 1, 6, width)
            g1, g2, s1, s2, b1, b2 = packed.unbind(2)
            out = selves[i](moved(x, s1 + 1, b1))
            x = x + (out.float() * g1.float()).to(low)
            x = x + feed(p, b + "ffn.", moved(x, s2 + 1, b2), low) * g2
        packed = narrow(p, "head_nm.ada_lin.1", act, low).reshape(2 * n, 1, 2, width)
        scale, shift = packed.unbind(2)
        logits = narrow(p, "head", moved(x, scale + 1, shift), low).float()
        t = cfg * s / (steps - 1)
        logits = (1 + t) * logits[:n] - t * logits[n:]
        log.logits.append(logits)
        kept = filter_logits(logits, top_k, top_p)
        index = multinomial(torch.softmax(kept, -1), rng, log)
        log.tokens.append(index)
        code = table[index].transpose(1, 2).reshape(n, -1, pn, pn)
        if pn != side:
            code = F.interpolate(code, size=(side, side), mode="bicubic")
        latent = latent + smoothed(book, s, steps, code, low)
    return latent, log


def root(x, weight, low):
    """RMS norm in float32, rounded before the weight is applied in `low`."""
    return F.rms_norm(x.float(), x.shape[-1:], eps=1e-6).to(low) * weight.to(low)


def half_turned(x, cos, sin):
    """x cos + (-second half, first half) sin, every product and sum in x's type."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


@torch.no_grad()
def hart(state, book, features, positions, sides, depth, heads, *, low, seed, cfg):
    """All steps but the last, where the diffusion begins: logits and tokens, and the latent."""
    p, table = state, book["quantize.embedding.weight"]
    log, rng = Log(), torch.Generator().manual_seed(seed)
    log.logits = []
    n, steps, side = len(features), len(sides), sides[-1]
    features = torch.cat((features, torch.zeros_like(features)))
    positions = torch.cat((positions, torch.zeros_like(positions)))
    text = F.rms_norm(features, features.shape[-1:], eps=1e-6) * p["context_norm.weight"]
    context = narrow(p, "context_embed", text, low)
    width = context.shape[-1]
    c = width // heads
    packed = narrow(p, "head_nm.ada_lin.1", F.silu(context.amax(1)), low)
    scale, shift = packed.reshape(2 * n, 1, 2, width).unbind(2)
    latent = torch.zeros(n, table.shape[1], side, side, dtype=low)
    keys, values = {}, {}
    low_mlp = {k: v.to(low) for k, v in p.items() if k.startswith("lvl_embed")}
    levels = mlp2(
        low_mlp, "lvl_embed.mlp", torch.stack([sinusoid(s) for s in range(steps)]).to(low)
    )
    for s, pn in enumerate(sides[:-1]):
        if s == 0:
            x = context + levels[s]
            inverse = 1.0 / 10000.0 ** (torch.arange(0, c, 2).float() / c)
            angle = (positions[..., None].float() * inverse).repeat(1, 1, 2)
        else:
            small = F.interpolate(latent, size=(pn, pn), mode="area").flatten(2).transpose(1, 2)
            x = (narrow(p, "word_embed", small, low) + levels[s]).repeat(2, 1, 1)
            inverse = 1.0 / 10000.0 ** (torch.arange(0, c, 4).float() / c)
            line = torch.arange(pn).float() / pn * side + positions[:, -1:].float()
            y = (line[..., None] * inverse).repeat_interleave(pn, dim=1)
            z = (line[..., None] * inverse).repeat(1, pn, 1)
            angle = torch.cat((y, y, z, z), -1)
        cos, sin = angle.cos().to(low)[:, None], angle.sin().to(low)[:, None]
        for i in range(depth):
            b = f"blocks.{i}."
            z = root(x, p[b + "ln_wo_grad.weight"], low)
            names = [
                b + "attn." + k for k in ("qkv_proj.weight", "q_bias", "zero_k_bias", "v_bias")
            ]
            q, k, v = (split(t, heads) for t in fused(p, names, z, low).chunk(3, -1))
            q, k = half_turned(q, cos, sin), half_turned(k, cos, sin)
            keys[i] = torch.cat((keys[i], k), 2) if i in keys else k
            values[i] = torch.cat((values[i], v), 2) if i in values else v
            out = sdpa(q, keys[i], values[i], scale=0.25 * c**-0.5)
            x = x + narrow(p, b + "attn.proj", joined(out), low)
            z = root(x, p[b + "ln_wo_grad.weight"], low)
            up = F.silu(narrow(p, b + "ffn.gate_proj", z, low)) * narrow(
                p, b + "ffn.up_proj", z, low
            )
            x = x + narrow(p, b + "ffn.down_proj", up, low)
        x = x[:, -1:] if s == 0 else x
        z = F.rms_norm(x.float(), (width,), eps=1e-6) * p["head_nm.ln_wo_grad.weight"]
        z = torch.addcmul(shift.float(), z, (scale + 1).float())
        logits = narrow(p, "head", z, low).float()
        t = cfg * s / (steps - 1)
        logits = (1 + t) * logits[:n] - t * logits[n:]
        log.logits.append(logits)
        kept = filter_logits(logits, 600 if s < 7 else 300, 0)
        index = multinomial(torch.softmax(kept, -1), rng, log)
        log.tokens.append(index)
        code = table[index].transpose(1, 2).reshape(n, -1, pn, pn)
        code = F.interpolate(code, size=(side, side), mode="bicubic")
        latent = (latent + smoothed(book, s, steps, code, low)).to(low)
    return latent, log
