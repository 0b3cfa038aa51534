"""StepVAR: dual-criteria selection before the first layer, nearest kept tokens after the last."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from fastvar_lab.methods.prune import GRANULARITIES, Prune
from fastvar_lab.methods.registry import method
from fastvar_lab.methods.restore import NearestKept, Restorer
from fastvar_lab.methods.select import PrincipalHighPass, Selector
from fastvar_lab.methods.spaces import PRUNED, Subject, rising, space
from fastvar_lab.values import one_of


@method
@dataclass(frozen=True)
class StepVAR(Prune):
    """Prune the whole stack of late steps, and copy the nearest kept token to dropped places.

    Tokens are scored once, before the first layer, by `PrincipalHighPass`. Dropped tokens go
    through no layer, and take the last hidden state of the kept token that is nearest on the map.

    Source: StepVAR (arXiv 2603.01757); formulas from notes on it, and no code is public. The paper
    keeps both scores over one and copies over caches or anchors. Guessed, because they are not
    published: the weight of the structure score, the number of iterations and their start, which
    rows share a set (here each has its own; `Shared(PrincipalHighPass())` is the alternative), and
    the ratios by step, which have no default.

    >>> from fastvar_lab.scales import TINY, grids
    >>> StepVAR({-1: 0.5}).granularity
    'stack'
    """

    family: ClassVar[str] = "StepVAR"
    select: Selector = field(default_factory=PrincipalHighPass)
    restore: Restorer = field(default_factory=NearestKept)
    granularity: str = one_of("stack", GRANULARITIES)


@space(
    "StepVAR", "granularity",
    third=PRUNED, second=PRUNED, last=PRUNED, weight=(0.0, 0.3, 1.0, 3.0, 10.0),
)  # fmt: skip
def _stepvar(subject: Subject, third: float, second: float, last: float, weight: float) -> StepVAR:
    return StepVAR(rising(third, second, last), select=PrincipalHighPass(weight))
