"""The command `store`: what is kept on disk, and how to remove it."""

from __future__ import annotations

import argparse

from fastvar_lab.cli import options

HELP = "show what is kept on disk, or remove it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument(
        "--store", type=options.path, help="folder of results; default: the user's cache"
    )
    parser.add_argument("--prune", action="store_true", help="remove results: say which below")
    parser.add_argument("--model", help="with --prune: those of this model")
    parser.add_argument("--days", type=float, help="with --prune: those older than so many days")
    parser.add_argument("--all", action="store_true", help="with --prune: all of them")


def run(args: argparse.Namespace) -> None:
    """Print what a store holds by model and experiment, or remove some of it."""
    from fastvar_lab.store import Store, size_table

    store = Store(args.store)
    if args.prune:
        freed = store.prune(args.model, args.days, args.all)
        print(f"{freed / 1e6:.1f} MB removed")
    elif args.model or args.days is not None or args.all:
        raise ValueError("--model, --days and --all say what --prune removes; give it, too")
    print(size_table(store))
