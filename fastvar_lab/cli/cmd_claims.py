"""Checks the paper's claims against measurements."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastvar_lab.cli import options

HELP = "check the paper's claims against measurements"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--quick", action="store_true", help="few prompts; a smoke test, not for publication"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("figures"), help="folder to write claims.md to"
    )
    options.add_model(parser)
    options.add_cells(parser)


def run(args: argparse.Namespace) -> None:
    """Check the paper's claims; write claims.md."""
    from fastvar_lab.experiments import claims, run
    from fastvar_lab.files import folder

    folder(args.out)
    opened, scope = options.opened(args), "quick" if args.quick else "paper"
    model = run.open_model(opened)
    options.say_what_random_weights_mean(args)
    names = dict.fromkeys(claim.experiment for claim in claims.CLAIMS)
    with options.cells(args) as (store, executor):
        frames = {
            name: run.run(name, scope, how=opened, store=store, executor=executor) for name in names
        }
    heading = "Written by `python -m fastvar_lab claims`. "
    heading += f"Model `{model.name}`, weights `{model.fingerprint}`, on {model.device}, --{scope}."
    text = claims.table(frames, heading)
    claims.save(args.out / "claims.md", text)
    print(text)
