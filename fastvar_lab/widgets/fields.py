"""Labelled controls that take what was typed as it is, or say in one sentence why not.

Nothing is clamped: a value outside the bounds is an error under the control, and the last valid
value stays. Every control has a label, a tooltip and an accessible name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from typing import Any

import anywidget
import traitlets

from fastvar_lab.errors import short
from fastvar_lab.widgets.scripts import script

NONE = "none"


class Value(traitlets.TraitType[Any, Any]):
    """Any value; unlike `traitlets.Any`, None is validated too."""


class Field(anywidget.AnyWidget):
    """A labelled text. `value` is what it holds; `text` is how that is written on the page.

    A subclass overrides `read` and `write`; `read` raises ValueError for text that means nothing.
    The value of a `nullable` one may be None, which is written "none". `error` stands under the
    control. `invalid` is True while the text could not be read.
    """

    _esm = script("field.js")
    KIND = "text"
    kind = traitlets.Unicode("text").tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)
    help = traitlets.Unicode().tag(sync=True)
    text = traitlets.Unicode().tag(sync=True)
    error = traitlets.Unicode().tag(sync=True)
    disabled = traitlets.Bool(False).tag(sync=True)
    options: traitlets.List[str] = traitlets.List(traitlets.Unicode()).tag(sync=True)
    value: Any = Value(None)
    invalid = traitlets.Bool(False)
    nullable = False

    def __init__(
        self, label: str, value: Any, help: str = "", nullable: bool = False, **traits: Any
    ) -> None:
        super().__init__(kind=self.KIND, label=label, help=help, **traits)
        self.nullable = nullable
        self.value = value
        self.text = self.written(self.value)
        self.observe(self._typed, "text")
        self.observe(self._changed, "value")

    def read(self, text: str) -> Any:
        """Return the value that a text means; raise ValueError for none."""
        return text

    def write(self, value: Any) -> str:
        """Return how a value is written on the page."""
        return str(value)

    def written(self, value: Any) -> str:
        """Return how a value, or none, is written on the page."""
        return NONE if value is None and self.nullable else self.write(value)

    def put(self, value: Any) -> None:
        """Set a value in place of what stands there; all is called as for a new one."""
        if value != self.value:
            self.value = value
        else:
            change = {"name": "value", "old": value, "new": value, "type": "change"}
            self.notify_change(traitlets.Bunch(change, owner=self))

    def _typed(self, change: Any) -> None:
        """Read what was typed; the value stays if it cannot be read."""
        if change.new == self.written(self.value) and not self.invalid:
            return
        none = self.nullable and change.new.strip().casefold() in ("", NONE)
        try:
            value = None if none else self.read(change.new)
        except ValueError as error:
            self.error, self.invalid = str(error), True
            return
        self.error, self.invalid = "", False
        self.value = value
        self.text = self.written(self.value)

    def _changed(self, change: Any) -> None:
        """Write a value that was set."""
        self.error, self.invalid = "", False
        self.text = self.written(change.new)


class Area(Field):
    """Text of several lines."""

    KIND = "area"


class Switch(Field):
    """On or off."""

    KIND = "switch"

    def read(self, text: str) -> bool:
        return text == "on"

    def write(self, value: bool) -> str:
        return "on" if value else "off"


class Toggle(Switch):
    """A button that opens and closes what follows it."""

    KIND = "toggle"


class Choice(Field):
    """One of several values, each with a label: `choices` are pairs (label, value)."""

    KIND = "choice"

    def __init__(
        self, label: str, value: Any, help: str = "", choices: Iterable[tuple[str, Any]] = ()
    ) -> None:
        self.choices = _distinct(choices)
        super().__init__(label, value, help, options=[name for name, _ in self.choices])

    def offer(self, choices: Sequence[tuple[str, Any]]) -> None:
        """Offer other values; the chosen one stays, even if it is not among them."""
        chosen = [pair for pair in self.choices if pair[1] == self.value]
        keep = [] if any(v == self.value for _, v in choices) else chosen
        names = [name for name, _ in _distinct(choices)]
        self.choices = _distinct([*choices, *keep])
        if names != self.options:
            self.options = names

    @traitlets.validate("value")
    def _offered(self, proposal: Any) -> Any:
        if not any(value == proposal.value for _, value in self.choices):
            allowed = ", ".join(name for name, _ in self.choices)
            raise ValueError(f"{self.label} must be one of {allowed}; not {short(proposal.value)}")
        return proposal.value

    def read(self, text: str) -> Any:
        for name, value in self.choices:
            if name == text:
                return value
        raise ValueError(f"{self.label} has no choice {short(text, 20)!r}")

    def write(self, value: Any) -> str:
        return next(name for name, known in self.choices if known == value)


def _distinct(choices: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return choices whose labels differ, numbered if need be: a page sends the label alone."""
    pairs: dict[str, Any] = {}
    for name, value in choices:
        label, turn = name, 1
        while label in pairs:
            turn += 1
            label = f"{name} ({turn})"
        pairs[label] = value
    return list(pairs.items())


class Index(Choice):
    """One of several values in order, with a slider."""

    KIND = "index"


class Layers(Field):
    """A half-open range of layers (first, end), shown as the first and the last layer.

    With `optional`, all layers are None.
    """

    KIND = "pair"

    def __init__(
        self, label: str, value: Any, help: str = "", depth: int = 1, optional: bool = False
    ) -> None:
        self.depth, self.optional = depth, optional
        super().__init__(label, value, help, options=[str(layer) for layer in range(depth)])

    @traitlets.validate("value")
    def _range(self, proposal: Any) -> tuple[int, int] | None:
        value = proposal.value
        if value is None:
            return None
        first, end = value
        if not 0 <= first < end <= self.depth:
            last = self.depth - 1
            raise ValueError(f"layers go upwards from 0 to {last}; not from {first} to {end - 1}")
        return None if self.optional and (first, end) == (0, self.depth) else (first, end)

    def read(self, text: str) -> tuple[int, int] | None:
        first, last = (int(part) for part in text.split())
        return self._range(traitlets.Bunch(value=(first, last + 1)))

    def write(self, value: tuple[int, int] | None) -> str:
        first, end = value or (0, self.depth)
        return f"{first} {end - 1}"


class Names(Field):
    """One or several of some names."""

    KIND = "names"

    def read(self, text: str) -> tuple[str, ...]:
        if not text.split():
            raise ValueError(f"choose at least one of {self.label}")
        return tuple(text.split())

    def write(self, value: Sequence[str]) -> str:
        return " ".join(value)


class Lines(Field):
    """Lines of text that are shown and not edited; `value` is what they describe."""

    KIND = "lines"

    def __init__(self, label: str, value: Any, help: str, lines: Sequence[str]) -> None:
        self.lines = "\n".join(lines) or "none"
        super().__init__(label, value, help)

    def write(self, value: Any) -> str:
        return self.lines


class Literal(Field):
    """Any plain value, written as Python."""

    def read(self, text: str) -> Any:
        try:
            return ast.literal_eval(text.strip())
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            raise ValueError(
                f"{self.label} is a plain Python value, such as {short(self.write(self.value), 40)}"
            ) from None

    def write(self, value: Any) -> str:
        return repr(value)
