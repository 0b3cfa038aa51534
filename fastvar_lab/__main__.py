"""The commands: `python -m fastvar_lab COMMAND`, also installed as `fastvar-lab`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastvar-lab",
        description="Visual autoregressive generation with cached token pruning, seen from inside.",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", help="train the embedded model's tokenizer or transformer")
    train.add_argument("part", choices=("tokenizer", "transformer"))
    train.add_argument("--out", type=Path, default=Path("runs"), help="folder for weights")
    train.add_argument("--steps", type=int, help="optimiser steps")
    train.add_argument("--batch", type=int, help="pictures per step")
    train.add_argument("--peak", type=float, help="highest learning rate")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", default="cpu")
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    train.add_argument("--from", dest="start", type=Path, help="start from a folder of weights")
    train.add_argument("--grown", type=float, default=0.0, help="share of the growth to skip")
    train.add_argument("--decoder-only", action="store_true", help="leave the encoder as it is")
    train.set_defaults(run=_train)
    return parser


def _train(args: argparse.Namespace) -> None:
    from fastvar_lab.training.commands import train

    train(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; bad input ends with one line on stderr and status 2."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"fastvar-lab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fastvar-lab: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
