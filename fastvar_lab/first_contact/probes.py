"""What weights compute, compared with what they would compute if something were out of place.

Released files can be complete and still not be understood: a tensor in another's place, another
tokenizer, another schedule, another rotary grid. All of these lower the likelihood of a real
picture's tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastvar_lab.first_contact.configuration import maps_text
from fastvar_lab.first_contact.effort import first_steps
from fastvar_lab.first_contact.finding import OFF, OPEN, RIGHT, Finding
from fastvar_lab.first_contact.likelihood import Subject, chance, tokens_of
from fastvar_lab.measure.quality import psnr
from fastvar_lab.models.loading import skeleton
from fastvar_lab.models.model import Model
from fastvar_lab.pictures import to_uint8
from fastvar_lab.scales import Sizes
from fastvar_lab.seam import Site

LEAST_GAIN = 6.0  # dB over a picture of the mean color alone
NEAR = 0.01  # of the gap to chance: differences below it are no evidence
HARMFUL = 0.03  # of the gap to chance, by which leaving a sublayer out must help to count
LEAST_DECODED = 30.0  # dB between decoders in bfloat16 and float32
CLOSE = 0.05  # nats a token: rounding to bfloat16 changes less


def round_trip(picture: np.ndarray, again: np.ndarray, drawn_here: bool = False) -> Finding:
    """Compare a picture with its reconstruction and its mean color.

    `drawn_here` says that the model generated it.
    """
    blank = np.broadcast_to(picture.mean((0, 1)).round().astype(np.uint8), picture.shape)
    value, least = psnr(again, picture), psnr(blank, picture) + LEAST_GAIN
    if drawn_here:
        return Finding("tokenizer", OPEN, f"{value:.1f} dB of its own picture",
                       "give --picture to test it on a photograph")  # fmt: skip
    good = value >= least
    meaning = "encoder, quantizer and decoder are not of one tokenizer"
    numbers = f"{value:.1f} dB, {least:.1f} needed"
    return Finding("tokenizer", RIGHT if good else OFF, numbers, "" if good else meaning)


def likelihoods(subject: Subject) -> Iterator[Finding]:
    """Compare the picture's tokens with chance at each scale, and its caption with another."""
    names = [grid.name for grid in subject.model.grids()]
    right, wrong = subject.likelihood(), subject.likelihood(subject.wrong)
    even = chance(subject.model)
    bad = [name for name, value in zip(names, right) if not value > even]
    per_scale = " ".join(f"{name}:{value:.2f}" for name, value in zip(names, right))
    yield Finding("likelihood by scale", OFF if bad else RIGHT,
                  f"{per_scale}; chance {even:.2f}",
                  f"worse than chance at {', '.join(bad)}: weights, tokenizer or schedule are not "
                  "of one model" if bad else "")  # fmt: skip
    better = right.mean() > wrong.mean()
    yield Finding("caption", RIGHT if better else OFF,
                  f"{right.mean():.3f} under its caption, {wrong.mean():.3f} under another",
                  "" if better else "the text does not reach the picture")  # fmt: skip


def sublayers(subject: Subject) -> Iterator[Finding]:
    """Leave sublayers out one by one: whichever is better left out holds another's weights."""
    model = subject.model
    first = len(first_steps(model))
    base = subject.likelihood(first=first).mean()
    harmful = dict[str, float]()
    for layer in range(model.depth):
        for kind in model.transformer.kinds:
            gain = subject.likelihood(first=first, without=Site(layer, kind)).mean() - base
            if gain > HARMFUL * abs(base - chance(model)):
                harmful[f"{kind} of layer {layer}"] = gain
    worst = sorted(harmful, key=lambda name: -harmful[name])[:3]
    yield Finding("sublayers", OFF if harmful else RIGHT,
                  ", ".join(f"without {name} {harmful[name]:+.3f}" for name in worst)
                  or f"each of {model.depth * len(model.transformer.kinds)} helps",
                  "weights are not where they belong" if harmful else "")  # fmt: skip


def _exchanged(parts: int, order: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    return lambda w: torch.cat([w.chunk(parts)[i] for i in order])


ARRANGEMENTS: tuple[tuple[str, str, Callable[[Tensor], Tensor]], ...] = (
    ("keys and values of cross-attention exchanged", r".*\bmat_kv\.weight", _exchanged(2, (1, 0))),
    ("queries and keys exchanged", r".*\bmat_qkv\.weight", _exchanged(3, (1, 0, 2))),
    ("keys and values exchanged", r".*\bmat_qkv\.weight", _exchanged(3, (0, 2, 1))),
    ("scale embeddings one step earlier", r"lvl_embed\.weight", lambda w: w.roll(-1, 0)),
    ("scale embeddings one step later", r"lvl_embed\.weight", lambda w: w.roll(1, 0)),
)
"""Ways in which a file may order its tensors, as a name, the tensors, and the reordering."""


def arrangements(subject: Subject) -> Iterator[Finding]:
    """Compare the likelihood with that of tensors in another order: likelier means a wrong one."""
    model, first = subject.model, len(first_steps(subject.model))
    base = subject.likelihood(first=first).mean()
    gaps = dict[str, float]()
    for name, pattern, reordered in ARRANGEMENTS:
        weights = [p for n, p in model.transformer.named_parameters() if re.fullmatch(pattern, n)]
        if not weights:
            continue
        kept = [weight.data for weight in weights]
        try:
            for weight in weights:
                weight.data = reordered(weight.data)
            gaps[name] = subject.likelihood(first=first).mean() - base
        finally:
            for weight, data in zip(weights, kept):
                weight.data = data
    better = [name for name, gap in gaps.items() if gap > NEAR * abs(base - chance(model))]
    numbers = ", ".join(f"{name} {gap:+.3f}" for name, gap in gaps.items())
    if gaps:
        yield Finding("arrangements", OFF if better else RIGHT, numbers,
                      f"likelier with {', '.join(better)}: the file orders them otherwise"
                      if better else "")  # fmt: skip


def alternatives(subject: Subject, picture: np.ndarray) -> Iterator[Finding]:
    """Compare the likelihood with that under other rotary grids and another schedule."""
    model, base = subject.model, subject.likelihood().mean()
    likelihoods = dict[str, float]()
    config: Any = model.transformer.config
    reference = getattr(config, "reference", None)
    for factor in (0.5, 2.0):
        if reference is None:
            break
        other = tuple(int(n * factor) for n in reference)
        model.transformer.config = replace(config, reference=other)
        try:
            likelihoods[f"rotary grid {other}"] = subject.likelihood().mean()
        finally:
            model.transformer.config = config
    for sizes in _schedules(model):
        tokens, _ = tokens_of(model, picture, sizes)
        likelihoods[f"schedule {maps_text(sizes)}"] = subject.likelihood(
            tokens=tokens, sizes=sizes
        ).mean()
    better = {
        k: v - base for k, v in likelihoods.items() if v - base > NEAR * abs(base - chance(model))
    }
    numbers = ", ".join(f"{name} {value - base:+.3f}" for name, value in likelihoods.items())
    if likelihoods:
        yield Finding("alternatives", OFF if better else RIGHT, numbers,
                      f"likelier with {', '.join(better)}: it may have been trained so"
                      if better else "")  # fmt: skip


def _schedules(model: Model) -> list[Sizes]:
    """Return other schedules to the same last map: the trained one, and one with a map enlarged."""
    sizes, middle = model.sizes, len(model.sizes) // 2
    moved = tuple((h + 1, w + 1) if i == middle else (h, w) for i, (h, w) in enumerate(sizes))
    others = [moved] if moved[middle] < sizes[-1] else []
    try:
        with torch.device("meta"):
            trained = skeleton(model.name).sizes
    except (KeyError, ValueError):
        trained = sizes
    return [s for s in (trained, *others) if s != sizes and s[-1] == sizes[-1]]


def bfloat16(subject: Subject) -> Iterator[Finding]:
    """Compare the likelihood in bfloat16 with that in the model's type; the model ends in it."""
    model = subject.model
    if model.dtype == torch.bfloat16 or model.autocast is not None:
        yield Finding("bfloat16", OPEN, f"it runs in {model.precision}")
        return
    before = subject.likelihood()
    model.transformer.to(torch.bfloat16)
    gap = float(np.abs(subject.likelihood() - before).max())
    good = gap < CLOSE
    yield Finding("bfloat16", RIGHT if good else OFF, f"{gap:.4f} nats at most",
                  "" if good else "use float32: values leave bfloat16's precision")  # fmt: skip


def bfloat16_decoder(model: Model, canvas: Tensor) -> Finding:
    """Compare a decoded latent (1, d, H, W) in bfloat16 with that in the decoder's type."""
    decoder = model.tokenizer
    before = decoder.decoder.conv_in.weight.dtype
    if before == torch.bfloat16:
        return Finding("bfloat16 decoder", OPEN, "it runs in bfloat16")
    exact = to_uint8(model.decode(canvas))[0]
    decoder.to(torch.bfloat16)
    try:
        value = psnr(to_uint8(model.decode(canvas))[0], exact)
    finally:
        decoder.to(before)
    good = value > LEAST_DECODED
    meaning = "" if good else "decode in float32: values leave bfloat16's precision"
    numbers = f"{value:.1f} dB, {LEAST_DECODED:.0f} needed"
    return Finding("bfloat16 decoder", RIGHT if good else OFF, numbers, meaning)
