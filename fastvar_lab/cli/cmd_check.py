"""Checks a checkpoint at first contact."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastvar_lab.cli import options

HELP = "check a checkpoint: files, names, tokenizer, likelihoods, speed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("model", help="name of a model; the models command lists them")
    parser.add_argument("--weights", help="folder of weights; default: shipped weights")
    parser.add_argument("--picture", type=options.path, help="a photograph of yours")
    parser.add_argument("--caption", help="what the picture shows; default: an example prompt")
    parser.add_argument("--other", help="a caption that does not fit; default: another prompt")
    parser.add_argument(
        "--out", type=options.path, default=Path("check"), help="folder for the pictures"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32",
                        help="precision of the weights")  # fmt: skip
    options.add_device(parser)


def run(args: argparse.Namespace) -> None:
    """Check a model; raise ValueError at the end if something is off."""
    from fastvar_lab.models.names import is_function

    if is_function(args.model):
        raise ValueError(
            f"check is for released checkpoints; {args.model} opens itself: compare it by fv.check"
        )
    import numpy as np
    import torch
    from PIL import Image

    from fastvar_lab.files import folder
    from fastvar_lab.first_contact import effort, examination
    from fastvar_lab.first_contact.finding import OFF, OPEN, RIGHT, Finding, table
    from fastvar_lab.models import catalog
    from fastvar_lab.models.loading import load, skeleton
    from fastvar_lab.models.staging import load_encoded

    picture = None
    if args.picture is not None:
        try:
            picture = np.asarray(Image.open(args.picture).convert("RGB"))
        except OSError:
            raise ValueError(f"cannot read the picture {args.picture}") from None
    rows = [row for row in catalog.catalog(args.weights, check=True) if row["name"] == args.model]
    if not rows:
        load(args.model)  # names the known ones
    with torch.device("meta"):
        planned = skeleton(args.model)
    forwards, operations = effort.effort(planned)
    print(
        f"{args.model}: {rows[0]['parameters'] / 1e9:.2f} billion parameters, about "
        f"{effort.needed(planned, args.dtype) / 1e9:.1f} GB of memory; {forwards} forwards, "
        f"{operations / 1e12:.1f} TFLOP, about "
        f"{operations / effort.speed(args.device, args.dtype) / 60:.1f} minutes"
    )
    verdict = {"equal": RIGHT, "differs": OFF}
    state = rows[0]["hash"]
    findings = [Finding("files", verdict.get(state, OPEN),
                                      f"SHA-256 {state}",
                                      "another file, or a damaged one" if state == "differs"
                                      else "")]  # fmt: skip
    folder(args.out)
    texts = [item.prompt for item in planned.prompts.take(8)]
    caption = args.caption or texts[0]
    other = args.other or next((t for t in texts if t != caption), f"not {caption}")
    model = load_encoded(
        [caption, other], args.model, args.weights, args.device, getattr(torch, args.dtype)
    )
    findings.append(Finding("names and shapes", RIGHT, "all match"))
    for finding in examination.check(model, caption, other, picture, args.out):
        print(f"{finding.verdict:<5} {finding.what}")
        findings.append(finding)
    print(table(findings))
    off = [finding.what for finding in findings if finding.verdict == OFF]
    if off:
        raise ValueError(f"{args.model} is off in: {', '.join(off)}")
