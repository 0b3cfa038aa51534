"""The shipped model `tiny`: its configuration, and functions that build, open and save it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastvar_lab.backbones.autoencoder import AutoEncoder, AutoEncoderConfig
from fastvar_lab.backbones.infinity import Infinity, InfinityConfig
from fastvar_lab.backbones.quantize import BitQuantizer
from fastvar_lab.backbones.text import WordEncoder, WordEncoderConfig
from fastvar_lab.errors import WeightsError, short
from fastvar_lab.files import expanded
from fastvar_lab.methods.presets import PRESETS
from fastvar_lab.methods.prune import Prune
from fastvar_lab.models import states
from fastvar_lab.models.families import FAMILIES
from fastvar_lab.models.model import Model
from fastvar_lab.models.seeding import seeded
from fastvar_lab.models.shipped import TOKENIZER_FILE, TRANSFORMER_FILE, WEIGHTS, check_hashes
from fastvar_lab.prompts import ClosedWorld
from fastvar_lab.sampling import Sampling
from fastvar_lab.scales import TINY, infinity
from fastvar_lab.world.grammar import VOCABULARY, parse

PAPER = PRESETS["infinity-all-layers"]
COUNTS = ("depth", "encoder_blocks", "decoder_blocks", "levels", "level_every")


def tiny_config() -> dict[str, Any]:
    """Return the shipped model's configuration: about 140 GFLOP per guided 256 px picture."""
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
    """Build the shipped model, or a variant of it from a configuration, with random weights.

    Raises WeightsError for a configuration with unknown fields.
    """
    default = tiny_config()
    config = config or default

    def frozen(part: str) -> dict[str, Any]:  # JSON has no tuples
        for key in config[part].keys() - default[part].keys():
            raise WeightsError(
                f"the configuration of the {part} has the unknown field {short(repr(key))}, "
                f"perhaps of another version; known fields are {', '.join(default[part])}"
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
            (TINY, {"32x32": Prune({24: 0.5, 32: 0.75}), "32x32, Infinity's ratios": PAPER}),
            (infinity(), {"64x64": Prune({48: 0.5, 64: 0.75}), "64x64, Infinity's ratios": PAPER}),
        ),
    )


def open_tiny(folder: str | Path | None = None) -> Model:
    """Open the shipped model from a folder of weights, by default those of the package.

    The files' checksums are checked, and those of the package's files against its list. The model
    is built without memory first, so that a configuration cannot ask for more than its tensors
    fill. Raises WeightsError for files that are missing, damaged or another model's.
    """
    place = expanded(WEIGHTS if folder is None else folder)
    check_hashes(place)
    parts, config = states.read(place / TRANSFORMER_FILE)
    vision, vision_config = states.read(place / TOKENIZER_FILE)
    config = {**config, **vision_config}
    try:
        _check_config(config, {**parts, **vision})
        # filled from files: building must not draw from the process, nor take memory
        with seeded(0), torch.device("meta"):
            model = build_tiny(config)
    except WeightsError:
        raise
    except Exception as error:  # sizes that contradict each other fail in many ways
        raise WeightsError(
            f"{place} holds another model's configuration: {short(error, 100)}"
        ) from None
    states.fill(language(model), parts, place / TRANSFORMER_FILE)
    states.fill(model.tokenizer, vision, place / TOKENIZER_FILE)
    return model.to("cpu", torch.float32)


def _check_config(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Refuse values of other types than a configuration has, and sizes beyond the tensors'.

    Depths and lists of sizes are at most as many as there are tensors, other sizes at most as large
    as their numbers.
    """
    most = sum(tensor.numel() for tensor in tensors.values())
    for part, settings in tiny_config().items():
        for key, default in settings.items():
            value = config[part].get(key, default)
            listed = isinstance(default, list | tuple)
            kinds = (list | tuple) if listed else type(default)
            entries = list(value) if isinstance(value, list | tuple) else [value]
            vocabulary = key == "vocabulary"
            kind = str if vocabulary else type(default) if not listed else int
            if not isinstance(value, kinds) or any(type(entry) is not kind for entry in entries):
                raise ValueError(
                    f"{part} has {key} {short(value)}, where {short(default)} is usual"
                )
            if key == "reference" and len(entries) != 2:
                raise ValueError(f"the rotary grid has {len(entries)} sides; not 2")
            count = len(tensors)
            if len(entries) > (most if vocabulary else count):
                raise ValueError(f"{part} has {len(entries)} values of {key}, more than tensors")
            for entry in entries:
                bound = count if key in COUNTS else most
                if type(entry) is int and not (0 if key in COUNTS else 1) <= entry <= bound:
                    raise ValueError(
                        f"{part} has {key} {short(entry)}, beyond what its {count} tensors hold"
                    )


def language(model: Model) -> nn.ModuleDict:
    """Return transformer and text encoder as one module: they are trained and stored together."""
    return nn.ModuleDict({"transformer": model.transformer, "text": model.text_encoder})


def save_tokenizer(model: Model, folder: Path) -> None:
    """Write the tokenizer with its configuration."""
    config = {"tokenizer": asdict(model.tokenizer.config)}
    states.save(folder / TOKENIZER_FILE, model.tokenizer.state_dict(), config, torch.float16)


def save_transformer(model: Model, folder: Path) -> None:
    """Write the transformer and its text encoder with their configuration."""
    config = {
        "transformer": asdict(model.transformer.config),
        "text": asdict(cast(WordEncoder, model.text_encoder).config),
    }
    state = language(model).state_dict()
    states.save(folder / TRANSFORMER_FILE, state, config, torch.float16)
