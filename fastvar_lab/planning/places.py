"""Where a schedule chooses: shares of tokens at places, guidance rows in a tail of last steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fastvar_lab.methods.planned import Planned
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.seam import Grid
from fastvar_lab.speed import flops

LEVELS = "02468"
"""The digits that a plan chooses from: eighths of a sublayer's tokens that are pruned."""

STACK, STACK_LEVELS = "stack", "01234567"
"""The kind of a place that keeps tokens out of all layers, and the eighths that it chooses from."""

SMALL = 0.03  # steps with a smaller share of all operations are not pruned


class Place(NamedTuple):
    """Where a share is chosen: a kind of sublayer at one step, in some neighbouring layers.

    The kind "stack" is that of tokens that stay out of all layers; where it prunes, other places of
    its step do not count.
    """

    step: int
    kind: str
    layers: range


class Tail(NamedTuple):
    """The guidance rows of a plan: so many last steps skipped, so many before them without null."""

    skipped: int = 0
    dropped: int = 0
    held: bool = False  # steps without null rows hold the difference of both rows

    def rows(self) -> dict[int, str]:
        """Return the rows as `Planned` takes them."""
        skipped = {-i: "skip" for i in range(1, self.skipped + 1)}
        first, alone = self.skipped + 1, "held" if self.held else "cond"
        return skipped | {-i: alone for i in range(first, first + self.dropped)}


def levels_of(kind: str) -> str:
    """Return the digits that places of a kind choose from, by level."""
    return STACK_LEVELS if kind == STACK else LEVELS


def schedule(
    places: Sequence[Place], digits: Sequence[str], tail: Tail, grids: Sequence[Grid], depth: int
) -> Planned:
    """Return the schedule that has a digit at each place."""
    pruned: dict[int, dict[str, list[str]]] = {}
    stacks = {
        place.step - len(grids): int(digit)
        for place, digit in zip(places, digits, strict=True)
        if place.kind == STACK and digit != "0"
    }
    for place, digit in zip(places, digits, strict=True):
        step = place.step - len(grids)
        if place.kind == STACK or step in stacks:
            continue
        row = pruned.setdefault(step, {}).setdefault(place.kind, ["0"] * depth)
        for layer in place.layers:
            row[layer] = digit
    digit_rows = {n: {k: "".join(row) for k, row in kinds.items()} for n, kinds in pruned.items()}
    return Planned(digit_rows, rows=tail.rows(), stacks=stacks)


def places_of(model: Model, grids: Sequence[Grid], quick: bool = False) -> tuple[Place, ...]:
    """Return the places of a model: layers, `quick` in four groups, at the steps that cost most.

    These have at least 3 % of all operations, `quick` the last three of them.
    """
    layers = groups(model, model.depth // 4 if quick else 1)
    steps = dear_steps(model, grids)[-(3 if quick else len(grids)) :]
    return tuple(Place(s, k, ls) for s in steps for k in model.transformer.kinds for ls in layers)


def grouped_places(model: Model, grids: Sequence[Grid], steps: int) -> tuple[Place, ...]:
    """Return few places that matter: four groups of layers, but all cross-attention of a step.

    Cross-attention over a short text is a few per cent of the operations, and hardly changes a
    picture. `steps` is the number of last steps; each has a place of the kind "stack", too.
    """
    layers, kinds = groups(model, model.depth // 4), (*model.transformer.kinds, STACK)
    return tuple(
        Place(step, kind, part)
        for step in dear_steps(model, grids)[-steps:]
        for kind in kinds
        for part in ([range(model.depth)] if kind in ("cross", STACK) else layers)
    )


def groups(model: Model, width: int) -> list[range]:
    """Return groups of so many neighbouring layers, at least one."""
    width = max(1, width)
    return [range(i, min(i + width, model.depth)) for i in range(0, model.depth, width)]


def dear_steps(model: Model, grids: Sequence[Grid]) -> list[int]:
    """Return the steps with at least 3 % of all operations, without text tokens or step 0."""
    costs = [sum(c.values()) for c in flops.step_flops(model, Dense(), grids)]
    steps = [s for s, cost in enumerate(costs) if cost >= SMALL * sum(costs)]
    return [s for s in steps if s > 0 and not grids[s].prefix]
