"""One guidance row in the last steps: the conditional one, the null one, or both fused."""

from __future__ import annotations

from fastvar_lab.experiments.base import Experiment, Lines
from fastvar_lab.experiments.keeping import keeping
from fastvar_lab.experiments.verdicts import Claim, line_over
from fastvar_lab.methods.focusvar import FocusVAR
from fastvar_lab.methods.guidance import Tail
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts

TAILS = {"the last step": -1, "the last two": -2, "the last three": -3}
COND, NULL, FUSED, BOTH = "conditional row", "null row", "fused before a layer", "both rows, pruned"
SCALES = (2.0, 4.0)


def methods(model: Model) -> Lines:
    """Run one row alone in more and more last steps; beside them, both rows with fewer tokens."""
    layer = max(1, model.depth * 5 // 32)  # FocusVAR's layer 5 of 32
    return {
        COND: {name: Tail(cond_from=step) for name, step in TAILS.items()},
        NULL: {name: Tail(null_from=step) for name, step in TAILS.items()},
        FUSED: {name: FocusVAR(first=step, layer=layer) for name, step in TAILS.items()},
        BOTH: keeping(),
    }


EXPERIMENT = Experiment(
    question="Which guidance row is enough in the last steps?",
    source="SkipVAR, SparVAR: conditional; FasterVAR: null; FocusVAR: fused before layer 5 of 32",
    methods=methods,
    chart=charts.by_operations,
    points=charts.operations_points,
    guidances=SCALES,
    timed=False,
    claims=(
        *(
            Claim(
                f"The conditional row is the one to keep, guidance {scale:g}",
                "SkipVAR and SparVAR's option keep it; FasterVAR keeps the null row",
                line_over(COND, NULL, guidance=scale),
            )
            for scale in SCALES
        ),
        *(
            Claim(
                f"Fusing both rows beats the conditional row alone, guidance {scale:g}",
                "FocusVAR's code; no number is published",
                line_over(FUSED, COND, guidance=scale),
            )
            for scale in SCALES
        ),
        *(
            Claim(
                f"Dropping a row costs less than dropping tokens, guidance {scale:g}",
                "FasterVAR's reviewers: at least half of its 3.4x is the dropped row",
                line_over(COND, BOTH, guidance=scale),
            )
            for scale in SCALES
        ),
    ),
)
