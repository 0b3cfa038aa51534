"""The names of classes: prompts of class-conditional models by number, by name or by both."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from fastvar_lab.errors import PromptError, short

IMAGENET = 1000  # classes of its challenge
FILE = Path(__file__).with_name("imagenet_classes.txt")


@cache
def imagenet_names() -> tuple[str, ...]:
    """Return a short name for each class of ImageNet (ILSVRC2012), by class number.

    >>> imagenet_names()[207]
    'golden retriever'
    """
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if not line.startswith("#"))


def titled(number: int, names: Sequence[str]) -> str:
    """Write a class with its name, if it has one.

    >>> titled(207, imagenet_names()), titled(3, ())
    ('207: golden retriever', '3')
    """
    return f"{number}: {names[number]}" if number < len(names) else str(number)


def class_number(text: str, classes: int, names: Sequence[str] = ()) -> int:
    """Return the class that a number, a name or a title means; case does not matter.

    Raises PromptError for any other text, with the names that are nearest.

    >>> [class_number(text, 1000, imagenet_names()) for text in ("207", "Golden retriever")]
    [207, 207]
    """
    match = re.fullmatch(r"\s*(\d{1,40})\s*(?::\s*(.*?))?\s*", text)
    if match is None:
        return _named(text, classes, names)
    number = int(match[1])
    if number >= classes:
        raise PromptError(f"a class lies in 0 to {classes - 1}; not {short(text.strip(), 60)!r}")
    if match[2] and match[2].casefold() != (names[number].casefold() if names else ""):
        raise PromptError(f"class {titled(number, names)} is not {short(match[2], 60)!r}")
    return number


def _named(text: str, classes: int, names: Sequence[str]) -> int:
    """Return the class of a name."""
    name = " ".join(text.casefold().split())
    known = {each.casefold(): number for number, each in enumerate(names)}
    if name in known:
        return known[name]
    allowed = f"a class lies in 0 to {classes - 1}"
    if not names:
        raise PromptError(f"{allowed}; not {short(text, 60)!r}")
    within = [n for n in known if name and name in n]
    near = within[:3] or difflib.get_close_matches(name, known, 3, 0.6)
    titles = ", ".join(titled(known[n], names) for n in near)
    hint = f"nearest: {titles}" if near else "such as 207 or golden retriever"
    raise PromptError(f"{allowed}, or is a name; not {short(text, 60)!r}; {hint}")
