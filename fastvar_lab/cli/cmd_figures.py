"""Draws figures with their data, lists them, or checks or redraws them from their data."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from fastvar_lab.cli import options

HELP = "draw the figures and write their data"
ENDINGS = ("png", "pdf", "svg")
EACH = 8  # figures to check for which another process, some seconds to start, pays


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "names", nargs="*", help="names of figures; default: those of generated pictures"
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="every figure, experiments included: most of a day if nothing is known",
    )
    parser.add_argument("--list", action="store_true", help="list the names")
    parser.add_argument(
        "--check",
        action="store_true",
        help="redraw from the written data and compare, tables and captions too",
    )
    parser.add_argument(
        "--redraw", action="store_true", help="redraw from the written data and overwrite"
    )
    parser.add_argument(
        "--quick", action="store_true", help="few prompts; a smoke test, not for publication"
    )
    parser.add_argument(
        "--default", action="store_true", help="as many prompts as `experiment` takes: 24"
    )
    parser.add_argument(
        "--format", default="png,pdf", help="comma-separated formats: png, pdf, svg"
    )
    parser.add_argument(
        "--out",
        type=options.path,
        default=Path("figures"),
        help="folder to write to; figures there are overwritten",
    )
    options.add_model(parser)
    options.add_seed(parser)
    options.add_prompts(parser)
    options.add_metrics(parser)
    options.add_cells(parser)


def run(args: argparse.Namespace) -> None:
    """Draw figures, list them, or check or redraw those of a folder from their data."""
    endings = options.names(args.format)
    for ending in endings:
        if ending not in ENDINGS:
            raise ValueError(f"--format takes png, pdf and svg; not {ending!r}")
    if args.quick and args.default:
        raise ValueError("--quick and --default exclude each other; give at most one")
    from fastvar_lab.experiments import listing

    names = listing.chosen(args.names, args.all)
    if args.list:
        print("\n".join(listing.figures()))
        return
    from fastvar_lab.experiments import figures, workers

    if args.check:
        names = args.names or figures.figures_in(args.out)
        several = min(os.cpu_count() or 1, len(names) // EACH)
        with workers.executor(args.workers or (several if several > 1 else 0)) as pool:
            problems = figures.check(args.out, names, pool)
        if problems:
            raise ValueError("; ".join(problems))
        print(f"every figure in {args.out} matches its data")
        return
    if args.redraw:
        for path in figures.redraw(args.out, args.names, endings):
            print(path)
        return
    spec, prompts, metrics = options.spec(args), options.prompts(args), options.metrics(args)
    scope = "quick" if args.quick else "default" if args.default else "paper"
    model = spec.open()
    with options.cells(args) as (store, executor):
        for path in figures.draw(
            model,
            names,
            args.out,
            args.seed,
            scope=scope,
            spec=spec,
            prompts=prompts,
            metrics=metrics,
            store=store,
            executor=executor,
            endings=endings,
        ):
            print(path)
