"""Weights on disk: safetensors with their configuration inside, opened without running code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
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
