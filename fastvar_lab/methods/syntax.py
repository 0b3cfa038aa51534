"""The syntax tree of running code, independent of comments, layout and version of Python."""

from __future__ import annotations

import ast
from functools import lru_cache
from inspect import findsource
from types import CodeType
from typing import Any


def syntax(code: CodeType) -> Any:
    """Describe the syntax of code; None without source, or if the source is not what runs."""
    try:
        lines, _ = findsource(code)
        tree, compiled = _parsed("".join(lines))
    except (OSError, TypeError, IndexError, SyntaxError, ValueError):
        return None
    if code not in compiled:  # the file has changed since, or was rewritten on import
        return None
    # several lambdas in one line cannot be distinguished, so all of them count
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
    """Parse a file's text; return its tree and all code objects that it compiles to."""
    codes = [compile(text, "", "exec", dont_inherit=True)]
    for code in codes:  # the list grows
        codes += inner(code)
    return ast.parse(text), frozenset(codes)


def _dump(node: Any) -> Any:
    """Convert a syntax tree to lists, without positions, docstrings and empty fields.

    `ast.dump` does not serve, because its empty fields differ between versions of Python.
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
    """Return the code objects of functions and classes defined inside `code`."""
    return [value for value in code.co_consts if isinstance(value, CodeType)]
