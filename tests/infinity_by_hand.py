"""Straight-line references of rival methods on Infinity, in float64, from their formulas alone.

Nothing here comes from the library. A method is a short function over `Stepper`, which runs single
layers on single guidance rows and keeps keys and values as plain lists.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from tests.reference import Log, attend, ffn, heads, lin, multinomial, norm, rms, spin, turn2d


class Stepper:
    """One Infinity with one picture; rows "c" and "n" are the conditional and the null one."""

    def __init__(self, state, text, sizes, depth, n_heads, bits, seed, cfg, tau):
        self.p = {k: v.double() for k, v in state.items()}
        self.sizes, self.depth, self.heads, self.bits = sizes, depth, n_heads, bits
        self.cfg, self.tau, self.log = cfg, tau, Log()
        self.rng = torch.Generator().manual_seed(seed)
        self.width = self.p["pos_start"].shape[-1]
        self.latent = torch.zeros(1, bits, *sizes[-1], dtype=torch.float64)
        self.keys = {(row, i): [] for row in "cn" for i in range(depth)}
        words = {"c": text.double(), "n": self.p["cfg_uncond"][: len(text)]}
        self.pooled, self.memory = {}, {}
        for row, t in words.items():
            t, ca = rms(t, self.p["text_norm.weight"]), "text_proj_for_sos.ca."
            bias = torch.cat((self.p[ca + "zero_k_bias"], self.p[ca + "v_bias"]))
            kv = F.linear(t, self.p[ca + "mat_kv.weight"], bias)
            pools = self.p[ca + "mat_q"].shape[1]
            k, v = (heads(part[None], pools) for part in kv.chunk(2, -1))
            q = self.p[ca + "mat_q"].reshape(1, pools, 1, -1)
            self.pooled[row] = lin(self.p, ca + "proj", attend(q, k, v, q.shape[-1] ** -0.5))[0]
            inner = F.gelu(lin(self.p, "text_proj_for_ca.0", t), approximate="tanh")
            self.memory[row] = lin(self.p, "text_proj_for_ca.2", inner)

    def embed(self, s, row, latent=None):
        """The tokens of step s, (L, C)."""
        level = self.p["lvl_embed.weight"][s]
        if s == 0:
            return self.pooled[row] + self.p["pos_start"][0] + level
        h, w = self.sizes[s]
        latent = self.latent if latent is None else latent
        small = F.interpolate(latent[:, :, None], size=(1, h, w), mode="trilinear")[0, :, 0]
        return lin(self.p, "word_embed", small.flatten(1).T) + level

    def angle(self, s):
        return turn2d(*self.sizes[s], self.sizes[-1], self.width // self.heads)

    def modulation(self, row, i):
        act = F.silu(self.pooled[row])
        shared = lin(self.p, "shared_ada_lin.1", act).reshape(6, self.width)
        return (shared + self.p[f"blocks.{i}.ada_gss"].reshape(6, self.width)).unbind(0)

    def layer(self, i, row, x, angle, lengths=None):
        """What layer i adds to tokens x (K, C) of a row; `lengths` splits a group of steps."""
        p, b, start = self.p, f"blocks.{i}.", x
        g1, g2, s1, s2, b1, b2 = self.modulation(row, i)
        z = norm(x) * (1 + s1) + b1
        bias = torch.cat([p[b + "sa.q_bias"], p[b + "sa.zero_k_bias"], p[b + "sa.v_bias"]])
        q, k, v = F.linear(z, p[b + "sa.mat_qkv.weight"], bias).chunk(3, -1)
        q, k, v = (heads(t[None], self.heads) for t in (q, k, v))
        scale = p[b + "sa.scale_mul_1H11"].clamp(max=math.log(100)).exp()
        q, k = F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1)
        q, k = spin(q, angle), spin(k, angle)
        out, begin = [], 0
        for length in lengths or [x.shape[0]]:
            part = slice(begin, begin + length)
            self.keys[row, i].append((k[:, :, part], v[:, :, part]))
            ks, vs = (torch.cat(t, 2) for t in zip(*self.keys[row, i], strict=True))
            out.append(attend(q[:, :, part], ks, vs, 1.0)[0])
            begin += length
        x = x + lin(p, b + "sa.proj", torch.cat(out)) * g1
        z = F.layer_norm(x, (self.width,), p[b + "ca_norm.weight"], p[b + "ca_norm.bias"], 1e-6)
        bias = torch.cat((p[b + "ca.zero_k_bias"], p[b + "ca.v_bias"]))
        k, v = F.linear(self.memory[row], p[b + "ca.mat_kv.weight"], bias).chunk(2, -1)
        q, k, v = (heads(t[None], self.heads) for t in (lin(p, b + "ca.mat_q", z), k, v))
        x = x + lin(p, b + "ca.proj", attend(q, k, v, q.shape[-1] ** -0.5)[0])
        x = x + ffn(p, b + "ffn", norm(x) * (1 + s2) + b2) * g2
        return x - start

    def share_keys(self, i, frm, to):
        """Give a row the last keys of another."""
        self.keys[to, i].append(self.keys[frm, i][-1])

    def logits(self, row, x):
        scale, shift = lin(self.p, "head_nm.ada_lin.1", F.silu(self.pooled[row])).chunk(2, -1)
        return lin(self.p, "head", norm(x) * (1 + scale) + shift)

    def guide(self, cond, null):
        return self.cfg * cond + (1 - self.cfg) * null

    def draw(self, s, logits, weights=None):
        """Draw the bits of a step from its logits, and add their codes."""
        h, w = self.sizes[s]
        p = torch.softmax((logits / self.tau).reshape(1, -1, 2), -1)
        bits = multinomial(p, self.rng, self.log).reshape(h * w, -1)
        self.log.tokens.append(bits)
        signs = (2 * bits.double() - 1) * (1 if weights is None else weights[:, None])
        code = signs.T.reshape(1, -1, h, w) / math.sqrt(self.bits)
        if (h, w) != self.sizes[-1]:
            size = (1, *self.sizes[-1])
            code = F.interpolate(code[:, :, None], size=size, mode="trilinear")[:, :, 0]
        self.latent = self.latent + code

    def dense(self, s, rows="cn"):
        """A whole step; one row alone is not guided. Returns what each layer added."""
        streams, added = {row: self.embed(s, row) for row in rows}, []
        for i in range(self.depth):
            added.append({r: self.layer(i, r, x, self.angle(s)) for r, x in streams.items()})
            streams = {row: x + added[-1][row] for row, x in streams.items()}
        logits = [self.logits(row, x) for row, x in streams.items()]
        self.draw(s, self.guide(*logits) if len(rows) == 2 else logits[0])
        return added


def area(x, old, new):
    """Resize (L, C) from one map to another by area."""
    picture = x.T.reshape(1, -1, *old)
    return F.adaptive_avg_pool2d(picture, new)[0].flatten(1).T


def tail(run, rows):
    """`rows` by step: "cn", "c", "n" or nothing."""
    for s in range(len(run.sizes)):
        if rows.get(s, "cn"):
            run.dense(s, rows.get(s, "cn"))
        if rows.get(s, "cn") == "c":  # rows that come back find the keys of those that ran
            for i in range(run.depth):
                run.share_keys(i, "c", "n")


def focus(run, first, last, layer):
    """`layer`: the layer of the fusion, or a function of both streams that names it."""
    for s in range(len(run.sizes)):
        if not first <= s <= last:
            run.dense(s)
            continue
        c, n, angle = run.embed(s, "c"), run.embed(s, "n"), run.angle(s)
        fused = False
        for i in range(run.depth):
            if callable(layer):
                layer = layer(run, i, c, n) or layer
            if i == layer:
                c, fused = run.guide(c, n), True
            c = c + run.layer(i, "c", c, angle)
            if fused:
                run.share_keys(i, "c", "n")
            else:
                n = n + run.layer(i, "n", n, angle)
        run.draw(s, run.logits("c", c))


def gap_decision(early, late, spread, gap, divergence):
    """The adaptive choice of a layer, before layer `early`."""

    def choose(run, i, c, n):
        if i < early:
            return None
        rows = [run.logits(row, x) / run.tau for row, x in (("c", c), ("n", n))]
        cond, null, both = (
            torch.softmax(x.reshape(len(c), -1, 2), -1).numpy() for x in (*rows, run.guide(*rows))
        )

        def entropy(p):
            return -(p * np.log(np.maximum(p, 1e-12))).sum(-1)

        g = (entropy(null) - entropy(cond)).mean(-1)
        m = (both + cond) / 2
        kl = [(p * np.log(p / m)).sum(-1) for p in (both, cond)]
        j = ((kl[0] + kl[1]) / 2).mean(-1)
        q25, q50, q75, q95 = np.quantile(g, (0.25, 0.5, 0.75, 0.95))
        a = (q95 - q50) / (q75 - q25 + 1e-6)
        run.log.choice = (a, q95, np.quantile(j, 0.95))
        risky = a > spread and q95 > gap and run.log.choice[2] > divergence
        return early if risky else late

    return choose


def shared(run, steps, layers):
    for s in range(len(run.sizes)):
        c, n, angle = run.embed(s, "c"), run.embed(s, "n"), run.angle(s)
        for i in range(run.depth):
            d = run.layer(i, "c", c, angle)
            if s in steps and i in layers:
                run.share_keys(i, "c", "n")
                c, n = c + d, n + d
            else:
                c, n = c + d, n + run.layer(i, "n", n, angle)
        run.draw(s, run.guide(run.logits("c", c), run.logits("n", n)))


def lazy(run, keep, group):
    """`keep` {step: tokens kept}, the last steps."""
    latents, first = [run.latent], min(keep)
    forwards = [[s] for s in range(first)]
    forwards += [list(keep)] if group else [[s] for s in keep]
    for forward in forwards:
        if forward[0] < first:
            run.dense(forward[0])
            latents.append(run.latent)
            continue
        a, b = (f[0].flatten(1) for f in latents[-2:])
        update = 1 - (a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0))
        update = update.reshape(1, -1).T  # (H W, 1)
        kept, share = {}, 0.0
        for s in reversed(forward):
            size = run.sizes[s]
            score = area(update, run.sizes[-1], size)[:, 0].tolist()
            order = sorted(range(len(score)), key=lambda place: (-score[place], place))
            begin = int(share * len(score))
            kept[s] = sorted(order[begin : begin + keep[s]])
            share += keep[s] / len(score) if group else 0
        inputs = {s: [run.embed(s, row) for row in "cn"] for s in forward}
        angle = torch.cat([run.angle(s)[kept[s]] for s in forward])
        lengths, streams = [len(kept[s]) for s in forward], []
        for row in (0, 1):
            x = torch.cat([inputs[s][row][kept[s]] for s in forward])
            for i in range(run.depth):
                x = x + run.layer(i, "cn"[row], x, angle, lengths)
            streams.append(x.split(lengths))
        for place, s in enumerate(forward):
            rows = [x.clone() for x in inputs[s]]
            for row in (0, 1):
                rows[row][kept[s]] = streams[row][place]
            mask = torch.zeros(len(rows[0]), dtype=torch.float64)
            mask[kept[s]] = 1
            logits = run.guide(run.logits("c", rows[0]), run.logits("n", rows[1]))
            run.draw(s, logits, mask)
            latents.append(run.latent)


def depth(run, reference, turn):
    """Linear shares, weighted codes."""
    bits = max(1, math.ceil(math.log2(run.depth)))
    order = [int(format(i, f"0{bits}b")[::-1], 2) for i in range(2**bits)]
    order = [i for i in order if i < run.depth]
    for s in range(reference + 1):
        added = run.dense(s)
    for s in range(reference + 1, len(run.sizes)):
        old, new = run.sizes[s - 1], run.sizes[s]
        count = new[0] * new[1]
        mean = run.sizes[reference][0] * run.sizes[reference][1] / count
        change = sum((a["c"].norm(dim=1) + a["n"].norm(dim=1)) / 2 for a in added)
        change = area(change[:, None], old, new)[:, 0].tolist()
        ranking = sorted(range(count), key=lambda place: (change[place], place))
        shift = int(turn * (s - reference - 1) * count)
        share = torch.zeros(count, dtype=torch.float64)
        for rank, place in enumerate(ranking):
            p = ((rank + shift) % count + 0.5) / count
            share[place] = 2 * mean * p if mean <= 0.5 else 1 - 2 * (1 - mean) * (1 - p)
        used = torch.floor(share * run.depth + 1e-9)
        streams, fresh = {row: run.embed(s, row) for row in "cn"}, []
        for i in range(run.depth):
            inside = (used > order.index(i)).nonzero()[:, 0]
            fresh.append({row: area(added[i][row], old, new) for row in "cn"})
            for row, x in streams.items():
                if len(inside):
                    angle = run.angle(s)[inside]
                    fresh[i][row][inside] = run.layer(i, row, x[inside], angle)
                streams[row] = x + fresh[i][row]
        added = fresh
        run.draw(s, run.guide(*(run.logits(row, x) for row, x in streams.items())), share)


def skip_features(before, after):
    """SkipVAR's two features of grey pictures (h, w), by loops."""

    def magnitude(image):
        h, w = image.shape
        big, out = np.pad(image, 1), np.zeros((h, w))
        x = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]])
        for i in range(h):
            for j in range(w):
                patch = big[i : i + 3, j : j + 3]
                out[i, j] = math.hypot((patch * x).sum(), (patch * x.T).sum())
        return out

    first = np.abs(magnitude(after) - magnitude(before)).mean()
    spectrum = np.abs(np.fft.fftshift(np.fft.fft2(after)))
    h, w = after.shape
    radius = int(0.4 * min(h, w) / 2)
    high = sum(
        spectrum[i, j]
        for i in range(h)
        for j in range(w)
        if math.hypot(i - h // 2, j - w // 2) > radius
    )
    return first, high / (spectrum.sum() + 1e-6)
