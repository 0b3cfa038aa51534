"""Questions answered with measurements."""

from __future__ import annotations

import argparse

from fastvar_lab.cli import options

HELP = "answer a question with measurements"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("names", nargs="*", help="which; without any, they are listed")
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    parser.add_argument("--paper", action="store_true", help="as many prompts as claims need")
    parser.add_argument(
        "--out", type=options.path, help="folder for each frame, its tables and figure"
    )
    options.add_model(parser)
    options.add_cells(parser)


def run(args: argparse.Namespace) -> None:
    """Run experiments, or list them."""
    if args.quick and args.paper:
        raise ValueError("--quick and --paper say how much to run; give one")
    from fastvar_lab.experiments import run
    from fastvar_lab.experiments.figures import draw_frame
    from fastvar_lab.files import folder

    if not args.names:
        for name, experiment in sorted(run.REGISTRY.items()):
            slow = " Slow." if experiment.slow else ""
            print(f"{name:<20} {experiment.question} ({experiment.source}){slow}")
        return
    scope = "quick" if args.quick else "paper" if args.paper else "default"
    for name in args.names:
        run.find(name)
    if args.out is not None:
        folder(args.out)
    model = options.opened(args)
    with options.cells(args) as (store, executor):
        for name in args.names:
            frame = run.run(name, scope, how=model, store=store, executor=executor)
            if "repeats" not in frame or frame.repeats.isna().any():  # not of times alone
                options.say_what_random_weights_mean(args)
            print(run.table(name, frame))
            if args.out is not None:
                opened = run.open_model(model)
                for path in draw_frame(opened, name, frame, args.out, scope, model):
                    print(path)
