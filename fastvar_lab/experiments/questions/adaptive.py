"""Decisions by picture against fixed schedules, at equal mean operations."""

from __future__ import annotations

from fastvar_lab.experiments.base import Experiment, Lines
from fastvar_lab.experiments.verdicts import Claim, line_over
from fastvar_lab.methods.guidance import Tail
from fastvar_lab.methods.prune import Prune
from fastvar_lab.methods.restore_anchors import Anchors
from fastvar_lab.methods.select_pairs import Shared
from fastvar_lab.methods.select_previous import BlockChange
from fastvar_lab.methods.skipvar import SkipVAR, fitted_rules
from fastvar_lab.methods.sparsevar import SparseVAR
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts

SKIPVAR, TAILS = "tails by picture (SkipVAR)", "the same tails for all"
SPARSEVAR, SHARES = "share by picture (SparseVAR)", "the same share for all"
GUIDANCES = (2.0, 4.0)  # those for which rules were fitted
PUBLISHED = {"infinity-2b": ("infinity-0.84", "infinity-0.86", "infinity-0.88")}


def methods(model: Model) -> Lines:
    """SkipVAR and SparseVAR, and what they decide about, decided once for all pictures.

    SkipVAR in all the rules that were fitted on the model at its guidance scale.
    """
    fixed = Shared(BlockChange())
    fitted = fitted_rules(model.name, model.sampling.guidance, len(model.sizes))
    named = (*PUBLISHED.get(model.name, ()), *fitted)
    every = {f"rule {rule}": SkipVAR(rule) for rule in named}
    rules = {n: method for n, method in every.items() if not method.misfit(model, model.sampling)}
    return {
        **({SKIPVAR: rules} if rules else {}),
        TAILS: {
            "last step conditional": Tail(cond_from=-1),
            "last two conditional": Tail(cond_from=-2),
            "last step skipped": Prune({-1: 1.0}),
            "last two skipped": Prune({-2: 1.0, -1: 1.0}),
        },
        SPARSEVAR: {
            f"above {threshold:g} of the largest": SparseVAR(threshold=threshold)
            for threshold in (0.3, 0.45, 0.6)
        },
        SHARES: {
            f"keeps {100 - 100 * ratio:g} %": Prune(
                {-3: ratio, -2: ratio, -1: ratio},
                select=fixed,
                restore=Anchors(),
                granularity="stack",
            )
            for ratio in (0.25, 0.5, 0.75)
        },
    }


EXPERIMENT = Experiment(
    question="Does a decision by picture beat the same one for all, at equal mean operations?",
    source="SkipVAR: 1.77x GenEval 0.70 by picture, 2.62x 0.72 fixed; SparseVAR: share by picture",
    methods=methods,
    chart=charts.by_operations,
    points=charts.operations_points,
    guidances=GUIDANCES,
    timed=False,
    claims=(
        Claim(
            "Tails by picture are better than fixed ones",
            "SkipVAR: 0.70 at 1.77x by picture, 0.72 at 2.62x fixed (README)",
            line_over(SKIPVAR, TAILS),
        ),
        Claim(
            "A share by picture is better than a fixed one",
            "SparseVAR decides by picture; no control was printed",
            line_over(SPARSEVAR, SHARES),
        ),
    ),
)
