"""Overhead: what a method's runner adds around the work of layers, chosen and restored apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastvar_lab.instruments.stopwatch import mark, ms_between
from fastvar_lab.seam import Block, Branch, Grid, Rows, Runner, Site, Stack, Wrapper

PARTS = ("choosing", "restoring", "branches")


class OverheadWatch(Wrapper):
    """Times what a runner does before and after the branches of sublayers and the layers of stacks.

    `choosing` is the time before a branch or before the first layer of a stack, and that of
    decisions and observations at the ends of steps; `restoring` the time after a branch, after the
    last layer, and between layers of a stack; `branches` that of the branches themselves. Full
    generation has small times of each, those of the loop, which are to be subtracted. What a method
    does inside of attention counts as branches. A GPU is not synchronised before `ms` is called.
    """

    def __init__(self, inner: Runner) -> None:
        super().__init__(inner)
        self.spans: dict[str, list[tuple[Any, Any]]] = {part: [] for part in PARTS}
        self.device = torch.device("cpu")

    def rows(self, grid: Grid, canvas: Tensor) -> Rows | None:
        self.device = canvas.device
        begin = mark(self.device)
        rows = self.inner.rows(grid, canvas)
        self._add("choosing", begin)
        return rows

    def after(
        self, grid: Grid, tokens: Tensor | None, canvas: Tensor, logits: Tensor | None = None
    ) -> None:
        begin = mark(self.device)
        self.inner.after(grid, tokens, canvas, logits)
        self._add("choosing", begin)

    def stack(self, grid: Grid, blocks: Stack, x: Tensor) -> Tensor:
        last: list[Any] = [mark(self.device)]
        part = "choosing"

        def watched(block: Block) -> Block:
            def run(x: Tensor) -> Tensor:
                nonlocal part
                self.spans[part].append((last[0], mark(self.device)))
                part, out = "restoring", block(x)
                last[0] = mark(self.device)
                return out

            return run

        def on(rows: Rows) -> Stack:
            return Stack([watched(block) for block in blocks.on(rows)])

        out = self.inner.stack(grid, Stack([watched(block) for block in blocks], on), x)
        self._add("restoring", last[0])
        return out

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        last: list[Any] = [mark(self.device)]

        def timed(*args: Any, **kwargs: Any) -> Tensor:
            begin = mark(self.device)
            self.spans["choosing"].append((last[0], begin))
            delta = branch(*args, **kwargs)
            last[0] = mark(self.device)
            self.spans["branches"].append((begin, last[0]))
            return delta

        delta = self.inner.sublayer(site, grid, timed, x)
        self._add("restoring", last[0])
        return delta

    def _add(self, part: str, begin: Any) -> None:
        self.spans[part].append((begin, mark(self.device)))

    def ms(self) -> dict[str, float]:
        """Return the milliseconds of each part, over the whole generation."""
        return {
            part: sum(ms_between(*span) for span in spans) for part, spans in self.spans.items()
        }
