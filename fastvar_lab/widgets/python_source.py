"""Writes the state of an Explorer as Python code that reproduces its picture."""

from __future__ import annotations

from dataclasses import replace

from fastvar_lab.methods.columns import written
from fastvar_lab.models.model import Model
from fastvar_lab.seam import Method


def python_source(model: Model, prompt: str, seed: int, method: Method) -> str:
    """Write Python that generates `prompt` under `method` and decodes the picture.

    The code runs in a fresh kernel once user-defined methods, selectors and restorers are imported
    there. A model that was not opened by name becomes a comment, to be replaced by the user.
    """
    opening = f"model = {model.source}" if model.source else "# model: as you made it"
    if model.source and model.sizes != model.opened:
        opening += f"\nmodel.sizes = {model.sizes}"
    opening += _moved(model) + _resampled(model)
    torch = "import torch\n\n" if "torch." in opening else ""
    return (
        f"{torch}import fastvar_lab as fv\n\n{opening}\n"
        f"method = {written(method, 'fv.')}\n"
        f"generation = fv.generate(model, {prompt!r}, method, seed={seed})\n"
        "picture = fv.to_uint8(model.decode(generation.canvas))[0]"
    )


def _moved(model: Model) -> str:
    """Write the line that moves a model to its device and type, if it was opened with others."""
    (device, precision), before = model.types, model.opened_types
    if not model.source or before is None or before == (device, precision):
        return ""
    if precision == str(model.dtype).removeprefix("torch."):
        return f"\nmodel.to({device!r}, torch.{precision})"
    return f"\n# model: in {precision} on {device}, as you set it"


def _resampled(model: Model) -> str:
    """Write the line that gives a model its sampling, if that is not the one it was opened with."""
    now, before = model.sampling, model.opened_sampling
    if not model.source or before is None or now == before:
        return ""
    if now == replace(before, guidance=now.guidance):
        return f"\nmodel = model.with_guidance({now.guidance})"
    return f"\nmodel.sampling = fv.{now!r}"
