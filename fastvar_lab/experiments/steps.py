"""Experiments on what scale steps add, and how they relate: spectra, pictures, attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastvar_lab.experiments.base import (
    Scope,
    Settings,
    batches,
    each_cell,
    prompts_and_seeds,
    score,
    told,
    ways,
)
from fastvar_lab.instruments.observe import observe
from fastvar_lab.measure.quality import psnr
from fastvar_lab.measure.relations import branch_similarity, convergence, cross_scale_attention
from fastvar_lab.measure.spectra import energy, images, spectrum_frame
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.seam import Site
from fastvar_lab.store import Rows


def _jobs(model: Model, scope: Scope) -> list[list[Settings]]:
    return [[batch] for batch in batches(model, scope, seed=23)]


def _compared_jobs(model: Model, scope: Scope) -> list[list[Settings]]:
    return [[{"ways": told(ways(model)), **batch}] for batch in batches(model, scope, seed=23)]


def spectra(model: Model, cell: Settings) -> Rows:
    """Spectra of image and latent after every step, energy added, tokens settled."""
    prompts, seeds = prompts_and_seeds(cell["batch"])
    _, trace = observe(model, prompts, Dense(), seed=seeds)
    out: Rows = []
    for what, frame in (
        ("spectrum", spectrum_frame(trace, model.decode)),
        ("energy", energy(trace, model.decode)),
        ("settled", convergence(trace, model.decode)),
    ):
        frame = frame.assign(picture=frame.picture + cell["first"], what=what)
        out += frame.to_dict("records")
    return out


def outputs(model: Model, cell: Settings) -> Rows:
    """Whether the picture is right after every step, and how far from the full final one."""
    batch, out = cell["batch"], list[dict[str, Any]]()
    prompts, seeds = prompts_and_seeds(batch)
    wanted: np.ndarray | None = None
    for name, method in ways(model).items():
        _, trace = observe(model, prompts, method, seed=seeds)
        pictures = (images(trace, model.decode) * 255).round().astype(np.uint8)
        wanted = pictures[-1] if wanted is None else wanted  # the first way is the full one
        for step, shown in enumerate(pictures):
            for i, asked in enumerate(batch):
                out.append(
                    {
                        "method": name,
                        "step": step,
                        "size": trace.size(step),
                        "picture": cell["first"] + i,
                        "task": asked["task"],
                        "psnr": psnr(shown[i], wanted[i]),
                        "right": score(model, asked["prompt"], shown[i]),
                    }
                )
    return out


def relations(model: Model, cell: Settings) -> Rows:
    """Attention by source scale, and likeness of sublayer outputs across scales."""
    prompts, seeds = prompts_and_seeds(cell["batch"])
    sites = [Site(i, kind) for i in range(model.depth) for kind in model.transformer.kinds]
    _, trace = observe(
        model,
        prompts,
        Dense(),
        seed=seeds,
        outputs=sites,
        attention=[site for site in sites if site.kind == "attn"],
    )
    spent = cross_scale_attention(trace)
    by = ["step", "size", "layer", "source", "source_size"]
    spent = spent.groupby(by, sort=False)[["share", "chance"]].mean().reset_index()
    alike = branch_similarity(trace)
    rows = spent.assign(what="attention").to_dict("records")
    rows += alike.assign(what="similarity").to_dict("records")
    return [{"first": cell["first"], **row} for row in rows]


EXPERIMENTS = (
    each_cell(
        "spectra",
        "Which frequencies does each step add, and when do tokens settle?",
        "Fig. 3b",
        _jobs,
        spectra,
    ),
    each_cell(
        "intermediate_outputs",
        "After which step is the picture there, and right?",
        "supplement, Fig. A.2",
        _compared_jobs,
        outputs,
        version=2,
    ),
    each_cell(
        "cross_scale",
        "Which earlier scales does a step attend to, and whose sublayer outputs are alike?",
        "Fig. 3c, section 3.3",
        _jobs,
        relations,
    ),
)
