"""The command line: `python -m fastvar_lab COMMAND`, also installed as `fastvar-lab`.

A command is a file `cmd_NAME.py` here, with `HELP`, `add_arguments(parser)` and `run(args)`.
"""

from __future__ import annotations

import argparse
import io
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn

from fastvar_lab import cli
from fastvar_lab.cli import options

PREFIX = "cmd_"
PIPE = 13  # the number of SIGPIPE, which not every system has


def commands() -> dict[str, Any]:
    """Return a dict from the name of each command to its module."""
    names = (module.name for module in pkgutil.iter_modules(cli.__path__))
    return {
        name.removeprefix(PREFIX): import_module(f"{cli.__name__}.{name}")
        for name in names
        if name.startswith(PREFIX)
    }


class _Parser(argparse.ArgumentParser):
    """Ends with one line on stderr, without the usage, which --help shows."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    # argparse suffices for plain options, and starts in a few milliseconds
    parser = _Parser(
        prog="fastvar-lab",
        description="Visual autoregressive image generation with cached token pruning (FastVAR).",
    )
    subcommands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in commands().items():
        # `_ratios_as_values` recognises --ratios only if it is written in full
        subcommand = subcommands.add_parser(name, help=command.HELP, allow_abbrev=False)
        command.add_arguments(subcommand)
        subcommand.set_defaults(run=command.run)
    return parser


def _ratios_as_values(argv: Sequence[str]) -> list[str]:
    """Join `--ratios -2:0.5` to one argument: argparse takes a leading minus for an option.

    `--scales -2,-1` likewise.
    """
    arguments = list(argv)
    for i, argument in enumerate(arguments[:-1]):
        if argument in ("--ratios", "--scales"):
            arguments[i : i + 2] = [f"{argument}={arguments[i + 1]}"]
            break
    return arguments


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Make SIGTERM act like Ctrl-C, so that no half-written file is left."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    That is 2, with one line on stderr, for bad input; 130 after Ctrl-C; and 141, silently, if
    nobody reads the output any more, as of programs that SIGPIPE ends.
    """
    _open_what_is_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):  # what a terminal cannot show is no error
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()  # of --help, too: at exit it would be too late to catch
    except BrokenPipeError:
        _discard_output()
        return 128 + PIPE


def _run(argv: Sequence[str] | None) -> int:
    arguments = _ratios_as_values(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(arguments)
    if "" not in sys.path:  # the current folder, where `python -m` looks for a module of yours
        sys.path.insert(0, "")
    try:
        options.check(args, arguments)
        with _terminated_as_interrupted():
            args.run(args)
            sys.stdout.flush()  # a full disk shows here
    except BrokenPipeError:
        raise
    except (ValueError, OSError, RuntimeError) as error:
        message = str(error) or type(error).__name__
        print(f"fastvar-lab: {message.splitlines()[0]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fastvar-lab: interrupted", file=sys.stderr)
        return 130
    return 0


def _open_what_is_closed() -> None:
    """Discard what is written to a stream that the shell has closed, as with `>&-`."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _discard_output() -> None:
    """Send what is left to write nowhere, so that Python's exit does not fail on it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
