"""Tunes the settings of method families on calibration prompts, with equal numbers of trials."""

from __future__ import annotations

import argparse

from fastvar_lab.cli import options

HELP = "search the best settings of method families, with equal numbers of trials"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "families", nargs="*", help="names of families; without any, they are listed"
    )
    parser.add_argument("--all", action="store_true", help="every family")
    parser.add_argument(
        "--guidance", type=float, nargs="+", help="guidance scales; default: the model's"
    )
    parser.add_argument("--trials", type=int, default=12, help="settings tried for each family")
    parser.add_argument("--n", type=int, default=4, help="pictures that a setting is tried on")
    parser.add_argument(
        "--log", type=options.path, help="file of the trials; default: that of the package"
    )
    parser.add_argument("--store", type=options.path, help="folder of calibrated constants")
    options.add_prompts(parser)
    options.add_model(parser)


def run(args: argparse.Namespace) -> None:
    """Tune families, or list them with what the log holds of each."""
    if args.families and args.all:
        raise ValueError("--all tunes every family; name none beside it")
    if args.n < 1:
        raise ValueError(f"--n must be at least 1; not {args.n}")
    from fastvar_lab.files import folder
    from fastvar_lab.methods.spaces import find_space, spaces
    from fastvar_lab.planning import tuning
    from fastvar_lab.planning.trials import SHIPPED, TuningLog
    from fastvar_lab.store import Store

    log = TuningLog.read(args.log or SHIPPED)
    chosen = list(spaces().values()) if args.all else [find_space(f) for f in args.families]
    if chosen:
        folder(log.path.parent)  # raises before anything is computed that could not be kept
    model = options.open_model(args)
    scales = args.guidance or [model.sampling.guidance]
    models = [model.with_guidance(scale) for scale in scales]
    if not chosen:
        print(tuning.overview(log, models))
        return
    options.say_what_random_weights_mean(args)
    for line in tuning.tune(
        models, chosen, log, args.trials, args.n, options.prompts(args), Store(args.store)
    ):
        print(line)
