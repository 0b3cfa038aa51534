"""Snapshots: what a finished generation keeps so that another method can go on from its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from fastvar_lab.cache import KVCache
from fastvar_lab.models.model import Model
from fastvar_lab.request import Request
from fastvar_lab.seam import Act, Branch, Grid, Method, Runner, Site, Wrapper

Held = Mapping[tuple[int, Site], Tensor]
"""Branch outputs (B, L, C) by step and site."""


@dataclass
class Start:
    """Where a generation begins: the steps that were made before, and what they left.

    `canvases` and `tokens` by step, `read(state)` fills the new state's KV cache.
    """

    canvases: Sequence[Tensor] = ()
    tokens: Sequence[Tensor | None] = ()
    read: Callable[[Any], None] = lambda state: None
    held: Held = field(default_factory=dict)
    lengths: Sequence[tuple[int, ...]] = ()

    @property
    def first(self) -> int:
        """The first step that is left to run."""
        return len(self.canvases)


@dataclass
class Snapshot:
    """A generation that can be resumed after any of its scale steps; it owns all it holds.

    `canvases[s]` and `tokens[s]` are the latent (n, d, H, W) and tokens after step s,
    `lengths[s]` the KV length of each layer then; `held` branch outputs by (step, site). It goes
    on in the process that made it, with the weights it was made with: `stamp`.
    """

    model: nn.Module
    stamp: object = field(repr=False)
    request: Request
    method: Method
    canvases: list[Tensor]
    tokens: list[Tensor | None]
    lengths: list[tuple[int, ...]]
    cache: KVCache
    held: dict[tuple[int, Site], Tensor]

    def start(self, first: int) -> Start:
        """Go on before step `first`."""
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
    """Keeps references to the branch outputs of some steps: nothing is computed or copied."""

    def __init__(self, inner: Runner, steps: set[int]) -> None:
        super().__init__(inner)
        self.steps, self.kept = steps, dict[tuple[int, Site], Tensor]()

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        delta = self.inner.sublayer(site, grid, branch, x)
        if grid.index in self.steps:
            self.kept[grid.index, site] = delta
        return delta

    def held(self) -> dict[tuple[int, Site], Tensor]:
        return {**self.inner.held(), **self.kept}


def steps_to_keep(wanted: bool | Sequence[int], acts: Sequence[Act]) -> set[int]:
    """Choose the steps whose branch outputs a snapshot keeps: whole ones, but the last if True."""
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


def resume_step(snapshot: Snapshot, method: Method, model: Model) -> int:
    """Tell at which scale step `resume` would start."""
    grids = snapshot.request.grids
    before, after = snapshot.method.acts(grids), method.acts(grids)
    alike = next((i for i in range(len(grids)) if not _same(before[i], after[i])), len(grids))
    cache = method.cache_index(grids)
    if cache is not None and cache < alike:
        held = [site for step, site in snapshot.held if step == cache]
        if len(held) < len(model.transformer.kinds) * model.depth:
            alike = cache
    while alike < len(grids) and (before[alike].joined or after[alike].joined):
        alike -= 1  # a forward of several steps is run as one
    return alike


def _same(one: Act, other: Act) -> bool:
    """Tell whether a step is done alike; no, where rules hold arrays that are not one object."""
    try:
        return bool(one == other)
    except (RuntimeError, ValueError):  # arrays, compared, have no one answer
        return False
