"""The catalog of models: configuration, size, files and memory of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fastvar_lab.methods.prune import Dense
from fastvar_lab.models import releases
from fastvar_lab.models.hub import is_here
from fastvar_lab.models.loading import NAMES, SHIPPED, skeleton
from fastvar_lab.models.model import Model
from fastvar_lab.models.tiny import WEIGHTS
from fastvar_lab.seam import Site

PIXELS = (256, 512, 1024)


def catalog(weights: str | Path | None = None) -> list[dict[str, Any]]:
    """Describe every model: parameters, files, and memory in GB by picture size.

    `here` is true if its files are in the folder `weights` or in the hub's cache. Memory is that
    of one guided picture in bfloat16: the transformer's weights and its full KV cache.

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
                "memory_gb": {str(p): memory(model, p) / 1e9 for p in PIXELS},
            }
        )
    return rows


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
        + "  here  files"
    ]
    for row in rows:
        gb = " ".join(f"{row['memory_gb'][str(p)]:5.1f} GB" for p in PIXELS)
        files = ", ".join(row["files"]) or "none released: weights='random'"
        origin = f" from {row['repo']}" if row["repo"] else ""
        text = f"; text: {row['text']}" if row["text"] and row["files"] else ""
        lines.append(
            f"{row['name']:<17} {row['parameters'] / 1e6:7.1f}M "
            f"{row['tokenizer_parameters'] / 1e6:8.1f}M  {gb}  "
            f"{'yes' if row['here'] else 'no':<4}  "
            f"{files}{origin}{text}"
        )
    lines.append(
        "memory: weights and KV cache of one guided picture in bfloat16; float32 takes twice that, "
        "text encoder and decoder come on top"
    )
    return "\n".join(lines)
