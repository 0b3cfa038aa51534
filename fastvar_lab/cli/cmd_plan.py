"""Plans schedules for budgets, and writes them to a file that other commands take."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fastvar_lab.cli import options

if TYPE_CHECKING:  # help needs no torch
    from fastvar_lab.planning.planner import Plan, Planner

HELP = "plan a schedule of pruning for a budget"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument(
        "--speedup", type=float, nargs="+", help="speedups over full generation, such as 2"
    )
    budget.add_argument("--psnr", type=float, help="dB to full generation to keep, such as 35")
    budget.add_argument("--ms", type=float, help="milliseconds of one picture on this machine")
    budget.add_argument("--cache-mb", type=float, help="megabytes of keys and values of a picture")
    parser.add_argument(
        "--out", dest="file", type=options.path, default=Path("schedule.json"),
        help="file for the schedule, or for the schedules of several speedups or guidance scales",
    )  # fmt: skip
    parser.add_argument(
        "--cost", choices=("time", "operations"),
        help="what a speedup counts: time on this machine, the default, or operations",
    )  # fmt: skip
    parser.add_argument("--figure", type=options.path, help="file for a picture of the schedule")
    parser.add_argument("--n", type=int, help="pictures that the plan is made on; default: 16")
    parser.add_argument(
        "--guidance", type=float, nargs="+", help="guidance scales; default: the model's"
    )
    parser.add_argument(
        "--quick", action="store_true", help="plan on four pictures, with one round of correction"
    )
    parser.add_argument(
        "--rounds", type=int, help="rounds of correction; default: 2, with --quick 1"
    )
    parser.add_argument("--size", help="final token map, such as 48 or 32x48 (height x width)")
    options.add_prompts(parser)
    parser.add_argument("--store", type=options.path, help="folder of known results")
    options.add_model(parser)


def run(args: argparse.Namespace) -> None:
    """Plan schedules, write them, and print what is predicted and measured of each."""
    from dataclasses import replace

    from fastvar_lab.files import folder
    from fastvar_lab.methods.parse import save_method
    from fastvar_lab.planning.exchange import exchanged
    from fastvar_lab.planning.planner import (
        SPEEDS,
        Planner,
        check_above_0,
        check_quality,
        check_speedup,
    )
    from fastvar_lab.planning.plans import write_plans
    from fastvar_lab.store import Store

    counted = "time" if args.ms is not None else "bytes" if args.cache_mb is not None else None
    if counted is not None and args.cost is not None:
        raise ValueError(f"--cost is what --speedup and --psnr count; the budget counts {counted}")
    if args.file.is_dir():
        raise ValueError(f"--out names the file of the schedule; {args.file} is a folder")
    for speedup in args.speedup or ():
        check_speedup(speedup)
    if args.psnr is not None:
        check_quality(args.psnr, "--psnr")
    for option in ("ms", "cache_mb"):
        if getattr(args, option) is not None:
            check_above_0(f"--{option.replace('_', '-')} is a number", getattr(args, option))
    if args.rounds is not None and args.rounds < 0:
        raise ValueError(f"--rounds is 0 or more; not {args.rounds}")
    scales = list(dict.fromkeys(args.guidance or [None]))
    budgets = list(dict.fromkeys(args.speedup or [None]))
    several = len(scales) * len(budgets) > 1
    if several and args.figure is not None:
        raise ValueError("--figure draws one schedule; give one speedup and one guidance scale")
    if args.figure is not None:
        if args.figure.is_dir() or args.figure.suffix not in (".png", ".pdf", ".svg"):
            raise ValueError(f"--figure names a png, pdf or svg file; not {args.figure}")
        folder(args.figure.parent)
    folder(args.file.parent)
    model = options.open_model(args)
    options.say_what_random_weights_mean(args)
    planners = [
        Planner(
            model,
            counted or args.cost or "time",
            args.n,
            options.prompts(args),
            model.sampling if scale is None else replace(model.sampling, guidance=scale),
            options.sizes_to(model, args.size),
            Store(args.store).prepare(),
            args.quick,
        )
        for scale in scales
    ]
    one = planners[0].minutes(SPEEDS if args.psnr is not None else len(budgets))
    minutes = max(1, round(one * len(scales)))
    print(f"about {minutes} min if nothing is known; what is measured is kept", flush=True)
    for planner in planners:  # what cannot be met is refused before anything is searched
        for speedup in budgets:
            _check(planner, args, speedup)
    done, found = list[Planner](), list[dict[float, Plan]]()
    while planners:
        planner = planners.pop(0)  # its snapshots go with it
        done.append(replace(planner))
        found.append({})
        for speedup in budgets:
            plan = _plan(planner, args, speedup)
            _say(planner, plan)
            found[-1][speedup or plan.speedup] = plan
            if several:
                write_plans(args.file, done, found)
            else:
                save_method(plan.method, args.file)
    if len(scales) > 1 and args.speedup is not None:
        taken = exchanged(done, found)
        write_plans(args.file, done, taken)
        for scale, own, best in zip(scales, found, taken, strict=True):
            for speedup in (s for s, plan in best.items() if plan != own[s]):
                print(
                    f"guidance {scale:g}, {speedup:g} times as fast: the schedule of another scale "
                    f"is better, {best[speedup].psnr:.1f} dB"
                )
    if args.figure is not None:
        from fastvar_lab.planning.plans import plan_figure
        from fastvar_lab.plotting.style import write_figure

        write_figure(args.figure, plan_figure(model, plan.method, planner.sizes))
    print(f"the schedule{'s are' if several else ' is'} in {args.file}")


def _plan(planner: Planner, args: argparse.Namespace, speedup: float | None) -> Plan:
    """Plan for the one budget that is given."""
    if args.psnr is not None:
        return planner.plan_to(args.psnr, args.rounds)
    return planner.plan_within(_budget(planner, args, speedup), args.rounds)


def _check(planner: Planner, args: argparse.Namespace, speedup: float | None) -> None:
    """Raise ValueError for a budget that cannot be met."""
    if args.psnr is not None:
        planner.gentlest(args.psnr)
    else:
        planner.check_reach(_budget(planner, args, speedup))


def _budget(planner: Planner, args: argparse.Namespace, speedup: float | None) -> float:
    """Return the budget that is given, in the unit of the planner's cost."""
    if speedup is not None:
        return planner.budget(speedup)
    return float(args.ms if args.ms is not None else 1e6 * args.cache_mb)


def _say(planner: Planner, plan: Plan) -> None:
    """Print a plan, what is predicted of it, and what it measures."""
    from fastvar_lab.measure.speedup import Speedup
    from fastvar_lab.methods.prune import Dense
    from fastvar_lab.planning.predictions import measured

    print(plan.method)
    print(
        f"predicted: {plan.speedup:.2f} times as {planner.gain}, {planner.spent(plan.method):.4g} "
        f"{planner.price.unit} instead of {planner.spent(Dense()):.4g}"
    )
    full, fast = measured(planner, plan.method)
    by_ratio = sorted(zip(full, fast, strict=True), key=lambda turn: turn[0] / turn[1])
    slow, quick = by_ratio[len(by_ratio) // 2]  # of one turn, so that the numbers agree
    print(f"measured: speedup {Speedup.of(full, fast)}, {quick:.4g} ms instead of {slow:.4g}")
    n = len(planner.calibration.items)
    pictures = f"{n} calibration picture{'s' if n > 1 else ''}"
    print(f"{plan.psnr:.1f} dB to full generation on {pictures}")
