"""What tells rules of one's own apart: their code and values, hashed. `repr` does not show them."""

from __future__ import annotations

import dis
import hashlib
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
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
    the code names or closes over count too, as they are now; what lies in installed libraries
    does not, but for weights.
    """
    rules = [rule for rule in (method, *_rules(method)) if _root(type(rule)) not in _SHIPPED]
    kinds = [type(rule) for rule in rules]
    if _root(type(runner)) not in _SHIPPED:
        kinds.append(type(runner))
    tell = _Teller({_root(kind) for kind in kinds})
    found = [tell(part) for part in (*kinds, *rules)]
    return _digest(found) if found else ""


def code_of(function: Callable[..., Any]) -> str:
    """Hash the code of a function or callable value, and the values and functions that it names."""
    owner = function if hasattr(function, "__module__") else type(function)
    return _digest(_Teller({_root(owner)} - {*_SHIPPED})(function))


def _digest(told: Any) -> str:
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def _rules(value: object) -> Iterator[object]:
    """Find the rules that a method is made of."""
    for part in _held(value).values():
        if hasattr(part, "scores") or hasattr(part, "restore"):
            yield part
            yield from _rules(part)


def _held(value: Any) -> dict[str, Any]:
    """Return what an object holds, in its `__dict__` or slots, but for what it computed once."""
    kinds = type(value).__mro__
    slots = [s for kind in kinds for s in _listed(vars(kind).get("__slots__", ()))]
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    found |= getattr(value, "__dict__", {})
    return {
        name: part
        for name, part in found.items()
        if not isinstance(getattr(type(value), name, None), cached_property)
        and name not in ("__dict__", "__weakref__")
    }


def _listed(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _root(value: Any) -> str:
    """Name the package that a class or function is defined in."""
    return (value.__module__ or "").partition(".")[0]


class _Teller:
    """Tells values in a form that is the same in every process."""

    def __init__(self, roots: set[str]) -> None:
        self.roots = roots
        self.open = set[int]()  # what is being told, and holds itself
        self.known: dict[int, str] = {}  # classes and functions

    def __call__(self, value: Any) -> Any:
        if id(value) in self.open:
            return "..."
        self.open.add(id(value))
        try:
            return self._tell(value)
        finally:
            self.open.discard(id(value))

    def _tell(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            return repr(value)
        if not isinstance(value, type) and self._is_own(type(value)):
            inside = [*value] if isinstance(value, tuple | list) else []
            return [self(type(value)), self(_held(value)), self(inside)]
        if isinstance(value, list | tuple):
            return [type(value).__name__, *map(self, value)]
        if isinstance(value, set | frozenset):  # which has no order
            return ["set", *sorted(repr(self(item)) for item in sorted(value, key=_name))]
        if isinstance(value, Mapping):
            return ["map", *((self(k), self(value[k])) for k in sorted(value, key=_name))]
        if isinstance(value, Tensor):
            dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
            bits = dense.cpu().contiguous().view(-1).view(torch.uint8)
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
        if callable(value) and isinstance(unwrap(value), FunctionType):
            return self._once(unwrap(value), self._function)
        if hasattr(value, "fingerprint"):  # a model's, which stands for its weights
            return value.fingerprint
        if isinstance(value, torch.nn.Module):
            return [type(value).__qualname__, self(dict(value.state_dict()))]
        told = repr(value)
        return type(value).__qualname__ if " at 0x" in told else told

    def _once(self, value: Any, look: Callable[[Any], Any]) -> str:
        """Tell what `look` finds in a class or function; of a library's, its name."""
        if not self._is_own(value):
            return value.__qualname__
        if id(value) not in self.known:
            self.known[id(value)] = _digest([value.__qualname__, self(look(value))])
        return self.known[id(value)]

    def _class(self, kind: type) -> list[Any]:
        hidden = ("__module__", "__doc__", "__dict__", "__weakref__", "__dataclass_fields__")
        own = {name: part for name, part in vars(kind).items() if name not in hidden}
        own = {name: part for name, part in own.items() if not name.startswith("_abc_")}
        return [*kind.__bases__, own]

    def _function(self, function: FunctionType) -> list[Any]:
        code, around = function.__code__, function.__globals__
        named = {name: around[name] for name in _named(code) if name in around}
        for name, module in named.items():
            if isinstance(module, ModuleType) and self._is_own_package(module.__name__):
                inside = vars(module)  # of a module of one's own, what the code may mean
                named[name] = {n: inside[n] for n in _attributes(code) if n in inside}
        closed = [_content(cell) for cell in function.__closure__ or ()]
        return [code, function.__defaults__, function.__kwdefaults__, closed, named]

    def _is_own(self, value: Any) -> bool:
        """Tell whether a class or function is the user's: of their package, or in no library."""
        return self._is_own_package(value.__module__ or "")

    def _is_own_package(self, module: str) -> bool:
        root = module.partition(".")[0]
        if root in _SHIPPED or root in self.roots:
            return root not in _SHIPPED
        file = getattr(sys.modules.get(root), "__file__", None)
        return file is not None and not file.startswith(_LIBRARIES)


def _name(value: Any) -> str:
    return getattr(value, "__qualname__", None) or repr(value)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing was put there yet
        return None


def _named(code: CodeType) -> set[str]:
    """Name the globals that code asks for."""
    steps = dis.get_instructions(code)
    found = {step.argval for step in steps if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return found.union(*map(_named, _inner(code)))


def _attributes(code: CodeType) -> set[str]:
    """Name all that code asks for by name, of whatever it may be."""
    return set(code.co_names).union(*map(_attributes, _inner(code)))


def _inner(code: CodeType) -> list[CodeType]:
    return [value for value in code.co_consts if isinstance(value, CodeType)]
