"""Converts released files to the networks' folders, and opens those of our own networks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastvar_lab.errors import WeightsError
from fastvar_lab.files import write, write_json
from fastvar_lab.models.checkpoints import read_released
from fastvar_lab.models.states import fill
from fastvar_lab.networks import pretrained, renaming
from fastvar_lab.tensors import read_tensors, write_tensors

WEIGHTS, CONFIG = "model.safetensors", "config.json"
SETTINGS = "network.json"  # where `config.json` is the tokenizer's


def save(
    tensors: Mapping[str, Tensor],
    target: Path,
    config: Mapping[str, Any] | None,
    name: str = CONFIG,
) -> None:
    """Write a network's configuration, unless it is None, and last its weights."""
    if config is not None:
        write_json(target / name, dict(config))
    write_tensors(target / WEIGHTS, tensors, {"format": "pt"})


def _read_config(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def filled(build: Callable[..., nn.Module], path: Path, config: str = CONFIG) -> nn.Module:
    """Build a network of ours from its configuration and fill it with the weights of its folder."""
    try:
        tensors, _ = read_tensors(path / WEIGHTS)
    except ValueError as error:
        raise WeightsError(f"cannot read weights {path / WEIGHTS}: {error}") from None
    network = build(**_read_config(path / config))
    fill(network, tensors, path / WEIGHTS)
    return network


def _copy(paths: Mapping[str, Path], target: Path, *names: str) -> None:
    """Copy files, each all or nothing, the weights last: with them a network counts as there."""
    for name in sorted(names, key=lambda name: name == WEIGHTS):
        write(target / name, partial(shutil.copyfile, paths[name]))


def inception(paths: Mapping[str, Path], target: Path) -> None:
    """Keep pytorch-fid's file, whose names are ours."""
    (path,) = paths.values()
    save(read_released(path), target, {"unit": 1})


def lpips(paths: Mapping[str, Path], target: Path) -> None:
    """Join torchvision's AlexNet with the heads that ship with torchmetrics."""
    (path,) = paths.values()
    heads = resources("torchmetrics") / "functional" / "image" / "lpips_models" / "alex.pth"
    layers = [tensor for _, tensor in sorted(read_released(Path(str(heads))).items())]
    save(renaming.from_alexnet(read_released(path), layers), target, {"unit": 1})


def as_it_is(paths: Mapping[str, Path], target: Path) -> None:
    """Keep files that are in transformers' layout."""
    _copy(paths, target, *paths)


def hps(paths: Mapping[str, Path], target: Path) -> None:
    """Rename HPSv2.1's weights, which are open_clip's, beside CLIP's tokenizer."""
    (weights,) = (name for name in paths if name.endswith(".pt"))
    _copy(paths, target, *(name for name in paths if name != weights))
    released = read_released(paths[weights])
    save(renaming.from_open_clip(released), target, VIT_H)


def image_reward(paths: Mapping[str, Path], target: Path) -> None:
    """Rename ImageReward's weights, beside BERT's tokenizer."""
    _copy(paths, target, *(name for name in paths if name != "ImageReward.pt"))
    tensors = renaming.from_image_reward(read_released(paths["ImageReward.pt"]))
    save(tensors, target, {}, SETTINGS)


def open_image_reward(path: Path) -> nn.Module:
    """Build ImageReward and fill it from its folder."""
    tokenizer = pretrained.open_tokenizer(path)
    return filled(partial(pretrained.ImageReward, tokenizer), path, SETTINGS)


# training notes in mmdetection's files hold numpy numbers: plain values, but a pickle names them
_SCALAR: Any = np.float64(0).__reduce__()[0]
_NUMBERS: list[Any] = [
    (_SCALAR, name) for name in ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
]
_NUMBERS += [np.dtype, *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "?"))]


def detector(paths: Mapping[str, Path], target: Path) -> None:
    """Rename mmdetection's weights."""
    (path,) = paths.values()
    with torch.serialization.safe_globals(_NUMBERS):
        tensors = read_released(path)
    save(renaming.from_mmdet(tensors), target, mask2former())


def mask2former(**sizes: Any) -> dict[str, Any]:
    """Return transformers' configuration of Mask2Former with Swin-S; `sizes` are for tests."""
    swin = {"model_type": "swin", "embed_dim": 96, "depths": [2, 2, 18, 2],
            "num_heads": [3, 6, 12, 24], "window_size": 7, "drop_path_rate": 0.3,
            "image_size": 224, "out_features": ["stage1", "stage2", "stage3", "stage4"],
            **sizes.pop("backbone_config", {})}  # fmt: skip
    labels = {str(i): str(i) for i in range(80)}
    return {"model_type": "mask2former", "backbone_config": swin, "id2label": labels,
            "architectures": ["Mask2FormerForUniversalSegmentation"],
            "label2id": {v: int(k) for k, v in labels.items()}, **sizes}  # fmt: skip


VIT_H: Mapping[str, Any] = {  # of open_clip's ViT-H-14, which HPSv2 fine-tunes
    "model_type": "clip",
    "architectures": ["CLIPModel"],
    "projection_dim": 1024,
    "text_config": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                    "num_attention_heads": 16, "hidden_act": "gelu", "projection_dim": 1024,
                    "bos_token_id": 49406, "eos_token_id": 49407},
    "vision_config": {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
                      "num_attention_heads": 16, "patch_size": 14, "hidden_act": "gelu",
                      "projection_dim": 1024, "image_size": 224},
}  # fmt: skip


def dino(paths: Mapping[str, Path], target: Path) -> None:
    """Read DINO's pickle, which is in transformers' names."""
    _copy(paths, target, CONFIG)
    save(read_released(paths["pytorch_model.bin"]), target, None)
