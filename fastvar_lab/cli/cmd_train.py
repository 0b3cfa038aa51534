"""Training of the embedded model's parts."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastvar_lab.cli import options

HELP = "train the embedded model's tokenizer or transformer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("part", choices=("tokenizer", "transformer"))
    parser.add_argument("--out", type=options.path, default=Path("runs"), help="folder for weights")
    parser.add_argument("--steps", type=int, help="optimiser steps")
    parser.add_argument("--batch", type=int, help="pictures per step")
    parser.add_argument("--peak", type=float, help="highest learning rate")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument(
        "--from", dest="start", type=options.path, help="start from a folder of weights"
    )
    parser.add_argument("--grown", type=float, default=0.0, help="share of the growth to skip")
    parser.add_argument("--reading", type=int, help="steps that teach the text encoder first")
    parser.add_argument(
        "--looking", type=int, help="steps that teach the tokenizer's encoder to see"
    )
    parser.add_argument("--decoder-only", action="store_true", help="leave the encoder as it is")
    parser.add_argument(
        "--rehearse",
        type=int,
        help="pictures that the transformer ends, for the decoder to forgive",
    )
    options.add_device(parser)
    options.add_seed(parser)


def run(args: argparse.Namespace) -> None:
    """Train one part into --out: a checkpoint while it runs, weights when it is done."""
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
    from fastvar_lab.training import start

    for name, (least, most) in start.LIMITS.items():
        value = getattr(args, name)
        if value is not None and not least <= value <= most:
            raise ValueError(f"--{name} must lie in {least} to {most}; not {value}")
    settings = {name: value for name, value in vars(args).items() if name not in ("run", "command")}
    seconds = start.train(**settings)
    print(f"{args.part}: {seconds / 60:.0f} minutes; weights in {args.out}")
