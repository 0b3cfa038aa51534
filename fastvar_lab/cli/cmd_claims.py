"""The paper's claims, checked against measurements."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastvar_lab.cli import options

HELP = "the paper's claims against measurements here"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--quick", action="store_true", help="few prompts: never for committing")
    parser.add_argument(
        "--out", type=options.path, default=Path("figures"), help="folder of claims.md"
    )
    options.add_model(parser)
    options.add_cells(parser)


def run(args: argparse.Namespace) -> None:
    """Check the paper's claims; write claims.md."""
    from fastvar_lab.experiments import claims, run
    from fastvar_lab.files import folder

    folder(args.out)
    how, scope = options.opened(args), "quick" if args.quick else "paper"
    model = run.open_model(how)
    options.say_what_random_weights_mean(args)
    names = dict.fromkeys(claim.experiment for claim in claims.CLAIMS)
    with options.cells(args) as (store, executor):
        frames = {
            name: run.run(name, scope, how=how, store=store, executor=executor) for name in names
        }
    where = "Written by `python -m fastvar_lab claims`. "
    where += f"Model `{model.name}`, weights `{model.fingerprint}`, on {model.device}, --{scope}."
    text = claims.table(frames, where)
    claims.save(args.out / "claims.md", text)
    print(text)
