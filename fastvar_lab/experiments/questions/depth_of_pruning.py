"""How many scales, which layers and which sublayers are pruned."""

from __future__ import annotations

from dataclasses import replace

from fastvar_lab.experiments.base import Experiment, Methods
from fastvar_lab.methods.prune import Prune
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts


def methods(model: Model) -> Methods:
    """Vary how many scales, which layers and which sublayers are pruned."""
    depth, most = model.depth, min(5, len(model.sizes) - 1)
    methods_by_label = {
        f"last {n} scales" if n > 1 else "last scale": Prune({-i: 0.5 for i in range(n, 0, -1)})
        for n in range(1, most + 1)
    }
    base = Prune({-2: 0.5, -1: 0.75})
    third = max(1, depth // 3)
    ranges = ((0, third), (third, depth - third), (depth - third, depth), (third, depth))
    for low, high in ranges:
        if low < high:
            methods_by_label[f"layers {low} to {high - 1}"] = replace(base, layers=(low, high))
    for kind in model.transformer.kinds:
        methods_by_label[f"{kind} alone"] = replace(base, sublayers=(kind,))
    methods_by_label["all"] = base
    return methods_by_label


EXPERIMENT = Experiment(
    question="How many scales, which layers and which sublayers should be pruned?",
    source="FastVAR, section 4.3; supplement",
    methods=methods,
    chart=charts.methods,
    slow=True,
)
