"""Runs the notebooks from top to bottom, strips their outputs, or copies them."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastvar_lab.cli import options

HELP = "run the notebooks, strip their outputs, or copy them"


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
        "--copy",
        type=options.path,
        metavar="DIR",
        help="copy those of this package to a folder instead",
    )
    parser.add_argument(
        "--folder", type=options.path, default=Path("notebooks"), help="folder of the notebooks"
    )


def run(args: argparse.Namespace) -> None:
    """Run the notebooks, strip them, or copy them."""
    if args.copy is not None:
        options.alone(args, add_arguments, "--copy, which runs nothing,", ("copy", "names"))
        from fastvar_lab.cli import notebook_copies

        for path in notebook_copies.copy(args.copy, args.names):
            print(path)
        return
    if args.strip:
        options.alone(
            args, add_arguments, "--strip, which runs nothing,", ("strip", "names", "folder")
        )
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
