"""Generates pictures from prompts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fastvar_lab.cli import generate_options, options, release_options

HELP = "generate a picture for every prompt"
PROMPT = "text, for tiny such as 'two red striped stars' or 'a ring left of a blue square'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("prompt", nargs="+", help=PROMPT)
    parser.add_argument(
        "--out", type=options.path, default=Path("."), help="folder for the pictures"
    )
    parser.add_argument("--size", help="final token map, such as 32 or 32x48 (height x width)")
    parser.add_argument(
        "--paper",
        action="store_true",
        help="prune by the model's preset: the paper's ratios, or ours where it printed none",
    )
    release_options.add(parser)
    parser.add_argument(
        "--graphs", action="store_true", help="capture the scale steps and replay them"
    )
    generate_options.add_sampling(parser)
    generate_options.add_prompting(parser)
    generate_options.add_editing(parser)
    generate_options.add_variants(parser)
    options.add_method(parser, "no pruning")
    options.add_model(parser)
    options.add_seed(parser)


def run(args: argparse.Namespace) -> None:
    """Write a picture for every prompt."""
    if args.paper and (args.ratios, args.method) != (None, None):
        raise ValueError("--paper takes no --ratios or --method; give at most one")
    generate_options.check(args)
    from fastvar_lab.audit import checked_acts
    from fastvar_lab.capture import check_capture
    from fastvar_lab.draws import Streamed
    from fastvar_lab.files import folder
    from fastvar_lab.generation import generate
    from fastvar_lab.methods.prune import Dense
    from fastvar_lab.models.model import paper_preset
    from fastvar_lab.pictures import file_name, to_uint8, write_image
    from fastvar_lab.provenance import picture_key
    from fastvar_lab.request import make_request

    method, prompts = options.method(args) or Dense(), generate_options.prompts(args)
    negative = [] if args.negative is None else [args.negative]
    variants = {name: getattr(args, name) for name in generate_options.VARIANTS}
    model = release_options.open_encoded(args, [*prompts, *negative], args.seed, **variants)
    for prompt in (*prompts, *negative):
        model.check(prompt)
    if args.paper:
        method = paper_preset(model)
    sampling = generate_options.sampling(args, model)
    options.say_what_random_weights_mean(args)
    options.say_where_planned(method, model, sampling=sampling)
    method.start(model.grids(), model.depth)
    checked_acts(method, model.grids(), model.depth)
    given, keep = generate_options.editing(args, model)
    choices: dict[str, Any] = {
        "seed": None if args.streamed else args.seed,
        "draws": Streamed(args.seed) if args.streamed else None,
        "sampling": sampling,
        "given": given,
        "keep": keep,
        "negative": args.negative,
    }
    request = make_request(model, prompts, **choices)  # raises before anything is written
    if args.graphs:
        check_capture(model, request, method)
    folder(args.out)
    generation = generate(model, prompts, method, **choices, progress=True, graphs=args.graphs)
    request, pruned = generation.request, not isinstance(method, Dense)
    for i, image in enumerate(to_uint8(model.decode(generation.canvas))):
        key = picture_key(model, method, request, i)
        seed = args.seed if args.streamed else request.seeds[i]
        name = file_name(args.prompt[i], seed, request.grids[-1].name, key, pruned)
        path = args.out / name
        write_image(path, image)
        print(path)
