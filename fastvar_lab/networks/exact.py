"""The evaluators' networks compute in full float32: a GPU's TF32 shifts features and scores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def exact() -> Iterator[None]:
    """Turn the reduced precision of GPUs' products and convolutions off; then restore it.

    It decorates whatever of a network computes, so that no caller can forget it.

    >>> torch.backends.cudnn.allow_tf32 = True
    >>> with exact():
    ...     torch.backends.cudnn.allow_tf32
    False
    >>> torch.backends.cudnn.allow_tf32
    True
    """
    off, before = _settings()
    for place, name, _ in before:
        setattr(place, name, off)
    try:
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)


def _settings() -> tuple[Any, list[tuple[Any, str, Any]]]:
    """Return what stands for full precision, and torch's settings: place, name, present value."""
    products: Any = torch.backends.cuda.matmul
    convolutions: Any = torch.backends.cudnn
    try:
        places = products, convolutions
        return False, [(place, "allow_tf32", place.allow_tf32) for place in places]
    except RuntimeError:  # set by the names of torch 2.9, with which the old ones do not mix
        places = products, convolutions.conv
        return "ieee", [(place, "fp32_precision", place.fp32_precision) for place in places]
