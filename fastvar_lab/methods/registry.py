"""What ships: methods, selectors and restorers, found by the names that they are given here.

A class that is marked is read back from text, offered in widgets, compared in experiments and
found on the public face; nothing else has to be edited.
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
    """Mark a method that ships."""
    _CLASSES[kind.__name__] = kind
    return kind


def selector(label: str, **settings: Any) -> Callable[[Class], Class]:
    """Mark a selector that ships, under a label; with settings, a variant of it."""
    return _under(_SELECTORS, label, settings)


def restorer(label: str, **settings: Any) -> Callable[[Class], Class]:
    """Mark a restorer that ships, under a label; with settings, a variant of it."""
    return _under(_RESTORERS, label, settings)


def _under(table: dict[str, Any], label: str, settings: dict[str, Any]) -> Callable[[Class], Class]:
    def mark(kind: Class) -> Class:
        if label in table:
            raise ValueError(f"{label!r} names {table[label]!r} already; call {kind.__name__} else")
        _CLASSES[kind.__name__] = kind
        table[label] = kind(**settings)
        return kind

    return mark


def classes() -> dict[str, type]:
    """Return every class that ships, by its name; all of `methods/` is looked through."""
    package = import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"{__package__}.{module.name}")
    return _CLASSES


def selectors() -> dict[str, Any]:
    """Return every selector that ships, by the name it has in tables and widgets.

    >>> selectors()["random"]
    Random(seed=0)
    """
    classes()
    return dict(_SELECTORS)


def restorers() -> dict[str, Any]:
    """Return every restorer that ships, by the name it has in tables and widgets.

    >>> restorers()["zero"]
    Zero()
    """
    classes()
    return dict(_RESTORERS)
