"""The schedules that a search chooses from, with their costs and measured errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from fastvar_lab.methods.planned import Planned
from fastvar_lab.planning.cost import Cost, total
from fastvar_lab.planning.effects import Calibration
from fastvar_lab.planning.places import STACK, Place, Tail, levels_of, schedule
from fastvar_lab.seam import Method

DROPPED = 3  # the most last steps without null rows
SKIPPED = 3  # the most last steps that are skipped


class Choice(NamedTuple):
    """One schedule of a space: the level of each place, the tail, and fields of `Planned`."""

    levels: tuple[int, ...]
    tail: Tail = Tail()
    rules: tuple[tuple[str, Any], ...] = ()


@dataclass
class ScheduleSpace:
    """The schedules with a level at each place and a tail."""

    calibration: Calibration
    places: tuple[Place, ...]
    price: Cost
    _spent: dict[Method, float] = field(default_factory=dict, repr=False)

    @property
    def tops(self) -> np.ndarray:
        """The highest level (places,) of each place."""
        return np.array([len(levels_of(place.kind)) - 1 for place in self.places])

    def method(self, choice: Choice) -> Planned:
        """Return a choice as a method."""
        c = self.calibration
        digits = [
            levels_of(place.kind)[level]
            for place, level in zip(self.places, choice.levels, strict=True)
        ]
        plan = schedule(self.places, digits, choice.tail, c.grids, c.model.depth)
        rules: Mapping[str, Any] = dict(choice.rules)
        if not plan.pruned:  # nothing is restored
            rules = {name: rule for name, rule in rules.items() if name != "restore"}
        return replace(plan, **rules) if plan.pruned or plan.stacks else plan

    def cost(self, method: Method) -> float:
        """Return the cost of one picture under a method."""
        if method not in self._spent:
            c = self.calibration
            self._spent[method] = total(
                self.price, c.model, method, c.grids, c.text_tokens, c.sampled
            )
        return self._spent[method]

    def spent(self, choice: Choice) -> float:
        """Return the cost of one picture under a choice."""
        return self.cost(self.method(choice))

    def errors(self, choices: Sequence[Choice], title: str, n: int | None = None) -> np.ndarray:
        """Return log10 of the squared errors (choices, pictures) on the first `n` pictures."""
        methods = [self.method(choice) for choice in choices]
        return np.log10(self.calibration.errors(methods, title, n))

    def tails(self) -> list[Tail]:
        """Return the tails of the space."""
        guided, last = self.calibration.guided, len(self.calibration.grids) - 2
        return [
            Tail(skipped, dropped, held)
            for skipped in range(min(SKIPPED, last) + 1)
            for dropped in range((min(DROPPED, last - skipped) if guided else 0) + 1)
            for held in ((False, True) if dropped else (False,))
        ]

    def changes(self, rules: tuple[tuple[str, Any], ...]) -> list[Choice]:
        """Return the choices of one change: a level at one place, or other rows at one step."""
        n = len(self.places)
        raised = (tuple(int(i == place) for i in range(n)) for place in range(n))
        tails = (tail for tail in self.tails() if tail.skipped + tail.dropped == 1)
        return [
            *(Choice(levels, Tail(), rules) for levels in raised),
            *(Choice((0,) * n, tail) for tail in tails),
        ]

    def fastest(self) -> Choice:
        """Return the cheapest choice there is."""
        stacks = tuple(int(top) for top in self.tops)
        even = tuple(0 if p.kind == STACK else top for p, top in zip(self.places, stacks))
        options = (Choice(levels, tail) for tail in self.tails() for levels in (stacks, even))
        return min(options, key=self.spent)

    def live(self, choice: Choice) -> np.ndarray:
        """Return (places,) whether a place counts: its step runs, and is pruned as it prunes.

        Where a stack is pruned that place counts alone, elsewhere all others.
        """
        ends = len(self.calibration.grids) - choice.tail.skipped
        stacked = {
            place.step
            for place, level in zip(self.places, choice.levels, strict=True)
            if place.kind == STACK and level
        }
        return np.array(
            [p.step < ends and (p.kind == STACK) == (p.step in stacked) for p in self.places]
        )

    def switched(self, choice: Choice) -> list[Choice]:
        """Return a choice with one step pruned the other way: in its sublayers, or as a stack.

        The share is the one whose cost is nearest.
        """
        out, spent = list[Choice](), self.spent(choice)
        ends = len(self.calibration.grids) - choice.tail.skipped
        for place, level in zip(self.places, choice.levels, strict=True):
            if place.kind != STACK or place.step >= ends:
                continue
            top = len(levels_of("attn" if level else STACK))
            options = [
                self._with_level(choice, place.step, not level, share) for share in range(1, top)
            ]
            out.append(min(options, key=lambda option: abs(self.spent(option) - spent)))
        return out

    def _with_level(self, choice: Choice, step: int, stack: bool, level: int) -> Choice:
        """Return a choice with one level at all sublayers of a step, or at its stack."""
        levels = (
            old if place.step != step else level * ((place.kind == STACK) == stack)
            for place, old in zip(self.places, choice.levels, strict=True)
        )
        return choice._replace(levels=tuple(levels))

    @property
    def prior(self) -> np.ndarray:
        """What one more level does for what it saves (places,), as far as nothing is measured.

        Later steps come before earlier ones, attention before feed-forward and cross-attention.
        """
        kinds = {"attn": 1, "ffn": 2, "cross": 3, STACK: 1}
        last = len(self.calibration.grids)
        return np.array([kinds[p.kind] + 2.0 * (last - p.step) for p in self.places])

    def fit(self, choice: Choice, worth: np.ndarray, budget: float) -> Choice:
        """Return a choice within a budget: places of least `worth` are raised, others lowered.

        `worth` (places,) is the error of one more level for what it saves. It is taken to double
        with every level that a place is moved.
        """
        levels, first = np.array(choice.levels), np.array(choice.levels)
        live, tops = self.live(choice), self.tops

        def moved() -> Choice:
            return choice._replace(levels=tuple(int(level) for level in levels))

        while self.spent(moved()) > budget:
            open_places = live & (levels < tops)
            if not open_places.any():
                break
            levels[np.where(open_places, worth * 2.0 ** (levels - first), np.inf).argmin()] += 1
        stack = np.array([place.kind == STACK for place in self.places])
        full = ~live | (levels <= stack)  # a pruned stack stays one
        while not full.all():  # spend what is left where one more level hurts most
            i = int(np.where(full, -np.inf, worth * 2.0 ** (levels - first)).argmax())
            levels[i] -= 1
            if self.spent(moved()) > budget:
                levels[i] += 1
                full[i] = True
            full |= levels <= stack
        return moved()
