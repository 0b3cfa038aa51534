"""Trains the tokenizer or the transformer of the model tiny."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastvar_lab.cli import options

HELP = "train the tokenizer or transformer of the model tiny"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("part", choices=("tokenizer", "transformer"), help="part to train")
    parser.add_argument(
        "--out", type=options.path, default=Path("runs"), help="folder for checkpoints and weights"
    )
    parser.add_argument("--steps", type=int, help="number of optimiser steps")
    parser.add_argument("--batch", type=int, help="pictures per step")
    parser.add_argument("--peak", type=float, help="highest learning rate")
    parser.add_argument(
        "--resume", action="store_true", help="continue from the checkpoint in --out"
    )
    parser.add_argument(
        "--from", dest="start", type=options.path, help="folder of weights to start from"
    )
    parser.add_argument(
        "--grown",
        type=float,
        default=0.0,
        help="share in [0, 1) of the curriculum of growing sizes to skip",
    )
    parser.add_argument(
        "--reading", type=int, help="number of steps that pretrain the text encoder"
    )
    parser.add_argument(
        "--looking", type=int, help="number of steps that pretrain the tokenizer's encoder"
    )
    parser.add_argument("--decoder-only", action="store_true", help="keep the encoder frozen")
    parser.add_argument(
        "--rehearse",
        type=int,
        help="number of pictures completed by the transformer, to train the decoder on",
    )
    options.add_device(parser)
    options.add_seed(parser)


def run(args: argparse.Namespace) -> None:
    """Train one part into --out: a checkpoint while it runs, weights when it is done."""
    if args.decoder_only and args.part != "tokenizer":
        raise ValueError("--decoder-only is for the tokenizer; not for the transformer")
    if not 0 <= args.grown < 1 or (args.grown and args.part != "transformer"):
        raise ValueError(f"--grown is for the transformer and lies in [0, 1); not {args.grown}")
    if args.reading and args.part != "transformer":
        raise ValueError("--reading is for the transformer; not for the tokenizer")
    if args.looking and (args.part != "tokenizer" or args.decoder_only):
        raise ValueError("--looking is for the tokenizer, without --decoder-only")
    if args.rehearse and (not args.decoder_only or args.start is None):
        raise ValueError("--rehearse requires --decoder-only and --from")
    from fastvar_lab.training import start

    for name, (least, most) in start.LIMITS.items():
        value = getattr(args, name)
        if value is not None and not least <= value <= most:
            raise ValueError(f"--{name} must lie in {least} to {most}; not {value}")
    settings = {name: value for name, value in vars(args).items() if name not in ("run", "command")}
    seconds = start.train(**settings)
    print(f"{args.part}: {seconds / 60:.0f} minutes; weights in {args.out}")
