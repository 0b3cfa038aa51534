"""How scale steps relate: attention between them, likeness of their sublayer outputs."""

from __future__ import annotations

import pandas as pd

from fastvar_lab.experiments.base import Cell, Each, Experiment
from fastvar_lab.experiments.questions.spectra import cells, methods
from fastvar_lab.experiments.verdicts import Answer, Claim, above, mean
from fastvar_lab.instruments.observe import observe
from fastvar_lab.measure.relations import branch_similarity, cross_scale_attention
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts
from fastvar_lab.seam import Site
from fastvar_lab.store import Rows


def relations(model: Model, cell: Cell) -> Rows:
    """Attention by source scale, and likeness of sublayer outputs across scales."""
    sites = [Site(i, kind) for i in range(model.depth) for kind in model.transformer.kinds]
    _, trace = observe(
        model,
        cell.prompts,
        Dense(),
        seed=cell.seeds,
        outputs=sites,
        attention=[site for site in sites if site.kind == "attn"],
    )
    spent = cross_scale_attention(trace)
    by = ["step", "size", "layer", "source", "source_size"]
    spent = spent.groupby(by, sort=False)[["share", "chance"]].mean().reset_index()
    alike = branch_similarity(trace)
    rows = spent.assign(what="attention").to_dict("records")
    return rows + alike.assign(what="similarity").to_dict("records")


def neighbours_are_related(frame: pd.DataFrame) -> Answer:
    """Likeness of sublayer outputs to the step before over that to three steps before."""
    rows = frame[(frame.what == "similarity") & (frame.step == frame.step.max())]
    back = rows.step - rows.source
    near = rows[back == 1].groupby("first").cosine.mean()
    far = rows[back == 3].groupby("first").cosine.mean()
    if not len(far):
        raise ValueError("the schedule has too few steps to look three back")
    gap = mean((near - far).to_numpy())
    return above(gap, "", "cosine one step back over three, by batches of pictures")


EXPERIMENT = Experiment(
    question="Which earlier scales does a step attend to, and whose sublayer outputs are alike?",
    source="FastVAR, Fig. 3c, section 3.3",
    methods=methods,
    cells=cells,
    work=Each(relations),
    chart=charts.relations,
    points=charts.relation_points,
    claims=(
        Claim("Neighbouring scales are related", "Fig. 3c, no number", neighbours_are_related),
    ),
    seed=23,
)
