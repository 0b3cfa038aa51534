"""Pruning tokens against skipping whole steps, at equal operations."""

from __future__ import annotations

from fastvar_lab.experiments.base import Experiment, Lines, rendered_detail
from fastvar_lab.experiments.keeping import keeping
from fastvar_lab.experiments.verdicts import Claim, line_over
from fastvar_lab.methods.prune import Prune
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts


def methods(model: Model) -> Lines:
    """Prune more and more, skip more and more steps, and do both."""
    return {
        "pruning": {
            **keeping(),
            "keeps 50, 25, 10 %": Prune({-3: 0.5, -2: 0.75, -1: 0.9}),
            "keeps 25, 10, 5 %": Prune({-3: 0.75, -2: 0.9, -1: 0.95}),
        },
        "skipping": {
            "the last step": Prune({-1: 1.0}),
            "the last two": Prune({-2: 1.0, -1: 1.0}),
            "the last three": Prune({-3: 1.0, -2: 1.0, -1: 1.0}),
        },
        "pruning, last step skipped": {
            "keeps 75 %": Prune({-2: 0.25, -1: 1.0}),
            "keeps 50 %": Prune({-2: 0.5, -1: 1.0}),
            "keeps 50, 25 %": Prune({-3: 0.5, -2: 0.75, -1: 1.0}),
        },
    }


EXPERIMENT = Experiment(
    question="Is pruning better than ending early, at equal operations?",
    source="SparVAR: FastVAR 1.14x without skipping, 1.79x with; FastVAR: 2.7x, two steps skipped",
    methods=methods,
    chart=charts.by_operations,
    points=charts.operations_points,
    metrics=rendered_detail,
    timed=False,
    claims=(
        Claim(
            "Pruning gains more than skipping alone",
            "FastVAR 2.7x with two steps skipped; SparVAR measures 1.14x for it without skipping",
            line_over("pruning", "skipping"),
        ),
        Claim(
            "Skipping loses more of the spectrum than pruning",
            "SkipVAR: pictures of high frequency can skip least; PSNR favors blur",
            line_over("skipping", "pruning", value="spectrum_error"),
        ),
        Claim(
            "Skipping loses more detail than pruning",
            "SkipVAR: pictures of high frequency can skip least; PSNR favors blur",
            line_over("skipping", "pruning", value="detail_error"),
        ),
        Claim(
            "Skipping the last step on top of pruning pays",
            "FastVAR prunes 40 and 50 % and skips two steps (section 4.1); no control was printed",
            line_over("pruning, last step skipped", "pruning"),
        ),
    ),
)
