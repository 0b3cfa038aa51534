"""Methods as text: `read_method` reads the `repr` of a method, without evaluating code."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastvar_lab.audit import check_value
from fastvar_lab.files import expanded, read_json, write_json
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
        written = ast.parse(text.strip(), mode="eval").body
        value: Any = _value(written, text, known) if isinstance(written, ast.Call) else None
    except (SyntaxError, TypeError) as error:
        raise ValueError(f"cannot read a method from {text!r}: {error}") from error
    if not hasattr(value, "acts"):
        raise ValueError(f"{text!r} is not a method; a method is a call such as Prune({{-1: 0.5}})")
    return value


FORMAT = "fastvar_lab method"


def save_method(method: Method, path: str | Path) -> None:
    """Write a method to a JSON file that `read_method_file` reads back.

    Raises ValueError for one whose `repr` is not read back, such as of a class of your own.
    """
    check_value(method)
    text = repr(method)
    read_method(text)
    origin = getattr(method, "origin", "")
    write_json(expanded(path), {"format": FORMAT, "method": text, "origin": origin})


def read_method_file(path: str | Path) -> Method:
    """Read a method that `save_method` wrote; raise ValueError for any other file."""
    try:
        content = read_json(expanded(path).read_bytes())
        if "plans" in content:
            raise ValueError(
                "it holds several schedules, which fv.frontier reads; a method is the file of one"
            )
        if content.get("format") != FORMAT or not isinstance(content.get("method"), str):
            raise ValueError("it is not a method that was saved")
        method = read_method(content["method"])
    except OSError as error:
        raise ValueError(f"cannot read the method {path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"cannot read the method {path}: {error}") from None
    if hasattr(method, "origin") and isinstance(content.get("origin"), str):
        method = replace(method, origin=content["origin"])  # type: ignore[type-var]
    return method


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
