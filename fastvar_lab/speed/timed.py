"""Timed generations, and what is said of several of them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from fastvar_lab.generation import Generation, generate
from fastvar_lab.instruments.stopwatch import Stopwatch
from fastvar_lab.models.model import Model
from fastvar_lab.seam import Method


@dataclass
class Timed:
    """A generation, and the milliseconds that each of its scale steps took and took to issue."""

    generation: Generation
    step_ms: list[float]
    host_ms: list[float]


def timed(
    model: Model, prompt: str | list[str], method: Method, seed: int, **options: Any
) -> Timed:
    """Generate once under a stopwatch."""
    watches: list[Stopwatch] = []

    def watch(run: Any) -> Stopwatch:
        watches.append(Stopwatch(run))
        return watches[0]

    made = generate(model, prompt, method, seed=seed, watch=[watch], **options)
    steps = [g.index for g in made.request.grids]
    ms, host = watches[0].step_ms(), watches[0].host_ms
    return Timed(made, [ms[step] for step in steps], [host[step] for step in steps])


def medians(runs: list[Timed], what: str = "step_ms") -> list[float]:
    """Median milliseconds of each scale step."""
    return [
        statistics.median(times) for times in zip(*(getattr(r, what) for r in runs), strict=True)
    ]


def total_ms(runs: list[Timed]) -> float:
    """Median milliseconds from the first scale step to the final latent."""
    return statistics.median(sum(r.step_ms) for r in runs)
