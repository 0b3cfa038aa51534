"""Starts a training, from random weights or from saved ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from fastvar_lab.backbones.infinity import Infinity
from fastvar_lab.backbones.text import WordEncoder
from fastvar_lab.files import folder
from fastvar_lab.models import states, tiny
from fastvar_lab.models.loading import load, require
from fastvar_lab.models.model import Model
from fastvar_lab.training import rehearsal as rehearsals
from fastvar_lab.training.loop import read_checkpoint
from fastvar_lab.training.tokenizer import train_tokenizer
from fastvar_lab.training.transformer import CHUNK, train_transformer

CONTEXT = (128, 160)  # widths of the coarser maps in a new tokenizer's context layers
LIMITS = {
    "steps": (1, 10**7),
    "batch": (1, CHUNK),
    "reading": (0, 10**6),
    "looking": (0, 10**6),
    "rehearse": (0, 10**5),
    "peak": (1e-7, 1),
    "seed": (0, 2**32 - 1),
}


def train(
    part: str,
    out: Path,
    *,
    start: Path | None = None,
    steps: int | None = None,
    batch: int | None = None,
    peak: float | None = None,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = False,
    decoder_only: bool = False,
    grown: float = 0.0,
    reading: int | None = None,
    looking: int | None = None,
    rehearse: int | None = None,
) -> float:
    """Train the `part` "tokenizer" or "transformer"; return the seconds spent.

    Writes a checkpoint to `out` while it runs, and the weights at the end. Without `start`, a
    folder of weights, training starts from random weights. Options that are None take a default
    that depends on the part and the start, and on a checkpoint that is resumed.

    Raises ValueError if a checkpoint is there and is not to be resumed, and the other way round.
    """
    require(device)
    checkpoint = out / f"{part}.ckpt"
    looking, reading = _pretraining(checkpoint, resume, start, looking, reading)
    torch.manual_seed(seed)
    model = starting_model(part, start, out, decoder_only)
    folder(out)
    options: dict[str, Any] = {"batch": batch, "peak": peak}
    options = {name: value for name, value in options.items() if value is not None}
    options |= {"seed": seed, "resume": resume, "device": device}
    if part == "tokenizer":
        rehearsal = None
        if rehearse:
            rehearsal = rehearsals.rehearse(load(weights=start, device=device), rehearse, seed)
        seconds = train_tokenizer(
            model.tokenizer,
            list(model.sizes),
            steps=steps or 1900,
            checkpoint=checkpoint,
            decoder_only=decoder_only,
            rehearsal=rehearsal,
            looking=looking,
            **options,
        )
    else:
        seconds = train_transformer(
            cast(Infinity, model.transformer),
            cast(WordEncoder, model.text_encoder),
            model.tokenizer,
            model.sizes,
            steps=steps or 2150,
            checkpoint=checkpoint,
            grown=grown,
            reading=reading,
            **options,
        )
        tiny.save_transformer(model, out)
    tiny.save_tokenizer(model, out)  # also beside a transformer, which is useless without it
    return seconds


def _pretraining(
    checkpoint: Path, resume: bool, start: Path | None, looking: int | None, reading: int | None
) -> tuple[int, int]:
    """Return the numbers of steps of looking and reading; a phase that is resumed keeps its own.

    Raises ValueError for a checkpoint that would be overwritten, or that is not there.
    """
    steps = {"looking": 0 if start else 1000, "reading": 0 if start else 400}
    given = {"looking": looking, "reading": reading}
    steps |= {phase: number for phase, number in given.items() if number is not None}
    if not checkpoint.exists():
        if resume:
            raise ValueError(f"there is nothing to resume: {checkpoint} does not exist")
    elif not resume:
        raise ValueError(
            f"{checkpoint.parent} holds a checkpoint{_place(checkpoint)}; give --resume to go on "
            f"from it, or another --out, or remove {checkpoint.name}"
        )
    else:
        state = read_checkpoint(checkpoint)
        if state["phase"] and not given.get(state["phase"]):
            steps[state["phase"]] = int(state["steps"])
    return steps["looking"], steps["reading"]


def _place(checkpoint: Path) -> str:
    """Write the step of a checkpoint; nothing for a damaged one."""
    try:
        state = read_checkpoint(checkpoint)
    except ValueError:
        return ""
    return f" of step {state['step']}" + (f" of {state['phase']}" if state["phase"] else "")


def starting_model(part: str, start: Path | None, out: Path, decoder_only: bool = False) -> Model:
    """Build the model that is trained, with random weights or those in `start`.

    A transformer uses the tokenizer in `out`, in `start` or in the package, in this order. If the
    tokenizer in `start` has no context layers, the trained parts get new ones, whose output is 0
    at first.
    """
    config = tiny.tiny_config()
    if part == "transformer":
        places = [place for place in (out, start, tiny.WEIGHTS) if place is not None]
        file = next(f for p in places if (f := p / tiny.TOKENIZER_FILE).exists())
        tensors, settings = states.read(file)
        model = tiny.build_tiny({**config, **settings})
        states.fill(model.tokenizer, tensors, file)
        if start is not None:
            file = start / tiny.TRANSFORMER_FILE
            states.fill(tiny.language(model), states.read(file)[0], file)
        return model
    config["tokenizer"] |= {"encoder_context": CONTEXT, "decoder_context": CONTEXT}
    if start is None:
        return tiny.build_tiny(config)
    file = start / tiny.TOKENIZER_FILE
    tensors, _ = states.read(file)
    if decoder_only and not any(key.startswith("encoder.mid.context.") for key in tensors):
        config["tokenizer"]["encoder_context"] = ()
    model = tiny.build_tiny(config)
    context = {k: x for k, x in model.tokenizer.state_dict().items() if ".context." in k}
    states.fill(model.tokenizer, context | tensors, file)
    return model
