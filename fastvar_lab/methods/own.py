"""What tells rules of one's own apart: their code and values, hashed. `repr` does not show them."""

from __future__ import annotations

import dis
import hashlib
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from inspect import unwrap
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastvar_lab.seam import Method, Runner

_SHIPPED = ("fastvar_lab", "builtins", "typing")
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))


def own_code(method: Method, runner: Runner) -> str:
    """Hash what a method's classes that do not ship here define, and the values that they hold.

    `runner` is one that it starts. Empty where all classes ship here. Functions and values that
    the code names or closes over count too; what lies in installed libraries does not.
    """
    rules = [rule for rule in (method, *_rules(method)) if _root(type(rule)) not in _SHIPPED]
    if _root(type(runner)) not in _SHIPPED:
        rules.append(type(runner))
    tell = _Teller({_root(rule if isinstance(rule, type) else type(rule)) for rule in rules})
    found = [tell(rule) for rule in rules]
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16] if found else ""


def _rules(value: object) -> Iterator[object]:
    """Find the rules that a method is made of."""
    for part in getattr(value, "__dict__", {}).values():
        if hasattr(part, "scores") or hasattr(part, "restore"):
            yield part
            yield from _rules(part)


def _root(value: Any) -> str:
    """Name the package that a class or function is defined in."""
    return (value.__module__ or "").partition(".")[0]


class _Teller:
    """Tells values in a form that is the same in every process; classes and functions once."""

    def __init__(self, roots: set[str]) -> None:
        self.roots, self.seen = roots, set[int]()

    def __call__(self, value: Any) -> Any:
        if isinstance(value, bool | int | float | complex | str | bytes | None):
            return repr(value)
        if isinstance(value, list | tuple):
            return [type(value).__name__, *map(self, value)]
        if isinstance(value, set | frozenset):  # which has no order
            return ["set", *sorted(repr(self(item)) for item in value)]
        if isinstance(value, Mapping):
            return ["map", *sorted(repr((self(k), self(v))) for k, v in value.items())]
        if isinstance(value, Tensor):
            bits = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
            return [str(value.dtype), tuple(value.shape), self(bits.numpy())]
        if isinstance(value, np.ndarray):
            data = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
            return [str(value.dtype), value.shape, data]
        if isinstance(value, partial):
            return ["partial", self(value.func), self(value.args), self(value.keywords)]
        if isinstance(value, property | cached_property):
            return self(value.fget if isinstance(value, property) else value.func)
        if hasattr(value, "__func__"):
            return self(value.__func__)
        if isinstance(value, CodeType):
            return [value.co_code.hex(), value.co_names, *map(self, value.co_consts)]
        if isinstance(value, ModuleType):
            return value.__name__
        if isinstance(value, type):
            return self._once(value, self._class)
        if hasattr(value, "fingerprint"):  # a model's, which stands for its weights
            return value.fingerprint
        if callable(value) and isinstance(unwrap(value), FunctionType):
            return self._once(unwrap(value), self._function)
        if self._is_own(type(value)) and hasattr(value, "__dict__"):
            return [self(type(value)), self._once(value, vars)]
        told = repr(value)
        return type(value).__qualname__ if " at 0x" in told else told

    def _once(self, value: Any, look: Callable[[Any], Any]) -> Any:
        """Tell what `look` finds in a value; of one that was told, or is a library's, its name."""
        kind = value if isinstance(value, type | FunctionType) else type(value)
        if id(value) in self.seen or not self._is_own(kind):
            return kind.__qualname__
        self.seen.add(id(value))
        return [kind.__qualname__, self(look(value))]

    def _class(self, kind: type) -> list[Any]:
        hidden = ("__module__", "__doc__", "__dict__", "__weakref__", "__dataclass_fields__")
        own = {name: part for name, part in vars(kind).items() if name not in hidden}
        own = {name: part for name, part in own.items() if not name.startswith("_abc_")}
        return [*kind.__bases__, own]

    def _function(self, function: FunctionType) -> list[Any]:
        names = set(_named(function.__code__)) & function.__globals__.keys()
        named = {name: function.__globals__[name] for name in names}
        closed = [cell.cell_contents for cell in function.__closure__ or ()]
        return [function.__code__, function.__defaults__, function.__kwdefaults__, closed, named]

    def _is_own(self, value: Any) -> bool:
        """Tell whether a class or function is the user's: of their package, or in no library."""
        root = _root(value)
        if root in _SHIPPED or root in self.roots:
            return root not in _SHIPPED
        file = getattr(sys.modules.get(root), "__file__", None)
        return file is not None and not file.startswith(_LIBRARIES)


def _named(code: CodeType) -> Iterator[str]:
    """Name the globals that code asks for."""
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield step.argval
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _named(value)
