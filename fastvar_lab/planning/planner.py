"""The planner: schedules for a budget, corrected by what they measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np

from fastvar_lab.methods.planned import Planned
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.planning import cost as costs
from fastvar_lab.planning import sensitivity as changes
from fastvar_lab.planning.cost import Cost, Operations, total
from fastvar_lab.planning.effects import LEAST, Calibration, calibration_items, psnr
from fastvar_lab.planning.sensitivity import LEVELS, Sensitivity, Tail
from fastvar_lab.planning.solve import choose, solve
from fastvar_lab.prompts import PromptSet
from fastvar_lab.sampling import Sampling
from fastvar_lab.seam import Method
from fastvar_lab.store import Store

PICTURES = 8
ROUNDS, TRIED = 2, 6  # rounds of correction, and starts of each kind that are measured
TRUSTED = (1.0, 0.6, 0.3)  # shares of the places that a round moves
CLOSE = 1e-4  # a difference in log10 of the error that counts as none
SLACK = 2e-3  # share of a budget that a corrected schedule may be over


class Plan(NamedTuple):
    """A planned schedule, its predicted speedup, and its PSNR in dB on the calibration pictures."""

    method: Planned
    speedup: float
    psnr: float


@dataclass
class Planner:
    """Plans schedules of one model; sensitivity and cost are measured once for all budgets.

    `cost` is "time" on this machine, "operations", or a `Cost`. `n` calibration pictures are drawn
    from `prompts`, by default the model's own set under a seed that nothing is judged on.
    """

    model: Model
    cost: str | Cost = "time"
    n: int = PICTURES
    prompts: PromptSet | None = None
    sampling: Sampling | None = None
    sizes: Sequence[tuple[int, int]] | None = None
    store: Store | None = None
    quick: bool = False
    progress: bool = True

    @cached_property
    def calibration(self) -> Calibration:
        n = min(self.n, 4) if self.quick else self.n
        items = calibration_items(self.model, n, self.prompts)
        return Calibration(self.model, items, self.sampling, self.sizes, self.store, self.progress)

    @cached_property
    def sensitivity(self) -> Sensitivity:
        return changes.measure(self.calibration, self.quick)

    @cached_property
    def price(self) -> Cost:
        """The cost that schedules are planned for."""
        if not isinstance(self.cost, str):
            return self.cost
        if self.cost == "operations":
            return Operations(self.model, self.calibration.grids[-1])
        if self.cost != "time":
            raise ValueError(f"cost must be time, operations or a Cost; not {self.cost!r}")
        prompt = self.calibration.items[0].prompt
        return costs.measure(self.model, prompt, self.sizes, self.sampling, self.progress)

    def spent(self, method: Method) -> float:
        """Return the predicted cost of one picture under a method, in the unit of `price`."""
        c = self.calibration
        return total(self.price, self.model, method, c.grids, c.text_tokens, c.sampled)

    def plan(self, speedup: float, rounds: int = ROUNDS) -> Plan:
        """Return the best schedule found that is predicted to be `speedup` times as fast.

        It starts from the best of schedules with equal shares and of those that single changes
        suggest. Effects do not add up, so each round then measures what one more level does at
        every place of the best schedule, and moves shares from where they hurt to where they do
        not. Raises ValueError for a speedup that no schedule reaches; it says the fastest there
        is, and its quality.
        """
        if not speedup >= 1:
            raise ValueError(f"a speedup is 1 or more; not {speedup}")
        title, full = f"{speedup:g} times as fast", self.spent(Dense())
        budget = full / speedup
        self._check_reach(budget, full)
        best, error = self._least(self._starts(budget), title)
        for _ in range(rounds):
            moved, less = self._least(self._moves(best, error, budget, title), title)
            if less.mean() >= error.mean() - CLOSE:
                break
            best, error = moved, less
        return Plan(self._signed(best), full / self.spent(best), float(-10 * error.mean()))

    def _least(self, plans: Sequence[Planned], title: str) -> tuple[Planned, np.ndarray]:
        """Measure schedules; return the best one with log10 of its errors (n,)."""
        errors = np.log10(self.calibration.errors(plans, title))
        best = int(errors.mean(1).argmin())
        return plans[best], errors[best]

    def _starts(self, budget: float) -> list[Planned]:
        """Return schedules within a budget, those of least predicted error."""
        s, options = self.sensitivity, list[tuple[float, Planned]]()
        for tail, base in zip(s.tails, s.tail_errors, strict=True):
            scale = 1 / np.exp(np.log(np.maximum(base, LEAST)).mean())
            errors = s.errors.mean(2) * scale
            solved = solve(s, errors, tail, self.price, budget, self.calibration)
            for plan in [*([] if solved is None else [solved]), *self._even(tail, budget)]:
                chosen = s.errors[np.arange(len(s.places)), s.levels(plan)].sum(0)
                options.append((float(np.log(base + chosen + LEAST).mean()), plan))
        options.sort(key=lambda option: option[0])
        plans = list(dict.fromkeys(plan for _, plan in options))
        even = [plan for plan in plans if s.is_even(plan)]
        rest = [plan for plan in plans if plan not in even]
        return [*even[:TRIED], *rest[:TRIED]]

    def _even(self, tail: Tail, budget: float) -> list[Planned]:
        """Return schedules with equal shares in all layers of a step, as dear as a budget allows.

        Shares rise with the step; the first quarter of the layers is pruned like the others, or
        not at all.
        """
        s, steps = self.sensitivity, sorted({place.step for place in self.sensitivity.places})
        plans: dict[tuple[int, ...], tuple[float, Planned]] = {}
        for levels in combinations_with_replacement(range(len(LEVELS)), len(steps)):
            for first in (0, s.depth // 4):
                digits = [
                    LEVELS[levels[steps.index(p.step)] if p.layers.start >= first else 0]
                    for p in s.places
                ]
                plan = s.schedule(digits, tail)
                spent = self.spent(plan)
                if 0.93 * budget <= spent <= budget:
                    plans[*levels, first] = spent, plan
        return [plan for _, plan in plans.values()]

    def _moves(self, plan: Planned, error: np.ndarray, budget: float, title: str) -> list[Planned]:
        """Return schedules that differ from a plan in the moves that promise most."""
        s, tail = self.sensitivity, self._tail(plan)
        levels, places = s.levels(plan), range(len(s.places))
        up = [i for i in places if levels[i] + 1 < len(LEVELS)]
        raised = [s.with_level(plan, i, levels[i] + 1, tail) for i in up]
        worse = np.zeros(len(s.places))
        measured = np.log10(self.calibration.errors(raised, title))
        worse[up] = np.maximum((measured - error).mean(1), CLOSE)
        prices = s.prices(levels, tail, self.price, self.calibration)
        errors, costs = np.zeros((len(s.places), 3)), np.zeros((len(s.places), 3))
        for i in places:
            for option, level in enumerate(levels[i] + np.arange(-1, 2)):
                inside = 0 <= level < len(LEVELS)
                costs[i, option] = prices[i, level] if inside else prices[i, levels[i]]
                errors[i, option] = (option - 1) * worse[i] if inside else 0.0
        fixed = self.spent(plan) - prices[np.arange(len(levels)), levels].sum()
        plans = []
        for trust in TRUSTED:
            allowed = errors.copy()
            if trust < 1:  # the moves of largest and smallest effect for what they cost
                worth = worse / np.maximum(np.abs(np.diff(costs).mean(1)), 1e-12)
                middle = np.abs(np.argsort(np.argsort(worth)) / len(worth) - 0.5) < (1 - trust) / 2
                allowed[middle, 0] = allowed[middle, 2] = np.inf
            options = choose(allowed, costs, budget - fixed)
            moved = levels + options - 1
            moved = np.clip(moved, 0, len(LEVELS) - 1)
            candidate = s.schedule([LEVELS[level] for level in moved], tail)
            if self.spent(candidate) <= budget * (1 + SLACK):
                plans.append(candidate)
        return plans or [plan]

    def _tail(self, plan: Planned) -> Tail:
        return next(tail for tail in self.sensitivity.tails if tail.rows() == dict(plan.rows))

    def plan_to(self, quality: float) -> Plan:
        """Return the fastest schedule found whose PSNR is at least `quality` dB."""
        low, high, best = 1.0, self._fastest()[1], None
        for _ in range(6):
            middle = (low * high) ** 0.5
            plan = self.plan(middle, rounds=2)
            low, high = (middle, high) if plan.psnr >= quality else (low, middle)
            best = plan if plan.psnr >= quality else best
        if best is None:
            raise ValueError(f"no schedule faster than full generation keeps {quality:g} dB")
        return best

    def _fastest(self) -> tuple[Planned, float]:
        """Return the cheapest schedule, and how much faster it is than full generation."""
        s, options = self.sensitivity, []
        for tail in s.tails:
            options.append(s.schedule([LEVELS[-1]] * len(s.places), tail))
        fastest = min(options, key=self.spent)
        return fastest, self.spent(Dense()) / self.spent(fastest)

    def _check_reach(self, budget: float, full: float) -> None:
        fastest, speedup = self._fastest()
        if self.spent(fastest) > budget:
            quality = float(psnr(self.calibration.errors([fastest])).mean())
            raise ValueError(
                f"no schedule is {full / budget:.3g} times as fast; the fastest is "
                f"{speedup:.3g} times, at {quality:.1f} dB to full generation"
            )

    def _signed(self, plan: Planned) -> Planned:
        """Return a plan that says what it was planned on."""
        c, model = self.calibration, self.model
        origin = (
            f"{model.name} {model.fingerprint}, maps to {c.grids[-1].name}, guidance "
            f"{c.sampled.guidance}, {len(c.items)} prompts, cost in {self.price.unit}"
        )
        return replace(plan, origin=origin)


def plan(
    model: Model,
    speedup: float | None = None,
    *,
    psnr: float | None = None,
    cost: str | Cost = "time",
    n: int = PICTURES,
    prompts: PromptSet | None = None,
    sampling: Sampling | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    quick: bool = False,
    store: Store | None = None,
    progress: bool = True,
) -> Planned:
    """Return the best schedule found under a budget: a speedup, or a PSNR in dB to keep.

    Shares of pruned tokens are chosen for each step, layer and kind of sublayer, and the last
    steps that run null rows. `cost` is "time" on this machine, "operations", or a `Cost`; `n`
    pictures of `prompts` are the calibration, by default of the model's own set under a seed that
    nothing is judged on. What is measured is kept in `store`, so that a stopped plan goes on and
    other budgets are quick. `quick` measures four pictures and layers in groups. Raises ValueError
    for a budget that cannot be met.

    >>> import fastvar_lab as fv
    >>> model = fv.load("tiny")
    >>> fv.plan(model, speedup=0.5)
    Traceback (most recent call last):
    ValueError: a speedup is 1 or more; not 0.5
    """
    if (speedup is None) == (psnr is None):
        raise ValueError(f"give a speedup or a PSNR to keep; not {speedup!r} and {psnr!r}")
    planner = Planner(model, cost, n, prompts, sampling, sizes, store, quick, progress)
    if speedup is not None:
        return planner.plan(speedup).method
    assert psnr is not None
    return planner.plan_to(psnr).method
