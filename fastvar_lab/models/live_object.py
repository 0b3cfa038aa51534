"""Looks into a live object: its modules by their released names, whatever wraps them.

`LiveObject` reads sizes off; `share` puts the object's layers and parameters into modules of this
library without a copy. The object itself is never changed, and its repository is never imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from fastvar_lab.errors import WeightsError, short
from fastvar_lab.models import states
from fastvar_lab.models.precision import weight_of, weight_shape

_WRAPPED = (  # the only child of data parallelism, compilation, FSDP, checkpointing and peft
    *("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
    *("base_model", "model"),
)
_LAYERS = (nn.Linear, nn.Embedding, nn.Conv2d)


def bare(module: nn.Module) -> nn.Module:
    """Look through wrappers: modules that hold one other module alone, and at most a counter."""
    while True:
        children = dict(module._modules)
        (name, inner), *_ = [*children.items(), ("", None)]
        if len(children) != 1 or name not in _WRAPPED or inner is None:
            return module
        row = bool(inner._modules) and all(child.isdigit() for child in inner._modules)
        counts = all(buffer is None or buffer.ndim == 0 for buffer in module._buffers.values())
        if row or module._parameters or not counts:  # a chunk of layers is no wrapper
            return module
        module = inner


class LiveObject:
    """The modules and tensors of a live object by their released names, blocks in one row.

    `noun` is what messages call the object. Tensors are parameters and persistent buffers.
    Raises ValueError for what is no module, and for modules in training mode; WeightsError for
    tensors without content.
    """

    def __init__(self, live: object, noun: str) -> None:
        if not isinstance(live, nn.Module):
            raise ValueError(
                f"{noun} must be a live torch module; not a {type(live).__name__} "
                "(state dicts open with from_states)"
            )
        self.noun, self.outer = f"{noun} ({type(bare(live)).__name__})", bare(live)
        walked = dict(_walk(self.outer, ""))
        inner = {name: name.removeprefix("vae.") for name in walked if name.split(".")[0] == "vae"}
        named = [inner.get(name, name) for name in walked]
        names, chunks = states.consecutive(named), states.chunks(named)
        self.chunk_size = None if chunks is None else chunks[1]
        self.modules = dict(zip(names, walked.values(), strict=True))
        training = next((name for name, m in self.modules.items() if trains(name, m)), None)
        if training is not None:
            raise ValueError(
                f"{self.noun} is in training mode{f' at {training}' if training else ''}; "
                "call its eval() before attaching it"
            )
        self.tensors = {
            f"{name}.{leaf}".removeprefix("."): tensor
            for name, module in self.modules.items()
            for leaf, tensor in _own_tensors(module)
        }
        hollow = next((name for name, tensor in self.tensors.items() if tensor.is_meta), None)
        if hollow is not None:
            raise WeightsError(f"{hollow} in {self.noun} is without content (on the meta device)")
        self._opened = [
            (name, self.modules[path], leaf, tensor, tensor.dtype, tensor.device)
            for name, tensor in self.tensors.items()
            for path, _, leaf in [name.rpartition(".")]
        ]

    def check_same(self) -> None:
        """Raise ValueError if tensors were replaced, moved or converted since it was opened.

        A model that shares them would then compute with some of the former ones. Values that are
        written into them, as by `load_state_dict`, are the model's too.
        """
        for name, owner, leaf, tensor, dtype, device in self._opened:
            now: Tensor | None = owner._parameters.get(leaf)
            if now is None:
                now = owner._buffers.get(leaf)
            if now is not tensor or tensor.dtype != dtype or tensor.device != device:
                raise ValueError(
                    f"{name} in {self.noun} was replaced, moved or converted after it was "
                    "attached; attach it again"
                )

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors.values())).device

    def layer(self, path: str) -> nn.Module | None:
        """Return the module at a path; Infinity's tokenizers put one more level around layers."""
        module = self.modules.get(path)
        if module is not None and getattr(module, "weight", None) is None:
            for leaf in ("conv", "norm"):
                module = self.modules.get(f"{path}.{leaf}", module)
        return module

    def shape(self, path: str) -> tuple[int, ...]:
        """Return the shape of a layer's weight, also of an adapter's or a quantised layer's.

        Raises WeightsError if it is not there.
        """
        module = self.layer(path)
        shape = () if module is None else weight_shape(module)
        if not shape:
            raise WeightsError(f"{self.noun} lacks {path}.weight, from which its sizes are read")
        return shape

    def tensor(self, name: str) -> Tensor:
        """Return a tensor by its name; raise WeightsError if it is not there."""
        if name not in self.tensors:
            raise WeightsError(f"{self.noun} lacks {name}, from which its sizes are read")
        return self.tensors[name]

    def count(self, path: str) -> int:
        """Return the number of numbered modules below a path."""
        depth, head = path.count(".") + 1, f"{path}."
        numbers = {n.split(".")[depth] for n in self.modules if n.startswith(head)}
        return sum(number.isdigit() for number in numbers)

    def setting(self, *names: str) -> Any:
        """Return a plain attribute of the object, the first that is there; None if none is."""
        for name in names:
            value: Any = self.outer
            for part in name.split("."):
                value = getattr(value, part, None)
            if value is not None:
                return value
        return None

    def counts(self) -> list[int] | None:
        """Return the number of tokens by scale step, from the buffer `lvl_1L`; None without it."""
        levels = self.tensors.get("lvl_1L")
        return None if levels is None else torch.bincount(levels.flatten().cpu()).tolist()

    def sides(self, prefix: bool = False) -> tuple[int, ...]:
        """Return the sides of the trained maps; with `prefix`, text stands in place of the first.

        Raises WeightsError if neither `lvl_1L` nor `patch_nums` says.
        """
        counts, named = self.counts(), self.setting("patch_nums")
        read = None
        if counts is not None:
            read = tuple(map(isqrt, counts))
            read = (1, *read[1:]) if prefix else read
        named = None if named is None else tuple(map(int, named))
        if read is None and named is None:
            raise WeightsError(
                f"{self.noun} has neither a buffer lvl_1L nor patch_nums, which say its schedule"
            )
        if read is not None and named is not None and read != named:
            raise ValueError(
                f"{self.noun} has patch_nums {named}; its buffer lvl_1L is that of {read}"
            )
        return read or named or ()


def trains(name: str, module: nn.Module) -> bool:
    """Return whether a module is in training mode; layers with a weight compute alike in both.

    torch's quantised layers are born so.
    """
    return module.training and weight_of(module) is None and not name.endswith("_packed_params")


def first_training(root: nn.Module) -> nn.Module | None:
    """Return a module at or below `root` that is in training mode; None if there is none.

    It runs before every generation, so it walks without the names that `named_modules` builds.
    """
    rest = [("", root)]
    while rest:
        name, module = rest.pop()
        if module.training and trains(name, module):
            return module
        rest.extend((name, child) for name, child in module._modules.items() if child is not None)
    return None


def _walk(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    yield path, module
    for name, child in module._modules.items():  # named_children leaves repeated layers out
        if child is not None:
            yield from _walk(bare(child), f"{path}.{name}".removeprefix("."))


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False)
    for name, buffer in module.named_buffers(recurse=False):
        if name not in module._non_persistent_buffers_set:
            yield name, buffer


def is_plain(module: nn.Module) -> bool:
    """Return whether a layer computes with a weight and a bias alone, both plain numbers.

    A subclass of a linear map that only reshapes what it returns is plain; an adapter is not.
    """
    held = dict(module.named_parameters())
    return (
        isinstance(module, _LAYERS)
        and set(held) <= {"weight", "bias"}
        and "weight" in held
        and all(type(t) is nn.Parameter and t.is_floating_point() for t in held.values())
    )


def share(module: nn.Module, live: LiveObject) -> None:
    """Put a live object's layers and parameters into a module on the meta device.

    Layers go in as they are, so that hooks, adapters and quantised weights act; where a layer of
    this library computes otherwise than torch's (a bias as argument), it takes the parameters of a
    plain one. Raises WeightsError for parameters that are missing, left over or of other shapes,
    or on several devices.
    """
    missing, used = list[str](), set[int]()
    names = {id(m): name for name, m in live.modules.items()}
    for path, part in list(module.named_modules()):
        other = live.layer(path)
        if isinstance(part, _LAYERS) and other is not None and _goes_in(part, other):
            shape, expected = weight_shape(other), tuple(part.weight.shape)
            if not shape:
                raise WeightsError(
                    f"{path} in {live.noun} is a {type(other).__name__} without a weight; this "
                    f"model needs one of shape {expected}"
                )
            _check_shape(live, f"{path}.weight", shape, expected)
            parent, _, leaf = path.rpartition(".")
            module.get_submodule(parent)._modules[leaf] = other
            used.update(map(id, other.parameters()))
            continue
        for leaf, old in list(_own_tensors(part)):
            name = f"{path}.{leaf}".removeprefix(".")
            held = f"{names[id(other)]}.{leaf}".removeprefix(".") if other is not None else name
            if held not in live.tensors:
                missing.append(f"{name} {tuple(old.shape)}")
                continue
            tensor = live.tensors[held]
            used.add(id(tensor))
            if leaf == "scale_mul_1H11" and tensor.shape != old.shape:
                tensor = tensor.data.reshape(1, -1, 1, 1)  # the other released layout
            _check_shape(live, name, tuple(tensor.shape), tuple(old.shape))
            if isinstance(old, nn.Parameter):
                whole = isinstance(tensor, nn.Parameter)
                part._parameters[leaf] = tensor if whole else nn.Parameter(tensor, False)
            else:
                part._buffers[leaf] = tensor
    extra = [
        name
        for name, tensor in live.tensors.items()
        if isinstance(tensor, nn.Parameter)
        and id(tensor) not in used
        and not name.startswith("disc.")
    ]
    for keys, problem in ((missing, "lacks"), (extra, "has parameters that this model lacks:")):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise WeightsError(f"{live.noun} {problem} {', '.join(map(short, keys[:3]))}{more}")
    _check_places(live, module)


def _goes_in(part: nn.Module, other: nn.Module) -> bool:
    """Return whether a live layer itself takes the place of one of this library's."""
    return type(other) is type(part) or not is_plain(other)


def _check_shape(
    live: LiveObject, name: str, shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    if shape != expected:
        raise WeightsError(f"{name} in {live.noun} has shape {shape}; this model needs {expected}")


def _check_places(live: LiveObject, module: nn.Module) -> None:
    """Raise WeightsError for tensors on several devices."""
    places = dict[torch.device, str]()
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        places.setdefault(tensor.device, name)
    if len(places) > 1:
        where = " and ".join(f"{name} on {device}" for device, name in [*places.items()][:2])
        raise WeightsError(f"{live.noun} has {where}; move it to one device before attaching it")
