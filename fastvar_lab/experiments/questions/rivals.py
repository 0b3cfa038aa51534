"""FastVAR, token merging and skipping at equal time."""

from __future__ import annotations

import pandas as pd

from fastvar_lab.experiments.base import Experiment
from fastvar_lab.experiments.verdicts import FAILS, OPEN, Answer, Claim, above, quality
from fastvar_lab.measure.speedup import undisturbed
from fastvar_lab.measure.statistics import paired
from fastvar_lab.methods.merge import Merge
from fastvar_lab.methods.prune import Prune
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts
from fastvar_lab.seam import Method


def methods(model: Model) -> list[Method]:
    """FastVAR, token merging and skipping, over a range of speeds, to be compared at equal time."""
    pairs = ((0.1, 0.25), (0.2, 0.4), (0.3, 0.5), (0.5, 0.75), (0.5, 1.0))
    merged = ((0.3, 0.5), (0.5, 0.7), (0.7, 0.75))
    return [
        *(Prune({-2: a, -1: b}) for a, b in pairs),
        *(Merge({-2: a, -1: b}) for a, b in merged),
        *(Prune({-i: 1.0 for i in range(count, 0, -1)}) for count in (1, 2, 3)),
    ]


def beats_tome(frame: pd.DataFrame) -> Answer:
    """PSNR over token merging, of a FastVAR that is measured at least as fast."""
    times = undisturbed(frame[frame.kind == "time"]).set_index("method")
    fastvar, tome = (times.speedup[times.family == name] for name in ("FastVAR", "ToMe"))
    pictures, answers = quality(frame, "psnr"), list[Answer]()
    for rival, speed in tome.items():
        faster = fastvar[fastvar >= speed]
        if len(faster):
            ours = str(faster.idxmin())
            what = f"{ours} ({faster[ours]:.2f}x) over {rival} ({speed:.2f}x)"
            answers.append(above(paired(pictures, ours, str(rival), "psnr"), " dB", what))
    if not answers:
        return Answer("no FastVAR here is as fast as a ToMe", OPEN)
    verdicts = {a.verdict for a in answers}
    verdict = verdicts.pop() if len(verdicts) == 1 else FAILS if FAILS in verdicts else OPEN
    return Answer("; ".join(a.text for a in answers), verdict)


EXPERIMENT = Experiment(
    question="Is FastVAR better than token merging and than skipping at equal time?",
    source="Table 3; supplement, Table A.2",
    methods=methods,
    chart=charts.rivals,
    claims=(
        Claim(
            "It beats ToMe at equal speed",
            "GenEval 0.51 at 1.51x against 0.46 at 1.36x (Table 3)",
            beats_tome,
        ),
    ),
)
