"""LoRA adapters on an open model: read from peft's and diffusers' files, fused and removed again.

peft itself is not needed. A file names the layers by their released names, behind any of the usual
prefixes; `adapter_config.json` beside it, or the metadata of diffusers, say how it is scaled.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn

from fastvar_lab.errors import WeightsError, short
from fastvar_lab.files import expanded, read_json
from fastvar_lab.models import states
from fastvar_lab.models.checkpoints import read_released
from fastvar_lab.models.model import Model
from fastvar_lab.models.precision import weight_of, weight_shape

FILES = ("adapter_model.safetensors", "adapter_model.bin", "pytorch_lora_weights.safetensors")
CONFIG = "adapter_config.json"
_PREFIX = re.compile(r"^(?:base_model\.model\.|base_model\.|module\.|_orig_mod\.|transformer\.)+")
_KEY = re.compile(
    r"(?P<path>.+?)\.(?:(?P<down>lora_A|lora_down|lora\.down)|(?:lora_B|lora_up|lora\.up))"
    r"(?:\.[^.]+)?\.weight"
)
_REFUSED = ("use_dora", "modules_to_save", "lora_bias", "fan_in_fan_out", "trainable_token_indices")


class LoRA(nn.Module):
    """A linear layer with a low-rank product beside it, `scaling * up(down(x))`.

    `lora_A` maps to the rank, `lora_B` back. `fused`: the product is in the layer's weight, whose
    former values are in `before`.
    """

    def __init__(self, base_layer: nn.Module, down: Tensor, up: Tensor, scaling: float) -> None:
        super().__init__()
        self.base_layer, self.scaling, self.fused = base_layer, scaling, False
        self.before: Tensor | None = None
        self.out_features, self.in_features = weight_shape(base_layer)
        self.lora_A = nn.Linear(self.in_features, len(down), bias=False, device="meta")
        self.lora_B = nn.Linear(len(down), self.out_features, bias=False, device="meta")
        for layer, weight in ((self.lora_A, down), (self.lora_B, up)):
            layer.weight = nn.Parameter(weight, requires_grad=False)
        self.eval()

    @property
    def weight(self) -> Tensor:
        return cast(Tensor, self.base_layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., C) to (..., C')."""
        out: Tensor = self.base_layer(x)
        if self.fused:
            return out
        low = self.lora_B(self.lora_A(x.to(self.lora_A.weight.dtype)))
        return out + (low * self.scaling).to(out.dtype)

    def fuse(self, keep: bool) -> None:
        """Add the product to the layer's weight; `keep` a copy of its values in CPU memory."""
        weight = self.weight.data
        self.before = weight.to("cpu", copy=True) if keep else None
        product = self.lora_B.weight.double() @ self.lora_A.weight.double()
        weight.copy_(weight.double() + self.scaling * product)
        self.fused = True

    def unfuse(self) -> None:
        """Put back the values that the layer's weight had."""
        assert self.before is not None
        self.weight.data.copy_(self.before)
        self.before, self.fused = None, False


class _Pair(NamedTuple):
    """The two factors of one layer: down (r, C) and up (C', r)."""

    down: Tensor
    up: Tensor


@dataclass(frozen=True)
class _Settings:
    """How a file scales its products: alpha / rank, or alpha / sqrt(rank)."""

    rank: int | None = None  # as stated; None: that of the tensors
    alpha: float | None = None  # None: the rank
    ranks: Mapping[str, int] | None = None  # by pattern of names
    alphas: Mapping[str, float] | None = None
    root: bool = False
    targets: Sequence[str] | None = None  # names, or ends of names, of all layers that it adapts

    def scaling(self, name: str, rank: int, alpha: float | None) -> float:
        """Return the factor of a layer; its own `alpha` goes before the stated one."""
        stated = _matching(self.alphas, name, self.alpha)
        value = stated if alpha is None else alpha
        return 1.0 if value is None else value / (math.sqrt(rank) if self.root else rank)


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


def load_lora(model: Model, path: str | Path, scale: float = 1.0) -> Model:
    """Put the LoRA of a file, or of a folder as peft writes it, on a model; return the model.

    `path` is a safetensors or torch file, or a folder with `adapter_model.safetensors` (peft) or
    `pytorch_lora_weights.safetensors` (diffusers). Its products are scaled by alpha / rank, as
    `adapter_config.json` beside it, the metadata or the keys `alpha` say, and by `scale`. Several
    LoRAs add up. The model's identity changes with it.

    Raises WeightsError, in one sentence, for a file of another base model, without some of the
    layers that it says it adapts, with unknown layers, or with ranks that contradict each other;
    ValueError for an attached model, whose live object takes the adapter itself.
    """
    model.check_changeable()
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        raise ValueError(f"scale is a number, 1 for the LoRA as trained; not {scale!r}")
    source = lora_file(path)
    settings, tensors = _settings(source), read_released(source)
    pairs, alphas = _pairs(tensors, source, model.depth)
    layers = _linear_layers(model.transformer)
    _check(model, source, settings, pairs, layers)
    for name, pair in pairs.items():
        parent, _, leaf = name.rpartition(".")
        base, rank = layers[name], len(pair.down)
        kind = _compute_type(base, model.dtype)
        factor = scale * settings.scaling(name, rank, alphas.get(name))
        down, up = (matrix.to(model.device, kind) for matrix in pair)
        adapter = LoRA(base, down, up, factor)
        model.transformer.get_submodule(parent)._modules[leaf] = adapter
    if model.source:
        option = "" if scale == 1 else f", {scale!r}"
        model.source = f"fv.load_lora({model.source}, {str(path)!r}{option})"
    return model


def fuse_lora(model: Model, keep: bool = True) -> Model:
    """Add the products of a model's LoRAs to its weights: as fast as without, the same pictures.

    A copy of the former weights stays in CPU memory, for `unfuse_lora`; without `keep` there is
    none, and the adapters are gone. The model's identity changes. Raises ValueError for a model
    without a LoRA, and for int8 weights, which cannot take a product.
    """
    adapters = _adapters(model)
    for adapter in adapters:
        weight = weight_of(adapter.base_layer)
        if weight is None or not weight.is_floating_point():
            kind = "packed" if weight is None else str(weight.dtype).removeprefix("torch.")
            raise ValueError(
                f"a LoRA cannot be fused into {kind} weights; fuse it before they are converted"
            )
    for adapter in reversed(adapters):  # of several on one layer the inner one first
        if not adapter.fused:
            adapter.fuse(keep)
    return model if keep else _without(model)


def unfuse_lora(model: Model) -> Model:
    """Give a model the weights back that it had before `fuse_lora`, bit for bit."""
    for adapter in _adapters(model):
        if adapter.fused:
            adapter.unfuse()
    return model


def unload_lora(model: Model) -> Model:
    """Remove the LoRAs of a model; fused ones are taken out of the weights first."""
    return _without(unfuse_lora(model))


def _without(model: Model) -> Model:
    for module in model.transformer.modules():
        for leaf, child in module._modules.items():
            while isinstance(child, LoRA):
                child = module._modules[leaf] = child.base_layer
    return model


def _adapters(model: Model) -> list[LoRA]:
    adapters = [module for module in model.transformer.modules() if isinstance(module, LoRA)]
    if not adapters:
        raise ValueError(f"{model.name} has no LoRA; put one on with load_lora")
    return adapters


def _compute_type(layer: nn.Module, default: torch.dtype) -> torch.dtype:
    weight = weight_of(layer)
    return weight.dtype if weight is not None and weight.is_floating_point() else default


def _linear_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that a LoRA may adapt, by name: those that map one width to another."""
    layers, inside = dict[str, nn.Module](), list[str]()
    for name, layer in module.named_modules():
        if name.startswith(tuple(inside)) or isinstance(layer, nn.Embedding):
            continue
        if len(weight_shape(layer)) == 2:
            layers[name] = layer
            inside.append(f"{name}.")  # the layer inside of an adapter is the adapter's
    return layers


def _settings(file: Path) -> _Settings:
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
        return _Settings()
    if str(written.get("peft_type", "LORA")).upper() != "LORA":
        raise WeightsError(f"{source} is a {short(written['peft_type'])}; only LoRA is implemented")
    on = [name for name in _REFUSED if written.get(name)]
    if written.get("bias", "none") != "none":
        on.append("bias")
    if on:
        raise WeightsError(f"{source} sets {on[0]}, which is not implemented")
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
    return _Settings(rank, alpha, ranks, alphas, root, listed)


def _metadata(file: Path) -> dict[str, Any]:
    """Return the settings that diffusers writes into a file's header; empty without them."""
    try:
        with safe_open(file, framework="pt") as opened:
            held = (opened.metadata() or {}).get("lora_adapter_metadata", "{}")
        settings = json.loads(held)
        return {str(key).removeprefix("transformer."): value for key, value in settings.items()}
    except Exception:  # not such a file: reading its tensors says what is wrong, if anything is
        return {}


def _matching(values: Mapping[str, Any] | None, name: str, default: Any) -> Any:
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
) -> tuple[dict[str, _Pair], dict[str, float]]:
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
    return {name: _Pair(down, ups[name]) for name, down in downs.items()}, alphas


def _consecutive(names: list[str], source: Path, depth: int) -> list[str]:
    """Give blocks in chunks consecutive numbers; raise WeightsError if they are not all layers."""
    counts = states.chunks(names)
    if counts is not None and counts[0] * counts[1] != depth:
        raise WeightsError(
            f"{source} names layers in {counts[0]} chunks of {counts[1]}, which are not the "
            f"{depth} layers of this model"
        )
    return states.consecutive(names)


def _check(
    model: Model,
    source: Path,
    settings: _Settings,
    pairs: Mapping[str, _Pair],
    layers: Mapping[str, nn.Module],
) -> None:
    """Raise WeightsError for what does not fit the model, or what the file says of itself."""
    strange = [name for name in pairs if name not in layers]
    if strange:
        raise WeightsError(
            f"{source} adapts {_listed(strange)}; {model.name} has no such linear layer"
        )
    for name, (down, up) in pairs.items():
        rank, stated = len(down), _matching(settings.ranks, name, settings.rank)
        if up.shape[1] != rank or stated not in (None, rank):
            said = "" if stated in (None, rank) else f"; its configuration says {stated}"
            raise WeightsError(
                f"the LoRA of {name} in {source} has rank {rank} in lora_A and {up.shape[1]} in "
                f"lora_B{said}"
            )
        shape = weight_shape(layers[name])
        if (len(up), down.shape[1]) != shape:
            raise WeightsError(
                f"the LoRA of {name} in {source} maps {down.shape[1]} values to {len(up)}, the "
                f"layer of {model.name} {shape[1]} to {shape[0]}: it belongs to another model"
            )
    missing = [name for name in _targets(settings, layers) if name not in pairs]
    if missing:
        raise WeightsError(f"{source} lacks {_listed(missing)}, which its configuration names")


def _targets(settings: _Settings, layers: Mapping[str, nn.Module]) -> Iterator[str]:
    """Yield the layers that a list of targets names, whole or by their end."""
    for name in layers if settings.targets is not None else ():
        if any(name == t or name.endswith(f".{t}") for t in settings.targets or ()):
            yield name


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(short, names[:3])) + more
