"""Lists the models."""

from __future__ import annotations

import argparse
import json

from fastvar_lab.cli import options

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


def run(args: argparse.Namespace) -> None:
    """List every model."""
    if args.weights is not None and not args.weights.is_dir():
        raise ValueError(f"the folder {args.weights} does not exist")
    from fastvar_lab.models import catalog

    rows = catalog.catalog(args.weights, args.check)
    print(json.dumps(rows, indent=1) if args.json else catalog.table(rows))
