"""Attaches to a live object: a `Model` that shares the parameters of an Infinity, VAR or HART."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastvar_lab.backbones.autoencoder import AutoEncoderConfig
from fastvar_lab.backbones.infinity import InfinityConfig
from fastvar_lab.backbones.protocol import ConditionEncoder
from fastvar_lab.errors import short
from fastvar_lab.models import recognition, releases, states
from fastvar_lab.models.absent import NoAutoEncoder, NoText
from fastvar_lab.models.attached import Attached, stored_types
from fastvar_lab.models.build import build
from fastvar_lab.models.families import FAMILIES, Config, Family
from fastvar_lab.models.live_functions import LiveDecoder, LiveText, NamedConditions
from fastvar_lab.models.live_object import LiveObject, share
from fastvar_lab.models.model import Model, Preset
from fastvar_lab.prompts import PromptList, PromptSet, as_prompts
from fastvar_lab.sampling import Sampling
from fastvar_lab.scales import INFINITY_BUDGETS, Sizes, as_sizes, infinity


def attach(
    live: nn.Module,
    *,
    tokenizer: nn.Module | Callable[[Tensor], Tensor] | None = None,
    text: ConditionEncoder | Callable[[list[str]], Any] | Mapping[str, Any] | None = None,
    name: str | None = None,
    sizes: Sequence[Sequence[int]] | None = None,
    sampling: Sampling | None = None,
    autocast: torch.dtype | None = None,
    reference: tuple[int, int] | None = None,
    fast: Preset | None = None,
    prompts: PromptSet | str | Sequence[str] | None = None,
) -> Model:
    """Open a live Infinity, VAR or HART as a model that shares its parameters.

    `live` is the object of the released code, a fork or a fine-tune, recognised by the names and
    shapes of its parameters; its repository is not imported. Sizes are read off its modules. Data
    parallelism, compilation and peft around it are looked through. Linear layers are used as they
    are: adapters, hooks and quantised weights act. The live object's own forward code is not
    called, so a fork that changed it gives other pictures: `check` compares them.

    `tokenizer` is the live tokenizer; by default the one that the object carries (`vae_proxy`).
    Infinity, whose quantiser has no weights, also takes a function from latents (n, d, H, W) to
    pictures (n, 3, h, w) in [0, 1], or none: latents stay latents. `text` is a `ConditionEncoder`,
    or a function from a list of prompts to the condition's tensors: features (n, T, D) and mask
    (n, T), bool, for Infinity; features and positions (n, T) for HART. A dict from names to
    conditions of one row, encoded elsewhere, makes its names the prompts: of `generate`, of
    experiments and of widgets. Without either prompts come encoded; VAR needs none. `name`, `sizes`
    and `sampling` default to those of the release of this configuration, else of the family, and
    so does `fast`, its preset; `reference` replaces Infinity's rotary grid, as in `load`. `prompts`
    are those of experiments, the first of them the example; a model that takes only some words
    needs them.

    `autocast` is the type in which the object's own sampler runs under autocast; by default the
    type of its blocks, if the other weights are wider. Nothing of the object changes: weights keep
    their device, type and layout, and a model in memory is not held twice. Layers that are replaced
    in it afterwards, for instance by an adapter, are seen when it is attached again; after weights
    were moved, converted or replaced in its layers, generation says that this is needed.

    Raises ValueError for an object of no known family, in training mode, on several devices, or
    whose settings are not implemented; WeightsError for parameters that do not match.

    >>> from fastvar_lab.models.standin import live_infinity
    >>> live = live_infinity()
    >>> model = attach(live, tokenizer=live.vae_decode, text=live.encode_text, name="live")
    >>> model.transformer.head.weight is live.head.weight
    True
    """
    if name is not None and not (isinstance(name, str) and name.isprintable()):
        raise ValueError(f"name is text in one line; not {short(name)}")
    whole = LiveObject(live, "the live object")
    family = FAMILIES[recognition.family_name(whole)]
    carried = whole.setting("vae_proxy")
    if tokenizer is None and isinstance(carried, tuple) and carried:
        tokenizer = carried[0]
    vision = (
        LiveObject(tokenizer, "the live tokenizer") if isinstance(tokenizer, nn.Module) else None
    )
    if vision is None and tokenizer is not None and not callable(tokenizer):
        raise ValueError(f"tokenizer must be a live module or a function; not {short(tokenizer)}")
    sized = None if vision is None else recognition.tokenizer_of(vision)
    config = recognition.config_of(whole, family.name, None if sized is None else sized.channels)
    if vision is None and family.name != "infinity":
        raise ValueError(f"{whole.noun} needs its live tokenizer, which holds its codebook")
    if vision is not None and not isinstance(config, InfinityConfig):
        config = replace(config, share_quant_resi=recognition.shared_convs(vision))
    if reference is not None:
        if not isinstance(config, InfinityConfig):
            raise ValueError(f"a rotary reference grid belongs to Infinity; not to {whole.noun}")
        config = replace(config, reference=as_sizes([reference])[0])
    parts = _parts(whole, config, sized)
    share(parts.transformer, whole)
    if vision is not None:
        share(parts.tokenizer, vision)
        if vision.device != whole.device:
            raise ValueError(
                f"{whole.noun} is on {whole.device}, its tokenizer on {vision.device}; "
                "move them to one device before attaching"
            )
    elif tokenizer is None:
        parts.tokenizer = NoAutoEncoder()
    else:
        channels = parts.tokenizer.config.channels
        parts.tokenizer = LiveDecoder(tokenizer, channels, whole.device)
    known = _known(config)
    named = name or known or family.name
    _put_text(parts, text, named, family)
    if prompts is not None:
        parts.prompts = as_prompts(prompts)
        parts.text_encoder.example = parts.prompts.take(1)[0].prompt
    model = Attached(
        live=whole,
        live_tokenizer=vision,
        **{f.name: getattr(parts, f.name) for f in fields(Model) if f.init},
    )
    model.name = named
    release = None if known is None else releases.release(known)
    model.fast = model.fast if fast is None else fast
    model.sampling = sampling or (release and release.sampling) or model.sampling
    model.sizes = _sizes(whole, family, sizes) or (release and release.sizes) or model.sizes
    for module in (*model.transformer.modules(), *model.tokenizer.modules()):
        module.training = False  # of this library's; those of the live object are so already
    stored = stored_types(model.transformer)
    model.autocast = autocast
    if autocast is None and torch.float32 in stored and len(stored) == 2:
        model.autocast = min(stored, key=lambda dtype: dtype.itemsize)
    if family.official.rounds_text and model.autocast is not None:
        cast(Any, model.transformer).round_text_attention(True)
    return model


def _parts(live: LiveObject, config: Config, tokenizer: AutoEncoderConfig | None) -> Model:
    """Build a model on the meta device; raise ValueError for sizes that no model has."""
    try:
        with torch.device("meta"):
            return build(config, tokenizer=tokenizer)
    except (AssertionError, RuntimeError, ValueError, ZeroDivisionError, IndexError) as error:
        raise ValueError(
            f"the sizes of {live.noun} are none of a model: {short(error, 100)}"
        ) from None


def _known(config: Config) -> str | None:
    """Return the name of the release with this configuration; None if there is none."""
    return states.released().get(config)


def _sizes(live: LiveObject, family: Family, sizes: Sequence[Sequence[int]] | None) -> Sizes | None:
    """Return the schedule given, or the one of an Infinity's own pixel budget `pn`."""
    if sizes is not None:
        return as_sizes(sizes)
    budget = live.setting("pn")
    if family.name == "infinity" and budget in INFINITY_BUDGETS:
        return infinity(1.0, budget)
    return None


def _put_text(model: Model, text: Any, name: str, family: Family) -> None:
    """Set the text encoder of a model: what was given, or a `NoText`."""
    if isinstance(text, ConditionEncoder):
        model.text_encoder = text
    elif isinstance(text, Mapping):
        if family.text_length is None:
            raise ValueError(f"{name} is conditioned on class numbers; it takes no texts")
        if not text:
            raise ValueError("text names no condition; give one a prompt, or leave it out")
        model.text_encoder = NamedConditions(name, text, model.transformer.condition)
        model.text_encoder.to(model.device)
        model.prompts = PromptList(tuple(text))
    elif callable(text):
        model.text_encoder = LiveText(text, model.transformer.condition)
    elif text is not None:
        raise ValueError(
            "text must be a ConditionEncoder, a function, or a dict of encoded conditions; "
            f"not {short(text)}"
        )
    elif family.text_length is not None:
        model.text_encoder = NoText(
            name, advice=", or name them where it is attached: text={'a cat': condition}"
        )
