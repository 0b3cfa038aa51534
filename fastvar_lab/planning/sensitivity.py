"""Sensitivity: what each single change of a schedule does to the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from fastvar_lab.methods.planned import EIGHTHS, Planned
from fastvar_lab.methods.prune import Dense
from fastvar_lab.methods.schedule import kept
from fastvar_lab.models.model import Model
from fastvar_lab.planning.cost import Cost
from fastvar_lab.planning.effects import Calibration, psnr
from fastvar_lab.seam import Grid, Method, Rows, Site
from fastvar_lab.speed import flops
from fastvar_lab.speed.flops import Call

LEVELS = "02468"
"""The digits that a plan chooses from: eighths of a sublayer's tokens that are pruned."""

MEASURED, QUICK = "48", "6"
DROPPED, SKIPPED = 4, 2  # the most last steps without null rows, and that are skipped
SMALL = 0.03  # steps with a smaller share of all operations are not pruned


class Place(NamedTuple):
    """Where a share is chosen: a kind of sublayer at one step, in some neighbouring layers."""

    step: int
    kind: str
    layers: range


class Tail(NamedTuple):
    """The guidance rows of a plan: so many last steps skipped, so many before them without null."""

    skipped: int = 0
    dropped: int = 0

    def rows(self) -> dict[int, str]:
        """Return the rows as `Planned` takes them."""
        skipped = {-i: "skip" for i in range(1, self.skipped + 1)}
        first = self.skipped + 1
        return skipped | {-i: "cond" for i in range(first, first + self.dropped)}


@dataclass(frozen=True)
class Sensitivity:
    """Squared errors of single changes: of places (places, levels, n), of tails (tails, n)."""

    grids: tuple[Grid, ...]
    depth: int
    places: tuple[Place, ...]
    tails: tuple[Tail, ...]
    errors: np.ndarray
    tail_errors: np.ndarray

    def schedule(self, digits: Sequence[str], tail: Tail) -> Planned:
        """Return the schedule with a digit at each place."""
        return schedule(self.places, digits, tail, self.grids, self.depth)

    def levels(self, plan: Planned) -> np.ndarray:
        """Return the level of each place in a schedule."""
        steps, zero = plan.steps(self.grids), "0" * self.depth
        digits = [steps.get(p.step, {}).get(p.kind, zero)[p.layers.start] for p in self.places]
        return np.array([LEVELS.index(digit) for digit in digits])

    def with_level(self, plan: Planned, place: int, level: int, tail: Tail) -> Planned:
        """Return a schedule with another level at one place."""
        levels = self.levels(plan)
        levels[place] = level
        return self.schedule([LEVELS[each] for each in levels], tail)

    def is_even(self, plan: Planned) -> bool:
        """Return whether a schedule has one share at each step but for its first layers."""
        kinds = [set(kinds.values()) for kinds in plan.steps(self.grids).values()]
        rows = [row for each in kinds for row in each]
        return all(len(each) == 1 for each in kinds) and all(
            len(set(r.lstrip("0"))) == 1 for r in rows
        )

    def prices(
        self, levels: np.ndarray, tail: Tail, cost: Cost, calibration: Calibration
    ) -> np.ndarray:
        """Return the cost (places, LEVELS) of each choice, with the keys that `levels` leave."""
        grids, depth, text = self.grids, self.depth, calibration.text_tokens
        shares = {
            (place.step, layer): int(LEVELS[level]) / EIGHTHS
            for place, level in zip(self.places, levels, strict=True)
            for layer in (place.layers if place.kind == "attn" else ())
        }
        keys = np.zeros((len(grids), depth), int)  # before each step
        for grid in grids[:-1]:
            for layer in range(depth):
                tokens = kept(grid.tokens, shares.get((grid.index, layer), 0.0))
                keys[grid.index + 1, layer] = keys[grid.index, layer] + tokens
        prices = np.zeros((len(self.places), len(LEVELS)))
        for i, place in enumerate(self.places):
            grid = grids[place.step]
            rows = rows_at(tail, place.step, len(grids), calibration.guided)
            for j, level in enumerate(LEVELS):
                tokens = kept(grid.tokens, int(level) / EIGHTHS)
                for layer in place.layers if rows else ():
                    seen = {"attn": int(keys[place.step, layer]) + tokens, "ffn": 0}
                    site = Site(layer, place.kind)
                    call = Call(site, rows, tokens, seen.get(place.kind, text))
                    prices[i, j] += cost.call(call, grid)
        return prices

    def frame(self) -> pd.DataFrame:
        """Return a row for each place and level: the PSNR in dB that this change alone leaves."""
        rows = [
            {
                "step": place.step, "size": self.grids[place.step].name, "kind": place.kind,
                "layers": f"{place.layers.start} to {place.layers.stop - 1}",
                "layer": place.layers.start, "pruned": int(level) / 8,
                "psnr": float(psnr(errors).mean()),
            }
            for place, each in zip(self.places, self.errors, strict=True)
            for level, errors in zip(LEVELS, each, strict=True) if level != "0"
        ]  # fmt: skip
        return pd.DataFrame(rows)


def schedule(
    places: Sequence[Place], digits: Sequence[str], tail: Tail, grids: Sequence[Grid], depth: int
) -> Planned:
    """Return the schedule that has a digit at each place."""
    pruned: dict[int, dict[str, list[str]]] = {}
    for place, digit in zip(places, digits, strict=True):
        kinds = pruned.setdefault(place.step - len(grids), {})
        row = kinds.setdefault(place.kind, ["0"] * depth)
        for layer in place.layers:
            row[layer] = digit
    digit_rows = {n: {k: "".join(row) for k, row in kinds.items()} for n, kinds in pruned.items()}
    return Planned(digit_rows, rows=tail.rows())


def places_of(model: Model, grids: Sequence[Grid], quick: bool = False) -> tuple[Place, ...]:
    """Return the places of a model: layers, `quick` in four groups, at the steps that cost most.

    These have at least 3 % of all operations, `quick` the last three of them.
    """
    costs = [sum(c.values()) for c in flops.step_flops(model, Dense(), grids)]
    steps = [s for s, cost in enumerate(costs) if cost >= SMALL * sum(costs)]
    steps = [s for s in steps if s > 0 and not grids[s].prefix][-(3 if quick else len(steps)) :]
    width = max(1, model.depth // 4) if quick else 1
    layers = [range(i, min(i + width, model.depth)) for i in range(0, model.depth, width)]
    return tuple(Place(s, k, ls) for s in steps for k in model.transformer.kinds for ls in layers)


def measure(calibration: Calibration, quick: bool = False) -> Sensitivity:
    """Measure what each change alone does to the calibration's pictures.

    Places are layers one by one, `quick` in four groups; steps with less than 3 % of all
    operations are left whole. At levels that are not measured, errors follow `SHAPE`.
    """
    model, grids = calibration.model, calibration.grids
    places = places_of(model, grids, quick)
    levels = QUICK if quick else MEASURED
    last = len(grids) - 1
    tails = tuple(
        Tail(skipped, dropped)
        for skipped in range(min(SKIPPED, last) + 1)
        for dropped in range((min(DROPPED, last - skipped) if calibration.guided else 0) + 1)
    )
    single: list[Method] = [
        schedule([place], [level], Tail(), grids, model.depth)
        for place in places
        for level in levels
    ]
    whole = [Planned(rows=tail.rows()) for tail in tails if tail != Tail()]
    errors = calibration.errors([*whole, *single], "sensitivity")
    n = errors.shape[1]
    tail_errors = np.concatenate([np.zeros((1, n)), errors[: len(whole)]])
    known = errors[len(whole) :].reshape(len(places), len(levels), n)
    return Sensitivity(grids, model.depth, places, tails, _filled(known, levels), tail_errors)


SHAPE = {2: -0.8, 4: -0.4, 6: 0.0, 8: 0.65}
"""log10 of the error at each digit against that at 6: the mean of 16 places of the embedded model.

It bends the line through measured levels, and extends it beyond them."""


def _filled(known: np.ndarray, levels: str) -> np.ndarray:
    """Return errors (places, LEVELS, n) from those at measured levels (places, levels, n)."""
    at = np.array([SHAPE[int(level)] for level in levels])
    log = np.log10(known)
    out = np.zeros((len(known), len(LEVELS), known.shape[2]))
    for place, level in enumerate(LEVELS[1:], 1):
        shape = SHAPE[int(level)]
        right = int(np.clip(np.searchsorted(at, shape), 1, len(at) - 1)) if len(at) > 1 else 0
        value = log[:, right] + shape - at[right]
        if at[0] < shape < at[-1]:
            share = (shape - at[right - 1]) / (at[right] - at[right - 1])
            value = log[:, right - 1] + share * (log[:, right] - log[:, right - 1])
        elif shape <= at[0]:
            value = log[:, 0] + shape - at[0]
        out[:, place] = 10**value
    return out


def rows_at(tail: Tail, step: int, steps: int, guided: bool) -> int:
    """Return the guidance rows of a step that a tail leaves."""
    which = tail.rows().get(step - steps)
    rows = Rows(which).each if which else 2
    return rows if guided else min(rows, 1)
