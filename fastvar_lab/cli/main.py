"""The commands: `python -m fastvar_lab COMMAND`, also installed as `fastvar-lab`."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from fastvar_lab.cli import commands

PROMPT_HELP = "for tiny as in 'two red striped stars' or 'a ring left of a blue square'; see README"
RATIOS_HELP = "share pruned by scale: -2:0.5,-1:0.75 or 24:0.5,32:0.75"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastvar-lab",
        description="Visual autoregressive generation with cached token pruning, seen from inside.",
    )
    subcommands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    # abbreviations would miss what is done to a full name below
    add = partial(subcommands.add_parser, allow_abbrev=False)
    demo = add("demo", help="one prompt in full and with FastVAR, measured")
    demo.add_argument("--prompt", help="default: a red striped circle left of a blue square")
    demo.add_argument("--ratios", default="-2:0.5,-1:0.75", help=RATIOS_HELP)
    demo.add_argument("--out", type=Path, default=Path("demo"), help="folder for the results")
    demo.set_defaults(run=commands.demo)

    generate = add("generate", help="write a picture for every prompt")
    generate.add_argument("prompt", nargs="+", help=PROMPT_HELP)
    generate.add_argument("--ratios", help=f"{RATIOS_HELP}; default: no pruning")
    generate.add_argument("--out", type=Path, default=Path("."), help="folder for the pictures")
    generate.add_argument("--size", help="final token map, 32 or 32x48 (height x width)")
    generate.add_argument("--paper", action="store_true", help="prune as the paper does this model")
    generate.add_argument("--pn", help="pixel budget of an Infinity: 0.06M, 0.25M, 0.60M or 1M")
    generate.add_argument("--aspect", type=float, help="height over width of an Infinity, e.g. 1.5")
    generate.add_argument("--features", type=Path, help="folder that keeps prompts once encoded")
    generate.add_argument("--download", action="store_true", help="fetch weights from the hub")
    generate.add_argument("--precision", default="float32", help="float32, or official: released")
    generate.add_argument("--instruction", type=Path, help="file of HART's instruction text")
    generate.set_defaults(run=commands.generate)

    listing = add("models", help="list every model, its files, what it needs")
    listing.add_argument("--weights", type=Path, help="folder to look for files in")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=commands.models)

    evaluate = add("evaluate", help="score the embedded model on its tasks")
    evaluate.add_argument("--n", type=int, default=200, help="pictures")
    evaluate.add_argument("--ratios", help=f"{RATIOS_HELP}; default: no pruning")
    evaluate.add_argument("--size", help="final token map, 48 or 32x48 (height x width); zero-shot")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.add_argument(
        "--given", type=int, default=0, help="first scales whose true tokens are given"
    )
    evaluate.add_argument(
        "--judge", action="store_true", help="score the judge on N scenes instead"
    )
    evaluate.set_defaults(run=commands.evaluate)

    bench = add("bench", help="time full and pruned generation")
    bench.add_argument("--repeats", type=int, default=5, help="timed runs of each, after a warm-up")
    bench.add_argument("--case", default="", help="only cases whose name contains this")
    bench.add_argument(
        "--suite", choices=("paper",), help="the paper's sizes, random weights, beside floors"
    )
    bench.add_argument("--json", action="store_true", help="print JSON")
    bench.add_argument(
        "--out", type=Path, help="folder for the suite's numbers, table and figure; goes on there"
    )
    bench.set_defaults(run=commands.bench)

    experiment = add("experiment", help="answer a question with measurements")
    experiment.add_argument("names", nargs="*", help="which; without any, they are listed")
    experiment.add_argument("--quick", action="store_true", help="a smoke run")
    experiment.add_argument("--paper", action="store_true", help="as many prompts as claims need")
    experiment.add_argument("--out", type=Path, help="folder for each frame, its tables and figure")
    experiment.set_defaults(run=commands.experiment)

    figures = add("figures", help="draw figures again, with their data")
    figures.add_argument("names", nargs="*", help="which; default: those of pictures")
    figures.add_argument(
        "--all", action="store_true", help="all, experiments included: hours without known cells"
    )
    figures.add_argument("--list", action="store_true", help="list the names")
    figures.add_argument("--check", action="store_true", help="redraw from the data; compare")
    figures.add_argument("--redraw", action="store_true", help="redraw from the data; keep")
    figures.add_argument("--quick", action="store_true", help="few prompts: never for committing")
    figures.add_argument("--format", default="png,pdf", help="endings, of png, pdf and svg")
    figures.add_argument("--out", type=Path, default=Path("figures"), help="folder, overwritten")
    figures.set_defaults(run=commands.figures)

    claims = add("claims", help="the paper's claims against measurements here")
    claims.add_argument("--quick", action="store_true", help="few prompts: never for committing")
    claims.add_argument("--out", type=Path, default=Path("figures"), help="folder of claims.md")
    claims.set_defaults(run=commands.claims)

    notebooks = add("notebooks", help="run the notebooks from top to bottom")
    notebooks.add_argument("names", nargs="*", help="which, such as 01_generate; default: all")
    notebooks.add_argument("--execute", type=Path, metavar="DIR", help="keep executed copies")
    notebooks.add_argument("--html", type=Path, metavar="DIR", help="keep them as pages")
    notebooks.add_argument("--strip", action="store_true", help="take outputs out instead")
    notebooks.add_argument("--folder", type=Path, default=Path("notebooks"), help="where they are")
    notebooks.set_defaults(run=commands.notebooks)

    train = add("train", help="train the embedded model's tokenizer or transformer")
    train.add_argument("part", choices=("tokenizer", "transformer"))
    train.add_argument("--out", type=Path, default=Path("runs"), help="folder for weights")
    train.add_argument("--steps", type=int, help="optimiser steps")
    train.add_argument("--batch", type=int, help="pictures per step")
    train.add_argument("--peak", type=float, help="highest learning rate")
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    train.add_argument("--from", dest="start", type=Path, help="start from a folder of weights")
    train.add_argument("--grown", type=float, default=0.0, help="share of the growth to skip")
    train.add_argument("--reading", type=int, help="steps that teach the text encoder first")
    train.add_argument(
        "--looking", type=int, help="steps that teach the tokenizer's encoder to see"
    )
    train.add_argument("--decoder-only", action="store_true", help="leave the encoder as it is")
    train.add_argument(
        "--rehearse",
        type=int,
        help="pictures that the transformer ends, for the decoder to forgive",
    )
    train.set_defaults(run=commands.train)

    for command in (demo, generate, evaluate, figures, train):
        command.add_argument("--seed", type=int, default=0)
    for command in (demo, generate, evaluate, experiment, figures, claims, train, bench):
        command.add_argument("--device", default="cpu", help="cpu or cuda")
    for command in (demo, generate, evaluate, bench, experiment, figures, claims):
        command.add_argument("--weights", help="folder of weights, or random; default: shipped")
    for command in (experiment, figures, claims):
        command.add_argument("--store", type=Path, help="folder of known cells")
        command.add_argument("--workers", type=int, default=0, help="processes beside this one")
        command.add_argument("--scheduler", help="address of a running dask cluster")
    for command in (generate, bench, experiment):
        command.add_argument("--model", default="tiny", help="see the models command")
    for command in (generate, bench, experiment):
        command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    bench.add_argument("--depth", type=int, help="only so many layers of the model")
    return parser


def _ratios_as_values(argv: Sequence[str]) -> list[str]:
    """Join `--ratios -2:0.5` to one word: argparse takes a leading minus for an option."""
    words = list(argv)
    for i, word in enumerate(words[:-1]):
        if word == "--ratios":
            words[i : i + 2] = [f"--ratios={words[i + 1]}"]
            break
    return words


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does: nothing half-written is left."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; bad input ends with one line on stderr and status 2."""
    args = _parser().parse_args(_ratios_as_values(sys.argv[1:] if argv is None else argv))
    try:
        with _terminated_as_interrupted():
            args.run(args)
    except (ValueError, OSError, RuntimeError) as error:
        told = str(error) or type(error).__name__
        print(f"fastvar-lab: {told.splitlines()[0]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fastvar-lab: interrupted", file=sys.stderr)
        return 130
    return 0
