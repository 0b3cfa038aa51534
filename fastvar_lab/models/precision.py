"""The precisions that a model can be set to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

PRECISIONS = ("float32", "official")


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


def packed_weights(module: nn.Module) -> list[Tensor]:
    """Return the weight that a quantised layer holds in a packed form, beside its parameters."""
    packed = callable(vars(type(module)).get("weight"))
    weight = weight_of(module) if packed else None
    return [] if weight is None else [weight]


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
