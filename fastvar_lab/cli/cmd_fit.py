"""Fits what a method needs to know of a model, and writes it as JSON."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastvar_lab.cli import options

HELP = "fit the decision rule of SkipVAR to a model"
LEAST = 8  # pictures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("method", choices=("skipvar",), help="method to fit")
    parser.add_argument("--n", type=int, default=64, help="number of pictures")
    parser.add_argument(
        "--target", type=float, default=0.96, help="SSIM to full generation that tails must reach"
    )
    parser.add_argument(
        "--decide", type=int, default=-4, help="step after which it decides, from the end"
    )
    parser.add_argument("--look", type=int, default=-6, help="step at whose size it looks")
    parser.add_argument(
        "--out", type=options.path, default=Path("skipvar.json"), help="file of the rule"
    )
    options.add_model(parser)
    parser.add_argument("--seed", type=int, default=5, help="seed of the prompts")


def run(args: argparse.Namespace) -> None:
    """Generate pictures with each tail, fit the rule, and write it."""
    if args.n < LEAST:
        raise ValueError(f"--n must be at least {LEAST}; not {args.n}")
    if not 0 < args.target < 1:
        raise ValueError(f"--target is an SSIM between 0 and 1; not {args.target}")
    from fastvar_lab.files import write
    from fastvar_lab.methods.skipvar import write_rule
    from fastvar_lab.prompts import ClosedWorld
    from fastvar_lab.training import skip_rule

    prompts = ClosedWorld(seed=args.seed)
    if prompts == ClosedWorld():
        raise ValueError(f"the prompts of seed {args.seed} judge methods; choose another --seed")
    model = options.open_model(args)
    steps = len(model.sizes)
    decide, look = (steps + args.decide, steps + args.look)
    if args.decide > -1 - max(skip_rule.TAILS) or decide < 1 or not 0 <= look < steps:
        raise ValueError(
            f"--decide names a step with one before it and {max(skip_rule.TAILS)} after it, and "
            f"--look any of the {steps} steps, from the end; not {args.decide} and {args.look}"
        )
    items = prompts.take(args.n)
    samples = [skip_rule.sample(model, item, decide, look) for item in items]
    rule = skip_rule.fit(samples, args.target, steps, decide, look)
    labels = [skip_rule.longest(one.skipped, args.target) for one in samples]
    right = sum(rule.skip(one.features) == n for one, n in zip(samples, labels, strict=True))
    guidance = model.sampling.guidance
    source = (
        f"fitted on {args.n} prompts of ClosedWorld(seed={args.seed}) with {model.name}, guidance "
        f"{guidance:g}, SSIM {args.target:g}; {right} of {args.n} steps to skip predicted"
    )
    write(args.out, lambda path: path.write_text(write_rule(rule, source=source)))
    for n in sorted(set(labels)):
        print(f"{labels.count(n)} of {args.n} pictures can skip the last {n} steps")
    print(f"{right} of {args.n} predicted; the rule is in {args.out}")
