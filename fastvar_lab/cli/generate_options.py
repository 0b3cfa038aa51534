"""Options of the generate command: sampling, variants of released models, editing."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastvar_lab.cli import options

if TYPE_CHECKING:
    from torch import Tensor

    from fastvar_lab.models.model import Model
    from fastvar_lab.sampling import Sampling

SAMPLING = ("guidance", "temperature", "top_p", "top_k", "guidance_layer", "mask_iterations")
VARIANTS = ("rotary_mode", "level_every", "attn_l2_norm", "share_quant_resi")


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the options of sampling; the defaults are the model's."""
    parser.add_argument("--guidance", help="guidance scale, or one for each scale step: 3 or 1,2,3")
    parser.add_argument("--temperature", help="temperature, or one for each scale step")
    parser.add_argument("--top-p", type=float, help="nucleus mass, 1 for all")
    parser.add_argument("--top-k", type=int, help="codebook rows to draw among, 0 for all")
    parser.add_argument(
        "--guidance-layer", type=int, help="-k: guide the output of the k-th last layer; 0: logits"
    )
    parser.add_argument("--mask-iterations", type=int, help="forwards of HART's last scale")
    parser.add_argument(
        "--no-residuals", action="store_true", help="leave out the residuals of HART's last scale"
    )


def add_prompting(parser: argparse.ArgumentParser) -> None:
    """Add the options of prompts and noise."""
    parser.add_argument("--negative", help="prompt that guidance leads away from")
    add_positive_prompt(parser)
    parser.add_argument(
        "--streamed", action="store_true", help="draw noise in the order of the released code"
    )


def add_positive_prompt(parser: argparse.ArgumentParser) -> None:
    """Add --positive-prompt."""
    parser.add_argument(
        "--positive-prompt", type=options.path, help="file with a suffix of prompts about people"
    )


def add_variants(parser: argparse.ArgumentParser) -> None:
    """Add the options of models that were trained in other ways than the released ones."""
    parser.add_argument("--rotary-mode", help="absolute, interpolated or scaled (Infinity)")
    parser.add_argument("--level-every", type=int, help="add level embeddings every N layers")
    parser.add_argument(
        "--no-attn-l2-norm",
        dest="attn_l2_norm",
        action="store_const",
        const=False,
        help="attention without normalised queries and keys (VAR)",
    )
    parser.add_argument("--share-quant-resi", type=int, help="convolutions that the scales share")


def add_editing(parser: argparse.ArgumentParser) -> None:
    """Add the options that give the tokens of a picture."""
    parser.add_argument("--picture", type=options.path, help="picture whose tokens are given")
    parser.add_argument("--given", type=int, help="give only the first K scales of the picture")
    parser.add_argument(
        "--region", help="draw only this region: top,left,bottom,right as shares of the sides"
    )
    parser.add_argument("--outpaint", action="store_true", help="draw all but the region")


def check(args: argparse.Namespace) -> None:
    """Raise ValueError for options that lack one that they need."""
    for name in ("given", "region", "outpaint"):
        if args.picture is None and getattr(args, name) not in (None, False):
            raise ValueError(f"--{name} takes the tokens of a --picture; give one")
    if args.outpaint and args.region is None:
        raise ValueError("--outpaint takes a --region to keep")
    if args.picture is not None and args.region is None and args.given is None:
        raise ValueError("--picture takes a --region to draw, or --given for its first scales")
    if args.given is not None and args.given < 1:
        raise ValueError(f"--given must be 1 scale or more; not {args.given}")


def sampling(args: argparse.Namespace, model: Model) -> Sampling:
    """Return the model's sampling with the options' changes; raise ValueError for invalid ones."""
    changes: dict[str, Any] = {
        name: getattr(args, name) for name in SAMPLING if getattr(args, name) is not None
    }
    for name in ("guidance", "temperature"):
        if name in changes:
            changes[name] = options.numbers(f"--{name}", changes[name])
    if args.no_residuals:
        changes["residuals"] = False
    chosen = replace(model.sampling, **changes)
    model.transformer.check_sampling(chosen, model.grids())
    return chosen


def prompts(args: argparse.Namespace) -> list[str]:
    """Return the prompts, with the positive prompt of a file if one is named."""
    from fastvar_lab.prompts import positive_prompt

    text = suffix(args)
    return args.prompt if text is None else [positive_prompt(p, text) for p in args.prompt]


def suffix(args: argparse.Namespace) -> str | None:
    """Read the released positive prompt of --positive-prompt; None without it."""
    if args.positive_prompt is None:
        return None
    from fastvar_lab.files import official_text
    from fastvar_lab.prompts import SUFFIX_SHA256

    try:
        return official_text(args.positive_prompt, SUFFIX_SHA256)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ValueError(f"cannot read the file {args.positive_prompt}: {reason}") from None


def editing(args: argparse.Namespace, model: Model) -> tuple[list[Tensor], Tensor | None]:
    """Return the given tokens of --picture for every prompt, and the mask of those that stay."""
    if args.picture is None:
        return [], None
    from PIL import Image, ImageOps, UnidentifiedImageError

    from fastvar_lab.editing import encode_pictures, parse_region, picture_size, region_mask
    from fastvar_lab.pictures import to_tensor

    keep = None
    if args.region is not None:
        h, w = model.sizes[-1]
        keep = region_mask(h, w, parse_region(args.region), args.outpaint)
    if args.given is not None and args.given > len(model.sizes):
        raise ValueError(f"--given must be at most {len(model.sizes)} scales; not {args.given}")
    height, width = picture_size(model, model.sizes)
    try:
        with Image.open(args.picture) as image:
            fitted = ImageOps.fit(image.convert("RGB"), (width, height), Image.Resampling.LANCZOS)
    except (OSError, UnidentifiedImageError) as error:
        reason = getattr(error, "strerror", None) or "it is no picture"
        raise ValueError(f"cannot open the picture {args.picture}: {reason}") from None
    pixels = (to_tensor([_array(fitted)], model.device) + 1) / 2
    tokens = encode_pictures(model, pixels)[: args.given]
    return [t.expand(len(args.prompt), *t.shape[1:]) for t in tokens], keep


def _array(image: Any) -> Any:
    import numpy as np

    return np.asarray(image)
