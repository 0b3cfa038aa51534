"""Calibrates a method on a model, and prints it as a value."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastvar_lab.cli import options

if TYPE_CHECKING:
    from fastvar_lab.models.model import Model
    from fastvar_lab.prompts import Item

HELP = "measure on a model the constants that a method needs"
OPTIONS = {
    "heatkv": ("budget",),
    "scalekv": ("budget", "score"),
    "fastervar": ("energy", "scales", "chunks"),
    "skipvar": ("target", "decide", "look"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("method", choices=tuple(OPTIONS), help="method to calibrate")
    parser.add_argument(
        "--n", type=int, default=10, help="number of prompts; about 64 serve skipvar"
    )
    parser.add_argument(
        "--budget", type=float, help="share of keys that heatkv and scalekv keep, such as 0.2"
    )
    parser.add_argument(
        "--score", choices=("softmax", "raw"), help="scalekv's score: the paper's or the code's"
    )
    parser.add_argument("--energy", type=float, help="share of energy that fastervar keeps")
    parser.add_argument("--scales", help="scales that fastervar runs at low rank, such as -2,-1")
    parser.add_argument("--chunks", type=int, help="number of chunks of layers of fastervar")
    parser.add_argument(
        "--target", type=float, help="SSIM to full generation that tails of skipvar must reach"
    )
    parser.add_argument("--decide", type=int, help="step after which skipvar decides, from the end")
    parser.add_argument("--look", type=int, help="step at whose size skipvar looks, from the end")
    parser.add_argument(
        "--out", type=options.path, help="folder for METHOD.json: the method and its origin"
    )
    options.add_prompts(parser)
    options.add_model(parser)
    parser.add_argument("--guidance", type=float, help="guidance scale; default: the model's")
    parser.add_argument("--seed", type=int, default=101, help="seed of the prompts")


def run(args: argparse.Namespace) -> None:
    """Print the calibrated method; write it with its origin to --out."""
    if args.n < 1:
        raise ValueError(f"--n must be at least 1; not {args.n}")
    for name in {name for names in OPTIONS.values() for name in names}:
        if name not in OPTIONS[args.method] and getattr(args, name) is not None:
            raise ValueError(f"--{name} is not an option of {args.method}")
    scales = [_scale(name) for name in (args.scales or "-2,-1").split(",")]
    from fastvar_lab.files import folder, write_json
    from fastvar_lab.measure import calibration, scalekv_budgets
    from fastvar_lab.planning.effects import calibration_items

    model = options.open_model(args)
    if args.guidance is not None:
        model = model.with_guidance(args.guidance)
    options.say_what_random_weights_mean(args)
    items = calibration_items(model, args.n, options.prompts(args), args.seed)
    for item in items:
        model.check(item.prompt)
    if args.method == "skipvar":
        _skipvar(args, model, items)
        return
    if args.method == "heatkv":
        method: object = calibration.heatkv(model, items, _given_or(args.budget, 0.2))
    elif args.method == "scalekv":
        score = args.score or "softmax"
        method = scalekv_budgets.scalekv(model, items, _given_or(args.budget, 0.2), score)
    else:
        energy, chunks = _given_or(args.energy, 0.96), _given_or(args.chunks, min(8, model.depth))
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


def _skipvar(args: argparse.Namespace, model: Model, items: Sequence[Item]) -> None:
    """Fit SkipVAR's rule and write it to --out; print the method, and what its pictures bear."""
    if args.out is None:
        raise ValueError("skipvar is read from a file; name a folder with --out")
    from fastvar_lab.files import folder, write_utf8
    from fastvar_lab.measure import skip_rule
    from fastvar_lab.methods.skipvar import SkipVAR, write_rule

    settings = {"target": args.target, "decide": args.decide, "look": args.look}
    given = {name: value for name, value in settings.items() if value is not None}
    rule, source = skip_rule.skipvar(model, items, **given)
    path = folder(args.out) / "skipvar.json"
    write_utf8(path, write_rule(rule, source=source))
    print(SkipVAR(str(path)))
    print(source)


def _given_or(value: Any, default: Any) -> Any:
    """Return an option that was given, 0 too, or its default."""
    return default if value is None else value


def _scale(text: str) -> int:
    """Read a scale name such as -1 or 32; raise ValueError for anything else."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"--scales are named as in -2,-1 or 24,32; not {text!r}") from None
