"""Schedules of several guidance scales, tried at each other's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fastvar_lab.planning.effects import psnr
from fastvar_lab.planning.planner import Plan, Planner

Plans = Mapping[float, Plan]
"""Plans by the speedup that was asked for."""


def exchanged(planners: Sequence[Planner], plans: Sequence[Plans]) -> list[dict[float, Plan]]:
    """Return for each planner the best plan for each speedup among those of all planners.

    `plans` are those of each planner, for the same speedups; the planners differ in their guidance
    scales alone. Plans are compared on twice as many pictures as they were made on: few pictures
    may choose one that does badly on others. A plan from another scale is signed by the planner
    that takes it, with its PSNR on that planner's own pictures. A scale that runs no null rows has
    other costs, and exchanges none with those that do.
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
    """Return the best plan for each speedup; the planner's own win ties."""
    n = len(planner.calibration.items)
    twice = replace(planner, n=2 * n).calibration
    taken = dict[float, Plan]()
    for speedup, own in mine.items():
        tried = [own, *(each[speedup] for each in others)]
        levels = psnr(twice.errors([plan.method for plan in tried], f"{speedup:g}x, exchanged"))
        best = int(levels.mean(axis=1).argmax())
        plan = tried[best]
        if best:
            signed, level = planner.signed(plan.method), float(levels[best, :n].mean())
            plan = Plan(signed, plan.speedup, level)
        taken[speedup] = plan
    return taken
