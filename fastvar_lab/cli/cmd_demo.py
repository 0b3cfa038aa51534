"""Generates one prompt in full and with FastVAR and compares the two."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastvar_lab.cli import options

HELP = "compare full generation with FastVAR on one prompt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--prompt", help="default: the model's example prompt")
    parser.add_argument(
        "--out",
        type=options.path,
        default=Path("demo"),
        help="folder for the results; those there are overwritten",
    )
    options.add_method(parser, "the model's preset")
    options.add_model(parser)
    options.add_seed(parser)


def run(args: argparse.Namespace) -> None:
    """Generate one prompt in full and with FastVAR; write and print the comparison."""
    from fastvar_lab.experiments import demo
    from fastvar_lab.models.model import paper_preset

    given = options.method(args)
    model = options.open_model(args)
    prompt = model.example if args.prompt is None else args.prompt
    model.check(prompt)
    options.say_what_random_weights_mean(args)
    method = given or paper_preset(model)
    options.say_where_planned(method, model)
    report = demo.demo(model, prompt, method, args.seed, args.out)
    print(demo.table(report))
    print(f"pictures and numbers are in {args.out}/")
