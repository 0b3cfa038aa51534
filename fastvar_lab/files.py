"""Atomic writes of files, and the hash of contents."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4


def digest(*parts: str | bytes | memoryview, length: int = 64) -> str:
    """Hash the concatenation of parts with SHA-256; return the first `length` of 64 hex digits.

    >>> digest("ab", b"c", length=8) == digest("abc", length=8)
    True
    """
    return digest_of(parts, length)


def digest_of(parts: Iterable[str | bytes | memoryview], length: int = 64) -> str:
    """Hash an iterable of parts as `digest` does, without holding them all in memory."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part.encode() if isinstance(part, str) else part)
    return state.hexdigest()[:length]


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Let `save` write a temporary file of the same kind, then rename it to `path`."""
    # unique, because two processes or threads may write the same file
    partial = path.with_name(f".partial-{uuid4().hex}{path.suffix}")
    try:
        save(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def unused(path: Path, endings: Sequence[str]) -> Path:
    """Return `path`, or path-2, path-3, ... if a file of that name with one of the suffixes exists.

    `path` has no suffix; `endings` are suffixes without the dot.
    """
    free, turn = path, 1
    while any(free.with_name(f"{free.name}.{ending}").exists() for ending in endings):
        turn += 1
        free = path.with_name(f"{path.name}-{turn}")
    return free


def folder(path: Path) -> Path:
    """Create a folder and return it; raise OSError if it cannot be created or written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make the output folder {path}: {error.strerror}") from error
    if not os.access(path, os.W_OK):
        raise OSError(f"the output folder {path} is not writable")
    return path


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON."""
    write(path, lambda p: p.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8"))
