"""Recorder: a Wrapper that fills a Trace while a generation runs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import accumulate

import torch
from torch import Tensor

from fastvar_lab.instruments.trace import Trace
from fastvar_lab.seam import Branch, Grid, Runner, Site, Wrapper, by_step
from fastvar_lab.tokens import distance_to_mean, product, wide

ATTENTION_CHUNK = 256  # queries whose attention weights are held at once


class Recorder(Wrapper):
    """Records tokens, latents, scores and kept masks; features and attention of named sites.

    Put it outermost, outside of a Stopwatch. Scores are recorded at every sublayer, at dense steps
    too, independent of the method: `score(x, grid, site)` computes them, by default pivotal token
    selection (FastVAR, Algorithm 1). `outputs`, `features` and `attention` name the sites whose
    outputs, inputs and attention shares are recorded. Each step of a group has a record of its own.
    Of a step that is drawn in several forwards, which compute all of it between them, scores are
    nan, and there are no features and outputs: a runner does not see which tokens are in which.
    Attention is that of the keys and the mask which the method reads; a runner with an `attend` of
    its own is recorded by what it is given. Raises ValueError if a method reads another number of
    keys than there are: of which steps they are is not known.
    """

    def __init__(
        self,
        inner: Runner,
        trace: Trace,
        *,
        features: Collection[Site] = (),
        outputs: Collection[Site] = (),
        attention: Collection[Site] = (),
        score: Callable[[Tensor, Grid, Site], Tensor] | None = None,
    ) -> None:
        super().__init__(inner)
        self.trace, self.score = trace, score or _pivotal
        self.feature_sites, self.output_sites = frozenset(features), frozenset(outputs)
        self.attention_sites = frozenset(attention)
        self.resumed: list[Grid] = []  # steps of a snapshot that were drawn
        self.cached: dict[int, list[tuple[int, int]]] = {}  # layer -> [(step, tokens in KV)]
        self.attention = AlreadyRead(inner) if attends_by_default(inner) else None
        self.full_masks: dict[int, Tensor] = {}  # tokens -> mask of ones, shared by all sublayers

    def recall(self, grid: Grid, tokens: Tensor | None, canvas: Tensor) -> None:
        if tokens is not None:
            self.resumed.append(grid)
        self.inner.recall(grid, tokens, canvas)

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        indices: list[Tensor | None] = []  # stays empty if the branch is not called

        def watched(x: Tensor, index: Tensor | None = None) -> Tensor:
            indices.append(index)
            return branch(x, index)

        delta = self.inner.sublayer(site, grid, watched, x)
        index = indices[0] if indices else x.new_empty((len(x), 0), dtype=torch.int64)
        dropped = (grid.index, site._replace(kind="attn")) in self.trace.order
        if index is None and x.shape[1] != grid.tokens and not dropped:
            # one of several forwards of a step
            nothing = x.new_full((len(x), grid.tokens), float("nan"), dtype=wide(x).dtype)
            self.trace.scores[grid.index, site] = nothing
            self.trace.kept[grid.index, site] = self._full_mask(nothing)
            return delta
        parts = by_step(self, site, grid, x), by_step(self, site, grid, delta)
        places = self._places(site, grid, index)
        for step, tokens, out, place in zip(grid.steps, *parts, places, strict=True):
            self._note(site, step, tokens, out, place)
        return delta

    def _places(self, site: Site, grid: Grid, index: Tensor | None) -> list[Tensor | None]:
        """Return the places (B, K) on the map of each step of a forward; None for all in order."""
        if index is None or len(grid.steps) == 1:
            return [index] * len(grid.steps)
        counts = [self.forwarded(site, step) if index.shape[1] else 0 for step in grid.steps]
        starts = accumulate((step.tokens for step in grid.steps), initial=0)
        return [part - start for part, start in zip(index.split(counts, dim=1), starts)]

    def _note(self, site: Site, grid: Grid, x: Tensor, delta: Tensor, index: Tensor | None) -> None:
        """Record what one sublayer received of a step, x, and returned for it, delta."""
        key = (grid.index, site)
        if index is None and x.shape[1] != grid.tokens:  # the others are dropped from the stack
            index = self.trace.order[grid.index, site._replace(kind="attn")]
        self.trace.scores[key] = _on_map(self.score(x, grid, site), index, grid.tokens)
        if index is None:
            self.trace.kept[key] = self._full_mask(x)
        else:
            mask = torch.zeros(len(x), grid.tokens, dtype=torch.bool, device=x.device)
            self.trace.kept[key] = mask.scatter_(1, index[: len(x)], True)
            self.trace.order[key] = index
        if site in self.feature_sites:
            self.trace.features[key] = x
        if site in self.output_sites:
            self.trace.outputs[key] = delta

    def attend(
        self,
        site: Site,
        grid: Grid,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        if site.kind != "attn" or not self.attention_sites:
            return self.inner.attend(site, grid, q, k, v, mask, scale)
        again = grid.index in dict(self.cached.get(site.layer, ()))  # another forward of the step
        counts, keys = self._count(site, grid, k), k.shape[2]
        if site not in self.attention_sites:
            return self.inner.attend(site, grid, q, k, v, mask, scale)
        if self.attention is not None:
            k, v, mask = self.inner.reads(site, grid, q, k, v, mask, scale)
        if k.shape[2] != keys:
            raise ValueError(
                f"attention of layer {site.layer}, step {grid.index} ({grid.name}), reads "
                f"{k.shape[2]} of {keys} keys; it is recorded if a mask drops the others"
            )
        added = None if len(grid.steps) > 1 else mask  # a group is attended to without one
        queries = q.split(counts, dim=2) if len(grid.steps) > 1 else [q]
        for step, part in zip(grid.steps, queries, strict=True):
            if part.shape[2]:
                self._note_attention(site, step, part, k, added, scale, again)
        return (self.attention or self.inner).attend(site, grid, q, k, v, mask, scale)

    def _count(self, site: Site, grid: Grid, k: Tensor) -> list[int]:
        """Note the keys that a forward adds to a layer; return their number by step."""
        if site.layer not in self.cached:
            early = [(g.index, self.forwarded(site, g)) for g in self.resumed]
            self.cached[site.layer] = [part for part in early if part[1]]
        parts = self.cached[site.layer]
        counts = [k.shape[2] - sum(n for _, n in parts)]
        if parts and parts[-1][0] == grid.index:
            parts[-1] = grid.index, parts[-1][1] + counts[0]
            return counts
        if len(grid.steps) > 1:
            counts = [self.forwarded(site, step) for step in grid.steps]
        parts += [(s.index, n) for s, n in zip(grid.steps, counts) if n or len(counts) == 1]
        return counts

    def _note_attention(
        self,
        site: Site,
        grid: Grid,
        q: Tensor,
        k: Tensor,
        mask: Tensor | None,
        scale: float,
        again: bool,
    ) -> None:
        """Record how the queries of a step share their attention among it and earlier steps."""
        key = (grid.index, site)
        parts = [part for part in self.cached[site.layer] if part[0] <= grid.index]
        lengths = [n for _, n in parts]
        k = k[:, :, : sum(lengths)]
        shares = _attention_shares(q, k, lengths, scale, mask)
        if again:
            shares = torch.cat((self.trace.attention[key], shares), dim=2)
        self.trace.attention[key] = shares
        self.trace.seen[key] = tuple(step for step, _ in parts)
        if mask is not None:
            read = (mask[:, :, 0] > float("-inf")).split(lengths, dim=-1)
            self.trace.read[key] = torch.stack([part.sum(-1) for part in read], dim=-1)

    def after(
        self, grid: Grid, tokens: Tensor | None, canvas: Tensor, logits: Tensor | None = None
    ) -> None:
        self.inner.after(grid, tokens, canvas, logits)
        self.trace.tokens[grid.index] = tokens
        self.trace.canvases[grid.index] = canvas

    def _full_mask(self, x: Tensor) -> Tensor:
        """Return a mask (B, L) of ones for tokens `x` (B, L, C)."""
        shape = x.shape[:2]
        mask = self.full_masks.get(x.shape[1])
        if mask is None or mask.shape != shape:
            mask = torch.ones(shape, dtype=torch.bool, device=x.device)
            self.full_masks[x.shape[1]] = mask
        return mask


def _on_map(scores: Tensor, index: Tensor | None, tokens: int) -> Tensor:
    """Scatter scores to all tokens of a step; nan at tokens dropped from the whole stack."""
    if scores.shape[1] == tokens:
        return scores
    full = scores.new_full((len(scores), tokens), float("nan"))
    if index is not None and index.shape == scores.shape:
        full.scatter_(1, index, scores)
    return full


def _pivotal(x: Tensor, grid: Grid, site: Site) -> Tensor:
    return distance_to_mean(x)


def attends_by_default(runner: Runner) -> bool:
    """Return whether attention is the default one: that of what the method reads."""
    while isinstance(runner, Wrapper) and type(runner).attend is Wrapper.attend:
        runner = runner.inner
    return type(runner).attend is Runner.attend


class AlreadyRead(Runner):
    """Computes the default attention of `inner` over what was read already."""

    def __init__(self, inner: Runner) -> None:
        self.inner = inner

    def forwarded(self, site: Site, grid: Grid) -> int:
        return self.inner.forwarded(site, grid)


def _attention_shares(
    q: Tensor, k: Tensor, lengths: list[int], scale: float, mask: Tensor | None
) -> Tensor:
    """Sum each query's attention over consecutive parts of the keys: (B, H, K, parts).

    `lengths` are the keys of each part; a `mask` is added to the scores. Queries are processed in
    chunks to save memory.
    """
    out, keys = [], wide(k).transpose(-1, -2)
    for chunk in q.split(ATTENTION_CHUNK, dim=2):
        products = product(chunk, keys) * scale
        weights = (products if mask is None else products + mask).softmax(-1)
        out.append(torch.stack([w.sum(-1) for w in weights.split(lengths, dim=-1)], dim=-1))
    return torch.cat(out, dim=2)
