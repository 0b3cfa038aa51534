"""Labelled controls that take what was typed as it is, or say in one sentence why not.

Nothing is clamped: a value outside the bounds is an error under the control, and the last valid
value stays. Every control has a label, a tooltip and an accessible name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from typing import Any

import anywidget
import traitlets

from fastvar_lab.backbones.var import LabelEncoder
from fastvar_lab.class_names import titled
from fastvar_lab.errors import short
from fastvar_lab.widgets.scripts import script


class Field(anywidget.AnyWidget):
    """A labelled text. `value` is what it holds; `text` is how that is written on the page.

    A subclass overrides `read` and `write`; `read` raises ValueError for text that means nothing.
    `error` stands under the control. `invalid` is True while the text could not be read.
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
    value = traitlets.Any()
    invalid = traitlets.Bool(False)

    def __init__(self, label: str, value: Any, help: str = "", **traits: Any) -> None:
        super().__init__(kind=self.KIND, label=label, help=help, **traits)
        self.value = value
        self.text = self.write(self.value)
        self.observe(self._typed, "text")
        self.observe(self._changed, "value")

    def read(self, text: str) -> Any:
        """Return the value that a text means; raise ValueError for none."""
        return text

    def write(self, value: Any) -> str:
        """Return how a value is written on the page."""
        return str(value)

    def _typed(self, change: Any) -> None:
        """Read what was typed; the value stays if it cannot be read."""
        if change.new == self.write(self.value) and not self.invalid:
            return
        try:
            value = self.read(change.new)
        except ValueError as error:
            self.error, self.invalid = str(error), True
            return
        self.error, self.invalid = "", False
        self.value = value
        self.text = self.write(self.value)

    def _changed(self, change: Any) -> None:
        """Write a value that was set."""
        self.error, self.invalid = "", False
        self.text = self.write(change.new)


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
            return self.read(proposal.value)
        except ValueError:
            return str(proposal.value)  # said when it is drawn

    def read(self, text: str) -> str:
        text = text.strip()
        return text if text in self.encoder.special else str(self.encoder.label(text))

    def write(self, value: str) -> str:
        return self.encoder.caption(value)


class Area(Field):
    """Text of several lines."""

    KIND = "area"


class Share(Field):
    """A share in [0, 1], with a slider; 30, 30 % and 0.3 all mean 30 %."""

    KIND = "share"

    @traitlets.validate("value")
    def _in_range(self, proposal: Any) -> float:
        if not 0 <= proposal.value <= 1:
            raise ValueError(f"a share lies in 0 % to 100 %; not {proposal.value:.4g}")
        return float(proposal.value)

    def read(self, text: str) -> float:
        match = re.fullmatch(r"\s*(\d*[.,]?\d+|\d+[.,]?)\s*(%?)\s*", text)
        if match is None:
            raise ValueError(f"write a share such as 30 %, 30 or 0.3; not {short(text, 20)!r}")
        number = float(match[1].replace(",", "."))
        if match[1] == "1" and not match[2]:
            raise ValueError("1 may mean 1 % or all of it; write 1 % or 100 %")
        number = number / 100 if match[2] or number > 1 else number
        if number > 1:
            raise ValueError(f"a share lies in 0 % to 100 %; not {short(text, 20)}")
        return number

    def write(self, value: float) -> str:
        return f"{100 * value:.6g} %"


class Integer(Field):
    """A whole number, of any size unless `low` and `high` bound it."""

    low: int | None = None
    high: int | None = None

    def __init__(
        self, label: str, value: int, help: str = "", low: int | None = None,
        high: int | None = None,
    ) -> None:  # fmt: skip
        self.low, self.high = low, high
        super().__init__(label, value, help)

    @traitlets.validate("value")
    def _whole(self, proposal: Any) -> int:
        value = proposal.value
        if isinstance(value, bool) or value != int(value):
            raise ValueError(f"{self.label} is a whole number; not {short(value, 20)}")
        low, high = self.low, self.high
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = f"{low} to {high}" if high is not None else f"{low} or more"
            raise ValueError(f"{self.label} is {bounds}; not {short(value, 20)}")
        return int(value)

    def read(self, text: str) -> int:
        if not re.fullmatch(r"\s*[+-]?\d{1,40}\s*", text):
            raise ValueError(f"{self.label} is a whole number; not {short(text, 20)!r}")
        value = int(text)
        self._whole(traitlets.Bunch(value=value))
        return value


class Number(Field):
    """A decimal number."""

    def read(self, text: str) -> float:
        try:
            value = float(text.replace(",", "."))
        except ValueError:
            raise ValueError(f"{self.label} is a number; not {short(text, 20)!r}") from None
        if value - value != 0:
            raise ValueError(f"{self.label} is a finite number; not {text}")
        return value

    def write(self, value: float) -> str:
        return f"{value:.6g}"


class Span(Field):
    """A range of numbers (low, high), None where nothing bounds it; written as "1.5 to 2"."""

    def read(self, text: str) -> tuple[float | None, float | None]:
        number = r"([+-]?(?:\d+[.,]?\d*|[.,]\d+))"
        match = re.fullmatch(rf"\s*(?:from\s+)?{number}?\s*(?:to\s*{number}?)?\s*", text)
        if match is None or (text.strip() and match[1] == match[2] is None):
            raise ValueError(
                f"write a range as 1.5 to 2, from 1.5 or to 2; not {short(text, 20)!r}"
            )
        low, high = (
            None if end is None else float(end.replace(",", ".")) for end in match.groups()
        )
        if low is not None and high is not None and low > high:
            raise ValueError(f"a range goes upwards; not from {low:g} to {high:g}")
        return low, high

    def write(self, value: tuple[float | None, float | None]) -> str:
        low, high = (None if end is None else f"{end:.4g}" for end in value)
        if low is None:
            return "" if high is None else f"to {high}"
        return f"from {low}" if high is None else f"{low} to {high}"


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
        self.choices = list(choices)
        super().__init__(label, value, help, options=[name for name, _ in self.choices])

    def offer(self, choices: Sequence[tuple[str, Any]]) -> None:
        """Offer other values; the chosen one stays, even if it is not among them."""
        chosen = [pair for pair in self.choices if pair[1] == self.value]
        keep = [] if any(v == self.value for _, v in choices) else chosen
        names = [name for name, _ in choices]
        self.choices = [*choices, *keep]
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
                f"{self.label} is a plain Python value, such as {self.write(self.value)}"
            ) from None

    def write(self, value: Any) -> str:
        return repr(value)
