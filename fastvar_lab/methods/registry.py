"""The registry of the library's methods, selectors and restorers, by name.

A registered class can be read from text, is offered in widgets, compared in experiments, and
exported by the package `fastvar_lab`; registering it is the only edit.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

_SELECTORS: dict[str, Any] = {}
_RESTORERS: dict[str, Any] = {}
_CLASSES: dict[str, type] = {}
Class = TypeVar("Class", bound=type)


def method(kind: Class) -> Class:
    """Register a method of the library (a class decorator)."""
    _CLASSES[kind.__name__] = kind
    return kind


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
    _CLASSES[kind.__name__] = kind
    return kind


def _under(table: dict[str, Any], label: str, settings: dict[str, Any]) -> Callable[[Class], Class]:
    def mark(kind: Class) -> Class:
        if label in table:
            raise ValueError(
                f"{label!r} is the label of {table[label]!r}; give {kind.__name__} another"
            )
        _CLASSES[kind.__name__] = kind
        table[label] = kind(**settings)
        return kind

    return mark


def classes() -> dict[str, type]:
    """Return every registered class by its name, after importing all modules of `methods`."""
    package = import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"{__package__}.{module.name}")
    return _CLASSES


def selectors() -> dict[str, Any]:
    """Return every selector of the library, by its label in tables and widgets.

    >>> selectors()["random"]
    Random(seed=0)
    """
    classes()
    return dict(_SELECTORS)


def restorers() -> dict[str, Any]:
    """Return every restorer of the library, by its label in tables and widgets.

    >>> restorers()["zero"]
    Zero()
    """
    classes()
    return dict(_RESTORERS)
