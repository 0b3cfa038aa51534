"""The registry of the library's methods, selectors and restorers, by name.

A registered class can be read from text, is offered in widgets, compared in experiments, and
exported by the package `fastvar_lab`; registering it is the only edit.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

from fastvar_lab.values import Class, typed

_SELECTORS: dict[str, Any] = {}
_RESTORERS: dict[str, Any] = {}
_CLASSES: dict[str, type] = {}

FIRST = ("prune", "select", "restore")
"""The modules of FastVAR, which come first in all lists."""


def method(kind: Class) -> Class:
    """Register a method of the library (a class decorator)."""
    return _registered(kind)


def selector(label: str, **settings: Any) -> Callable[[Class], Class]:
    """Register a selector of the library under a label; `settings` register a variant of it."""
    return _under(_SELECTORS, label, settings)


def restorer(label: str, **settings: Any) -> Callable[[Class], Class]:
    """Register a restorer of the library under a label; `settings` register a variant of it."""
    return _under(_RESTORERS, label, settings)


def rule(kind: Class) -> Class:
    """Register a selector or restorer that is read from text, but offered in no list.

    That is one that does nothing of its own until it is given values (a class decorator).
    """
    return _registered(kind)


def _registered(kind: Class) -> Class:
    """Register a class by its name, once; its plain fields are checked from then on."""
    if _CLASSES.get(kind.__name__) is not kind:
        _CLASSES[kind.__name__] = typed(kind)
    return kind


def _under(table: dict[str, Any], label: str, settings: dict[str, Any]) -> Callable[[Class], Class]:
    def mark(kind: Class) -> Class:
        if label in table:
            raise ValueError(
                f"{label!r} is the label of {table[label]!r}; give {kind.__name__} another"
            )
        table[label] = _registered(kind)(**settings)
        return kind

    return mark


def classes() -> dict[str, type]:
    """Return every registered class by its name, after importing all modules of `methods`.

    Their order does not depend on what was imported before: those of `FIRST`, then others by the
    names of their modules.
    """
    import_all()
    return dict(sorted(_CLASSES.items(), key=lambda item: place(item[1])))


@cache
def import_all() -> None:
    """Import all modules of `methods`, so that what they hold is registered."""
    package = import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"{__package__}.{module.name}")


def place(kind: Any) -> tuple[bool, str]:
    """Return what classes and functions that are registered are sorted by: their modules."""
    module = kind.__module__.rpartition(".")[2]
    return module not in FIRST, module


def _sorted(table: dict[str, Any]) -> dict[str, Any]:
    import_all()
    return dict(sorted(table.items(), key=lambda item: place(type(item[1]))))


def selectors() -> dict[str, Any]:
    """Return every selector of the library, by its label in tables and widgets.

    >>> selectors()["random"]
    Random(seed=0)
    """
    return _sorted(_SELECTORS)


def restorers() -> dict[str, Any]:
    """Return every restorer of the library, by its label in tables and widgets.

    >>> restorers()["zero"]
    Zero()
    """
    return _sorted(_RESTORERS)
