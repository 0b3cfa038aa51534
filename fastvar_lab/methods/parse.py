"""Methods as text: `read_method` reads the `repr` of a method, without evaluating code."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from fastvar_lab.methods.registry import classes as shipped
from fastvar_lab.seam import Method


def read_method(text: str, classes: Sequence[type] = ()) -> Method:
    """Read a method from its `repr`, as in the frames of experiments.

    >>> read_method("Prune({-1: 0.75}, select=HighPass())").select
    HighPass()

    `classes` adds user-defined classes to those of the library. Raises ValueError for anything but
    calls of known methods, selectors and restorers with plain values.
    """
    try:
        known = {**shipped(), **{kind.__name__: kind for kind in classes}}
        value = _value(ast.parse(text.strip(), mode="eval").body, text, known)
    except (SyntaxError, TypeError) as error:
        raise ValueError(f"cannot read a method from {text!r}: {error}") from error
    if not hasattr(value, "acts"):
        raise ValueError(f"{text!r} is not a method; a method is a call such as Prune({{-1: 0.5}})")
    return value


def _value(node: ast.expr, text: str, known: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func).removeprefix("fv.")
        if name not in known:
            raise ValueError(f"{name} in {text!r} is unknown; known are {', '.join(known)}")
        values = [_value(a, text, known) for a in node.args]
        named = {str(k.arg): _value(k.value, text, known) for k in node.keywords}
        return known[name](*values, **named)
    if isinstance(node, ast.Tuple):
        return tuple(_value(e, text, known) for e in node.elts)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"{ast.unparse(node)} in {text!r} is not a plain value") from None
