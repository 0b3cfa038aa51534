"""Counts the operations that a generation issues, those of a method's runner apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from fastvar_lab.generation import generate
from fastvar_lab.models.live_object import is_plain
from fastvar_lab.models.model import Model
from fastvar_lab.models.precision import weight_shape
from fastvar_lab.seam import Branch, Grid, Method, Rows, Runner, Site, Stack, Wrapper


class Products:
    """Counts the operations of products so far, `total`; a context.

    torch's counter does not see the product inside a quantised layer's kernel, and sees those of an
    adapter beside its layer's. Each such layer of `module` counts as one product with a weight of
    its shape, as it does where operations are counted without running.
    """

    def __init__(self, module: nn.Module) -> None:
        self.counter, self.corrected = FlopCounterMode(display=False), 0.0
        self.layers = [
            layer
            for layer in module.modules()
            if len(weight_shape(layer)) == 2 and not is_plain(layer)
        ]
        self.before, self.handles = list[float](), list[RemovableHandle]()

    def __enter__(self) -> Products:
        self.counter.__enter__()
        for layer in self.layers:
            self.handles.append(layer.register_forward_pre_hook(self._enter))
            self.handles.append(layer.register_forward_hook(self._leave))
        return self

    def __exit__(self, *error: Any) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        self.counter.__exit__(*error)

    @property
    def total(self) -> float:
        counts = self.counter.get_flop_counts().get("Global", {})
        # convolutions belong to the tokenizer
        seen = sum(n for op, n in counts.items() if "convolution" not in str(op))
        return float(seen) + self.corrected

    def _enter(self, _: nn.Module, __: Any) -> None:
        self.before.append(self.total)

    def _leave(self, layer: nn.Module, args: Any, _: Any) -> None:
        seen = self.total - self.before.pop()
        if args and args[0].is_floating_point():  # an adapter of an embedding takes numbers
            self.corrected += 2.0 * args[0].numel() * weight_shape(layer)[0] - seen


class Counted(Wrapper):
    """Counts the operations that each forward issues, and those of them outside of branches.

    `issued` and `added` are FLOPs by forward; a group is one forward.
    """

    def __init__(self, inner: Runner, products: Products) -> None:
        super().__init__(inner)
        self.products, self.begin, self.inside = products, 0.0, 0.0
        self.issued, self.added = list[float](), list[float]()

    def _now(self) -> float:
        return self.products.total

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
    products, watches = Products(model.transformer), list[Counted]()

    def watch(run: Runner) -> Runner:
        watches.append(Counted(run, products))
        return watches[0]

    with products, sdpa_kernel(SDPBackend.MATH):  # products, which the counter sees on any device
        plain = replace(model.sampling, smooth=False)  # mixtures of codes are not counted
        generate(model, prompt, method, seed=seed, sampling=plain, watch=[watch])
    return watches[0]
