"""Figures of pictures: what they generate, and how they are drawn from that alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fastvar_lab.experiments import demo
from fastvar_lab.generation import generate, resume
from fastvar_lab.instruments.observe import observe
from fastvar_lab.measure.scale_steps import images
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model, paper_preset
from fastvar_lab.pictures import to_uint8
from fastvar_lab.plotting import panels
from fastvar_lab.prompts import PromptSet, seeded

Report = dict[str, Any]
Arrays = dict[str, np.ndarray]
COLUMNS = 7  # prompts side by side


@dataclass(frozen=True)
class Gallery:
    """A figure of pictures: `make` generates report and arrays, `draw` needs nothing else."""

    caption: str
    make: Callable[[Model, PromptSet, int], tuple[Report, Arrays]]
    draw: Callable[[Report, Arrays], Figure]


def _steps(model: Model, prompts: PromptSet, seed: int) -> tuple[Report, Arrays]:
    """Decode after every scale step of unpruned generations (paper, Fig. A.2)."""
    arrays = {}
    for prompt in (model.example, prompts.take(1)[0].prompt):
        _, trace = observe(model, prompt, Dense(), seed=seed)
        pictures = images(trace, model.decode)[:, 0] * 255
        arrays[model.caption(prompt)] = pictures.round().astype(np.uint8)
    return {"scales": [g.name for g in model.grids()]}, arrays


def _draw_steps(report: Report, arrays: Arrays) -> Figure:
    rows = {prompt: list(pictures / 255) for prompt, pictures in arrays.items()}
    return panels.steps(rows, report["scales"])


def _demo(model: Model, prompts: PromptSet, seed: int) -> tuple[Report, Arrays]:
    """Compare full generation of the model's example prompt with its preset."""
    example = model.example
    report, pictures, shares, _ = demo.compare(model, example, paper_preset(model), seed)
    return report, {**pictures, **shares}


def _draw_demo(report: Report, arrays: Arrays) -> Figure:
    shares = {k: v for k, v in arrays.items() if k not in ("full", "fast")}
    return demo.draw(report, {k: arrays[k] for k in ("full", "fast")}, shares)


def _side_by_side(model: Model, prompts: PromptSet, seed: int) -> tuple[Report, Arrays]:
    """Generate prompts in full and under the preset (paper, Figs A.3 and A.4)."""
    items, method = seeded(prompts, 5).take(COLUMNS), paper_preset(model)
    texts = [item.prompt for item in items]
    full = generate(model, texts, Dense(), seed=seed, snapshot=True)
    fast = resume(model, full, method)
    pairs = zip(*(to_uint8(model.decode(each.canvas)) for each in (full, fast)), strict=True)
    captions = [model.caption(text) for text in texts]
    numbered = (f"{text} ({captions[:i].count(text) + 1})" if captions.count(text) > 1 else text
                for i, text in enumerate(captions))  # fmt: skip
    arrays = {title: np.stack(pair) for title, pair in zip(numbered, pairs, strict=True)}
    return {"method": repr(method)}, arrays


def _draw_side_by_side(report: Report, arrays: Arrays) -> Figure:
    return panels.pairs({prompt: (full, fast) for prompt, (full, fast) in arrays.items()})


GALLERIES = {
    "demo": Gallery(
        "Full generation and the preset at the same seed: pictures, their difference, the tokens "
        "that are kept, and the time of every scale step.", _demo, _draw_demo),
    "intermediate_outputs": Gallery(
        "The picture after every scale step of unpruned generation.", _steps, _draw_steps),
    "side_by_side": Gallery(
        "Pictures of the same seeds, in full above those under the preset.",
        _side_by_side, _draw_side_by_side),
}  # fmt: skip


def make(name: str, model: Model, prompts: PromptSet | None, seed: int) -> tuple[Report, Arrays]:
    """Generate what a gallery shows; its own report first, then its arrays."""
    return GALLERIES[name].make(model, prompts or model.prompts, seed)
