"""A model whose parameters are those of a live object."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from torch import nn

from fastvar_lab.models.families import FAMILIES
from fastvar_lab.models.live_object import LiveObject, first_training
from fastvar_lab.models.model import Model
from fastvar_lab.models.precision import PRECISIONS


@dataclass(repr=False, kw_only=True)
class Attached(Model):
    """A model whose parameters are those of a live object, `live`, which stays as it is.

    To move it or to change the type of its weights, do so with the live object and attach again.
    """

    live: LiveObject
    live_tokenizer: LiveObject | None = None

    def detached(self) -> Model:
        """Return a model of the same parts that is attached to nothing, to be copied."""
        return Model(**{f.name: getattr(self, f.name) for f in fields(Model) if f.init})

    def check_ready(self) -> None:
        """Raise ValueError if tensors of the live object were replaced, moved or converted.

        Likewise if what the model runs of it, such as an adapter with dropout, is in training mode.
        """
        for live in (self.live, self.live_tokenizer):
            if live is not None:
                live.check_same()
        for part in (self.transformer, self.tokenizer):
            module = first_training(part)
            if module is not None:
                raise ValueError(
                    f"{self.live.noun} is in training mode, and its {type(module).__name__} acts "
                    "so; call its eval() before generating"
                )

    def freeze(self) -> Model:
        """Do nothing: the live object was in evaluation mode, and its gradients are its own."""
        return self

    def lay_out(self) -> Model:
        """Do nothing: weights stay in the live object's layout."""
        return self

    def set_precision(self, precision: str, dtype: torch.dtype = torch.float32) -> Model:
        """Set how it computes, as `Model.set_precision` does; weights must be stored so already.

        Raises ValueError for a type that they would have to be converted to.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; not {precision!r}")
        if precision == "int8":
            raise self._fixed("int8")
        official = precision == "official"
        autocast = dtype if official and dtype.itemsize == 2 else None
        mixture = FAMILIES[self.family].official
        needed = {dtype if autocast is None else torch.float32}
        if autocast is not None and mixture.stores_blocks:
            needed.add(dtype)
        if not stored_types(self.transformer) <= needed:
            raise self._fixed(f"{precision} in {dtype}")
        self.autocast = autocast
        if mixture.rounds_text:
            cast(Any, self.transformer).round_text_attention(official)
        return self

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Model:
        """Return the model if it is there already; raise ValueError otherwise."""
        place = torch.device(device)
        there = place.type == self.device.type and place.index in (None, self.device.index)
        if there and dtype in (None, self.dtype):
            return self
        raise self._fixed(f"{place}" if dtype is None else f"{place} in {dtype}")

    def check_changeable(self) -> None:
        """Raise ValueError: adapters and other weights are put into the live object."""
        raise ValueError(
            f"{self.name} shares the weights of a live object; change that object, and attach it "
            "again"
        )

    def _fixed(self, wanted: str) -> ValueError:
        return ValueError(
            f"{self.name} shares the weights of a live object, {self.precision} on {self.device}; "
            f"for {wanted} convert that object and attach it again"
        )


def stored_types(module: nn.Module) -> set[torch.dtype]:
    """Return the floating-point types of a module's parameters, but for those of adapters."""
    adapters = [
        name
        for name, each in module.named_modules()
        if isinstance(getattr(each, "base_layer", None), nn.Module)
    ]
    return {
        p.dtype
        for name, p in module.named_parameters()
        if p.is_floating_point() and not any(_is_added(name, adapter) for adapter in adapters)
    }


def _is_added(parameter: str, adapter: str) -> bool:
    """Return whether a parameter belongs to an adapter, and not to the layer that it adapts."""
    below = parameter.removeprefix(f"{adapter}.")
    return below != parameter and not below.startswith("base_layer.")
