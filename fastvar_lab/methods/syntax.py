"""The syntax of running code, from its source: the same for other comments, layout and Pythons."""

from __future__ import annotations

import ast
from functools import lru_cache
from inspect import findsource
from types import CodeType
from typing import Any


def syntax(code: CodeType) -> Any:
    """Describe the syntax of code; None without a source, or where that is not what runs."""
    try:
        lines, _ = findsource(code)
        tree, compiled = _parsed("".join(lines))
    except (OSError, TypeError, IndexError, SyntaxError, ValueError):
        return None
    if code not in compiled:  # the file was changed since, or rewritten on import
        return None
    # several lambdas in one line cannot be told apart: all of them count
    return [
        _dump(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        and getattr(node, "name", "<lambda>") == code.co_name
        and min(n.lineno for n in (node, *getattr(node, "decorator_list", ())))
        == code.co_firstlineno
    ]


@lru_cache(maxsize=16)
def _parsed(text: str) -> tuple[ast.Module, frozenset[CodeType]]:
    """Parse a file's text; return its tree, and all code that it compiles to here."""
    found = [compile(text, "", "exec", dont_inherit=True)]
    for code in found:  # which grows
        found += inner(code)
    return ast.parse(text), frozenset(found)


def _dump(node: Any) -> Any:
    """Write a syntax tree without places, docstrings, and fields that are empty.

    Unlike `ast.dump`, whose empty fields differ between versions of Python.
    """
    if isinstance(node, list):
        return [_dump(part) for part in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        fields["body"] = node.body[ast.get_docstring(node, clean=False) is not None :]
    filled = {name: part for name, part in fields.items() if part not in (None, [])}
    return [type(node).__name__, *((name, _dump(part)) for name, part in filled.items())]


def inner(code: CodeType) -> list[CodeType]:
    """Return the code of what is defined inside."""
    return [value for value in code.co_consts if isinstance(value, CodeType)]
