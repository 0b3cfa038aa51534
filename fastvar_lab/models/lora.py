"""LoRA adapters on an open model: put on, fused into the weights, and removed again."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from fastvar_lab.errors import WeightsError, short
from fastvar_lab.models.lora_files import LoRAFile, Settings, matching, read_lora
from fastvar_lab.models.model import Model
from fastvar_lab.models.precision import weight_of, weight_shape


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
    file, layers = read_lora(path, model.depth), _linear_layers(model.transformer)
    _check(model, file, layers)
    for name, pair in file.pairs.items():
        parent, _, leaf = name.rpartition(".")
        base, kind = layers[name], _compute_type(layers[name], model.dtype)
        down, up = (matrix.to(model.device, kind) for matrix in pair)
        adapter = LoRA(base, down, up, scale * file.scaling(name))
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
    _without(unfuse_lora(model))
    model.source = _plain(model.source)
    return model


def _plain(source: str) -> str:
    """Write the call that opens a model without the LoRAs that it puts on."""
    if not source:
        return ""
    call = ast.parse(source, mode="eval").body
    while isinstance(call, ast.Call) and ast.unparse(call.func) == "fv.load_lora":
        call = call.args[0]
    if isinstance(call, ast.Call):
        call.keywords = [k for k in call.keywords if k.arg not in ("lora", "lora_scale")]
    return ast.unparse(call)


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


def _check(model: Model, file: LoRAFile, layers: Mapping[str, nn.Module]) -> None:
    """Raise WeightsError for what does not fit the model, or what the file says of itself."""
    source, settings, pairs, _ = file
    strange = [name for name in pairs if name not in layers]
    if strange:
        raise WeightsError(
            f"{source} adapts {_listed(strange)}; {model.name} has no such linear layer"
        )
    for name, (down, up) in pairs.items():
        rank, stated = len(down), matching(settings.ranks, name, settings.rank)
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


def _targets(settings: Settings, layers: Mapping[str, nn.Module]) -> Iterator[str]:
    """Yield the layers that a list of targets names, whole or by their end."""
    for name in layers if settings.targets is not None else ():
        if any(name == t or name.endswith(f".{t}") for t in settings.targets or ()):
            yield name


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(short, names[:3])) + more
