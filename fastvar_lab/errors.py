"""Errors that several packages raise, and messages that suggest the nearest known name."""

from __future__ import annotations

import difflib
from collections.abc import Collection

FEW = 6  # names that a message lists in full


def short(value: object, most: int = 60) -> str:
    r"""Write a name or value on one line of at most `most` characters, its middle left out.

    Messages show what a file holds through this: a tensor's name may be a page long.

    >>> short("a" * 100, most=12)
    'aaaaa...aaaa'
    >>> short("two\nlines")
    'two\\nlines'
    """
    if isinstance(value, BaseException):  # its first line: the rest of libraries' is advice
        value = (str(value).splitlines() or [""])[0] or type(value).__name__
    if isinstance(value, str):
        text = value if len(value) <= 4 * most else f"{value[: 2 * most]}{value[-2 * most :]}"
    else:
        try:
            text = repr(value)
        except (RecursionError, ValueError):  # nested too deeply, a number of too many digits
            text = f"<{type(value).__name__}>"
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    if len(text) <= most:
        return text
    head = (most - 2) // 2
    return f"{text[:head]}...{text[len(text) - (most - 3 - head) :]}"


class PromptError(ValueError):
    """Raised for a prompt outside vocabulary or grammar; the message says what is allowed."""


class WeightsError(ValueError):
    """Raised for a file of weights that is missing, damaged, or does not match the model."""


def split(text: str, vocabulary: Collection[str]) -> list[str]:
    """Split a prompt into lower-case words; raise PromptError with the nearest known words.

    A full stop at the end is no part of the last word.

    >>> split("A Red Ring.", {"a", "red", "ring"})
    ['a', 'red', 'ring']
    """
    terms = text.lower().replace(",", " ").rstrip(". \n\t").split()
    if not terms:
        raise PromptError("the prompt is empty; try 'a red striped circle'")
    for word in terms:
        if word not in vocabulary:
            near = difflib.get_close_matches(word, vocabulary, 3, 0.5)
            hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(vocabulary)}"
            raise PromptError(f"unknown word {word!r} in the prompt; {hint}")
    return terms


def unknown(kind: str, name: str, names: Collection[str], lister: str = "") -> ValueError:
    """Return the error for an unknown name of a `kind`: the nearest names, and where all stand.

    Without a near one, a few names are listed, and of many the `lister`: a command or function.

    >>> unknown("metric", "psnrr", ["psnr", "ssim"])
    ValueError("no metric 'psnrr'; nearest: psnr")
    >>> unknown("metric", "z", ["psnr", "ssim"])
    ValueError("no metric 'z'; there are: psnr, ssim")
    >>> print(unknown("family", "z", ["ToMe", "last step, skipped", *"abcdef"], "spaces()"))
    no family 'z'; there are 8; spaces() lists them
    """
    near = difflib.get_close_matches(name, names, 3, 0.4)
    if near:
        hint = f"nearest: {_joined(near)}"
    elif len(names) <= FEW:
        hint = f"there are: {_joined(sorted(names))}"
    elif lister:
        hint = f"there are {len(names)}; {lister} lists them"
    else:
        hint = f"nearest: {_joined(difflib.get_close_matches(name, names, 3, 0.0))}"
    return ValueError(f"no {kind} {name!r}; {hint}")


def _joined(names: Collection[str]) -> str:
    """Write names in a row, apart by semicolons where one holds a comma."""
    return ("; " if any("," in name for name in names) else ", ").join(names)
