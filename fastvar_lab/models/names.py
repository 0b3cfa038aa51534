"""Names of the models, with the sizes that distinguish them; without torch, for fast errors."""

from __future__ import annotations

from typing import NamedTuple

SHIPPED = ("tiny",)
VAR = {f"var-d{depth}": depth for depth in (16, 20, 24, 30, 36)}
HART = ("hart-0.7b",)


class InfinitySizes(NamedTuple):
    """What distinguishes a released Infinity from others."""

    depth: int
    width: int
    heads: int
    bits: int
    patch: int = 1


INFINITY = {
    "infinity-125m": InfinitySizes(12, 768, 8, 16),
    "infinity-layer16": InfinitySizes(16, 1152, 12, 32),
    "infinity-layer24": InfinitySizes(24, 1536, 16, 32),
    "infinity-layer32": InfinitySizes(32, 2080, 20, 32),
    "infinity-layer40": InfinitySizes(40, 2688, 24, 32),
    "infinity-layer48": InfinitySizes(48, 3360, 28, 32),
    "infinity-2b": InfinitySizes(32, 2048, 16, 32),
    "infinity-8b": InfinitySizes(40, 3584, 28, 14, patch=2),
    "infinity-8b-512": InfinitySizes(40, 3584, 28, 14, patch=2),
}
NAMES = (*SHIPPED, *VAR, *INFINITY, *HART)


def is_function(name: str) -> bool:
    """Return whether a name is that of a function that opens a model: "module:function".

    >>> is_function("my_models:open_fork"), is_function("tiny")
    (True, False)
    """
    module, colon, function = name.partition(":")
    return bool(colon) and function.isidentifier() and all(map(str.isidentifier, module.split(".")))


def check_name(name: str) -> None:
    """Raise ValueError for an unknown name; that of a function is only known when it is called."""
    if name not in NAMES and not is_function(name):
        raise ValueError(
            f"model must be one of {', '.join(NAMES)}, or module:function; not {name!r}"
        )
