"""How fast the evaluators' networks are here: at their real shapes, with random weights.

Weights decide nothing of a network's speed, so that no file is needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from fastvar_lab.errors import unknown
from fastvar_lab.networks import resizing
from fastvar_lab.networks.conversion import VIT_H, mask2former
from fastvar_lab.networks.inception import Inception
from fastvar_lab.networks.lpips import LPIPS
from fastvar_lab.networks.pretrained import Clip, Detector, Dino, ImageReward, transformers
from fastvar_lab.networks.random_networks import BERT_MARKS, CLIP_MARKS, letter_tokenizer

PROMPT = "a photo of a dog right of a teddy bear"


class Speed(NamedTuple):
    """A network's speed: what it does, parameters, pictures at once and per second, threads."""

    network: str
    parameters: int
    batch: int
    pictures_per_second: float
    threads: int
    device: str


Work = Callable[[list[np.ndarray]], object]
"""Scores a batch of pictures (H, W, 3) uint8, preprocessing included."""


def measure(
    names: Sequence[str] | None = None,
    device: str = "cpu",
    batch: int = 4,
    side: int = 1024,
    repeats: int = 2,
) -> list[Speed]:
    """Time networks, default all, on random pictures of `side` pixels: the fastest of `repeats`.

    Reading of files is left out; resizing, and for texts encoding a prompt, are in. The detector
    takes one picture at once, as in scores. Raises ValueError for an unknown network.
    """
    for name in names or ():
        if name not in BUILDERS:
            raise unknown("network", name, BUILDERS, "`fastvar-lab networks`")
    rng, speeds = np.random.default_rng(0), list[Speed]()
    for name in names or BUILDERS:
        count = 1 if name == "detector" else batch
        pictures = [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(count)]
        network, work = BUILDERS[name](device)
        parameters = sum(p.numel() for p in network.parameters())
        seconds = min(_seconds(work, pictures, device) for _ in range(repeats))
        threads = torch.get_num_threads()
        speeds.append(Speed(name, parameters, count, count / seconds, threads, device))
        del network, work
    return speeds


def _seconds(work: Work, pictures: list[np.ndarray], device: str) -> float:
    begin = time.perf_counter()
    with torch.no_grad():
        work(pictures)
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def table(speeds: Sequence[Speed]) -> str:
    """Format speeds for a terminal."""
    lines = [f"{'network':<12} {'parameters':>12} {'at once':>8} {'pictures/s':>11} {'30,000':>9}"]
    for speed in speeds:
        hours = 30_000 / speed.pictures_per_second / 3600
        lines.append(
            f"{speed.network:<12} {speed.parameters / 1e6:10.1f} M {speed.batch:>8} "
            f"{speed.pictures_per_second:11.3g} {hours:7.1f} h"
        )
    if speeds:
        lines.append(f"on {speeds[0].device}, {speeds[0].threads} threads, random weights")
    return "\n".join(lines)


def _ready(network: nn.Module, device: str) -> Any:
    return network.to(device).eval().requires_grad_(False)


def _inception(device: str) -> tuple[nn.Module, Work]:
    network = _ready(Inception(), device)

    def work(pictures: list[np.ndarray]) -> object:
        return network(torch.stack([resizing.clean(p) for p in pictures]).to(device))

    return network, work


def _lpips(device: str) -> tuple[nn.Module, Work]:
    network = _ready(LPIPS(), device)

    def work(pictures: list[np.ndarray]) -> object:
        x = torch.stack([resizing.channels_first(p) / 255 for p in pictures]).to(device)
        return network(x, x)

    return network, work


def _clip_of(config: dict[str, Any], preprocess: Any, device: str) -> tuple[nn.Module, Work]:
    library = transformers()
    model = library.CLIPModel(library.CLIPConfig(**config))
    network = _ready(Clip(model, letter_tokenizer(*CLIP_MARKS), preprocess), device)

    def work(pictures: list[np.ndarray]) -> object:
        return network.pictures(pictures) @ network.texts([PROMPT] * len(pictures)).T

    return network, work


def _clip(device: str) -> tuple[nn.Module, Work]:
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
            "num_attention_heads": 12}  # fmt: skip
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
              "num_attention_heads": 16, "patch_size": 14, "image_size": 224}  # fmt: skip
    config = {"text_config": text, "vision_config": vision, "projection_dim": 768}
    return _clip_of(config, resizing.clip_crop, device)


def _hps(device: str) -> tuple[nn.Module, Work]:
    return _clip_of(dict(VIT_H), resizing.float_crop, device)


def _image_reward(device: str) -> tuple[nn.Module, Work]:
    network = _ready(ImageReward(letter_tokenizer(*BERT_MARKS)), device)

    def work(pictures: list[np.ndarray]) -> object:
        return network.score([PROMPT] * len(pictures), pictures)

    return network, work


def _detector(device: str) -> tuple[nn.Module, Work]:
    library, settings = transformers(), mask2former()
    backbone = library.SwinConfig(**settings.pop("backbone_config"))
    config = library.Mask2FormerConfig(backbone_config=backbone, num_labels=80)
    network = _ready(Detector(library.Mask2FormerForUniversalSegmentation(config)), device)

    def work(pictures: list[np.ndarray]) -> object:
        return [network.detect(picture) for picture in pictures]

    return network, work


def _dino(device: str) -> tuple[nn.Module, Work]:
    library = transformers()
    config = library.ViTConfig(hidden_size=384, intermediate_size=1536, num_hidden_layers=12,
                               num_attention_heads=6, patch_size=16)  # fmt: skip
    network = _ready(Dino(library.ViTModel(config, add_pooling_layer=False)), device)
    return network, network.pictures


BUILDERS: dict[str, Callable[[str], tuple[nn.Module, Work]]] = {
    "inception": _inception,
    "clip": _clip,
    "hps": _hps,
    "imagereward": _image_reward,
    "detector": _detector,
    "lpips": _lpips,
    "dino": _dino,
}
"""Builds a network at its real shape, and what scores a batch with it, by name."""
