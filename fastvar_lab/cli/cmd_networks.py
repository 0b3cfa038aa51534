"""Lists, fetches and converts the networks of the evaluators."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastvar_lab.cli import options

HELP = "list, fetch or convert the networks of the evaluators"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--networks", type=options.path, help="their folder; default: user's cache")
    parser.add_argument("--fetch", nargs="+", metavar="NAME", help="download and convert networks")
    parser.add_argument("--convert", metavar="NAME", help="convert downloaded files to a network")
    parser.add_argument(
        "--files", nargs="+", type=Path, default=[], help="the files, under their published names"
    )
    parser.add_argument(
        "--rehearse", action="store_true", help="write tiny random networks of every kind"
    )
    parser.add_argument(
        "--speed", nargs="*", metavar="NAME", help="time networks, default all, with random weights"
    )
    options.add_device(parser)


def run(args: argparse.Namespace) -> None:
    """List, fetch or convert networks."""
    actions = args.fetch is not None, args.convert is not None, args.rehearse
    if sum(actions) + (args.speed is not None) > 1:
        raise ValueError(
            "--fetch, --convert, --rehearse and --speed exclude each other; give at most one"
        )
    if args.files and args.convert is None:
        raise ValueError("--files are those of --convert NAME")
    from fastvar_lab.networks import collection, published, random_networks

    if args.speed is not None:
        from fastvar_lab.models.loading import require
        from fastvar_lab.networks import throughput

        require(args.device)
        print(throughput.table(throughput.measure(args.speed or None, args.device)))
        return
    if args.rehearse:
        if args.networks is None:
            raise ValueError("--rehearse writes to a folder of its own: give --networks DIR")
        print(random_networks.write_collection(args.networks))
        return
    if args.convert is not None:
        print(collection.convert(args.convert, args.files, args.networks))
        collection.open_network(args.convert, args.networks)  # raises for what is not whole
        return
    for name in args.fetch or ():
        published.find(name)
    if args.fetch is None:
        print(collection.table(args.networks))
    for name in args.fetch or ():
        network = published.find(name)
        print(f"{name}: {network.megabytes} MB, {network.licence}")
        print("\n".join(collection.sources(network)))
        print(collection.fetch(name, args.networks))
        collection.open_network(name, args.networks)
