"""Train the embedded tokenizer on pictures drawn on the fly: crops first, then whole pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastvar_lab.backbones import quantize
from fastvar_lab.backbones.autoencoder import AutoEncoder
from fastvar_lab.pictures import to_tensor
from fastvar_lab.training.loop import train
from fastvar_lab.world.render import render
from fastvar_lab.world.scene import compose, random_prompt

WHOLE = 0.9  # from this share of the steps on, whole 256 px pictures instead of 128 px crops
CROP, SIDE = 128, 256


def pictures(step: int, seed: int, count: int, crop: int | None) -> list[np.ndarray]:
    """Draw the training pictures of one step; `crop` cuts two windows near objects from each."""
    rng = np.random.default_rng((seed, step))
    out: list[np.ndarray] = []
    while len(out) < count:
        scene = compose(random_prompt(rng), int(rng.integers(2**31)))
        image = render(scene, SIDE)
        if crop is None:
            out.append(image)
            continue
        for _ in range(2):
            near = scene.objects[rng.integers(len(scene.objects))]
            corner = np.array([near.y, near.x]) * SIDE - crop / 2 + rng.uniform(-48, 48, 2)
            top, left = np.clip(corner, 0, SIDE - crop).astype(int)
            out.append(image[top : top + crop, left : left + crop])
    return out[:count]


def reconstruction_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """L1, squared error, and half the L1 of neighbour differences, which keeps edges sharp."""
    error = made - wanted
    across, down = error.diff(dim=-1).abs().mean(), error.diff(dim=-2).abs().mean()
    return error.abs().mean() + error.square().mean() + 0.5 * (across + down)


def train_tokenizer(
    tokenizer: AutoEncoder,
    sizes: list[tuple[int, int]],
    *,
    steps: int,
    checkpoint: Path,
    seed: int = 0,
    resume: bool = False,
    batch: int = 16,
    peak: float = 2e-3,
    device: str = "cpu",
    decoder_only: bool = False,
) -> float:
    """Train in place; return the seconds spent. `sizes` is the schedule of a whole picture.

    `decoder_only` leaves the encoder, and with it the meaning of all bits, as it is.
    """
    half = [(max(1, h // 2), max(1, w // 2)) for h, w in sizes]

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        whole = step >= WHOLE * steps
        count = max(1, batch // 4) if whole else batch
        image = to_tensor(pictures(step, seed, count, None if whole else CROP), device)
        draw = torch.Generator().manual_seed(seed * 1_000_003 + step)
        # some pictures are decoded from their first scales only, so that early maps mean something
        shown = torch.randint(4, len(sizes) + 1, (count,), generator=draw)
        shown[torch.rand(count, generator=draw) > 0.15] = len(sizes)
        with torch.autocast(device, torch.bfloat16):
            latent = tokenizer.encoder(image).float()
        quantised, commitment = quantize.straight_through(
            latent, sizes if whole else half, shown.to(device)
        )
        with torch.autocast(device, torch.bfloat16):
            made = tokenizer.decoder(quantised)
        fit = reconstruction_loss(made.float(), image)
        with torch.no_grad():
            mse = (made.float().clamp(-1, 1) - image).square().mean((1, 2, 3))[shown == len(sizes)]
            psnr = float((10 * torch.log10(4 / mse)).mean())
        return fit + (0.0 if decoder_only else 0.25) * commitment, {
            "l1": float(fit.detach()),
            "commitment": float(commitment.detach()),
            "psnr": psnr,
        }

    tokenizer.to(device).channels_last().train().requires_grad_(True)
    tokenizer.encoder.requires_grad_(not decoder_only)
    return train(
        tokenizer,
        loss,
        steps=steps,
        peak=peak,
        betas=(0.9, 0.99),
        weight_decay=0.0,
        checkpoint=checkpoint,
        resume=resume,
    )
