"""Atomic writes of files, the hash of contents, and released texts in files of the user."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4
from zipfile import BadZipFile

from fastvar_lab.errors import short

DAMAGED = (
    *(OSError, ValueError, LookupError, TypeError, SyntaxError, RuntimeError, EOFError),
    *(struct.error, zlib.error, BadZipFile),
)
"""What NumPy, zipfile and Pillow raise over a file that is missing, cut off or damaged."""


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


def digest_of_file(path: Path, done: Callable[[int], object] | None = None) -> str:
    """Hash a file with SHA-256, a megabyte at a time; `done` is told how many bytes each time."""

    def parts() -> Iterator[bytes]:
        with path.open("rb") as file:
            while part := file.read(2**20):
                yield part
                if done is not None:
                    done(len(part))

    return digest_of(parts())


@cache
def source_hash() -> str:
    """Hash the source files of this package: an editable install changes without its version."""
    root = Path(__file__).parent
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    parts = (part for name in names for part in (name, (root / name).read_bytes()))
    return digest_of(parts, length=16)


def expanded(path: str | Path) -> Path:
    """Return a path that a user gave, with a leading `~` or `~name` replaced by the home folder.

    >>> expanded("~/weights") == Path.home() / "weights"
    True
    """
    return Path(os.path.expanduser(path))


def cache_folder(name: str) -> Path:
    """Return the folder `name` of this library in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fastvar_lab" / name


PARTIAL = ".partial-"
ABANDONED = 3600.0  # seconds without a write, after which a partial file's writer was killed


def official_text(path: str | Path, sha256: str) -> str:
    """Read a released text, which is not shipped here; warn if it differs from the release."""
    text = expanded(path).read_text(encoding="utf-8")
    if digest(text) != sha256:
        stripped = text.rstrip("\n")
        if digest(stripped) == sha256:
            return stripped
        warnings.warn(f"{path} is not the released text (its SHA-256 differs)", stacklevel=2)
    return text


def write(path: str | Path, save: Callable[[Path], object], replace: bool = True) -> None:
    """Let `save` write a temporary file of the same kind, then rename it to `path`.

    Unless `replace`, a file that is there stays: another process may be using it.

    A leading `~` of `path` is the home folder. Removes temporary files that killed writers left in
    that folder, an hour after their last write.
    """
    path = expanded(path)
    _remove_abandoned(path.parent)
    # unique, because two processes or threads may write the same file
    partial = path.with_name(f"{PARTIAL}{uuid4().hex}{path.suffix}")
    try:
        save(partial)
        (os.replace if replace else _put)(partial, path)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # not of `partial`
    finally:
        with suppress(OSError):
            partial.unlink()


def _put(partial: Path, path: Path) -> None:
    """Give a file a name that is free; do nothing if it is taken."""
    try:
        os.link(partial, path)
    except FileExistsError:
        pass
    except OSError:  # a disk without links
        if not path.exists():
            os.replace(partial, path)


def _remove_abandoned(folder: Path) -> None:
    """Remove temporary files of `write` that nobody has written to for an hour, if one may.

    By age alone: a process of another machine or container, on a shared disk, looks dead from here.
    Looks at a folder once an hour, for listing one of thousands of files takes longer than writing.
    """
    now = time.time()
    if 0 <= now - _LISTED.get(folder, -ABANDONED) < ABANDONED:
        return
    try:
        for entry in os.scandir(folder):
            if entry.name.startswith(PARTIAL):
                with suppress(OSError):  # gone, or another user's
                    if now - entry.stat().st_mtime > ABANDONED:
                        os.unlink(entry.path)
        _LISTED[folder] = now
    except OSError:
        pass  # no folder yet, or one that cannot be listed: writing says so


_LISTED: dict[Path, float] = {}
"""When this process last looked for abandoned files, by folder."""


FORBIDDEN = set('/\\:*?"<>|')
"""Characters that file names do not have on every system."""

DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{i}" for d in ("com", "lpt") for i in range(10))}
LONGEST = 100  # characters of a name that a person gives


def file_stem(text: str, endings: Sequence[str]) -> str:
    """Return the name of a file that a person typed, without its suffix, if it is one anywhere.

    `endings` are the suffixes, without the dot, that are left off. Raises ValueError for no name, a
    path, a hidden file, more than 100 characters, and names that some system does not allow.

    >>> file_stem(" masks.pdf ", ["pdf", "png"])
    'masks'
    """
    name = text.strip()
    for ending in endings:
        if name.lower().endswith(f".{ending}"):
            name = name[: -len(ending) - 1]
    wrong = sorted({c for c in name if c in FORBIDDEN or not c.isprintable()})
    if not name:
        raise ValueError("give the file a name")
    if wrong:
        signs = " ".join(c if c.isprintable() else ascii(c)[1:-1] for c in wrong)
        raise ValueError(f"a file name has none of {signs} (it names no folder either)")
    if name.startswith((".", "~")) or name.endswith("."):
        raise ValueError(f"a file name begins with a letter or digit, and ends so; not {name[:20]}")
    if name.split(".")[0].lower() in DEVICES:
        raise ValueError(f"{name} is the name of a device on Windows")
    if len(name) > LONGEST:
        raise ValueError(f"a file name has at most {LONGEST} characters; this one has {len(name)}")
    if (size := len(name.encode())) > 2 * LONGEST:
        raise ValueError(f"a file name has at most {2 * LONGEST} bytes; this one has {size}")
    return name


def folder_name(text: str) -> str:
    """Return the name of a folder for any text: one that lies in its parent and is not hidden.

    Letters, digits and `-._` stay, up to 100 bytes; what else there is becomes `-`.

    >>> folder_name("google/var"), folder_name("../x"), folder_name("..")
    ('google-var', 'x', 'unnamed')
    """
    plain = "".join(c if c.isalnum() or c in "-._" else "-" for c in text).strip("-.")
    name = plain.encode()[:LONGEST].decode(errors="ignore").rstrip("-.") or "unnamed"
    return f"_{name}" if name.split(".")[0].lower() in DEVICES else name


def unused(path: Path, endings: Sequence[str]) -> Path:
    """Return `path`, or path-2, path-3, ... if a file of that name with one of the suffixes exists.

    `path` has no suffix; `endings` are suffixes without the dot.
    """
    free, turn = path, 1
    while any(free.with_name(f"{free.name}.{ending}").exists() for ending in endings):
        turn += 1
        free = path.with_name(f"{path.name}-{turn}")
    return free


def folder(path: str | Path) -> Path:
    """Create a folder and return it, with a leading `~` replaced by the home folder.

    Raises OSError if it cannot be created or written.
    """
    path = expanded(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make the output folder {path}: {error.strerror}") from error
    if not os.access(path, os.W_OK):
        raise OSError(f"the output folder {path} is not writable")
    return path


def write_utf8(path: str | Path, text: str, replace: bool = True) -> None:
    """Write text in UTF-8 whatever the locale; `replace` is that of `write`."""
    write(path, lambda p: p.write_text(text, encoding="utf-8"), replace)


def write_json(path: str | Path, content: Any, replace: bool = True) -> None:
    """Write `content` as indented JSON, in UTF-8 whatever the locale; `replace` is `write`'s."""
    write_utf8(path, json.dumps(content, indent=1) + "\n", replace)


def read_json(text: str | bytes, kind: type = dict) -> Any:
    """Read JSON whose outermost value is a `kind`; raise ValueError for anything else.

    >>> read_json("[]")
    Traceback (most recent call last):
    ValueError: it must hold a dict; not a list
    """
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError is one
        raise ValueError(f"it is not JSON ({short(error)})") from None
    if not isinstance(content, kind):
        raise ValueError(f"it must hold a {kind.__name__}; not a {type(content).__name__}")
    return content


_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<script")


def other_kind(path: Path) -> str | None:
    """Say what a file is that was named as tensors, if it is something else; None if it may be.

    Recognised are folders, empty files, Git LFS pointers, web pages and other text.
    """
    if path.is_dir():
        return "a folder"
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "an empty file"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not what it points to; run `git lfs pull`"
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        return "a web page, not the file that it offers; download it again"
    try:
        text = start.decode()
    except UnicodeDecodeError as error:
        if error.start < 508:  # else a letter is cut in two
            return None
        text = start[: error.start].decode()
    return "a text file" if all(c.isprintable() or c.isspace() for c in text) else None
