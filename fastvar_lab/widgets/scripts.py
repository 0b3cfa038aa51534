"""The scripts of widgets: each is a file, behind the helpers that all of them share."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent


def script(name: str) -> str:
    """Return the JavaScript module of a widget, from the file `name`."""
    return "\n".join((HERE / file).read_text(encoding="utf-8") for file in ("elements.js", name))
