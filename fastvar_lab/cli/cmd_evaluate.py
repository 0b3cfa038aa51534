"""Scores a model, or the judge itself, on the tasks of the closed world."""

from __future__ import annotations

import argparse
import json

from fastvar_lab.cli import options

HELP = "score a model on the tasks of the closed world"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--n", type=int, default=200, help="number of pictures")
    parser.add_argument("--size", help="final token map, such as 48 or 32x48 (height x width)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--given",
        type=int,
        default=0,
        help="number of first scales whose ground-truth tokens are fed",
    )
    parser.add_argument(
        "--judge", action="store_true", help="score the judge on N rendered scenes instead"
    )
    options.add_ratios(parser, "no pruning")
    options.add_model(parser)
    options.add_seed(parser)


def run(args: argparse.Namespace) -> None:
    """Score a model, or the judge itself."""
    if args.n < 7:
        raise ValueError(f"--n must be at least 7, one picture for each task; not {args.n}")
    if args.judge and (args.ratios, args.size, args.given) != (None, None, 0):
        raise ValueError("--judge scores rendered scenes and takes no --ratios, --size or --given")
    from fastvar_lab.evaluators.closed_world import evaluate, judge_accuracy, need_judge, table
    from fastvar_lab.methods.prune import Dense

    method = options.pruning(args) or Dense()
    model = options.open_model(args)
    need_judge(model)
    options.say_what_random_weights_mean(args)
    if args.judge:
        print(json.dumps(judge_accuracy(model, args.n, args.seed), indent=1))
        return
    sizes = options.sizes_to(model, args.size)
    result = evaluate(model, method, args.n, args.seed, sizes, given=args.given)
    print(json.dumps(result, indent=1) if args.json else table(result))
