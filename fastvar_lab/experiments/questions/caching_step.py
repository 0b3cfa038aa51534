"""Earlier and earlier steps restored from."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from fastvar_lab.experiments.base import Experiment
from fastvar_lab.experiments.verdicts import Answer, Claim, above, quality
from fastvar_lab.measure.statistics import paired
from fastvar_lab.methods.prune import Prune
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts
from fastvar_lab.plotting.tables import scales
from fastvar_lab.seam import Method


def methods(model: Model) -> list[Method]:
    """Restore from earlier and earlier steps (Table A.4)."""
    base = Prune({-2: 0.5, -1: 0.75})
    earliest = min(8, len(model.sizes))
    return [replace(base, cache_step=-back) for back in range(3, earliest + 1)]


def last_step_is_the_best_cache(frame: pd.DataFrame) -> Answer:
    """PSNR of the latest cache step over the best of the earlier ones."""
    pictures = quality(frame, "psnr")
    if "cache_step" not in pictures:
        raise ValueError("no method restores from a step")
    pictures = pictures[pictures.cache_step.notna()]
    means = pictures.groupby("cache_step").psnr.mean()
    latest, *earlier = [size for size in reversed(scales(frame)) if size in means.index]
    if not earlier:
        raise ValueError("there is one cache step alone")
    best = str(means[earlier].idxmax())
    names = pictures.drop_duplicates("cache_step").set_index("cache_step").method
    gap = paired(pictures, names[latest], names[best], "psnr")
    return above(gap, " dB", f"cache {latest} over {best}")


EXPERIMENT = Experiment(
    question="Which step is the best one to restore from?",
    source="FastVAR, supplement, Table A.4",
    methods=methods,
    chart=charts.methods,
    claims=(
        Claim(
            "The last unpruned step is the best cache",
            "best on all metrics (Table A.4)",
            last_step_is_the_best_cache,
        ),
    ),
)
