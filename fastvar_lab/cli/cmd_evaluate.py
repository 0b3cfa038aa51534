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
    parser.add_argument("--out", type=options.path, help="folder that keeps the pictures")
    parser.add_argument(
        "--store", type=options.path, help="folder of known reconstructions by tokenizers"
    )
    parser.add_argument(
        "--given",
        type=int,
        default=0,
        help="number of first scales whose ground-truth tokens are fed",
    )
    parser.add_argument(
        "--judge", action="store_true", help="score the judge on N rendered scenes instead"
    )
    options.add_method(parser, "no pruning")
    options.add_model(parser)
    options.add_seed(parser)


def run(args: argparse.Namespace) -> None:
    """Score a model, or the judge itself."""
    if args.n < 7:
        raise ValueError(f"--n must be at least 7, one picture for each task; not {args.n}")
    drawing = args.ratios, args.method, args.size, args.given, args.out, args.store
    if args.judge and drawing != (None, None, None, 0, None, None):
        raise ValueError(
            "--judge scores rendered scenes and takes no --ratios, --method, --size, --given, "
            "--out, --store"
        )
    from fastvar_lab.evaluators.closed_world import judge_accuracy, need_judge
    from fastvar_lab.experiments.evaluation import evaluate, table
    from fastvar_lab.methods.prune import Dense
    from fastvar_lab.store import Store

    method = options.method(args) or Dense()
    model = options.open_model(args)
    need_judge(model)
    options.say_what_random_weights_mean(args)
    if args.judge:
        print(json.dumps(judge_accuracy(model, args.n, args.seed), indent=1))
        return
    sizes = options.sizes_to(model, args.size)
    options.say_where_planned(method, model, sizes)
    result = evaluate(
        model,
        method,
        args.n,
        args.seed,
        sizes,
        given=args.given,
        folder=args.out,
        store=Store(args.store),
    )
    print(json.dumps(result, indent=1) if args.json else table(result))
