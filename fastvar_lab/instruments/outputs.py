"""The outputs of all sublayers of a generation, for what is asked of its layers later."""

from __future__ import annotations

from torch import Tensor

from fastvar_lab.generation import Watch
from fastvar_lab.models.model import Model
from fastvar_lab.seam import Runner, Site
from fastvar_lab.snapshots import Keep


class Outputs:
    """Keeps the outputs (B, L, C) of all sublayers of a generation with these `watch`es.

    They are in `by_site`, by step and site. `attention_at` computes no earlier layer again with
    them. On a GPU, which does so in no time and has less memory, nothing is kept.

    >>> import fastvar_lab as fv
    >>> model = fv.load("tiny")
    >>> kept = Outputs(model)
    >>> run = fv.generate(model, "a red ring", fv.Dense(), watch=kept.watch)
    >>> kept.by_site[9, fv.Site(7, "ffn")].shape
    torch.Size([2, 1024, 256])
    """

    def __init__(self, model: Model) -> None:
        self.by_site: dict[tuple[int, Site], Tensor] = {}
        self.watch: list[Watch] = [self._keep] if model.device.type == "cpu" else []
        self._steps = set(range(model.transformer.config.levels))

    def _keep(self, run: Runner) -> Runner:
        keep = Keep(run, self._steps)
        self.by_site = keep.kept
        return keep
