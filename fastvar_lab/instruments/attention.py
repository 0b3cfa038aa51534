"""The attention of one sublayer, token by token: the step runs again, up to that sublayer."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastvar_lab.generation import Generation, resumable, run
from fastvar_lab.instruments.recorder import AlreadyRead, attends_by_default
from fastvar_lab.instruments.trace import Trace
from fastvar_lab.models.model import Model
from fastvar_lab.seam import Branch, Grid, Runner, Site, Wrapper
from fastvar_lab.snapshots import Held, Snapshot, rerun_step
from fastvar_lab.tokens import product, wide

ATTENTION_KINDS = ("attn", "cross")


@dataclass(frozen=True, eq=False)
class Attention:
    """Queries and keys of one attention of a scale step: q (B, H, K, c), k (B, H, T, c).

    `mask` is added to the products, which are multiplied by `scale`. `queries` (B, K) are the
    tokens of the step that are queries, None for all. Of self-attention, `keys` are pairs of a
    step and its tokens (B, n) that are keys, in order, None for all; of attention to the text there
    are none, and T are its rows.
    """

    site: Site
    grid: Grid
    q: Tensor
    k: Tensor
    mask: Tensor | None
    scale: float
    queries: Tensor | None
    keys: tuple[tuple[Grid, Tensor | None], ...] = ()

    def query(self, token: int, row: int = 0) -> int | None:
        """Return the place of a token of the map among the queries; None if it was pruned."""
        token += self.grid.prefix
        if self.queries is None:
            return token
        places = (self.queries[row] == token).nonzero()
        return int(places[0]) if len(places) else None

    def weights(self, token: int, row: int = 0) -> Tensor | None:
        """Return the attention of a token of the map: (H, T), in float32 at least, rows sum to 1.

        None if the token was pruned, and so has no query.
        """
        place = self.query(token, row)
        if place is None:
            return None
        products = product(self.k[row], self.q[row, :, place].unsqueeze(-1)).squeeze(-1)
        products = products * self.scale
        if self.mask is not None:
            products = products + wide(self.mask[min(row, len(self.mask) - 1), :, 0])
        return products.softmax(-1)

    def on_maps(self, weights: Tensor, row: int = 0) -> tuple[dict[int, Tensor], Tensor]:
        """Spread weights (T,) over the maps of their steps: (h, w) by step, and those of the text.

        Tokens that were pruned have no key and are nan. The text is that of a prefix, or all of an
        attention to the text.
        """
        if not self.keys:
            return {}, weights
        maps, text = dict[int, Tensor](), weights.new_zeros(0)
        begin = 0
        for grid, tokens in self.keys:
            count = grid.tokens if tokens is None else tokens.shape[1]
            part, begin = weights[begin : begin + count], begin + count
            if tokens is not None:
                whole = part.new_full((grid.tokens,), float("nan"))
                part = whole.scatter(0, tokens[row], part)
            if grid.prefix:
                text = part[: grid.prefix]
            maps[grid.index] = part[grid.prefix :].view(grid.h, grid.w)
        return maps, text


class _Reached(Exception):
    """Raised when all wanted sublayers have run."""


class _Listener(Wrapper):
    """Records queries and keys of some sites of one step, and stops the generation after them.

    Sublayers of the step whose `outputs` are known are not computed.
    """

    def __init__(self, inner: Runner, step: int, sites: Collection[Site], outputs: Held) -> None:
        super().__init__(inner)
        self.step, self.waiting, self.outputs = step, set(sites), outputs
        self.records: dict[Site, dict[str, Any]] = {}
        self.index: Tensor | None = None
        self.default = AlreadyRead(inner) if attends_by_default(inner) else None

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        if grid.index != self.step or site not in self.waiting:
            known = self.outputs.get((grid.index, site)) if grid.index == self.step else None
            return self.inner.sublayer(site, grid, branch, x) if known is None else known

        def watched(x: Tensor, index: Tensor | None = None) -> Tensor:
            self.index = index
            return branch(x, index)

        out = self.inner.sublayer(site, grid, watched, x)
        self.waiting.discard(site)
        if not self.waiting:
            raise _Reached
        return out

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
        if grid.index != self.step or site not in self.waiting:
            return self.inner.attend(site, grid, q, k, v, mask, scale)
        if self.default is not None:
            k, v, mask = self.inner.reads(site, grid, q, k, v, mask, scale)
        self.records[site] = {
            "q": q.clone(), "k": k.clone(),  # views of the cache and of buffers that are used again
            "mask": mask, "scale": scale, "queries": self.index,
        }  # fmt: skip
        return (self.default or self.inner).attend(site, grid, q, k, v, mask, scale)


def attention_at(
    model: Model,
    generation: Generation,
    trace: Trace,
    step: int,
    layer: int,
    outputs: Held | None = None,
) -> dict[str, Attention]:
    """Return the attention of one layer at a scale step, by kind: "attn", and "cross" if any.

    The step runs again from the generation's snapshot, up to this layer, so that nothing need have
    been recorded; methods that depend on earlier steps run from the first of these. `trace` is that
    of the generation. `outputs` are those of its sublayers (B, L, C) by step and site, by default
    those that the trace holds: with them, earlier layers of the step are not computed again. A kind
    whose sublayer computed nothing is left out; so is all of a skipped step. Raises ValueError
    without a snapshot, for a step or layer that the model does not have, and for steps that run in
    one forward with others, or in several.

    >>> import fastvar_lab as fv
    >>> model = fv.load("tiny")
    >>> run, trace = fv.observe(model, "a red ring", fv.PRESETS["tiny"], seed=1, snapshot=True)
    >>> attended = attention_at(model, run, trace, step=9, layer=0)
    >>> attended["attn"].k.shape  # both rows, heads, keys of all steps, channels
    torch.Size([2, 4, 1465, 64])
    """
    held, grids = resumable(model, generation), trace.grids
    if not 0 <= step < len(grids) or not 0 <= layer < model.depth:
        raise ValueError(
            f"there are steps 0 to {len(grids) - 1} and layers 0 to {model.depth - 1}; not step "
            f"{step}, layer {layer}"
        )
    grid, acts = grids[step], generation.method.acts(grids)
    if acts[step].skips:
        return {}
    together = acts[step].joined or (step + 1 < len(grids) and acts[step + 1].joined)
    if together or len(model.transformer.parts(grids, step, held.request.sampling)) > 1:
        raise ValueError(
            f"step {step} ({grid.name}) does not run in one forward of its own, which a token's "
            "attention is read from"
        )
    sites = [Site(layer, k) for k in model.transformer.kinds if k in ATTENTION_KINDS]
    earlier = trace.outputs if outputs is None else outputs
    records = None
    if all((step, Site(i, k)) in earlier for i in range(layer) for k in model.transformer.kinds):
        records = _replayed(model, held, trace, step, sites, earlier)
    if records is None:
        records = _listened(model, held, step, sites, {})
    keys = {"attn": _keys(trace, grids[: step + 1], Site(layer, "attn"))}
    attended = {
        site.kind: Attention(site, grid, **parts, keys=keys.get(site.kind, ()))
        for site, parts in records.items()
    }
    if "attn" in attended:
        _check_keys(attended["attn"])
    return attended


def _listened(
    model: Model, snapshot: Snapshot, step: int, sites: Collection[Site], outputs: Held
) -> dict[Site, dict[str, Any]]:
    """Run a step again until some sites are done; return their queries and keys."""
    listeners: list[_Listener] = []

    def listen(inner: Runner) -> Runner:
        listeners.append(_Listener(inner, step, sites, outputs))
        return listeners[-1]

    start = snapshot.start(rerun_step(snapshot, step))
    with suppress(_Reached):
        run(model, snapshot.request, snapshot.method, start, watch=[listen])
    return listeners[0].records


def _replayed(
    model: Model,
    snapshot: Snapshot,
    trace: Trace,
    step: int,
    sites: Collection[Site],
    outputs: Held,
) -> dict[Site, dict[str, Any]] | None:
    """Do as `_listened`, with earlier layers' outputs; None if that selects other tokens.

    Methods may choose their tokens in an earlier layer of the step, which does not run here.
    """
    try:
        records = _listened(model, snapshot, step, sites, outputs)
    except Exception:  # a method that needs what it did in earlier layers
        return None
    for site, record in records.items():
        before, now = trace.order.get((step, site)), record["queries"]
        alike = before is None if now is None else before is not None and torch.equal(before, now)
        if not alike:
            return None
    return records


def _keys(
    trace: Trace, grids: tuple[Grid, ...], site: Site
) -> tuple[tuple[Grid, Tensor | None], ...]:
    """Return the tokens of each step that a layer's attention has keys of."""
    parts: list[tuple[Grid, Tensor | None]] = []
    for grid in grids:
        if grid.index in trace.tokens and trace.tokens[grid.index] is None:
            continue
        order = trace.order.get((grid.index, site))
        if order is None or order.shape[1]:
            parts.append((grid, order))
    return tuple(parts)


def _check_keys(attention: Attention) -> None:
    """Raise ValueError if a trace does not say which tokens the keys are of."""
    known = sum(grid.tokens if t is None else t.shape[1] for grid, t in attention.keys)
    if known != attention.k.shape[2]:
        raise ValueError(
            f"the trace knows {known} keys of {attention.site.kind} of layer "
            f"{attention.site.layer} at {attention.grid.name}, where {attention.k.shape[2]} are "
            "read: it is of another generation, or was recorded before the order of tokens was"
        )


def mean_weights(attention: Attention, token: int, row: int = 0) -> Tensor | None:
    """Return the attention of a token of the map, averaged over heads: (T,); None if pruned."""
    weights = attention.weights(token, row)
    return None if weights is None else torch.mean(weights, dim=0)
