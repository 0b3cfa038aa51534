"""Straight-line references of the three families, written from their formulas alone.

Nothing here comes from the library: state dicts in, latents out, no caches but plain lists, no
seam. `dtype` is that of all arithmetic; probabilities are drawn from in float32, because a
generator's stream depends on the type.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F


class Log:
    """What a run leaves to be compared."""

    def __init__(self):
        self.shapes, self.tokens, self.keys, self.kept = [], [], {}, {}


class FastVAR:
    """Cached token pruning by step: `ratios` {step: share}, 1 drops the step."""

    def __init__(self, ratios=None, cache=None, layers=None):
        self.ratios, self.cache, self.layers = ratios or {}, cache, layers
        self.store, self.hw = {}, {}

    def __call__(self, step, layer, kind, x, fn, h, w, log):
        self.hw[step] = (h, w)
        ratio = self.ratios.get(step, 0)
        mine = self.layers is None or layer in self.layers
        if not ratio or not mine:
            y = fn(x, None)
            if step == self.cache and mine:
                self.store[layer, kind] = y
            return y
        length = x.shape[1]
        keep = length - int(length * ratio)
        log.kept[step] = keep
        score = ((x - x.mean(dim=1, keepdim=True)) ** 2).sum(-1)
        index = score.argsort(dim=1, descending=True)[:, :keep]
        wide = index[..., None].expand(-1, -1, x.shape[-1])
        fresh = fn(x.gather(1, wide), index)
        old = self.store[layer, kind]
        ch, cw = self.hw[self.cache]
        grid = old.transpose(1, 2).reshape(len(old), -1, ch, cw)
        grid = F.adaptive_avg_pool2d(grid, (h, w)).flatten(2).transpose(1, 2).clone()
        return grid.scatter(1, wide, fresh)


def heads(x, h):
    return x.reshape(x.shape[0], x.shape[1], h, -1).transpose(1, 2)


def attend(q, k, v, scale):
    weights = torch.softmax(q @ k.transpose(-1, -2) * scale, dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def norm(x):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def lin(p, name, x):
    return F.linear(x, p[name + ".weight"], p.get(name + ".bias"))


def six(packed, width):
    return packed.reshape(len(packed), 1, 6, width).unbind(2)  # g1 g2 s1 s2 b1 b2


def ffn(p, name, x):
    return lin(p, name + ".fc2", F.gelu(lin(p, name + ".fc1", x), approximate="tanh"))


def filter_logits(logits, top_k, top_p):
    logits = logits.clone()
    if top_k:
        kth = logits.sort(dim=-1, descending=True).values[..., min(top_k, logits.shape[-1]) - 1]
        logits[logits < kth[..., None]] = -math.inf
    if 0 < top_p < 1:
        order = logits.argsort(dim=-1)
        total = torch.softmax(logits.gather(-1, order), -1).cumsum(-1)
        out = total <= 1 - top_p
        out[..., -1] = False
        logits[torch.zeros_like(out).scatter(-1, order, out)] = -math.inf
    return logits


def multinomial(p, generator, log):
    flat = p.reshape(-1, p.shape[-1]).float()
    log.shapes.append(tuple(flat.shape))
    e = torch.empty_like(flat).exponential_(1, generator=generator)
    return (flat / e).argmax(-1).reshape(p.shape[:-1])


def soft(logits, r, generator, book):
    e = torch.empty_like(logits).exponential_(1, generator=generator)
    tau = max(0.27 * (1 - 0.95 * r), 0.005)
    return torch.softmax((logits * (1 + r) - e.log()) / tau, -1) @ book


def phi(p, step, steps, h):
    names = sorted(k.removesuffix(".weight") for k in p if "quant_resi" in k and "weight" in k)
    count = len(names)
    edge = 1 / 12 if count == 4 else 1 / (2 * count)
    ticks = np.linspace(edge, 1 - edge, count)
    k = int(np.argmin(np.abs(ticks - step / (steps - 1))))
    w, b = (p[f"{names[k]}.{n}"] for n in ("weight", "bias"))
    return 0.5 * h + 0.5 * F.conv2d(h, w, b, padding=1)


def cast(state, dtype):
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}


@torch.no_grad()
def var(
    state, book, labels, sides, depth, n_heads, *, shared, seed, cfg, top_k, top_p, temperature=1.0,
    smooth=False, fast=None, dtype=torch.float64, l2_norm=True, given=(), mask=None,
):  # fmt: skip
    p, q = cast(state, dtype), cast(book, dtype)
    fast, log, rng = fast or FastVAR(), Log(), torch.Generator().manual_seed(seed)
    if isinstance(labels, int):  # that many labels are drawn
        even = torch.full((1, len(p["class_emb.weight"]) - 1), 1.0)
        labels = torch.multinomial(even / even.sum(), labels, True, generator=rng).flatten()
    width = p["pos_start"].shape[-1]
    classes = len(p["class_emb.weight"]) - 1
    n, steps, side = len(labels), len(sides), sides[-1]
    rows = torch.cat((labels, torch.full_like(labels, classes)))
    cond = p["class_emb.weight"][rows]
    act = F.silu(cond)
    latent = torch.zeros(n, q["quantize.embedding.weight"].shape[1], side, side, dtype=dtype)
    keys, values, begin = {}, {}, 0
    for s, pn in enumerate(sides):
        where = p["lvl_embed.weight"][s] + p["pos_1LC"][0, begin : begin + pn * pn]
        begin += pn * pn
        if fast.ratios.get(s) == 1:
            continue
        if s == 0:
            x = (cond[:, None] + p["pos_start"]) + where
        else:
            small = F.interpolate(latent, size=(pn, pn), mode="area").flatten(2).transpose(1, 2)
            x = (lin(p, "word_embed", small) + where).repeat(2, 1, 1)
        for i in range(depth):
            b = f"blocks.{i}."
            if shared:
                packed = lin(p, "shared_ada_lin.1", act).reshape(2 * n, 1, 6, width)
                packed = (packed + p[b + "ada_gss"]).flatten(1)
            else:
                packed = lin(p, b + "ada_lin.1", act)
            g1, g2, s1, s2, b1, b2 = six(packed, width)

            def attention(x, index, i=i, b=b, g1=g1, s1=s1, b1=b1):
                z = norm(x) * (1 + s1) + b1
                bias = torch.cat(
                    [p[b + "attn.q_bias"], p[b + "attn.zero_k_bias"], p[b + "attn.v_bias"]]
                )
                qq, k, v = F.linear(z, p[b + "attn.mat_qkv.weight"], bias).chunk(3, -1)
                qq, k, v = (heads(t, n_heads) for t in (qq, k, v))
                by = 0.25 * qq.shape[-1] ** -0.5
                if l2_norm:
                    by = p[b + "attn.scale_mul_1H11"].clamp(max=math.log(100)).exp()
                    qq, k = F.normalize(qq, dim=-1), F.normalize(k, dim=-1)
                qq = qq * by
                keys[i] = torch.cat((keys[i], k), 2) if i in keys else k
                values[i] = torch.cat((values[i], v), 2) if i in values else v
                return lin(p, b + "attn.proj", attend(qq, keys[i], values[i], 1.0)) * g1

            def feed(x, index, b=b, g2=g2, s2=s2, b2=b2):
                return ffn(p, b + "ffn", norm(x) * (1 + s2) + b2) * g2

            x = x + fast(s, i, "attn", x, attention, pn, pn, log)
            x = x + fast(s, i, "ffn", x, feed, pn, pn, log)
        scale, shift = lin(p, "head_nm.ada_lin.1", act).reshape(2 * n, 1, 2, width).unbind(2)
        logits = lin(p, "head", norm(x) * (1 + scale) + shift)
        logits = logits / (temperature[s] if isinstance(temperature, list) else temperature)
        r = s / (steps - 1)
        t = cfg[s] if isinstance(cfg, list) else cfg * r
        logits = filter_logits((1 + t) * logits[:n] - t * logits[n:], top_k, top_p)
        index = multinomial(torch.softmax(logits, -1), rng, log)
        log.tokens.append(index)
        codes = q["quantize.embedding.weight"][index]
        if smooth:
            codes = soft(logits, r, rng, q["quantize.embedding.weight"])
        code = codes.transpose(1, 2).reshape(n, -1, pn, pn)
        if mask is not None:
            true = q["quantize.embedding.weight"][given[s]].transpose(1, 2).reshape(code.shape)
            small = F.interpolate(mask[None, None].float(), size=(pn, pn), mode="bilinear")
            stays = (small > 0.5) | (pn * pn <= 3)
            code = torch.where(stays, true, code)
        if pn != side:
            code = F.interpolate(code, size=(side, side), mode="bicubic")
        latent = latent + phi(q, s, steps, code)
    log.keys = {i: k.shape[2] for i, k in keys.items()}
    return latent, log


def turn2d(h, w, reference, c):
    inv = 1.0 / 10000.0 ** (torch.arange(0, c // 2, 2).float() / (c // 2))
    y = torch.round(torch.arange(h).float() * (reference[0] / h))
    x = torch.round(torch.arange(w).float() * (reference[1] / w))
    return torch.cat(
        [torch.stack([torch.cat([y[i] * inv, x[j] * inv])]) for i in range(h) for j in range(w)]
    )  # (h w, c / 2)


def turn2d_absolute(h, w, reference, c):
    return turn2d(h, w, (h, w), c)


def turn2d_interpolated(h, w, reference, c):
    """Cosines and sines, as complex numbers, of a grid whose longer side has 128 cells."""
    tall, wide = (int(128 / max(reference) * side) for side in reference)
    fine = turn2d(tall, wide, (tall, wide), c).reshape(tall, wide, -1).permute(2, 0, 1)
    cos, sin = (
        F.interpolate(part[None], size=(h, w), mode="bilinear", align_corners=True)[0]
        for part in (fine.cos(), fine.sin())
    )
    return torch.complex(cos, sin).flatten(1).T


def spin(q, angle):
    """Rotate pairs (2p, 2p + 1) of q (B, H, K, c) by angle (K, c / 2) or (B, K, c / 2)."""
    angle = angle if angle.dim() == 2 else angle[:, None]
    a, b = q[..., 0::2], q[..., 1::2]
    cos, sin = (angle.real, angle.imag) if angle.is_complex() else (angle.cos(), angle.sin())
    cos, sin = cos.to(q.dtype), sin.to(q.dtype)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


def rms(x, weight):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * weight


def bf16(x, on):
    return x.to(torch.bfloat16).to(x.dtype) if on else x


@torch.no_grad()
def infinity(
    state, features, mask, sizes, reference, depth, n_heads, bits, *, patch=1, pool_heads=16, seed,
    cfg, tau, top_p=0.97, official=False, fast=None, dtype=torch.float64, negative=None, after=None,
    given=(), turns=None, level_every=0,
):  # fmt: skip
    p = cast(state, dtype)
    fast, log, rng = fast or FastVAR(), Log(), torch.Generator().manual_seed(seed)
    width, n = p["pos_start"].shape[-1], len(features)
    lens = mask.sum(1).tolist()
    null = [p["cfg_uncond"][:k] for k in lens]
    if negative is not None:
        null = [f[m] for f, m in zip(*negative, strict=True)]
    text = [f[m].to(dtype) for f, m in zip(features, mask, strict=True)] + null
    text = [rms(t, p["text_norm.weight"]) for t in text]
    pooled, memory = [], []
    for t in text:
        ca = "text_proj_for_sos.ca."
        kv = F.linear(
            t, p[ca + "mat_kv.weight"], torch.cat((p[ca + "zero_k_bias"], p[ca + "v_bias"]))
        )
        k, v = (heads(part[None], pool_heads) for part in kv.chunk(2, -1))
        q = p[ca + "mat_q"].reshape(1, pool_heads, 1, -1)
        q, k, v = (bf16(z, official) for z in (q, k, v))
        pooled.append(
            lin(p, ca + "proj", bf16(attend(q, k, v, q.shape[-1] ** -0.5), official))[0, 0]
        )
        memory.append(
            lin(
                p, "text_proj_for_ca.2", F.gelu(lin(p, "text_proj_for_ca.0", t), approximate="tanh")
            )
        )
    cond = torch.stack(pooled)
    shared = lin(p, "shared_ada_lin.1", F.silu(cond)).reshape(2 * n, 1, 6, width)
    last = sizes[-1]
    latent = torch.zeros(n, bits, patch * last[0], patch * last[1], dtype=dtype)
    keys, values = {}, {}
    for s, (h, w) in enumerate(sizes):
        if fast.ratios.get(s) == 1:
            continue
        level = p["lvl_embed.weight"][s]
        if s == 0:
            x = cond[:, None] + p["pos_start"] + level
        else:
            small = F.interpolate(
                latent[:, :, None], size=(1, patch * h, patch * w), mode="trilinear"
            )[:, :, 0]
            small = F.pixel_unshuffle(small, patch).flatten(2).transpose(1, 2)
            x = (lin(p, "word_embed", small) + level).repeat(2, 1, 1)
        angle = (turns or turn2d)(h, w, reference, width // n_heads)
        guidance = cfg[s] if isinstance(cfg, list) else cfg
        for i in range(depth):
            b = f"blocks.{i}."
            if level_every and i and i % level_every == 0:
                x = x + level
            g1, g2, s1, s2, b1, b2 = (shared + p[b + "ada_gss"]).unbind(2)

            def attention(x, index, i=i, b=b, g1=g1, s1=s1, b1=b1, angle=angle):
                z = norm(x) * (1 + s1) + b1
                bias = torch.cat([p[b + "sa.q_bias"], p[b + "sa.zero_k_bias"], p[b + "sa.v_bias"]])
                q, k, v = F.linear(z, p[b + "sa.mat_qkv.weight"], bias).chunk(3, -1)
                q, k, v = (heads(t, n_heads) for t in (q, k, v))
                scale = p[b + "sa.scale_mul_1H11"].clamp(max=math.log(100)).exp()
                q, k = F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1)
                turned = angle if index is None else angle[index]
                q, k = spin(q, turned), spin(k, turned)
                keys[i] = torch.cat((keys[i], k), 2) if i in keys else k
                values[i] = torch.cat((values[i], v), 2) if i in values else v
                return lin(p, b + "sa.proj", attend(q, keys[i], values[i], 1.0)) * g1

            def cross(x, index, b=b):
                z = F.layer_norm(x, (width,), p[b + "ca_norm.weight"], p[b + "ca_norm.bias"], 1e-6)
                out = []
                for row, t in zip(z, memory, strict=True):
                    bias = torch.cat((p[b + "ca.zero_k_bias"], p[b + "ca.v_bias"]))
                    kv = F.linear(t, p[b + "ca.mat_kv.weight"], bias)
                    k, v = (heads(part[None], n_heads) for part in kv.chunk(2, -1))
                    q = heads(lin(p, b + "ca.mat_q", row[None]), n_heads)
                    q, k, v = (bf16(y, official) for y in (q, k, v))
                    out.append(bf16(attend(q, k, v, q.shape[-1] ** -0.5), official))
                return lin(p, b + "ca.proj", torch.cat(out))

            def feed(x, index, b=b, g2=g2, s2=s2, b2=b2):
                return ffn(p, b + "ffn", norm(x) * (1 + s2) + b2) * g2

            x = x + fast(s, i, "attn", x, attention, h, w, log)
            x = x + fast(s, i, "cross", x, cross, h, w, log)
            x = x + fast(s, i, "ffn", x, feed, h, w, log)
            if i == after:
                x = (guidance * x[:n] + (1 - guidance) * x[n:]).repeat(2, 1, 1)
        scale, shift = (
            lin(p, "head_nm.ada_lin.1", F.silu(cond)).reshape(2 * n, 1, 2, width).unbind(2)
        )
        logits = lin(p, "head", norm(x) * (1 + scale) + shift)
        logits = logits * (1 / (tau[s] if isinstance(tau, list) else tau))
        if after is None:
            logits = guidance * logits[:n] + (1 - guidance) * logits[n:]
        logits = logits[:n]
        logits = filter_logits(logits.reshape(n, -1, 2), 0, top_p)
        drawn = multinomial(torch.softmax(logits, -1), rng, log).reshape(n, h * w, -1)
        if s < len(given):  # drawn, and dropped
            drawn = given[s]
        log.tokens.append(drawn)
        code = (2 * drawn.to(dtype) - 1).transpose(1, 2).reshape(n, -1, h, w)
        code = F.normalize(F.pixel_shuffle(code, patch) / math.sqrt(bits), dim=1)
        full = latent.shape[-2:]
        if code.shape[-2:] != full:
            code = F.interpolate(code[:, :, None], size=(1, *full), mode="trilinear")[:, :, 0]
        latent = latent + code
    log.keys = {i: k.shape[2] for i, k in keys.items()}
    return latent, log


def sinusoid(t, size=256):
    rate = torch.exp(-math.log(10000) / (size // 2) * torch.arange(size // 2).float())
    return torch.cat((torch.cos(t * rate), torch.sin(t * rate)))


def mlp2(p, name, x):
    return lin(p, name + ".2", F.silu(lin(p, name + ".0", x)))


def residuals(p, z, n, length, t, host, dtype):
    """The diffusion head over 8 steps; z (2 n length, C) or (n length, C) if t is None."""

    def bar(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    beta = [min(1 - bar((i + 1) / 1000) / bar(i / 1000), 0.999) for i in range(1000)]
    a_bar = np.cumprod(1 - np.array(beta))
    use = [0, 143, 285, 428, 571, 714, 856, 999]
    kept = a_bar[use]
    before = np.append(1.0, kept[:-1])
    beta = 1 - kept / before
    posterior = beta * (1 - before) / (1 - kept)
    clipped = np.log(np.append(posterior[1], posterior[1:]))
    paired = t is not None
    net = "diffloss.net."
    x = torch.randn(n * length, 32, generator=host).to(dtype)
    for i in reversed(range(8)):
        both = torch.cat((x, x)) if paired else x
        y = mlp2(p, net + "time_embed.mlp", sinusoid(use[i]).to(dtype)) + lin(
            p, net + "cond_embed", z
        )
        h = lin(p, net + "input_proj", both)
        for j in range(sum(k.endswith("in_ln.weight") for k in p)):
            b = f"{net}res_blocks.{j}."
            shift, scale, gate = lin(p, b + "adaLN_modulation.1", F.silu(y)).chunk(3, -1)
            u = F.layer_norm(h, h.shape[-1:], p[b + "in_ln.weight"], p[b + "in_ln.bias"], 1e-6)
            h = h + gate * mlp2(p, b + "mlp", u * (1 + scale) + shift)
        shift, scale = lin(p, net + "final_layer.adaLN_modulation.1", F.silu(y)).chunk(2, -1)
        out = lin(p, net + "final_layer.linear", norm(h) * (1 + scale) + shift)
        eps, var = out.chunk(2, -1)
        if paired:
            eps = (1 + t) * eps[: n * length] - t * eps[n * length :]
            var = var[: n * length]
        frac = (var + 1) / 2
        logvar = frac * math.log(beta[i]) + (1 - frac) * clipped[i]
        x0 = (x / math.sqrt(kept[i]) - math.sqrt(1 / kept[i] - 1) * eps).clamp(-1, 1)
        mean = (
            beta[i] * math.sqrt(before[i]) / (1 - kept[i]) * x0
            + (1 - before[i]) * math.sqrt(1 - beta[i]) / (1 - kept[i]) * x
        )
        noise = torch.randn((2 if paired else 1) * n * length, 32, generator=host)[: n * length]
        x = mean + (torch.exp(0.5 * logvar) * noise.to(dtype) if i else 0)
    return 0.6 * x.reshape(n, length, 32)


def pick(x, index):
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def hart_pieces(orders, n, length, iterations):
    """The positions (n, K) of each mask iteration: those that leave the masked part of an order."""
    shuffled = []
    for _ in range(n):
        order = np.arange(length)
        orders.shuffle(order)
        shuffled.append(order)
    order, masked = torch.from_numpy(np.stack(shuffled)), torch.ones(n, length, dtype=torch.bool)
    pieces = []
    for i in range(iterations):
        left = math.floor(length * math.cos(math.pi / 2 * (i + 1) / iterations))
        left = max(1, min(int(masked[0].sum()) - 1, left))
        stays = torch.zeros_like(masked).scatter(1, order[:, :left], True)
        now = masked if i == iterations - 1 else masked & ~stays
        masked = masked & stays
        pieces.append(now.nonzero()[:, 1].reshape(n, -1))
    return pieces


@torch.no_grad()
def hart(
    state, book, features, positions, sides, depth, n_heads, *, seed, rest=0, cfg, temperature=1.0,
    smooth=False, fast=None, dtype=torch.float64, iterations=1, diffuse=True,
):  # fmt: skip
    p, q = cast(state, dtype), cast(book, dtype)
    fast, log, orders = fast or FastVAR(), Log(), np.random.RandomState(rest)
    rng, host = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(rest)
    n, steps, side = len(features), len(sides), sides[-1]
    table = q["quantize.embedding.weight"]
    features = torch.cat((features, torch.zeros_like(features))).to(dtype)
    positions = torch.cat((positions, torch.zeros_like(positions)))
    context = lin(p, "context_embed", rms(features, p["context_norm.weight"]))
    width = context.shape[-1]
    c = width // n_heads
    pooled = context.amax(1)
    latent = torch.zeros(n, table.shape[1], side, side, dtype=dtype)
    keys, values = {}, {}
    for s, pn in enumerate(sides):
        if fast.ratios.get(s) == 1:
            continue
        level = mlp2(p, "lvl_embed.mlp", sinusoid(s).to(dtype))
        if s == 0:
            x = context + level
            inv = 1.0 / 10000.0 ** (torch.arange(0, c, 2).float() / c)
            half = positions[:, :, None].float() * inv
            angle = torch.cat((half, half), -1)
        else:
            small = F.interpolate(latent, size=(pn, pn), mode="area").flatten(2).transpose(1, 2)
            x = (lin(p, "word_embed", small) + level).repeat(2, 1, 1)
            inv = 1.0 / 10000.0 ** (torch.arange(0, c, 4).float() / c)
            ij = torch.stack(
                torch.meshgrid(torch.arange(pn), torch.arange(pn), indexing="ij"), -1
            ).reshape(-1, 2)
            spot = ij[None].float() / pn * side + positions[:, -1:, None].float()
            y, z = spot[..., :1] * inv, spot[..., 1:] * inv
            angle = torch.cat((y, y, z, z), -1)
        whole, pieces = x, [None]
        tokens = torch.zeros(n, pn * pn, latent.shape[1], dtype=dtype)
        if s == steps - 1 and iterations > 1:
            pieces = hart_pieces(orders, n, pn * pn, iterations)
        for piece in pieces:
            x = whole if piece is None else pick(whole, piece.repeat(2, 1))
            turned = angle if piece is None else pick(angle, piece.repeat(2, 1))
            cos, sin = turned.cos().to(dtype), turned.sin().to(dtype)
            for i in range(depth):
                b = f"blocks.{i}."

                def attention(x, index, i=i, b=b, cos=cos, sin=sin):
                    z = rms(x, p[b + "ln_wo_grad.weight"])
                    bias = torch.cat(
                        [p[b + "attn.q_bias"], p[b + "attn.zero_k_bias"], p[b + "attn.v_bias"]]
                    )
                    qq, k, v = F.linear(z, p[b + "attn.qkv_proj.weight"], bias).chunk(3, -1)
                    qq, k, v = (heads(t, n_heads) for t in (qq, k, v))
                    if index is not None:
                        wide = index[..., None].expand(-1, -1, c)
                        cos, sin = cos.gather(1, wide), sin.gather(1, wide)

                    def rot(t):
                        swapped = torch.cat((-t[..., c // 2 :], t[..., : c // 2]), -1)
                        return t * cos[:, None] + swapped * sin[:, None]

                    k = rot(k)
                    keys[i] = torch.cat((keys[i], k), 2) if i in keys else k
                    values[i] = torch.cat((values[i], v), 2) if i in values else v
                    y = attend(rot(qq), keys[i], values[i], 0.25 * c**-0.5)
                    return lin(p, b + "attn.proj", y)

                def feed(x, index, b=b):
                    z = rms(x, p[b + "ln_wo_grad.weight"])
                    up = F.silu(lin(p, b + "ffn.gate_proj", z)) * lin(p, b + "ffn.up_proj", z)
                    return lin(p, b + "ffn.down_proj", up)

                x = x + fast(s, i, "attn", x, attention, pn, pn, log)
                x = x + fast(s, i, "ffn", x, feed, pn, pn, log)
            if s == 0:
                x = x[:, -1:]
            scale, shift = (
                lin(p, "head_nm.ada_lin.1", F.silu(pooled)).reshape(2 * n, 1, 2, width).unbind(2)
            )
            logits = lin(p, "head", rms(x, p["head_nm.ln_wo_grad.weight"]) * (1 + scale) + shift)
            r = min(s, steps - 2) / (steps - 1)
            t = cfg[s] if isinstance(cfg, list) else cfg * r
            logits = ((1 + t) * logits[:n] - t * logits[n:]) / temperature
            logits = filter_logits(logits, 600 if s < 7 else 300, 0)
            index = multinomial(torch.softmax(logits, -1), rng, log)
            log.tokens.append(index)
            codes = soft(logits, r, rng, table) if smooth else table[index]
            if s == steps - 1 and diffuse:
                z = rms(
                    x + lin(p, "word_embed", table[index]).repeat(2, 1, 1), p["decoder_norm.weight"]
                )
                z = z.flatten(0, 1)
                codes = codes + residuals(p, z, n, codes.shape[1], t, host, dtype)
            if piece is None:
                tokens = codes
            else:
                tokens.scatter_(1, piece[..., None].expand_as(codes), codes)
        if s == steps - 1:
            latent = latent + tokens.transpose(1, 2).reshape(latent.shape)
            continue
        code = tokens.transpose(1, 2).reshape(n, -1, pn, pn)
        code = F.interpolate(code, size=(side, side), mode="bicubic")
        latent = latent + phi(q, s, steps, code)
    log.keys = {i: k.shape[2] for i, k in keys.items()}
    return latent, log
