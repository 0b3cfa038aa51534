"""Stopwatch: a Wrapper that times scale steps and, on request, sublayers by kind."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastvar_lab.seam import Branch, Grid, Rows, Runner, Site, Wrapper


def mark(device: torch.device) -> Any:
    """Record a point in time: now on a CPU, an event in the queue of a GPU (without waiting)."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def ms_between(begin: Any, end: Any) -> float:
    """Return the milliseconds between two marks; waits until a GPU has passed the second."""
    if isinstance(begin, float):
        return (end - begin) * 1e3
    end.synchronize()
    return float(begin.elapsed_time(end))


class Stopwatch(Wrapper):
    """Times every step from its start to its latent, and with `sublayers` the sublayers by kind.

    The time of steps that run in one forward is divided by the tokens that they compute. A GPU is
    not synchronised before `step_ms` or `sublayer_ms` is called.
    """

    def __init__(self, inner: Runner, sublayers: bool = False) -> None:
        super().__init__(inner)
        self.sublayers = sublayers
        self.steps: dict[int, tuple[Any, Any]] = {}
        self.parts: defaultdict[tuple[int, str], list[tuple[Any, Any, float]]] = defaultdict(list)
        self.computed: defaultdict[tuple[Grid, ...], Counter[int]] = defaultdict(Counter)
        self.host: dict[int, float] = {}
        self.device = torch.device("cpu")
        self.begin: Any = None
        self.issued = 0.0

    def rows(self, grid: Grid, canvas: Tensor) -> Rows | None:
        self.device = canvas.device
        self.begin, self.issued = mark(self.device), time.perf_counter()
        return self.inner.rows(grid, canvas)

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        if len(grid.steps) > 1:
            tokens = {step.index: self.inner.forwarded(site, step) for step in grid.steps}
            self.computed[grid.steps].update(tokens)
        if not self.sublayers:
            return self.inner.sublayer(site, grid, branch, x)
        begin = mark(self.device)
        delta = self.inner.sublayer(site, grid, branch, x)
        self._add(site, grid, begin, mark(self.device))
        return delta

    def _add(self, site: Site, grid: Grid, begin: Any, end: Any) -> None:
        """Note the time of a sublayer, for each step of its forward the share of its tokens."""
        if len(grid.steps) == 1:
            self.parts[grid.index, site.kind].append((begin, end, 1.0))
            return
        counts = [self.inner.forwarded(site, step) for step in grid.steps]
        for step, count in zip(grid.steps, counts, strict=True):
            share = count / (sum(counts) or 1)
            self.parts[step.index, site.kind].append((begin, end, share))

    def after(
        self, grid: Grid, tokens: Tensor | None, canvas: Tensor, logits: Tensor | None = None
    ) -> None:
        self.inner.after(grid, tokens, canvas, logits)
        self.steps[grid.index] = (self.begin, mark(self.device))
        self.host[grid.index] = (time.perf_counter() - self.issued) * 1e3
        # if several steps run in one forward, the first is assigned all of it until it is divided
        self.begin, self.issued = self.steps[grid.index][1], time.perf_counter()

    def step_ms(self) -> dict[int, float]:
        """Return the milliseconds of each step that ran."""
        return self._divided({step: ms_between(*pair) for step, pair in self.steps.items()})

    @property
    def host_ms(self) -> dict[int, float]:
        """The milliseconds in which the host issued each step."""
        return self._divided(self.host)

    def _divided(self, ms: Mapping[int, float]) -> dict[int, float]:
        """Divide the time of steps that run in one forward by the tokens that they compute."""
        out = dict(ms)
        for forward, tokens in self.computed.items():
            total = sum(ms[step.index] for step in forward)
            for step in forward:
                if sum(tokens.values()):
                    out[step.index] = total * tokens[step.index] / sum(tokens.values())
        return out

    def sublayer_ms(self) -> dict[tuple[int, str], float]:
        """Return milliseconds by step and kind of sublayer, summed over the layers."""
        return {key: sum(calls) for key, calls in self.call_ms().items()}

    def call_ms(self) -> dict[tuple[int, str], list[float]]:
        """Return milliseconds by step and kind of sublayer, one value for each layer."""
        return {
            key: [ms_between(begin, end) * share for begin, end, share in calls]
            for key, calls in self.parts.items()
        }


class BranchWatch(Stopwatch):
    """Times the branches alone, without the selection and restoration of a method around them."""

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        def timed(*args: Any, **kwargs: Any) -> Tensor:
            begin = mark(self.device)
            delta = branch(*args, **kwargs)
            self._add(site, grid, begin, mark(self.device))
            return delta

        return self.inner.sublayer(site, grid, timed, x)
