"""Named schedules."""

from __future__ import annotations

from fastvar_lab.methods.prune import Prune
from fastvar_lab.methods.ratios import ScaleName

PRESETS = {
    # the paper on Infinity, N = 4 {40, 50, 100, 100 %}, at the released layers 3 to 27 of 32;
    # smaller pixel budgets have fewer steps, see `infinity_preset`
    "infinity": Prune({-4: 0.4, -3: 0.5, -2: 1.0, -1: 1.0}, layers=(3, 28)),
    # the same ratios in all layers, for models of another depth
    "infinity-all-layers": Prune({-4: 0.4, -3: 0.5, -2: 1.0, -1: 1.0}),
    # the paper on HART, N = 2 {50, 75 %}, all layers, restored from 36x36; and its extreme
    "hart": Prune({-2: 0.5, -1: 0.75}),
    "hart-extreme": Prune({-2: 0.5, -1: 1.0}),
    # the supplement's Table A.1 on ImageNet at 256 px gives no ratios; these, on the largest map
    # alone, are chosen so that counted operations match the printed speedups (1.09, 1.16)
    "var-d24": Prune({-1: 0.25}),
    "var-d30": Prune({-1: 0.4}),
    # the shipped model's default: pruned tokens only, no step skipped
    "tiny": Prune({-2: 0.5, -1: 0.75}),
}


_INFINITY = {9: 0.4, 10: 0.5, 11: 1.0, 12: 1.0}  # by step of the 1M schedule, as released


def infinity_preset(steps: int = 13, depth: int = 32) -> Prune:
    """Return FastVAR for an Infinity with `steps` scale steps and `depth` layers.

    Ratios belong to steps of the 1M schedule, of which smaller pixel budgets run the first: 12
    steps skip the last one, 10 steps (0.25M) prune it by 40 %, 7 steps (0.06M) prune nothing.
    Layers 3 to 27 are pruned at any depth, as in the released code: models of up to 3 layers only
    skip steps. Raises ValueError for more steps than 13.
    """
    if not 1 <= steps <= 13:
        raise ValueError(f"Infinity's schedules have 1 to 13 steps; not {steps}")
    ratios: dict[ScaleName, float] = {
        step - steps: ratio for step, ratio in _INFINITY.items() if step < steps
    }
    if depth <= 3:
        return Prune({name: ratio for name, ratio in ratios.items() if ratio == 1})
    return Prune(ratios, layers=(3, min(28, depth)))
