"""Makes the pictures of a benchmark."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from fastvar_lab.cli import options

if TYPE_CHECKING:
    from fastvar_lab.models.model import Model
    from fastvar_lab.sampling import Sampling
    from fastvar_lab.seam import Method

HELP = "make the pictures of a benchmark"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    options.add_benchmark(parser)
    parser.add_argument("--out", type=options.path, required=True, help="folder of the pictures")
    parser.add_argument("--paper", action="store_true", help="prune by the model's preset")
    parser.add_argument("--method", help="a method as Python, such as 'Merge({-1: 0.5})'")
    parser.add_argument("--guidance", type=float, help="guidance scale; default: the model's")
    parser.add_argument("--temperature", type=float, help="temperature; default: the model's")
    parser.add_argument("--size", help="final token map, such as 64; default: the model's")
    parser.add_argument("--seeds", default="each", help="each, per-prompt, or one for all pictures")
    parser.add_argument("--rewritten", type=options.path, help="JSON file of rewritten prompts")
    parser.add_argument("--quality", type=int, default=95, help="quality of JPEG files")
    parser.add_argument("--batch", type=int, default=4, help="pictures generated at once")
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th batch, from batch i")
    parser.add_argument("--dry-run", action="store_true", help="estimate time and disk, and stop")
    parser.add_argument("--workers", type=int, default=0, help="processes beside this one")
    parser.add_argument("--scheduler", help="address of a running dask cluster")
    options.add_ratios(parser, "no pruning")
    options.add_model(parser)
    options.add_seed(parser)


def run(args: argparse.Namespace) -> None:
    """Make the pictures that are not there."""
    if sum(x is not None for x in (args.ratios, args.method)) + args.paper > 1:
        raise ValueError("--ratios, --paper and --method exclude each other; give at most one")
    if args.batch < 1 or not 1 <= args.quality <= 100:
        raise ValueError(
            f"--batch must be 1 or more, --quality 1 to 100; not {args.batch}, {args.quality}"
        )
    shard = _shard(args.shard)
    from fastvar_lab.experiments.making import Job, estimate, make, prepare
    from fastvar_lab.experiments.workers import executor

    plan = options.plan(args, seeds=args.seeds, seed=args.seed, rewritten=args.rewritten)
    plan.samples()  # raises before the model is opened
    model = options.open_model(args)
    sizes = options.sizes_to(model, args.size)
    job = Job(plan, _method(args, model), _sampling(args, model), sizes, args.batch, args.quality)
    options.say_what_random_weights_mean(args)
    prepare(model, job, args.out)
    guess = estimate(model, job, args.out)
    print(
        f"{guess.pictures} pictures to make: about {guess.seconds / 3600 / shard[1]:.2f} hours on "
        f"{model.device.type}, {guess.gigabytes:.2f} GB in {args.out}"
    )
    if args.dry_run:
        return
    with executor(args.workers, args.scheduler) as pool:
        spec = model if pool is None else options.spec(args).resolved()
        print(f"made {make(spec, job, args.out, shard, pool)} pictures in {args.out}")


def _shard(text: str) -> tuple[int, int]:
    """Read i/n."""
    parts = text.split("/")
    if len(parts) != 2 or not all(p.isdecimal() for p in parts) or int(parts[0]) >= int(parts[1]):
        raise ValueError(f"--shard is i/n with i from 0 to n - 1, such as 0/4; not {text!r}")
    return int(parts[0]), int(parts[1])


def _method(args: argparse.Namespace, model: Model) -> Method:
    from fastvar_lab.methods.parse import read_method
    from fastvar_lab.methods.prune import Dense
    from fastvar_lab.models.model import paper_preset

    if args.method is not None:
        return read_method(args.method)
    return paper_preset(model) if args.paper else options.pruning(args) or Dense()


def _sampling(args: argparse.Namespace, model: Model) -> Sampling:
    from dataclasses import replace

    given = {"guidance": args.guidance, "temperature": args.temperature}
    return replace(model.sampling, **{k: v for k, v in given.items() if v is not None})
