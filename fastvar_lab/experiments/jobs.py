"""Jobs: the parts of an experiment, as values that travel to workers and know what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fastvar_lab.branching import Branches, branching
from fastvar_lab.draws import Keyed
from fastvar_lab.experiments.base import Cell, Each, Methods, Work
from fastvar_lab.frames import CELL, GUIDANCE, KEPT, ROWS
from fastvar_lab.generation import Generation, generate
from fastvar_lab.measure.quality import Metric, notes_of
from fastvar_lab.measure.speedup import disturbed
from fastvar_lab.methods.columns import describe, written
from fastvar_lab.methods.fingerprint import code_of, user_code_hash
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.pictures import to_uint8
from fastvar_lab.prompts import Item
from fastvar_lab.provenance import machine, versions
from fastvar_lab.scales import Sizes
from fastvar_lab.seam import Method
from fastvar_lab.store import Drawn, Rows, Store, key, short_key

DRAWING = 1  # raise it when the engine draws other bits from the same request
Disturbed = dict[str, Rows]
"""Rows that are not kept, by the key of their address: their timing was disturbed."""
Done = Callable[[], object]
"""What a job calls after each of its results."""


def nothing() -> None:
    """Do nothing after a result."""


class Job(Protocol):
    """A part of an experiment that one worker computes, result by result."""

    @property
    def timed(self) -> bool:
        """Tell whether nothing may run beside it."""
        ...

    @property
    def waits(self) -> bool:
        """Tell whether it reads what others of the experiment keep, and comes after them."""
        ...

    def __len__(self) -> int:
        """Count its results, for a progress bar."""
        ...

    def missing(self, model: Model, store: Store) -> Job | None:
        """Return what of it the store does not hold; None if it holds all."""
        ...

    def compute(self, model: Model, store: Store, done: Done = nothing) -> Disturbed:
        """Compute all of it and keep it, result by result; return what may not be kept.

        `done` is called after each result.
        """
        ...

    def rows(self, model: Model, store: Store, disturbed: Disturbed) -> Iterator[Rows | None]:
        """Read each result's rows; None for one that is not there."""
        ...


def method_address(method: Method, model: Model) -> dict[str, str]:
    """Return what sets a method apart from all others: as written, and the code of your rules.

    Raises ValueError for one that nothing sets apart, or that does not fit the model.
    """
    if " at 0x" in repr(method):
        raise ValueError(f"{method!r} names no value; make it a frozen dataclass")
    grids = model.grids()
    method.acts(grids)
    code = user_code_hash(method, method.start(grids, model.depth))
    return {"method": repr(method), **({"code": code} if code else {})}


def method_columns(
    label: str, method: Method, model: Model, sizes: Sizes | None = None
) -> dict[str, Any]:
    """Return the columns of a method in a frame; under `sizes` without those of the scale steps.

    Schedules of many sizes have too many different steps for columns of each. Only methods that
    run one guidance row somewhere keep the columns of rows.
    """
    columns = describe(method, model.grids(sizes), model.depth)
    if sizes is not None:
        alone = any(k.startswith(ROWS) and rows == 1 for k, rows in columns.items())
        unsaid = (KEPT,) if alone else (KEPT, ROWS)
        columns = {k: v for k, v in columns.items() if not k.startswith(unsaid)}
    return {"method": label, "repr": written(method), **columns}


@dataclass(frozen=True)
class CellJob:
    """Cells of an experiment that are worked on together, one after the other."""

    kept_as: str  # the name under which cells are kept: experiments may share them
    version: int
    work: Work
    cells: tuple[Cell, ...]
    experiment: str = ""

    @property
    def timed(self) -> bool:
        return bool(self.cells[0].repeats)

    @property
    def waits(self) -> bool:
        return False

    def __len__(self) -> int:
        return len(self.cells)

    def address(self, cell: Cell, model: Model) -> dict[str, Any]:
        """Everything that a cell's numbers depend on; of timed ones the machine, too."""
        timing = {"on": {**machine(model.device), **versions()}} if cell.repeats else {}
        method = {} if cell.method is None else method_address(cell.method, model)
        judge = {} if cell.judge is None else {"judge": _rule(cell.judge)}
        return {
            **model.context,
            **timing,
            **method,
            **judge,
            "experiment": self.kept_as,
            "work": _rule(self.work.one if isinstance(self.work, Each) else self.work),
            "version": self.version,
            "columns": dict(cell.columns),
            "items": [list(item) for item in cell.items],
            "first": cell.first,
            "repeats": cell.repeats,
            "schedule": None if cell.sizes is None else [list(size) for size in cell.sizes],
        }

    def columns(self, cell: Cell, model: Model) -> dict[str, Any]:
        """Return what all rows of a cell say: its columns, and those of its method."""
        if cell.method is None:
            return dict(cell.columns)
        return {**cell.columns, **method_columns(cell.label, cell.method, model, cell.sizes)}

    def missing(self, model: Model, store: Store) -> CellJob | None:
        cells = tuple(c for c in self.cells if store.get(self.address(c, model)) is None)
        return replace(self, cells=cells) if cells else None

    def compute(self, model: Model, store: Store, done: Done = nothing) -> Disturbed:
        loose: Disturbed = {}
        for cell, rows in self.work(model, self.cells):
            repeated = {name for row in rows for name in row} & self.columns(cell, model).keys()
            if repeated:
                raise ValueError(
                    f"{self.kept_as}: the work returns {', '.join(sorted(repeated))}, "
                    "which columns of its cells say already"
                )
            address = self.address(cell, model)
            if disturbed(rows):
                loose[key(address)] = rows
            else:
                store.put(address, rows, self.experiment)
            done()
        return loose

    def rows(self, model: Model, store: Store, disturbed: Disturbed) -> Iterator[Rows | None]:
        for cell in self.cells:
            address = self.address(cell, model)
            rows = disturbed.get(key(address)) or store.get(address)
            columns = self.columns(cell, model)
            last = {**columns, CELL: short_key(address)}  # over those of known rows
            yield None if rows is None else [{**columns, **row, **last} for row in rows]


@dataclass(frozen=True)
class PictureJob:
    """Pictures of some prompts under some methods, and metrics beside the full ones."""

    methods: Methods
    items: tuple[Item, ...]
    first: int
    metrics: tuple[Metric, ...]
    experiment: str = ""

    @property
    def timed(self) -> bool:
        return False

    @property
    def waits(self) -> bool:
        return False

    def __len__(self) -> int:
        return len(self.methods)

    def missing(self, model: Model, store: Store) -> PictureJob | None:
        at, metrics = Addresses(model), self._by_address()
        lacking = {
            label: method
            for label, method in self.methods.items()
            if any(metrics.keys() - store.values(at.values(method, i)).keys() for i in self.items)
        }
        return replace(self, methods=lacking) if lacking else None

    def _by_address(self) -> dict[str, Metric]:
        """Return metrics by their addresses, which take time: yours are hashed with their code."""
        return {metric.address: metric for metric in self.metrics}

    def compute(self, model: Model, store: Store, done: Done = nothing) -> Disturbed:
        """Draw what is not there, each prompt in full and under each method from one snapshot."""
        at, full, metrics = Addresses(model), _FullOnce(model, self.items), self._by_address()
        references = self._pictures(Dense(), at, store, full)
        for method in branching(self.methods.values(), model.grids()):
            pictures = references
            if method != Dense():
                pictures = self._pictures(method, at, store, full)
            for item, *pair in zip(self.items, pictures, references, strict=True):
                address = at.values(method, item)
                known = store.values(address)
                values = {
                    name: _columns(metric, model, item, *pair)
                    for name, metric in metrics.items()
                    if name not in known
                }
                if values:
                    store.put_values(address, values, self.experiment)
            done()
        return {}

    def pictures(
        self, model: Model, store: Store, done: Done = nothing
    ) -> Iterator[tuple[Method, list[Drawn]]]:
        """Yield each method with the pictures of all items; draw and keep those that lack."""
        at, full = Addresses(model), _FullOnce(model, self.items)
        for method in branching(self.methods.values(), model.grids()):
            yield method, self._pictures(method, at, store, full)
            done()

    def draw(self, model: Model, store: Store, done: Done = nothing) -> None:
        """Draw and keep the pictures that are not there, and read none; `done` after each method.

        A damaged one counts as there: `pictures` draws it again.
        """
        at, full = Addresses(model), _FullOnce(model, self.items)
        for method in branching(self.methods.values(), model.grids()):
            lacking = [not store.has_picture(at.picture(method, item)) for item in self.items]
            if any(lacking):
                self._draw(method, at, store, full, lacking)
            done()

    def _pictures(
        self, method: Method, at: Addresses, store: Store, full: _FullOnce
    ) -> list[Drawn]:
        """Read the pictures of all items under a method; draw and keep those that are not there."""
        held = [store.picture(at.picture(method, item)) for item in self.items]
        if all(drawn is not None for drawn in held):
            return [drawn for drawn in held if drawn is not None]
        pictures = self._draw(method, at, store, full, [drawn is None for drawn in held])
        return [old or new for old, new in zip(held, pictures, strict=True)]

    def _draw(
        self, method: Method, at: Addresses, store: Store, full: _FullOnce, lacking: Sequence[bool]
    ) -> list[Drawn]:
        """Draw the pictures of all items under a method, and keep those that lack."""
        generation = full().full if method == Dense() else full().run(method)
        pictures = _drawn(full.model, generation)
        for item, drawn, lacks in zip(self.items, pictures, lacking, strict=True):
            if lacks:
                store.put_picture(at.picture(method, item), drawn, self.experiment)
        return pictures

    def rows(self, model: Model, store: Store, disturbed: Disturbed) -> Iterator[Rows | None]:
        at, metrics = Addresses(model), self._by_address()
        for label, method in self.methods.items():
            columns, rows = method_columns(label, method, model), list[dict[str, Any]]()
            for i, item in enumerate(self.items):
                address = at.values(method, item)
                known = store.values(address)
                if metrics.keys() - known.keys():
                    yield None
                    break
                values = {k: v for name in metrics for k, v in known[name].items()}
                notes = notes_of([(metric, known[name]) for name, metric in metrics.items()])
                picture = {"picture": self.first + i, **item._asdict(), **notes}
                place = {CELL: short_key(address)}
                rows.append({"kind": "quality", **columns, **picture, **values, **place})
            else:
                yield rows


@dataclass(frozen=True)
class GuidedJob:
    """Another job under a guidance scale that is not the model's; its rows say which."""

    job: Job
    guidance: float

    @property
    def timed(self) -> bool:
        return self.job.timed

    @property
    def waits(self) -> bool:
        return self.job.waits

    def __len__(self) -> int:
        return len(self.job)

    def missing(self, model: Model, store: Store) -> GuidedJob | None:
        lacking = self.job.missing(model.with_guidance(self.guidance), store)
        return None if lacking is None else replace(self, job=lacking)

    def compute(self, model: Model, store: Store, done: Done = nothing) -> Disturbed:
        return self.job.compute(model.with_guidance(self.guidance), store, done)

    def rows(self, model: Model, store: Store, disturbed: Disturbed) -> Iterator[Rows | None]:
        for rows in self.job.rows(model.with_guidance(self.guidance), store, disturbed):
            yield None if rows is None else [{GUIDANCE: self.guidance, **row} for row in rows]


def metric_addresses(jobs: Iterable[Job]) -> dict[str, str]:
    """Return on what the values of each metric of some jobs depend, by its name."""
    inner = (job.job if isinstance(job, GuidedJob) else job for job in jobs)
    metrics = (job.metrics for job in inner if isinstance(job, PictureJob))
    return {metric.name: metric.address for several in metrics for metric in several}


class _FullOnce:
    """Generates a batch in full when it is first asked to, for methods to branch from."""

    def __init__(self, model: Model, items: tuple[Item, ...]) -> None:
        self.model, self.items = model, items
        self.branches: Branches | None = None

    def __call__(self) -> Branches:
        if self.branches is None:
            prompts, seeds = [i.prompt for i in self.items], [i.seed for i in self.items]
            full = generate(self.model, prompts, Dense(), seed=seeds, snapshot=True)
            self.branches = Branches(self.model, full)
        return self.branches


class Addresses:
    """Makes the addresses of one model's pictures, each part of them once."""

    def __init__(self, model: Model) -> None:
        self.model, self.context, self.dense = model, model.context, Dense()
        self.methods: dict[int, tuple[Method, Mapping[str, str]]] = {}
        self.references: dict[Item, str] = {}

    def picture(self, method: Method, item: Item) -> dict[str, Any]:
        """Everything that a picture depends on."""
        if id(method) not in self.methods:  # two of one `repr` may differ in their code
            self.methods[id(method)] = method, method_address(method, self.model)
        return {
            **self.context,
            **self.methods[id(method)][1],
            "prompt": item.prompt,
            "seed": item.seed,
            "draws": repr(Keyed((item.seed,))),
            "drawing": DRAWING,
        }

    def values(self, method: Method, item: Item) -> dict[str, Any]:
        """Everything that the values of a picture beside its full one depend on."""
        if item not in self.references:
            self.references[item] = key(self.picture(self.dense, item))
        keys = {"picture": key(self.picture(method, item)), "reference": self.references[item]}
        return {"model": self.model.name, **keys, "group": item.group}


def _drawn(model: Model, generation: Generation) -> list[Drawn]:
    """Take a generation apart, picture by picture."""
    pictures = to_uint8(model.decode(generation.canvas))
    pictures.setflags(write=False)  # several metrics see them
    return [
        Drawn(picture, [None if t is None else t[i].cpu() for t in generation.tokens])
        for i, picture in enumerate(pictures)
    ]


def _columns(
    metric: Metric, model: Model, item: Item, drawn: Drawn, reference: Drawn
) -> dict[str, float]:
    """Compute one metric of one picture beside its full one."""
    names = [grid.name for grid in model.grids()]
    tokens, others = (dict(zip(names, d.tokens, strict=True)) for d in (drawn, reference))
    pair = drawn.picture, reference.picture
    return metric.columns(*pair, item=item, tokens=tokens, reference_tokens=others)


def _rule(function: Any) -> str:
    """Write what sets a function apart: its name, and its networks or your code."""
    name = f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"
    ours = name.partition(".")[0] == "fastvar_lab"
    more = getattr(function, "fingerprint", "") if ours else code_of(function)
    return f"{name}/{more}" if more else name
