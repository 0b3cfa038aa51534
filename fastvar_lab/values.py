"""Frozen values whose `repr` stays the same when a field with a default is added to them.

A `repr` is part of a result's address and of a model's fingerprint: a new setting must not change
those of results that do not use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, fields
from typing import Any


def optional(default: Any) -> Any:
    """Declare a field of a `Shown` dataclass that its `repr` omits at its default."""
    return field(default=default, metadata={"optional": True})


class Shown:
    """Gives a dataclass (with `repr=False`) a `repr` without optional fields at their defaults.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True, repr=False)
    ... class Settings(Shown):
    ...     size: int = 1
    ...     mode: str = optional("plain")
    >>> Settings(), Settings(mode="fine")
    (Settings(size=1), Settings(size=1, mode='fine'))
    """

    def __repr__(self) -> str:
        shown = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in fields(self)  # type: ignore[arg-type]
            if not f.metadata.get("optional") or getattr(self, f.name) != f.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


def one_of(default: Any, choices: Sequence[Any]) -> Any:
    """Declare a field that takes one of some values, which controls then offer."""
    return field(default=default, metadata={"choices": tuple(choices)})


def filled_in(default: Any) -> Any:
    """Declare a field that the value fills in by itself, and that no control sets."""
    return field(default=default, metadata={"filled": True})
