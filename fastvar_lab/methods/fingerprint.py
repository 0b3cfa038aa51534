"""Hashes the code and values of user-defined methods, which `repr` does not show.

Code is hashed as its syntax tree, so comments, layout, docstrings and the version of Python do not
change the hash. Code without source (typed into a plain interpreter, or from a file that has
changed since) is hashed as bytecode with the version of Python, and a SourceWarning is issued.
"""

from __future__ import annotations

import dataclasses
import dis
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from inspect import unwrap
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastvar_lab.files import digest
from fastvar_lab.methods.syntax import inner, syntax
from fastvar_lab.seam import Method, Runner, Wrapper

WRITTEN = (
    *("__init__", "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__"),
    *("__lt__", "__le__", "__gt__", "__ge__", "__replace__"),
)  # methods that `dataclass` writes

_HIDDEN = (
    *("__module__", "__doc__", "__dict__", "__weakref__", "__firstlineno__"),
    *("__static_attributes__", "__annotations__", "__annotate__", "__annotate_func__"),
    *("__annotations_cache__", "__dataclass_fields__", "__dataclass_params__"),
    *("__getstate__", "__setstate__"),
    "__slotnames__",  # added when an instance is pickled for the first time
)  # class attributes without effect on results, or different between versions of Python

_SHIPPED = ("fastvar_lab", "builtins", "typing")
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))


class SourceWarning(RuntimeWarning):
    """Issued for code without source: its hash is valid for one version of Python alone."""


def user_code_hash(method: Method, runner: Runner) -> str:
    """Hash the user-defined classes of a method, and the values that they hold: 16 hex digits.

    `runner` is a runner started by the method. The hash is empty if all classes are the library's.
    It covers the current functions and values that the code names or closes over, but not the code
    of installed libraries; modules and models count by their weights. Issues a SourceWarning for
    code without source.
    """
    rules = [rule for rule in (method, *_rules(method)) if _root(type(rule)) not in _SHIPPED]
    kinds = [type(rule) for rule in rules]
    kinds += [kind for kind in map(type, _inside(runner)) if _root(kind) not in _SHIPPED]
    canonical = _Canonical({_root(kind) for kind in kinds})
    parts = [canonical(part) for part in (*kinds, *rules)]
    return digest(repr(parts), length=16) if parts else ""


def code_of(function: Callable[..., Any]) -> str:
    """Hash a function or callable, with the values and functions that its code names."""
    owner = function if hasattr(function, "__module__") else type(function)
    return digest(repr(_Canonical({_root(owner)} - {*_SHIPPED})(function)), length=16)


def user_classes_hash(values: Iterable[object]) -> str:
    """Hash the user-defined classes among those of some values: 16 hex digits, or nothing.

    Two modules of one class and other weights are alike here; weights are hashed elsewhere.
    """
    canonical = _Canonical(set())
    kinds = {type(value) for value in values}
    codes = sorted(str(canonical(kind)) for kind in kinds if canonical._is_own(kind))
    return digest(repr(codes), length=16) if codes else ""


def _rules(value: object) -> Iterator[object]:
    """Yield the methods, selectors and restorers inside a method, and those inside them."""
    for part in _held(value).values():
        if any(hasattr(part, name) for name in ("scores", "restore", "acts")):
            yield part
            yield from _rules(part)


def _inside(runner: Runner) -> Iterator[Runner]:
    """Yield a runner, and those that it wraps."""
    yield runner
    if isinstance(runner, Wrapper):
        yield from _inside(runner.inner)


def _held(value: Any) -> dict[str, Any]:
    """Return the attributes of an object, in `__dict__` or slots, without cached properties."""
    kinds = type(value).__mro__
    slots = [s for kind in kinds for s in _listed(vars(kind).get("__slots__", ()))]
    attributes = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    attributes |= getattr(value, "__dict__", {})
    return {
        name: part
        for name, part in attributes.items()
        if not isinstance(getattr(type(value), name, None), cached_property)
        and name not in ("__dict__", "__weakref__")
    }


def _listed(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _root(value: Any) -> str:
    """Return the top-level package in which a class or function is defined."""
    return (value.__module__ or "").partition(".")[0]


class _Canonical:
    """Converts values to a form whose repr is the same in every process."""

    def __init__(self, roots: set[str]) -> None:
        self.roots = roots
        self.open = set[int]()  # ids of the values being converted, to stop at cycles
        self.known: dict[int, str] = {}  # id of a class or function -> its hash

    def __call__(self, value: Any) -> Any:
        if id(value) in self.open:
            return "..."
        self.open.add(id(value))
        try:
            return self._form(value)
        finally:
            self.open.discard(id(value))

    def _form(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            return repr(value)
        if not isinstance(value, type) and self._is_own(type(value)):
            inside = [*value] if isinstance(value, tuple | list) else []
            return [self(type(value)), self(_held(value)), self(inside)]
        if isinstance(value, list | tuple):
            return [type(value).__name__, *map(self, value)]
        if isinstance(value, set | frozenset):  # unordered
            return ["set", *sorted(repr(self(item)) for item in sorted(value, key=_name))]
        if isinstance(value, Mapping):
            return ["map", *((self(k), self(value[k])) for k in sorted(value, key=_name))]
        if isinstance(value, Tensor):
            dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
            bits = dense.cpu().contiguous().view(-1).view(torch.uint8)
            return [str(value.dtype), tuple(value.shape), self(bits.numpy())]
        if isinstance(value, np.ndarray):
            data = np.ascontiguousarray(value).tobytes()
            return [str(value.dtype), value.shape, digest(data)]
        if isinstance(value, partial):
            return ["partial", self(value.func), self(value.args), self(value.keywords)]
        if isinstance(value, property | cached_property):
            return self(value.fget if isinstance(value, property) else value.func)
        if hasattr(value, "__func__"):  # a bound method depends on its object, too
            return [self(value.__func__), self(getattr(value, "__self__", None))]
        if isinstance(value, CodeType):
            return syntax(value) or self._bytecode(value)
        if isinstance(value, ModuleType):
            return value.__name__
        if isinstance(value, type):
            return self._once(value, self._class)
        if callable(value) and isinstance(unwrap(value), FunctionType):
            return self._once(unwrap(value), self._function)
        if hasattr(value, "fingerprint"):  # a model counts by its weights
            return value.fingerprint
        if isinstance(value, torch.nn.Module):
            return [type(value).__qualname__, self(dict(value.state_dict()))]
        written = repr(value)
        return type(value).__qualname__ if " at 0x" in written else written

    def _once(self, value: Any, parts_of: Callable[[Any], Any]) -> str:
        """Hash the parts of a class or function; return the name of one from a library."""
        if not self._is_own(value):
            return value.__qualname__
        if id(value) not in self.known:
            parts = [value.__qualname__, self(parts_of(value))]
            self.known[id(value)] = digest(repr(parts), length=16)
        return self.known[id(value)]

    def _class(self, kind: type) -> list[Any]:
        parts = {
            name: part
            for name, part in vars(kind).items()
            if name not in _HIDDEN and not name.startswith("_abc_") and not _generated(kind, part)
        }
        fields = [(f.name, f.default, f.default_factory) for f in _fields(kind)]
        return [*kind.__bases__, parts, fields]

    def _bytecode(self, code: CodeType) -> list[Any]:
        """Describe code without source by its bytecode and the version of Python."""
        warnings.warn(
            f"the source of {code.co_qualname} is missing or differs from what runs: its bytecode "
            "is hashed, so that results are cached for this version of Python alone",
            SourceWarning,
            stacklevel=2,
        )
        consts = [c if not isinstance(c, CodeType) else self._bytecode(c) for c in code.co_consts]
        return [sys.version_info[:2], code.co_code.hex(), code.co_names, self(consts)]

    def _function(self, function: FunctionType) -> list[Any]:
        code, around = function.__code__, function.__globals__
        named = {name: around[name] for name in _named(code) if name in around}
        for name, module in named.items():
            if isinstance(module, ModuleType) and self._is_own_package(module.__name__):
                inside = vars(module)  # of a user's module, the attributes that the code may use
                named[name] = {n: inside[n] for n in _attributes(code) if n in inside}
        closed = [_content(cell) for cell in function.__closure__ or ()]
        return [code, function.__defaults__, function.__kwdefaults__, closed, named]

    def _is_own(self, value: Any) -> bool:
        """Return whether a class or function is user-defined: in a user's package or no library."""
        return self._is_own_package(value.__module__ or "")

    def _is_own_package(self, module: str) -> bool:
        root = module.partition(".")[0]
        if root in _SHIPPED or root in self.roots:
            return root not in _SHIPPED
        file = getattr(sys.modules.get(root), "__file__", None)
        return file is not None and not file.startswith(_LIBRARIES)


def _fields(kind: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()


def _generated(kind: type, part: Any) -> bool:
    """Return whether `dataclass` wrote a method, so that the fields describe it."""
    code = getattr(unwrap(part), "__code__", None) if callable(part) else None
    written = code is not None and code.co_filename == "<string>" and code.co_name in WRITTEN
    return written and dataclasses.is_dataclass(kind)


def _name(value: Any) -> str:
    return getattr(value, "__qualname__", None) or repr(value)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty cell
        return None


def _named(code: CodeType) -> set[str]:
    """Return the names of the globals that code reads."""
    steps = dis.get_instructions(code)
    names = {step.argval for step in steps if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return names.union(*map(_named, inner(code)))


def _attributes(code: CodeType) -> set[str]:
    """Return all names in code: globals and attributes."""
    return set(code.co_names).union(*map(_attributes, inner(code)))
