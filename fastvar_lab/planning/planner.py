"""The planner: schedules for a budget, corrected by what they measure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from fastvar_lab.errors import short
from fastvar_lab.methods.planned import Planned
from fastvar_lab.methods.prune import Dense
from fastvar_lab.methods.restore import CachedBranch
from fastvar_lab.methods.select import FarFromMean
from fastvar_lab.methods.select_pairs import Shared
from fastvar_lab.methods.select_previous import AttentionEntropy, middle_chunk
from fastvar_lab.models.model import Model
from fastvar_lab.planning import cost as costs
from fastvar_lab.planning.cost import CacheBytes, Cost, Operations, total
from fastvar_lab.planning.effects import BATCH, LEAST, Calibration, calibration_items, psnr
from fastvar_lab.planning.places import grouped_places
from fastvar_lab.planning.search import Search
from fastvar_lab.planning.space import Choice, ScheduleSpace
from fastvar_lab.planning.starts import NEAR, Starts
from fastvar_lab.prompts import PromptSet
from fastvar_lab.sampling import Sampling
from fastvar_lab.scales import whole
from fastvar_lab.seam import Grid, Method
from fastvar_lab.store import Store

PICTURES, QUICK_PICTURES = 16, 4
ROUNDS, QUICK_ROUNDS = 2, 1  # rounds of correction
SEARCHED, QUICK_SEARCHED = 4, 3  # last steps that are pruned
STARTS = 8  # even schedules that are measured, each in two variants
LEADING = 4  # starts whose rules are varied
RUNS = {True: (45, 45), False: (50, 110)}
"""What is measured before a first budget and for each, about, by whether it is `quick`: methods by
batches of pictures; on the shipped model."""
SPEEDS = 6  # that are planned for a quality to keep
RUN = 0.6  # of the time of full generation that one takes

COSTS = ("time", "operations", "bytes")

Rules = tuple[tuple[str, Any], ...]
"""Fields of `Planned`."""


class Plan(NamedTuple):
    """A planned schedule, its predicted speedup, and its PSNR in dB on the calibration pictures."""

    method: Planned
    speedup: float
    psnr: float


@dataclass
class Planner:
    """Plans schedules of one model; effects and cost are measured once for all budgets.

    `cost` is "time" on this machine, "operations", "bytes" of keys and values, or a `Cost`. `n`
    calibration pictures, by default 16 and `quick` 4, are drawn from `prompts`, by default the
    model's own set under a seed that nothing is judged on.
    """

    model: Model
    cost: str | Cost = "time"
    n: int | None = None
    prompts: PromptSet | None = None
    sampling: Sampling | None = None
    sizes: Sequence[tuple[int, int]] | None = None
    store: Store | None = None
    quick: bool = False
    progress: bool = True
    _planned: list[Choice] = field(default_factory=list, repr=False)
    _worth: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.n is not None and whole("number of pictures", self.n) < 1:
            raise ValueError(f"a plan is made on 1 or more pictures; not {self.n}")
        if isinstance(self.cost, str) and self.cost not in COSTS:
            raise ValueError(
                f"cost must be one of {', '.join(COSTS)}, or a Cost; not {self.cost!r}"
            )

    @cached_property
    def calibration(self) -> Calibration:
        n = self._usual if self.n is None else self.n
        items = calibration_items(self.model, n, self.prompts)
        return Calibration(self.model, items, self.sampling, self.sizes, self.store, self.progress)

    @property
    def _usual(self) -> int:
        return QUICK_PICTURES if self.quick else PICTURES

    @cached_property
    def price(self) -> Cost:
        """The cost that schedules are planned for."""
        if not isinstance(self.cost, str):
            return self.cost
        if self.cost == "operations":
            return Operations(self.model, self.calibration.grids[-1], self.calibration.sampled)
        if self.cost == "bytes":
            return CacheBytes(self.model, self.calibration.grids[-1])
        prompt = self.calibration.items[0].prompt
        return costs.measure(self.model, prompt, self.sizes, self.sampling, self.progress)

    def minutes(self, budgets: int = 1) -> float:
        """Return about how long planning for some budgets takes here, if nothing is known yet.

        Full generation of the first batch of calibration pictures is run, or read, for that. Each
        budget takes the usual number of rounds.
        """
        first, each = RUNS[self.quick]
        runs = (first + budgets * each) * len(self.calibration.items) / self._usual
        return self.calibration.batch(0)[0].seconds * RUN * runs / 60

    @property
    def gain(self) -> str:
        """What a schedule that costs less is, beside full generation: fast, or small."""
        return "small" if isinstance(self.price, CacheBytes) else "fast"

    def spent(self, method: Method) -> float:
        """Return the predicted cost of one picture under a method, in the unit of `price`."""
        c = self.calibration
        return total(self.price, self.model, method, c.grids, c.text_tokens, c.sampled)

    def plan(self, speedup: float, rounds: int | None = None) -> Plan:
        """Return the best schedule found that is predicted to be `speedup` times as fast.

        It starts from the best even schedules, from what was planned before for other budgets, and,
        unless it is `quick`, from all that people write by hand for about that speed.
        Each of `rounds` rounds then measures what one more level does at every place of the best
        schedule, and moves shares from where they hurt to where they do not. Raises ValueError for
        a speedup that no schedule reaches; it says the fastest there is, and its quality.
        """
        return self.plan_within(self.budget(speedup), rounds)

    def budget(self, speedup: float) -> float:
        """Return the cost, in the unit of `price`, of a picture that is `speedup` times as fast."""
        check_speedup(speedup)
        return self.spent(Dense()) / speedup

    def plan_within(self, budget: float, rounds: int | None = None) -> Plan:
        """Return the best schedule found whose cost is at most `budget`, in the unit of `price`.

        Raises ValueError for a budget that no schedule meets; it says the least, and its quality.
        """
        check_above_0("a budget is a number", budget)
        space, full = self.space, self.spent(Dense())
        if budget >= full:
            return self._whole()
        self.check_reach(budget)
        title = f"{full / budget:.3g} times as {self.gain}"
        search = Search(space, budget, title, self.few, self._worth)
        worth = space.prior if self._worth is None else self._worth
        starts = [
            *self.starts.best(budget, STARTS),
            *(space.fit(choice, worth, budget) for choice in self._planned),
            *(() if self.quick else self._written(budget, worth)),
        ]
        starts = [each for each in starts if space.spent(each) <= budget]
        leading = search.leading(starts or [space.fit(space.fastest(), worth, budget)], LEADING)
        varied = [space.fit(each, worth, budget) for one in leading for each in self._varied(one)]
        choice, errors = search.best([*leading, *varied])
        rounds = (QUICK_ROUNDS if self.quick else ROUNDS) if rounds is None else rounds
        choice, errors = search.improved(choice, errors, rounds)
        self._planned.append(choice)
        self._worth = search.worth
        return self._as_plan(choice, errors)

    @cached_property
    def space(self) -> ScheduleSpace:
        """The schedules that are searched."""
        model, grids = self.model, self.calibration.grids
        places = grouped_places(model, grids, QUICK_SEARCHED if self.quick else SEARCHED)
        if not places:
            raise ValueError(f"{model.name} has no scale step that a schedule can prune")
        return ScheduleSpace(self.calibration, places, self.price)

    @cached_property
    def starts(self) -> Starts:
        """The even schedules to start from, and the measured effects that rank them."""
        return Starts(self.space, self.rules[0], self.few)

    @property
    def few(self) -> int:
        """The number of pictures on which candidates are compared before the best are on all."""
        return min(BATCH, len(self.calibration.items))

    @cached_property
    def rules(self) -> list[Rules]:
        """The selectors and restorers that are tried, the usual one first."""
        low = Shared(AttentionEntropy("low", middle_chunk(self.model.depth)))
        restored = (("restore", CachedBranch("bilinear")),)
        return [(("select", low),), (("select", low), *restored), (("select", FarFromMean()),)]

    def plan_to(self, quality: float, rounds: int | None = None) -> Plan:
        """Return the fastest schedule found whose PSNR is at least `quality` dB.

        Raises ValueError, before it searches, for a quality that not even the smallest change
        keeps; it says the best one there is.
        """
        plans = [self.gentlest(quality)]
        low, high = 1.0, self.spent(Dense()) / self.space.spent(self.space.fastest())
        for _ in range(SPEEDS):
            middle = (low * high) ** 0.5
            plan = self.plan(middle, rounds)
            low, high = (middle, high) if plan.psnr >= quality else (low, middle)
            plans.append(plan)
        return max((plan for plan in plans if plan.psnr >= quality), key=lambda plan: plan.speedup)

    def gentlest(self, quality: float) -> Plan:
        """Return a schedule of one smallest change that keeps `quality` dB.

        A smallest change is one level at one place, or one step with other guidance rows. Those
        that save least are tried first: mostly the first one does. Raises ValueError if none does.
        """
        check_quality(quality)
        space, full, tried = self.space, self.spent(Dense()), list[Plan]()
        changes = [c for c in space.changes(self.rules[0]) if space.spent(c) < full]
        changes.sort(key=space.spent, reverse=True)
        title = "smallest changes"
        for part in (changes[:1], changes[1:]):
            errors = space.errors(part, title, self.few) if part else ()
            for choice, few in zip(part, errors, strict=True):
                plan = self._as_plan(choice, few)
                if plan.psnr >= quality:  # on all pictures?
                    plan = self._as_plan(choice, space.errors([choice], title))
                if plan.psnr >= quality:
                    return plan
                tried.append(plan)
        if not tried:
            return self._whole()
        best = max(tried, key=lambda plan: plan.psnr)
        raise ValueError(
            f"no schedule keeps {quality:g} dB; the best keeps {best.psnr:.1f} dB, "
            f"{best.speedup:.3g} times as {self.gain} as full generation"
        )

    def _whole(self) -> Plan:
        """Return the plan that changes nothing."""
        return Plan(self._signed(Planned()), 1.0, float(psnr(np.array(LEAST))))

    def _as_plan(self, choice: Choice, errors: np.ndarray) -> Plan:
        """Return a choice with log10 of its errors (..., pictures) as a plan."""
        method = self.space.method(choice)
        faster = self.spent(Dense()) / self.space.cost(method)
        return Plan(self._signed(method), faster, float(-10 * errors.mean()))

    def _written(self, budget: float, worth: np.ndarray) -> list[Choice]:
        """Return the schedules by hand near a budget, fitted to it, and the tails within it."""
        spent = {choice: self.space.spent(choice) for choice in self.starts.written()}
        return [
            choice if cost <= budget else self.space.fit(choice, worth, budget)
            for choice, cost in spent.items()
            if NEAR * budget <= cost <= (2 - NEAR) * budget
            or (cost <= budget and not any(choice.levels))
        ]

    def _varied(self, choice: Choice) -> list[Choice]:
        """Return a choice under all selectors and restorers, with held guidance and without."""
        tails = {choice.tail, choice.tail._replace(held=not choice.tail.held)}
        return [
            choice._replace(tail=tail, rules=rules)
            for tail in sorted(tails & set(self.space.tails()))
            for rules in self.rules
        ]

    def check_reach(self, budget: float) -> None:
        """Raise ValueError for a budget that no schedule meets; it says the least, and its quality.

        The budget is in the unit of `price`.
        """
        fastest = self.space.method(self.space.fastest())
        full, least = self.spent(Dense()), self.spent(fastest)
        if least > budget:
            quality = float(psnr(self.calibration.errors([fastest])).mean())
            raise ValueError(
                f"no schedule is {full / budget:.3g} times as {self.gain} ({budget:.4g} of "
                f"{full:.4g} {self.price.unit}); the {self.gain}est is {full / least:.3g} times, "
                f"at {quality:.1f} dB to full generation"
            )

    def _signed(self, plan: Planned) -> Planned:
        """Return a plan that says what it was planned on."""
        c, model = self.calibration, self.model
        prompts = f"{len(c.items)} prompt{'s' if len(c.items) > 1 else ''}"
        place = planned_on(model, c.grids, c.sampled)
        return replace(plan, origin=f"{place}, {prompts}, cost in {self.price.unit}")


def planned_on(model: Model, grids: Sequence[Grid], sampling: Sampling) -> str:
    """Return what a schedule is planned for: weights, maps and guidance, as its origin begins."""
    scale = sampling.guidance if isinstance(sampling.guidance, tuple) else float(sampling.guidance)
    maps = f"maps to {grids[-1].name}, guidance {scale}"
    return f"{model.name} {model.fingerprint}, {maps}"


def check_speedup(speedup: object) -> None:
    """Raise ValueError for what is no speedup over full generation."""
    if not (is_number(speedup) and 1 <= speedup < math.inf):  # type: ignore[operator]
        raise ValueError(f"a speedup is 1 or more, and finite; not {short(speedup)}")


def check_quality(decibels: object, what: str = "a quality to keep") -> None:
    """Raise ValueError for what is no PSNR that a schedule can be asked to keep."""
    most = float(psnr(np.array(LEAST)))
    if not (is_number(decibels) and 0 < decibels < most):  # type: ignore[operator]
        raise ValueError(
            f"{what} is a PSNR in dB above 0 and below {most:g}, at which pictures count as equal; "
            f"not {short(decibels)}"
        )


def check_above_0(what: str, value: object) -> None:
    """Raise ValueError for anything but a finite number above 0; `what` says what it is."""
    if not (is_number(value) and 0 < value < math.inf):  # type: ignore[operator]
        raise ValueError(f"{what} above 0, and finite; not {short(value)}")


def is_number(value: object) -> bool:
    """Return whether a value is a real number; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def plan(
    model: Model,
    speedup: float | None = None,
    *,
    psnr: float | None = None,
    milliseconds: float | None = None,
    cache_bytes: float | None = None,
    cost: str | Cost | None = None,
    n: int | None = None,
    prompts: PromptSet | None = None,
    sampling: Sampling | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    quick: bool = False,
    store: Store | None = None,
    progress: bool = True,
) -> Planned:
    """Return the best schedule found under a budget, for pictures like full generation's.

    The budget is one of four: a `speedup`; a `psnr` in dB to keep, as fast as possible;
    `milliseconds` for a picture on this machine; or `cache_bytes`, those of the keys and values of
    a picture. Chosen are the shares of pruned tokens by step, layer and kind of sublayer, the
    guidance rows of the last steps, and selector and restorer. A speedup counts `cost`: "time" on
    this machine, the default, "operations", "bytes" of keys and values, or a `Cost`. `n` pictures
    of `prompts` are the calibration, by default 16 of the model's own set under a seed that nothing
    is judged on. What is measured is kept in `store`, so that a stopped plan goes on and other
    budgets are quick. `quick` measures four pictures, and one round of correction. Raises
    ValueError for a budget that cannot be met; it says the fastest schedule and its quality.

    >>> import fastvar_lab as fv
    >>> model = fv.load("tiny")
    >>> fv.plan(model, speedup=0.5)
    Traceback (most recent call last):
    ValueError: a speedup is 1 or more, and finite; not 0.5
    """
    amounts = {
        "speedup": speedup, "psnr": psnr, "milliseconds": milliseconds, "cache_bytes": cache_bytes,
    }  # fmt: skip
    given = {name: value for name, value in amounts.items() if value is not None}
    if len(given) != 1:
        named = ", ".join(f"{name}={value!r}" for name, value in given.items()) or "none"
        raise ValueError(f"give one budget of {', '.join(amounts)}; not {named}")
    counted = {"milliseconds": "time", "cache_bytes": "bytes"}.get(next(iter(given)))
    if counted is not None and cost not in (None, counted):
        raise ValueError(f"{next(iter(given))} counts {counted}; leave cost={cost!r} out")
    price = counted or cost or "time"
    planner = Planner(model, price, n, prompts, sampling, sizes, store, quick, progress)
    if speedup is not None:
        return planner.plan(speedup).method
    if psnr is not None:
        return planner.plan_to(psnr).method
    return planner.plan_within(next(iter(given.values()))).method
