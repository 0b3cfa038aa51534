"""The planned schedules that ship with models, along their frontier of speed and quality."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from fastvar_lab.audit import audited
from fastvar_lab.errors import short
from fastvar_lab.files import expanded, read_json, write_json
from fastvar_lab.methods.parse import read_method
from fastvar_lab.methods.planned import Planned
from fastvar_lab.methods.schedule import find
from fastvar_lab.models.model import Model
from fastvar_lab.planning.planner import COSTS, Plan, Planner, check_speedup, is_number
from fastvar_lab.plotting import charts
from fastvar_lab.plotting.style import Figure
from fastvar_lab.seam import Grid, Site

COUNTED = ("time", "operations")  # that schedules ship for
WORDS = ("weights", "cost", "method", "origin")  # what is text in a file of plans


class Point(NamedTuple):
    """A planned schedule, and how many times less than full generation it is planned to cost.

    `psnr` is its mean distance to full generation on the prompts that it was planned on, in dB.
    """

    speedup: float
    method: Planned
    psnr: float


def frontier(
    model: Model,
    guidance: float | None = None,
    cost: str = "time",
    file: str | Path | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
) -> list[Point]:
    """Return the schedules that ship for a model at a guidance scale, by rising speedup.

    Those of a `file` instead, which the command `plan` wrote for several budgets.

    Default is the scale that the model samples with; of the scales that were planned for, the
    nearest one counts. `cost` is what the speedups count: "time", on two threads of a CPU, or
    "operations"; `sizes` the schedule of token maps, the model's by default. Empty for a model
    without planned schedules, and for other weights or scale steps than those that they were
    planned for. Schedules of a file may count "bytes" of keys and values, too. Raises ValueError
    for another cost, and for a file that cannot be read, holds no such schedules, or none for the
    model, its scale steps and this cost.

    >>> import fastvar_lab as fv
    >>> [point.speedup for point in frontier(fv.load("tiny"))][:2]
    [1.25, 1.5]
    """
    scale = _scale(model, guidance)
    plans = _of_model(model, cost, None if file is None else _read(expanded(file)))
    grids = model.grids(sizes)
    plans = [plan for plan in plans if _maps(plan) == _sides(grids)]
    scales = {plan["guidance"] for plan in plans}
    if not scales and file is not None:
        raise ValueError(
            f"{file} holds no schedule for {cost} for the weights of {model.name}, "
            f"{model.fingerprint}, and maps to {grids[-1].name}"
        )
    if not scales:
        return []
    nearest = min(scales, key=lambda other: abs(other - scale))
    return sorted(
        (_point(plan) for plan in plans if plan["guidance"] == nearest),
        key=lambda point: point.speedup,
    )


def planned(
    model: Model,
    speedup: float = 2.0,
    guidance: float | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    cost: str = "time",
) -> Planned:
    """Return the schedule that ships with a model for a speedup.

    `guidance` is by default the scale that the model samples with, `sizes` its schedule of token
    maps, `cost` as in `frontier`. Raises ValueError, with what there is, for other weights, sizes,
    guidance, costs and speedups than those that schedules ship for; `plan` makes others.

    >>> import fastvar_lab as fv
    >>> planned(fv.load("tiny"), speedup=3).depth
    8
    """
    check_speedup(speedup)
    plans = _of_model(model, cost)
    if not plans:
        raise ValueError(
            f"no schedule was planned for the weights of {model.name}, {model.fingerprint}; "
            f"schedules ship for the weights of {_models()}, and fv.plan makes others"
        )
    grids, plans = model.grids(sizes), _of_guidance(plans, _scale(model, guidance))
    known = {plan["speedup"]: plan for plan in plans if _maps(plan) == _sides(grids)}
    if not known:
        last = ", ".join(sorted({f"{h}x{w}" for *_, (h, w) in map(_maps, plans)}))
        raise ValueError(
            f"the schedules of {model.name} are planned for maps to {last}; not to {grids[-1].name}"
        )
    if speedup not in known:
        raise ValueError(
            f"schedules of {model.name} ship for the speedups {_list(known)}; not {speedup:g}; "
            "fv.plan makes others"
        )
    return _point(known[speedup]).method


def named(name: str, model: str, guidance: float | None = None) -> Planned:
    """Return a schedule for time that ships, by its name, such as "planned-2x", and its model's.

    `guidance` is the scale that it is planned at, by default the smallest. Raises ValueError, with
    the names that there are, for others.

    >>> named("planned-3x", "tiny").depth
    8
    """
    plans = [plan for plan in _shipped() if plan["model"] == model and plan["cost"] == COUNTED[0]]
    if not plans:
        raise ValueError(f"planned schedules ship for {_models()}; not for {model}")
    least = min(plan["guidance"] for plan in plans)
    at_scale = _of_guidance(plans, least if guidance is None else guidance)
    names = {f"planned-{plan['speedup']:g}x": plan for plan in at_scale}
    if name not in names:
        raise ValueError(f"the planned schedules of {model} are {', '.join(names)}; not {name}")
    return _point(names[name]).method


def plan_figure(
    model: Model, plan: Planned, sizes: Sequence[tuple[int, int]] | None = None
) -> Figure:
    """Draw a schedule: scale steps by layers, one color a kind of sublayer.

    Raises ValueError for a schedule of another depth, and for scales that are not there.

    >>> import fastvar_lab as fv
    >>> figure = plan_figure(fv.load("tiny"), fv.Planned(stacks={-1: 4}))
    >>> figure.axes[0].get_title()
    'attention, % run'
    """
    return charts.schedule(plan_frame(model, plan, sizes))


def plan_frame(
    model: Model, plan: Planned, sizes: Sequence[tuple[int, int]] | None = None
) -> pd.DataFrame:
    """Return a row for each step, kind and layer of a schedule, with the share that is computed.

    Columns: step, size, rows ("both", or what the plan says), kind, layer, computed.

    >>> import fastvar_lab as fv
    >>> frame = plan_frame(fv.load("tiny"), fv.Planned({-1: {"attn": "44448888"}}))
    >>> frame[(frame["size"] == "32x32") & (frame.kind == "attn")].computed.tolist()
    [0.5, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0]
    """
    if not isinstance(plan, Planned):
        raise ValueError(f"a schedule is a Planned, as `plan` returns it; not {plan!r}")
    grids = model.grids(sizes)
    runner = audited(plan, grids, model.depth, model.transformer.kinds)
    rows = {find(name, grids): which for name, which in plan.rows}
    return pd.DataFrame(
        {
            "step": grid.index, "size": grid.name, "rows": rows.get(grid.index, "both"),
            "kind": kind, "layer": layer,
            "computed": runner.forwarded(Site(layer, kind), grid) / grid.tokens,
        }
        for grid in grids
        for kind in model.transformer.kinds
        for layer in range(model.depth)
    )  # fmt: skip


def usual_guidance(model: Model) -> float:
    """Return the largest guidance scale that a model samples with."""
    return float(max(model.sampling.guidances))


def _scale(model: Model, guidance: float | None) -> float:
    """Return a guidance scale, or the usual one; raise ValueError for what is none."""
    if guidance is None:
        return usual_guidance(model)
    check_guidance(guidance)
    return guidance


def check_guidance(guidance: object) -> None:
    """Raise ValueError for what is no single guidance scale."""
    if not (is_number(guidance) and 0 <= guidance < math.inf):  # type: ignore[operator]
        raise ValueError(f"a guidance scale is 0 or more, and finite; not {short(guidance)}")


def write_plans(
    file: Path, planners: Sequence[Planner], plans: Sequence[Mapping[float, Plan]]
) -> None:
    """Write the plans of several planners, by their speedups, as a file that `frontier` reads."""
    records = [
        _record(planner, speedup, plan)
        for planner, found in zip(planners, plans, strict=True)
        for speedup, plan in found.items()
    ]
    records.sort(key=lambda record: (record["guidance"], record["speedup"]))
    write_json(file, {"plans": records})


def _record(planner: Planner, speedup: float, plan: Plan) -> dict[str, Any]:
    """Return a plan as it stands in a file of planned schedules."""
    model, calibration = planner.model, planner.calibration
    return {
        "model": model.name,
        "weights": model.fingerprint,
        "guidance": float(max(calibration.sampled.guidances)),
        "sizes": [[grid.h, grid.w] for grid in calibration.grids],
        "cost": planner.cost if isinstance(planner.cost, str) else planner.price.unit,
        "speedup": speedup,
        "psnr": round(plan.psnr, 2),
        "method": repr(plan.method),
        "origin": plan.method.origin,
    }


def _point(plan: Mapping[str, Any]) -> Point:
    method = read_method(plan["method"])
    assert isinstance(method, Planned)
    return Point(plan["speedup"], replace(method, origin=plan["origin"]), plan["psnr"])


def _maps(plan: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, plan["sizes"]))


def _sides(grids: Sequence[Grid]) -> tuple[tuple[int, int], ...]:
    return tuple((grid.h, grid.w) for grid in grids)


def _of_guidance(plans: Sequence[dict[str, Any]], guidance: float) -> list[dict[str, Any]]:
    """Return the plans of a guidance scale; raise ValueError if there is none."""
    scales = {plan["guidance"] for plan in plans}
    if guidance not in scales:
        raise ValueError(
            f"the schedules of {plans[0]['model']} are planned at guidance {_list(scales)}; not "
            f"{guidance:g}"
        )
    return [plan for plan in plans if plan["guidance"] == guidance]


def _models() -> str:
    return ", ".join(sorted({plan["model"] for plan in _shipped()}))


def _of_model(
    model: Model, cost: str = COUNTED[0], plans: Sequence[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Return those of some plans, by default of those that ship, for a model and a cost."""
    if plans is None and cost not in COUNTED:
        raise ValueError(f"schedules ship for the costs {', '.join(COUNTED)}; not {cost!r}")
    if cost not in COSTS:
        raise ValueError(f"schedules are planned for {', '.join(COSTS)}; not {cost!r}")
    plans = _shipped() if plans is None else plans
    weights = model.fingerprint  # read once: it checks every weight
    return [plan for plan in plans if (plan["weights"], plan["cost"]) == (weights, cost)]


def _read(file: Path) -> list[dict[str, Any]]:
    """Read a file of several plans; raise ValueError for anything else."""
    try:
        plans = read_json(file.read_bytes())["plans"]
        for plan in plans:
            if not all(isinstance(plan[name], str) for name in WORDS) or not _maps(plan):
                raise ValueError(f"each has sizes, and as text {', '.join(WORDS)}")
            point = _point(plan)
            check_speedup(point.speedup)
            check_guidance(plan["guidance"])
            if not is_number(point.psnr):
                raise ValueError(f"a PSNR is a number; not {short(point.psnr)}")
    except OSError as error:
        raise ValueError(f"cannot read schedules from {file}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AssertionError) as error:
        reason = error if isinstance(error, ValueError) else "plan writes it for several budgets"
        raise ValueError(f"cannot read schedules from {file}: {reason}") from None
    return list(plans)


def _list(numbers: Iterable[float]) -> str:
    return ", ".join(f"{number:g}" for number in sorted(numbers))


@cache
def _shipped() -> list[dict[str, Any]]:
    folder = files("fastvar_lab.planning")
    return [
        plan
        for path in folder.iterdir()
        if path.name.endswith("_plans.json")
        for plan in read_json(path.read_bytes())["plans"]
    ]
