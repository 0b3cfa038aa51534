"""What a model needs: files, parameters, and memory by picture size, from its configuration."""

from __future__ import annotations

from typing import Any

import torch

from fastvar_lab.methods.prune import Dense
from fastvar_lab.models import releases
from fastvar_lab.models.loading import skeleton
from fastvar_lab.models.model import Model
from fastvar_lab.models.names import SHIPPED
from fastvar_lab.models.shipped import WEIGHTS
from fastvar_lab.seam import Site

PIXELS = (256, 512, 1024)


def requirements(name: str) -> dict[str, Any]:
    """Return a model's numbers of parameters, files, and memory in GB by picture size, as JSON.

    The model is built without memory for its weights.
    """
    release = None if name in SHIPPED else releases.release(name)
    with torch.device("meta"):
        model = skeleton(name)
    shipped = [path.name for path in sorted(WEIGHTS.glob("*.safetensors"))]
    return {
        "parameters": _count(model.transformer),
        "tokenizer_parameters": _count(model.tokenizer),
        "repo": None if release is None else release.repo,
        "files": shipped if release is None else list(release.files),
        "text": release.text.repo if release is not None and release.text else None,
        "memory_gb": {str(p): memory(model, p) / 1e9 for p in PIXELS},
    }


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def memory(model: Model, pixels: int, method: Any = None) -> int:
    """Return the bytes of weights and KV cache in bfloat16, for one guided square picture."""
    grids = model.grids(model.sizes_of(pixels))
    run = (method or Dense()).start(grids, model.depth)
    config = model.transformer.config
    keys = sum(run.forwarded(Site(i, "attn"), g) for i in range(model.depth) for g in grids)
    return 2 * _count(model.transformer) + 2 * keys * config.width * 2 * 2
