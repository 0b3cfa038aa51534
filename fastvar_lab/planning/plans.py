"""The planned schedules that ship with models, along their frontier of speed and quality."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from fastvar_lab.files import read_json
from fastvar_lab.methods.parse import read_method
from fastvar_lab.models.model import Model
from fastvar_lab.seam import Method


class Point(NamedTuple):
    """A planned schedule, and how many times as fast as full generation it is planned to be."""

    speedup: float
    method: Method


def frontier(model: Model, guidance: float | None = None) -> list[Point]:
    """Return the schedules that ship for a model at a guidance scale, by rising speedup.

    Default is the scale that the model samples with; of the scales that were planned for, the
    nearest one counts. Empty for a model without planned schedules, and for other weights than
    those that they were planned for.

    >>> import fastvar_lab as fv
    >>> [speedup for speedup, _ in frontier(fv.load("tiny"))][:2]
    [1.25, 1.5]
    """
    scale = float(max(model.sampling.guidances)) if guidance is None else guidance
    shipped = [plan for plan in _shipped() if plan["weights"] == model.fingerprint]
    if not shipped:
        return []
    nearest = min({plan["guidance"] for plan in shipped}, key=lambda other: abs(other - scale))
    points = [
        Point(plan["speedup"], read_method(plan["method"]))
        for plan in shipped
        if plan["guidance"] == nearest
    ]
    return sorted(points, key=lambda point: point.speedup)


@cache
def _shipped() -> list[dict[str, Any]]:
    folder = files("fastvar_lab.planning")
    return [
        plan
        for path in folder.iterdir()
        if path.name.endswith("_plans.json")
        for plan in read_json(path.read_bytes())["plans"]
    ]
