"""Pretrains the tokenizer's encoder to classify the object in each cell.

A probe is a linear map from features or latents to shape, color and texture. Reconstruction does
not train this; together with reconstruction it is learnt slowly, alone within minutes.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvar_lab.backbones.autoencoder import AutoEncoder
from fastvar_lab.pictures import to_tensor
from fastvar_lab.training.focus import LOOKS, look_maps
from fastvar_lab.training.loop import pretrain
from fastvar_lab.world.render import render
from fastvar_lab.world.scene import compose, random_prompt

CROP, SIDE = 128, 256
ASIDE = 32  # largest offset in pixels between the centres of a crop and its object
NAMES = ("shape", "color", "texture")


class Views(NamedTuple):
    """Pictures (s, s, 3), uint8, and look maps (B, 3, h, w) of their latents; see `look_maps`."""

    pictures: list[np.ndarray]
    looks: Tensor


def views(step: int, seed: int, count: int, crop: int | None, stride: int) -> Views:
    """Draw the batch of one step; with `crop`, two windows of that side near objects per scene."""
    rng = np.random.default_rng((seed, step))
    pictures, looks = list[np.ndarray](), list[Tensor]()
    side, times = (SIDE, 1) if crop is None else (crop, 2)
    while len(pictures) < count:
        scene = compose(random_prompt(rng), int(rng.integers(2**31)))
        image, maps = render(scene, SIDE), look_maps(scene, SIDE // stride, SIDE // stride)
        for _ in range(times):
            near = scene.objects[rng.integers(len(scene.objects))]
            aside = rng.uniform(-ASIDE, ASIDE, 2)
            corner = np.clip(np.array([near.y, near.x]) * SIDE - side / 2 + aside, 0, SIDE - side)
            top, left = (int(k) for k in corner // stride)
            rows, columns = slice(top, top + side // stride), slice(left, left + side // stride)
            looks.append(maps[:, rows, columns])
            y, x = top * stride, left * stride
            pictures.append(image[y : y + side, x : x + side])
    return Views(pictures[:count], torch.stack(looks[:count]))


def probe(width: int) -> nn.Conv2d:
    """Return a linear map from `width` channels to the logits of shape, color and texture."""
    return nn.Conv2d(width, sum(LOOKS), 1)


def probe_loss(odds: Tensor, looks: Tensor) -> Tensor:
    """Return the cross-entropy of shape, color and texture; objects count as much as background."""
    read = odds.split(LOOKS, dim=1)
    each = torch.stack(
        [F.cross_entropy(o, x, reduction="none") for o, x in zip(read, looks.unbind(1))]
    ).sum(0)
    inside = looks[:, 0] > 0
    weight = inside / inside.sum().clamp(min=1) + ~inside / (~inside).sum()
    return (each * weight / 2).sum()


def share_right(odds: Tensor, looks: Tensor) -> dict[str, float]:
    """Return the share of object cells whose shape, color and texture are classified correctly."""
    inside = looks[:, 0] > 0
    read = odds.split(LOOKS, dim=1)
    return {
        name: float((o.argmax(1) == x)[inside].float().mean())
        for name, o, x in zip(NAMES, read, looks.unbind(1), strict=True)
    }


def learn_to_look(
    tokenizer: AutoEncoder,
    *,
    steps: int,
    seed: int = 0,
    batch: int = 16,
    peak: float = 1e-3,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> dict[str, float]:
    """Train the encoder in place, with a linear probe on its features.

    Steps alternate between crops and whole pictures. Returns the accuracy of shape, color and
    texture on the last whole pictures. `checkpoint` and `resume` are those of `pretrain`.
    """
    encoder = tokenizer.encoder
    device = encoder.conv_out.weight.device
    head = probe(encoder.conv_out.in_channels).to(device)
    right = dict[str, float]()

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        nonlocal right
        count, crop = (batch, CROP) if step % 2 else (max(1, batch // 3), None)
        pictures, looks = views(step, seed, count, crop, tokenizer.config.stride)
        looks = looks.to(device)
        with torch.autocast(device.type, torch.bfloat16):
            features = encoder.features(to_tensor(pictures, device))
        odds = head(features.float())
        shown = crop is None and (step % 50 == 0 or step >= steps - 2)
        if shown:
            right = share_right(odds, looks)
        return probe_loss(odds, looks), right if shown else {}

    pretrain(
        "looking",
        nn.ModuleDict({"encoder": encoder, "head": head}),
        loss,
        steps=steps,
        peak=peak,
        betas=(0.9, 0.99),
        weight_decay=0.0,
        warmup=50,
        checkpoint=checkpoint,
        resume=resume,
    )
    return right
