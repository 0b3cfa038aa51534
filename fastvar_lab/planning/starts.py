"""Schedules to start a search from: one share a step and kind, by measured effects of steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import NamedTuple

import numpy as np

from fastvar_lab.methods.planned import EIGHTHS
from fastvar_lab.methods.schedule import find, kept
from fastvar_lab.methods.select import FarFromMean
from fastvar_lab.planning.by_hand import by_hand
from fastvar_lab.planning.cost import CacheBytes
from fastvar_lab.planning.effects import LEAST
from fastvar_lab.planning.places import LEVELS, STACK, Tail, levels_of
from fastvar_lab.planning.space import Choice, ScheduleSpace
from fastvar_lab.seam import Rows, Site
from fastvar_lab.speed.flops import Call

NEAR = 0.9  # share of a budget that a start spends at least
SHAPE = {"2": -0.8, "4": -0.4, "6": 0.0, "7": 0.2, "8": 0.65}
"""log10 of the error of pruning at each digit against that at 6: means of the shipped model."""


class Share(NamedTuple):
    """The digits of one step: of attention and feed-forward, or of the whole stack.

    Where attention is pruned, no cross-attention runs.
    """

    attn: str = "0"
    ffn: str = "0"
    stack: str = "0"

    def digit(self, kind: str) -> str:
        """Return the digit of a kind of place."""
        digits = {"attn": self.attn, "ffn": self.ffn, STACK: self.stack}
        return digits.get(kind, "8" if self.attn != "0" else "0")

    def pruned(self, kind: str) -> str:
        """Return the eighths of tokens that a kind of sublayer does not compute."""
        return self.digit(kind) if self.stack == "0" else self.stack


SHARES = (
    Share(),
    *(Share(a, f) for a, half in zip("2468", "0224") for f in dict.fromkeys(("0", half, a))),
    *(Share(stack=digit) for digit in "2467"),
)
MEASURED = (
    *(Share("4", "0"), Share("4", "4"), Share("8", "0"), Share("8", "8")),
    *(Share(stack="4"), Share(stack="7")),
)


@dataclass
class Starts:
    """Ranks even schedules by the effects of whole steps, which are measured one by one.

    Effects of steps nearly add up. Those of the sublayers of one step do not: the same tokens are
    pruned in all of them.
    """

    space: ScheduleSpace
    rules: tuple[tuple[str, object], ...]
    pictures: int
    _known: dict[tuple[int, Share, int, int], float] = field(
        default_factory=dict, init=False, repr=False
    )

    @cached_property
    def steps(self) -> tuple[int, ...]:
        return tuple(sorted({place.step for place in self.space.places}))

    def choice(self, shares: Mapping[int, Share], tail: Tail) -> Choice:
        """Return the choice with one share at each step."""
        levels = (
            levels_of(place.kind).index(shares.get(place.step, Share()).digit(place.kind))
            for place in self.space.places
        )
        return Choice(tuple(levels), tail, self.rules)

    @cached_property
    def effects(self) -> tuple[dict[tuple[int, Share], np.ndarray], dict[Tail, np.ndarray]]:
        """Squared errors (pictures,) of each share at each step, and of each tail, alone."""
        alone = [(step, share) for step in self.steps for share in MEASURED]
        tails = [tail for tail in self.space.tails() if tail != Tail()]
        choices = [
            *(self.choice({step: share}, Tail()) for step, share in alone),
            *(self.choice({}, tail) for tail in tails),
        ]
        log = self.space.errors(choices, "effects", self.pictures)
        known = dict(zip(alone, log[: len(alone)], strict=True))
        shares = {
            (step, share): _between(known, step, share) for step in self.steps for share in SHARES
        }
        tail_errors = dict(zip(tails, 10 ** log[len(alone) :], strict=True))
        return shares, {Tail(): np.zeros(log.shape[1]), **tail_errors}

    @cached_property
    def table(self) -> list[tuple[float, float, dict[int, Share], Tail]]:
        """Every even choice whose shares rise: predicted error, cost, shares and tail; best first.

        The error is the mean of its logarithm over the pictures. Skipped steps have no share.
        """
        (effects, tails), rows = self.effects, []
        last = len(self.space.calibration.grids)
        for skipped in {tail.skipped for tail in tails}:
            run = [step for step in self.steps if step < last - skipped]
            none = {step: Share() for step in self.steps}
            for shares in product(SHARES, repeat=len(run)):
                digits = [share.pruned("attn") for share in shares]
                if digits != sorted(digits):
                    continue
                by_step = none | dict(zip(run, shares, strict=True))
                error = sum(effects[pair] for pair in by_step.items())
                for tail, more in tails.items():
                    if tail.skipped == skipped:
                        log = float(np.log(error + more + LEAST).mean())
                        rows.append((log, self.cost(by_step, tail), by_step, tail))
        return sorted(rows, key=lambda row: row[0])

    def best(self, budget: float, n: int) -> list[Choice]:
        """Return the `n` choices of least predicted error that nearly spend a budget.

        At most half of them have one tail. Each comes twice: as it is, and with a quarter of the
        cross-attention, for which other shares pay.
        """
        chosen = list[Choice]()
        for _, spent, shares, tail in self.table:
            alike = sum(choice.tail == tail for choice in chosen)
            if NEAR * budget <= spent <= budget and alike < n // 2 and len(chosen) < n:
                chosen.append(self.choice(shares, tail))
        return [*chosen, *(self._softened(choice, budget) for choice in chosen)]

    def written(self) -> list[Choice]:
        """Return what people write: the tails alone, and the schedules of `by_hand` under PTS.

        Shares by hand hold for all kinds of sublayers; those of steps and layers that are no places
        of the search are left out.
        """
        space, c = self.space, self.space.calibration
        none, pivotal = (0,) * len(space.places), (("select", FarFromMean()),)
        chosen = [Choice(none, tail, self.rules) for tail in space.tails()]
        for hand in by_hand(c.grids, c.model.depth, c.guided):
            ratios, layers = hand.by_step(c.grids), hand.depth_checked(c.model.depth)
            skipped = sum(ratio == 1 for ratio in ratios.values())
            until = None if hand.null_until is None else find(hand.null_until, c.grids)
            dropped = 0 if until is None else len(c.grids) - 1 - until - skipped
            levels = tuple(
                LEVELS.index(f"{EIGHTHS * ratios.get(place.step, 0):g}")
                if place.kind != STACK
                and ratios.get(place.step, 0) < 1
                and set(place.layers) <= set(layers)
                else 0
                for place in space.places
            )
            chosen.append(Choice(levels, Tail(skipped, dropped), pivotal))
        return list(dict.fromkeys(chosen))

    def _softened(self, choice: Choice, budget: float) -> Choice:
        places, top = self.space.places, LEVELS.index("8")
        levels = tuple(
            level - 1 if place.kind == "cross" and level == top else level
            for place, level in zip(places, choice.levels, strict=True)
        )
        return self.space.fit(choice._replace(levels=levels), self.space.prior, budget)

    def cost(self, shares: Mapping[int, Share], tail: Tail) -> float:
        """Return the cost of an even choice, like `ScheduleSpace.spent` but quicker."""
        grids, spent, keys = self.space.calibration.grids, 0.0, 0
        for grid in grids:
            share = shares.get(grid.index, Share())
            rows = self._rows(tail, grid.index)
            last = grid.index == len(grids) - 1 - tail.skipped
            if last and isinstance(self.space.price, CacheBytes):
                break  # of the last step that runs no keys are kept
            spent += self._step(grid.index, share, rows, keys)
            keys += kept(grid.tokens, int(share.pruned("attn")) / EIGHTHS) if rows else 0
        return spent

    def _rows(self, tail: Tail, step: int) -> int:
        which = tail.rows().get(step - len(self.space.calibration.grids), "both")
        rows = 1 if which == "held" else Rows(which).each
        return rows if self.space.calibration.guided else min(rows, 1)

    def _step(self, step: int, share: Share, rows: int, keys: int) -> float:
        if (step, share, rows, keys) not in self._known:
            c, price = self.space.calibration, self.space.price
            grid, model, spent = c.grids[step], c.model, price.ends(c.grids[step], rows)
            for kind in model.transformer.kinds if rows else ():
                tokens = kept(grid.tokens, int(share.pruned(kind)) / EIGHTHS)
                seen = {"attn": keys + tokens, "cross": c.text_tokens, "ffn": 0}[kind]
                for layer in range(model.depth):
                    call = Call(Site(layer, kind), rows, tokens, seen)
                    spent += price.call(call, grid, share.stack == "0")
            self._known[step, share, rows, keys] = spent
        return self._known[step, share, rows, keys]


def _between(known: Mapping[tuple[int, Share], np.ndarray], step: int, share: Share) -> np.ndarray:
    """Return the squared error of a share from the measured ones, between which it lies."""
    if share == Share():
        return np.array(0.0)
    a, f, stack = share
    low, high = SHAPE["4"], SHAPE["8"]
    if stack != "0":
        at = (SHAPE[stack] - low) / (SHAPE["7"] - low)
        few, many = known[step, Share(stack="4")], known[step, Share(stack="7")]
        return np.array(10.0 ** ((1 - at) * few + at * many))
    at = (SHAPE[a] - low) / (high - low)  # below the measured digits a line goes on
    without = (1 - at) * known[step, Share("4", "0")] + at * known[step, Share("8", "0")]
    both = (1 - at) * known[step, Share("4", "4")] + at * known[step, Share("8", "8")]
    part = int(f) / int(a)
    return 10.0 ** ((1 - part) * without + part * both)
