"""Selectors that compare: both guidance rows, one set for both rows, outputs with restored ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from fastvar_lab.methods.observer import Observed, Observer, looks_back, observer
from fastvar_lab.methods.prune import Prune
from fastvar_lab.methods.registry import selector
from fastvar_lab.methods.select import FarFromMean, Selector, check_selector
from fastvar_lab.methods.spaces import PRUNED, Subject, rising, space
from fastvar_lab.seam import Grid, Handles, Site
from fastvar_lab.tokens import wide


@selector("guidance gap")
@dataclass(frozen=True)
class GuidanceGap(Observed):
    """Distance between the conditional and the null row of a token; one set for both rows.

    s_i = ||x_i(cond) - x_i(null)||. Source: released FocusVAR code ("spacevar"), which scores
    again before every sublayer, as granularity "sublayer" does. Raises ValueError without
    guidance.
    """

    needs_guidance: ClassVar[bool] = True

    def observer(self, grids: Sequence[Grid], depth: int, since: int) -> Observer:
        return _GuidanceGap()


class _Paired(Observer):
    """Knows the number of pictures, and so where null rows begin."""

    pictures, guided = 0, False

    def prepare(self, handles: Handles) -> None:
        self.pictures, self.guided = handles.pictures, handles.guided


class _GuidanceGap(_Paired):
    def prepare(self, handles: Handles) -> None:
        super().prepare(handles)
        if not handles.guided:
            raise ValueError(
                "GuidanceGap() compares conditional with null rows; this sampling has no guidance"
            )

    def scores(self, x: Tensor, grid: Grid, site: Site) -> Tensor:
        gap = wide(x[: self.pictures]) - wide(x[self.pictures :])
        return gap.norm(dim=-1).repeat(2, 1)


@selector("far from mean, one set for both rows")
@dataclass(frozen=True)
class Shared(Observed):
    """One token set for both guidance rows: the mean of the two rows' scores of another selector.

    Without null rows it is the selector itself.

    >>> Shared()
    Shared(select=FarFromMean())
    """

    select: Selector = field(default_factory=FarFromMean)

    def __post_init__(self) -> None:
        check_selector("select", self.select)

    @property
    def looks_back(self) -> bool:
        """Whether the inner selector looks at the step before."""
        return looks_back(self.select)

    @property
    def needs_latents(self) -> int:
        """The number of earlier latents that the inner selector looks at."""
        return int(getattr(self.select, "needs_latents", 0))

    @property
    def needs_output(self) -> bool:
        """Whether the inner selector looks at the true outputs."""
        return bool(getattr(self.select, "needs_output", False))

    @property
    def needs_guidance(self) -> bool:
        """Whether the inner selector compares both guidance rows."""
        return bool(getattr(self.select, "needs_guidance", False))

    def fits(
        self, grids: Sequence[Grid], counts: Mapping[int, int], always: Mapping[int, Sequence[int]]
    ) -> None:
        """Raise ValueError if the inner selector cannot keep so many tokens."""
        if hasattr(self.select, "fits"):
            self.select.fits(grids, counts, always)

    def keeping_all(self) -> Shared:
        """Return it for a schedule that keeps all tokens."""
        inner = self.select
        return Shared(inner.keeping_all() if hasattr(inner, "keeping_all") else inner)

    def observer(self, grids: Sequence[Grid], depth: int, since: int) -> Observer:
        return _Shared(observer(self.select, grids, depth, since))


class Inside(_Paired):
    """An observer around another selector, which it passes everything on to."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.watching = inner if isinstance(inner, Observer) else Observer()
        self.by_step = self.watching.by_step

    def prepare(self, handles: Handles) -> None:
        super().prepare(handles)
        self.watching.prepare(handles)

    def keep_rows(self, rows: slice) -> None:
        self.watching.keep_rows(rows)

    def attended(self, site: Site, grid: Grid, q: Tensor, k: Tensor, scale: float) -> None:
        self.watching.attended(site, grid, q, k, scale)

    def added(self, site: Site, grid: Grid, delta: Tensor, index: Tensor | None) -> None:
        self.watching.added(site, grid, delta, index)

    def latent(self, canvas: Tensor) -> None:
        self.watching.latent(canvas)

    def after(self, grid: Grid, logits: Tensor | None) -> None:
        self.watching.after(grid, logits)


class _Shared(Inside):
    def scores(self, x: Tensor, grid: Grid, site: Site) -> Tensor:
        scores: Tensor = self.inner.scores(x, grid, site)
        if not self.guided or len(x) == self.pictures:
            return scores
        return ((scores[: self.pictures] + scores[self.pictures :]) / 2).repeat(2, 1)


@selector("true change (oracle)")
@dataclass(frozen=True)
class TrueChange(Observed):
    """An oracle: how far the true output is from what restoration would put there.

    Every sublayer computes all tokens; those with the largest squared distance to the resized
    output of the cache step (to 0 without a cache) count as kept, and the rest is restored as
    usual. It saves nothing, and counts so. Keys and values of all tokens are cached, which helps,
    too.

    Granularity decides what it bounds. With "sublayer" every sublayer chooses its own tokens, as
    few errors as it can make alone, and yet the picture is worse than under `FarFromMean`: a token
    whose sublayers are partly fresh and partly cached is in a state that neither step knows, and
    the errors that are smallest in each sublayer do not sum to the smallest error of the token.
    With "stack" the distances are summed over all sublayers of a step, and a token is fresh in all
    of them or restored in all of them. This is the oracle that other selectors are to be measured
    against.
    """

    needs_output: ClassVar[bool] = True

    def scores(self, x: Tensor, grid: Grid, site: Site) -> Tensor:
        """Return the squared norm of x (B, L, C), an output less what would be restored."""
        return wide(x).square().sum(dim=-1)


@space(
    "pruning, guidance gap", "selection",
    third=PRUNED, second=PRUNED, last=PRUNED, spared=(0.0, 0.125, 0.25),
)  # fmt: skip
def _guidance_gap(
    subject: Subject, third: float, second: float, last: float, spared: float
) -> Prune:
    """FocusVAR's selector under FastVAR's restoration."""
    first = round(spared * subject.depth)
    layers = (first, subject.depth) if first else None
    return Prune(rising(third, second, last), select=GuidanceGap(), layers=layers)
