"""The embedded model `tiny`: its configuration, and functions that build, open and save it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from fastvar_lab.backbones.autoencoder import AutoEncoder, AutoEncoderConfig
from fastvar_lab.backbones.infinity import Infinity, InfinityConfig
from fastvar_lab.backbones.quantize import BitQuantizer
from fastvar_lab.backbones.text import WordEncoder, WordEncoderConfig
from fastvar_lab.errors import WeightsError
from fastvar_lab.methods.presets import PRESETS
from fastvar_lab.methods.prune import Prune
from fastvar_lab.models import checkpoints
from fastvar_lab.models.families import FAMILIES
from fastvar_lab.models.model import Model
from fastvar_lab.prompts import ClosedWorld
from fastvar_lab.sampling import Sampling
from fastvar_lab.scales import TINY, infinity
from fastvar_lab.world.grammar import VOCABULARY, parse

WEIGHTS = Path(__file__).parent.parent / "weights"
PAPER = PRESETS["infinity-all-layers"]
TOKENIZER_FILE, TRANSFORMER_FILE = "tiny_tokenizer.safetensors", "tiny_transformer.safetensors"


def tiny_config() -> dict[str, Any]:
    """Return the embedded model's configuration: about 140 GFLOP per guided 256 px picture."""
    text = WordEncoderConfig(VOCABULARY, width=256, depth=2, heads=4, length=24)
    transformer = InfinityConfig(
        depth=8,
        width=256,
        heads=4,
        ffn=1024,
        bits=16,
        text_width=text.width,
        text_length=text.length,
        reference=(96, 96),
        waves=4,
    )
    tokenizer = AutoEncoderConfig(16, (96, 128), encoder_blocks=1, decoder_blocks=2, patch=4)
    return {
        "transformer": asdict(transformer),
        "text": asdict(text),
        "tokenizer": asdict(tokenizer),
    }


def build_tiny(config: dict[str, Any] | None = None, name: str = "tiny") -> Model:
    """Build the embedded model, or a variant of it from a configuration, with random weights.

    Raises WeightsError for a configuration with unknown fields.
    """
    default = tiny_config()
    config = config or default

    def frozen(part: str) -> dict[str, Any]:  # JSON has no tuples
        for key in config[part].keys() - default[part].keys():
            raise WeightsError(
                f"the configuration of the {part} has the unknown field {key!r}, perhaps of "
                f"another version; known fields are {', '.join(default[part])}"
            )
        return {k: tuple(v) if isinstance(v, list) else v for k, v in config[part].items()}

    transformer = Infinity(InfinityConfig(**frozen("transformer")))
    transformer.initialize()
    return Model(
        name=name,
        transformer=transformer,
        tokenizer=AutoEncoder(AutoEncoderConfig(**frozen("tokenizer"))),
        quantizer=BitQuantizer(transformer.config.bits),
        text_encoder=WordEncoder(WordEncoderConfig(**frozen("text"))),
        sizes=TINY,
        sampling=Sampling(guidance=2.0, temperature=0.6, top_p=1.0),
        family="infinity",
        fast=PRESETS["tiny"],
        prompts=ClosedWorld(),
        grammar=parse,
        official=FAMILIES["infinity"].official,
        extends=True,
        timed=(
            (TINY, {"32x32": Prune({24: 0.5, 32: 0.75}), "32x32 paper preset": PAPER}),
            (infinity(), {"64x64": Prune({48: 0.5, 64: 0.75}), "64x64 paper preset": PAPER}),
        ),
    )


def open_tiny(folder: str | Path | None = None) -> Model:
    """Open the embedded model from a folder of weights, by default those of the package.

    Raises WeightsError for files that are missing, damaged or of another model.
    """
    place = Path(WEIGHTS if folder is None else folder)
    parts, config = checkpoints.read(place / TRANSFORMER_FILE)
    vision, vision_config = checkpoints.read(place / TOKENIZER_FILE)
    try:
        model = build_tiny({**config, **vision_config})
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{place} holds another model's configuration: {error}") from None
    checkpoints.fill(language(model), parts, place / TRANSFORMER_FILE)
    checkpoints.fill(model.tokenizer, vision, place / TOKENIZER_FILE)
    return model


def language(model: Model) -> nn.ModuleDict:
    """Return transformer and text encoder as one module: they are trained and stored together."""
    return nn.ModuleDict({"transformer": model.transformer, "text": model.text_encoder})


def save_tokenizer(model: Model, folder: Path) -> None:
    """Write the tokenizer with its configuration."""
    config = {"tokenizer": asdict(model.tokenizer.config)}
    checkpoints.save(folder / TOKENIZER_FILE, model.tokenizer.state_dict(), config, torch.float16)


def save_transformer(model: Model, folder: Path) -> None:
    """Write the transformer and its text encoder with their configuration."""
    config = {
        "transformer": asdict(model.transformer.config),
        "text": asdict(cast(WordEncoder, model.text_encoder).config),
    }
    state = language(model).state_dict()
    checkpoints.save(folder / TRANSFORMER_FILE, state, config, torch.float16)
