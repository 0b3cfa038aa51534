"""Observers: what selectors and restorers learn from a generation beside the tokens they are given.

A rule (a selector or a restorer) that needs more than the tokens of a sublayer has a method
`observer(grids, depth, since)`. It returns an `Observer` that lives for one generation and has the
rule's own method, `scores` or `restore`. A rule that looks at what the layers of an earlier step
computed also says `looks_back = True`: a resumed generation then runs that step itself. One that
looks at earlier latents says with `needs_latents` how many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastvar_lab.seam import Grid, Handles, Site
from fastvar_lab.tokens import resize, rows_like


class Observer:
    """Receives the events of one generation, from step `since` on; the base class does nothing.

    `by_step` says that a selector's scores are the same for all sublayers of a step, `by_logits`
    that it looks at the logits of step `since`.
    """

    by_step: bool = False
    by_logits: bool = False

    def __init__(self, since: int = 0) -> None:
        self.since = since
        self.live = slice(None)

    def keep_rows(self, rows: slice) -> None:
        """Receive the guidance rows that run from here on."""
        self.live = rows

    def prepare(self, handles: Handles) -> None:
        """Receive the handles of the generation, before its first step.

        Raises ValueError if tokens are given for the step whose logits it looks at.
        """
        if self.by_logits and handles.given > self.since:
            raise ValueError(
                f"the method looks at the logits of step {self.since}, which has none because its "
                f"tokens are given; give those of the first {self.since} steps at most"
            )

    def attended(self, site: Site, grid: Grid, q: Tensor, k: Tensor, scale: float) -> None:
        """Receive queries (B, H, K, c) and all keys (B, H, T, c) of a self-attention."""

    def added(self, site: Site, grid: Grid, delta: Tensor, index: Tensor | None) -> None:
        """Receive what a sublayer adds: to all tokens (B, L, C), or to those at index (B, K)."""

    def latent(self, canvas: Tensor) -> None:
        """Receive the latent (n, d, H, W) after a step that was not skipped, resumed ones too."""

    def after(self, grid: Grid, logits: Tensor | None) -> None:
        """Receive the guided logits (n, L, ...) of a finished step; None if none were drawn."""


class Map:
    """A tensor on the tokens of an earlier step, (rows, h * w, ...), resized on demand."""

    def __init__(self, values: Tensor, grid: Grid) -> None:
        self.values, self.grid = values, grid

    def on(self, grid: Grid, rows: int, live: slice = slice(None)) -> Tensor:
        """Return the map (rows, h * w, F) on another grid, by the nearest token.

        With fewer rows than asked for, all guidance rows share it; of more, the `live` ones are
        taken, or else the first.
        """
        values = self.values.unsqueeze(-1) if self.values.dim() == 2 else self.values.flatten(2)
        old, new = (self.grid.h, self.grid.w), (grid.h, grid.w)
        return resize(rows_like(values, rows, live), old, new, "nearest")


def observer(rule: Any, grids: Sequence[Grid], depth: int, since: int) -> Any:
    """Return the observer of a rule for one generation; the rule itself if it needs none."""
    return rule.observer(grids, depth, since) if hasattr(rule, "observer") else rule


def looks_back(rule: Any) -> bool:
    """Return whether a rule looks at the step before the first pruned one."""
    return bool(getattr(rule, "looks_back", False))


class Observed:
    """The base class of selectors whose scores an observer computes."""

    def scores(self, x: Tensor, grid: Grid, site: Site) -> Tensor:
        """Raise ValueError: there is nothing to look at outside of a generation."""
        raise ValueError(
            f"{self!r} scores by more than the tokens of one sublayer; use it as the `select` of "
            "a method"
        )
