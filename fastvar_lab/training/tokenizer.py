"""Trains the embedded tokenizer on rendered pictures: crops first, then whole pictures.

A multi-scale tokenizer trained on reconstruction alone stores colors in its small maps and outlines
in its large ones. To draw a star, a transformer must then get many independent bits of large maps
right. Three parts of the training move the content of a prompt into the small maps: linear probes
predict shape, color and texture from them; half of the pictures are decoded from their first maps
alone; and a perceptual loss compares features of the pretrained encoder, which differ between a
star and a blurred star.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from fastvar_lab.backbones import quantize
from fastvar_lab.backbones.autoencoder import AutoEncoder
from fastvar_lab.pictures import to_tensor
from fastvar_lab.training.looking import CROP, learn_to_look, probe, probe_loss, views
from fastvar_lab.training.loop import train
from fastvar_lab.training.rehearsal import Rehearsal

WHOLE = 0.5  # share of the steps after which 256 px pictures replace 128 px crops
FLIP = 0.2  # largest share of bits flipped in a picture, so that the decoder tolerates errors
EARLY = (4, 5, 6, 7)  # indices of the last scale of pictures that are decoded early
PROBED = (2, 3, 4, 5)  # indices of the scales whose states the probes read
PROBE = 0.02  # weight of the probe loss relative to the reconstruction loss
LIKENESS = 0.3  # weight of the perceptual loss, on features of the encoder before this training


def reconstruction_loss(image: Tensor, target: Tensor) -> Tensor:
    """Return L1 plus squared error plus half the L1 of image gradients, which keeps edges sharp."""
    error = image - target
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
    looking: int = 0,
    rehearsal: Rehearsal | None = None,
) -> float:
    """Train in place; return the seconds spent. `sizes` is the schedule of a whole picture.

    `decoder_only` freezes the encoder, and so the meaning of all bits. `looking` is the number of
    steps that pretrain the encoder, without a decoder. With a `rehearsal`, half of the pictures
    that the decoder is trained on come from it.
    """
    half = [(max(1, h // 2), max(1, w // 2)) for h, w in sizes]
    config = tokenizer.config
    widths = [config.widths[-1]] + [config.channels] * len(PROBED)  # features, then maps
    probes = nn.ModuleList(probe(width) for width in widths)

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        whole = step >= WHOLE * steps or rehearsal is not None
        count = max(2, batch // 4) if whole else batch
        batch_views = views(step, seed, count, None if whole else CROP, tokenizer.config.stride)
        image, looks = to_tensor(batch_views.pictures, device), batch_views.looks.to(device)
        draw = torch.Generator().manual_seed(seed * 1_000_003 + step)
        with torch.autocast(device, torch.bfloat16):
            features = tokenizer.encoder.features(image)
            latent = tokenizer.encoder.conv_out(features).float()
        share = FLIP * torch.rand(count, generator=draw) * (torch.rand(count, generator=draw) < 0.5)
        scales = sizes if whole else half
        states = quantize.straight_through(latent, scales, share.to(device), draw)
        # half of the pictures are decoded from their first scales only
        last = EARLY[int(torch.randint(len(EARLY), (), generator=draw))]
        full = count // 2
        shown = torch.cat((states[-1][:full], states[last][full:]))
        if rehearsal is not None:
            picked = torch.randint(len(rehearsal.latents), (count,), generator=draw)
            shown = torch.cat((shown, rehearsal.latents[picked].to(device)))
            image = torch.cat((image, rehearsal.images[picked].to(device)))
        with torch.autocast(device, torch.bfloat16):
            decoded = tokenizer.decoder(shown).float()
            with torch.no_grad():
                target = reference.features(image)
            likeness = (reference.features(decoded) - target).abs().float().mean()
        fit = reconstruction_loss(decoded, image) + LIKENESS * likeness
        logs = {"fit": float(fit.detach()), "likeness": float(likeness.detach())}
        with torch.no_grad():
            mse = (decoded[:full].clamp(-1, 1) - image[:full]).square().mean((1, 2, 3))
            logs["psnr"] = float((10 * torch.log10(4 / mse)).mean())
        if decoder_only:
            return fit, logs
        commitment = (latent - states[-1].detach()).square().mean()
        sources = [features.float(), *(states[k] for k in PROBED)]
        read = torch.stack(
            [probe_loss(p(source), looks) for p, source in zip(probes, sources, strict=True)]
        )
        logs["commitment"] = float(commitment.detach())
        names = ("features", *(sizes[k][0] for k in PROBED))
        logs |= {f"read {name}": float(x) for name, x in zip(names, read.detach(), strict=True)}
        return fit + 0.25 * commitment + PROBE * read.sum(), logs

    tokenizer.to(device).channels_last().train().requires_grad_(True)
    if looking:
        learn_to_look(
            tokenizer, steps=looking, seed=seed, batch=batch, checkpoint=checkpoint, resume=resume
        )
    reference = copy.deepcopy(tokenizer.encoder).requires_grad_(False)
    tokenizer.encoder.requires_grad_(not decoder_only)
    probes.to(device).requires_grad_(not decoder_only)
    return train(
        nn.ModuleDict({"tokenizer": tokenizer, "probes": probes, "eye": reference}),
        loss,
        steps=steps,
        peak=peak,
        betas=(0.9, 0.99),
        weight_decay=0.0,
        checkpoint=checkpoint,
        resume=resume,
    )
