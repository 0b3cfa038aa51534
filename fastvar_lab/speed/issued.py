"""Counts the operations that a generation issues, those of a method's runner apart."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fastvar_lab.generation import generate
from fastvar_lab.models.model import Model
from fastvar_lab.seam import Branch, Grid, Method, Rows, Runner, Site, Stack, Wrapper


class Counted(Wrapper):
    """Counts the operations that each forward issues, and those of them outside of branches.

    `issued` and `added` are FLOPs by forward; a group is one forward.
    """

    def __init__(self, inner: Runner, counter: FlopCounterMode) -> None:
        super().__init__(inner)
        self.counter, self.begin, self.inside = counter, 0.0, 0.0
        self.issued, self.added = list[float](), list[float]()

    def _now(self) -> float:
        counts = self.counter.get_flop_counts().get("Global", {})
        # convolutions belong to the tokenizer
        return float(sum(n for op, n in counts.items() if "convolution" not in str(op)))

    def rows(self, grid: Grid, canvas: Tensor) -> Rows | None:
        before = self._now()
        rows = self.inner.rows(grid, canvas)
        self.begin = self._now()
        self.issued.append(self.begin - before)
        self.added.append(self.begin - before)
        return rows

    def stack(self, grid: Grid, blocks: Stack, x: Tensor) -> Tensor:
        before, self.inside = self._now(), 0.0
        out = self.inner.stack(grid, blocks, x)
        self.added[-1] += self._now() - before - self.inside
        return out

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        def counted(x: Tensor, index: Tensor | None = None) -> Tensor:
            before = self._now()
            delta = branch(x, index)
            self.inside += self._now() - before
            return delta

        return self.inner.sublayer(site, grid, counted, x)

    def after(
        self, grid: Grid, tokens: Tensor | None, canvas: Tensor, logits: Tensor | None = None
    ) -> None:
        self.inner.after(grid, tokens, canvas, logits)
        self.issued[-1] += self._now() - self.begin
        self.begin = self._now()


def issued(model: Model, method: Method, prompt: str, seed: int = 0) -> Counted:
    """Count the operations that a generation issues."""
    counter, watches = FlopCounterMode(display=False), list[Counted]()

    def watch(run: Runner) -> Runner:
        watches.append(Counted(run, counter))
        return watches[0]

    with counter, sdpa_kernel(SDPBackend.MATH):  # products, which the counter sees on any device
        plain = replace(model.sampling, smooth=False)  # mixtures of codes are not counted
        generate(model, prompt, method, seed=seed, sampling=plain, watch=[watch])
    return watches[0]
