"""Controls of numbers: shares, whole and decimal numbers, ranges. See `fields`."""

from __future__ import annotations

import re
from numbers import Real
from typing import Any

import numpy as np
import traitlets

from fastvar_lab.errors import short
from fastvar_lab.widgets.fields import Field


class Share(Field):
    """A share in [0, 1], with a slider; 30, 30 % and 0.3 all mean 30 %."""

    KIND = "share"

    @traitlets.validate("value")
    def _in_range(self, proposal: Any) -> float:
        value = proposal.value
        if not _is_number(value) or not 0 <= value <= 1:
            raise ValueError(f"a share lies in 0 % to 100 %; not {short(value, 20)}")
        return float(value)

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
        self, label: str, value: int | None, help: str = "", low: int | None = None,
        high: int | None = None, nullable: bool = False,
    ) -> None:  # fmt: skip
        self.low, self.high = low, high
        super().__init__(label, value, help, nullable)

    @traitlets.validate("value")
    def _whole(self, proposal: Any) -> int | None:
        value = proposal.value
        if value is None and self.nullable:
            return None
        if not _is_number(value) or value % 1 != 0:
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

    @traitlets.validate("value")
    def _number(self, proposal: Any) -> Any:
        if _is_number(proposal.value) or (proposal.value is None and self.nullable):
            return proposal.value
        raise ValueError(f"{self.label} is a number; not {short(proposal.value, 20)}")

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


def _is_number(value: Any) -> bool:
    """Return whether a value is a real number, and no bool."""
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)
