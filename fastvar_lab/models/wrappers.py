"""What trainers, compilers and data parallelism wrap around a state dict, taken off again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastvar_lab.errors import WeightsError, short

_NESTS = (  # of training dumps, outermost first; averaged weights go before those of the last step
    *("trainer", "var_wo_ddp", "gpt_ema_fsdp", "gpt_fsdp", "vae_local", "vae"),
    *("model_ema", "ema_state_dict", "state_dict", "model_state_dict", "model"),
)
_WRAPPED = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_PREFIXES = ("module.", "model.")


def unwrap(state: Any, source: object) -> dict[str, Tensor]:
    """Take the tensors out of a training dump, nested as any of the usual trainers nest them.

    Raises WeightsError for what is no state dict of plain tensors.
    """
    for _ in _NESTS:
        nest = next((k for k in _NESTS if isinstance(state, Mapping) and _is_nest(state, k)), None)
        if nest is None:
            break
        state = state[nest]
    if not isinstance(state, Mapping) or not state:
        raise WeightsError(f"{source} holds no state dict in a known layout")
    tensors = {key: value for key, value in state.items() if key != "n_averaged"}
    for key, value in tensors.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"{source} holds no state dict in a known layout: "
                f"{short(key)} is a {type(value).__name__}"
            )
        check_plain(key, value, source)
    return tensors


def _is_nest(state: Mapping[Any, Any], key: str) -> bool:
    return isinstance(state.get(key), Mapping) and len(state[key]) > 0


def check_plain(key: str, tensor: Tensor, source: object) -> None:
    """Refuse a tensor that is more, or less, than numbers in memory."""
    kinds = (
        ("quantized", tensor.is_quantized),
        ("sparse", tensor.layout != torch.strided),
        ("without content (on the meta device)", tensor.is_meta),
        ("complex", tensor.is_complex()),
        (f"a {type(tensor).__name__}", type(tensor) not in (Tensor, nn.Parameter)),
    )
    for kind, there in kinds:
        if there:
            raise WeightsError(f"{short(key)} in {source} is {kind}; weights are plain tensors")


def unprefixed(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Take off what wrappers put before names; return that too, "" if there was nothing.

    `module.` of data parallelism and `model.` of trainers go where every key has them; the
    `_orig_mod.` of compiled modules and the marks of FSDP wherever they stand.
    """
    removed, names = list[str](), list(tensors)
    while names:
        prefix = next((p for p in _PREFIXES if all(n.startswith(p) for n in names)), None)
        plain = [name.removeprefix(prefix or "") for name in names]
        if prefix is None:
            marks = dict.fromkeys(mark for name in names for mark in _WRAPPED.findall(name))
            plain = [_WRAPPED.sub("", name) for name in names]
            prefix = ", ".join(marks)
        if not prefix:
            break
        removed.append(prefix)
        names = plain
    named = dict[str, Tensor]()
    for key, name in zip(tensors, names, strict=True):
        if name in named:
            raise WeightsError(f"two tensors have the name {short(name)}, one of them {short(key)}")
        named[name] = tensors[key]
    return named, ", ".join(removed)
