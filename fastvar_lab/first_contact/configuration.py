"""What a model says of itself: schedule, rotary grid, text features, null prompt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastvar_lab.first_contact.finding import OFF, OPEN, RIGHT, Finding
from fastvar_lab.models.loading import skeleton
from fastvar_lab.models.model import Model
from fastvar_lab.scales import Sizes


def configuration(model: Model) -> Iterator[Finding]:
    """Compare schedule and rotary grid with those that the model was trained with."""
    try:
        with torch.device("meta"):
            trained = skeleton(model.name)
    except (KeyError, ValueError):
        yield Finding("schedule", OPEN, "no released model of this name")
        return
    allowed = [trained.sizes]
    if model.buckets is not None:
        allowed += [model.buckets.square(size[-1][0]) or trained.sizes for size in [model.sizes]]
    same = model.sizes in allowed
    yield Finding("schedule", RIGHT if same else OFF, maps_text(model.sizes),
                  "" if same else f"it was trained with {maps_text(trained.sizes)}")  # fmt: skip
    here, there = (getattr(m.transformer.config, "reference", None) for m in (model, trained))
    if there is not None:
        yield Finding("rotary grid", RIGHT if here == there else OFF, f"reference {here}",
                      "" if here == there else f"it was trained with {there}")  # fmt: skip


def maps_text(sizes: Sizes) -> str:
    """Write a schedule: "1 2 3x4"."""
    return " ".join(str(h) if h == w else f"{h}x{w}" for h, w in sizes)


def text_features(model: Model, condition: Any) -> Iterator[Finding]:
    """Look at the features of an encoded prompt: their width, and whether they are numbers."""
    features = condition if isinstance(condition, Tensor) else condition[0]
    if not features.is_floating_point():
        return
    finite, spread = bool(features.isfinite().all()), float(features.float().std())
    width = getattr(model.transformer.config, "text_width", features.shape[-1])
    good = finite and spread > 1e-4 and features.shape[-1] == width
    yield Finding("text features", RIGHT if good else OFF,
                  f"{tuple(features.shape)}, deviation {spread:.3g}", "" if good else
                  f"another text encoder: {width} features are expected")  # fmt: skip


def null_prompt(model: Model) -> Iterator[Finding]:
    """Look for rows of the null prompt that were not in the file."""
    null = getattr(model.transformer, "cfg_uncond", None)
    if null is None:
        return
    empty = int((null.abs().amax(1) == 0).sum())
    yield Finding("null prompt", OFF if empty else RIGHT,
                  f"{len(null) - empty} of {len(null)} rows",
                  "it was made for prompts of another length; guidance is not as trained"
                  if empty else "")  # fmt: skip
