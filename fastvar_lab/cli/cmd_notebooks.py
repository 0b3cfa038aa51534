"""Runs the notebooks from top to bottom, or strips their outputs."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastvar_lab.cli import options

HELP = "run the notebooks, or strip their outputs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("names", nargs="*", help="names, such as 01_generate; default: all")
    parser.add_argument(
        "--execute", type=options.path, metavar="DIR", help="folder for executed copies"
    )
    parser.add_argument("--html", type=options.path, metavar="DIR", help="folder for HTML pages")
    parser.add_argument(
        "--strip", action="store_true", help="remove outputs in place instead of running"
    )
    parser.add_argument(
        "--folder", type=options.path, default=Path("notebooks"), help="folder of the notebooks"
    )


def run(args: argparse.Namespace) -> None:
    """Run the notebooks, or strip them."""
    from fastvar_lab.cli import notebook_runner

    paths = notebook_runner.find(args.folder, args.names)
    if args.strip:
        stripped = [str(path) for path in paths if notebook_runner.strip(path)]
        print("\n".join(stripped) or "nothing to strip")
        return
    problems = notebook_runner.run(paths, args.execute, args.html)
    for problem in problems:
        print(problem)
    if problems:
        raise ValueError(f"{len(problems)} problems in {len(paths)} notebooks, listed above")
    print(f"{len(paths)} notebooks ran from top to bottom")
