"""How many token sets a step needs: by row, and by sublayer, layer, step or whole stack."""

from __future__ import annotations

from fastvar_lab.experiments.base import Experiment, Lines
from fastvar_lab.experiments.keeping import keeping
from fastvar_lab.experiments.verdicts import Claim, line_over
from fastvar_lab.methods.select_pairs import Shared
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts

OWN, BOTH = "by sublayer", "by sublayer, one for both rows"
LAYER, STACK = "by layer", "whole stack"


def methods(model: Model) -> Lines:
    """Choose as FastVAR does, but less often, or once for both rows.

    A choice before the first layer is the same for both rows on the shipped model, where their
    tokens do not differ yet, and the same for a whole stack as for every sublayer of a step.
    """
    return {
        OWN: keeping(),
        BOTH: keeping(select=Shared()),
        LAYER: keeping(granularity="block"),
        STACK: keeping(granularity="stack"),
    }


EXPERIMENT = Experiment(
    question="How often must tokens be chosen, and for which rows?",
    source="FastVAR: by sublayer and row; SparseVAR, LazyVAR, StepVAR: once, for whole stacks",
    methods=methods,
    chart=charts.by_operations,
    points=charts.operations_points,
    timed=False,
    claims=(
        Claim(
            "Each guidance row needs its own tokens",
            "FastVAR chooses by row; SparseVAR, LazyVAR and FocusVAR once for both",
            line_over(OWN, BOTH),
        ),
        Claim(
            "Choosing at every sublayer is better than once for the whole stack",
            "FastVAR (sublayers) against SparseVAR, LazyVAR and StepVAR (whole stacks)",
            line_over(OWN, STACK),
        ),
        Claim(
            "Choosing at every sublayer is better than once a layer",
            "FastVAR chooses again before every sublayer; no table was printed",
            line_over(OWN, LAYER),
        ),
    ),
)
