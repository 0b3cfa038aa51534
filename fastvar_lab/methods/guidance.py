"""Guidance rows around a method: tails that run one row alone, or that skip the last steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from fastvar_lab.frames import CONDITIONAL, SKIPPING
from fastvar_lab.methods.prune import Dense, Prune
from fastvar_lab.methods.ratios import ScaleName, scale_name
from fastvar_lab.methods.registry import method
from fastvar_lab.methods.schedule import find
from fastvar_lab.methods.spaces import Subject, space
from fastvar_lab.seam import Act, Grid, Handles, Method, Rows, Runner, Site, Wrapper, stateful_from


class Around:
    """The base class of methods that change the guidance rows of another one, their `method`.

    A subclass changes the inner acts in `acts`, and wraps the inner runner in `wrap`.
    """

    method: Method
    scales: ClassVar[tuple[str, ...]] = ()  # fields that name scale steps

    def __post_init__(self) -> None:
        if isinstance(self.method, type) or not hasattr(self.method, "acts"):
            raise ValueError(f"method must be a method such as Dense(); not {self.method!r}")
        for name in self.scales:
            if getattr(self, name) is not None or getattr(type(self), name) is not None:
                object.__setattr__(self, name, scale_name(getattr(self, name)))

    @property
    def addition(self) -> str:
        """What it adds to the family of its method: its class."""
        return type(self).__name__

    def wrap(self, inner: Runner, grids: Sequence[Grid], depth: int) -> Runner:
        """Return the runner of one generation around that of the inner method."""
        raise NotImplementedError

    def check_depth(self, depth: int) -> None:
        """Raise ValueError if it, or its method, names layers that a model does not have."""
        if hasattr(self.method, "check_depth"):
            self.method.check_depth(depth)

    def acts(self, grids: Sequence[Grid]) -> tuple[Act, ...]:
        """Return the act of each step."""
        raise NotImplementedError

    def start(
        self,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor] | None = None,
    ) -> Runner:
        self.check_depth(depth)
        self.acts(grids)  # raises for steps that cannot be changed
        return self.wrap(self.method.start(grids, depth, held), grids, depth)

    def cache_index(self, grids: Sequence[Grid]) -> int | None:
        return self.method.cache_index(grids)

    def changed(self, act: Act, grid: Grid, key: tuple[Any, ...], **changes: Any) -> Act:
        """Return an inner act with other rows; raise ValueError if its rows are not both.

        `key` is added to the key of the inner act if it has one: what an inner runner keeps from
        step to step then differs too.
        """
        if act.rows not in (Rows.BOTH, Rows.COND) or act.fused is not None or act.alone is not None:
            raise ValueError(
                f"{type(self).__name__} changes the guidance rows of step {grid.index} "
                f"({grid.name}), where {type(self.method).__name__} changes them already"
            )
        return self.keyed(act, key)._replace(**changes)

    def keyed(self, act: Act, key: tuple[Any, ...]) -> Act:
        """Return an act with a longer key, unless every token is computed."""
        return act._replace(key=(*act.key, *key)) if act.key else act


TAILS = {Rows.COND: CONDITIONAL, Rows.NULL: "null tail", Rows.SKIP: SKIPPING}
"""What a `Tail` is called by the rows of its steps."""


def steps_between(first: ScaleName, last: ScaleName, grids: Sequence[Grid]) -> range:
    """Return the steps from one to another, both included; raise ValueError for none."""
    begin, end = find(first, grids), find(last, grids)
    if begin > end:
        raise ValueError(
            f"the first step, {grids[begin].name}, comes after the last, {grids[end].name}"
        )
    return range(begin, end + 1)


@method
@dataclass(frozen=True)
class Tail(Around):
    """Run `method`, but in its last steps one guidance row alone, or nothing.

    From the step that `cond_from` names on, the conditional rows run alone; from `null_from` on,
    the null rows alone; from `skip_from` on, every step is skipped. Where two of them reach a step,
    the one that begins later counts. A step that the inner method skips stays skipped. The rows
    that run give the logits, without guidance. Tails around `Dense` are the controls of every
    method that drops null rows or skips steps.

    Sources: the conditional tail is the second rule of SkipVAR (arXiv 2506.08908) and an option of
    SparVAR's code; the null tail is FasterVAR's (arXiv 2512.16483), whose released code sets the
    guidance of sides 40, 48 and 64 to 0 and then skips 48 and 64; skipping 48 and 64 is part of
    FastVAR, FocusVAR and FasterVAR as released for Infinity. Released code computes
    `s * c + (1 - s) * c` on a conditional tail, which is c but for rounding.

    Raises ValueError for a tail without a step, two that begin at one step, a schedule skipped
    throughout, null rows without guidance, steps where the inner method changes rows itself, one
    row that begins within a group of steps of one forward, steps of held guidance, and skipped
    steps before one at which it does not compute everything; a `Prune` that looks at none of them
    is not refused.

    >>> from fastvar_lab.scales import TINY, grids
    >>> acts = Tail(cond_from=20, skip_from=-1).acts(grids(TINY))
    >>> [act.rows.value for act in acts[-4:]]
    ['both', 'cond', 'cond', 'skip']
    """

    method: Method = field(default_factory=Dense)
    cond_from: ScaleName | None = None
    null_from: ScaleName | None = None
    skip_from: ScaleName | None = None
    scales: ClassVar = ("cond_from", "null_from", "skip_from")

    @classmethod
    def example(cls, grids: Sequence[Grid], depth: int) -> Tail:
        """Return a method to begin with: the last two steps run the conditional rows alone."""
        return cls(cond_from=-2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.method, Tail):
            raise ValueError(f"one Tail holds all rows; merge it with {self.method!r}")
        if not any(True for _ in self._named()):
            raise ValueError(f"a Tail needs one of {', '.join(self.scales)}")

    def _named(self) -> Iterator[tuple[Rows, ScaleName]]:
        """Yield the rows of each tail, with the step at which it begins."""
        names = ((Rows.COND, self.cond_from), (Rows.NULL, self.null_from))
        for rows, name in (*names, (Rows.SKIP, self.skip_from)):
            if name is not None:
                yield rows, name

    @property
    def addition(self) -> str:
        """What it adds to the family of its method."""
        return ", ".join(TAILS[rows] for rows, _ in self._named())

    def rows(self, grids: Sequence[Grid]) -> dict[int, Rows]:
        """Return the rows of the steps of its tails, by step."""
        begins: dict[int, Rows] = {}
        for rows, name in self._named():
            step = find(name, grids)
            if step in begins:
                raise ValueError(
                    f"two tails begin at step {step} ({grids[step].name}): "
                    f"{begins[step].value} and {rows.value}"
                )
            begins[step] = rows
        if begins.get(0) is Rows.SKIP and len(begins) == 1:
            raise ValueError("every scale step is skipped; leave at least one")
        first = min(begins)
        return {
            step: begins[max(begin for begin in begins if begin <= step)]
            for step in range(first, len(grids))
        }

    def acts(self, grids: Sequence[Grid]) -> tuple[Act, ...]:
        tail = self.rows(grids)
        key = tuple((step, rows) for step, rows in tail.items() if rows is not Rows.SKIP)
        acts: list[Act] = []
        for step in sorted(tail.keys() & _held_steps(self.method, grids)):
            raise ValueError(
                f"Tail changes step {step} ({grids[step].name}), which holds the guidance of an "
                f"earlier step in {self.method!r}"
            )
        gap: Grid | None = None  # a step that the inner method does not know to be skipped
        skipped = {step for step, rows in tail.items() if rows is Rows.SKIP}
        blind = _looks_at_none(self.method, skipped, grids)
        for grid, act in zip(grids, self.method.acts(grids), strict=True):
            rows = tail.get(grid.index)
            if act.skips or rows is Rows.SKIP:
                gap = gap if act.skips else grid
                acts.append(Act(Rows.SKIP))
            elif gap is not None and act.key and not blind:
                name = type(self.method).__name__
                raise ValueError(
                    f"Tail skips step {gap.index} ({gap.name}); {name} may look "
                    f"back at it in step {grid.index} ({grid.name}), which runs"
                )
            elif rows is None:
                acts.append(self.keyed(act, key))
            else:
                if act.joined and acts[-1].rows is not rows:
                    raise ValueError(
                        f"Tail begins at step {grid.index} ({grid.name}), which "
                        f"{type(self.method).__name__} runs in one forward with step "
                        f"{grid.index - 1}; begin at the first step of that group, or after it"
                    )
                acts.append(self.changed(act, grid, key, rows=rows))
        return tuple(acts)

    def stateful_from(self, grids: Sequence[Grid]) -> int:
        """Return that of the inner method: the runner around it carries nothing."""
        return stateful_from(self.method, grids)

    def wrap(self, inner: Runner, grids: Sequence[Grid], depth: int) -> Runner:
        return TailRunner(inner, self.rows(grids), grids)


def _held_steps(method: Method, grids: Sequence[Grid]) -> set[int]:
    """Return the steps at which a method, or one inside it, holds guidance of an earlier one."""
    while isinstance(method, Around):
        method = method.method
    return set(method.held_from(grids)) if hasattr(method, "held_from") else set()


def _looks_at_none(method: Method, skipped: set[int], grids: Sequence[Grid]) -> bool:
    """Return whether a method is known to look at none of the steps that are skipped around it.

    That is known of `Prune` alone: its rules say what they look at, and its cache step must run.
    """
    if type(method) is not Prune or method.watched(grids) < len(grids):
        return False
    return not (
        method.cache_index(grids) in skipped
        or getattr(method.restore, "rolling", False)
        or getattr(method.select, "needs_latents", 0)
    )


class TailRunner(Wrapper):
    """Runs one generation under `Tail`: the loop follows the acts, the inner runner the loop."""

    def __init__(self, inner: Runner, tail: Mapping[int, Rows], grids: Sequence[Grid]) -> None:
        super().__init__(inner)
        self.tail = tail
        self.null = next((grids[s] for s, rows in tail.items() if rows is Rows.NULL), None)

    def prepare(self, handles: Handles) -> None:
        if self.null is not None and not handles.guided:
            raise ValueError(
                f"Tail runs the null rows alone from step {self.null.index} ({self.null.name}); "
                "this sampling has no guidance, so there are none"
            )
        self.inner.prepare(handles)

    def rows(self, grid: Grid, canvas: Tensor) -> Rows | None:
        rows = self.inner.rows(grid, canvas)
        return None if grid.index in self.tail else rows


def _released_tails(subject: Subject) -> list[Method]:
    """Return the tails that released code puts on other methods for Infinity."""
    return [Tail(skip_from=-2)]


@space("skipping", "control", _released_tails, first=(-1, -2, -3, -4, -5))
def _skipping(subject: Subject, first: int) -> Method:
    return Tail(skip_from=first)


@space("conditional tail", "control", first=tuple(range(-1, -9, -1)))
def _conditional(subject: Subject, first: int) -> Method:
    return Tail(cond_from=first)


@space(
    "conditional tail, skipping", "control",
    skipped=(1, 2, 3, 4), alone=(1, 2, 3, 4, 5, 6),
)  # fmt: skip
def _both(subject: Subject, skipped: int, alone: int) -> Method:
    return Tail(cond_from=-skipped - alone, skip_from=-skipped)


@space("null tail, skipping", "control", skipped=(1, 2, 3), alone=(1, 2, 3, 4))
def _null(subject: Subject, skipped: int, alone: int) -> Method:
    return Tail(null_from=-skipped - alone, skip_from=-skipped)
