"""Named schedules, and ratios read from the command line."""

from __future__ import annotations

import re

from fastvar_lab.methods.prune import Prune
from fastvar_lab.methods.schedule import ScaleName

PRESETS = {
    # the paper on Infinity, N = 4 {40, 50, 100, 100 %}, at the released layers 3 to 27 of 32;
    # smaller budgets end earlier: see `infinity`
    "infinity": Prune({-4: 0.4, -3: 0.5, -2: 1.0, -1: 1.0}, layers=(3, 28)),
    # the same shares in all layers, for models of another depth
    "infinity-all-layers": Prune({-4: 0.4, -3: 0.5, -2: 1.0, -1: 1.0}),
    # the paper on HART, N = 2 {50, 75 %}, all layers, restored from 36x36; and its extreme
    "hart": Prune({-2: 0.5, -1: 0.75}),
    "hart-extreme": Prune({-2: 0.5, -1: 1.0}),
    # the embedded model's default: pruned tokens only, no step skipped
    "tiny": Prune({-2: 0.5, -1: 0.75}),
}


def parse_ratios(text: str) -> dict[ScaleName, float]:
    """Read `-2:0.5,-1:0.75`, `24:0.5,32:0.75` or `28x21:0.4`; raise ValueError on anything else."""
    ratios: dict[ScaleName, float] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(-?\d+)(?:x(\d+))?\s*:\s*([^\s:]+)\s*", part)
        try:
            if match is None:
                raise ValueError
            ratio = float(match[3])
        except ValueError:
            raise ValueError(
                f"cannot read {part.strip()!r} in the ratios {text!r}; "
                "write SCALE:RATIO,... as in -2:0.5,-1:0.75 or 24:0.5,32:0.75"
            ) from None
        name: ScaleName = int(match[1]) if match[2] is None else (int(match[1]), int(match[2]))
        if name in ratios:
            raise ValueError(f"the ratios {text!r} name scale {match[1]} twice")
        ratios[name] = ratio
    return ratios
