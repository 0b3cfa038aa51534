"""Painted: a selector whose tokens are named one by one, by hand or by a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from fastvar_lab.draws import sent
from fastvar_lab.methods.observer import Observed, Observer, looks_back, observer
from fastvar_lab.methods.painted_mask import ByScale, by_scale, mask_of
from fastvar_lab.methods.ratios import ScaleName
from fastvar_lab.methods.registry import rule
from fastvar_lab.methods.schedule import find
from fastvar_lab.methods.select import FarFromMean, Selector, check_selector
from fastvar_lab.methods.select_pairs import Inside
from fastvar_lab.seam import Grid, Site
from fastvar_lab.tokens import wide
from fastvar_lab.values import Shown

HIDDEN = {"optional": True}  # from the `repr`, at its default

Masks = Mapping[ScaleName, Any]


@rule
@dataclass(frozen=True, repr=False)
class Painted(Shown, Observed):
    """Keeps and prunes the tokens that are painted; `others` scores the rest.

    `keep` and `prune` map scales to masks of their token maps: text of rows and columns such as
    "3-5:10-20 6:9-22" (counted from 0, ends included), or arrays (h, w) of booleans, which become
    such text. The same tokens are painted in all sublayers, guidance rows and pictures. The
    schedule's ratio says how many tokens are kept; `others` (default: pivotal token selection)
    fills them up. Raises ValueError for text that is no mask; a method raises it for a token
    outside of its map, painted both ways, or against the ratio.

    >>> from fastvar_lab.methods.prune import Prune
    >>> Prune({-1: 0.5}, select=Painted(keep={-1: np.eye(32, dtype=bool)[:2]})).select
    Painted(keep={-1: '0:0 1:1'})
    """

    keep: Masks | ByScale = field(default=ByScale(), metadata=HIDDEN)
    prune: Masks | ByScale = field(default=ByScale(), metadata=HIDDEN)
    others: Selector = field(default=FarFromMean(), metadata=HIDDEN)

    def __post_init__(self) -> None:
        for name in ("keep", "prune"):
            object.__setattr__(self, name, by_scale(getattr(self, name)))
        check_selector("others", self.others)

    family = "painted"

    @property
    def looks_back(self) -> bool:
        """Whether the other tokens' selector looks at the step before."""
        return looks_back(self.others)

    @property
    def needs_latents(self) -> int:
        """The number of earlier latents that it looks at."""
        return int(getattr(self.others, "needs_latents", 0))

    @property
    def needs_output(self) -> bool:
        """Whether it looks at the true outputs."""
        return bool(getattr(self.others, "needs_output", False))

    @property
    def needs_guidance(self) -> bool:
        """Whether it compares both guidance rows."""
        return bool(getattr(self.others, "needs_guidance", False))

    def masks(self, grids: Sequence[Grid]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Return the tokens to keep and to prune by painted step, (h, w) bool each.

        Raises ValueError for a token outside of its map or painted both ways, and for a step that
        has two names.
        """
        out: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for side, pairs in enumerate((self.keep, self.prune)):
            steps = set[int]()
            for name, text in cast(ByScale, pairs):
                step = find(name, grids)
                grid = grids[step]
                if step in steps:
                    raise ValueError(f"the painted scale {name} is named twice ({grid.name})")
                steps.add(step)
                blank = np.zeros((grid.h, grid.w), bool)
                both = [*out.get(step, (blank, blank))]
                both[side] = mask_of(text, grid.h, grid.w)
                out[step] = both[0], both[1]
        for step, (keep, prune) in out.items():
            if (keep & prune).any():
                row, column = np.argwhere(keep & prune)[0].tolist()
                raise ValueError(
                    f"at {grids[step].name} the token in row {row}, column {column} is painted to "
                    "keep and to prune"
                )
        return out

    def fits(
        self, grids: Sequence[Grid], counts: Mapping[int, int], always: Mapping[int, Sequence[int]]
    ) -> None:
        """Raise ValueError if a schedule that keeps `counts` tokens by step overrules the paint.

        `always` are the tokens of a step that the restorer keeps in any case.
        """
        for step, (keep, prune) in self.masks(grids).items():
            grid, count = grids[step], counts[step] - grids[step].prefix
            forced = keep.copy()
            places = [token - grid.prefix for token in always.get(step, ())]
            forced.reshape(-1)[places] = True
            if (forced & prune).any():
                row, column = np.argwhere(forced & prune)[0].tolist()
                raise ValueError(
                    f"at {grid.name} the token in row {row}, column {column} is painted to prune; "
                    "the restorer needs it"
                )
            if forced.sum() > count:
                raise ValueError(
                    f"at {grid.name} {forced.sum()} tokens are painted to keep; the schedule keeps "
                    f"{max(count, 0)} of {forced.size}"
                )
            if prune.sum() > prune.size - count:
                raise ValueError(
                    f"at {grid.name} {prune.sum()} tokens are painted to prune; the schedule "
                    f"prunes {prune.size - count} of {prune.size}"
                )

    def keeping_all(self) -> Painted:
        """Return it without the tokens to prune, for a schedule that keeps all tokens."""
        return replace(self, prune=ByScale())

    def observer(self, grids: Sequence[Grid], depth: int, since: int) -> Observer:
        return _Painted(observer(self.others, grids, depth, since), self.masks(grids))


class _Painted(Inside):
    """Scores by another selector, above and below which the painted tokens stand."""

    def __init__(self, inner: Any, masks: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> None:
        super().__init__(inner)
        self.places = {
            step: [torch.from_numpy(np.flatnonzero(mask)) for mask in pair]
            for step, pair in masks.items()
        }

    def scores(self, x: Tensor, grid: Grid, site: Site) -> Tensor:
        scores = wide(self.inner.scores(x, grid, site))
        if grid.index not in self.places:
            return scores
        keep, prune = self.places[grid.index]
        best, worst = float("inf"), float("-inf")
        kept = scores.index_fill(1, sent(keep + grid.prefix, x.device), best)
        return kept.index_fill(1, sent(prune + grid.prefix, x.device), worst)
