"""Names and questions of experiments and figures, read from their source: lists need no torch.

An experiment's question stands in its `EXPERIMENT`, a gallery's name in `GALLERIES`; importing them
would import torch, which takes seconds.
"""

from __future__ import annotations

import ast
import pkgutil
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

from fastvar_lab.errors import unknown
from fastvar_lab.experiments import questions

GALLERIES = "fastvar_lab.experiments.galleries"
LISTER = "`fastvar-lab experiment`"  # what lists the experiments


class Summary(NamedTuple):
    """What the list of experiments shows of one."""

    question: str
    source: str
    slow: bool = False

    def __str__(self) -> str:
        return f"{self.question} ({self.source}){' Slow.' if self.slow else ''}"


@cache
def experiments() -> dict[str, Summary]:
    """Return the summary of every experiment that ships here, by name.

    >>> print(experiments()["side_by_side"])
    What does the preset change in a picture? (FastVAR, supplement, Figs A.3 and A.4)
    """
    names = sorted(module.name for module in pkgutil.iter_modules(questions.__path__))
    return {name: _summary(f"{questions.__name__}.{name}") for name in names}


@cache
def galleries() -> tuple[str, ...]:
    """Return the names of the figures of pictures.

    >>> galleries()
    ('demo', 'intermediate_outputs', 'side_by_side')
    """
    written = _assigned(GALLERIES, "GALLERIES")
    try:
        assert isinstance(written, ast.Dict)
        return tuple(ast.literal_eval(key) for key in written.keys if key is not None)
    except (AssertionError, ValueError):
        return tuple(import_module(GALLERIES).GALLERIES)


def charted() -> dict[str, str]:
    """Return the experiment that each figure of an experiment shows, by the figure's name.

    >>> charted()["side_by_side_scores"]
    'side_by_side'
    """
    return {f"{n}_scores" if n in galleries() else n: n for n in experiments()}


def figures() -> tuple[str, ...]:
    """Return the names of all figures that ship here."""
    return (*galleries(), *charted())


def check_experiments(names: Sequence[str]) -> None:
    """Raise ValueError for an unknown experiment, naming the nearest ones."""
    for name in names:
        if name not in experiments():
            raise unknown("experiment", name, experiments(), LISTER)


def chosen(names: Sequence[str], everything: bool = False) -> list[str]:
    """Return the figures asked for, those of pictures by default; ValueError for unknown ones."""
    for name in names:
        if name not in figures():
            raise unknown("figure", name, figures(), "`fastvar-lab figures --list`")
    return list(figures()) if everything else list(names) or list(galleries())


def _summary(module: str) -> Summary:
    """Read a summary from the keywords of `EXPERIMENT = Experiment(...)`."""
    written = _assigned(module, "EXPERIMENT")
    try:
        assert isinstance(written, ast.Call)
        keywords = {keyword.arg: keyword.value for keyword in written.keywords}
        values = {k: ast.literal_eval(keywords[k]) for k in Summary._fields if k in keywords}
        return Summary(**values)
    except (AssertionError, TypeError, ValueError):  # computed values, or arguments by position
        record = import_module(module).EXPERIMENT
        return Summary(record.question, record.source, record.slow)


def _assigned(module: str, name: str) -> ast.expr | None:
    """Return the expression that a module assigns to a name; None if its source has none."""
    spec = find_spec(module)
    source = getattr(spec and spec.loader, "get_source", lambda _: None)(module)
    for statement in ast.parse(source or "").body:
        if isinstance(statement, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == name for target in statement.targets
        ):
            return statement.value
    return None
