"""The best schedule under a budget: a digit for each place, by Lagrange multipliers."""

from __future__ import annotations

import numpy as np

from fastvar_lab.methods.planned import Planned
from fastvar_lab.planning.cost import Cost, total
from fastvar_lab.planning.effects import Calibration
from fastvar_lab.planning.sensitivity import LEVELS, Sensitivity, Tail

ROUNDS = 4  # in which costs follow the keys that a schedule leaves


def solve(
    sensitivity: Sensitivity,
    errors: np.ndarray,
    tail: Tail,
    cost: Cost,
    budget: float,
    calibration: Calibration,
) -> Planned | None:
    """Return the schedule of least error whose cost is within a budget; None if none is.

    `errors` (places, levels) is what a choice adds to the error. Errors and costs are taken to add
    up; costs depend on the keys that earlier steps leave, so they are computed again for each
    solution. This is a multiple-choice knapsack, solved by its Lagrangian relaxation; what room it
    leaves is filled by the best single changes.
    """
    model, grids = calibration.model, sensitivity.grids
    skipped = len(grids) - tail.skipped
    live = [i for i, place in enumerate(sensitivity.places) if place.step < skipped]
    digits = np.zeros(len(sensitivity.places), int)

    def spent() -> tuple[Planned, float]:
        plan = sensitivity.schedule([LEVELS[d] for d in digits], tail)
        return plan, total(cost, model, plan, grids, calibration.text_tokens, calibration.sampled)

    best, goal = None, budget
    for _ in range(ROUNDS):
        prices = sensitivity.prices(digits, tail, cost, calibration)
        _, now = spent()
        fixed = now - prices[np.arange(len(digits)), digits].sum()
        digits[live] = choose(errors[live], prices[live], goal - fixed)
        plan, now = spent()
        if now <= budget * (1 + 1e-6):
            best = plan
            goal = min(budget, goal * budget / now) if now else budget
        else:
            goal *= budget / now
    return best


def choose(errors: np.ndarray, prices: np.ndarray, budget: float) -> np.ndarray:
    """Choose a level (places,) for least error within a budget, or the cheapest there is."""
    low, high = 0.0, 1.0
    rows = np.arange(len(errors))

    def at(price: float) -> tuple[np.ndarray, float]:
        levels = (errors + price * prices).argmin(1)
        return levels, prices[rows, levels].sum()

    if at(0.0)[1] <= budget:
        return at(0.0)[0]
    while at(high)[1] > budget and high < 1e12:
        high *= 10
    for _ in range(80):
        middle = np.sqrt(low * high) if low else high / 1e3
        if at(middle)[1] > budget:
            low = middle
        else:
            high = middle
        if low and high / low < 1 + 1e-9:
            break
    levels, used = at(high)
    while True:  # spend what is left on the change that saves most error
        gain = errors[rows, levels][:, None] - errors
        fits = (prices - prices[rows, levels][:, None] <= budget - used) & (gain > 0)
        if not fits.any():
            return levels
        place, level = np.unravel_index(np.where(fits, gain, -1).argmax(), gain.shape)
        used += prices[place, level] - prices[place, levels[place]]
        levels[place] = level
