"""How a model is opened, as plain values that travel: to a worker, into a report."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from fastvar_lab.files import expanded
from fastvar_lab.models.loading import load
from fastvar_lab.models.model import Model

OPENING = threading.Lock()  # a worker with several threads opens a model once


@dataclass(frozen=True)
class ModelSpec:
    """How a model is opened, as plain values that travel to a worker; see `load`.

    >>> ModelSpec("tiny").open().name
    'tiny'
    """

    name: str = "tiny"
    weights: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    lora: str | None = None
    lora_scale: float = 1.0
    precision: str = "float32"
    sizes: tuple[tuple[int, int], ...] | None = None
    features: str | None = None
    instruction: str | None = None
    text: bool = True

    def open(self) -> Model:
        """Open the model, once per process."""
        with OPENING:
            return _open(self)

    def resolved(self) -> ModelSpec:
        """Return the same with whole paths: workers run elsewhere."""
        names = ("weights", "lora", "features", "instruction")
        paths: dict[str, Any] = {
            name: str(expanded(str(getattr(self, name))).resolve())
            for name in names
            if getattr(self, name) not in (None, "random")
        }
        return replace(self, **paths)


@lru_cache(maxsize=2)
def _open(spec: ModelSpec) -> Model:
    dtype: Any = getattr(torch, spec.dtype, spec.dtype)  # `load` refuses what is none
    return load(
        spec.name,
        spec.weights,
        spec.device,
        dtype,
        precision=spec.precision,
        sizes=spec.sizes,
        lora=spec.lora,
        lora_scale=spec.lora_scale,
        features=spec.features,
        instruction=spec.instruction,
        text=spec.text,
    )
