"""Figures with their data: drawn, listed, checked, or drawn again."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastvar_lab.cli import options

HELP = "draw figures again, with their data"
ENDINGS = ("png", "pdf", "svg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("names", nargs="*", help="which; default: those of pictures")
    parser.add_argument(
        "--all", action="store_true", help="all, experiments included: hours without known cells"
    )
    parser.add_argument("--list", action="store_true", help="list the names")
    parser.add_argument("--check", action="store_true", help="redraw from the data; compare")
    parser.add_argument("--redraw", action="store_true", help="redraw from the data; keep")
    parser.add_argument("--quick", action="store_true", help="few prompts: never for committing")
    parser.add_argument("--format", default="png,pdf", help="endings, of png, pdf and svg")
    parser.add_argument(
        "--out", type=options.path, default=Path("figures"), help="folder, overwritten"
    )
    options.add_model(parser)
    options.add_seed(parser)
    options.add_cells(parser)


def run(args: argparse.Namespace) -> None:
    """Draw figures, list them, or check or draw again those of a folder from their data."""
    endings = args.format.split(",")
    for ending in endings:
        if ending not in ENDINGS:
            raise ValueError(f"--format takes png, pdf and svg; not {ending!r}")
    from fastvar_lab.experiments import figures, run

    names = figures.chosen(args.names, args.all)
    if args.list:
        print("\n".join(figures.NAMES))
        return
    if args.check:
        wrong = figures.check(args.out, args.names)
        if wrong:
            raise ValueError("; ".join(wrong))
        print(f"every figure in {args.out} is what its data draw")
        return
    if args.redraw:
        for path in figures.again(args.out, args.names, endings):
            print(path)
        return
    how = options.opened(args)
    scope = "quick" if args.quick else "paper"
    with options.cells(args) as (store, executor):
        model = run.open_model(how)
        options.say_what_random_weights_mean(args)
        for path in figures.draw(
            model,
            names,
            args.out,
            args.seed,
            scope=scope,
            how=how,
            store=store,
            executor=executor,
            endings=endings,
        ):
            print(path)
