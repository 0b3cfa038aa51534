"""Scores folders of pictures."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from fastvar_lab.cli import options

HELP = "score a folder of pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("folder", nargs="+", type=options.path, help="folders of pictures")
    options.add_benchmark(parser, named=True)
    parser.add_argument("--scores", help="names of scores, with commas between")
    parser.add_argument("--reference", type=options.path, help="folder or npz file of pictures")
    parser.add_argument("--against", type=options.path, help="folder of the unpruned pictures")
    parser.add_argument("--metrics", default="psnr,ssim", help="metrics of --against, with commas")
    parser.add_argument("--resize", help="clean, tensorflow or half-pixel; default: benchmark's")
    parser.add_argument("--hps-resize", default="antialias", help="antialias or alias")
    parser.add_argument("--networks", type=options.path, help="folder of the networks")
    parser.add_argument("--batch", type=int, default=16, help="pictures scored at once")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options.add_device(parser)


def run(args: argparse.Namespace) -> None:
    """Score folders, one after the other."""
    if args.batch < 1:
        raise ValueError(f"--batch must be 1 or more; not {args.batch}")
    from fastvar_lab.evaluators.case import Options
    from fastvar_lab.evaluators.picture_folder import PictureFolder
    from fastvar_lab.evaluators.scores import find
    from fastvar_lab.evaluators.scoring import paired, score, table
    from fastvar_lab.models.loading import require

    names = args.scores.split(",") if args.scores else None
    for name in names or ():
        find(name)
    chosen = Options(args.reference, args.resize, args.hps_resize)
    require(args.device)
    plan = None if args.benchmark is None else options.plan(args)
    folders = [PictureFolder(path, plan) for path in args.folder]
    other = None if args.against is None else PictureFolder(args.against, plan)
    for folder in folders:
        results = score(folder, names, chosen, args.networks, args.device, args.batch)
        if other is not None:
            results |= paired(folder, other, args.metrics.split(","), args.batch)
        if args.json:
            plain = {name: asdict(result) for name, result in results.items()}
            print(json.dumps({"folder": str(folder.root), "scores": plain}, indent=1))
        else:
            print(folder.root)
            print(table(results))
