"""The evaluators' networks compute in full float32: TF32 or bfloat16 shifts features and scores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def exact() -> Iterator[None]:
    """Turn the reduced precision of products and convolutions off; then restore it.

    It decorates whatever of a network computes, so that no caller can forget it.

    >>> torch.set_float32_matmul_precision("medium")
    >>> with exact():
    ...     product = torch.ones(1, 2) @ torch.ones(2, 1)
    >>> torch.get_float32_matmul_precision()
    'medium'
    >>> torch.set_float32_matmul_precision("highest")
    """
    full, before = _settings()
    for place, name, _ in before:
        setattr(place, name, full)
    try:
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)


def _settings() -> tuple[Any, list[tuple[Any, str, Any]]]:
    """Return what stands for full precision, and torch's settings: place, name, present value."""
    on_gpu: Any = torch.backends.cuda.matmul
    if not hasattr(on_gpu, "fp32_precision"):  # torch before 2.9
        places = on_gpu, torch.backends.cudnn
        return False, [(place, "allow_tf32", place.allow_tf32) for place in places]
    gpu_layers: Any = torch.backends.cudnn
    on_cpu: Any = torch.backends.mkldnn
    kinds = on_gpu, gpu_layers.conv, on_cpu.matmul, on_cpu.conv
    return "ieee", [(kind, "fp32_precision", kind.fp32_precision) for kind in kinds]
