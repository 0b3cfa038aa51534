"""What lies between measured speedups and their bounds by operations, item by item."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from fastvar_lab.experiments.base import (
    Cell,
    Experiment,
    Methods,
    Question,
    base_of,
    in_turns,
    timed_cells,
)
from fastvar_lab.experiments.questions import rivals
from fastvar_lab.generation import Generation, generate
from fastvar_lab.instruments.overhead import OverheadWatch
from fastvar_lab.measure.controls import stands_in
from fastvar_lab.methods.columns import family, written
from fastvar_lab.methods.prune import Dense
from fastvar_lab.methods.spaces import axis_of
from fastvar_lab.models.model import Model
from fastvar_lab.planning.trials import TuningLog
from fastvar_lab.plotting import charts
from fastvar_lab.scales import Sizes
from fastvar_lab.seam import Method, Runner
from fastvar_lab.speed import flops
from fastvar_lab.speed.tally import Tally, total
from fastvar_lab.store import Rows

SIDES = (32, 64)
SPEEDUP = 2.0  # of the setting that stands for a family, by operations
TOGETHER = 6  # methods timed in the same turns


def methods(model: Model) -> Methods:
    """Return one setting of each family, the one whose operations are nearest to half.

    Where operations depend on the picture, they are the mean of those that tuning measured. A
    setting that does a control's work alone stands for no family.
    """
    known, chosen = rivals.methods(model), dict[str, tuple[float, str]]()
    grids, measured = model.grids(), {t["method"]: t["saving"] for t in TuningLog.read().of(model)}
    full = flops.total(flops.step_flops(model, Dense(), grids))
    for label, method in known.items():
        name, text = family(method), written(method)
        if axis_of(name) in (None, "cache") or stands_in(text, name, grids):
            continue
        counted = flops.total(flops.step_flops(model, method, grids))
        gap = abs(measured.get(text, full / counted) - SPEEDUP)
        if name not in chosen or gap < chosen[name][0]:
            chosen[name] = gap, label
    return {name: known[label] for name, (_, label) in chosen.items()}


def sizes_of(model: Model, side: int) -> Sizes | None:
    """Return the schedule that ends at a map; None for the model's own."""
    return None if model.sizes[-1] == (side, side) else model.sizes_to(side, side)


def cells(question: Question) -> list[list[Cell]]:
    """Return timed cells: a few methods together, at each side of the final map.

    A method stays out at sides whose schedules it is not made for.
    """
    quick = question.scope.name == "quick"
    groups = list[list[Cell]]()
    for side in SIDES[:1] if quick else SIDES:
        sizes = sizes_of(question.model, side)
        takes = partial(_takes, question.model, sizes)
        methods = {label: m for label, m in question.methods.items() if takes(m)}
        here = replace(question, methods=methods)
        timed = timed_cells(here, question.scope.repeats, sizes, side=side)
        timed = timed[:2] if quick else timed
        groups += [timed[i : i + TOGETHER] for i in range(0, len(timed), TOGETHER)]
    return groups


def _takes(model: Model, sizes: Sizes | None, method: Method) -> bool:
    """Return whether a method is made for a schedule: rules and plans may be for others."""
    try:
        flops.step_flops(model, method, model.grids(sizes))
    except ValueError:
        return False
    return True


def gaps(model: Model, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Rows]]:
    """Itemise the time of methods beyond their bounds, as shares of the bound.

    The bound is full generation's time over the speedup by operations. `choosing` and `restoring`
    are a method's own work around layers, `products` what its layers take beyond the operations'
    share of full generation's: smaller products and calls that cost the same for fewer tokens.
    `rest` is what remains: heads, draws, latents.
    """
    grids = model.grids(cells[0].sizes)

    def once(cell: Cell) -> tuple[Generation, OverheadWatch, Tally]:
        assert cell.method is not None
        watches, tallies = list[OverheadWatch](), list[Tally]()

        def tally(run: Runner) -> Runner:
            tallies.append(Tally(run, model, grids, cell.text_tokens))
            return tallies[0]

        def watch(run: Runner) -> Runner:
            watches.append(OverheadWatch(run))
            return watches[0]

        run = generate(
            model, cell.prompts, cell.method, seed=0, sizes=cell.sizes, watch=[tally, watch]
        )
        return run, watches[0], tallies[0]

    base = base_of(cells)
    for cell, pairs in in_turns(cells, once, base, lambda result: result[0].seconds):
        full, fast = (_parts(model, results) for results in (pairs.full, pairs.fast))
        share = fast["flop"] / full["flop"]
        bound = full["ms"] * share
        items = {
            "choosing": fast["choosing"] - full["choosing"],
            "restoring": fast["restoring"] - full["restoring"],
            "products": fast["branches"] - full["branches"] * share,
        }
        gap = fast["ms"] - bound
        items["rest"] = gap - sum(items.values())
        row = {
            "ms": fast["ms"],
            **pairs.speedup.columns(),
            "speedup_flop_bound": 1 / share,
            "gap": gap / bound,
            **{name: value / bound for name, value in items.items()},
        }
        yield cell, [row]


def _parts(
    model: Model, results: Sequence[tuple[Generation, OverheadWatch, Tally]]
) -> dict[str, float]:
    """Return medians over turns of all times, in ms, and the operations that ran."""
    parts = [watch.ms() for _, watch, _ in results]
    run, _, tally = results[0]
    return {
        "ms": statistics.median(run.seconds for run, _, _ in results) * 1e3,
        "flop": total(model, run, tally),
        **{name: statistics.median(part[name] for part in parts) for name in parts[0]},
    }


EXPERIMENT = Experiment(
    question="Where does time go that operations do not explain?",
    source="ours",
    methods=methods,
    cells=cells,
    work=gaps,
    chart=charts.gaps,
    speed=True,
)
