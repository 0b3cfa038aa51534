"""What changes when modules compute something else: cheap stamps, and the hash that they guard."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from fastvar_lab.files import digest
from fastvar_lab.methods.fingerprint import code_of, user_classes_hash
from fastvar_lab.models import states
from fastvar_lab.models.precision import packed_weights, plain_tensors

HOOKS = ("_forward_hooks", "_forward_pre_hooks")
SMALL = 2**18  # bytes, below which tensors are summed up together
COLUMNS = 4093  # a prime: tensors that are laid out otherwise do not fall onto their old places


@torch.no_grad()
def checksums(part: nn.Module) -> tuple[int, ...]:
    """Sum up the bits of all parameters and buffers, weighted by place, on their device.

    Notices writes that raise no version counter, such as those through `.data`. Reads all weights
    once: 4 GB a second on one CPU core, at memory's speed on a GPU.
    """
    tensors = [t for t in (*part.parameters(), *part.buffers()) if not t.is_meta]
    tensors += [w for m in part.modules() for w in packed_weights(m)]
    tensors = [plain for tensor in tensors for plain in plain_tensors(tensor)]
    sums, small = dict[torch.device, list[Tensor]](), dict[torch.device, list[Tensor]]()
    for tensor in tensors:
        octets = _octets(tensor)
        if octets.numel() < SMALL:
            small.setdefault(tensor.device, []).append(octets)
        else:
            sums.setdefault(tensor.device, []).append(_sum(octets))
    for device, many in small.items():
        sums.setdefault(device, []).append(_sum(torch.cat(many)))
    return tuple(int(n) for each in sums.values() for n in torch.stack(each).tolist())


def _octets(tensor: Tensor) -> Tensor:
    """View a tensor's values as bytes, in the order in which they lie."""
    dense = tensor.detach()
    if dense.is_quantized:
        dense = dense.int_repr()
    elif dense.layout != torch.strided:
        dense = dense.to_dense()
    dense = dense.t() if dense.dim() == 2 and dense.t().is_contiguous() else dense.contiguous()
    return dense.reshape(-1).view(torch.uint8)


def _sum(octets: Tensor) -> Tensor:
    """Sum up bytes as the columns of a matrix of words, each column with a weight of its own."""
    whole = octets.numel() // 8 * 8 if octets.data_ptr() % 8 == 0 else 0
    integers = octets[:whole].view(torch.int64)
    rows = integers.numel() // COLUMNS
    columns = integers[: rows * COLUMNS].view(rows, COLUMNS).sum(0)
    parts = torch.cat((columns, integers[rows * COLUMNS :], octets[whole:].to(torch.int64)))
    mixed = parts ^ (parts >> 31)  # otherwise a change of high bits alone may cancel out
    places = torch.arange(1, len(parts) + 1, device=octets.device) * 2 + 1
    return (mixed * places).sum()


def hooks(parts: Iterable[nn.Module]) -> dict[str, dict[int, Any]]:
    """Return the forward hooks of modules, which decide what is computed.

    By the module's name and the number of the hook's handle, which no other hook gets. Those of
    `register_module_forward_hook` act on every module of the process.
    """
    everywhere = {
        f"every module{table}": dict(getattr(nn.modules.module, f"_global{table}"))
        for table in HOOKS
        if getattr(nn.modules.module, f"_global{table}")
    }
    return everywhere | {
        f"{part._get_name()}.{name}{table}": dict(getattr(module, table))
        for part in parts
        for name, module in part.named_modules()
        for table in HOOKS
        if getattr(module, table)
    }


def settings(parts: Iterable[nn.Module]) -> dict[str, tuple[type, dict[str, Any]]]:
    """Return the class of every module, and what it holds beside tensors and modules, by its name.

    That is plain values, such as the scale of an adapter, and functions, such as a `forward` that
    was set on the module alone.
    """
    return {
        f"{part._get_name()}.{name}": (
            type(module),
            {k: v for k, v in vars(module).items() if k not in _BASE and _is_setting(v)},
        )
        for part in parts
        for name, module in part.named_modules()
    }


_BASE = frozenset(vars(nn.Module())) - {"training"}
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype)


def _is_setting(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_setting, (*value, *value.values())))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_setting, value))
    return isinstance(value, (*_PLAIN, FunctionType, MethodType))


Stamp = dict[str, object]


def stamp_of(part: nn.Module) -> Stamp:
    """Give what changes when a module computes something else, by what messages call it.

    That is which module it is, its configuration and settings, hooks and other functions set on it,
    and its weights, by checksum.
    """
    handles = {name: [*each] for name, each in hooks([part]).items()}
    return {
        "modules": id(part),
        "settings": repr((getattr(part, "config", ""), settings([part]))),
        "hooks": repr((handles, codes([part]))),
        "weights": checksums(part),
    }


def stamp(parts: Sequence[nn.Module], each: Callable[[nn.Module], Stamp] = stamp_of) -> Stamp:
    """Give what changes when modules compute something else: the stamps of `each` of them."""
    stamps = [each(part) for part in parts]
    return {name: tuple(one[name] for one in stamps) for name in stamps[0]}


_hashing = threading.local()


def codes(parts: Sequence[nn.Module]) -> dict[str, list[str]]:
    """Hash the code of hooks, and of functions set on modules, with the values that it names.

    Return nothing within such a hash.
    """
    if _is_hashing(parts):  # the code of a hook names the model that it hooks
        return {}
    modules = _hashing.__dict__.setdefault("modules", set[int]())
    added = set(map(id, parts)) - modules
    modules |= added
    try:
        tables = hooks(parts)
        for name, (_, values) in settings(parts).items():
            tables |= {f"{name}.{k}": {0: v} for k, v in values.items() if callable(v)}
        return {name: [*map(code_of, each.values())] for name, each in tables.items()}
    finally:
        modules -= added


def _is_hashing(parts: Sequence[nn.Module]) -> bool:
    return any(id(part) in getattr(_hashing, "modules", ()) for part in parts)


class Identity:
    """Hashes what modules compute with, anew when their stamp has changed.

    `built` are the modules as their classes built them: later changes of their settings count.
    """

    def __init__(self, built: Sequence[nn.Module] = ()) -> None:
        self._built = {part._get_name(): _described([part]) for part in built}
        self._last: tuple[object, str] | None = None
        self._held: dict[tuple[int, ...], str] | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Take modules as unchanged within a block: each hash is computed once in it."""
        before = self._held
        self._held = {} if before is None else before
        try:
            yield
        finally:
            self._held = before

    def of(self, parts: Sequence[nn.Module], each: Callable[[nn.Module], Stamp] = stamp_of) -> str:
        """Return 16 hex digits for weights, configurations, settings, and code of hooks and users.

        Settings are those of modules whose classes are neither torch's nor this library's, and of
        others those that differ from how they were built. `each` gives the stamp of a part.
        """
        if _is_hashing(parts):
            return "itself"
        which = tuple(map(id, parts))
        if self._held is not None and which in self._held:
            return self._held[which]
        now, last = stamp(parts, each), self._last
        if last is None or last[0] != now:
            self._last = last = now, self._hash(parts)
        if self._held is not None:
            self._held[which] = last[1]
        return last[1]

    def _hash(self, parts: Sequence[nn.Module]) -> str:
        config = {part._get_name(): repr(getattr(part, "config", "")) for part in parts}
        weights = states.fingerprint(config, *parts)
        hooked, classes = (
            codes(parts),
            user_classes_hash(m for part in parts for m in part.modules()),
        )
        changed = self._changed(parts)
        if changed:
            return digest(repr((weights, hooked, classes, changed)), length=16)
        return digest(repr((weights, hooked, classes)), length=16) if hooked or classes else weights

    def _changed(self, parts: Sequence[nn.Module]) -> dict[str, Any]:
        """Describe modules of users' classes, and those that differ from how they were built."""
        attributes = dict[str, Any]()
        for part in parts:
            now = _described([part])
            built = self._built.get(part._get_name(), now)
            added = {name for name, (kind, _) in settings([part]).items() if not _is_shipped(kind)}
            attributes |= {n: now.get(n) for n in sorted({*built, *now})
                      if n in added or now.get(n) != built.get(n)}  # fmt: skip
        return attributes


def _described(parts: Sequence[nn.Module]) -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Describe class and settings of every module as text; not whether a shipped one trains."""
    return {
        name: (
            kind.__qualname__,
            sorted(
                (k, repr(v))
                for k, v in values.items()
                if not callable(v) and not (k == "training" and _is_shipped(kind))
            ),
        )
        for name, (kind, values) in settings(parts).items()
    }


def _is_shipped(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in ("torch", "fastvar_lab")
