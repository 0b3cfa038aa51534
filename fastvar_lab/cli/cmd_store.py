"""Shows the size of cached results, or removes some."""

from __future__ import annotations

import argparse

from fastvar_lab.cli import options

HELP = "show or remove cached results"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--store", type=options.path, help="folder of results; default: the user's cache"
    )
    parser.add_argument(
        "--prune", action="store_true", help="remove the results that the next options select"
    )
    parser.add_argument("--model", help="with --prune: results of this model")
    parser.add_argument("--days", type=float, help="with --prune: results older than DAYS days")
    parser.add_argument("--all", action="store_true", help="with --prune: all results")


def run(args: argparse.Namespace) -> None:
    """Print the size of a store by model and experiment, or remove some of it."""
    from fastvar_lab.store import Store, size_table

    store = Store(args.store)
    if args.prune:
        freed = store.prune(args.model, args.days, args.all)
        print(f"{freed / 1e6:.1f} MB removed")
    elif args.model or args.days is not None or args.all:
        raise ValueError("--model, --days and --all require --prune")
    print(size_table(store))
