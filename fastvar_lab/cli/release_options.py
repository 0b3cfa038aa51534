"""Options of released models: pixel budget, precision, files beside the weights."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastvar_lab.cli import options

if TYPE_CHECKING:
    from fastvar_lab.models.model import Model
    from fastvar_lab.models.spec import ModelSpec
    from fastvar_lab.scales import Sizes


def add(parser: argparse.ArgumentParser) -> None:
    """Add --pn, --aspect, --features, --download, --precision and --instruction."""
    parser.add_argument("--pn", help="pixel budget of Infinity models: 0.06M, 0.25M, 0.60M or 1M")
    parser.add_argument(
        "--aspect", type=float, help="height over width, for Infinity models, such as 1.5"
    )
    parser.add_argument(
        "--features", type=options.path, help="folder in which encoded prompts are cached"
    )
    parser.add_argument(
        "--download", action="store_true", help="download weights from the Hugging Face Hub"
    )
    parser.add_argument(
        "--precision",
        default="float32",
        help="float32, int8, or official: the precision of the released code",
    )
    parser.add_argument(
        "--instruction", type=options.path, help="file with HART's instruction text"
    )


def open_encoded(
    args: argparse.Namespace, prompts: Sequence[str], seed: int = 0, **more: Any
) -> Model:
    """Open the model of the options for these prompts, up to the map of --size.

    A released text encoder is freed before the rest is read. `seed` draws random weights.
    """
    import torch

    from fastvar_lab.models.staging import load_encoded

    model = load_encoded(
        prompts,
        args.model,
        args.weights,
        args.device,
        getattr(torch, args.dtype or "float32"),
        seed,
        download=args.download,
        precision=args.precision,
        lora=args.lora,
        lora_scale=args.lora_scale,
        features=args.features,
        instruction=args.instruction,
        sizes=trained_sizes(args),
        **more,
    )
    model.sizes = options.sizes_to(model, args.size) or model.sizes
    return model


def has_text(args: argparse.Namespace) -> bool:
    """Tell whether the model has a released text encoder, which workers need not open."""
    from fastvar_lab.models import releases
    from fastvar_lab.models.names import SHIPPED, is_function

    if args.model in SHIPPED or is_function(args.model) or args.weights == "random":
        return False
    return releases.release(args.model).text is not None


def spec(args: argparse.Namespace) -> ModelSpec:
    """Return how workers open the model: prompts that are encoded are read from --features."""
    from dataclasses import replace

    sizes = trained_sizes(args)
    encoded = has_text(args) and args.features is not None
    paths = {
        name: None if getattr(args, name) is None else str(getattr(args, name))
        for name in ("features", "instruction")
    }
    plain = options.spec(args)
    more = {"precision": args.precision, "sizes": sizes, "text": not encoded, **paths}
    return replace(plain, **more).resolved()


def trained_sizes(args: argparse.Namespace) -> Sizes | None:
    """Return the trained schedule named by --aspect and --pn, or the one nearest to --size."""
    from fastvar_lab import scales
    from fastvar_lab.models.loading import buckets

    size = None if args.size is None else scales.parse_size(args.size)
    trained = buckets(args.model)
    if trained is None:
        if args.pn or args.aspect is not None:
            raise ValueError(f"--pn and --aspect are for Infinity models; not for {args.model}")
        return None
    budget = args.pn or trained.budgets[-1]
    if args.aspect is not None:
        return trained.exactly(args.aspect, budget)
    if size:
        return trained.schedule(size[0] / size[1], budget)
    return trained.schedule(1.0, budget) if args.pn else None
