"""Every published accelerator of its kind at equal time, at two guidance scales."""

from __future__ import annotations

import pandas as pd

from fastvar_lab.experiments.base import Experiment, Methods, rendered_detail
from fastvar_lab.experiments.sets import whole_sets
from fastvar_lab.experiments.verdicts import OPEN, Answer, Claim, above, together
from fastvar_lab.frames import FASTVAR, by_guidance
from fastvar_lab.measure.controls import stands_in
from fastvar_lab.measure.ranking import detail_table, family_gap, memory_table, ranking_table
from fastvar_lab.measure.set_table import set_table
from fastvar_lab.methods.columns import family, labelled
from fastvar_lab.methods.merge import Merge
from fastvar_lab.methods.parse import read_method
from fastvar_lab.methods.prune import Prune
from fastvar_lab.models.model import Model
from fastvar_lab.planning.trials import TuningLog, settings
from fastvar_lab.plotting import charts
from fastvar_lab.seam import Method

GUIDANCES = (2.0, 4.0)
TARGETS = (1.5, 2.0)  # speedups at which a claim compares two families
TOME = "ToMe"
LOOK = (FASTVAR, TOME, "skipping", "VAR-Q")  # families of a quick look, one setting each


def methods(model: Model, log: TuningLog | None = None) -> Methods:
    """Return every family in its published settings, and in those that a tuning chose.

    They are read from the log of `tune`, by default that of the package, for the model at its
    guidance scale. Tuned settings that do a control's work alone stand for no family. A model that
    nobody has tuned gets the settings of `untuned`.

    >>> import fastvar_lab as fv
    >>> list(methods(fv.load("tiny")))[0]
    'skipping, as published'
    """
    trials = (TuningLog.read() if log is None else log).of(model)
    if not trials:
        return labelled(untuned(model), model.grids(), model.depth)
    chosen, grids = dict[str, Method](), model.grids()
    for name in dict.fromkeys(trial["family"] for trial in trials):
        mine = [trial for trial in trials if trial["family"] == name]
        texts = [trial["method"] for trial in mine if trial["trial"] == 0]
        for i, text in enumerate(dict.fromkeys(texts), 1):
            number = f" ({i})" if len(texts) > 1 else ""
            chosen[f"{name}, as published{number}"] = read_method(text)
        own = [t for t in mine if t["trial"] and not stands_in(t["method"], name, grids)]
        for i, trial in enumerate(settings(own), 1):
            if trial["method"] not in texts:
                chosen[f"{name}, tuned ({i})"] = read_method(trial["method"])
    return chosen


def untuned(model: Model) -> list[Method]:
    """Return FastVAR, token merging and skipping, over a range of speeds."""
    pairs = ((0.1, 0.25), (0.2, 0.4), (0.3, 0.5), (0.5, 0.75), (0.5, 1.0))
    merged = ((0.3, 0.5), (0.5, 0.7), (0.7, 0.75))
    return [
        *(Prune({-2: a, -1: b}) for a, b in pairs),
        *(Merge({-2: a, -1: b}) for a, b in merged),
        *(Prune({-i: 1.0 for i in range(count, 0, -1)}) for count in (1, 2, 3)),
    ]


def look(methods: Methods) -> dict[str, Method]:
    """Keep one setting of a few families: a quick look."""
    chosen: dict[str, Method] = {}
    for label, method in methods.items():
        name = family(method)
        if name == "full" or (name in LOOK and name not in map(family, chosen.values())):
            chosen[label] = method
    return chosen


def beats_tome(frame: pd.DataFrame) -> Answer:
    """PSNR over token merging at equal measured speed, as the ranking has it, at each guidance."""
    answers = list[Answer]()
    for scale, rows in by_guidance(frame):
        for target in TARGETS:
            try:
                gap = family_gap(rows, FASTVAR, TOME, target)
            except ValueError:  # one of them is not as fast
                continue
            where = "" if scale is None else f" at guidance {scale:g}"
            answers.append(above(gap, " dB", f"{FASTVAR} over {TOME}{where}, {target:g}x"))
    if not answers:
        return Answer(f"there is no speed at which {FASTVAR} and {TOME} can be compared", OPEN)
    return together(answers)


EXPERIMENT = Experiment(
    question="Which accelerator is best at equal time?",
    source="FastVAR, Table 3; supplement, Table A.2; every method's paper",
    methods=methods,
    chart=charts.rivals,
    claims=(
        Claim(
            "It beats ToMe at equal speed",
            "GenEval 0.51 at 1.51x against 0.46 at 1.36x (Table 3)",
            beats_tome,
        ),
    ),
    metrics=rendered_detail,
    guidances=GUIDANCES,
    beside=whole_sets,
    tables={
        "ranking": ranking_table,
        "detail": detail_table,
        "memory": memory_table,
        "sets": set_table,
    },
    quick=look,
    slow=True,
)
