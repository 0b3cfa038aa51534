"""The precisions that a model can be set to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PRECISIONS = ("float32", "official", "int8")


@dataclass(frozen=True)
class Official:
    """The mixed precision of a family's released scripts, beside autocast itself.

    `stores_blocks`: layers are stored in the autocast type. `rounds_text`: text attention rounds
    to bfloat16, set through the transformer's `round_text_attention`. `latent`: the latent is
    summed in the autocast type.
    """

    stores_blocks: bool = False
    rounds_text: bool = False
    latent: bool = False


def weight_of(module: nn.Module) -> Tensor | None:
    """Return a layer's weight; torch's quantised layers have it as a method."""
    weight: Any = getattr(module, "weight", None)
    if callable(weight) and not isinstance(weight, Tensor):
        weight = weight()
    return weight if isinstance(weight, Tensor) else None


def weight_shape(module: nn.Module) -> tuple[int, ...]:
    """Return the shape of a layer's weight, () if it has none; packed weights lie otherwise.

    That of an adapter is its base layer's: peft's embeddings name their two sizes the other way.
    """
    base = getattr(module, "base_layer", None)
    if isinstance(base, nn.Module):
        return weight_shape(base)
    sizes = tuple(getattr(module, name, None) for name in ("out_features", "in_features"))
    if all(isinstance(size, int) for size in sizes):
        return sizes  # type: ignore[return-value]
    weight = weight_of(module)
    return () if weight is None else tuple(weight.shape)


def plain_tensors(tensor: Tensor) -> list[Tensor]:
    """Return the tensors that one of a quantisation library's type holds; itself if it is plain.

    Such types declare them to torch by `__tensor_flatten__`, in an order that stays.
    """
    if type(tensor) in (Tensor, nn.Parameter) or not hasattr(tensor, "__tensor_flatten__"):
        return [tensor]
    names, _ = cast(Any, tensor).__tensor_flatten__()
    return [part for name in names for part in plain_tensors(getattr(tensor, name))]


def packed_weights(module: nn.Module) -> list[Tensor]:
    """Return the weight that a quantised layer holds in a packed form, beside its parameters."""
    packed = callable(getattr(type(module), "weight", None))
    weight = weight_of(module) if packed else None
    return [] if weight is None else [weight]


def packed_parts(layer: nn.Module) -> list[Tensor]:
    """Return the tensors that hold the weight of a layer of a quantisation library; else none."""
    if len(weight_shape(layer)) != 2 or isinstance(getattr(layer, "base_layer", None), nn.Module):
        return []
    packed = packed_weights(layer)
    if packed:
        return [weight.int_repr() if weight.is_quantized else weight for weight in packed]
    weight = weight_of(layer)
    parts = [] if weight is None else plain_tensors(weight)
    return [] if any(part is weight for part in parts) else parts


def narrow_layers(module: nn.Module) -> list[str]:
    """Describe the layers whose weights are quantised, by type: "12 layers in qint8"."""
    kinds = Counter[str]()
    for layer in module.modules():
        weight = weight_of(layer)
        if weight is None or any(weight_of(child) is not None for child in layer.children()):
            continue
        plain = type(weight) in (Tensor, nn.Parameter) and weight.is_floating_point()
        if not plain or weight.dtype.itemsize == 1:
            kind = str(weight.dtype).removeprefix("torch.")
            packed = type(weight) not in (Tensor, nn.Parameter)
            kinds[f"{type(weight).__name__} of {kind}" if packed else kind] += 1
    return [f"{count} layers in {kind}" for kind, count in sorted(kinds.items())]


class Int8Linear(nn.Module):
    """A linear layer with its weight in int8 and one scale for each output channel.

    The weight is converted to the type of the input for every product, so it saves memory and no
    time: a kernel that reads int8 weights belongs to the device.
    """

    weight: Tensor  # (out, in), int8
    scale: Tensor  # (out, 1)

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        wide = linear.weight.detach().float()
        scale = wide.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / 127
        self.register_buffer("weight", (wide / scale).round().to(torch.int8).contiguous())
        self.register_buffer("scale", scale.to(linear.weight.dtype))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., C) to (..., C')."""
        weight = self.weight.to(x.dtype) * self.scale.to(x.dtype)
        return F.linear(x, weight, None if self.bias is None else self.bias.to(x.dtype))


def narrow(module: nn.Module) -> None:
    """Replace the linear layers below a module by `Int8Linear`; the factors of a LoRA stay."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            if name not in ("lora_A", "lora_B"):
                module._modules[name] = Int8Linear(child)
        else:
            narrow(child)
