"""The catalog of models: configuration, size, files and memory of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fastvar_lab.errors import WeightsError
from fastvar_lab.files import digest_of_file
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models import releases
from fastvar_lab.models.checkpoints import ENDINGS
from fastvar_lab.models.hub import is_here, located, published_sha256
from fastvar_lab.models.loading import SHIPPED, skeleton
from fastvar_lab.models.model import Model
from fastvar_lab.models.names import NAMES
from fastvar_lab.models.releases import Release
from fastvar_lab.models.tiny import WEIGHTS, check_hashes
from fastvar_lab.seam import Site

PIXELS = (256, 512, 1024)


def catalog(weights: str | Path | None = None, check: bool = False) -> list[dict[str, Any]]:
    """Describe every model: parameters, files, and memory in GB by picture size.

    `here` is true if its files are in the folder `weights` or in the hub's cache. Memory is that
    of one guided picture in bfloat16: the transformer's weights and its full KV cache.

    `hash` says of files that are here whether their SHA-256 is published ("known" or "unknown").
    With `check` they are read, at 0.5 to 2 GB/s, and it is "equal" or "differs" where it is known;
    the embedded model's are always checked.

    >>> rows = catalog()
    >>> [row["name"] for row in rows if row["here"]][0]
    'tiny'
    """
    rows = []
    for name in NAMES:
        release = None if name in SHIPPED else releases.release(name)
        with torch.device("meta"):
            model = skeleton(name)
        files = [f.name for f in sorted(WEIGHTS.glob("*.safetensors"))]
        text = None
        if release is not None:
            files = list(release.files)
            text = release.text.repo if release.text else None
        rows.append(
            {
                "name": name,
                "parameters": _count(model.transformer),
                "tokenizer_parameters": _count(model.tokenizer),
                "repo": None if release is None else release.repo,
                "files": files,
                "text": text,
                "here": release is None
                or (bool(files) and all(is_here(release, f, weights) for f in files)),
                "hash": _hash_state(release, weights, check),
                "memory_gb": {str(p): memory(model, p) / 1e9 for p in PIXELS},
            }
        )
    return rows


def _hash_state(release: Release | None, weights: str | Path | None, check: bool) -> str | None:
    """Say what is known of the hashes of a model's files; None if none of them is here."""
    if release is None:
        try:
            check_hashes(WEIGHTS)
        except WeightsError:
            return "differs"
        return "equal"
    places = [place for f in release.files if (place := located(release, f, weights)) is not None]
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


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def memory(model: Model, pixels: int, method: Any = None) -> int:
    """Return the bytes of weights and KV cache in bfloat16, for one guided square picture."""
    grids = model.grids(model.sizes_of(pixels))
    run = (method or Dense()).start(grids, model.depth)
    config = model.transformer.config
    keys = sum(run.forwarded(Site(i, "attn"), g) for i in range(model.depth) for g in grids)
    return 2 * _count(model.transformer) + 2 * keys * config.width * 2 * 2


def table(rows: list[dict[str, Any]]) -> str:
    """Format the catalog for a terminal.

    >>> table(catalog()).splitlines()[1].split()[:2]
    ['tiny', '9.3M']
    """
    lines = [
        f"{'model':<17} {'params':>8} {'tokenizer':>9}  "
        + " ".join(f"{p:>5} px" for p in PIXELS)
        + "  here  hash     files"
    ]
    for row in rows:
        gb = " ".join(f"{row['memory_gb'][str(p)]:5.1f} GB" for p in PIXELS)
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
        "memory: weights and KV cache of one guided picture in bfloat16; float32 takes twice that, "
        "text encoder and decoder come on top"
    )
    return "\n".join(lines)
