"""Builds a model from a configuration, with random weights or state dicts in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from fastvar_lab.backbones.autoencoder import AutoEncoderConfig
from fastvar_lab.models import checkpoints
from fastvar_lab.models.absent import NoAutoEncoder, NoText
from fastvar_lab.models.families import FAMILIES, Config, family_of
from fastvar_lab.models.model import Model
from fastvar_lab.sampling import Sampling
from fastvar_lab.scales import Sizes


def build(
    config: Config,
    *,
    name: str = "custom",
    tokenizer: AutoEncoderConfig | None = None,
    sizes: Sizes | None = None,
    sampling: Sampling | None = None,
) -> Model:
    """Build a VAR, Infinity or HART from its configuration, with random weights.

    Text features are random too, one vector per word; the prompts of a VAR are class numbers.
    `tokenizer`, `sizes` and `sampling` default to those of the family's releases.
    """
    family = family_of(config)
    transformer, vision, quantizer = family.modules(config, tokenizer)
    return Model(
        name=name,
        transformer=transformer,
        tokenizer=vision,
        quantizer=quantizer,
        text_encoder=family.condition(config),
        sizes=sizes or family.sizes(config),
        sampling=sampling or family.sampling,
        family=family.name,
        fast=family.preset,
        prompts=family.prompts(config),
        official=family.official,
        buckets=family.buckets,
    )


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

    `family` is "var", "infinity" or "hart"; `config` are the fields of its configuration
    (VARConfig, InfinityConfig, HARTConfig). `quantizer` holds at least the tokenizer's `quantize.`
    keys (VAR and HART; Infinity needs none). The model has no autoencoder and no text encoder:
    `generate` takes labels or encoded prompts and returns the latent. `precision` as in `load`.
    The model shares the tensors' memory, so copy tensors that are still being trained. Raises
    ValueError for an unknown family or field, WeightsError for keys that do not match.
    """
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}; not {family!r}")
    config_class = FAMILIES[family].config
    names = {f.name for f in fields(config_class)}
    for key in config:
        if key not in names:
            raise ValueError(f"{family} has no setting {key!r}; it has {', '.join(sorted(names))}")
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    channels = int(config.get("code", config.get("bits", 32)))
    with torch.device("meta"):
        model = build(
            config_class(**settings),
            name=family,
            tokenizer=AutoEncoderConfig(channels, (32,), 1, 1),  # replaced by NoAutoEncoder
            sizes=tuple((h, w) for h, w in sizes) if sizes else None,
        )
    model.tokenizer, model.text_encoder = NoAutoEncoder(), NoText(family)
    parts: list[tuple[nn.Module, Mapping[str, Tensor]]] = [(model.transformer, transformer)]
    if isinstance(model.quantizer, nn.Module):
        state = {k.split("quantize.")[-1]: v for k, v in (quantizer or {}).items()
                 if "quantize." in k}  # fmt: skip
        parts.append((model.quantizer, state))
    for module, tensors in parts:
        renamed = checkpoints.by_own_names(tensors, module)
        checkpoints.fill(module, renamed, f"the {module._get_name()} state dict")
    return model.set_precision(precision)
