"""Files written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Let `save` write a temporary file of the same kind, then rename it to `path`."""
    # a name of its own: two processes or threads may write the same file
    partial = path.with_name(f".partial-{uuid4().hex}{path.suffix}")
    try:
        save(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def unused(path: Path, endings: Sequence[str]) -> Path:
    """Return `path`, without an ending, or path-2, path-3 ... if files of that name are there."""
    free, turn = path, 1
    while any(free.with_name(f"{free.name}.{ending}").exists() for ending in endings):
        turn += 1
        free = path.with_name(f"{path.name}-{turn}")
    return free


def folder(path: Path) -> Path:
    """Make a folder, or raise OSError in one sentence if it cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make the output folder {path}: {error.strerror}") from error
    if not os.access(path, os.W_OK):
        raise OSError(f"the output folder {path} is not writable")
    return path


def write_json(path: Path, content: Any) -> None:
    """Write readable JSON."""
    write(path, lambda p: p.write_text(json.dumps(content, indent=1) + "\n"))
