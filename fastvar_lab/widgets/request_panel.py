"""What is drawn: the prompt in the model's own way, and the seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
import traitlets

from fastvar_lab.backbones.var import LabelEncoder
from fastvar_lab.class_names import titled
from fastvar_lab.errors import short
from fastvar_lab.models.model import Model
from fastvar_lab.widgets.fields import Choice, Field, Toggle
from fastvar_lab.widgets.number_fields import Integer
from fastvar_lab.widgets.page import heading, visible
from fastvar_lab.widgets.prompt_picker import PromptPicker
from fastvar_lab.world.grammar import parse

TYPED = "as typed"
RANDOM = "This model has random weights: its pictures mean nothing."


class ClassName(Field):
    """A class of a model, by number or name: the names are searched while one types.

    `value` is the number as text, which the model takes as a prompt; `null` and `random` too.
    """

    def __init__(self, label: str, value: str, help: str, encoder: LabelEncoder) -> None:
        self.encoder = encoder
        titles = [titled(number, encoder.names) for number in range(encoder.classes)]
        super().__init__(label, value, help, options=titles if encoder.names else [])

    @traitlets.validate("value")
    def _as_number(self, proposal: Any) -> str:
        try:
            return self.read(str(proposal.value))
        except ValueError:
            return str(proposal.value)  # said when it is drawn

    def read(self, text: str) -> str:
        plain = text.strip().casefold()
        return plain if plain in self.encoder.special else str(self.encoder.label(text))

    def write(self, value: str) -> str:
        return self.encoder.caption(value)


class RequestPanel(widgets.Box):
    """The controls of prompt and seed; a model of the closed world has pickers too."""

    def __init__(
        self, model: Model, prompt: str, seed: int, guarded: Callable[[Callable[[], None]], None]
    ) -> None:
        self.prompt = _prompt_field(model, prompt)
        self.seed = Integer("seed", seed, "Any whole number: the same seed draws the same noise.")
        self.pickers: list[Any] = []
        super().__init__()
        self.add_class("fv-part")
        parts: list[Any] = [heading("Picture"), self.prompt, self.seed]
        if model.grammar is parse:  # the pickers offer the vocabulary of this grammar alone
            picker = PromptPicker(self.prompt, guarded)
            self.pickers = [picker]
            visible(picker, False)
            toggle = Toggle("Compose the prompt", False, "Pick shapes and colors from lists.")
            toggle.observe(lambda change: visible(picker, change.new), "value")
            parts += [toggle, picker]
        names = getattr(model.text_encoder, "encoded_prompts", ())
        if names:  # encoded before, and the encoder is not here
            stored = _stored_prompts(self.prompt, names)
            self.pickers.append(stored)
            parts.append(stored)
        if model.random_weights:
            warning = widgets.HTML(f'<div role="note">{RANDOM}</div>')
            warning.add_class("fv-warning")
            parts.insert(1, warning)
        self.children = parts

    def check(self, model: Model) -> None:
        """Raise ValueError, said under its field, for a prompt or seed that cannot be drawn."""
        for field in (self.prompt, self.seed):
            if field.invalid:
                raise ValueError(f"{field.label}: see what stands under it")
        try:
            model.check(self.prompt.value)
        except ValueError as error:
            self.prompt.error = str(error)
            raise ValueError("the prompt: see what stands under it") from None
        self.prompt.error = ""


def carried(prompt: str, before: Model, after: Model) -> str:
    """Return a prompt of one model for another; its example, if that is prompted in another way."""
    encoders = before.text_encoder, after.text_encoder
    names = getattr(after.text_encoder, "encoded_prompts", ())
    try:
        after.check(prompt)
    except ValueError:
        return after.example
    classes = {getattr(encoder, "classes", None) for encoder in encoders}
    return prompt if len(classes) == 1 and (not names or prompt in names) else after.example


def _stored_prompts(prompt: Field, names: Sequence[str]) -> Choice:
    """Return the choice among encoded prompts, which follows what is typed as the prompt."""
    choices = [(TYPED, None), *((short(name, 80), name) for name in names)]

    def known() -> str | None:
        return prompt.value if prompt.value in names else None

    stored = Choice(
        "encoded prompts", known(), "The prompts that the model has features of.", choices
    )
    stored.observe(lambda change: setattr(prompt, "value", change.new or prompt.value), "value")
    prompt.observe(lambda _: setattr(stored, "value", known()), "value")
    return stored


def _prompt_field(model: Model, prompt: str) -> Field:
    """Return the control of a prompt, or of a class by number and name."""
    encoder = model.text_encoder
    if not isinstance(encoder, LabelEncoder):
        return Field("prompt", prompt, "What is drawn; Enter draws it.")
    numbers = f"0 to {encoder.classes - 1}, null or random"
    if not encoder.names:
        return ClassName("class number", prompt, f"{numbers}; Enter draws it.", encoder)
    return ClassName("class", prompt, f"A name, or {numbers}; Enter draws it.", encoder)
