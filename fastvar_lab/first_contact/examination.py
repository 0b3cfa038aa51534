"""The examination of an opened model, from the cheapest to the dearest look at it."""

from __future__ import annotations

import gc
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch.nn.functional import interpolate

from fastvar_lab.first_contact import probes
from fastvar_lab.first_contact.configuration import configuration, null_prompt, text_features
from fastvar_lab.first_contact.finding import OFF, OPEN, Finding
from fastvar_lab.first_contact.likelihood import Subject, tokens_of
from fastvar_lab.generation import Generation, generate
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.absent import NoText
from fastvar_lab.models.model import Model
from fastvar_lab.pictures import to_tensor, to_uint8, write_image


def check(
    model: Model, caption: str, other: str, picture: np.ndarray | None, out: Path
) -> Iterator[Finding]:
    """Yield what is found about an opened model, cheapest first; pictures are written to `out`.

    Prompts are encoded first and the text encoder is dropped, so that it takes no memory later.
    Without a `picture` the model's own generation stands for it: then the tokenizer and the
    caption are not tested by anything from outside.
    """
    yield from configuration(model)
    try:
        right, wrong = (model.condition([text]) for text in (caption, other))
    except ValueError as error:
        yield Finding("text encoder", OFF, str(error), "prompts cannot be encoded here")
        return
    yield from text_features(model, right)
    model.text_encoder = NoText(model.name)
    model.grammar = None
    yield from null_prompt(model)
    full = yield from _generated(model, right, out)
    source = to_uint8(model.decode(full.canvas))[0] if picture is None else picture
    tokens, again = tokens_of(model, source)
    shown = to_uint8(interpolate(
        to_tensor([source]).add(1).div(2), again.shape[:2], mode="bicubic", antialias=True
    ).clamp(0, 1))[0]  # fmt: skip
    write_image(out / "round_trip.png", np.concatenate((shown, again), axis=1))
    yield probes.round_trip(shown, again, picture is None)
    subject = Subject(model, right, wrong, tokens)
    yield from probes.likelihoods(subject)
    yield from probes.sublayers(subject)
    yield from probes.arrangements(subject)
    yield from probes.alternatives(subject, source)
    yield from probes.bfloat16(subject)
    yield probes.bfloat16_decoder(model, full.canvas)


def _generated(model: Model, condition: Any, out: Path) -> Generator[Finding, None, Generation]:
    """Generate in full and pruned, with times and memory; return the full generation."""
    full, seconds, memory = _measured(model, condition, Dense())
    write_image(out / "full.png", to_uint8(model.decode(full.canvas))[0])
    yield Finding("generation", OPEN, f"{seconds:.2f} s, {memory:.2f} GB: {out / 'full.png'}",
                  "look at it: is it what the caption says?")  # fmt: skip
    if model.preset is not None:
        pruned, fast, memory = _measured(model, condition, model.preset)
        write_image(out / "pruned.png", to_uint8(model.decode(pruned.canvas))[0])
        yield Finding("pruned generation", OPEN,
                      f"{fast:.2f} s, {memory:.2f} GB: {out / 'pruned.png'}",
                      f"{seconds / fast:.2f} times as fast, by the preset")  # fmt: skip
    return full


def _measured(model: Model, condition: Any, method: Any) -> tuple[Generation, float, float]:
    cuda = model.device.type == "cuda"
    if cuda:
        gc.collect()  # what the run before left: a runner and its generation refer to each other
        torch.cuda.reset_peak_memory_stats(model.device)
    begin = time.perf_counter()
    generation = generate(model, condition, method, seed=0)
    seconds = time.perf_counter() - begin
    process = psutil.Process().memory_info().rss
    peak = torch.cuda.max_memory_allocated(model.device) if cuda else process
    return generation, seconds, peak / 1e9
