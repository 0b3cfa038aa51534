"""Build a model from its configuration: random weights, or state dicts in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from fastvar_lab.backbones.autoencoder import AutoEncoder, AutoEncoderConfig, VQTokenizer
from fastvar_lab.backbones.hart import HART, HARTConfig
from fastvar_lab.backbones.infinity import Infinity, InfinityConfig
from fastvar_lab.backbones.protocol import Backbone, ConditionEncoder
from fastvar_lab.backbones.quantize import BitQuantizer, Quantizer
from fastvar_lab.backbones.text import RandomContext, RandomText
from fastvar_lab.backbones.var import VAR, LabelEncoder, VARConfig
from fastvar_lab.models import releases
from fastvar_lab.models import weights as files
from fastvar_lab.models.model import Model, NoAutoEncoder, NoText
from fastvar_lab.sampling import Sampling
from fastvar_lab.scales import Sizes, infinity, square


def build(
    config: releases.Config,
    *,
    name: str = "custom",
    tokenizer: AutoEncoderConfig | None = None,
    sizes: Sizes | None = None,
    sampling: Sampling | None = None,
) -> Model:
    """Build a VAR, Infinity or HART from its configuration, with random weights.

    Text features are random too, one per word; a VAR's prompts are class numbers. The defaults are
    those of the family's releases.
    """
    transformer: Backbone
    condition: ConditionEncoder
    if isinstance(config, InfinityConfig):
        transformer, condition = Infinity(config), RandomText(config.text_width)
        pictures = AutoEncoder(tokenizer or releases.infinity_tokenizer(config))
        quantizer: Quantizer = BitQuantizer(config.bits, config.patch)
        usual, default = infinity(), Sampling()
    else:
        book = VQTokenizer(
            tokenizer or releases.VAR_TOKENIZER,
            config.vocabulary,
            config.levels,
            hybrid=isinstance(config, HARTConfig),
        )
        pictures, quantizer, usual = book, book.quantize, square(*config.sides)
        if isinstance(config, HARTConfig):
            transformer = HART(config)
            condition = RandomContext(config.context_width, config.context)
            default = Sampling(guidance=4.5, top_p=1.0, smooth=True)
        else:
            transformer, condition = VAR(config), LabelEncoder(config.classes)
            default = Sampling(guidance=4.0, top_k=900, top_p=0.95)
    return Model(
        name=name,
        transformer=transformer,
        tokenizer=pictures,
        quantizer=quantizer,
        text_encoder=condition,
        sizes=sizes or usual,
        sampling=sampling or default,
    )


FAMILIES: dict[str, type] = {"var": VARConfig, "infinity": InfinityConfig, "hart": HARTConfig}


def from_states(
    family: str,
    config: Mapping[str, Any],
    transformer: Mapping[str, Tensor],
    quantizer: Mapping[str, Tensor] | None = None,
    *,
    sizes: Sequence[tuple[int, int]] | None = None,
    precision: str = "float32",
) -> Model:
    """Build a model from a configuration and state dicts in memory, under the released key names.

    `family` is "var", "infinity" or "hart", `config` its configuration's fields (VARConfig,
    InfinityConfig, HARTConfig). `quantizer` holds at least the tokenizer's `quantize.` part (VAR
    and HART; bits need none). The result has no autoencoder and no text encoder: `generate`
    takes labels or encoded prompts and returns the latent. `precision` as in `load`. The model
    shares the tensors' memory: copy those that are still being trained.
    """
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}; not {family!r}")
    known = {f.name for f in fields(FAMILIES[family])}
    for key in config:
        if key not in known:
            raise ValueError(f"{family} has no setting {key!r}; it has {', '.join(sorted(known))}")
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    channels = int(config.get("code", config.get("bits", 32)))
    with torch.device("meta"):
        made = build(
            FAMILIES[family](**settings),
            name=family,
            tokenizer=AutoEncoderConfig(channels, (32,), 1, 1),  # stands in, and goes
            sizes=tuple((h, w) for h, w in sizes) if sizes else None,
        )
    made.tokenizer, made.text_encoder = NoAutoEncoder(), NoText(family)
    parts: list[tuple[nn.Module, Mapping[str, Tensor]]] = [(made.transformer, transformer)]
    if isinstance(made.quantizer, nn.Module):
        state = {k.split("quantize.")[-1]: v for k, v in (quantizer or {}).items()
                 if "quantize." in k}  # fmt: skip
        parts.append((made.quantizer, state))
    for module, tensors in parts:
        named = files.by_own_names(tensors, module)
        files.fill(module, named, f"the {module._get_name()} state dict")
    return made.set_precision(precision)
