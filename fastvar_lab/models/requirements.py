"""What a model needs: files, parameters, and memory by picture size, from its configuration."""

from __future__ import annotations

from typing import Any

import torch

from fastvar_lab.audit import audited
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models import releases
from fastvar_lab.models.loading import skeleton
from fastvar_lab.models.model import Model
from fastvar_lab.models.names import SHIPPED
from fastvar_lab.models.shipped import WEIGHTS
from fastvar_lab.seam import Method

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


def memory(model: Model, pixels: int, method: Method | None = None) -> int:
    """Return the bytes of weights and KV cache in bfloat16, for one guided square picture."""
    method, grids = method or Dense(), model.grids(model.sizes_of(pixels))
    run = audited(method, grids, model.depth, model.transformer.kinds)
    cache = model.transformer.new_cache(grids, 2, run)
    cache.dtype = torch.bfloat16
    cache.expect(run.keys_read(grids, guided=True, resumable=False))
    return 2 * _count(model.transformer) + cache.planned
