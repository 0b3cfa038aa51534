"""Seeded random weights that neither touch the process's random state nor depend on its settings.

Modules draw their weights from torch's global generators, in its default type. Within `seeded` this
thread's draws come from generators of their own, and what has no type is float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

FACTORIES = (torch.empty, torch.full, torch.ones, torch.rand, torch.randn, torch.zeros)


class _Float32(TorchFunctionMode):
    """Makes float32 what names no type."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func in FACTORIES and options.get("dtype") is None:
            options["dtype"] = torch.float32
        return func(*args, **options)


class _Generators(TorchDispatchMode):
    """Hands every draw that names no generator one of its device, seeded alike."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.generators: dict[torch.device, torch.Generator] = {}

    def _generator(self, device: torch.device) -> torch.Generator | None:
        if device.type == "meta":
            return None
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self.generators[device]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        name = func.overloadpacket.__name__
        if name in ("rand", "randn") and options.get("generator") is None:
            generator = self._generator(torch.device(options.get("device") or "cpu"))
            if generator is not None:
                options.pop("generator", None)
                return func.overloadpacket.generator(*args, generator=generator, **options)
        takes = any(argument.name == "generator" for argument in func._schema.arguments)
        if takes and options.get("generator") is None and args and isinstance(args[0], Tensor):
            options["generator"] = self._generator(args[0].device)
        return func(*args, **options)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw the weights of modules built inside from a seed; other threads may draw meanwhile.

    The same seed gives the weights that `torch.manual_seed` would, under torch's own settings.

    >>> with seeded(1):
    ...     first = torch.nn.Linear(2, 2).weight
    >>> with seeded(1):
    ...     bool((torch.nn.Linear(2, 2).weight == first).all())
    True
    """
    with _Float32(), _Generators(seed):
        yield
