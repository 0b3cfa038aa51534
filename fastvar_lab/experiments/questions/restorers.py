"""Rules that fill pruned places."""

from __future__ import annotations

from dataclasses import replace

from fastvar_lab.experiments.base import Experiment, Methods
from fastvar_lab.experiments.verdicts import Claim, method_over
from fastvar_lab.methods.merge import Merge
from fastvar_lab.methods.prune import Prune
from fastvar_lab.methods.registry import restorers
from fastvar_lab.methods.select import FarFromMean, Random
from fastvar_lab.methods.select_pairs import Shared
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts

STACKED = (
    *("cached branch (CTR)", "branch of the step before", "nearest kept", "anchors", "zero code"),
)
"""Restorers that published methods use for whole stacks."""


def methods(model: Model) -> Methods:
    """Fill pruned places in other ways than from the cache, for good and for random choices.

    Some fill whole stacks, with one set of tokens for both rows; merged tokens share an output.
    """
    base = Prune({-2: 0.5, -1: 0.75})
    stack = replace(base, select=Shared(), granularity="stack")
    rules = restorers()
    return {
        **{
            f"{name}, {choice}": replace(base, select=select, restore=restore)
            for choice, select in (("PTS", FarFromMean()), ("random", Random()))
            for name, restore in rules.items()
        },
        **{f"{name}, whole stack": replace(stack, restore=rules[name]) for name in STACKED},
        "merged (ToMe)": Merge({-2: 0.5, -1: 0.75}),
    }


EXPERIMENT = Experiment(
    question="Does the cache restore pruned places better than other rules?",
    source="FastVAR, section 3.3, no table was printed; StepVAR, SparseVAR, LazyVAR, DepthVAR",
    methods=methods,
    chart=charts.methods,
    timed=False,
    claims=(
        Claim(
            "The cache is better than adding nothing to the residual stream",
            "FastVAR, section 3.3; no table was printed",
            method_over("cached branch (CTR), PTS", "zero, PTS"),
        ),
        Claim(
            "Copies of the nearest kept token are better than the cache",
            "StepVAR's ablation, whole stacks",
            method_over("nearest kept, whole stack", "cached branch (CTR), whole stack"),
        ),
        Claim(
            "Copies of the nearest kept token are better than anchors",
            "StepVAR's ablation, whole stacks",
            method_over("nearest kept, whole stack", "anchors, whole stack"),
        ),
        Claim(
            "A zero code is as good as the cache: not worse by a decibel",
            "LazyVAR adds no code at dropped places; GenEval 0.685 to 0.686",
            method_over("zero code, whole stack", "cached branch (CTR), whole stack", least=-1.0),
        ),
        Claim(
            "The step before is better than the last whole step",
            "DepthVAR takes the residual of the step before; FastVAR that of the last whole one",
            method_over("branch of the step before, PTS", "cached branch (CTR), PTS"),
        ),
        Claim(
            "The cache is better than merging",
            "FastVAR, Table 3: FID 28.19 at 1.51x against 29.07 at 1.19x",
            method_over("cached branch (CTR), PTS", "merged (ToMe)"),
        ),
    ),
)
