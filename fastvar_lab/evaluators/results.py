"""Results of scores beside a folder of pictures, a file each, and what they were computed of.

Every score has its own file, written whole, so that processes that end together lose none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from fastvar_lab.errors import short
from fastvar_lab.evaluators.case import Result
from fastvar_lab.evaluators.picture_folder import READERS, Sampled, picture_names
from fastvar_lab.evaluators.row_files import scores_folder
from fastvar_lab.evaluators.scores import SCORES
from fastvar_lab.files import digest, digest_of_file, read_json, write_json
from fastvar_lab.files import folder as writable
from fastvar_lab.provenance import environment

SETTINGS_SHA256, PICTURES_SHA256 = "settings_sha256", "pictures_sha256"
NEEDED = {"value", "low", "high", "n", "parts", "depends"}
"""What a stored result holds, as a table reads it."""

HASHES = "pictures.json"
AT_ONCE = 4096  # pictures whose hashes are written together


def keep(folder: Sampled, name: str, result: Result, device: str, pictures: str | None) -> None:
    """Write a result beside its folder, as `NAME.json`.

    `pictures` is `pictures_sha256` of the folder before the score was computed.
    """
    about = {
        SETTINGS_SHA256: settings_sha256(folder.settings),
        PICTURES_SHA256: pictures,
        "environment": environment(device),
    }
    write_json(writable(folder.cache) / f"{name}.json", plain({**asdict(result), **about}))


def stored(root: Path) -> dict[str, Any]:
    """Return the results that are kept beside a folder, by name; raise ValueError for others."""
    results = {}
    for name in SCORES:
        path = scores_folder(root) / f"{name}.json"
        try:
            results[name] = read_json(path.read_bytes())
            if not set(results[name]) >= NEEDED:
                raise ValueError("it is no result of a score")
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read {path}: {short(error, 100)}") from None
    return results


def settings_sha256(settings: Mapping[str, Any] | None) -> str | None:
    """Return the hash of what `make` recorded in a folder: its scores are of those pictures."""
    return None if settings is None else digest(json.dumps(settings, sort_keys=True))


def pictures_sha256(root: Path) -> str:
    """Hash the names and contents of a folder's pictures.

    The hash of each is kept beside the folder, under the picture's size and time of change: only
    pictures with other ones are read. Raises ValueError that names an unreadable one.
    """
    path = scores_folder(root) / HASHES
    known, names = _known(path), picture_names(root)
    hashes = dict[str, list[Any]]()
    with tqdm(total=len(names), desc="hashes", unit="picture", delay=2) as bar:
        for first in range(0, len(names), AT_ONCE):
            part = names[first : first + AT_ONCE]
            with ThreadPoolExecutor(READERS) as pool:
                held = pool.map(lambda name: _hash(root / name, known.get(name)), part)
                for name, value in zip(part, held):
                    hashes[name] = value
                    bar.update()
            if any(known.get(name) != hashes[name] for name in part):
                with suppress(OSError):  # a disk that may only be read
                    write_json(writable(path.parent) / HASHES, {**known, **hashes})
    return digest(*(f"{name}\n{hashes[name][-1]}\n" for name in names))


def _known(path: Path) -> dict[str, Any]:
    try:
        return read_json(path.read_bytes())
    except (OSError, ValueError):  # none yet, or damaged: pictures are read
        return {}


def _hash(path: Path, known: Any) -> list[Any]:
    """Return a picture's size, time of change and hash; `known` is what was kept of it."""
    try:
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        if isinstance(known, list) and known[:2] == stamp and isinstance(known[-1], str):
            return known
        return [*stamp, digest_of_file(path)]
    except OSError as error:
        raise ValueError(f"cannot read the picture {path}: {error.strerror}") from None


def plain(value: Any) -> Any:
    """Bring a value to standard JSON: numbers that are none become null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
