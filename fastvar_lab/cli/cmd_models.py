"""Lists the models."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from fastvar_lab.cli import options

if TYPE_CHECKING:
    from fastvar_lab.seam import Method

HELP = "list the models, their files and requirements"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--weights", type=options.path, help="folder in which to look for weight files"
    )
    parser.add_argument(
        "--check", action="store_true", help="read the files and compare their SHA-256"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--memory", metavar="NAME", help="count the memory that a model takes")
    parser.add_argument(
        "--pictures", type=int, nargs="+", default=[1], help="batch sizes for --memory"
    )
    parser.add_argument(
        "--size", nargs="+", help="final token maps for --memory, such as 32 or 32x48"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="precision for --memory"
    )
    parser.add_argument("--precision", help="float32, int8 or official, for --memory")
    options.add_method(parser, "the model's preset")


def run(args: argparse.Namespace) -> None:
    """List every model."""
    if args.memory is not None:
        counted = ("memory", "pictures", "size", "dtype", "precision", "json", "ratios", "method")
        options.alone(args, add_arguments, "--memory, which reads no files,", counted)
    if args.weights is not None and not args.weights.is_dir():
        raise ValueError(f"the folder {args.weights} does not exist")
    if args.memory is not None:
        _count_memory(args)
        return
    given = [
        name for name in ("size", "dtype", "precision", "ratios", "method") if getattr(args, name)
    ]
    if given or args.pictures != [1]:
        raise ValueError(f"--{(*given, 'pictures')[0]} requires --memory")
    from fastvar_lab.models import catalog

    rows = catalog.catalog(args.weights, args.check)
    print(json.dumps(rows, indent=1) if args.json else catalog.table(rows))


def _count_memory(args: argparse.Namespace) -> None:
    """Print what full and pruned generations of a model hold, by size and batch."""
    if min(args.pictures) < 1:
        raise ValueError(f"--pictures must be at least 1; not {min(args.pictures)}")
    from dataclasses import asdict

    import torch

    from fastvar_lab import scales
    from fastvar_lab.methods.prune import Dense
    from fastvar_lab.models.loading import hollow
    from fastvar_lab.speed import memory

    model = hollow(
        args.memory, args.precision or "float32", getattr(torch, args.dtype or "bfloat16")
    )
    maps = [scales.parse_size(size) for size in args.size or ()]
    schedules = [model.sizes_to(h, w) for h, w in maps] or [model.sizes]
    counts = []
    for sizes in schedules:
        methods: dict[str, Method] = {"full": Dense()}
        pruned = options.method(args) or model.preset_of(sizes)
        methods |= {} if pruned is None else {"pruned": pruned}
        for label, method in methods.items():
            for n in args.pictures:
                taken = memory.memory(model, method, sizes=sizes, pictures=n)
                counts.append((model.grids(sizes)[-1].name, label, n, taken))
    if args.json:
        names = ("size", "method", "pictures")
        rows = [{**dict(zip(names, row)), **asdict(row[-1])} for row in counts]
        print(json.dumps(rows, indent=1))
    else:
        print(memory.table(model, counts))
