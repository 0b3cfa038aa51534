"""Progress: a Wrapper that shows a progress bar."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from tqdm.auto import tqdm

from fastvar_lab.seam import Grid, Rows, Runner, Wrapper


class Progress(Wrapper):
    """Shows a progress bar over the scale steps."""

    def __init__(self, inner: Runner, steps: int) -> None:
        super().__init__(inner)
        self.steps = steps
        self.bar: Any = None

    def rows(self, grid: Grid, canvas: Tensor) -> Rows | None:
        if self.bar is None:  # made at the first step: an error before it leaves no bar
            self.bar = tqdm(total=self.steps, desc="scale steps", leave=False)
        return self.inner.rows(grid, canvas)

    def after(
        self, grid: Grid, tokens: Tensor | None, canvas: Tensor, logits: Tensor | None = None
    ) -> None:
        self.inner.after(grid, tokens, canvas, logits)
        self.bar.update()
        if grid.index == self.steps - 1:
            self.bar.close()
