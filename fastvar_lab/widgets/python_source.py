"""Writes the state of an Explorer as Python code that reproduces its picture."""

from __future__ import annotations

from typing import Any

from fastvar_lab.methods import registry
from fastvar_lab.methods.prune import Prune
from fastvar_lab.methods.restore import CachedBranch
from fastvar_lab.methods.select import FarFromMean
from fastvar_lab.models.model import Model


def python_source(model: Model, prompt: str, seed: int, method: Prune) -> str:
    """Write Python that generates `prompt` under `method` and decodes the picture.

    The code runs in a fresh kernel once user-defined selectors and restorers are imported there.
    A model that was not opened by name becomes a comment, to be replaced by the user.
    """
    opening = f"model = {model.source}" if model.source else "# model: as you made it"
    if model.source and model.sizes != model.opened:
        opening += f"\nmodel.sizes = {model.sizes}"
    torch = "import torch\n\n" if "torch." in model.source else ""
    return (
        f"{torch}import fastvar_lab as fv\n\n{opening}\n"
        f"method = {_constructor(method)}\n"
        f"generation = fv.generate(model, {prompt!r}, method, seed={seed})\n"
        "picture = fv.to_uint8(model.decode(generation.canvas))[0]"
    )


def _constructor(method: Prune) -> str:
    """Write a Prune with the arguments that differ from its defaults."""
    arguments = [f"{dict(method.pairs)}"]
    if method.select != FarFromMean():
        arguments.append(f"select={_qualified(method.select)}")
    if method.restore != CachedBranch():
        arguments.append(f"restore={_qualified(method.restore)}")
    if method.cache_step is not None:
        arguments.append(f"cache_step={method.cache_step}")
    if method.layers is not None:
        arguments.append(f"layers={method.layers}")
    return f"fv.Prune({', '.join(arguments)})"


def _qualified(rule: Any) -> str:
    """Write a selector or restorer as Python; `fv.` precedes those of the library."""
    shipped = registry.classes().get(type(rule).__name__) is type(rule)
    return f"fv.{rule!r}" if shipped else repr(rule)
