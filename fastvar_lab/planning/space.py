"""The schedules that a search chooses from, with their costs and measured errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from fastvar_lab.methods.planned import Planned
from fastvar_lab.planning.cost import Cost, total
from fastvar_lab.planning.effects import Calibration
from fastvar_lab.planning.sensitivity import LEVELS, Place, Tail, schedule
from fastvar_lab.seam import Method

TOP = len(LEVELS) - 1

DROPPED = 3  # the most last steps without null rows
SKIPPED = 3  # the most last steps that are skipped


class Choice(NamedTuple):
    """One schedule of a space: the level of each place, the tail, and fields of `Planned`."""

    levels: tuple[int, ...]
    tail: Tail = Tail()
    rules: tuple[tuple[str, Any], ...] = ()


@dataclass
class Space:
    """The schedules with a level at each place and a tail."""

    calibration: Calibration
    places: tuple[Place, ...]
    price: Cost
    _spent: dict[Method, float] = field(default_factory=dict, repr=False)

    def method(self, choice: Choice) -> Planned:
        """Return a choice as a method."""
        c = self.calibration
        digits = [LEVELS[level] for level in choice.levels]
        plan = schedule(self.places, digits, choice.tail, c.grids, c.model.depth)
        rules: Mapping[str, Any] = dict(choice.rules)
        return replace(plan, **rules) if plan.pruned else plan

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

    def fastest(self) -> Choice:
        """Return the cheapest choice there is."""
        levels = (TOP,) * len(self.places)
        return min((Choice(levels, tail) for tail in self.tails()), key=self.spent)

    @property
    def prior(self) -> np.ndarray:
        """What one more level does for what it saves (places,), as far as nothing is measured.

        Later steps come before earlier ones, attention before feed-forward and cross-attention.
        """
        kinds = {"attn": 1, "ffn": 2, "cross": 3}
        last = len(self.calibration.grids)
        return np.array([kinds[p.kind] + 2.0 * (last - p.step) for p in self.places])

    def fit(self, choice: Choice, worth: np.ndarray, budget: float) -> Choice:
        """Return a choice within a budget: places of least `worth` are raised, others lowered.

        `worth` (places,) is the error of one more level for what it saves. It is taken to double
        with every level that a place is moved.
        """
        levels, first = np.array(choice.levels), np.array(choice.levels)
        dead = len(self.calibration.grids) - choice.tail.skipped
        live = np.array([place.step < dead for place in self.places])

        def moved() -> Choice:
            return choice._replace(levels=tuple(int(level) for level in levels))

        while self.spent(moved()) > budget:
            open_places = live & (levels < TOP)
            if not open_places.any():
                break
            levels[np.where(open_places, worth * 2.0 ** (levels - first), np.inf).argmin()] += 1
        full = ~live | (levels == 0)
        while not full.all():  # spend what is left where one more level hurts most
            i = int(np.where(full, -np.inf, worth * 2.0 ** (levels - first)).argmax())
            levels[i] -= 1
            if self.spent(moved()) > budget:
                levels[i] += 1
                full[i] = True
            full |= levels == 0
        return moved()
