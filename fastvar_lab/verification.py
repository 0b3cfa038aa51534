"""Verifies a method: tests on a model what every method must fulfil, one row per promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any, NamedTuple, cast

import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fastvar_lab.audit import forwards
from fastvar_lab.generation import Generation, generate, resume
from fastvar_lab.instruments.stopwatch import BranchWatch, Stopwatch
from fastvar_lab.instruments.unfused import Unfused
from fastvar_lab.methods.parse import read_method
from fastvar_lab.methods.prune import Dense
from fastvar_lab.methods.schedule import Scheduled
from fastvar_lab.models.model import Model
from fastvar_lab.seam import Branch, Grid, Method, Rows, Runner, Site, Wrapper
from fastvar_lab.speed.flops import exact, step_flops

NEXT_TO_NONE = 1e-9  # a ratio that runs the pruned path but prunes no token
CLOSE = 0.02  # relative difference allowed between counted and issued operations


class Verdict(NamedTuple):
    """The result of a test: whether it passed (None if it does not apply), and a note."""

    passed: bool | None
    note: str


def verify(model: Model, method: Method, prompt: str | None = None, seed: int = 0) -> pd.DataFrame:
    """Test the promises of a method; return a frame with columns promise, passed, note.

    Counted operations equal those issued (or bound them, if the method decides from the data). A
    resumed generation equals one from scratch. A batch equals its pictures generated alone.
    Keeping all tokens equals full generation. `repr` can be read back. The model is unchanged
    afterwards. The last row is the time that the method spends outside of branches. `passed` is
    None if a promise does not apply. It takes about twelve generations; use a float64 model to
    distinguish rounding from faults.

    >>> import fastvar_lab as fv
    >>> bool(verify(fv.load("tiny"), fv.Prune({-1: 0.75})).passed.all())
    True
    """
    text = model.text_encoder.example if prompt is None else prompt
    checks: dict[str, Callable[[], Verdict]] = {
        "counted equals issued": partial(counted, model, method, text, seed),
        "resumed equals scratch": partial(resumed, model, method, text, seed),
        "a batch equals its pictures alone": partial(batched, model, method, text, seed),
        "all tokens kept equals full": partial(all_kept, model, method, text, seed),
        "repr reads back": partial(reads_back, method),
        "nothing is left behind": partial(nothing_left, model, method, text, seed),
        "overhead": partial(overhead, model, method, text, seed),
    }
    rows = []
    for promise, check in checks.items():
        try:
            verdict = check()
        except ValueError as error:
            verdict = Verdict(False, str(error))
        rows.append({"promise": promise, "passed": verdict.passed, "note": verdict.note})
    return pd.DataFrame(rows)


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
        self.begin = self._now()
        self.issued.append(0.0)
        self.added.append(0.0)
        return self.inner.rows(grid, canvas)

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        def counted(x: Tensor, index: Tensor | None = None) -> Tensor:
            before = self._now()
            delta = branch(x, index)
            self.inside += self._now() - before
            return delta

        before, self.inside = self._now(), 0.0
        delta = self.inner.sublayer(site, grid, counted, x)
        self.added[-1] += self._now() - before - self.inside
        return delta

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

    with counter:
        plain = replace(model.sampling, smooth=False)  # mixtures of codes are not counted
        generate(model, prompt, method, seed=seed, sampling=plain, watch=[Unfused, watch])
    return watches[0]


def counted(model: Model, method: Method, prompt: str, seed: int) -> Verdict:
    """Compare counted operations with those issued, forward by forward."""
    grids, text_tokens = model.grids(), len(prompt.split())
    guided = model.sampling.guidance != model.transformer.unguided
    costs = [sum(c.values()) for c in step_flops(model, method, grids, text_tokens, guided=guided)]
    upper, counts = not exact(method, grids), issued(model, method, prompt, seed)
    walk = forwards(grids, method.acts(grids), 0)
    for forward, products, added in zip(walk, counts.issued, counts.added, strict=True):
        if forward.prefix:
            continue  # its text is embedded before the loop
        expected, products = sum(costs[grid.index] for grid in forward.steps), products - added
        if products > expected * (1 + CLOSE) or (not upper and products < expected * (1 - CLOSE)):
            return Verdict(
                False,
                f"step {forward.index} ({forward.name}) issues {products / 1e9:.4g} GFLOP; "
                f"{expected / 1e9:.4g} are counted",
            )
    total, added = sum(costs) / 1e9, sum(counts.added) / 1e9
    note = f"{'at most ' if upper else ''}{total:.4g} GFLOP for a guided picture"
    return Verdict(True, note + (f", and {added:.4g} of the method's own" if added else ""))


def resumed(model: Model, method: Method, prompt: str, seed: int) -> Verdict:
    """Compare a generation resumed from full generation, and from itself, with one from scratch."""
    scratch = generate(model, prompt, method, seed=seed, snapshot=())
    full = generate(model, prompt, Dense(), seed=seed, snapshot=True)
    for name, base in (("full generation", full), ("its own snapshot", scratch)):
        again = resume(model, base, method)
        if not torch.equal(again.canvas, scratch.canvas):
            return Verdict(False, f"resumed from {name} at step {again.first_step} it differs")
    return Verdict(
        True, f"from full generation it begins at step {resume(model, full, method).first_step}"
    )


def batched(model: Model, method: Method, prompt: str, seed: int) -> Verdict:
    """Compare two pictures generated in a batch with the same two generated alone."""
    gap = _batch_gap(model, method, prompt, seed)
    if gap == 0:
        return Verdict(True, "the same tokens")
    usual = _batch_gap(model, Dense(), prompt, seed)
    return Verdict(
        gap <= max(2 * usual, 1e-3),
        f"{gap:.2%} of the tokens differ; {usual:.2%} do in full generation",
    )


def _batch_gap(model: Model, method: Method, prompt: str, seed: int) -> float:
    """Return the share of tokens that differ between a batch and its pictures alone."""
    both = generate(model, [prompt, prompt], method, seed=(seed, seed + 1))
    alone = [generate(model, prompt, method, seed=s) for s in (seed, seed + 1)]
    unequal = total = 0
    for step, tokens in enumerate(both.tokens):
        if tokens is not None:
            singles = torch.cat([_drawn(single, step) for single in alone])
            unequal += int((tokens != singles).sum())
            total += tokens.numel()
    return unequal / total


def _drawn(generation: Generation, step: int) -> Tensor:
    """Return the tokens of a step that is not skipped."""
    tokens = generation.tokens[step]
    assert tokens is not None
    return tokens


def all_kept(model: Model, method: Method, prompt: str, seed: int) -> Verdict:
    """Force the pruned path with every token kept, and compare with full generation."""
    if not isinstance(method, Scheduled) or all(ratio == 1 for _, ratio in method.pairs):
        return Verdict(None, "it has no ratios of pruned steps")
    ratios = {name: NEXT_TO_NONE for name, ratio in method.pairs if ratio < 1}
    changes: dict[str, Any] = {"ratios": ratios}
    if getattr(method, "null_until", None) is not None:
        changes["null_until"] = None
    forced = cast(Method, replace(cast(Any, method), **changes))
    kept = generate(model, prompt, forced, seed=seed)
    full = generate(model, prompt, Dense(), seed=seed)
    gap = float((kept.canvas - full.canvas).abs().max())
    if gap == 0:
        return Verdict(True, "the same bits")
    scale = float(full.canvas.abs().max())
    return Verdict(gap < 1e-3 * scale, f"latents differ by {gap:.2g} of {scale:.2g}")


def reads_back(method: Method) -> Verdict:
    """Read the method's `repr` back, with the classes of the method and of its fields."""
    parts = [method]
    if is_dataclass(method):
        parts += [getattr(method, f.name) for f in fields(method)]
    again = read_method(repr(method), classes=[type(part) for part in parts if is_dataclass(part)])
    return Verdict(again == method, repr(method) if again == method else f"it reads as {again!r}")


def nothing_left(model: Model, method: Method, prompt: str, seed: int) -> Verdict:
    """Generate twice; compare the pictures, and the model and the method before and after."""
    before, text = _state(model), repr(method)
    first, second = (generate(model, prompt, method, seed=seed).canvas for _ in range(2))
    if not torch.equal(first, second):
        return Verdict(False, "the second generation differs from the first")
    if repr(method) != text:
        return Verdict(False, f"the method was {text}; after generating it is {method!r}")
    if _state(model) != before:
        return Verdict(False, "attributes, hooks or weights of the model's modules have changed")
    return Verdict(True, "two generations are alike, model and method unchanged")


def _state(model: Model) -> object:
    """Return what a runner could change on a model: weights, attributes and hooks."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    modules = [
        (id(module), sorted(vars(module)), [len(getattr(module, hook)) for hook in hooks])
        for part in model.parts
        for module in part.modules()
    ]
    return model.stamp(), modules


def overhead(model: Model, method: Method, prompt: str, seed: int) -> Verdict:
    """Measure the share of a generation's time that is spent outside of branches."""
    shares = []
    for turn in range(4):
        clocks = list[Stopwatch]()

        def outer(run: Runner, into: list[Stopwatch] = clocks) -> Runner:
            into.append(Stopwatch(run, sublayers=True))
            return into[-1]

        def inner(run: Runner, into: list[Stopwatch] = clocks) -> Runner:
            into.append(BranchWatch(run))
            return into[-1]

        generate(model, prompt, method, seed=seed, watch=[outer, inner])
        around, branches, steps = (
            sum(times.values())
            for times in (
                clocks[1].sublayer_ms(),
                clocks[0].sublayer_ms(),
                clocks[1].step_ms(),
            )
        )
        if turn:  # the first turn is warm-up
            shares.append((around - branches) / steps)
    return Verdict(True, f"{sorted(shares)[1]:.1%} of the time is spent around branches")
