"""What an experiment is: one record of a question, what is measured, its chart and its claims."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import pandas as pd
from matplotlib.figure import Figure

from fastvar_lab.experiments.verdicts import Claim
from fastvar_lab.files import file_stem
from fastvar_lab.frames import FASTVAR, FULL
from fastvar_lab.methods.columns import labelled
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model, paper_preset
from fastvar_lab.prompts import Item, Judge, PromptSet
from fastvar_lab.scales import Sizes
from fastvar_lab.seam import Method
from fastvar_lab.speed import timed
from fastvar_lab.store import Rows

BATCH = 4
OURS = "ours"  # the source of a question that no paper asks; listings read it as a literal
T = TypeVar("T")
Methods = Mapping[str, Method]
"""Methods by their label."""

Lines = Mapping[str, Methods]
"""Methods by the line of a chart that they belong to, then by their setting there."""


@dataclass(frozen=True)
class Scope:
    """How much to run: prompts per setting, timed repeats.

    >>> Scope("look", prompts=4, repeats=3).prompts
    4
    """

    name: str
    prompts: int
    repeats: int

    def __post_init__(self) -> None:
        if self.prompts < 1 or self.repeats < 1:
            raise ValueError(f"a scope takes at least one prompt and one repeat; not {self}")


SCOPES = {
    "quick": Scope("quick", 2, 1),
    "default": Scope("default", 24, 3),
    "paper": Scope("paper", 112, 5),
}


@dataclass(frozen=True)
class Cell:
    """One setting to measure: what its rows have in common, and all that they depend on.

    `columns` are plain values; `items` are generated together, `first` the number of their first
    picture. A cell with `repeats` is timed: nothing runs beside it. `sizes` is its schedule if it
    is not the model's. `label` is only printed.
    """

    columns: Mapping[str, Any] = field(default_factory=dict)
    method: Method | None = None
    label: str = ""
    items: tuple[Item, ...] = ()
    first: int = 0
    judge: Judge | None = None
    repeats: int = 0
    sizes: Sizes | None = None

    @property
    def prompts(self) -> list[str]:
        return [item.prompt for item in self.items]

    @property
    def seeds(self) -> list[int]:
        return [item.seed for item in self.items]

    @property
    def text_tokens(self) -> int:
        """Words of the prompt: what counted operations take for its tokens."""
        return len(self.items[0].prompt.split())

    def score(self, i: int, picture: Any) -> dict[str, float]:
        """Judge picture i, (H, W, 3) uint8: the column `right`; none without a judge."""
        return {} if self.judge is None else {"right": float(self.judge(self.items[i], picture))}


@dataclass(frozen=True)
class Question:
    """What an experiment is asked of: a model, how much, its prompts, its methods by label.

    `lines` are those of its own methods, by label.
    """

    model: Model
    scope: Scope
    prompts: PromptSet
    methods: Methods
    timed: Item
    lines: Mapping[str, str] = field(default_factory=dict)

    def batches(self) -> list[tuple[int, tuple[Item, ...]]]:
        """Return the prompts in batches that are generated together, with each one's first number.

        >>> import fastvar_lab as fv
        >>> from fastvar_lab.prompts import ClosedWorld
        >>> world, model = ClosedWorld(), fv.load("tiny")
        >>> question = Question(model, Scope("look", 6, 1), world, {}, world.take(1)[0])
        >>> [(first, len(items)) for first, items in question.batches()]
        [(0, 4), (4, 2)]
        """
        items = self.prompts.take(self.scope.prompts)
        return [(first, items[first : first + BATCH]) for first in range(0, len(items), BATCH)]


Work = Callable[[Model, Sequence[Cell]], Iterator[tuple[Cell, Rows]]]


def has_random_weights(model: Model) -> bool:
    """Return whether `load` opened a model with random weights: only its speed means something."""
    return "weights='random'" in model.source


def full_and_preset(model: Model) -> Methods:
    """Return full generation and the model's own preset; ValueError for a model without one."""
    return {FULL: Dense(), FASTVAR: paper_preset(model)}


def rendered_detail(model: Model) -> Sequence[str]:
    """Return the metric of detail for a model whose prompts can be rendered: it needs the truth."""
    return ("detail",) if model.grammar is not None else ()


@dataclass(frozen=True)
class Experiment:
    """One question, and all that answers it.

    `methods(model)` are compared with full generation over the prompts; an experiment of another
    shape says its `cells(question)` too, lists of those that are worked on together, and the
    `work(model, cells)` that yields each with its rows. Where their results decide what is worth
    comparing, `then(question, frame)` returns those methods: they are compared as in any other
    experiment, and their rows follow in the frame. Where they decide which cells are worth it, the
    cells of the first `looked` prompts come first, and `narrow(question, frame)` returns which of
    all go on: the frame has the rows of those alone. `chart` draws the frame, or the sums of it
    that `points` makes where it is too long to keep. `metrics` are computed beside the usual ones;
    `seed` draws the prompts of sets that have one. `speed` says that random weights answer it: no
    number depends on what the weights have learned, or such cells are left out. Raise `version`
    when the meaning of its cells' numbers changes.

    `methods` may give lines: methods by line, then by setting. Their labels are "line, setting",
    and the frame has the column `line`. An experiment that is not `timed` has counted operations
    in place of times, so that it runs on a busy machine.

    `subject` says in the caption what is measured, where it is not the model; `intervals`, whether
    the chart shows any.

    `guidances` are the guidance scales that it is asked at, one after another, each of a model that
    samples so; its frame then has the column `guidance`. Without any, the model's own is used.
    `beside(question, name)` are jobs beside those of a comparison; `tables` are made of the frame
    beside the usual one, by the ending of their files' names. A `slow` experiment compares fewer
    methods in scope "quick": those that `quick` keeps, by default halves and wholes.
    """

    question: str
    source: str
    chart: Callable[[pd.DataFrame], Figure]
    methods: Callable[[Model], Methods | Lines | Sequence[Method]] = full_and_preset
    cells: Callable[[Question], list[list[Cell]]] | None = None
    work: Work | None = None
    then: Callable[[Question, pd.DataFrame], Methods] | None = None
    narrow: Callable[[Question, pd.DataFrame], Callable[[Cell], bool]] | None = None
    looked: int = 0
    claims: tuple[Claim, ...] = ()
    metrics: Sequence[str] | Callable[[Model], Sequence[str]] = ()
    points: Callable[[pd.DataFrame], pd.DataFrame] | None = None
    seed: int = 11
    version: int = 1
    guidances: tuple[float, ...] = ()
    beside: Callable[[Question, str], list[Any]] | None = None
    tables: Mapping[str, Callable[[pd.DataFrame], pd.DataFrame]] = field(default_factory=dict)
    quick: Callable[[Methods], Methods] | None = None
    slow: bool = False
    timed: bool = True
    speed: bool = False
    subject: str = ""
    intervals: bool = True
    name: str = ""

    def __post_init__(self) -> None:
        if (self.cells is None) != (self.work is None):
            raise ValueError(f"{self.question!r}: cells need a work, and a work needs cells")
        if self.then is not None and self.cells is None:
            raise ValueError(f"{self.question!r}: methods that follow need cells to follow from")
        if self.narrow is not None and (self.cells is None or self.looked < 1):
            raise ValueError(f"{self.question!r}: to narrow cells, say how many prompts to look at")
        if self.name:
            file_stem(self.name, ())  # its files have it

    @property
    def has_metrics(self) -> bool:
        """Whether it measures pictures by metrics, to which others can be added."""
        return self.cells is None or self.then is not None

    def labelled(self, model: Model) -> Methods:
        """Return its methods for a model, by label."""
        methods = self.methods(model)
        if isinstance(methods, Mapping):
            methods = dict(_by_label(methods))
        return labelled(methods, model.grids(), model.depth)

    def lines(self, model: Model) -> dict[str, str]:
        """Return the line of each method, by its label; empty for methods without lines."""
        methods = self.methods(model)
        if not isinstance(methods, Mapping):
            return {}
        lines = {line: part for line, part in methods.items() if isinstance(part, Mapping)}
        return {label: line for line in lines for label, _ in _by_label({line: lines[line]})}


def _by_label(methods: Methods | Lines) -> Iterator[tuple[str, Method]]:
    """Yield methods with their labels, those of lines one after another."""
    for label, part in methods.items():
        if isinstance(part, Mapping):
            yield from ((f"{label}, {setting}", method) for setting, method in part.items())
        else:
            yield label, part


@dataclass(frozen=True)
class Each:
    """The work of an experiment on cells one by one: `one(model, cell)` returns a cell's rows."""

    one: Callable[[Model, Cell], Rows]

    def __call__(self, model: Model, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Rows]]:
        for cell in cells:
            yield cell, self.one(model, cell)


def timed_cells(
    question: Question, repeats: int, sizes: Sizes | None = None, **columns: Any
) -> list[Cell]:
    """Return a cell for each method, to be timed over the same prompt."""
    return [
        Cell(columns, method, label, (question.timed,), repeats=repeats, sizes=sizes)
        for label, method in question.methods.items()
    ]


def in_turns(
    cells: Sequence[Cell], once: Callable[[Cell], T], base: Cell, time: Callable[[T], float]
) -> Iterator[tuple[Cell, timed.Pairs[T]]]:
    """Measure cells and `base` in turns; yield each cell with its results and speedup over `base`.

    `time` reads the time of what `once(cell)` returns. A cell whose turns spread too widely is
    measured again, and marked as disturbed if that does not help.
    """
    others = {str(i): partial(once, cell) for i, cell in enumerate(cells) if cell != base}
    pairs = timed.speedups({"base": partial(once, base), **others}, base.repeats, time, base="base")
    for i, cell in enumerate(cells):
        yield cell, pairs["base" if cell == base else str(i)]


def base_of(cells: Sequence[Cell]) -> Cell:
    """Return the cell of full generation to time some cells beside: theirs, or one like the first.

    >>> base = base_of([Cell(label="mine", repeats=3)])
    >>> base.method, base.label, base.repeats
    (Dense(), 'full', 3)
    """
    full = [cell for cell in cells if cell.method == Dense()]
    return full[0] if full else replace(cells[0], method=Dense(), label=FULL)
