"""Counts the operations that the host issues to a GPU in a generation: its launches.

The rule: every ATen operation that reaches the dispatcher is one launch, except

- views and changes of shape, which compute nothing (`OpOverload.is_view`);
- allocations without a fill, and questions about a tensor's shape or place;
- draws, which happen on the host (`Keyed`), and checks that run on a CPU alone.

A fused operation (attention, layer and RMS norm, a product with bias) is one launch, although a
library may run it as several kernels, as it does for sorts. Launches are counted on tensors
without content, see `memory`, so that no GPU is needed and nothing is computed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastvar_lab.generation import generate
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.loading import hollow
from fastvar_lab.models.model import Model
from fastvar_lab.seam import Branch, Grid, Method, Rows, Runner, Site, Wrapper
from fastvar_lab.speed.memory import DRAWS, hollow_model, without_content

FREE = {
    *("empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided"),
    *("detach", "alias", "_unsafe_view", "_reshape_alias", "lift_fresh"),
}
"""Operations without a kernel, beside those that are views by their schema."""
CHECKS = {"isnan", "lt", "gt", "le", "ge", "bitwise_or", "any"}
"""Operations of which a check on a CPU consists: it ends by reading `any`."""
RECORD = "launches_before.json"


@dataclass
class Launches:
    """The launches of a generation; those of a sublayer include its method's.

    `begin` are those before the first scale step, `ends` those of a step outside of its sublayers
    (embedding, residual sums, head, draws, latent), `sublayers` those of each site.
    """

    begin: int = 0
    ends: dict[int, int] = field(default_factory=dict)
    sublayers: dict[tuple[int, Site], int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.begin + sum(self.ends.values()) + sum(self.sublayers.values())

    def most(self, kind: str) -> int:
        """Return the most launches of one sublayer of a kind, over layers and steps."""
        counts = [n for (_, site), n in self.sublayers.items() if site.kind == kind]
        return max(counts, default=0)

    def row(self) -> dict[str, int]:
        """Return what tables show: the whole generation, its begin, a step's ends, sublayers."""
        kinds = dict.fromkeys(site.kind for _, site in self.sublayers)
        each = {kind: self.most(kind) for kind in kinds}
        return {"total": self.total, "begin": self.begin, "ends": max(self.ends.values()), **each}


class Counter(TorchDispatchMode):
    """Counts launches; `trail` are the names of the last ones."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.trail, self.paused = 0, list[str](), False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name == "_local_scalar_dense":
            if self.trail[-1:] == ["any"]:
                while self.trail and self.trail[-1] in CHECKS:
                    self.trail.pop()
                    self.count -= 1
            return without_content(args[0])
        if func in DRAWS:
            return args[0]
        out = func(*args, **(kwargs or {}))
        computes = any(isinstance(leaf, Tensor) for leaf in tree_leaves(out))
        if computes and not (self.paused or func.is_view or name in FREE):
            self.add(name)
        return out

    def add(self, name: str) -> None:
        self.count += 1
        self.trail = [*self.trail[-9:], name]


class _Fused(TorchFunctionMode):
    """Counts an RMS norm once: a CPU composes it of several operations, a GPU does not."""

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.rms_norm:
            return func(*args, **(kwargs or {}))
        self.counter.add("rms_norm")
        self.counter.paused = True
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.counter.paused = False


class _Counted(Wrapper):
    """Assigns launches to steps and sublayers."""

    def __init__(self, inner: Runner, counter: Counter, launches: Launches) -> None:
        super().__init__(inner)
        self.counter, self.launches, self.begun = counter, launches, 0

    def rows(self, grid: Grid, canvas: Tensor) -> Rows | None:
        if not self.launches.ends:
            self.launches.begin = self.counter.count
        self.begun = self.counter.count
        self.launches.ends[grid.index] = 0
        return self.inner.rows(grid, canvas)

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        before = self.counter.count
        delta = self.inner.sublayer(site, grid, branch, x)
        self.launches.sublayers[grid.index, site] = self.counter.count - before
        self.begun += self.counter.count - before
        return delta

    def after(
        self, grid: Grid, tokens: Tensor | None, canvas: Tensor, logits: Tensor | None = None
    ) -> None:
        self.inner.after(grid, tokens, canvas, logits)
        self.launches.ends[grid.index] = self.counter.count - self.begun
        self.begun = self.counter.count


def count(
    model: Model, method: Method, *, sizes: Sequence[tuple[int, int]] | None = None
) -> Launches:
    """Count the launches of one guided picture under a method; nothing is computed.

    >>> import fastvar_lab as fv
    >>> count(fv.load("tiny"), fv.Dense()).most("ffn") < 10
    True
    """
    counter, launches = Counter(), Launches()

    def watch(runner: Runner) -> Runner:
        return _Counted(runner, counter, launches)

    with hollow_model(model, 1) as (copy, condition), torch.no_grad(), counter, _Fused(counter):
        generate(copy, condition, method, sizes=sizes, watch=[watch])
    return launches


MODELS = ("tiny", "var-d24", "infinity-2b", "hart-0.7b")


def suite(
    only: str = "", counted: Callable[[Model, Method], Launches] = count
) -> list[dict[str, Any]]:
    """Count the launches of released sizes in bfloat16, full and under their presets.

    `only` is part of the names to count. Raises ValueError if no model matches.
    """
    names = [name for name in MODELS if only in name]
    if not names:
        raise ValueError(f"no model matches {only!r}; there are {', '.join(MODELS)}")
    rows = []
    for name in names:
        model = hollow(name)
        methods: dict[str, Method] = {"full": Dense()}
        preset = model.preset
        methods |= {} if preset is None else {"preset": preset}
        for label, method in methods.items():
            row = counted(model, method).row()
            rows.append({"model": name, "method": label, "depth": model.depth, **row})
    return rows


def before() -> dict[str, Any]:
    """Return the recorded counts, with the commit that they were counted at."""
    text = files("fastvar_lab.speed").joinpath(RECORD).read_text(encoding="utf-8")
    record: dict[str, Any] = json.loads(text)
    return record


def table(rows: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> str:
    """Format counts beside recorded ones, "before -> now"."""
    old = {(row["model"], row["method"]): row for row in record["rows"]}
    columns = ("total", "begin", "ends", "attn", "cross", "ffn")
    lines = [
        f"launches, before (commit {record['commit'][:7]}) -> now: of a generation, before its "
        "first step, of a step outside of its sublayers, of one sublayer (at most)",
        f"{'model':<12} {'method':<13} " + " ".join(f"{name:>15}" for name in columns),
    ]
    for row in rows:
        then = old.get((row["model"], row["method"]), {})
        cells = [
            f"{then.get(name, '?')} -> {row[name]}" if name in row else "-" for name in columns
        ]
        line = " ".join(f"{cell:>15}" for cell in cells)
        lines.append(f"{row['model']:<12} {row['method']:<13} {line}")
    return "\n".join(lines)
