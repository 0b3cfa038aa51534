"""The catalog of models: size, files and memory of each; without torch where these are cached."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastvar_lab.errors import WeightsError
from fastvar_lab.files import (
    cache_folder,
    digest,
    digest_of_file,
    folder,
    read_json,
    source_hash,
    write_json,
)
from fastvar_lab.models.hub import ENDINGS, located, published_sha256
from fastvar_lab.models.names import NAMES, SHIPPED
from fastvar_lab.models.shipped import WEIGHTS, check_hashes


def catalog(weights: str | Path | None = None, check: bool = False) -> list[dict[str, Any]]:
    """Describe every model: parameters, files, and memory in GB by picture size.

    `here` is true if its files are in the folder `weights` or in the hub's cache. Memory is that
    of one guided picture in bfloat16: the transformer's weights and its KV cache.

    `hash` says of files that are here whether their SHA-256 is published ("known" or "unknown").
    With `check` they are read, at 0.5 to 2 GB/s, and it is "equal" or "differs" where it is known;
    the shipped model's are always checked.

    >>> rows = catalog()
    >>> [row["name"] for row in rows if row["here"]][0]
    'tiny'
    """
    rows = []
    for name, needs in _requirements().items():
        files, shipped = needs["files"], name in SHIPPED
        places = [] if shipped else [located(needs["repo"], f, weights) for f in files]
        state = _shipped_state() if shipped else _hash_state([p for p in places if p], check)
        here = {"here": shipped or (bool(files) and None not in places), "hash": state}
        memory = {"memory_gb": needs.pop("memory_gb")}
        rows.append({"name": name, **needs, **here, **memory})
    return rows


def _requirements() -> dict[str, dict[str, Any]]:
    """Return what every model needs, by name: from the user's cache, or from building it.

    The cached values are those of the same source files; a cache that cannot be written is left.
    """
    place = cache_folder("models") / "requirements.json"

    def mark(models: object) -> str:
        return digest(source_hash(), json.dumps(models))

    try:
        cached = read_json(place.read_bytes())
        if cached["hash"] == mark(cached["models"]) and cached["models"].keys() == set(NAMES):
            return dict(cached["models"])
    except (OSError, ValueError, KeyError, AttributeError):
        pass  # not yet, or damaged
    from fastvar_lab.models.requirements import requirements

    models = {name: requirements(name) for name in NAMES}
    with suppress(OSError):
        folder(place.parent)
        write_json(place, {"hash": mark(models), "models": models})
    return models


def _shipped_state() -> str:
    """Say whether the package's weights have their hashes."""
    try:
        check_hashes(WEIGHTS)
    except WeightsError:
        return "differs"
    return "equal"


def _hash_state(places: Sequence[Path], check: bool) -> str | None:
    """Say what is known of the hashes of files; None if there is none."""
    parts = [p for place in places for p in (sorted(place.iterdir()) if place.is_dir() else [place])
             if p.suffix.removeprefix(".") in ENDINGS]  # fmt: skip
    if not parts:
        return None
    published = {part: published_sha256(part) for part in parts}
    if check and any(sha not in (None, digest_of_file(p)) for p, sha in published.items()):
        return "differs"
    if None in published.values():
        return "unknown"
    return "equal" if check else "known"


def table(rows: list[dict[str, Any]]) -> str:
    """Format the catalog for a terminal.

    >>> table(catalog()).splitlines()[1].split()[:2]
    ['tiny', '9.3M']
    """
    lines = [
        f"{'model':<17} {'params':>8} {'tokenizer':>9}  "
        + " ".join(f"{p:>5} px" for p in rows[0]["memory_gb"])
        + "  here  hash     files"
    ]
    for row in rows:
        gb = " ".join(f"{size:5.1f} GB" for size in row["memory_gb"].values())
        files = ", ".join(row["files"]) or "none released: weights='random'"
        origin = f" from {row['repo']}" if row["repo"] else ""
        text = f"; text: {row['text']}" if row["text"] and row["files"] else ""
        lines.append(
            f"{row['name']:<17} {row['parameters'] / 1e6:7.1f}M "
            f"{row['tokenizer_parameters'] / 1e6:8.1f}M  {gb}  "
            f"{'yes' if row['here'] else 'no':<4}  {row['hash'] or '-':<7}  "
            f"{files}{origin}{text}"
        )
    lines.append(
        "hash: SHA-256 of the files here against the published one; 'known' is not read yet, see "
        "--check"
    )
    lines.append(
        "memory: weights and KV cache of one guided picture in bfloat16; `models --memory NAME` "
        "counts everything, in any precision"
    )
    return "\n".join(lines)
