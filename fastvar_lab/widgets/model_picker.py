"""Which model an Explorer shows: those that it was given, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastvar_lab.errors import short
from fastvar_lab.models.model import Model
from fastvar_lab.widgets.fields import Choice

Models = Model | Sequence[Model] | Mapping[str, Model]
"""An open model, several of them, or several by name."""


def by_name(models: Models) -> dict[str, Model]:
    """Return open models by name; raise ValueError for what is none, and for a name given twice."""
    pairs: list[tuple[str, Any]]
    if isinstance(models, Mapping):
        pairs = [(str(name), model) for name, model in models.items()]
    else:
        several = models if isinstance(models, list | tuple) else [models]
        pairs = [(getattr(model, "name", ""), model) for model in several]
    if not pairs:
        raise ValueError("no model: give one that is open, such as fv.load('tiny')")
    for _, model in pairs:
        if not isinstance(model, Model):
            raise ValueError(
                f"a model must be open, by fv.load or fv.attach; not {short(repr(model), 60)}"
            )
    named = dict(pairs)
    if len(named) < len(pairs):
        twice = next(name for name, _ in pairs if [n for n, _ in pairs].count(name) > 1)
        raise ValueError(
            f"two models are named {twice!r}; give them by name, such as "
            "{'base': model, 'tuned': other}"
        )
    return named


class ModelPicker(Choice):
    """Picks one of several models; hidden where there is one alone."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        super().__init__(
            "model", next(iter(models)),
            "The model that draws; the controls of its methods follow.",
            [(name, name) for name in models],
        )  # fmt: skip
        if len(models) == 1:
            self.add_class("fv-hidden")
