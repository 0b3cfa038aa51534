"""Checks the paper's claims against measurements."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastvar_lab.cli import options
from fastvar_lab.files import write_utf8

HELP = "check the paper's claims against measurements"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--quick", action="store_true", help="few prompts; a smoke test, not for publication"
    )
    parser.add_argument(
        "--out", type=options.path, default=Path("figures"), help="folder to write claims.md to"
    )
    parser.add_argument(
        "--from", dest="source", type=options.path, metavar="DIR",
        help="measure nothing: judge by the data of the figures in a folder",
    )  # fmt: skip
    options.add_model(parser)
    options.add_prompts(parser)
    options.add_cells(parser)


def run(args: argparse.Namespace) -> None:
    """Check the paper's claims; write claims.md."""
    if args.source is not None:
        options.alone(args, add_arguments, "--from, which measures nothing,", ("source", "out"))
    from fastvar_lab.experiments import claims
    from fastvar_lab.files import folder

    left_out = list[str]()
    if args.source is not None:
        frames, reports = claims.recorded(args.source, left_out.append)
        where = claims.where_recorded(args.source, reports)
        folder(args.out)
        _write(args.out, claims.table(frames, where, left_out))
        return
    spec, scope = options.spec(args), "quick" if args.quick else "paper"
    model, prompts = spec.open(), options.prompts(args)
    with options.cells(args) as (store, executor):
        folder(args.out)
        frames = claims.measure(
            model,
            scope,
            spec=spec,
            prompts=prompts,
            store=store,
            executor=executor,
            note=left_out.append,
        )
    _write(args.out, claims.table(frames, claims.where(model, scope, spec, prompts), left_out))


def _write(out: Path, text: str) -> None:
    write_utf8(out / "claims.md", text)
    print(text)
