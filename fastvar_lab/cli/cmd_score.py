"""Scores folders of pictures."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from fastvar_lab.cli import options

if TYPE_CHECKING:
    from fastvar_lab.evaluators.benchmark_plans import BenchmarkPlan
    from fastvar_lab.evaluators.case import Options
    from fastvar_lab.evaluators.picture_folder import Sampled

HELP = "score a folder of pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "folder", nargs="+", type=options.path, help="folders, or npz files, of pictures"
    )
    options.add_benchmark(parser, named=True)
    parser.add_argument("--scores", help="names of scores, with commas between")
    parser.add_argument("--reference", type=options.path, help="folder or npz file of pictures")
    parser.add_argument("--against", type=options.path, help="folder of the unpruned pictures")
    parser.add_argument("--metrics", help="metrics of --against, with commas; default: psnr,ssim")
    parser.add_argument("--check", metavar="NAME", help="compare with a published known answer")
    add_protocol(parser)
    parser.add_argument("--networks", type=options.path, help="folder of the networks")
    parser.add_argument("--batch", type=int, default=16, help="pictures scored at once")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options.add_device(parser)


def add_protocol(parser: argparse.ArgumentParser) -> None:
    """Add an option for each way in which scripts of one score differ."""
    parser.add_argument("--resize", help="Inception's resize; default: the benchmark's")
    parser.add_argument("--hps-resize", default="antialias", help="antialias or alias")
    parser.add_argument(
        "--order", default="0", help="seed that shuffles pictures for the IS, or files: as named"
    )
    parser.add_argument("--split", type=int, default=5000, help="pictures of a split of the IS")
    parser.add_argument("--subsets", type=int, default=100, help="subsets of the KID")
    parser.add_argument(
        "--half", action="store_true", help="precision and recall by distances in float16"
    )
    parser.add_argument(
        "--autocast",
        action="store_true",
        help="CLIP and HPS in float16, as released scripts on GPUs",
    )
    parser.add_argument(
        "--groups",
        type=int,
        default=10,
        help="groups of the jackknife of distances; 0: none",
    )
    parser.add_argument(
        "--rule",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a rule of GenEval's judge",
    )


def protocol(args: argparse.Namespace) -> Options:
    """Return what decides scores beside the pictures; raise ValueError for what is none."""
    from fastvar_lab.evaluators.case import Options
    from fastvar_lab.evaluators.geneval import Rules

    if args.order != "files" and not args.order.isdecimal():
        raise ValueError(f"--order is a seed from 0, or files; not {args.order!r}")
    return Options(
        args.reference,
        args.resize,
        args.hps_resize,
        order=None if args.order == "files" else int(args.order),
        split=args.split,
        subsets=args.subsets,
        half=args.half,
        groups=args.groups,
        autocast=args.autocast,
        rules=Rules.read(args.rule),
    )


def check_answer(args: argparse.Namespace, chosen: Options) -> None:
    """Print a known answer beside ours; raise ValueError where they differ."""
    from fastvar_lab.evaluators.known_answers import Inputs, check, table

    if len(args.folder) != 1:
        raise ValueError(f"--check reads one folder or file; not {len(args.folder)}")
    (pictures,) = args.folder
    rows = check(
        args.check,
        Inputs(pictures, args.data, chosen, args.networks, args.device, args.batch),
    )
    print(table(rows))
    differing = [row.name for row in rows if not row.agrees]
    if differing:
        raise ValueError(f"{args.check} differs from what was published in {', '.join(differing)}")


def _opened(path: Path, plan: BenchmarkPlan | None) -> Sampled:
    from fastvar_lab.evaluators.picture_array import SampleArray
    from fastvar_lab.evaluators.picture_folder import PictureFolder

    if path.suffix != ".npz":
        return PictureFolder(path, plan)
    if plan is None:
        raise ValueError(f"{path} does not say what it holds: name its benchmark")
    return SampleArray(path, plan.benchmark.name, plan)


def run(args: argparse.Namespace) -> None:
    """Score folders, one after the other."""
    if args.batch < 1:
        raise ValueError(f"--batch must be 1 or more; not {args.batch}")
    from fastvar_lab.evaluators.results import plain
    from fastvar_lab.evaluators.scores import find
    from fastvar_lab.evaluators.scoring import check_paired, paired, score, table
    from fastvar_lab.models.loading import require

    names = options.names(args.scores) if args.scores else None
    for name in names or ():
        find(name)
    chosen = protocol(args)
    require(args.device)
    if args.check is not None:
        check_answer(args, chosen)
        return
    for name in ("data", "category", "n", "images", "format"):
        if args.benchmark is None and getattr(args, name) is not None:
            raise ValueError(f"--{name} is of pictures made elsewhere: name their --benchmark")
    if args.metrics is not None and args.against is None:
        raise ValueError("--metrics are of --against FOLDER, which is not given")
    plan = None if args.benchmark is None else options.plan(args)
    folders = [_opened(path, plan) for path in args.folder]
    other = None if args.against is None else _opened(args.against, plan)
    metrics = options.names(args.metrics or "psnr,ssim")
    for folder in folders:
        if other is not None:
            if folder.root.resolve() == other.root.resolve():
                raise ValueError(f"{folder.root} is compared with itself; name another --against")
            check_paired(folder, other, metrics, args.networks)
    for folder in folders:
        results = score(folder, names, chosen, args.networks, args.device, args.batch)
        if other is not None:
            results |= paired(folder, other, metrics, args.batch, args.networks, args.device)
        if args.json:
            scores = {name: asdict(result) for name, result in results.items()}
            print(json.dumps(plain({"folder": str(folder.root), "scores": scores}), indent=1))
        else:
            print(folder.root)
            print(table(results))
