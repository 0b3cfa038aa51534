"""Recorder: a Wrapper that fills a Trace while a generation runs."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from fastvar_lab.instruments.trace import Trace
from fastvar_lab.seam import Branch, Grid, Runner, Site, Wrapper
from fastvar_lab.tokens import distance_to_mean, product, wide

ATTENTION_CHUNK = 256  # queries whose attention weights are held at once


class Recorder(Wrapper):
    """Records tokens, latents, scores and kept masks; features and attention of named sites.

    Put it outermost, outside of a Stopwatch. Scores are recorded at every sublayer, at dense steps
    too, independent of the method: `score(x, grid, site)` computes them, by default pivotal token
    selection (FastVAR, Algorithm 1). `outputs`, `features` and `attention` name the sites whose
    outputs, inputs and attention shares are recorded. Recording attention of a resumed run needs
    `trace.grids` filled beforehand.
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
        self.cached: dict[int, list[tuple[int, int]]] = {}  # layer -> [(step, tokens in KV)]
        self.full_masks: dict[int, Tensor] = {}  # tokens -> mask of ones, shared by all sublayers

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        key = (grid.index, site)
        indices: list[Tensor | None] = []  # stays empty if the branch is not called

        def watched(x: Tensor, index: Tensor | None = None) -> Tensor:
            indices.append(index)
            return branch(x, index)

        delta = self.inner.sublayer(site, grid, watched, x)
        index = indices[0] if indices else x.new_empty((len(x), 0), dtype=torch.int64)
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
        return delta

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
        if site.kind == "attn" and self.attention_sites:
            if site.layer not in self.cached:  # steps before a resumed run
                early = [(g.index, self.forwarded(site, g)) for g in self.trace.grids[: grid.index]]
                self.cached[site.layer] = [part for part in early if part[1]]
            parts = self.cached[site.layer]
            parts.append((grid.index, k.shape[2] - sum(n for _, n in parts)))
            if site in self.attention_sites:
                key = (grid.index, site)
                self.trace.attention[key] = _attention_shares(q, k, [n for _, n in parts], scale)
                self.trace.seen[key] = tuple(step for step, _ in parts)
        return self.inner.attend(site, grid, q, k, v, mask, scale)

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


def _attention_shares(q: Tensor, k: Tensor, lengths: list[int], scale: float) -> Tensor:
    """Sum each query's attention over consecutive parts of the keys: (B, H, K, parts).

    `lengths` are the keys of each part. Queries are processed in chunks to save memory.
    """
    out, keys = [], wide(k).transpose(-1, -2)
    for chunk in q.split(ATTENTION_CHUNK, dim=2):
        weights = (product(chunk, keys) * scale).softmax(-1)
        out.append(torch.stack([w.sum(-1) for w in weights.split(lengths, dim=-1)], dim=-1))
    return torch.cat(out, dim=2)
