"""Fewer layers for a token, or no layer at all."""

from __future__ import annotations

from fastvar_lab.experiments.base import Experiment, Lines
from fastvar_lab.experiments.keeping import keeping
from fastvar_lab.experiments.verdicts import Claim, line_over
from fastvar_lab.methods.depthvar import DepthVAR
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts

LINEAR, CONSTANT = "layers by change (DepthVAR)", "the same layers for all"
DROPPED, PTS = "all layers or none", "FastVAR"


def methods(model: Model) -> Lines:
    """Bound the last steps by the cost of earlier and earlier ones; beside them, pruning."""
    shapes = {LINEAR: "linear", CONSTANT: "constant", DROPPED: "two-level"}
    references = [(step, model.grids()[step].name) for step in (-2, -3, -4)]
    return {
        **{
            line: {f"bounded by {name}": DepthVAR(step, shape) for step, name in references}
            for line, shape in shapes.items()
        },
        PTS: keeping(),
    }


EXPERIMENT = Experiment(
    question="Is it better to give tokens fewer layers than to drop them?",
    source="DepthVAR: 3.1x, GenEval 0.721 (base 0.724); its map from change to depth is a guess",
    methods=methods,
    chart=charts.by_operations,
    points=charts.operations_points,
    timed=False,
    claims=(
        Claim(
            "Depth by token is better than dropping tokens",
            "DepthVAR: even the true mask does not rescue hard pruning",
            line_over(LINEAR, DROPPED),
        ),
        Claim(
            "Depth should follow the change of a token",
            "DepthVAR ranks tokens by their change; no control was printed",
            line_over(LINEAR, CONSTANT),
        ),
        Claim(
            "Depth by token is better than FastVAR at equal operations",
            "DepthVAR: HPSv2 29.98 at 3.1x against 29.93 at 2.5x",
            line_over(LINEAR, PTS),
        ),
    ),
)
