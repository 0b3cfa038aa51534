"""Generates training examples for the decoder, so that it tolerates wrong tokens.

A decoder trained on ground-truth tokens alone amplifies errors of the transformer. Here the first
scales are ground truth, the transformer draws the others, and the target is the true picture.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fastvar_lab.backbones import quantize
from fastvar_lab.generation import generate
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.pictures import to_tensor
from fastvar_lab.sampling import Sampling
from fastvar_lab.training.looking import SIDE
from fastvar_lab.world.render import render
from fastvar_lab.world.scene import caption, compose, random_prompt

GIVEN = (3, 4, 5)  # possible numbers of ground-truth scales
BATCH = 8


class Rehearsal(NamedTuple):
    """Latents (N, d, h, w) completed by a transformer, and the true pictures (N, 3, H, W)."""

    latents: Tensor
    images: Tensor


@torch.no_grad()
def rehearse(model: Model, count: int, seed: int = 0) -> Rehearsal:
    """Let the model complete `count` pictures from their first scales."""
    rng = np.random.default_rng((seed, 5))
    latents, images = list[Tensor](), list[Tensor]()
    for first in tqdm(range(0, count, BATCH), desc="rehearse", unit="batch"):
        prompts = [random_prompt(rng) for _ in range(BATCH)]
        scenes = [compose(p, int(rng.integers(2**31))) for p in prompts]
        image = to_tensor([render(s, SIDE) for s in scenes], model.device)
        tokens, _ = quantize.encode(model.tokenizer.encoder(image).float(), list(model.sizes))
        generation = generate(
            model,
            [caption(p, rng).text for p in prompts],
            Dense(),
            seed=[first + i for i in range(BATCH)],
            sampling=Sampling(guidance=1.0),
            given=tokens[: int(rng.choice(GIVEN))],
        )
        latents.append(generation.canvas)
        images.append(image)
    return Rehearsal(torch.cat(latents)[:count], torch.cat(images)[:count])
