"""A search by measured moves: shares go from places where they hurt to places where they do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastvar_lab.planning.space import Choice, ScheduleSpace

MOVED = (1, 2, 4, 8)  # places that one move raises, by the least effect for what they save
KEPT = 2  # candidates that are measured on all pictures
CLOSE = 1e-4  # a difference in log10 of the error that counts as none
STEPS = 3  # the most moves by the effects of one round


@dataclass
class Search:
    """Improves choices within a budget by what changes do to the calibration's pictures.

    Effects and candidates are measured on the first `few` pictures; the best candidates, and
    whatever is accepted, on all of them. `worth` (places,) is what one more level does, for what it
    saves: as measured for another budget, if at all, until a round measures it.
    """

    space: ScheduleSpace
    budget: float
    title: str
    few: int
    worth: np.ndarray | None = None

    def best(self, choices: Sequence[Choice]) -> tuple[Choice, np.ndarray]:
        """Return the best of some choices, with log10 of its errors (pictures,)."""
        choices = self.leading(choices, KEPT)
        errors = self.space.errors(choices, self.title)
        first = int(errors.mean(1).argmin())
        return choices[first], errors[first]

    def leading(self, choices: Sequence[Choice], n: int) -> list[Choice]:
        """Return the best `n` of some choices on the first pictures, the best first."""
        choices = list(dict.fromkeys(choices))
        if len(choices) <= n:
            return choices
        means = self.space.errors(choices, self.title, self.few).mean(1)
        return [choices[i] for i in means.argsort(kind="stable")[:n]]

    def improved(
        self, choice: Choice, errors: np.ndarray, rounds: int
    ) -> tuple[Choice, np.ndarray]:
        """Return a choice after rounds of correction, never worse than the given one.

        A round measures what one more level does at every place, and moves; before the first one
        the search moves by what is known from another budget.
        """
        for number in range(rounds + 1):
            if number:
                self.worth = self.measured_worth(choice)
            if self.worth is None:
                continue
            start = choice
            for _ in range(STEPS):
                moves = [move for move in self.moves(choice, self.worth) if move != choice]
                if not moves:
                    break
                moved, less = self.best(moves)
                if less.mean() >= errors.mean() - CLOSE:
                    break
                choice, errors = moved, less
            if number and choice == start:
                break
        return choice, errors

    def measured_worth(self, choice: Choice) -> np.ndarray:
        """Measure (places,) what one more level does to log10 of the error, for what it saves."""
        levels, spent = choice.levels, self.space.spent(choice)
        live, tops = self.space.live(choice), self.space.tops
        up = [i for i in range(len(levels)) if live[i] and levels[i] < tops[i]]
        raised = [
            choice._replace(levels=(*levels[:i], levels[i] + 1, *levels[i + 1 :])) for i in up
        ]
        if not up:
            return np.ones(len(levels))
        worth = np.full(len(levels), np.inf)
        log = self.space.errors([choice, *raised], self.title, self.few)
        worse = np.maximum((log[1:] - log[0]).mean(1), CLOSE)
        saved = np.array([spent - self.space.spent(each) for each in raised])
        worth[up] = worse / np.maximum(saved, spent * 1e-6)
        # of places at the top the effect of the last level is unknown: they stay as they are
        worth[~np.isfinite(worth)] = np.median(worth[up])
        return worth

    def moves(self, choice: Choice, worth: np.ndarray) -> list[Choice]:
        """Return choices within the budget near to one: other places, tails, and stacks."""
        raised = list[Choice]()
        live, tops = self.space.live(choice), self.space.tops
        order = [i for i in worth.argsort(kind="stable") if live[i] and choice.levels[i] < tops[i]]
        for count in MOVED:
            levels = list(choice.levels)
            for i in order[:count]:
                levels[i] += 1
            dear = worth.copy()
            dear[order[:count]] = 0  # what was raised is not lowered again
            raised.append(self.space.fit(choice._replace(levels=tuple(levels)), dear, self.budget))
        tails = [
            self.space.fit(choice._replace(tail=tail), worth, self.budget)
            for tail in self.space.tails()
            if tail != choice.tail
            and abs(tail.dropped - choice.tail.dropped) + abs(tail.skipped - choice.tail.skipped)
            <= 1
        ]
        switched = [
            self.space.fit(other, worth, self.budget) for other in self.space.switched(choice)
        ]
        moves = (*raised, *tails, *switched)
        return [move for move in moves if self.space.spent(move) <= self.budget]
