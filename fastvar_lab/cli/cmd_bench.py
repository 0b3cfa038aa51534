"""Times generations, beside counted operations and hardware floors."""

from __future__ import annotations

import argparse
import json

from fastvar_lab.cli import options

HELP = "time full and pruned generation"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--repeats", type=int, default=5, help="timed runs of each method, after warm-up"
    )
    parser.add_argument("--case", default="", help="run only cases whose name contains this text")
    options.add_method(parser, "the cases of the model")
    parser.add_argument(
        "--size", help="final token map under the method, such as 48 or 32x48 (height x width)"
    )
    parser.add_argument(
        "--suite",
        choices=("paper", "launches", "plans", "batches", "compiled"),
        help="time the paper's models and sizes with random weights, count GPU launches, compare "
        "predicted with measured times of schedules, time batches of 1 to 8 pictures, or branches "
        "under torch.compile",
    )
    parser.add_argument(
        "--graphs", action="store_true", help="also time captured generations (CUDA graphs)"
    )
    parser.add_argument(
        "--attached", action="store_true", help="time an attached model over a loaded one instead"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--out",
        type=options.path,
        help="folder for the suite's numbers, table and figure; resumes there",
    )
    parser.add_argument("--depth", type=int, help="use only the first DEPTH layers of the model")
    options.add_model(parser)


def run(args: argparse.Namespace) -> None:
    """Time full and pruned generation."""
    if args.repeats < 1:
        raise ValueError(f"--repeats must be at least 1; not {args.repeats}")
    if args.suite in ("paper", "launches") and (
        args.model != "tiny" or args.weights not in (None, "random")
    ):
        raise ValueError(
            "--suite fixes models and weights; choose among its cases with --case, not --model"
        )
    method = options.method(args)
    if method is not None and (args.suite or args.attached or args.case):
        raise ValueError("--method and --ratios take no --suite, --attached or --case")
    if args.size is not None and method is None:
        raise ValueError("--size needs --method or --ratios")
    if args.attached and (args.suite or args.case or args.graphs):
        raise ValueError("--attached times one ratio; it takes no --suite, --case or --graphs")
    if args.out is not None and not args.suite:
        raise ValueError("--out requires --suite")
    if args.suite == "compiled" and (args.out is not None or args.graphs):
        raise ValueError("--suite compiled takes no --graphs and --out")
    if args.suite == "launches":
        if args.out is not None or args.depth is not None or args.graphs:
            raise ValueError("--suite launches takes --case and --json alone")
        from fastvar_lab.speed import launches

        rows, record = launches.suite(args.case), launches.before()
        result = {"before": record, "now": rows}
        print(json.dumps(result, indent=1) if args.json else launches.table(rows, record))
        return
    import torch

    from fastvar_lab.methods.columns import labelled
    from fastvar_lab.models.loading import load, require
    from fastvar_lab.speed import attached, batches, bench, compiled, suite

    require(args.device)
    if args.suite == "plans":
        if args.out is not None or args.depth is not None or args.case or args.graphs:
            raise ValueError("--suite plans takes no --case, --depth, --graphs and --out")
        _plans(args)
        return
    name = args.dtype or ("bfloat16" if torch.device(args.device).type == "cuda" else "float32")
    dtype = getattr(torch, name)
    if args.suite == "paper":
        settings = {"device": args.device, "dtype": dtype, "depth": args.depth, "out": args.out}
        settings["graphs"] = args.graphs
        measured = suite.run(repeats=args.repeats, only=args.case, **settings)
        print(json.dumps(measured, indent=1) if args.json else suite.table(measured))
        if args.out is not None:
            suite.write(measured, args.out)
        return
    adapter = {"lora": args.lora, "lora_scale": args.lora_scale}
    model = load(args.model, args.weights, args.device, dtype, depth=args.depth, **adapter)
    if args.suite == "batches":
        timings = batches.run(model, repeats=args.repeats, only=args.case, graphs=args.graphs)
        print(json.dumps(timings, indent=1) if args.json else batches.table(timings))
        if args.out is not None:
            batches.write(timings, args.out)
        return
    if args.suite == "compiled":
        compared = compiled.run(model, repeats=args.repeats, only=args.case)
        print(json.dumps(compared, indent=1) if args.json else compiled.table(compared))
        return
    if args.attached:
        ratio = attached.attached_ratio(model, args.repeats)
        print(json.dumps(ratio, indent=1) if args.json else attached.table(ratio))
        return
    timed = None
    if method is not None:
        sizes = options.sizes_to(model, args.size) or model.sizes
        options.say_where_planned(method, model, sizes)
        timed = [(sizes, labelled([method], model.grids(sizes), model.depth))]
    result = bench.bench(model, args.repeats, args.case, args.graphs, timed)
    print(json.dumps(result, indent=1) if args.json else bench.table(result))


def _plans(args: argparse.Namespace) -> None:
    """Compare predicted with measured times of schedules, on this machine."""
    from fastvar_lab.planning import predictions

    model = options.open_model(args)
    frame = predictions.predictions(model, repeats=args.repeats, progress=not args.json)
    rows = frame.to_dict("records")
    print(json.dumps(rows, indent=1) if args.json else predictions.table(frame))
