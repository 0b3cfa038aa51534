"""The planner: schedules for a budget, corrected by what they measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from fastvar_lab.methods.planned import Planned
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.planning import cost as costs
from fastvar_lab.planning import sensitivity as changes
from fastvar_lab.planning.cost import Cost, Operations, total
from fastvar_lab.planning.effects import Calibration, calibration_items, psnr
from fastvar_lab.planning.sensitivity import LEVELS, Sensitivity
from fastvar_lab.planning.solve import solve
from fastvar_lab.prompts import PromptSet
from fastvar_lab.sampling import Sampling
from fastvar_lab.seam import Method
from fastvar_lab.store import Store

ROUNDS, TRIED = 4, 4  # rounds of correction, and schedules measured in each
PRIOR = 0.3  # weight of the belief that effects add up, against what is measured


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
    n: int = 16
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
        return total(self.price, self.model, method, c.grids, c.text_tokens, c.guided)

    def plan(self, speedup: float, rounds: int | None = None) -> Plan:
        """Return the best schedule found that is predicted to be `speedup` times as fast.

        Effects do not add up, so each round solves for the most promising tails, measures the
        schedules, and corrects how much each step and kind counts. Raises ValueError for a
        speedup that no schedule reaches; it says the fastest there is, and its quality.
        """
        if not speedup >= 1:
            raise ValueError(f"a speedup is 1 or more; not {speedup}")
        full = self.spent(Dense())
        budget = full / speedup
        self._check_reach(budget, full)
        s, c = self.sensitivity, self.calibration
        correction = Correction(s)
        seen: dict[Planned, float] = {}
        for turn in range(ROUNDS if rounds is None else rounds):
            weights = correction.fit()
            options = []
            for i, tail in enumerate(s.tails):
                errors, base = correction.weighted(weights, i)
                plan = solve(s, errors, tail, self.price, budget, c)
                if plan is not None:
                    options.append((base + correction.added(errors, plan), i, plan))
            options.sort(key=lambda option: option[0])
            fresh = [(i, p) for _, i, p in options if p not in seen][: TRIED + 2 * (turn == 0)]
            if not fresh:
                break
            measured = c.errors([p for _, p in fresh], f"{speedup:g} times as fast")
            for (i, p), errors in zip(fresh, measured, strict=True):
                seen[p] = float(psnr(errors).mean())
                correction.learn(p, i, errors)
        best = max(seen, key=seen.__getitem__)
        return Plan(self._signed(best), full / self.spent(best), seen[best])

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
        sampling = self.sampling or model.sampling
        origin = (
            f"{model.name} {model.fingerprint}, maps to {c.grids[-1].name}, guidance "
            f"{sampling.guidance:g}, {len(c.items)} prompts, cost in {self.price.unit}"
        )
        return replace(plan, origin=origin)


class Correction:
    """Learns how much errors of each step and kind, and of a tail, count in whole schedules."""

    def __init__(self, sensitivity: Sensitivity) -> None:
        self.s = sensitivity
        names = dict.fromkeys((place.step, place.kind) for place in sensitivity.places)
        self.groups = {name: i for i, name in enumerate(names)}
        self.of_place = np.array([self.groups[p.step, p.kind] for p in sensitivity.places])
        self.rows: list[np.ndarray] = []  # shares of the measured error that each group predicts
        self.scale = np.ones(sensitivity.errors.shape[2])  # 1 / error of each picture

    def fit(self) -> np.ndarray:
        """Return the weights of the groups and, last, of tails: 1 where nothing is known."""
        n = len(self.groups) + 1
        prior = PRIOR * np.eye(n)
        rows = np.array(self.rows).reshape(-1, n)
        target = np.concatenate([np.ones(len(rows)), PRIOR * np.ones(n)])
        weights, _ = nnls(np.concatenate([rows, prior]), target)
        return np.maximum(weights, 0.05)

    def weighted(self, weights: np.ndarray, tail: int) -> tuple[np.ndarray, float]:
        """Return the errors (places, levels) over the pictures, and that of a tail."""
        errors = (self.s.errors * self.scale).mean(2) * weights[self.of_place][:, None]
        return errors, float((self.s.tail_errors[tail] * self.scale).mean() * weights[-1])

    def added(self, errors: np.ndarray, plan: Planned) -> float:
        """Return the sum of the errors of a schedule's places."""
        return float(errors[np.arange(len(errors)), self.levels(plan)].sum())

    def levels(self, plan: Planned) -> np.ndarray:
        """Return the level of each place in a schedule."""
        steps = plan.steps(self.s.grids)
        zero = "0" * self.s.depth
        digits = [steps.get(p.step, {}).get(p.kind, zero)[p.layers.start] for p in self.s.places]
        return np.array([LEVELS.index(digit) for digit in digits])

    def learn(self, plan: Planned, tail: int, errors: np.ndarray) -> None:
        """Take in the measured errors (n,) of a schedule."""
        chosen = self.s.errors[np.arange(len(self.of_place)), self.levels(plan)]
        parts = np.zeros((len(self.groups) + 1, chosen.shape[1]))
        np.add.at(parts, self.of_place, chosen)
        parts[-1] = self.s.tail_errors[tail]
        self.rows.append((parts / errors).mean(1))
        self.scale = 1 / errors / np.mean(1 / errors)
