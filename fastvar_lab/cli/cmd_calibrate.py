"""Calibrates a method on a model, and prints it as a value."""

from __future__ import annotations

import argparse

from fastvar_lab.cli import options

HELP = "measure on a model the constants that a method needs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("method", choices=("heatkv", "fastervar"), help="method to calibrate")
    parser.add_argument("--n", type=int, default=10, help="number of prompts")
    parser.add_argument("--budget", type=float, help="share of keys that heatkv keeps, such as 0.2")
    parser.add_argument("--energy", type=float, help="share of energy that fastervar keeps")
    parser.add_argument("--scales", help="scales that fastervar runs at low rank, such as -2,-1")
    parser.add_argument("--chunks", type=int, help="number of chunks of layers of fastervar")
    parser.add_argument(
        "--out", type=options.path, help="folder for METHOD.json: the method and its origin"
    )
    options.add_prompts(parser)
    options.add_model(parser)
    parser.add_argument("--seed", type=int, default=101, help="seed of the prompts")


def run(args: argparse.Namespace) -> None:
    """Print the calibrated method; write it with its origin to --out."""
    if args.n < 1:
        raise ValueError(f"--n must be at least 1; not {args.n}")
    others = ("budget",) if args.method == "fastervar" else ("energy", "scales", "chunks")
    for name in others:
        if getattr(args, name) is not None:
            raise ValueError(f"--{name} is not an option of {args.method}")
    scales = [_scale(name) for name in (args.scales or "-2,-1").split(",")]
    from fastvar_lab.files import folder, write_json
    from fastvar_lab.measure import calibration
    from fastvar_lab.prompts import seeded

    model = options.open_model(args)
    options.say_what_random_weights_mean(args)
    prompts = options.prompts(args) or seeded(model.prompts, args.seed)
    items = prompts.take(args.n)
    for item in items:
        model.check(item.prompt)
    if args.method == "heatkv":
        method: object = calibration.heatkv(model, items, args.budget or 0.2)
    else:
        energy, chunks = args.energy or 0.96, args.chunks or min(8, model.depth)
        method = calibration.fastervar(model, items, scales, energy, chunks)
    if args.out:
        origin = {
            "method": repr(method),
            "model": model.name,
            "weights": model.fingerprint,
            "prompts": [item.prompt for item in items],
            "seeds": [item.seed for item in items],
        }
        write_json(folder(args.out) / f"{args.method}.json", origin)
    print(method)


def _scale(text: str) -> int:
    """Read a scale name such as -1 or 32; raise ValueError for anything else."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"--scales are named as in -2,-1 or 24,32; not {text!r}") from None
