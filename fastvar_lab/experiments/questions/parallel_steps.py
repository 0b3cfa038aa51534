"""The last steps in one forward, or one after another."""

from __future__ import annotations

from fastvar_lab.experiments.base import Experiment, Lines
from fastvar_lab.experiments.keeping import Ratios
from fastvar_lab.experiments.verdicts import Claim, line_over
from fastvar_lab.methods.lazyvar import LazyVAR
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts

GROUP, OVERLAP, TURNS = "in one forward", "in one forward, places shared", "one after another"
KEEPS: dict[str, Ratios] = {
    "keeps 40, 20 %": {-2: 0.6, -1: 0.8},
    "keeps 20, 10 %": {-2: 0.8, -1: 0.9},
    "keeps 10, 5 %": {-2: 0.9, -1: 0.95},
}


def methods(model: Model) -> Lines:
    """LazyVAR with and without its group, and with a group that may keep a place twice."""
    return {
        GROUP: {name: LazyVAR(ratios) for name, ratios in KEEPS.items()},
        OVERLAP: {name: LazyVAR(ratios, disjoint=False) for name, ratios in KEEPS.items()},
        TURNS: {name: LazyVAR(ratios, group=False) for name, ratios in KEEPS.items()},
    }


EXPERIMENT = Experiment(
    question="What does running the last steps in one forward cost in quality?",
    source="LazyVAR: 2.03x to 2.94x by its group, GenEval 0.690 to 0.686; 0.681 without disjoint",
    methods=methods,
    chart=charts.by_operations,
    points=charts.operations_points,
    timed=False,
    claims=(
        Claim(
            "The group costs quality at equal operations",
            "LazyVAR: GenEval 0.690 one after another, 0.686 in one forward",
            line_over(TURNS, GROUP),
        ),
        Claim(
            "Places of a group should be disjoint",
            "LazyVAR: GenEval 0.686 disjoint, 0.681 otherwise",
            line_over(GROUP, OVERLAP),
        ),
    ),
)
