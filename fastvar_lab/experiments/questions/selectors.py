"""Rules that choose tokens."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from fastvar_lab.experiments.base import Experiment, Methods
from fastvar_lab.experiments.verdicts import Answer, Claim, above, label, method_over, quality
from fastvar_lab.measure.statistics import paired
from fastvar_lab.methods.prune import Prune
from fastvar_lab.methods.registry import selectors
from fastvar_lab.methods.select_pairs import TrueChange
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts

PTS, ORACLE = "far from mean (PTS)", "true change of a step (oracle)"


def methods(model: Model) -> Methods:
    """Choose as many tokens in other ways than by their distance to the mean."""
    base = Prune({-2: 0.5, -1: 0.75})
    rules = {name: replace(base, select=select) for name, select in selectors().items()}
    return {**rules, ORACLE: replace(base, select=TrueChange(), granularity="stack")}


def pts_keeps_what_matters(frame: pd.DataFrame) -> Answer:
    """PSNR of pivotal token selection over random tokens."""
    pictures = quality(frame, "psnr")
    pts, random = (
        label(pictures[pictures.selector == selector], f"that selects by {selector}")
        for selector in (PTS, "random")
    )
    return above(paired(pictures, pts, random, "psnr"), " dB", "PTS over random")


def better_sign_over_random(frame: pd.DataFrame) -> Answer:
    """PSNR of the better of both signs of attention entropy over random tokens."""
    pictures = quality(frame, "psnr")
    means = pictures.groupby("method").psnr.mean()
    signs = [name for name in means.index if str(name).startswith("attention entropy")]
    if not signs:
        raise ValueError("no method chooses by attention entropy")
    return method_over(str(means[signs].idxmax()), "random")(frame)


EXPERIMENT = Experiment(
    question="Does the distance to the mean choose tokens better than other rules?",
    source="FastVAR, section 3.2, no table was printed; LazyVAR, StepVAR, NOVA, ToProVAR",
    methods=methods,
    chart=charts.methods,
    timed=False,
    claims=(
        Claim("PTS keeps what matters", "no table was printed", pts_keeps_what_matters),
        Claim(
            "Frequency misleads: the change of the latent is better than PTS",
            "LazyVAR: GenEval 0.686 by its index, 0.665 by FastVAR's score",
            method_over("latent update", PTS),
        ),
        Claim(
            "Two scores are better than the high-pass alone",
            "StepVAR's ablation: structure and texture better than either",
            method_over("principal direction and high-pass (StepVAR)", "local high-pass"),
        ),
        Claim(
            "The change of a chunk of layers is better than PTS",
            "SparseVAR ranks by it; no comparison was printed",
            method_over("block change", PTS),
        ),
        Claim(
            "The gap between the rows is better than PTS",
            "FocusVAR's code ranks by it; no number is published",
            method_over("guidance gap", PTS),
        ),
        Claim(
            "Tokens of low attention entropy are those to keep",
            "ToProVAR drops high attention entropy; NOVA drops low entropy",
            method_over("attention entropy, low kept", "attention entropy, high kept"),
        ),
        Claim(
            "Tokens of low output entropy are those to keep",
            "ToProVAR drops high attention entropy; NOVA drops low entropy",
            method_over("output entropy, low kept", "output entropy, high kept"),
        ),
        Claim(
            "The better sign of attention entropy is better than random",
            "NOVA 2.89x, GenEval 0.73 to 0.72; ToProVAR 3.4x, 0.69 to 0.69",
            better_sign_over_random,
        ),
        Claim(
            "Low attention entropy is better than PTS",
            "ToProVAR 3.4x against FastVAR 2.6x, GenEval 0.69 and 0.68",
            method_over("attention entropy, low kept", PTS),
        ),
        Claim(
            "Knowing the true change is better than PTS",
            "DepthVAR: even the true mask of frequencies does not rescue pruning (r = 0.138)",
            method_over(ORACLE, PTS),
        ),
    ),
)
