"""Plans a schedule for a budget, and writes it to a file that other commands take."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastvar_lab.cli import options

HELP = "plan a schedule of pruning for a budget"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--speedup", type=float, help="speedup over full generation, such as 2")
    budget.add_argument("--psnr", type=float, help="dB to full generation to keep, such as 35")
    parser.add_argument(
        "--out", dest="file", type=options.path, default=Path("schedule.json"),
        help="file for the schedule",
    )  # fmt: skip
    parser.add_argument(
        "--cost", choices=("time", "operations"), default="time",
        help="what the budget counts: time on this machine, or operations",
    )  # fmt: skip
    parser.add_argument("--n", type=int, default=8, help="pictures that the plan is made on")
    parser.add_argument("--guidance", type=float, help="guidance scale; default: the model's")
    parser.add_argument(
        "--quick", action="store_true", help="plan on four pictures, with layers in groups"
    )
    parser.add_argument("--size", help="final token map, such as 48 or 32x48 (height x width)")
    options.add_prompts(parser)
    parser.add_argument("--store", type=options.path, help="folder of known results")
    options.add_model(parser)


def run(args: argparse.Namespace) -> None:
    """Plan a schedule, write it, and print what is predicted of it."""
    from dataclasses import replace
    from statistics import median

    from fastvar_lab.files import folder
    from fastvar_lab.measure.speedup import Speedup
    from fastvar_lab.methods.parse import save_method
    from fastvar_lab.methods.prune import Dense
    from fastvar_lab.planning.planner import Planner
    from fastvar_lab.planning.predictions import measured
    from fastvar_lab.store import Store

    if args.file.is_dir():
        raise ValueError(f"--out names the file of the schedule; {args.file} is a folder")
    folder(args.file.parent)
    model = options.open_model(args)
    sampling = model.sampling
    if args.guidance is not None:
        sampling = replace(sampling, guidance=args.guidance)
    options.say_what_random_weights_mean(args)
    planner = Planner(
        model,
        args.cost,
        args.n,
        options.prompts(args),
        sampling,
        options.sizes_to(model, args.size),
        Store(args.store).prepare(),
        args.quick,
    )
    plan = planner.plan(args.speedup) if args.psnr is None else planner.plan_to(args.psnr)
    save_method(plan.method, args.file)
    print(plan.method)
    print(
        f"predicted: {plan.speedup:.2f} times as fast, {planner.spent(plan.method):.4g} "
        f"{planner.price.unit} instead of {planner.spent(Dense()):.4g}"
    )
    full, fast = measured(planner, plan.method)
    print(
        f"measured: {Speedup.of(full, fast)} times as fast, {median(fast):.4g} ms instead of "
        f"{median(full):.4g}"
    )
    print(
        f"{plan.psnr:.1f} dB to full generation on {len(planner.calibration.items)} calibration "
        "pictures"
    )
    print(f"the schedule is in {args.file}")
