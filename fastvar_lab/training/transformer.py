"""Trains the embedded transformer: small scales, then samples of large ones, then all tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from tqdm import tqdm

from fastvar_lab.backbones import quantize
from fastvar_lab.backbones.autoencoder import AutoEncoder
from fastvar_lab.backbones.infinity import Infinity, Text
from fastvar_lab.backbones.text import WordEncoder
from fastvar_lab.pictures import to_tensor
from fastvar_lab.tokens import gather
from fastvar_lab.training.focus import (
    centers,
    look_maps,
    object_map,
    sampled_positions,
    token_weights,
)
from fastvar_lab.training.looking import SIDE
from fastvar_lab.training.loop import train
from fastvar_lab.training.naming import Namer
from fastvar_lab.training.reading import Reader, learn_to_read
from fastvar_lab.training.teacher import teacher_forced
from fastvar_lab.world.grammar import Prompt
from fastvar_lab.world.render import render
from fastvar_lab.world.scene import caption, compose, random_prompt

CHUNK, REUSE = 1536, 8  # pictures rendered at once, and how often each is used
FLIP = 0.2  # bitwise self-correction: largest share of bits flipped in a picture
NOISE = 0.25  # weight of a bit with residual 0, relative to one of mean size
SURE = 2.0  # in code units; larger residuals get no larger weight
NULL = 0.1  # share of pictures trained with the null prompt
READING = 0.01  # weight of the reading loss relative to the bit loss
NAMING = 0.05  # weight of the naming loss relative to the bit loss
NAMED = 5 / 8  # depth of the layer whose tokens the naming loss reads, as a share


class Look(NamedTuple):
    """A training step on maps of up to `largest` tokens, with at most `sampled` tokens of each."""

    largest: int
    sampled: int


class Phase(NamedTuple):
    """A phase from share `begin` of the growth on: each step draws one of `looks` by its share."""

    begin: float
    looks: tuple[tuple[float, Look], ...]


SMALL, MIDDLE = Look(8 * 8, 8 * 8), Look(12 * 12, 12 * 12)
SAMPLED, WIDE, WHOLE = Look(32 * 32, 8 * 8), Look(32 * 32, 12 * 12), Look(32 * 32, 32 * 32)

# Small maps decide the layout, and a step there costs a fifth of one with sampled large maps, so
# many steps train them. Maps up to 16x16 decide outlines, later ones textures.
GROWTH = (
    Phase(0.0, ((1.0, SMALL),)),
    Phase(0.1, ((0.5, SMALL), (0.25, MIDDLE), (0.25, SAMPLED))),
    Phase(0.7, ((0.1, SMALL), (0.1, MIDDLE), (0.65, SAMPLED), (0.15, WIDE))),
    Phase(0.99, ((1.0, WIDE),)),
    Phase(0.999, ((1.0, WHOLE),)),
)


def look(progress: float, draw: torch.Generator) -> Look:
    """Draw the maps of a training step; `progress` is the share of the growth done."""
    looks = [phase.looks for phase in GROWTH if progress >= phase.begin][-1]
    shares = torch.tensor([share for share, _ in looks])
    return looks[int(torch.multinomial(shares, 1, generator=draw))][1]


class Examples(NamedTuple):
    """The batch of one step: latents (B, d, H, W), captions, object maps and look maps.

    `objects` (B, H, W) is bool, `looks` (B, 3, H, W) are class indices; see `focus`.
    """

    latents: Tensor
    captions: list[Prompt]
    objects: Tensor
    looks: Tensor


class Pictures:
    """A deterministic stream of examples: chunk c depends on seed and c alone."""

    def __init__(self, tokenizer: AutoEncoder, seed: int, batch: int) -> None:
        self.tokenizer, self.seed, self.batch = tokenizer, seed, batch
        self.chunk, self.prompts = -1, list[Prompt]()
        self.latents, self.objects, self.looks = (torch.empty(0) for _ in range(3))

    def at(self, step: int) -> Examples:
        """Return the examples of one step."""
        steps = CHUNK * REUSE // self.batch
        chunk, place = divmod(step, steps)
        if chunk != self.chunk:
            self._draw(chunk)
        order = np.random.default_rng((self.seed, chunk, 1)).permuted(
            np.tile(np.arange(CHUNK), (REUSE, 1)), axis=1
        )
        picked = order.reshape(-1)[place * self.batch : (place + 1) * self.batch]
        rng = np.random.default_rng((self.seed, step, 2))
        captions = [caption(self.prompts[i], rng) for i in picked]
        index = torch.from_numpy(picked)
        latents = self.latents[index].float()
        return Examples(latents, captions, self.objects[index], self.looks[index])

    @torch.no_grad()
    def _draw(self, chunk: int) -> None:
        rng = np.random.default_rng((self.seed, chunk, 0))
        prompts = [random_prompt(rng) for _ in range(CHUNK)]
        device = next(self.tokenizer.parameters()).device
        latents, objects, looks = list[Tensor](), list[Tensor](), list[Tensor]()
        for first in tqdm(range(0, CHUNK, 32), desc="draw pictures", leave=False):
            scenes = [compose(p, int(rng.integers(2**31))) for p in prompts[first : first + 32]]
            image = to_tensor([render(s, SIDE) for s in scenes], device)
            with torch.autocast(device.type, torch.bfloat16):
                latents.append(self.tokenizer.encoder(image).half())
            side = latents[-1].shape[-2:]
            objects += [object_map(scene, *side) for scene in scenes]
            looks += [look_maps(scene, *side).to(torch.uint8) for scene in scenes]
        self.chunk, self.prompts = chunk, prompts
        self.latents = torch.cat(latents)
        self.objects, self.looks = torch.stack(objects), torch.stack(looks)


def scale_weights(sizes: Sequence[tuple[int, int]], power: float = 0.35) -> list[float]:
    """Weight scales by tokens ** power, so that small scales, which decide the layout, count."""
    raw = [(h * w) ** power for h, w in sizes]
    return [r / sum(raw) for r in raw]


def bit_losses(
    model: Infinity,
    text: Text,
    latent: Tensor,
    sizes: Sequence[tuple[int, int]],
    positions: Sequence[Tensor | None],
    weights: Sequence[Tensor],
    draw: torch.Generator,
) -> tuple[list[Tensor], Tensor]:
    """Return the cross-entropy per bit of every scale, and tokens (B, L, C) of a middle layer.

    Inputs are built from codes with flipped bits (self-correction). `positions` (B, K) are the
    trained tokens of each scale, None for all; `weights` (B, h * w) weight the tokens. A bit is
    weighted by the size of its residual, up to `SURE`: the sign of a small residual is noise.
    """
    device = latent.device
    with torch.no_grad():
        share = torch.rand(len(latent), generator=draw) * FLIP
        labels, states = quantize.encode(latent, sizes, share.to(device), draw)
        inputs = [
            rearrange(quantize.next_input(s, h, w), "b d h w -> b (h w) d")
            for s, (h, w) in zip(states[:-1], sizes[1:], strict=True)
        ]
        at = [None if p is None else p.to(device) for p in positions]
        targets = [_picked(x, p).float() for x, p in zip(labels, at, strict=True)]
        inputs = [_picked(x, p) for x, p in zip(inputs, at[1:], strict=True)]
        before, sure = [torch.zeros_like(latent), *states[:-1]], SURE / latent.shape[1] ** 0.5
        reach = [
            rearrange(
                F.interpolate(latent - done, size, mode="area").abs().clamp(max=sure),
                "b d h w -> b (h w) d",
            )
            for done, size in zip(before, sizes, strict=True)
        ]
        counts = [
            _picked(w.to(device)[..., None] * (NOISE + (1 - NOISE) * r / r.mean()), p)
            for w, r, p in zip(weights, reach, at, strict=True)
        ]
    layer = round(NAMED * model.config.depth)
    logits, middle = teacher_forced(model, text, inputs, sizes, at, layer)
    odds = (logits[..., 1] - logits[..., 0]).split([x.shape[1] for x in targets], dim=1)
    losses = [
        F.binary_cross_entropy_with_logits(o, x, weight=w / w.mean())
        for o, x, w in zip(odds, targets, counts, strict=True)
    ]
    return losses, middle


def _picked(x: Tensor, positions: Tensor | None) -> Tensor:
    return x if positions is None else gather(x, positions)


def train_transformer(
    model: Infinity,
    text_encoder: WordEncoder,
    tokenizer: AutoEncoder,
    sizes: Sequence[tuple[int, int]],
    *,
    steps: int,
    checkpoint: Path,
    seed: int = 0,
    resume: bool = False,
    batch: int = 16,
    peak: float = 1.5e-3,
    device: str = "cpu",
    grown: float = 0.0,
    reading: int = 0,
) -> float:
    """Train transformer and text encoder in place, with a frozen tokenizer; return the seconds.

    `grown` skips that share of the growth in scales: 0 from scratch, more for trained weights.
    `reading` is the number of steps that pretrain the text encoder, without pictures.
    """
    if reading:
        text_encoder.to(device).train()
        learn_to_read(text_encoder, steps=reading, seed=seed, checkpoint=checkpoint, resume=resume)
    reader = Reader(text_encoder.config.width)
    namer = Namer(model.config.width)
    parts = {"transformer": model, "text": text_encoder, "reader": reader, "namer": namer}
    trained = nn.ModuleDict(parts)
    trained.to(device).train()
    tokenizer.to(device).channels_last().eval().requires_grad_(False)
    stream = Pictures(tokenizer, seed, batch)

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        latent, captions, objects, looks = stream.at(step)
        draw = torch.Generator().manual_seed(seed * 1_000_003 + step)
        largest, sampled = look(grown + (1 - grown) * step / steps, draw)
        shown = [(h, w) for h, w in sizes if h * w <= largest]
        weights = token_weights(objects, shown)
        positions = sampled_positions(shown, sampled, weights, centers(objects, looks, draw), draw)
        with torch.autocast(device, torch.bfloat16):
            features, mask = text_encoder.encode([c.text for c in captions])
            drop = torch.rand(len(captions), 1, 1, generator=draw).to(device) < NULL
            null = model.cfg_uncond[: features.shape[1]].to(features.dtype)
            text = Text(torch.where(drop, null, features), mask)
            losses, middle = bit_losses(
                model, text, latent.to(device), shown, positions, weights, draw
            )
        reading, right = reader(features, captions)
        naming, named = namer(middle, looks.to(device), shown, positions)
        shares = scale_weights(shown)
        total = torch.stack([s * x for s, x in zip(shares, losses, strict=True)]).sum()
        logs = {"loss": float(total.detach()), "read": float(right.float().mean())}
        logs |= {"naming": float(naming.detach()), "named": named}
        logs |= {f"{h}x{w}": float(x.detach()) for (h, w), x in zip(shown, losses, strict=True)}
        return total + READING * reading + NAMING * naming, logs

    return train(
        trained,
        loss,
        steps=steps,
        peak=peak,
        betas=(0.9, 0.95),
        weight_decay=0.02,
        checkpoint=checkpoint,
        resume=resume,
        warmup=200,
    )
