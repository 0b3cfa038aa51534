"""Values as standard JSON, and tokens as packed arrays: what files of results hold."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # imported where tokens are packed, to list a store without torch
    from torch import Tensor

FLOAT = "$float"  # the key that marks a float without a literal in JSON


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Bring the values of a row to JSON's."""
    return {name: _plain_value(value) for name, value in row.items()}


def _plain_value(value: Any) -> Any:
    """Write NumPy's numbers as Python's, and nan and infinities as `{"$float": "nan"}`."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return {FLOAT: str(value)}
    if isinstance(value, Mapping):
        return plain(value)
    return [_plain_value(v) for v in value] if isinstance(value, list | tuple) else value


def floats(row: Mapping[str, Any]) -> dict[str, Any]:
    """Read a row back as it was before `plain`; tuples are lists then."""
    return {name: _value(value) for name, value in row.items()}


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return float(value[FLOAT]) if value.keys() == {FLOAT} else floats(value)
    return [_value(v) for v in value] if isinstance(value, list) else value


def json_values(values: Mapping[str, Any]) -> Any:
    """Return a mapping as it is read back: tuples as lists, numbers as keys as text."""
    return json.loads(json.dumps(plain(values)))


def packed(tokens: Tensor, step: int) -> dict[str, np.ndarray]:
    """Pack a step's tokens: bits by eight, numbers in the smallest type that holds them all."""
    import torch

    wide = torch.promote_types(tokens.dtype, torch.float32)  # NumPy has no bfloat16
    array = (tokens.to(wide) if tokens.is_floating_point() else tokens).cpu().numpy()
    shape = np.array(array.shape)
    if array.dtype == bool:
        return {f"bits_{step}": np.packbits(array), f"shape_{step}": shape}
    types: Sequence[Any] = (np.uint8, np.int16, np.int32)
    if array.dtype.kind == "f":
        types = (np.int8, np.float16)
    with np.errstate(all="ignore"):  # of values that a smaller type does not hold
        small = next((t for t in types if (array.astype(t) == array).all()), array.dtype)
    return {f"tokens_{step}": array.astype(small), f"type_{step}": np.array(str(array.dtype))}


def unpacked(held: Mapping[str, np.ndarray], step: int) -> Tensor | None:
    """Return the tokens of a step that `packed` packed; None for a skipped step."""
    import torch

    if f"bits_{step}" in held:
        shape = tuple(held[f"shape_{step}"])
        bits = np.unpackbits(held[f"bits_{step}"], count=int(np.prod(shape)))
        return torch.from_numpy(bits.astype(bool).reshape(shape))
    if f"tokens_{step}" not in held:
        return None
    return torch.from_numpy(held[f"tokens_{step}"].astype(str(held[f"type_{step}"])))
