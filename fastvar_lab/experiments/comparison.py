"""Methods beside full generation: pictures and their metrics, measured speedups, merged frames."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd

from fastvar_lab.experiments.base import (
    Cell,
    Methods,
    Question,
    base_of,
    in_turns,
    timed_cells,
)
from fastvar_lab.experiments.jobs import CellJob, Job, PictureJob, method_address
from fastvar_lab.frames import ABOUT_COLUMNS, CACHE, FULL, GUIDANCE, OPERATIONS, joined_notes
from fastvar_lab.generation import Generation, generate
from fastvar_lab.measure.quality import Metric
from fastvar_lab.measure.speedup import disturbances
from fastvar_lab.methods.prune import Dense, Prune
from fastvar_lab.models.model import Model
from fastvar_lab.prompts import Item
from fastvar_lab.seam import Method
from fastvar_lab.speed import flops
from fastvar_lab.speed.kv_bytes import held_share
from fastvar_lab.speed.tally import Tallies
from fastvar_lab.store import Rows

PICTURES = 12  # at most, over whose time a method's is a mean if it depends on the picture
TIMED_TOGETHER = 6  # methods: what slows the machine for seconds hits them alike; little is lost


def with_full(methods: Methods, model: Model) -> dict[str, Method]:
    """Put full generation first; raise ValueError for a method that does not fit the model."""
    both = {FULL: Dense(), **methods}
    if both[FULL] != Dense():
        raise ValueError(f"{FULL!r} names generation without pruning; call {both[FULL]!r} else")
    for label, method in both.items():
        try:
            method_address(method, model)
        except ValueError as error:
            raise ValueError(f"{label}: {error}") from error
    return both


def halves_and_wholes(methods: Methods) -> dict[str, Method]:
    """Keep the methods whose ratios are halves and wholes: a quick look at a slow experiment."""
    return {
        label: method
        for label, method in methods.items()
        if not isinstance(method, Prune) or {ratio for _, ratio in method.pairs} <= {0.5, 1.0}
    }


def comparison(
    question: Question, metrics: tuple[Metric, ...], experiment: str, timed: bool = True
) -> list[Job]:
    """Return the jobs that compare methods: one a batch of prompts, then some that time a few.

    Without `timed` one that counts operations.
    """
    drawn = [
        PictureJob(question.methods, items, first, metrics, experiment)
        for first, items in question.batches()
    ]
    if not timed:
        return [*drawn, *counting(question, experiment)]
    cells = [
        cell if _exact(question.model, cell) else _over_pictures(question, cell)
        for cell in timed_cells(question, question.scope.repeats, kind="time")
    ]
    groups = [cells[i : i + TIMED_TOGETHER] for i in range(0, len(cells), TIMED_TOGETHER)]
    return [*drawn, *(CellJob("time", 1, times, tuple(group), experiment) for group in groups)]


def times(model: Model, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Rows]]:
    """Time methods in turns with full generation: speedups, and their bounds by operations.

    The time of a method that decides from the data is the mean over the pictures of its cell, one
    after another; that of all others is the time of one picture.
    """

    def once(cell: Cell) -> list[Generation]:
        assert cell.method is not None
        seeds = [0] if _exact(model, cell) else cell.seeds
        pairs = zip(cell.prompts, seeds, strict=True)
        return [generate(model, text, cell.method, seed=seed) for text, seed in pairs]

    def seconds(runs: list[Generation]) -> float:
        return statistics.fmean(run.seconds for run in runs)

    base, bounds = base_of(cells), list[float]()
    base = replace(base, items=base.items[:1])
    for number, (cell, pairs) in enumerate(in_turns(cells, once, base, seconds)):
        bounds = bounds or _bounds(model, cells)
        row = {
            "ms": statistics.median(map(seconds, pairs.fast)) * 1e3,
            **pairs.speedup.columns(),
            "speedup_flop_bound": bounds[number],
        }
        yield cell, [row]


def _bounds(model: Model, cells: Sequence[Cell]) -> list[float]:
    """Return the operations of full generation over those of each cell, over its pictures."""
    ran = dict[tuple[int, Item], tuple[float, float]]()  # in full, and under a cell's method
    for item in dict.fromkeys(item for cell in cells for item in cell.items):
        methods = {
            number: cell.method
            for number, cell in enumerate(cells)
            if cell.method is not None and item in cell.items
        }
        cost = _cost(model, [*methods.values()], item)
        ran |= {(number, item): (cost(Dense()), cost(m)) for number, m in methods.items()}
    sums = (
        [sum(ran[number, item][side] for item in cell.items) for side in (0, 1)]
        for number, cell in enumerate(cells)
    )
    return [full / fast for full, fast in sums]


def _cost(model: Model, methods: Sequence[Method], item: Item) -> Callable[[Method], float]:
    """Return a function that counts the operations of one picture under one of some methods.

    Those of a method that decides from the data are counted as they run.
    """
    grids, text = model.grids(), len(item.prompt.split())
    tallies = Tallies(model, [m for m in methods if not flops.exact(m, grids)], item)

    def cost(method: Method) -> float:
        if not flops.exact(method, grids):
            return tallies.count(method)
        return flops.total(flops.step_flops(model, method, grids, text))

    return cost


def _exact(model: Model, cell: Cell) -> bool:
    """Return whether the operations of a cell's method are the same for every picture."""
    assert cell.method is not None
    return flops.exact(cell.method, model.grids())


def _over_pictures(question: Question, cell: Cell) -> Cell:
    """Time a method over the first pictures that it is judged on, as its quality is a mean."""
    return replace(cell, items=question.prompts.take(min(question.scope.prompts, PICTURES)))


def counting(question: Question, experiment: str) -> list[Job]:
    """Return the jobs that count operations: of each picture if a method decides from the data."""
    grids, methods = question.model.grids(), question.methods
    fixed = {label: m for label, m in methods.items() if flops.exact(m, grids)}
    deciding = {label: m for label, m in methods.items() if label not in fixed}

    def job(methods: Methods, items: tuple[Item, ...], first: int) -> CellJob:
        what = {"kind": "operations"}
        cells = [Cell(what, method, label, items, first) for label, method in methods.items()]
        return CellJob(OPERATIONS, 1, counts, tuple(cells), experiment)

    batches = question.batches() if deciding else []
    of_each = [job(deciding, items, first) for first, items in batches]
    return [job(fixed, (question.timed,), 0), *of_each]


def counts(model: Model, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Rows]]:
    """Count operations as a share of those of full generation, and bytes of the KV cache.

    A method that decides from the data has a row a picture, of the operations that it ran. The
    first steps that such methods share are generated once a picture.
    """
    grids, methods = model.grids(), [cell.method for cell in cells if cell.method]
    items = dict.fromkeys(item for cell in cells for item in cell.items)
    costs = {item: _cost(model, methods, item) for item in items}
    for cell in cells:
        assert cell.method is not None
        held, rows = held_share(model, cell.method), list[dict[str, Any]]()
        fixed = flops.exact(cell.method, grids)
        for i, item in enumerate(cell.items[:1] if fixed else cell.items):
            cost = costs[item]
            rows.append({
                **({} if fixed else {"picture": cell.first + i}),
                OPERATIONS: cost(cell.method) / cost(Dense()),
                **({} if held is None else {CACHE: held}),
            })  # fmt: skip
        yield cell, rows


def merge_frames(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Join frames of one experiment, measured on several machines or models, into one.

    Rows that several frames share stand once; metrics that one frame has beyond another are filled
    in, and a disturbed timing gives way to one that is not. Raises ValueError, in one sentence, for
    frames that hold other columns, other prompts, or other numbers for the same thing.

    >>> rows = {"kind": "quality", "model": ["a"], "method": "full", "picture": 0, "prompt": "x"}
    >>> one = pd.DataFrame({**rows, "weights": "12", "psnr": 100.0})
    >>> len(merge_frames([one, one, one.assign(model="b")]))
    2
    """
    if not frames:
        raise ValueError("there is no frame to merge")
    for frame in frames:
        if "model" not in frame:
            raise ValueError("a frame without the column model does not say what it measures")
    shapes = [("kind" in f and set(f.kind.dropna()), "what" in f, "step" in f) for f in frames]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError("the frames are of different experiments; merge those of one")
    joined = pd.concat(frames, ignore_index=True)
    weights = joined.groupby("model").weights.unique()
    for model, stamps in weights.items():
        if len(stamps) > 1:
            raise ValueError(
                f"{model} has the weights {' and '.join(stamps)} in these frames; "
                "name the models differently"
            )
    prompts = [
        tuple(f.drop_duplicates("picture").sort_values("picture").prompt)
        for _, f in joined.dropna(subset=["prompt"]).groupby("model")
    ] if {"picture", "prompt"} <= set(joined) else []  # fmt: skip
    if len(set(prompts)) > 1:
        raise ValueError("the models drew different prompts; give all of them the same `prompts`")
    joined = joined.drop_duplicates(ignore_index=True)
    named = ("kind", "model", "machine", GUIDANCE, "method", "picture")
    keys = [k for k in named if k in joined]
    if "picture" in keys and "kind" in keys:
        return _filled(joined, keys)
    return joined


def _filled(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Join rows of equal keys whose other values do not contradict each other.

    Disturbed timings give way to others of the same keys.
    """
    wide = disturbances(frame)
    clear = pd.MultiIndex.from_frame(frame.loc[~wide, keys])
    frame = frame[~(wide & pd.MultiIndex.from_frame(frame[keys]).isin(clear))]
    twice = frame.duplicated(keys, keep=False)
    if not twice.any():
        return frame
    groups = frame[twice].groupby(keys, sort=False, dropna=False)
    values = [column for column in frame if column not in (*keys, *ABOUT_COLUMNS)]
    several = (groups[values].nunique() > 1).any(axis=1)
    if several.any():
        row = dict(zip(keys, several[several].index[0], strict=True))
        raise ValueError(
            f"{row['method']!r} of {row['model']} has two values of one measurement in these frames"
        )
    first = groups.first()
    for column in {*ABOUT_COLUMNS} & set(frame):
        first[column] = groups[column].agg(partial(joined_notes, column))
    whole = pd.concat([frame[~twice], first.reset_index()])
    places = frame.drop_duplicates(keys).set_index(keys).index
    return whole.set_index(keys).loc[places].reset_index()[[*frame.columns]]
