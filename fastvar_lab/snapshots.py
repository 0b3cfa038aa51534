"""Snapshots: the state of a finished generation from which another method can resume."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from fastvar_lab.audit import check_value
from fastvar_lab.cache import KVCache
from fastvar_lab.models.model import Model
from fastvar_lab.request import Request
from fastvar_lab.seam import (
    Act,
    Branch,
    Grid,
    Method,
    Runner,
    Site,
    Wrapper,
    by_step,
    stateful_from,
)

Held = Mapping[tuple[int, Site], Tensor]
"""Branch outputs (B, L, C) by step and site."""


@dataclass
class Start:
    """The state in which a generation starts: the results of the steps before it.

    `canvases` and `tokens` are those of each earlier step; `read(state)` fills the KV cache of the
    new state.
    """

    canvases: Sequence[Tensor] = ()
    tokens: Sequence[Tensor | None] = ()
    read: Callable[[Any], None] = lambda state: None
    held: Held = field(default_factory=dict)
    lengths: Sequence[tuple[int, ...]] = ()

    @property
    def first(self) -> int:
        """The first step to run."""
        return len(self.canvases)


@dataclass
class Snapshot:
    """A generation that can be resumed after any of its scale steps; it owns its tensors.

    `canvases[s]` is the latent (n, d, H, W), `tokens[s]` the tokens and `lengths[s]` the KV length
    of each layer after step s. `held` are branch outputs by (step, site). It can be resumed only
    in the same process and by the same model, unchanged, which `stamp` identifies.
    """

    model: nn.Module
    stamp: Mapping[str, object] = field(repr=False)
    request: Request
    method: Method
    canvases: list[Tensor]
    tokens: list[Tensor | None]
    lengths: list[tuple[int, ...]]
    cache: KVCache
    held: dict[tuple[int, Site], Tensor]

    def start(self, first: int) -> Start:
        """Return the state before step `first`."""
        if not first:
            return Start()
        lengths = self.lengths[:first]
        return Start(
            self.canvases[:first],
            self.tokens[:first],
            lambda state: state.cache.copy_prefix(self.cache, lengths[-1]),
            {k: v for k, v in self.held.items() if k[0] < first},
            lengths,
        )


class Keep(Wrapper):
    """Keeps references to the branch outputs of some steps, without computing or copying."""

    def __init__(self, inner: Runner, steps: set[int]) -> None:
        super().__init__(inner)
        self.steps, self.kept = steps, dict[tuple[int, Site], Tensor]()

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        delta = self.inner.sublayer(site, grid, branch, x)
        if any(step.index in self.steps for step in grid.steps):
            for step, part in zip(grid.steps, by_step(self, site, grid, delta), strict=True):
                if step.index in self.steps:
                    self.kept[step.index, site] = part
        return delta

    def held(self) -> dict[tuple[int, Site], Tensor]:
        return {**self.inner.held(), **self.kept}


def steps_to_keep(wanted: bool | Sequence[int], acts: Sequence[Act]) -> set[int]:
    """Return the steps whose branch outputs a snapshot keeps; True: all unpruned but the last.

    Raises ValueError for steps that are pruned or skipped.
    """
    whole = {step for step, act in enumerate(acts) if act.whole}
    if not isinstance(wanted, Iterable):
        return whole - {len(acts) - 1}
    steps = set(wanted)
    if not steps <= whole:
        raise ValueError(
            f"a snapshot keeps the outputs of unpruned steps, {sorted(whole)} here; "
            f"not {sorted(steps - whole)}"
        )
    return steps


def shared_steps(before: Sequence[Act], after: Sequence[Act]) -> int:
    """Return how many first steps have the same acts under two methods.

    >>> shared_steps((Act(), Act()), (Act(), Act(key=("pruned",))))
    1
    """
    pairs = zip(before, after, strict=False)  # others check how many acts there are
    return next((step for step, acts in enumerate(pairs) if not _same(*acts)), len(before))


def restored_steps(method: Method, others: Iterable[Method], grids: Sequence[Grid]) -> list[int]:
    """Return the steps whose branch outputs other methods need to resume from a method's snapshot.

    Those that it does not compute whole are left out: the others resume before them.
    """
    acts = method.acts(grids)
    caches = {other.cache_index(grids) for other in others}
    return sorted(step for step in caches if step is not None and acts[step].whole)


def resume_step(snapshot: Snapshot, method: Method, model: Model) -> int:
    """Return the scale step at which `resume` would start; raise ValueError for no method.

    That is the first step at which the acts of both methods differ, unless the outputs of the
    cache step are not held, or the new method's runner must have run earlier steps itself
    (`stateful_from`) and any step is left that it runs.
    """
    check_value(method)
    grids = snapshot.request.grids
    before, after = snapshot.method.acts(grids), method.acts(grids)
    first = shared_steps(before, after)
    cache = method.cache_index(grids)
    if cache is not None and cache < first:
        held = [site for step, site in snapshot.held if step == cache]
        if len(held) < len(model.transformer.kinds) * model.depth:
            first = cache
    if not all(act.skips for act in after[first:]):
        first = min(first, stateful_from(method, grids))
    while first < len(grids) and (before[first].joined or after[first].joined):
        first -= 1  # steps of one forward run together
    return first


def rerun_step(snapshot: Snapshot, step: int) -> int:
    """Return the latest step, at most `step`, at which the snapshot's own method can start again.

    The outputs of the cache step must be held, and its runner must run itself from the step of
    `stateful_from` on.
    """
    method, grids = snapshot.method, snapshot.request.grids
    acts, first = method.acts(grids), min(step, stateful_from(method, grids))
    cache = method.cache_index(grids)
    if cache is not None and cache < first and not any(s == cache for s, _ in snapshot.held):
        first = cache
    while first and acts[first].joined:
        first -= 1
    return first


def _same(a: Act, b: Act) -> bool:
    """Return whether two acts are equal; False if they hold arrays, which cannot be compared."""
    try:
        return bool(a == b)
    except (RuntimeError, ValueError):  # comparing arrays gives no single answer
        return False
