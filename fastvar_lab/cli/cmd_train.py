"""What `python -m fastvar_lab train` does, from a fresh, saved or shipped start."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import cast

import torch

from fastvar_lab.backbones.infinity import Infinity
from fastvar_lab.backbones.text import WordEncoder
from fastvar_lab.files import folder
from fastvar_lab.models import model, tiny
from fastvar_lab.models import weights as files
from fastvar_lab.models.loading import load, require
from fastvar_lab.training.rehearsal import rehearse
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


def train(args: argparse.Namespace) -> None:
    """Train one part into `args.out`: a checkpoint while it runs, weights when it is done."""
    for name, (least, most) in LIMITS.items():
        value = getattr(args, name)
        if value is not None and not least <= value <= most:
            raise ValueError(f"--{name} must lie in {least} to {most}; not {value}")
    if args.decoder_only and args.part != "tokenizer":
        raise ValueError("--decoder-only goes with the tokenizer")
    if not 0 <= args.grown < 1 or (args.grown and args.part != "transformer"):
        raise ValueError(f"--grown lies in [0, 1) and goes with the transformer; not {args.grown}")
    if args.reading and args.part != "transformer":
        raise ValueError("--reading goes with the transformer")
    if args.looking and (args.part != "tokenizer" or args.decoder_only):
        raise ValueError("--looking goes with the tokenizer's encoder")
    if args.rehearse and (not args.decoder_only or args.start is None):
        raise ValueError("--rehearse goes with --decoder-only and --from")
    require(args.device)
    torch.manual_seed(args.seed)
    model = begun(args.part, args.start, args.out, args.decoder_only)
    folder(args.out)
    options = {k: getattr(args, k) for k in ("batch", "peak") if getattr(args, k) is not None}
    common = {"seed": args.seed, "resume": args.resume, "device": args.device, **options}
    rehearsal = None
    if args.rehearse:
        rehearsal = rehearse(load(weights=args.start, device=args.device), args.rehearse, args.seed)
    if args.part == "tokenizer":
        seconds = train_tokenizer(
            model.tokenizer,
            list(model.sizes),
            steps=args.steps or 1900,
            checkpoint=args.out / "tokenizer.ckpt",
            decoder_only=args.decoder_only,
            rehearsal=rehearsal,
            looking=(0 if args.start else 1000) if args.looking is None else args.looking,
            **common,
        )
        tiny.save_tokenizer(model, args.out)
    else:
        seconds = train_transformer(
            cast(Infinity, model.transformer),
            cast(WordEncoder, model.text_encoder),
            model.tokenizer,
            model.sizes,
            steps=args.steps or 2150,
            checkpoint=args.out / "transformer.ckpt",
            grown=args.grown,
            reading=(0 if args.start else 400) if args.reading is None else args.reading,
            **common,
        )
        tiny.save_transformer(model, args.out)
        tiny.save_tokenizer(model, args.out)  # the two belong together
    print(f"{args.part}: {seconds / 60:.0f} minutes; weights in {args.out}")


def begun(part: str, start: Path | None, out: Path, decoder_only: bool = False) -> model.Model:
    """Build what is trained: anew, or from the weights in `start`.

    A transformer is trained on the tokenizer in `out`, `start` or the package, whichever is there
    first. What is trained of a tokenizer that starts from one without context layers gets new ones,
    which begin as nothing.
    """
    config = tiny.tiny_config()
    if part == "transformer":
        places = [place for place in (out, start, tiny.WEIGHTS) if place is not None]
        file = next(f for p in places if (f := p / tiny.TOKENIZER_FILE).exists())
        tensors, told = files.read(file)
        model = tiny.build_tiny({**config, **told})
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
