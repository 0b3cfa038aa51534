"""Runs experiments: each answers a question with measurements."""

from __future__ import annotations

import argparse
from typing import Any

from fastvar_lab.cli import options

HELP = "run experiments, or list them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "names", nargs="*", help="names of experiments; without any, they are listed"
    )
    parser.add_argument("--quick", action="store_true", help="few prompts; a smoke test")
    parser.add_argument("--paper", action="store_true", help="as many prompts as the claims need")
    parser.add_argument(
        "--out",
        type=options.path,
        help="folder for frames, tables and figures, of --untimed for rows alone; those there are "
        "overwritten",
    )
    parser.add_argument(
        "--guidance", type=float, nargs="+", help="guidance scales to sample with; default: its own"
    )
    parser.add_argument(
        "--untimed",
        action="store_true",
        help="compute and keep what is not timed; a run without it then times the rest",
    )
    options.add_model(parser)
    options.add_prompts(parser)
    options.add_metrics(parser)
    options.add_cells(parser)


def run(args: argparse.Namespace) -> None:
    """Run experiments, or list them."""
    if args.quick and args.paper:
        raise ValueError("--quick and --paper exclude each other; give at most one")
    from fastvar_lab.experiments import listing

    if not args.names:
        for name, summary in listing.experiments().items():
            print(f"{name:<20} {summary}")
        return
    listing.check_experiments(args.names)
    from fastvar_lab.experiments import run
    from fastvar_lab.experiments.figures import draw_frame, keep_untimed, meaningless
    from fastvar_lab.files import folder

    scope = "quick" if args.quick else "paper" if args.paper else "default"
    spec, prompts, metrics = options.spec(args), options.prompts(args), options.metrics(args)
    model = spec.open()
    with options.cells(args) as (store, executor):
        if args.out is not None:
            folder(args.out)
        chosen: dict[str, Any] = {
            "model": spec,
            "prompts": prompts,
            "metrics": metrics,
            "guidance": args.guidance,
            "store": store,
            "executor": executor,
        }
        for name in args.names:
            try:
                frame = run.run(name, scope, timed=not args.untimed, **chosen)
            except run.AllTimed as error:
                if len(args.names) == 1:
                    raise
                print(f"{error}; nothing to do")
                continue
            if args.untimed:
                print(f"{name}: {len(frame)} rows; a run without --untimed times the rest")
                if args.out is not None:
                    print(keep_untimed(model, name, frame, args.out, scope, spec, prompts, metrics))
                continue
            if meaningless(model, name):
                options.say_what_random_weights_mean(args)
            print(run.table(name, frame))
            if args.out is not None:
                for path in draw_frame(model, name, frame, args.out, scope, spec, prompts, metrics):
                    print(path)
