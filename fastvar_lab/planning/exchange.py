"""Schedules of several guidance scales, tried at each other's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fastvar_lab.measure.statistics import bootstrap
from fastvar_lab.planning.effects import psnr
from fastvar_lab.planning.planner import Plan, Planner

Plans = Mapping[float, Plan]
"""Plans by the speedup that was asked for."""


def exchanged(planners: Sequence[Planner], plans: Sequence[Plans]) -> list[dict[float, Plan]]:
    """Return for each planner the best plan for each speedup among those of all planners.

    `plans` are those of each planner, for the same speedups; the planners differ in their guidance
    scales alone. Plans are compared on as many new pictures as they were made on: few pictures may
    choose one that does badly on others. A plan of another scale is taken if the 95 % interval of
    its gain is above 0. Its origin is then that of the plan which it replaces, its PSNR that on the
    first pictures. A scale that runs no null rows has other costs, and exchanges none.
    """
    pairs = list(zip(planners, plans, strict=True))
    return [
        _taken(
            planner,
            own,
            [
                others
                for other, others in pairs
                if other is not planner and other.calibration.guided == planner.calibration.guided
            ],
        )
        for planner, own in pairs
    ]


def _taken(planner: Planner, mine: Plans, others: Sequence[Plans]) -> dict[float, Plan]:
    """Return the best plan for each speedup; the planner's own unless another is surely better."""
    n = len(planner.calibration.items)
    twice = replace(planner, n=2 * n).calibration
    taken = dict[float, Plan]()
    for speedup, own in mine.items():
        tried = [own, *(each[speedup] for each in others)]
        levels = psnr(twice.errors([plan.method for plan in tried], f"{speedup:g}x, exchanged"))
        gains = levels[:, n:] - levels[0, n:]
        best = int(gains.mean(axis=1).argmax())
        taken[speedup] = own
        if best and bootstrap(gains[best])[0] > 0:
            signed = replace(tried[best].method, origin=own.method.origin)
            level = float(levels[best, :n].mean())
            taken[speedup] = Plan(signed, tried[best].speedup, level)
    return taken
