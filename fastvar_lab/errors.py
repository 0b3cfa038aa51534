"""Errors that several rooms raise, and sentences that say what is near an unknown word."""

from __future__ import annotations

import difflib
from collections.abc import Collection


class PromptError(ValueError):
    """A prompt outside the vocabulary or the grammar; the message says what is allowed."""


class WeightsError(ValueError):
    """A weights file that is missing, truncated, foreign, or of other shapes."""


def split(text: str, vocabulary: Collection[str]) -> list[str]:
    """Split a prompt into lower-case words; raise PromptError with the nearest known words."""
    found = text.lower().replace(",", " ").split()
    if not found:
        raise PromptError("the prompt is empty; try 'a red striped circle'")
    for word in found:
        if word not in vocabulary:
            near = difflib.get_close_matches(word, vocabulary, 3, 0.5)
            hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(vocabulary)}"
            raise PromptError(f"unknown word {word!r} in the prompt; {hint}")
    return found


def unknown(what: str, name: str, known: Collection[str]) -> ValueError:
    """Say that there is no `what` of that name, and which come near, or which there are."""
    near = difflib.get_close_matches(name, known, 3, 0.4) or sorted(known)
    return ValueError(f"no {what} {name!r}; nearest: {', '.join(near)}")
