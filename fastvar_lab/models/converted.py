"""A copy of a model in another precision."""

from __future__ import annotations

import copy
from dataclasses import fields

import torch

from fastvar_lab.models.absent import NoText
from fastvar_lab.models.model import Model


def converted(
    model: Model, precision: str = "float32", dtype: torch.dtype = torch.float32
) -> Model:
    """Return a copy of a model in a precision, as `Model.set_precision` sets it.

    Nothing of the model changes, also of an attached one, whose copy is attached to nothing. The
    text encoder is shared and stays as it is, so that conditions are the same.

    >>> import fastvar_lab as fv
    >>> converted(fv.load("tiny"), dtype=torch.bfloat16).precision
    'bfloat16'
    """
    parts = {f.name: getattr(model, f.name) for f in fields(Model) if f.init}
    text_encoder, parts["text_encoder"] = model.text_encoder, NoText(model.name)
    copies = copy.deepcopy((model.transformer, model.tokenizer, model.quantizer))
    parts["transformer"], parts["tokenizer"], parts["quantizer"] = copies
    narrow = Model(**parts).set_precision(precision, dtype).lay_out()
    parts |= {"text_encoder": text_encoder, "autocast": narrow.autocast, "source": ""}
    return Model(**parts)
