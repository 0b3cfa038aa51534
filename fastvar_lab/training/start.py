"""Start a training: anew, from saved weights or from those in the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from fastvar_lab.backbones.infinity import Infinity
from fastvar_lab.backbones.text import WordEncoder
from fastvar_lab.files import folder
from fastvar_lab.models import tiny
from fastvar_lab.models import weights as files
from fastvar_lab.models.loading import load, require
from fastvar_lab.models.model import Model
from fastvar_lab.training.rehearsal import rehearse as rehearsed
from fastvar_lab.training.tokenizer import train_tokenizer
from fastvar_lab.training.transformer import CHUNK, train_transformer

CONTEXT = (128, 160)  # widths of the coarser maps that a newly trained tokenizer looks at
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
    """Train "tokenizer" or "transformer" into `out`; return the seconds that it took.

    A checkpoint lies in `out` while it runs, weights when it is done. None stands for the default
    of the part, and of its start: new, or from the weights in the folder `start`.
    """
    require(device)
    torch.manual_seed(seed)
    model = begun(part, start, out, decoder_only)
    folder(out)
    options: dict[str, Any] = {"batch": batch, "peak": peak}
    options = {name: value for name, value in options.items() if value is not None}
    options |= {"seed": seed, "resume": resume, "device": device}
    if part == "tokenizer":
        rehearsal = None
        if rehearse:
            rehearsal = rehearsed(load(weights=start, device=device), rehearse, seed)
        seconds = train_tokenizer(
            model.tokenizer,
            list(model.sizes),
            steps=steps or 1900,
            checkpoint=out / "tokenizer.ckpt",
            decoder_only=decoder_only,
            rehearsal=rehearsal,
            looking=(0 if start else 1000) if looking is None else looking,
            **options,
        )
    else:
        seconds = train_transformer(
            cast(Infinity, model.transformer),
            cast(WordEncoder, model.text_encoder),
            model.tokenizer,
            model.sizes,
            steps=steps or 2150,
            checkpoint=out / "transformer.ckpt",
            grown=grown,
            reading=(0 if start else 400) if reading is None else reading,
            **options,
        )
        tiny.save_transformer(model, out)
    tiny.save_tokenizer(model, out)  # a transformer and its tokenizer belong together
    return seconds


def begun(part: str, start: Path | None, out: Path, decoder_only: bool = False) -> Model:
    """Build what is trained: anew, or from the weights in `start`.

    A transformer is trained on the tokenizer in `out`, `start` or the package, whichever is there
    first. What is trained of a tokenizer that starts from one without context layers gets new ones,
    which begin as nothing.
    """
    config = tiny.tiny_config()
    if part == "transformer":
        places = [place for place in (out, start, tiny.WEIGHTS) if place is not None]
        file = next(f for p in places if (f := p / tiny.TOKENIZER_FILE).exists())
        tensors, settings = files.read(file)
        model = tiny.build_tiny({**config, **settings})
        files.fill(model.tokenizer, tensors, file)
        if start is not None:
            file = start / tiny.TRANSFORMER_FILE
            files.fill(tiny.language(model), files.read(file)[0], file)
        return model
    config["tokenizer"] |= {"encoder_context": CONTEXT, "decoder_context": CONTEXT}
    if start is None:
        return tiny.build_tiny(config)
    file = start / tiny.TOKENIZER_FILE
    tensors, _ = files.read(file)
    if decoder_only and not any(key.startswith("encoder.mid.context.") for key in tensors):
        config["tokenizer"]["encoder_context"] = ()
    model = tiny.build_tiny(config)
    own = model.tokenizer.state_dict()
    files.fill(model.tokenizer, {k: x for k, x in own.items() if ".context." in k} | tensors, file)
    return model
