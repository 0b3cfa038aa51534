"""The closed world's own pictures: their tokens, reconstructions, and how sure its judge is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor
from tqdm.auto import tqdm

from fastvar_lab.backbones import quantize
from fastvar_lab.models.model import Model
from fastvar_lab.pictures import to_tensor, to_uint8
from fastvar_lab.prompts import world_judge
from fastvar_lab.scales import as_sizes
from fastvar_lab.world.detect import detect
from fastvar_lab.world.render import render
from fastvar_lab.world.scene import Scene, compose, random_prompt
from fastvar_lab.world.tasks import Question

_ATTRIBUTES, _KINDS = ("shape", "color", "texture"), ("rendered", "reconstructed")


def true_tokens(
    model: Model, items: Sequence[Question], sizes: Sequence[tuple[int, int]] | None = None
) -> list[Tensor]:
    """Encode a correct picture for every question: tokens (n, h * w, d) of each scale."""
    maps = list(model.sizes if sizes is None else as_sizes(sizes))
    height, width = (model.tokenizer.config.stride * k for k in maps[-1])
    scenes = [compose(q.prompt, q.seed, height / width) for q in items]
    image = to_tensor([render(scene, (height, width)) for scene in scenes], model.device)
    with torch.no_grad():
        latent = model.tokenizer.encoder(image.to(model.dtype)).float()
    return quantize.encode(latent, maps)[0]


def side(model: Model) -> int:
    """Return the height in pixels of a picture of the model's schedule."""
    return model.tokenizer.config.stride * model.sizes[-1][0]


def reconstruct(model: Model, picture: np.ndarray) -> np.ndarray:
    """Encode and decode a picture (H, W, 3) uint8 of the size of the model's schedule."""
    image = to_tensor([picture], model.device)
    with torch.no_grad():
        latent = model.tokenizer.encoder(image.to(model.dtype))
        _, states = quantize.encode(latent.float(), model.sizes)
    return to_uint8(model.decode(states[-1]))[0]


def scenes(n: int, seed: int) -> Iterator[Scene]:
    """Yield `n` random scenes of the closed world."""
    rng = np.random.default_rng((seed, 7))
    for _ in tqdm(range(n), desc="scenes", unit="scene"):
        yield compose(random_prompt(rng), int(rng.integers(2**31)))


def reconstruction_psnr(model: Model, n: int, seed: int) -> list[float]:
    """Return the PSNR in dB of the tokenizer's reconstructions of `n` random scenes."""
    pictures = (render(scene, side(model)) for scene in scenes(n, seed))
    return [float(peak_signal_noise_ratio(p, reconstruct(model, p))) for p in pictures]


def judge_accuracy(model: Model, n: int = 1000, seed: int = 0) -> dict[str, dict[str, float]]:
    """Score the detector on `n` rendered scenes and on their reconstructions by the tokenizer.

    Returns, for "rendered" and "reconstructed", the share of objects whose shape, color, texture
    and `place` (within 2 % of the side) are detected correctly, and in `count` the share of scenes
    with the correct number of detections.
    """
    hits = {kind: dict.fromkeys((*_ATTRIBUTES, "place", "count"), 0.0) for kind in _KINDS}
    objects = 0
    for scene in scenes(n, seed):
        objects += len(scene.objects)
        picture = render(scene, side(model))
        for kind, image in zip(_KINDS, (picture, reconstruct(model, picture)), strict=True):
            detections = detect(image)
            hits[kind]["count"] += len(detections) == len(scene.objects)
            for item in scene.objects if detections else ():
                near = min(detections, key=lambda d: np.hypot(d.x - item.x, d.y - item.y))
                hits[kind]["place"] += np.hypot(near.x - item.x, near.y - item.y) < 0.02
                for attribute in _ATTRIBUTES:
                    hits[kind][attribute] += getattr(near, attribute) == getattr(item, attribute)
    return {
        kind: {k: float(v) / (n if k == "count" else objects) for k, v in row.items()}
        for kind, row in hits.items()
    }


def need_judge(model: Model) -> None:
    """Raise ValueError if the closed world's judge cannot score the model's pictures."""
    if model.prompts.judge is not world_judge:
        raise ValueError(
            f"{model.name} has no judge: `evaluate` scores only pictures of the closed world"
        )
