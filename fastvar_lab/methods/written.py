"""Methods as text: `repr` writes one, `read_method` reads it back, without evaluating anything."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

from fastvar_lab.methods.merge import Merge
from fastvar_lab.methods.prune import Dense, Prune
from fastvar_lab.methods.restore import CachedBranch, NearestKept, Zero
from fastvar_lab.methods.select import FarFromMean, HighPass, NearMean, Random, UniformGrid
from fastvar_lab.seam import Method, Runner

_KNOWN = (
    *(Dense, Prune, Merge),
    *(FarFromMean, NearMean, HighPass, Random, UniformGrid),
    *(CachedBranch, Zero, NearestKept),
)
_KNOWN_WELL = ("fastvar_lab", "builtins", "typing")
NAMES: dict[str, Any] = {kind.__name__: kind for kind in _KNOWN}


def read_method(text: str) -> Method:
    """Read what a method's `repr` wrote, as tables of experiments hold it.

    >>> read_method("Prune({-1: 0.75}, select=HighPass())").select
    HighPass()

    Raises ValueError for anything but calls of known methods, selectors and restorers with plain
    values.
    """
    try:
        found = _value(ast.parse(text.strip(), mode="eval").body, text)
    except (SyntaxError, TypeError) as error:
        raise ValueError(f"cannot read a method from {text!r}: {error}") from error
    if not isinstance(found, Dense | Prune | Merge):
        raise ValueError(f"{text!r} is no method; a method is one of Dense, Prune, Merge")
    return found


def own_code(method: Method, runner: Runner) -> str:
    """Hash the code of a method's classes that do not ship here: `repr` does not tell it apart.

    `runner` is one that it starts. Empty where all ship here. Covers what the classes and their
    bases define, not the functions that they call.
    """
    kinds = [*type(runner).__mro__, *_kinds(method)]
    own = [kind for kind in kinds if kind.__module__.partition(".")[0] not in _KNOWN_WELL]
    parts = [[kind.__qualname__, *_defined(kind)] for kind in own]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16] if own else ""


def _kinds(value: object) -> Iterator[type]:
    """Find the classes that a method is made of."""
    yield from type(value).__mro__
    for part in getattr(value, "__dict__", {}).values():
        if hasattr(part, "scores") or hasattr(part, "restore"):
            yield from _kinds(part)


def _defined(kind: type) -> Iterator[Any]:
    """List what a class defines: code and plain values."""
    for name, value in sorted(vars(kind).items()):
        function = getattr(value, "fget", None) or getattr(value, "__func__", value)
        if isinstance(function, FunctionType):
            yield name, _compiled(function.__code__), repr(function.__defaults__)
        elif not name.startswith("__") and isinstance(value, int | float | str | tuple):
            yield name, repr(value)


def _compiled(code: CodeType) -> list[Any]:
    """Bring compiled code to a form that is the same in every process."""
    constants = list[Any]()
    for value in code.co_consts:
        if isinstance(value, CodeType):
            constants.append(_compiled(value))
        else:  # sets have no order
            constants.append(
                sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)
            )
    return [code.co_code, code.co_names, constants]


def _value(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func).removeprefix("fv.")
        if name not in NAMES:
            raise ValueError(f"{name} in {text!r} is not known; known are {', '.join(NAMES)}")
        values = [_value(a, text) for a in node.args]
        named = {str(k.arg): _value(k.value, text) for k in node.keywords}
        return NAMES[name](*values, **named)
    if isinstance(node, ast.Tuple):
        return tuple(_value(e, text) for e in node.elts)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"{ast.unparse(node)} in {text!r} is no plain value") from None
