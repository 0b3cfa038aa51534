"""Straight-line references of whole-stack and cache methods: one picture, lists and loops.

They run the layers of a model, but nothing of `fastvar_lab.methods`.
"""

import math
import zlib

import numpy as np
import torch
import torch.nn.functional as F

import fastvar_lab as fv


class Plain(fv.Runner):
    """Runs tokens at `index`, and keeps what each sublayer adds; `look` replaces attention."""

    def __init__(self, look=None):
        self.index, self.added, self.look = None, [], look

    def sublayer(self, site, grid, branch, x):
        out = branch(x, self.index)
        self.added.append((site.layer, out))
        return out

    def attend(self, site, grid, q, k, v, mask=None, scale=1.0):
        if site.kind == "attn" and self.look is not None:
            return self.look(site.layer, grid, q, k, v, scale)
        return super().attend(site, grid, q, k, v, mask, scale)


@torch.no_grad()
def run(model, text, stack, seed=1, alone=None, skip=(), look=None):
    """Generate one picture; `stack(grid, blocks, x, run)` returns states and the mask of codes."""
    backbone, quantizer, grids = model.transformer, model.quantizer, model.grids()
    runner = Plain(look)
    condition = backbone.with_null(model.condition([text]))
    both = backbone.begin(condition, grids, runner)
    canvas, stream = model.blank(1, grids[-1]), fv.Keyed((seed,)).start(model.device)
    for grid in grids:
        if grid.index in skip:
            continue
        null = alone is not None and grid.index >= alone
        state = both.on(slice(1, 2)) if null else both
        x = backbone.embed(state, grid, quantizer.next_input(canvas, grid))
        runner.added = []
        x, places = stack(grid, backbone.layers(state, grid, runner), x, runner)
        drawn, logits = backbone.sample(
            state, x, grid, not null, model.sampling, stream, quantizer.codebook
        )
        stack.logits = logits
        canvas = quantizer.accumulate(canvas, drawn, grid, places)
    return canvas


def through(blocks, x):
    for block in blocks:
        x = block(x)
    return x


def at(x, index):
    return torch.stack([row[i] for row, i in zip(x, index, strict=True)])


def spread(values, old, new):
    """Nearest resize of (h * w, ...) from map `old` to `new`."""
    picture = values.reshape(old.h, old.w, -1)
    rows = [math.floor(i * old.h / new.h) for i in range(new.h)]
    columns = [math.floor(j * old.w / new.w) for j in range(new.w)]
    return picture[rows][:, columns].reshape(new.h * new.w, -1)


def shrink(values, old, new):
    """Area resize of (h * w, C) from map `old` to `new`."""
    picture = values.reshape(old.h, old.w, -1)
    out = []
    for i in range(new.h):
        for j in range(new.w):
            rows = slice(i * old.h // new.h, math.ceil((i + 1) * old.h / new.h))
            columns = slice(j * old.w // new.w, math.ceil((j + 1) * old.w / new.w))
            out.append(picture[rows, columns].mean((0, 1)))
    return torch.stack(out)


def principal_high_pass(x, h, w, weight, iterations):
    """StepVAR's score of one row (L, C), by numpy."""
    x = x.numpy()
    centred = x - x.mean(0)
    v = sum(np.linalg.norm(token) * token for token in centred)
    for _ in range(iterations):
        v = centred.T @ (centred @ v)
        v = v / np.linalg.norm(v)
    image, texture = x.reshape(h, w, -1), []
    for i in range(h):
        for j in range(w):
            near = image[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            texture.append(((image[i, j] - near.reshape(-1, x.shape[1]).mean(0)) ** 2).sum())
    return weight * np.abs(centred @ v) + np.array(texture)


class StepVAR:
    def __init__(self, kept, weight=1.0, iterations=5):
        self.kept, self.weight, self.iterations = kept, weight, iterations

    def __call__(self, grid, blocks, x, runner):
        k = self.kept.get(grid.index)
        if k is None:
            return through(blocks, x), None
        index = []
        for row in x:
            score = principal_high_pass(row, grid.h, grid.w, self.weight, self.iterations)
            index.append(np.argsort(-score, kind="stable")[:k].tolist())
        runner.index = torch.tensor(index)
        y = through(blocks, at(x, index))
        runner.index, out = None, torch.empty_like(x)
        for row in range(len(x)):
            for cell in range(grid.h * grid.w):
                here = divmod(cell, grid.w)
                away = [math.dist(here, divmod(other, grid.w)) for other in index[row]]
                out[row, cell] = y[row, int(np.argmin(away))]
        return out, None


class SparseVAR:
    def __init__(self, first, layers, threshold, stride, similarity):
        self.first, self.layers, self.threshold = first, layers, threshold
        self.stride, self.similarity = stride, similarity
        self.logits = self.change = self.before = None
        self.kept = {}

    def __call__(self, grid, blocks, x, runner):
        tokens, places = grid.h * grid.w, None
        if grid.index < self.first:
            index, out = None, through(blocks, x)
        else:
            old = self.before
            count = int((self.change > self.threshold * self.change.max()).sum())
            count = tokens * count // len(self.change)
            score = spread(self.change, old, grid)[:, 0].numpy()
            index = set(np.argsort(score, kind="stable")[tokens - count :].tolist())
            anchors = [
                i * grid.w + j
                for i in range(grid.h)
                for j in range(grid.w)
                if (i % self.stride == 0 or i == grid.h - 1)
                and (j % self.stride == 0 or j == grid.w - 1)
            ]
            index = sorted(index | set(anchors))
            runner.index = torch.tensor([index] * len(x))
            y = through(blocks, x[:, index])
            runner.index = None
            logits = spread(self.logits[0].flatten(1), old, grid)
            out, places = x.clone(), torch.zeros(1, tokens, dtype=torch.bool)
            out[:, index] = y
            places[:, index] = True
            for cell in set(range(tokens)) - set(index):
                here = divmod(cell, grid.w)
                near = sorted(
                    anchors,
                    key=lambda a: (math.dist(here, divmod(a, grid.w)), a),
                )[:4]
                cosine = [float(F.cosine_similarity(logits[cell], logits[a], dim=0)) for a in near]
                best = int(np.argmax(cosine))
                if cosine[best] > self.similarity:
                    out[:, cell] = out[:, near[best]]
                    places[:, cell] = True
        self.kept[grid.index] = tokens if index is None else len(index)
        total = 0
        for layer, delta in runner.added:
            if layer in range(*self.layers):
                total = total + delta
        change = (total[:, grid.prefix :] ** 2).mean(-1).mean(0)
        if index is not None:
            whole = torch.zeros(tokens, dtype=change.dtype)
            whole[index] = change
            change = whole
        self.change, self.before = change, grid
        return out, places


class FasterVAR:
    def __init__(self, ranks, ends, mix=True, drawn=False, seed=0):
        self.ranks, self.ends, self.mix, self.drawn, self.seed = ranks, ends, mix, drawn, seed
        self.outputs = None

    def __call__(self, grid, blocks, x, runner):
        outputs = []
        for chunk, (first, end) in enumerate(self.ends):
            share = self.ranks.get(grid.index)
            if share is None:
                x = through(blocks[first:end], x)
            else:
                r = int(share * grid.tokens) + 1
                host = torch.Generator().manual_seed(
                    zlib.crc32(f"{self.seed}/{grid.index}/{chunk}".encode())
                )
                u = torch.rand(grid.tokens, generator=host, dtype=torch.float32)
                q = torch.randn(grid.tokens, r, generator=host, dtype=torch.float32).double()
                rows = []
                old, outs = self.outputs
                before = outs[chunk][-len(x) :]
                picks = []
                for row in x:
                    key = (row**2).sum(-1).log() - (-u.clamp(min=1e-20).log()).log()
                    picks.append(np.argsort(-key.numpy(), kind="stable")[:r].tolist())
                mixed = torch.stack([q.T @ row / math.sqrt(r) for row in x])
                where = picks if self.drawn or not self.mix else [list(range(r))] * len(x)
                runner.index = torch.tensor(where)
                y = through(blocks[first:end], mixed if self.mix else at(x, picks))
                runner.index = None
                for row, pick in enumerate(picks):
                    full = shrink(before[row][old.prefix :], old, grid)
                    full[pick] = y[row]
                    rows.append(full)
                x = torch.stack(rows)
            outputs.append(x)
        self.outputs = grid, outputs
        return x, None


class Whole:
    def __call__(self, grid, blocks, x, runner):
        return through(blocks, x), None


class KeptKeys:
    """Attention over keys and values that are really deleted, by layer, row and head.

    `select(layer, grid, row, head, q, k, source)` returns what is kept after the attention.
    """

    def __init__(self, rows, heads, before=None, after=None, rounded=None):
        self.rows, self.heads = rows, heads
        self.before, self.after, self.rounded = before, after, rounded
        self.held = {}  # (layer, row, head) -> keys, values, step of each

    def __call__(self, layer, grid, q, k, v, scale):
        out = torch.empty_like(q)
        for row in range(len(q)):
            for head in range(q.shape[1]):
                place = layer, row, head
                new_k, new_v = (t[row, head, -grid.tokens :].clone() for t in (k, v))
                if self.rounded is not None:
                    new_k, new_v = self.rounded(new_k), self.rounded(new_v)
                source = torch.full((grid.tokens,), grid.index)
                if place in self.held:
                    old = self.held[place]
                    if self.before is not None:
                        stay = self.before(layer, grid, head, old[2])
                        old = [part[stay] for part in old]
                    new = (new_k, new_v, source)
                    self.held[place] = [torch.cat(pair) for pair in zip(old, new, strict=True)]
                else:
                    self.held[place] = [new_k, new_v, source]
                keys, values, _ = self.held[place]
                weights = torch.softmax(q[row, head] @ keys.T * scale, -1)
                out[row, head] = weights @ values
                if self.after is not None:
                    stay = self.after(layer, grid, q[row, head], keys, scale)
                    self.held[place] = [part[stay] for part in self.held[place]]
        return out

    def keys(self):
        """The keys held by one row, over layers and heads."""
        return sum(len(held[0]) for (_, row, _), held in self.held.items() if row == 0)
