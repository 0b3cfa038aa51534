"""Planned: pruning with its own share at every step, layer and kind of sublayer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastvar_lab.methods.prune import Prune, check_restorer
from fastvar_lab.methods.prune_runner import PruneRunner, Stored
from fastvar_lab.methods.ratios import ScaleName, pairs_by_scale, scale_name
from fastvar_lab.methods.registry import method
from fastvar_lab.methods.restore import Cached, CachedBranch, Restorer, ZeroCode, mask_of
from fastvar_lab.methods.schedule import find
from fastvar_lab.methods.select import FarFromMean, Selector, check_selector
from fastvar_lab.seam import KINDS, Act, Branch, Grid, Handles, Rows, Runner, Site, Stack
from fastvar_lab.tokens import gather, resize, scatter

EIGHTHS, DIGITS = 8, "012345678"
ROWS = ("cond", "null", "skip", "held")

Digits = str
"""A digit a layer: the eighths of its tokens that are pruned; 8 is a sublayer not computed."""


@method
@dataclass(frozen=True)
class Planned:
    """Prune its own share of tokens at every step, layer and kind of sublayer.

    `pruned` maps scale names to kinds of sublayers, and those to a digit a layer: how many eighths
    of the tokens are pruned, from 0 to 8. At 8 the sublayer is not computed, its whole output is
    restored, and an attention leaves no keys or values. `rows` maps scale names to "cond" or
    "null", the guidance rows that run alone, to "skip", or to "held": the conditional rows run
    alone, and guidance takes the difference of both rows' hidden states from the last step that ran
    both. `previous` maps scale names to kinds of sublayers whose pruned tokens take the sublayer's
    own output at the step before; all others take that of the cache step. Selection, restoration
    and the cache step are those of `Prune`; with `restore=ZeroCode()` the codes of pruned tokens
    are 0. `origin` says what the schedule was planned on; it does not take part in comparisons.

    `fv.plan` makes such schedules; any can be written by hand. Raises ValueError for other digits,
    kinds or rows; `start` and `acts` for a model of another depth, for scales that are not there or
    named twice, for `previous` after a skipped step, and for held rows without an earlier step of
    both.

    >>> from fastvar_lab.scales import TINY, grids
    >>> plan = Planned({-1: {"attn": "44668888"}}, rows={-1: "cond"})
    >>> plan.start(grids(TINY), depth=8).forwarded(Site(0, "attn"), grids(TINY)[-1])
    512
    >>> Planned(stacks={-1: 6}).start(grids(TINY), 8).forwarded(Site(0, "ffn"), grids(TINY)[-1])
    256
    """

    pruned: Any = field(
        default=(), metadata={"lines": lambda value, grids: _shares_as_text(value, grids)}
    )
    rows: Any = field(
        default=(), metadata={"lines": lambda value, grids: _rows_as_text(value, grids)}
    )
    previous: Any = field(
        default=(), metadata={"lines": lambda value, grids: _previous_as_text(value, grids)}
    )
    stacks: Any = field(
        default=(), metadata={"lines": lambda value, grids: _stacks_as_text(value, grids)}
    )
    select: Selector = field(default_factory=FarFromMean)
    restore: Restorer = field(default_factory=CachedBranch)
    cache_step: ScaleName | None = None
    origin: str = field(default="", compare=False)

    family: ClassVar[str] = "planned"

    def __post_init__(self) -> None:
        check_selector("select", self.select)
        check_restorer(self.restore)
        by_scale = pairs_by_scale("pruned maps scales to kinds and their digits", self.pruned)
        schedule = {name: _kinds(name, kinds) for name, kinds in by_scale}
        by_scale = pairs_by_scale("rows map scales to one of " + ", ".join(ROWS), self.rows)
        rows = {name: str(which) for name, which in by_scale}
        for name, which in rows.items():
            if which not in ROWS:
                raise ValueError(
                    f"the rows of scale {name} must be one of {', '.join(ROWS)}; not {which!r}"
                )
        set_field = object.__setattr__
        set_field(self, "pruned", tuple((n, k) for n, k in schedule.items() if k))
        set_field(self, "rows", tuple(rows.items()))
        by_scale = pairs_by_scale("previous maps scales to kinds of sublayers", self.previous)
        previous = {name: _kind_names(name, kinds) for name, kinds in by_scale}
        set_field(self, "previous", tuple(previous.items()))
        if self.cache_step is not None:
            set_field(self, "cache_step", scale_name(self.cache_step))
        by_scale = pairs_by_scale("stacks map scales to eighths of the tokens", self.stacks)
        set_field(self, "stacks", tuple((name, _eighths(name, e)) for name, e in by_scale))
        if self.stacks and getattr(self.select, "needs_output", False):
            raise ValueError(
                f"{self.select!r} looks at outputs, which tokens out of all layers lack"
            )
        depths = {len(digits) for _, kinds in self.pruned for _, digits in kinds}
        if len(depths) > 1:
            raise ValueError(
                f"a plan has as many digits as layers everywhere; this one has {sorted(depths)}"
            )

    @classmethod
    def example(cls, grids: Sequence[Grid], depth: int) -> Planned:
        """Return a plan to begin with: half of the tokens of every sublayer of the last step."""
        return cls({-1: dict.fromkeys(KINDS, "4" * depth)})

    def __repr__(self) -> str:
        parts = [repr({name: dict(kinds) for name, kinds in self.pruned})]
        parts += [f"rows={dict(self.rows)!r}"] if self.rows else []
        parts += [f"previous={dict(self.previous)!r}"] if self.previous else []
        if self.select != FarFromMean():
            parts.append(f"select={self.select!r}")
        if self.restore != CachedBranch():
            parts.append(f"restore={self.restore!r}")
        parts += [f"cache_step={self.cache_step!r}"] if self.cache_step is not None else []
        parts += [f"stacks={dict(self.stacks)!r}"] if self.stacks else []
        return f"Planned({', '.join(parts)})"

    @property
    def depth(self) -> int | None:
        """The number of layers that the plan is for; None if it prunes no sublayer on its own."""
        return next((len(digits) for _, kinds in self.pruned for _, digits in kinds), None)

    @property
    def sublayers(self) -> tuple[str, ...]:
        """The kinds of sublayers that are pruned on their own."""
        return tuple(sorted({kind for _, kinds in self.pruned for kind, _ in kinds}))

    def steps(self, grids: Sequence[Grid]) -> dict[int, dict[str, Digits]]:
        """Return the digits by step index and kind; skipped steps have none."""
        rows = self.rows_by_step(grids)
        steps = {find(name, grids): dict(kinds) for name, kinds in self.pruned}
        names = {*steps, *(find(name, grids) for name, _ in self.stacks)}
        if len(names) < len(self.pruned) + len(self.stacks):
            raise ValueError("two names of the plan are the same scale step")
        return {s: kinds for s, kinds in sorted(steps.items()) if rows.get(s) is not Rows.SKIP}

    def stacks_by_step(self, grids: Sequence[Grid]) -> dict[int, float]:
        """Return the share of tokens that stay out of all layers, by step; skipped steps none."""
        rows = self.rows_by_step(grids)
        stacks = {find(name, grids): eighths / EIGHTHS for name, eighths in self.stacks}
        return {s: share for s, share in sorted(stacks.items()) if rows.get(s) is not Rows.SKIP}

    def rows_by_step(self, grids: Sequence[Grid]) -> dict[int, Rows]:
        """Return the rows that run, of steps that do not run both, by step index."""
        rows = {
            find(name, grids): Rows.COND if which == "held" else Rows(which)
            for name, which in self.rows
        }
        if len(rows) < len(self.rows):
            raise ValueError("two names of the plan's rows are the same scale step")
        return rows

    def held_from(self, grids: Sequence[Grid]) -> dict[int, int]:
        """Return by step with held guidance the step whose difference of both rows it takes.

        Raises ValueError if no step before it runs both rows of every token through the layers.
        """
        alone, held = {**self.rows_by_step(grids), **self.stacks_by_step(grids)}, dict[int, int]()
        for step in sorted(find(name, grids) for name, which in self.rows if which == "held"):
            held[step] = max((s for s in range(step) if s not in alone), default=-1)
            if held[step] < 0:
                raise ValueError(
                    f"scale {grids[step].name} holds the guidance of an earlier step; none before "
                    "it runs both rows of every token"
                )
        return held

    def uniform(self, grids: Sequence[Grid]) -> Prune:
        """Return the `Prune` that prunes and skips at the same steps, with one share for all."""
        steps, stacks = dict.fromkeys(self.steps(grids), 1 / EIGHTHS), self.stacks_by_step(grids)
        rows = self.rows_by_step(grids).items()
        skipped = {step: 1.0 for step, which in rows if which is Rows.SKIP}
        ratios = ((step - len(grids), share) for step, share in (steps | stacks | skipped).items())
        if stacks and not steps:  # nothing is restored
            return Prune(tuple(ratios), self.select, ZeroCode())
        return Prune(tuple(ratios), self.select, self.restore, self.cache_step)

    def _shares(self, grids: Sequence[Grid]) -> Iterator[dict[int, float]]:
        """Yield shares pruned by step, so that every share of a step stands in one of them."""
        shares = {step: [ratio] for step, ratio in self.uniform(grids).by_step(grids).items()}
        for step, kinds in self.steps(grids).items():
            used = {int(digit) / EIGHTHS for digits in kinds.values() for digit in digits}
            shares[step] = sorted(used - {0})
        for i in range(max(map(len, shares.values()), default=1)):
            yield {step: several[min(i, len(several) - 1)] for step, several in shares.items()}

    def cache_index(self, grids: Sequence[Grid]) -> int | None:
        """Return the step whose branch outputs are restored from; None if none is needed."""
        return self.uniform(grids).cache_index(grids)

    def stateful_from(self, grids: Sequence[Grid]) -> int:
        """Return the step from which its runner must have run itself; all steps if none.

        That is the first step whose outputs, or difference of both rows, a later one takes.
        """
        taken = (find(name, grids) - 1 for name, _ in self.previous)
        uniform = self.uniform(grids).stateful_from(grids)
        return min((uniform, *self.held_from(grids).values(), *taken))

    def acts(self, grids: Sequence[Grid]) -> tuple[Act, ...]:
        steps, rows, held = self.steps(grids), self.rows_by_step(grids), self.held_from(grids)
        previous = {find(name, grids): kinds for name, kinds in self.previous}
        if len(previous) < len(self.previous):
            raise ValueError("two names of the plan's previous are the same scale step")
        watched, stacks = {step - 1 for step in previous}, self.stacks_by_step(grids)
        for step in sorted(watched):
            if step < 0 or rows.get(step) is Rows.SKIP:
                raise ValueError(
                    f"scale {grids[step + 1].name} takes outputs of the step before, which is "
                    "skipped or not there"
                )
        for step in sorted(watched & set(stacks)):
            raise ValueError(
                f"scale {grids[step + 1].name} takes outputs of {grids[step].name}, where "
                f"{stacks[step]:.3g} of the tokens have none"
            )
        uniform, acts = self.uniform(grids), list[Act]()
        even = uniform.unchecked_acts(grids)
        for ratios in self._shares(grids):
            uniform.check_shares(grids, even, ratios)
        # later steps depend on what a runner sees from here on, so no other plan serves as a start
        since = min((uniform.watched(grids), *held.values(), *watched))
        for step, act in enumerate(even):
            key = act.key and (*act.key, *sorted(steps.get(step, {}).items()))
            key += ("stack",) if step in stacks else ()
            key += (self,) if step >= since else ()
            key += ("previous", previous.get(step)) if step in previous or step in watched else ()
            key += ("difference",) if step in held or step in held.values() else ()
            acts.append(act if act.skips else act._replace(rows=rows.get(step, act.rows), key=key))
        return tuple(acts)

    def start(
        self,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor] | None = None,
    ) -> Runner:
        if self.depth not in (None, depth):
            raise ValueError(
                f"this schedule was planned for {self.depth} layers; the model has {depth}"
            )
        return PlannedRunner(self, grids, depth, held or {})


class PlannedRunner(PruneRunner):
    """Runs one generation under `Planned`."""

    def __init__(
        self,
        method: Planned,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor],
    ) -> None:
        super().__init__(method.uniform(grids), grids, depth, held)
        self.shares = {
            (step, Site(layer, kind)): int(digit) / EIGHTHS
            for step, kinds in method.steps(grids).items()
            for kind, digits in kinds.items()
            for layer, digit in enumerate(digits)
        }
        self.stacks = method.stacks_by_step(grids)
        self.by_layer = not self.stacks
        self.previous = {
            (find(name, grids), kind) for name, kinds in method.previous for kind in kinds
        }
        self.latest: dict[Site, Stored] = {}  # outputs at the step before, where one is taken
        self.held_from = method.held_from(grids)
        self.difference: tuple[Tensor, Grid] | None = None  # of both rows, (n, L, C)
        self.handles: Handles | None = None
        self.ran = -1  # the last step of which a sublayer computed tokens

    def prepare(self, handles: Handles) -> None:
        self.handles = handles
        super().prepare(handles)

    def ratio(self, site: Site, grid: Grid) -> float:
        return self.stacks.get(grid.index) or self.shares.get((grid.index, site), 0.0)

    def prunes(self, site: Site) -> bool:
        return any(share > 0 for (_, pruned), share in self.shares.items() if pruned == site)

    def stack(self, grid: Grid, blocks: Stack, x: Tensor) -> Tensor:
        if grid.index in self.stacks:
            index = self.inside = self.choose(Site(0, KINDS[0]), grid, x)
            states = super().stack(grid, blocks, gather(x, index))
            x = scatter(x[: len(states)].to(states.dtype, copy=True), index[: len(states)], states)
            self.inside = None
        else:
            x = super().stack(grid, blocks, x)
        handles = self.handles
        if handles is None or not handles.guided:
            return x
        if grid.index in self.held_from.values():
            if len(x) != 2 * handles.pictures:
                raise ValueError(
                    f"step {grid.index} ({grid.name}) merges both guidance rows before its last "
                    "layer; no difference is left for later steps to hold"
                )
            self.difference = x[: handles.pictures] - x[handles.pictures :], grid
        if grid.index in self.held_from:
            assert self.difference is not None
            gap, source = self.difference
            gap = resize(gap[:, source.prefix :], (source.h, source.w), (grid.h, grid.w))
            x = handles.guide(grid, torch.cat((x, x - gap)))
        return x

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        out = self.computed(site, grid, branch, x)
        if (grid.index + 1, site.kind) in self.previous:
            self.latest[site] = Stored(out, grid)
        return out

    def places(self, grid: Grid, tokens: Tensor) -> Tensor | None:
        if self.ran != grid.index and hasattr(self.restore, "places"):
            none = torch.zeros(len(tokens), 0, dtype=torch.long, device=tokens.device)
            places: Tensor = self.restore.places(none, grid)
            return places
        if grid.index not in self.stacks:
            return super().places(grid, tokens)
        assert self.index is not None
        return mask_of(self.index[1][: len(tokens)], grid)

    def computed(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        """Return the output (B, L, C) of a sublayer, of which no token may be computed."""
        if self.ratio(site, grid) < 1:
            self.ran = grid.index
            return super().sublayer(site, grid, branch, x)
        none = torch.zeros(len(x), 0, dtype=torch.long, device=x.device)
        cached, nothing = self.source(site, grid, len(x)), x[:, :0]
        if cached is not None:  # outputs may be wider than what enters the first layer
            nothing = nothing.to(torch.promote_types(x.dtype, cached.output.dtype))
        out: Tensor = self.restore.restore(nothing, none, grid, cached)
        if self.rolling:
            self.cache[site] = Stored(out, grid)
        return out

    def source(self, site: Site, grid: Grid, rows: int) -> Cached | None:
        latest = self.latest.get(site) if (grid.index, site.kind) in self.previous else None
        return self.on_rows(latest or self.cache.get(site), rows)


def _shares_as_text(pruned: Any, grids: Sequence[Grid]) -> list[str]:
    """Write the shares of a plan, a line for each step and kind.

    >>> from fastvar_lab.scales import TINY, grids
    >>> _shares_as_text(((-1, (("attn", "00446888"),)),), grids(TINY))
    ['32x32 attn: 50 % in layers 2 to 3, 75 % in layer 4, not computed in layers 5 to 7']
    """
    steps = sorted((find(name, grids), kinds) for name, kinds in pruned)
    return [
        f"{grids[step].name} {kind}: {_runs(digits)}"
        for step, kinds in steps
        for kind, digits in kinds
    ]


def _runs(digits: Digits) -> str:
    """Write runs of layers that prune the same share; layers that prune nothing are left out."""
    runs, layer = list[str](), 0
    for digit, run in groupby(digits):
        first, layer = layer, layer + len(list(run))
        layers = f"layer {first}" if layer == first + 1 else f"layers {first} to {layer - 1}"
        share = "not computed" if int(digit) == EIGHTHS else f"{100 * int(digit) / EIGHTHS:g} %"
        if digit != "0":
            runs.append(f"{share} in {layers}")
    return ", ".join(runs)


ROWS_AS_TEXT = {
    "cond": "the conditional rows alone",
    "null": "the null rows alone",
    "skip": "skipped",
    "held": "the conditional rows alone, with guidance held from the last step of both",
}


def _rows_as_text(rows: Any, grids: Sequence[Grid]) -> list[str]:
    """Write the guidance rows of steps that do not run both, a line for each."""
    steps = sorted((find(name, grids), which) for name, which in rows)
    return [f"{grids[step].name}: {ROWS_AS_TEXT[which]}" for step, which in steps]


def _previous_as_text(previous: Any, grids: Sequence[Grid]) -> list[str]:
    """Write what is restored from the step before, a line for each step."""
    steps = sorted((find(name, grids), kinds) for name, kinds in previous)
    return [f"{grids[step].name}: {', '.join(kinds)}" for step, kinds in steps]


def _stacks_as_text(stacks: Any, grids: Sequence[Grid]) -> list[str]:
    """Write the shares that stay out of all layers, a line for each step."""
    steps = sorted((find(name, grids), eighths) for name, eighths in stacks)
    return [f"{grids[step].name}: {100 * e / EIGHTHS:g} % out of all layers" for step, e in steps]


def _kind_names(name: Any, kinds: Any) -> tuple[str, ...]:
    """Check the kinds of sublayers that one step restores from the step before."""
    kinds = tuple(kinds) if isinstance(kinds, (tuple, list)) else (kinds,)
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"scale {name}: sublayers are {', '.join(KINDS)}; not {kind!r}")
    return tuple(sorted(kinds))


def _eighths(name: Any, eighths: Any) -> int:
    """Check how many eighths of the tokens of one step stay out of all layers."""
    if isinstance(eighths, bool) or eighths not in range(1, EIGHTHS):
        raise ValueError(
            f"scale {name}: 1 to {EIGHTHS - 1} eighths of the tokens stay out of all layers; not "
            f"{eighths!r}"
        )
    return int(eighths)


def _kinds(name: Any, kinds: Any) -> tuple[tuple[str, Digits], ...]:
    """Check the digits of one step; kinds of which nothing is pruned are left out."""
    settled = []
    try:
        by_kind = dict(kinds)
    except (TypeError, ValueError):
        raise ValueError(
            f"scale {name}: kinds of sublayers with their digits; not {kinds!r}"
        ) from None
    for kind, digits in sorted(by_kind.items(), key=lambda pair: str(pair[0])):
        if kind not in KINDS:
            raise ValueError(f"scale {name}: sublayers are {', '.join(KINDS)}; not {kind!r}")
        if not isinstance(digits, str) or not digits or set(digits) - set(DIGITS):
            raise ValueError(
                f"scale {name}, {kind}: a digit a layer from 0 to 8, the eighths of its tokens "
                f"that are pruned; not {digits!r}"
            )
        if set(digits) != {"0"}:
            settled.append((kind, digits))
    return tuple(settled)
