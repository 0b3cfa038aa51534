"""One generation under `Prune`: selects tokens, runs them, restores the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fastvar_lab.methods.observer import Observer, observer
from fastvar_lab.methods.restore import Cached
from fastvar_lab.methods.schedule import ScheduledRunner, kept
from fastvar_lab.methods.select import check, first, ranking, score
from fastvar_lab.seam import Block, Branch, Grid, Handles, Site, Stack
from fastvar_lab.tokens import gather, resize, rows_like, same_rows, scatter, wide

if TYPE_CHECKING:
    from fastvar_lab.methods.prune import Prune


class Stored(NamedTuple):
    """A whole branch output (B, L, C) and the step that it belongs to."""

    output: Tensor
    grid: Grid


class PruneRunner(ScheduledRunner):
    """Runs one generation under `Prune`; holds the branch outputs of the cache step."""

    def __init__(
        self,
        method: Prune,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor],
    ) -> None:
        super().__init__(method, grids, depth)
        self.method, self.cache_index = method, method.cache_index(grids)
        self.cache = {
            site: Stored(out, grids[step])
            for (step, site), out in held.items()
            if step == self.cache_index
        }
        since = method.watched(grids)
        rules = [observer(rule, grids, depth, since) for rule in (method.select, method.restore)]
        self.select, self.restore = rules
        self.observers = [rule for rule in rules if isinstance(rule, Observer)]
        self.by_layer = method.granularity != "stack"
        self.oracle = getattr(method.select, "needs_output", False)
        self.rolling = getattr(method.restore, "rolling", False)
        self.always = getattr(method.restore, "always", None)
        self.live = slice(None)  # the guidance rows that run
        self.index: tuple[Any, Tensor] | None = None
        self.ranking_of: tuple[Any, Tensor] | None = None  # a step, for all its sublayers
        self.inside: Tensor | None = None  # the tokens that run through a pruned stack
        self.change: Tensor | None = None  # (B, L), in a stack whose true output is looked at
        self.stacked: Stored | None = None  # what a whole stack adds
        self.highest: Tensor | None = None  # scores (B, L) of the step that are not at hand
        self.wrong: Callable[[Grid, Tensor], None] = lambda grid, wrong: None

    def forwarded(self, site: Site, grid: Grid) -> int:
        tokens = super().forwarded(site, grid)
        return grid.tokens if self.oracle and tokens else tokens

    def prepare(self, handles: Handles) -> None:
        self.wrong = handles.wrong
        for one in self.observers:
            one.prepare(handles)

    def keep_rows(self, rows: slice) -> None:
        self.live = rows  # the cache keeps all rows: a snapshot may resume before they are dropped
        for one in self.observers:
            one.keep_rows(rows)

    def stack(self, grid: Grid, blocks: Stack, x: Tensor) -> Tensor:
        site = Site(self.layers.start, "attn")
        if self.method.granularity != "stack" or self.ratio(site, grid) == 0:
            return super().stack(grid, blocks, x)
        for block in blocks[: self.layers.start]:
            x = block(x)
        inner = blocks[self.layers.start : self.layers.stop]
        if self.oracle:
            x = self.changed_most(site, grid, inner, x)
        else:
            index = self.inside = self.choose(site, grid, x)
            states = gather(x, index)
            for block in inner:
                states = block(states)
            self.inside = None
            x = self.fill(states, index, grid, x)
        for block in blocks[self.layers.stop :]:
            x = block(x)
        return x

    def changed_most(self, site: Site, grid: Grid, blocks: Sequence[Block], x: Tensor) -> Tensor:
        """Run all tokens through a stack, and restore those that its sublayers changed least."""
        states, self.change = x, wide(x).new_zeros(x.shape[:2])
        for block in blocks:
            states = block(states)
        x, self.change = x[: len(states)], self.change[: len(states)]
        index = self.choose(site, grid, x, self.change)
        self.change = None
        return self.fill(gather(states, index), index, grid, x)

    def fill(self, states: Tensor, index: Tensor, grid: Grid, x: Tensor) -> Tensor:
        """Return all hidden states (B, L, C) after a pruned stack from those of kept tokens.

        They have the rows of `states`: guidance may merge both rows inside.
        """
        x, index = x[: len(states)], index[: len(states)]
        name = f"{self.method.restore!r}"
        if hasattr(self.restore, "fill"):
            out: Tensor = self.restore.fill(states, index, grid, x)
            check(f"{name}.fill", out, tuple(x.shape))
            return out
        if self.stacked is None and self.cache_index is not None:
            parts = [stored for site, stored in self.cache.items() if site.layer in self.layers]
            outputs = same_rows(*(stored.output for stored in parts))
            total = wide(outputs[0]).clone()
            for output in outputs[1:]:
                total += output
            self.stacked = Stored(total, parts[0].grid)
        fresh = states - gather(x, index)
        added = self.restore.restore(fresh, index, grid, self.on_rows(self.stacked, len(x)))
        check(f"{name}.restore", added, tuple(x.shape))
        if self.rolling:
            self.stacked = Stored(added, grid)
        out = x + added  # under autocast wider than x, which may enter the layers in 16 bits
        return scatter(out, index, states.to(out.dtype))

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        index = None if self.inside is None else self.inside[: len(x)]
        if index is not None:
            out = branch(x, index)
        elif self.change is not None:
            out = branch(x)
            cached = self.on_rows(self.cache.get(site), len(x))
            change = out - _resized(cached, grid)
            self.change[: len(x)] += score(self.method.select, change, grid, site, self.select)
        elif self.ratio(site, grid) == 0:
            out = branch(x)
            rolls = self.rolling and self.cache_index is not None and grid.index > self.cache_index
            if self.prunes(site) and (rolls or grid.index == self.cache_index):
                self.cache[site], self.stacked = Stored(out, grid), None
        else:
            out = self.pruned(site, grid, branch, x)
        for one in self.observers:
            one.added(site, grid, out, index)
        return out

    def pruned(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        """Return the output (B, L, C) of a sublayer that computes some tokens."""
        cached = self.source(site, grid, len(x))
        if self.oracle:
            whole = branch(x)
            index = self.choose(site, grid, whole - _resized(cached, grid))
            fresh = gather(whole, index)
        else:
            index = self.choose(site, grid, x)
            fresh = branch(gather(x, index), index)
        out: Tensor = self.restore.restore(fresh, index, grid, cached)
        check(f"{self.method.restore!r}.restore", out, tuple(x.shape))
        if self.rolling:
            self.cache[site] = Stored(out, grid)
        return out

    def source(self, site: Site, grid: Grid, rows: int) -> Cached | None:
        """Return what the pruned tokens of a sublayer are restored from."""
        return self.on_rows(self.cache.get(site), rows)

    def on_rows(self, stored: Stored | None, rows: int) -> Cached | None:
        """Return a stored output for the guidance rows that run, without text tokens."""
        if stored is None:
            return None
        output, grid = stored
        output = rows_like(output, rows, self.live)
        return Cached(output[:, grid.prefix :], grid.h, grid.w)

    def choose(self, site: Site, grid: Grid, x: Tensor, scores: Tensor | None = None) -> Tensor:
        """Return the tokens to forward, (B, K); the granularity decides how often they change.

        `scores` (B, L) are those of the selector, if they are known.
        """
        scope = {"sublayer": site, "block": site.layer}.get(self.method.granularity)
        now = (grid.index, scope, kept(grid.tokens, self.ratio(site, grid)), len(x))
        if self.index is None or self.index[0] != now:
            ranked = self.ranked(site, grid, x) if scores is None else self.ranking(scores, grid)
            self.index = (now, first(ranked, now[2], self.method.raster))
        return self.index[1]

    def ranked(self, site: Site, grid: Grid, x: Tensor) -> Tensor:
        """Return the ranking (B, L) of the tokens, once a step if it is the same for all of it."""
        now = grid.index, len(x)
        if self.ranking_of is not None and self.ranking_of[0] == now:
            return self.ranking_of[1]
        ranked = self.ranking(score(self.method.select, x, grid, site, self.select), grid)
        if getattr(self.select, "by_step", False):
            self.ranking_of = now, ranked
        return ranked

    def ranking(self, scores: Tensor, grid: Grid) -> Tensor:
        """Return all tokens (B, L) by their scores, behind those that are always kept."""
        if not at_hand(scores):
            self.note(scores, grid)
        elif scores.isnan().any():
            raise ValueError(f"{self.method.select!r}.scores returned nan, which has no rank")
        if self.always is not None:
            places = torch.tensor(self.always(grid), device=scores.device)
            scores = wide(scores).index_fill(1, places, float("inf"))
        return ranking(scores)

    def note(self, scores: Tensor, grid: Grid) -> None:
        """Note scores (B, L) of a step, in which nan is looked for at its end."""
        if self.highest is not None and self.highest.shape != scores.shape:  # rows have left
            self.look(grid)
        # the maximum with nan is nan
        self.highest = scores if self.highest is None else torch.maximum(self.highest, scores)

    def look(self, grid: Grid) -> None:
        """Report whether any noted scores are nan."""
        if self.highest is not None:
            self.wrong(grid, self.highest.isnan().any())
            self.highest = None

    def reads(
        self,
        site: Site,
        grid: Grid,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        scale: float = 1.0,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        if site.kind == "attn":
            for one in self.observers:
                one.attended(site, grid, q, k, scale)
        return k, v, mask

    def places(self, grid: Grid, tokens: Tensor) -> Tensor | None:
        chosen = self.index is not None and self.index[0][0] == grid.index
        if not chosen or not hasattr(self.restore, "places"):
            return None
        assert self.index is not None
        places: Tensor = self.restore.places(self.index[1][: len(tokens)], grid)
        return places

    def after(
        self, grid: Grid, tokens: Tensor | None, canvas: Tensor, logits: Tensor | None = None
    ) -> None:
        self.look(grid)
        self.recall(grid, tokens, canvas)
        for one in self.observers:
            one.after(grid, logits)

    def recall(self, grid: Grid, tokens: Tensor | None, canvas: Tensor) -> None:
        if tokens is not None:
            for one in self.observers:
                one.latent(canvas)

    def held(self) -> dict[tuple[int, Site], Tensor]:
        if self.cache_index is None or self.rolling:
            return {}
        return {(self.cache_index, site): stored.output for site, stored in self.cache.items()}


def at_hand(x: Tensor) -> bool:
    """Return whether the host reads values at once; it would wait for a GPU."""
    return x.device.type == "cpu"


def _resized(cached: Cached | None, grid: Grid) -> Tensor | float:
    """Return a cached output on another map; 0 without a cache."""
    if cached is None:
        return 0.0
    return resize(cached.output, (cached.h, cached.w), (grid.h, grid.w))
