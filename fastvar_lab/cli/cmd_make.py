"""Makes the pictures of a benchmark."""

from __future__ import annotations

import argparse

from fastvar_lab.cli import generate_options, options, release_options

HELP = "make the pictures of a benchmark"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    options.add_benchmark(parser)
    parser.add_argument("--out", type=options.path, required=True, help="folder of the pictures")
    parser.add_argument("--paper", action="store_true", help="prune by the model's preset")
    parser.add_argument("--size", help="final token map, such as 64; default: the model's")
    parser.add_argument("--seeds", default="each", help="each, per-prompt, or one for all pictures")
    parser.add_argument("--rewritten", type=options.path, help="JSON file of rewritten prompts")
    parser.add_argument("--quality", type=int, help="quality of JPEG files; default: 95")
    parser.add_argument(
        "--pixels", default="round", help="round, or truncate as HART's released script does"
    )
    parser.add_argument("--batch", type=int, default=4, help="pictures generated at once")
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th batch, from batch i")
    parser.add_argument("--dry-run", action="store_true", help="estimate time and disk, and stop")
    parser.add_argument("--workers", type=int, default=0, help="processes beside this one")
    parser.add_argument("--scheduler", help="address of a running dask cluster")
    release_options.add(parser)
    generate_options.add_sampling(parser)
    generate_options.add_positive_prompt(parser)
    options.add_method(parser, "no pruning")
    options.add_model(parser)
    options.add_seed(parser)


def run(args: argparse.Namespace) -> None:
    """Make the pictures that are not there."""
    if sum(x is not None for x in (args.ratios, args.method)) + args.paper > 1:
        raise ValueError("--ratios, --paper and --method exclude each other; give at most one")
    shard = _shard(args.shard)
    from fastvar_lab.experiments.making import QUALITY, MakeJob, estimate, make, prepare
    from fastvar_lab.experiments.workers import executor
    from fastvar_lab.methods.prune import Dense
    from fastvar_lab.models.model import paper_preset

    plan = options.plan(
        args,
        seeds=args.seeds,
        seed=args.seed,
        rewritten=args.rewritten,
        suffix=generate_options.suffix(args),
    )
    if args.quality is not None and plan.format != "jpg":
        raise ValueError(f"--quality is of JPEG files; these are {plan.format}, see --format")
    quality = QUALITY if args.quality is None else args.quality
    choices = {"batch": args.batch, "quality": quality, "pixels": args.pixels}
    MakeJob(plan, options.method(args) or Dense(), **choices)  # raises before the model is opened
    shared = bool(args.workers or args.scheduler)
    if shared and args.features is None and release_options.has_text(args):
        args.features = args.out.with_name(f"{args.out.name}.features")
    prompts = list(dict.fromkeys(sample.written for sample in plan.samples()))
    model = release_options.open_encoded(args, prompts)
    method = paper_preset(model) if args.paper else options.method(args) or Dense()
    job = MakeJob(plan, method, generate_options.sampling(args, model), model.sizes, **choices)
    options.say_what_random_weights_mean(args)
    options.say_where_planned(method, model, sampling=job.sampling)
    prepare(model, job, args.out)
    guess = estimate(model, job, args.out, True if args.dry_run else None)
    hours = "" if guess.seconds is None else f" about {guess.seconds / 3600 / shard[1]:.2f} hours,"
    print(
        f"{guess.pictures} pictures to make on {model.device.type}:{hours} "
        f"{guess.gigabytes:.2f} GB in {args.out}"
    )
    if args.dry_run:
        return
    with executor(args.workers, args.scheduler) as pool:
        spec = model if pool is None else release_options.spec(args)
        print(f"made {make(spec, job, args.out, shard, pool)} pictures in {args.out}")


def _shard(text: str) -> tuple[int, int]:
    """Read i/n."""
    parts = text.split("/")
    if len(parts) != 2 or not all(p.isdecimal() for p in parts) or int(parts[0]) >= int(parts[1]):
        raise ValueError(f"--shard is i/n with i from 0 to n - 1, such as 0/4; not {text!r}")
    return int(parts[0]), int(parts[1])
