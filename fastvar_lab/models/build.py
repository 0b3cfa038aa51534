"""Builds a model from a configuration, with random weights or state dicts in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from fastvar_lab.backbones.autoencoder import AutoEncoderConfig
from fastvar_lab.errors import WeightsError, short
from fastvar_lab.models import states
from fastvar_lab.models.absent import NoAutoEncoder, NoText
from fastvar_lab.models.families import FAMILIES, Config, family_of
from fastvar_lab.models.model import Model
from fastvar_lab.models.wrappers import unprefixed, unwrap
from fastvar_lab.sampling import Sampling
from fastvar_lab.scales import as_sizes


def build(
    config: Config,
    *,
    name: str = "custom",
    tokenizer: AutoEncoderConfig | None = None,
    sizes: Sequence[Sequence[int]] | None = None,
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
        sizes=family.sizes(config) if sizes is None else as_sizes(sizes),
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
    sizes: Sequence[Sequence[int]] | None = None,
    precision: str = "float32",
    dtype: torch.dtype = torch.float32,
) -> Model:
    """Build a model from a configuration and state dicts in memory, under the released key names.

    `family` is "var", "infinity" or "hart"; `config` are the fields of its configuration
    (VARConfig, InfinityConfig, HARTConfig). `quantizer` holds at least the tokenizer's `quantize.`
    keys (VAR and HART; Infinity needs none). Both state dicts may be wrapped or nested by trainers:
    `module.`, `_orig_mod.`, `state_dict` and `model_ema` are removed. The model has no autoencoder
    and no text encoder: `generate` takes labels or encoded prompts and returns the latent.
    `precision` and `dtype` as in `load`: float64 states stay as they are with `dtype` float64. The
    model shares the memory of tensors in its type, so copy those that are still being trained.
    Raises ValueError for an unknown family or field, WeightsError for keys that do not match.
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
            sizes=sizes,
        )
    model.tokenizer = NoAutoEncoder()
    if FAMILIES[family].text_length is not None:  # class labels need no weights
        model.text_encoder = NoText(family)
    parts: list[tuple[nn.Module, Mapping[str, Tensor]]] = [(model.transformer, transformer)]
    if isinstance(model.quantizer, nn.Module):
        parts.append((model.quantizer, _quantizer_part(quantizer)))
    for module, tensors in parts:
        source = f"the {module._get_name()} state dict"
        plain, prefix = unprefixed(unwrap(tensors, source))
        source += f" (without the prefix {prefix})" if prefix else ""
        states.fill(module, states.by_own_names(plain, module), source)
    return model.set_precision(precision, dtype)


def _quantizer_part(tokenizer: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Take the tensors below `quantize.` out of a tokenizer's state dict."""
    if tokenizer is None:
        raise WeightsError("this family's codebook is needed: give the tokenizer as `quantizer`")
    state = dict[str, Tensor]()
    for key, value in unwrap(tokenizer, "the tokenizer's state dict").items():
        _, mark, name = key.rpartition("quantize.")
        if mark and name in state:
            raise WeightsError(f"{short(name)} appears twice, once as {short(key)}")
        if mark:
            state[name] = value
    return state
