"""Frozen values whose `repr` stays the same when a field with a default is added to them.

A `repr` is part of a result's address and of a model's fingerprint: a new setting must not change
those of results that do not use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, fields, is_dataclass
from functools import wraps
from numbers import Integral, Real
from os import PathLike
from typing import Any, TypeVar

from fastvar_lab.errors import short

Class = TypeVar("Class", bound=type)

PLAIN: dict[str, tuple[Any, str]] = {
    "bool": (bool, "True or False"),
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "str": (str | PathLike, "text"),
}
"""The plain types of fields, by annotation: what a value must be, and how a message names it."""

LARGEST = 2**63 - 1
"""The largest whole number that a tensor takes."""


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


def typed(kind: Class) -> Class:
    """Check the fields of plain types first when a dataclass is made (a class decorator).

    Those are annotated with bool, int, float or str, or with one of them and None. An int is also
    a float, and a bool is neither. Raises ValueError for a value of another type,
    for nan, and for a whole number beyond 64 bits.

    >>> from dataclasses import dataclass
    >>> @typed
    ... @dataclass(frozen=True)
    ... class Settings:
    ...     share: float | None = None
    >>> Settings(1), Settings("a")
    Traceback (most recent call last):
    ValueError: Settings.share must be a number or None; not 'a'
    """
    if not is_dataclass(kind):
        return kind
    # annotations are text, as under `from __future__ import annotations`
    members = {f.name: str(f.type).split(" | ") for f in fields(kind) if f.init}
    plain = {n: m for n, m in members.items() if m[0] in PLAIN and m[1:] in ([], ["None"])}
    open_kind: Any = kind  # its `__init__` is replaced
    make = open_kind.__init__

    @wraps(make)
    def checked(self: Any, *args: Any, **values: Any) -> None:
        for name, value in (dict(zip(members, args)) | values).items():
            if name in plain and not _fits(value, plain[name]):
                what = " or ".join((PLAIN[plain[name][0]][1], *plain[name][1:]))
                raise ValueError(f"{kind.__name__}.{name} must be {what}; not {short(repr(value))}")
            if name in plain and isinstance(value, Integral) and abs(int(value)) > LARGEST:
                raise ValueError(
                    f"{kind.__name__}.{name} must lie within 64 bits; not {short(value)}"
                )
        make(self, *args, **values)

    open_kind.__init__ = checked
    return kind


def _fits(value: Any, members: Sequence[str]) -> bool:
    """Return whether a value is of a plain type, or None where the type allows it."""
    if value is None:
        return "None" in members
    expected = PLAIN[members[0]][0]
    if expected is not bool and isinstance(value, bool):
        return False
    nan = isinstance(value, Real) and value != value
    return isinstance(value, expected) and not nan
