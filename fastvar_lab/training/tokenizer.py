"""Train the embedded tokenizer on pictures drawn on the fly: crops first, then whole pictures.

Left to itself a multi-scale tokenizer writes colors into its small maps and outlines into its large
ones, and a transformer must then keep many independent bits of many large steps in agreement to
draw one star. Three things, in training alone, bring what a prompt decides into the small maps:
a linear probe reads shape, color and texture off them, which makes a class of object a pattern of
bits; half of the pictures are decoded from their first maps; and what is decoded must look
alike to the encoder that learnt to tell objects apart, which a blurred star does not.
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

WHOLE = 0.5  # from this share of the steps on, whole 256 px pictures instead of 128 px crops
FLIP = 0.2  # most bits flipped in one picture, so that the decoder forgives a wrong one
EARLY = (4, 5, 6, 7)  # indices of the scales that may be the last ones decoded
PROBED = (2, 3, 4, 5)  # indices of the scales after which a probe reads what lies where
PROBE = 0.02  # what the probes' loss counts beside the reconstruction's
LIKENESS = 0.3  # what the features count by which the encoder, as it began, tells objects apart


def reconstruction_loss(image: Tensor, wanted: Tensor) -> Tensor:
    """L1, squared error, and half the L1 of neighbour differences, which keeps edges sharp."""
    error = image - wanted
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

    `decoder_only` leaves the encoder, and with it the meaning of all bits, as it is.
    `looking` steps teach the encoder to see first, without a decoder. Of a `rehearsal` the decoder
    sees as many pictures as true ones.
    """
    half = [(max(1, h // 2), max(1, w // 2)) for h, w in sizes]
    config = tokenizer.config
    widths = [config.widths[-1]] + [config.channels] * len(PROBED)  # the features' own, the maps'
    probes = nn.ModuleList(probe(width) for width in widths)

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        whole = step >= WHOLE * steps or rehearsal is not None
        count = max(2, batch // 4) if whole else batch
        seen = views(step, seed, count, None if whole else CROP, tokenizer.config.stride)
        image, looks = to_tensor(seen.pictures, device), seen.looks.to(device)
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
                wanted = eye.features(image)
            likeness = (eye.features(decoded) - wanted).abs().float().mean()
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
    if looking and not (resume and checkpoint.exists()):
        learn_to_look(tokenizer, steps=looking, seed=seed)
    eye = copy.deepcopy(tokenizer.encoder).requires_grad_(False)
    tokenizer.encoder.requires_grad_(not decoder_only)
    probes.to(device).requires_grad_(not decoder_only)
    return train(
        nn.ModuleDict({"tokenizer": tokenizer, "probes": probes, "eye": eye}),
        loss,
        steps=steps,
        peak=peak,
        betas=(0.9, 0.99),
        weight_decay=0.0,
        checkpoint=checkpoint,
        resume=resume,
    )
