"""Trace: what was seen while generating, by scale step and site, with where it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastvar_lab.seam import Grid, Site

Key = tuple[int, Site]


@dataclass
class Trace:
    """One generation's record. n pictures, B rows (conditional first), steps s of `grids`.

    tokens[s]        (n, L, d) bool bits drawn, None where the step was skipped
    canvases[s]      (n, d, H, W) latent after the step
    scores[s, site]  (B, L) float, squared distance to the spatial mean at the sublayer's input
    kept[s, site]    (B, L) bool, the tokens that went through the sublayer
    features, outputs[s, site]   (B, L, C) sublayer inputs and outputs, where asked for
    attention[s, site]           (B, H, K, S) share of attention each kept query spends on each
                                 scale step it can see, where asked for; `seen[s, site]` names
                                 those steps
    step_ms[s], sublayer_ms[s, kind]  wall times in milliseconds, if a Stopwatch ran inside
    """

    grids: tuple[Grid, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    tokens: dict[int, Tensor | None] = field(default_factory=dict)
    canvases: dict[int, Tensor] = field(default_factory=dict)
    scores: dict[Key, Tensor] = field(default_factory=dict)
    kept: dict[Key, Tensor] = field(default_factory=dict)
    features: dict[Key, Tensor] = field(default_factory=dict)
    outputs: dict[Key, Tensor] = field(default_factory=dict)
    attention: dict[Key, Tensor] = field(default_factory=dict)
    seen: dict[Key, tuple[int, ...]] = field(default_factory=dict)
    step_ms: dict[int, float] = field(default_factory=dict)
    sublayer_ms: dict[tuple[int, str], float] = field(default_factory=dict)
    derived: dict[Any, Any] = field(default_factory=dict, repr=False)

    def before(self, step: int) -> Trace:
        """Copy what was recorded before a step: where the record of a resumed run starts."""
        early: dict[str, Any] = {"grids": self.grids, "provenance": dict(self.provenance)}
        for name in _BY_STEP:
            early[name] = {k: v for k, v in getattr(self, name).items() if k < step}
        for name in _BY_SITE:
            early[name] = {k: v for k, v in getattr(self, name).items() if k[0] < step}
        return Trace(**early)

    def followed_by(self, later: Trace) -> Trace:
        """Join the record of the steps that a resumed run ran again, and its provenance."""
        joined: dict[str, Any] = {"grids": later.grids, "provenance": later.provenance}
        for name in (*_BY_STEP, *_BY_SITE):
            joined[name] = {**getattr(self, name), **getattr(later, name)}
        return Trace(**joined)

    def kept_share(self, step: int, kind: str, row: int = 0) -> Tensor:
        """Share of layers that forwarded each token of a step, as a map (h, w), for one row."""
        masks = [m[row] for (s, site), m in self.kept.items() if s == step and site.kind == kind]
        if not masks:
            raise ValueError(f"step {step} has no record of {kind!r} sublayers")
        grid = self.grids[step]
        return torch.stack(masks).float().mean(0)[grid.prefix :].view(grid.h, grid.w)


_BY_STEP = ("tokens", "canvases", "step_ms")
_BY_SITE = ("scores", "kept", "features", "outputs", "attention", "seen", "sublayer_ms")
