"""Methods as text: `repr` writes one, `read_method` reads it back, without evaluating anything."""

from __future__ import annotations

import ast
from typing import Any

from fastvar_lab.methods.merge import Merge
from fastvar_lab.methods.prune import Dense, Prune
from fastvar_lab.methods.restore import CachedBranch, NearestKept, Zero
from fastvar_lab.methods.select import FarFromMean, HighPass, NearMean, Random, UniformGrid
from fastvar_lab.seam import Method

_KNOWN = (
    *(Dense, Prune, Merge),
    *(FarFromMean, NearMean, HighPass, Random, UniformGrid),
    *(CachedBranch, Zero, NearestKept),
)
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
