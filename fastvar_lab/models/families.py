"""The released families as data: one record of what the models of a family have in common."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from fastvar_lab.backbones.autoencoder import AutoEncoder, AutoEncoderConfig, VQTokenizer
from fastvar_lab.backbones.hart import HART, HARTConfig
from fastvar_lab.backbones.infinity import Infinity, InfinityConfig
from fastvar_lab.backbones.protocol import Backbone, ConditionEncoder
from fastvar_lab.backbones.quantize import BitQuantizer, Quantizer
from fastvar_lab.backbones.text import RandomContext, RandomText
from fastvar_lab.backbones.var import VAR, LabelEncoder, VARConfig
from fastvar_lab.class_names import IMAGENET, imagenet_names
from fastvar_lab.errors import WeightsError
from fastvar_lab.methods.presets import PRESETS, infinity_preset
from fastvar_lab.methods.prune import Prune
from fastvar_lab.models.precision import Official
from fastvar_lab.prompts import ClassNumbers, ClosedWorld, PromptSet
from fastvar_lab.sampling import Sampling
from fastvar_lab.scales import INFINITY_BUCKETS, Buckets, Sizes, square
from fastvar_lab.scales import infinity as infinity_sizes

Config = VARConfig | InfinityConfig | HARTConfig
Modules = tuple[Backbone, AutoEncoder, Quantizer]

VAR_TOKENIZER = AutoEncoderConfig(32, (160, 160, 320, 320, 640), attention=True)


@dataclass(frozen=True)
class Family:
    """A family of released models: functions that build its parts from a `config`, and defaults.

    `modules` builds the transformer, the autoencoder (of a `tokenizer`, default the family's) and
    the quantizer; `condition` builds the stand-in for the text encoder. `text_length` says how
    many tokens of text the transformer takes, `options` which settings of `load` only this family
    has. `follow` brings a configuration in line with the files of a folder.
    """

    name: str
    config: type
    modules: Callable[[Any, AutoEncoderConfig | None], Modules]
    condition: Callable[[Any], ConditionEncoder]
    sizes: Callable[[Any], Sizes]
    sampling: Sampling
    preset: Callable[[int, int], Prune]
    prompts: Callable[[Any], PromptSet]
    official: Official
    buckets: Buckets | None = None
    text_length: Callable[[Any], int] | None = None
    options: frozenset[str] = frozenset()
    follow: Callable[[Any, Path], Any] = lambda config, _: config


def infinity_tokenizer(config: InfinityConfig) -> AutoEncoderConfig:
    """Return the tokenizer of an Infinity: stride 16, or 8 under patchified tokens."""
    widths = (128, 256, 512, 512, 512) if config.patch == 1 else (128, 256, 512, 512)
    return AutoEncoderConfig(config.bits, widths)


# seeded random weights depend on the order in which the modules are built
def _infinity(config: InfinityConfig, tokenizer: AutoEncoderConfig | None) -> Modules:
    transformer = Infinity(config)
    vision = AutoEncoder(tokenizer or infinity_tokenizer(config))
    return transformer, vision, BitQuantizer(config.bits, config.patch)


def _var(config: VARConfig, tokenizer: AutoEncoderConfig | None) -> Modules:
    book = tokenizer or VAR_TOKENIZER
    shared = config.share_quant_resi
    vision = VQTokenizer(book, config.vocabulary, config.levels, share_quant_resi=shared)
    return VAR(config), vision, vision.quantize


def _hart(config: HARTConfig, tokenizer: AutoEncoderConfig | None) -> Modules:
    book = tokenizer or VAR_TOKENIZER
    shared = config.share_quant_resi
    vision = VQTokenizer(book, config.vocabulary, config.levels, True, shared)
    return HART(config), vision, vision.quantize


HART_NEEDS = {"attn_type": "llama", "mlp_type": "llama", "disable_aln": True, "shared_aln": False}
_HART_NAMES = {  # key of the release's config.json -> field of HARTConfig
    "embed_dim": "width",
    "num_heads": "heads",
    "context_token": "context",
    "context_dim": "context_width",
    "diff_width": "diffusion_width",
    "diff_depth": "diffusion_depth",
}


def hart_config(config: HARTConfig, folder: Path) -> HARTConfig:
    """Update a configuration with the settings in a release's `config.json`.

    Settings without a field in `HARTConfig` are ignored. Raises WeightsError for an architecture
    that `HART` does not implement.
    """
    path = folder / "config.json"
    if not path.exists():
        return config
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for key, value in HART_NEEDS.items():
        if content.get(key, value) != value:
            raise WeightsError(f"{path} has {key} {content[key]!r}; only {value!r} is implemented")
    settings = {_HART_NAMES.get(key, key): value for key, value in content.items()}
    sides = content.get("patch_nums", config.sides)
    numbers = sides.replace("-", "_").split("_") if isinstance(sides, str) else sides
    settings["sides"] = tuple(map(int, numbers))
    names = {f.name for f in fields(HARTConfig)} - {"hidden", "early"}
    return replace(config, **{k: v for k, v in settings.items() if k in names and v is not None})


def _english(config: Config) -> PromptSet:
    """Return the prompts of the closed world without its judge, which cannot score photographs."""
    return ClosedWorld(judge=None)


FAMILIES = {
    family.name: family
    for family in (
        Family(
            name="var",
            config=VARConfig,
            modules=_var,
            condition=lambda config: LabelEncoder(
                config.classes, imagenet_names() if config.classes == IMAGENET else ()
            ),
            sizes=lambda config: square(*config.sides),
            sampling=Sampling(guidance=4.0, top_k=900, top_p=0.95),
            preset=lambda steps, depth: PRESETS["var-d30" if depth >= 30 else "var-d24"],
            prompts=lambda config: ClassNumbers(config.classes),
            official=Official(),
            options=frozenset({"attn_l2_norm", "share_quant_resi"}),
        ),
        Family(
            name="infinity",
            config=InfinityConfig,
            modules=_infinity,
            condition=lambda config: RandomText(config.text_width),
            sizes=lambda config: infinity_sizes(),
            sampling=Sampling(),
            preset=infinity_preset,
            prompts=_english,
            official=Official(stores_blocks=True, rounds_text=True),
            buckets=INFINITY_BUCKETS,
            text_length=lambda config: config.text_length,
            options=frozenset({"reference", "rotary_mode", "level_every"}),
        ),
        Family(
            name="hart",
            config=HARTConfig,
            modules=_hart,
            condition=lambda config: RandomContext(config.context_width, config.context),
            sizes=lambda config: square(*config.sides),
            sampling=Sampling(guidance=4.5, top_p=1.0, smooth=True),
            preset=lambda steps, depth: PRESETS["hart"],
            prompts=_english,
            official=Official(latent=True),
            text_length=lambda config: config.context,
            options=frozenset({"instruction", "share_quant_resi"}),
            follow=hart_config,
        ),
    )
}


def family_of(config: Config) -> Family:
    """Return the family of a configuration."""
    return next(family for family in FAMILIES.values() if family.config is type(config))
