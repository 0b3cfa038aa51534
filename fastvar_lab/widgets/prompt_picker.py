"""Pickers for the closed vocabulary: one or two groups of objects and their relation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import ipywidgets as widgets

from fastvar_lab.errors import PromptError
from fastvar_lab.widgets.fields import Choice
from fastvar_lab.widgets.page import visible
from fastvar_lab.world.grammar import COLORS, RELATIONS, SHAPES, TEXTURES, Group, Prompt, parse

ANY, NOTHING = "any", "nothing else"
COUNTS = {"one": 1, "two": 2, "three": 3, "four": 4}


def picker(name: str, options: Iterable[Any], changed: Callable[[], None]) -> Choice:
    """Make a choice among values, or pairs of label and value, that calls `changed`."""
    pairs = [o if isinstance(o, tuple) else (o, o) for o in options]
    choice = Choice(name, pairs[0][1], f"The {name} in the prompt.", pairs)
    choice.observe(lambda _: changed(), "value")
    return choice


TYPE = "The prompt has {} groups, and these lists hold two: type to change it."


class GroupPicker(widgets.Box):
    """Picks count, color, texture and shape of one group."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.count = picker("count", list(COUNTS.items()), changed)
        self.color = picker("color", [ANY, *COLORS], changed)
        self.texture = picker("texture", [ANY, *TEXTURES], changed)
        self.shape = picker("shape", list(SHAPES), changed)
        super().__init__([self.count, self.color, self.texture, self.shape])
        self.add_class("fv-fields")
        self.add_class("fv-narrow")

    @property
    def group(self) -> Group:
        """The picked group."""
        looks = (None if v == ANY else v for v in (self.color.value, self.texture.value))
        return Group(self.count.value, self.shape.value, *looks)

    @group.setter
    def group(self, group: Group) -> None:
        self.count.value, self.shape.value = group.count, group.shape
        self.color.value, self.texture.value = group.color or ANY, group.texture or ANY


class PromptPicker(widgets.Box):
    """Composes a prompt in the text control `text`, and follows prompts typed there.

    `guarded(act)` calls `act` and shows its errors: the grammar raises PromptError for some
    combinations.
    """

    def __init__(self, text: Any, guarded: Callable[[Callable[[], None]], None]) -> None:
        self.text, self.following = text, False

        def picked() -> None:
            guarded(self._picked)

        self.first, self.second = (GroupPicker(picked) for _ in range(2))
        joints = [NOTHING, "and", *RELATIONS]
        self.joint = picker("then", joints, picked)
        self.note = widgets.HTML()
        self.note.add_class("fv-quiet")
        super().__init__([self.note, self.first, self.joint, self.second])
        self.add_class("fv-part-inner")
        text.observe(lambda _: self._typed(), "value")
        self._typed()

    @property
    def prompt(self) -> Prompt:
        """The picked prompt; the grammar may refuse it."""
        if self.joint.value == NOTHING:
            return Prompt((self.first.group,))
        relation = self.joint.value if self.joint.value in RELATIONS else None
        return Prompt((self.first.group, self.second.group), relation)

    def _picked(self) -> None:
        """Write the picked prompt into the text control."""
        if self.following:
            return
        self._second(self.joint.value != NOTHING)
        self.text.put(parse(self.prompt.text).text)  # the same text draws again after an error

    def _second(self, shown: bool) -> None:
        """Show or hide the pickers of the second group."""
        visible(self.second, shown)

    def _typed(self) -> None:
        """Show a typed prompt in the pickers; they are off if it has more than two groups."""
        try:
            prompt = parse(self.text.value)
        except PromptError:
            return  # the generation from this text shows the error
        many = len(prompt.groups) > 2
        self.note.value = TYPE.format(len(prompt.groups)) if many else ""
        visible(self.note, many)
        for control in (*self.first.children, self.joint, *self.second.children):
            control.disabled = many
        self.following = True
        try:
            if not many:
                joint = prompt.relation or ("and" if len(prompt.groups) == 2 else NOTHING)
                self.first.group, self.joint.value = prompt.groups[0], joint
                self.second.group = prompt.groups[-1] if joint != NOTHING else self.second.group
                self._second(joint != NOTHING)
        finally:
            self.following = False
