"""Figures that regenerate from one command: name -> how to draw it with a model and a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from fastvar_lab import demo, plots
from fastvar_lab.files import folder
from fastvar_lab.measure.steps import images
from fastvar_lab.methods.presets import PRESETS
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models import Model
from fastvar_lab.observe import observe
from fastvar_lab.output import write_figure

STEPS_PROMPTS = (demo.PROMPT, "three yellow stars")


def steps(model: Model, seed: int) -> Figure:
    """Draw the decoded image after every scale step of unpruned generations (paper, Fig. A.2)."""
    rows = {}
    for prompt in STEPS_PROMPTS:
        _, trace = observe(model, prompt, Dense(), seed=seed)
        rows[prompt] = [step[0] for step in images(trace, model.decode)]
    return plots.steps(rows, [f"{h}x{w}" for h, w in model.sizes])


def compare(model: Model, seed: int) -> Figure:
    """Draw full and FastVAR generation of the demo's prompt, with masks and cost per scale."""
    return demo.draw(*demo.compare(model, demo.PROMPT, PRESETS["tiny"], seed))


FIGURES: dict[str, Callable[[Model, int], Figure]] = {"steps": steps, "demo": compare}


def check(names: Sequence[str]) -> list[str]:
    """Return the figures asked for, all by default; raise ValueError for an unknown one."""
    for name in names:
        if name not in FIGURES:
            raise ValueError(f"figure must be one of {', '.join(FIGURES)}; not {name!r}")
    return list(names) or list(FIGURES)


def draw(model: Model, names: Sequence[str], out: Path, seed: int = 0) -> Iterator[Path]:
    """Draw figures into `out` as PNG, yielding each path when it is there."""
    folder(out)
    for name in names:
        path = out / f"{name}.png"
        write_figure(path, FIGURES[name](model, seed))
        yield path
