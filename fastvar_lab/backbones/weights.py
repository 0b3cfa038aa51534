"""Weights on disk: safetensors with their configuration inside, opened without running code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fastvar_lab.files import folder, write


class WeightsError(ValueError):
    """A weights file that is missing, truncated, foreign, or of other shapes."""


def save(
    path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], dtype: torch.dtype
) -> None:
    """Write tensors (floating ones as `dtype`) and a JSON configuration, all or nothing."""
    stored = {
        k: (v.to(dtype) if v.is_floating_point() else v).detach().cpu().contiguous()
        for k, v in tensors.items()
    }
    folder(path.parent)
    metadata = {"config": json.dumps(config)}
    try:
        write(path, lambda partial: save_file(stored, partial, metadata=metadata))
    except SafetensorError as error:
        raise OSError(f"cannot write weights {path}: {error}") from error


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and configuration; raise WeightsError with the reason if that cannot be."""
    try:
        with safe_open(path, framework="pt") as file:
            config = (file.metadata() or {}).get("config")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot read weights {path}: {error}") from error
    if config is None:
        raise WeightsError(f"{path} holds no configuration, so it is not a file of this lab")
    return tensors, json.loads(config)


def read_released(path: Path) -> dict[str, Tensor]:
    """Read a released checkpoint, flat or nested, without running code from it.

    Takes `.safetensors`, or a pickle opened with `weights_only=True`; a pickle that needs more is
    refused. Training dumps are unwrapped, buffers that only training needs are dropped, and both
    layouts of `scale_mul_1H11` are accepted.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                state: Any = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        else:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{path} would run code when opened, so it is not: {reason}") from None
    except (OSError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"cannot read weights {path}: {str(error).splitlines()[0]}") from None
    for key in _NESTS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(torch.is_tensor(v) for v in state.values()):
        raise WeightsError(f"{path} holds no state dict that this lab knows")
    found = {k: v for k, v in state.items() if k.split(".")[-1] not in _TRAINING_ONLY}
    for key, value in found.items():
        if key.endswith("scale_mul_1H11"):
            found[key] = value.reshape(1, -1, 1, 1)
    return found


_NESTS = ("trainer", "var_wo_ddp", "vae_local")
_TRAINING_ONLY = ("lvl_1L", "attn_bias_for_masking", "ema_vocab_hit_SV")


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: object) -> None:
    """Load tensors into a module; raise WeightsError naming the first key that does not fit."""
    own = module.state_dict()
    for key, tensor in own.items():
        if key not in tensors:
            raise WeightsError(f"{source} lacks {key}, of shape {tuple(tensor.shape)}")
        if tensors[key].shape != tensor.shape:
            raise WeightsError(
                f"{key} in {source} has shape {tuple(tensors[key].shape)}; "
                f"this model needs {tuple(tensor.shape)}"
            )
    extra = [key for key in tensors if key not in own]
    if extra:
        raise WeightsError(f"{source} holds {extra[0]}, which this model does not have")
    module.load_state_dict(dict(tensors))


def fingerprint(config: Mapping[str, Any], *modules: nn.Module) -> str:
    """Hash configuration and weights: 16 hex digits, the same on every device."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for module in modules:
        for key, tensor in sorted(module.state_dict().items()):
            digest.update(key.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
