"""Notebooks, run from top to bottom or stripped."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastvar_lab.cli import options

HELP = "run the notebooks from top to bottom"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("names", nargs="*", help="which, such as 01_generate; default: all")
    parser.add_argument("--execute", type=options.path, metavar="DIR", help="keep executed copies")
    parser.add_argument("--html", type=options.path, metavar="DIR", help="keep them as pages")
    parser.add_argument("--strip", action="store_true", help="take outputs out instead")
    parser.add_argument(
        "--folder", type=options.path, default=Path("notebooks"), help="where they are"
    )


def run(args: argparse.Namespace) -> None:
    """Run the notebooks, or strip them."""
    from fastvar_lab.cli import notebook_runner

    paths = notebook_runner.find(args.folder, args.names)
    if args.strip:
        stripped = [str(path) for path in paths if notebook_runner.strip(path)]
        print("\n".join(stripped) or "nothing to strip")
        return
    wrong = notebook_runner.run(paths, args.execute, args.html)
    for line in wrong:
        print(line)
    if wrong:
        raise ValueError(f"{len(wrong)} things are wrong in {len(paths)} notebooks, listed above")
    print(f"{len(paths)} notebooks ran from top to bottom")
