"""Files of LoRAs, as peft and diffusers write them: their matrices by layer, and their scaling.

peft itself is not needed. A file names the layers by their released names, behind any of the usual
prefixes; `adapter_config.json` beside it, or the metadata of diffusers, say how it is scaled.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from safetensors import safe_open
from torch import Tensor

from fastvar_lab.errors import WeightsError, short
from fastvar_lab.files import expanded, read_json
from fastvar_lab.models import states
from fastvar_lab.models.checkpoints import read_released

FILES = ("adapter_model.safetensors", "adapter_model.bin", "pytorch_lora_weights.safetensors")
CONFIG = "adapter_config.json"
_PREFIX = re.compile(r"^(?:base_model\.model\.|base_model\.|module\.|_orig_mod\.|transformer\.)+")
_KEY = re.compile(
    r"(?P<path>.+?)\.(?:(?P<down>lora_A|lora_down|lora\.down)|(?:lora_B|lora_up|lora\.up))"
    r"(?:\.[^.]+)?\.weight"
)
_NEUTRAL = {  # settings of peft's that do not change what its matrices do, or that are read here
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path"),
    *("revision", "inference_mode", "lora_dropout", "megatron_config", "megatron_core"),
    *("qalora_group_size", "runtime_config", "loftq_config", "eva_config", "corda_config"),
    *("lora_ga_config", "layers_pattern", "bias", "init_lora_weights"),
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"),
    *("target_modules", "exclude_modules", "layers_to_transform"),
}
_STARTS = {True, False, None, "true", "false", "gaussian", "orthogonal", "eva"}
"""Values of `init_lora_weights` that leave the weights of the base model as they were."""


class Pair(NamedTuple):
    """The two factors of one layer: down (r, C) and up (C', r)."""

    down: Tensor
    up: Tensor


@dataclass(frozen=True)
class Settings:
    """How a file scales its products: alpha / rank, or alpha / sqrt(rank)."""

    rank: int | None = None  # as stated; None: that of the tensors
    alpha: float | None = None  # None: the rank
    ranks: Mapping[str, int] | None = None  # by pattern of names
    alphas: Mapping[str, float] | None = None
    root: bool = False
    targets: Sequence[str] | None = None  # names, or ends of names, of all layers that it adapts

    def scaling(self, name: str, rank: int, alpha: float | None) -> float:
        """Return the factor of a layer; its own `alpha` goes before the stated one."""
        stated = matching(self.alphas, name, self.alpha)
        value = stated if alpha is None else alpha
        return 1.0 if value is None else value / (math.sqrt(rank) if self.root else rank)


class LoRAFile(NamedTuple):
    """What a file holds: matrices by layer, the alphas of single layers, and its settings."""

    source: Path
    settings: Settings
    pairs: dict[str, Pair]
    alphas: dict[str, float]

    def scaling(self, name: str) -> float:
        """Return the factor of the product of a layer."""
        return self.settings.scaling(name, len(self.pairs[name].down), self.alphas.get(name))


def lora_file(path: str | Path) -> Path:
    """Return the file of tensors that a path names; raise WeightsError if there is none."""
    place = expanded(path)
    if not place.is_dir():
        if not place.exists():
            raise WeightsError(f"there is no LoRA at {place}")
        return place
    for name in FILES:
        if (place / name).exists():
            return place / name
    raise WeightsError(f"{place} holds no LoRA: it has none of {', '.join(FILES)}")


def read_lora(path: str | Path, depth: int) -> LoRAFile:
    """Read a LoRA for a model of `depth` layers; raise WeightsError for what is none."""
    source = lora_file(path)
    settings = _settings(source)
    pairs, alphas = _pairs(read_released(source), source, depth)
    return LoRAFile(source, settings, pairs, alphas)


def _settings(file: Path) -> Settings:
    """Read the settings beside a file of peft's, or in the metadata of one of diffusers."""
    config, written = file.parent / CONFIG, dict[str, Any]()
    if file.name in FILES[:2] and config.exists():
        try:
            written = read_json(config.read_bytes())
        except (OSError, ValueError) as error:
            raise WeightsError(f"cannot read {config}: {short(error, 120)}") from None
        source: object = config
    else:
        written, source = _metadata(file), file
    if not written:
        return Settings()
    if str(written.get("peft_type", "LORA")).upper() != "LORA":
        raise WeightsError(f"{source} is a {short(written['peft_type'])}; only LoRA is implemented")
    on = [name for name, value in written.items() if value and name not in _NEUTRAL]
    if written.get("bias", "none") != "none":
        on.append("bias")
    if on:
        raise WeightsError(f"{source} sets {short(on[0])}, which is not implemented")
    start = written.get("init_lora_weights")
    if not isinstance(start, str | bool | None) or start not in _STARTS:
        raise WeightsError(
            f"{source} has init_lora_weights {short(start)}, which changes the weights of the base "
            "model; convert it to a plain LoRA (peft: path_initial_model_for_weight_conversion)"
        )
    rank, alpha = written.get("r"), written.get("lora_alpha")
    if not (isinstance(rank, int) and rank > 0 and isinstance(alpha, int | float)):
        raise WeightsError(
            f"{source} must give r, a number above 0, and lora_alpha; "
            f"not {short(rank)} and {short(alpha)}"
        )
    patterns = {k: written.get(k) or {} for k in ("rank_pattern", "alpha_pattern")}
    for name, pattern in patterns.items():
        kept = isinstance(pattern, dict) and all(
            isinstance(v, int | float) for v in pattern.values()
        )
        if not kept:
            raise WeightsError(
                f"{source} has the {name} {short(pattern)}; it maps names to numbers"
            )
    targets = written.get("target_modules")
    some = written.get("layers_to_transform") is not None or written.get("exclude_modules")
    whole = isinstance(targets, list) and all(isinstance(t, str) for t in targets) and not some
    root = bool(written.get("use_rslora"))
    listed = cast(list[str], targets) if whole else None
    ranks, alphas = patterns.values()
    return Settings(rank, alpha, ranks, alphas, root, listed)


def _metadata(file: Path) -> dict[str, Any]:
    """Return the settings that diffusers writes into a file's header; empty without them."""
    try:
        with safe_open(file, framework="pt") as opened:
            held = (opened.metadata() or {}).get("lora_adapter_metadata", "{}")
        settings = json.loads(held)
        return {str(key).removeprefix("transformer."): value for key, value in settings.items()}
    except Exception:  # not such a file: reading its tensors says what is wrong, if anything is
        return {}


def matching(values: Mapping[str, Any] | None, name: str, default: Any) -> Any:
    """Return the value of the first pattern that a name ends in, as peft matches them."""
    for pattern, value in (values or {}).items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", name):
                return value
        except re.error:
            raise WeightsError(f"{short(pattern)} is no pattern of names") from None
    return default


def _pairs(
    tensors: Mapping[str, Tensor], source: Path, depth: int
) -> tuple[dict[str, Pair], dict[str, float]]:
    """Sort the tensors of a file into pairs by the layer's name, and alphas."""
    downs, ups, alphas = dict[str, Tensor](), dict[str, Tensor](), dict[str, float]()
    plain = {key: _PREFIX.sub("", key) for key in tensors}
    names = dict(zip(plain, _consecutive([*plain.values()], source, depth), strict=True))
    for key, tensor in tensors.items():
        head, _, leaf = names[key].rpartition(".")
        match = _KEY.fullmatch(names[key])
        if match is None and leaf in ("alpha", "lora_alpha") and tensor.numel() == 1:
            alphas[head] = float(tensor)
            continue
        if match is None or tensor.ndim != 2 or not tensor.is_floating_point():
            raise WeightsError(
                f"{short(key)} in {source} is no matrix of a LoRA (lora_A and lora_B, or lora_down "
                "and lora_up)"
            )
        kept = downs if match["down"] else ups
        if match["path"] in kept:
            raise WeightsError(f"{source} holds two matrices for {short(key)}; one LoRA is a file")
        kept[match["path"]] = tensor
    for name in sorted(downs.keys() ^ ups.keys()):
        half = "lora_B" if name in downs else "lora_A"
        raise WeightsError(f"{source} lacks {half} of {short(name)}")
    if not downs:
        raise WeightsError(f"{source} holds no LoRA")
    return {name: Pair(down, ups[name]) for name, down in downs.items()}, alphas


def _consecutive(names: list[str], source: Path, depth: int) -> list[str]:
    """Give blocks in chunks consecutive numbers; raise WeightsError if they are not all layers."""
    counts = states.chunks(names)
    if counts is not None and counts[0] * counts[1] != depth:
        raise WeightsError(
            f"{source} names layers in {counts[0]} chunks of {counts[1]}, which are not the "
            f"{depth} layers of this model"
        )
    return states.consecutive(names)
