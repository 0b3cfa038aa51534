"""Parts of a live object that are functions: its decoder, its text encoder, encoded conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from fastvar_lab.backbones.autoencoder import AutoEncoder, AutoEncoderConfig
from fastvar_lab.backbones.hart import Context
from fastvar_lab.backbones.protocol import ConditionEncoder
from fastvar_lab.errors import PromptError, short
from fastvar_lab.models.features import EncodedPrompts, Row
from fastvar_lab.tensors import hash_tensors


def _function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a callable in a form that is part of a model's identity, an object as its method."""
    call = type(function).__call__
    if isinstance(function, nn.Module) or not isinstance(call, FunctionType):
        return function
    return MethodType(call, function)


class LiveDecoder(AutoEncoder):
    """A decoder that the user gave as a function: latents (n, d, H, W) to pictures in [0, 1].

    It is called once on a small latent, for the size of its pictures. Raises ValueError if it
    cannot decode that.
    """

    def __init__(
        self, decode: Callable[[Tensor], Tensor], channels: int, device: torch.device
    ) -> None:
        nn.Module.__init__(self)
        self.function = _function(decode)
        small = torch.zeros(1, channels, 4, 4, device=device)
        try:
            with torch.no_grad():
                stride = self.decode(small).shape[-1] // 4
        except Exception as error:  # of any kind: it is the user's function
            raise ValueError(
                f"the decoder cannot decode a latent {tuple(small.shape)}: {short(error, 160)}"
            ) from error
        self.config = AutoEncoderConfig(channels, (32,), 1, 1, patch=max(1, stride))

    def decode(self, latent: Tensor) -> Tensor:
        """Decode by the function; raise ValueError for what is no batch of pictures in [0, 1].

        Values may lie a quarter outside: a decoder need not clamp them.
        """
        pictures = self.function(latent)
        whole = isinstance(pictures, Tensor) and pictures.ndim == 4
        if not whole or pictures.shape[:2] != (len(latent), 3):
            shape = tuple(pictures.shape) if isinstance(pictures, Tensor) else short(pictures)
            raise ValueError(f"the decoder must return pictures (n, 3, h, w); not {shape}")
        pictures = pictures.detach().float()
        if not pictures.is_meta:
            least, most = (float(edge) for edge in pictures.aminmax())
            if least < -0.25 or most > 1.25:
                raise ValueError(
                    f"the decoder must return values in [0, 1]; not from {least:.2g} to {most:.2g} "
                    "(those in [-1, 1] become so by (x + 1) / 2)"
                )
        return pictures


class NamedConditions(EncodedPrompts):
    """Conditions that were encoded elsewhere, one a name: prompts are their names."""

    def __init__(self, model: str, named: Mapping[str, Any], condition: type) -> None:
        rows = {name: _row(name, encoded, condition) for name, encoded in named.items()}
        hashes = {name: hash_tensors([*row.values()]) for name, row in rows.items()}
        super().__init__(rows, repr(hashes))
        self.model, self.names, self.example = model, tuple(rows), next(iter(rows))

    def encode(self, prompts: Sequence[str]) -> Any:
        """Look the conditions of names up; raise PromptError for a name that is not there."""
        for prompt in prompts:
            if prompt not in self.names:
                raise PromptError(
                    f"{self.model} has no condition {prompt!r}; its encoded conditions are "
                    f"{', '.join(map(repr, self.names[:8]))}{', ...' * (len(self.names) > 8)}"
                )
        return super().encode(prompts)


def _row(name: str, encoded: Any, condition: type) -> Row:
    """Return the tensors of one condition; raise ValueError if it is none, or not of one row."""
    count = len(getattr(condition, "_fields", ()))
    parts = tuple(encoded) if isinstance(encoded, tuple) else ()
    shapes = [tuple(part.shape) for part in parts if isinstance(part, Tensor)]
    if not (
        isinstance(name, str) and name and len(shapes) == len(parts) == count
        and len(shapes[0]) == 3 and all(s[:2] == (1, shapes[0][1]) for s in shapes)
    ):  # fmt: skip
        raise ValueError(
            f"the condition {short(name)} must be a {condition.__name__} of one row: "
            f"features (1, T, D) beside (1, T); not {shapes or short(encoded)}"
        )
    features, other = (part[0].detach().cpu() for part in parts)
    if condition is Context:
        return {"features": features, "positions": other}
    if not other.any():
        raise ValueError(f"the condition {short(name)} has no tokens: its mask is empty")
    return {"features": features[other.bool()]}


class LiveText(ConditionEncoder):
    """A text encoder that the user gave as a function of a list of prompts."""

    def __init__(self, encode: Callable[[list[str]], Any], condition: type) -> None:
        super().__init__()
        self.function, self.condition = _function(encode), condition

    def encode(self, prompts: Sequence[str]) -> Any:
        """Encode by the function; its tensors become the transformer's condition.

        A mask of numbers, as tokenizers return it, becomes one of True and False. Raises ValueError
        for anything but a row of features for each prompt, and for prompts without tokens.
        """
        encoded, count = self.function(list(prompts)), len(getattr(self.condition, "_fields", ()))
        parts = tuple(encoded) if isinstance(encoded, tuple | list) else ()
        if len(parts) != count or not all(isinstance(part, Tensor) for part in parts):
            raise ValueError(
                f"the text encoder must return a {self.condition.__name__} or its "
                f"{count} tensors; not {short(encoded)}"
            )
        features, other = (part.detach() for part in parts)
        n, shapes = len(prompts), f"{tuple(features.shape)} and {tuple(other.shape)}"
        if features.ndim != 3 or len(features) != n or other.shape != features.shape[:2]:
            second = "positions" if self.condition is Context else "mask"
            raise ValueError(
                f"the text encoder must return features ({n}, T, D) and {second} ({n}, T) for "
                f"{n} prompt{'s' * (n > 1)}; not {shapes}"
            )
        if self.condition is not Context:
            other = other.bool()
            empty = (~other.any(1)).nonzero().flatten().tolist()
            if empty:
                raise ValueError(f"the text encoder gives {prompts[empty[0]]!r} no tokens")
        return self.condition(features, other)
