"""Verifies a method: tests on a model what every method must fulfil, one row per promise."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, cast

import pandas as pd
import torch
from torch import Tensor

from fastvar_lab.audit import check_value, forwards
from fastvar_lab.errors import short
from fastvar_lab.generation import Watch, generate, resume, run
from fastvar_lab.instruments.stopwatch import BranchWatch, Stopwatch
from fastvar_lab.methods.parse import read_method
from fastvar_lab.methods.prune import Dense
from fastvar_lab.methods.schedule import Scheduled
from fastvar_lab.models.model import Model
from fastvar_lab.seam import Grid, Method, Runner, Stack, Wrapper
from fastvar_lab.snapshots import rerun_step, resume_step
from fastvar_lab.speed.flops import exact, step_flops
from fastvar_lab.speed.issued import issued

PLAIN = {"null_until": None, "group": False}  # fields without which no row or step differs
NEXT_TO_NONE = 1e-9  # a ratio that runs the pruned path but prunes no token
CLOSE = 0.02  # relative difference allowed between counted and issued operations
MOVED = 1e-3  # difference of logits, in standard deviations, that is more than rounding
ROUNDINGS = 16  # or, in types of 16 bits, so many steps of the type: sums have other orders
SMALL = 10**8  # weights of a model that is copied to float64
LONGEST = 200  # characters of an error's note
FEW = 0.02  # share of tokens whose logits may differ: rounding may change which are kept


class Verdict(NamedTuple):
    """The result of a test: whether it passed (None if it does not apply), and a note."""

    passed: bool | None
    note: str


def verify(model: Model, method: Method, prompt: str | None = None, seed: int = 0) -> pd.DataFrame:
    """Test the promises of a method; return a frame with columns promise, passed, note.

    Counted operations equal those issued (or bound them, if the method decides from the data). A
    resumed generation equals one from scratch. A batch equals its pictures generated alone; a small
    model is copied to float64 where it does not, because a method that quantises makes much of
    rounding. Keeping all tokens equals full generation, but for rounding in the model's precision.
    `repr` can be read back. The model is unchanged afterwards. The last row is the time that the
    method spends outside of branches. `passed` is None if a promise does not apply. What the method
    raises is the note of a failed test; ValueError is raised for what is no method. It takes about
    twelve generations; use a float64 model to distinguish rounding from faults.

    >>> import fastvar_lab as fv
    >>> bool(verify(fv.load("tiny"), fv.Prune({-1: 0.75})).passed.all())
    True
    """
    check_value(method)
    text = model.example if prompt is None else prompt
    before = _state(model)
    checks: dict[str, Callable[[], Verdict]] = {
        "counted equals issued": partial(counted, model, method, text, seed),
        "resumed equals scratch": partial(resumed, model, method, text, seed),
        "a batch equals its pictures alone": partial(batched, model, method, text, seed),
        "all tokens kept equals full": partial(all_kept, model, method, text, seed),
        "repr reads back": partial(reads_back, method),
        "nothing is left behind": partial(nothing_left, model, method, text, seed, before),
        "overhead": partial(overhead, model, method, text, seed),
    }
    rows = []
    for promise, check in checks.items():
        try:
            verdict = check()
        except ValueError as error:
            verdict = Verdict(False, str(error))
        except Exception as error:  # a method's own code can raise anything
            verdict = Verdict(False, f"{type(error).__name__}: {short(error, LONGEST)}")
        rows.append({"promise": promise, "passed": verdict.passed, "note": verdict.note})
    return pd.DataFrame(rows)


def counted(model: Model, method: Method, prompt: str, seed: int) -> Verdict:
    """Compare counted operations with those issued, forward by forward."""
    grids, text_tokens = model.grids(), len(prompt.split())
    costs = [sum(c.values()) for c in step_flops(model, method, grids, text_tokens)]
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


class Seen(Wrapper):
    """Keeps each step's latent, and what it drew from: tokens and logits; None if skipped."""

    def __init__(self, inner: Runner) -> None:
        super().__init__(inner)
        self.steps, self.canvases = list[tuple[Tensor, Tensor] | None](), list[Tensor]()

    def after(
        self, grid: Grid, tokens: Tensor | None, canvas: Tensor, logits: Tensor | None = None
    ) -> None:
        self.inner.after(grid, tokens, canvas, logits)
        self.canvases.append(canvas)
        self.steps.append(None if tokens is None or logits is None else (tokens, logits))


def _seen(
    model: Model, method: Method, prompts: str | list[str], seed: int | tuple[int, int]
) -> Seen:
    """Generate, and return what each step drew from."""
    watches = list[Seen]()

    def watch(run: Runner) -> Runner:
        watches.append(Seen(run))
        return watches[0]

    generate(model, prompts, method, seed=seed, watch=[watch])
    return watches[0]


def _limit(model: Model) -> float:
    """Return the difference of logits, in standard deviations, that rounding may make."""
    return max(MOVED, ROUNDINGS * torch.finfo(model.autocast or model.dtype).eps)


def _share_moved(first: Seen, second: Seen, limit: float) -> float:
    """Return the share of tokens whose logits differ, up to the first step of other tokens.

    Later steps continue another picture. Logits differ if one of them does by more than `limit` of
    their standard deviation.
    """
    moved = total = 0
    for one, other in zip(first.steps, second.steps, strict=True):
        if one is None or other is None:
            continue
        gap = (one[1] - other[1]).abs().flatten(2).amax(-1) / other[1].std()
        moved, total = moved + int((gap > limit).sum()), total + gap.numel()
        if not torch.equal(one[0], other[0]):
            break
    return moved / max(total, 1)


def resumed(model: Model, method: Method, prompt: str, seed: int) -> Verdict:
    """Compare a generation resumed from full generation, and from itself, with one from scratch.

    Its own steps are also run again, each from as late as the method allows (`stateful_from`).
    """
    logits, own = list[Seen](), None

    def watch(run: Runner) -> Runner:
        logits.append(Seen(run))
        return logits[-1]

    scratch = generate(model, prompt, method, seed=seed, snapshot=(), watch=[watch])
    full = generate(model, prompt, Dense(), seed=seed, snapshot=True)
    for name, base in (("full generation", full), ("its own snapshot", scratch)):
        again = resume(model, base, method, watch=[watch], snapshot=base is full)
        same = torch.equal(again.canvas, scratch.canvas)
        if not same or _differs(logits, again.first_step):
            return Verdict(False, f"resumed from {name} at step {again.first_step} it differs")
        own = own or again.snapshot
    assert full.snapshot is not None
    assert own is not None
    steps = [step for step, seen in enumerate(logits[0].steps) if seen is not None]
    starts = sorted({rerun_step(own, step) for step in steps})
    for first, end in pairwise((*starts, len(own.canvases))):
        with suppress(_Reached):
            watches: list[Watch] = [watch, partial(_Until, end=end)]
            run(model, own.request, method, own.start(first), watch=watches)
        if _differs(logits, first):
            return Verdict(False, f"run again from step {first} it differs: see `stateful_from`")
    first = resume_step(full.snapshot, method, model)
    return Verdict(True, f"from full generation it begins at step {first}")


class _Reached(Exception):
    """All steps that are compared have run."""


class _Until(Wrapper):
    """Stops a generation before the step `end`."""

    def __init__(self, inner: Runner, end: int) -> None:
        super().__init__(inner)
        self.end = end

    def stack(self, grid: Grid, blocks: Stack, x: Tensor) -> Tensor:
        if grid.index >= self.end:
            raise _Reached
        return self.inner.stack(grid, blocks, x)


def _differs(runs: Sequence[Seen], first: int) -> bool:
    """Return whether the last run, which began at step `first`, differs from the first run."""
    before, now = runs[0], runs[-1]
    canvases = zip(before.canvases[first:], now.canvases, strict=False)  # it may end early
    steps = zip(before.steps[first:], now.steps, strict=False)
    drawn = ((one[1], other[1]) for one, other in steps if one is not None and other is not None)
    return not all(torch.equal(*pair) for pair in (*canvases, *drawn))


def batched(model: Model, method: Method, prompt: str, seed: int) -> Verdict:
    """Compare two pictures generated in a batch with the same two generated alone."""
    gap = _batch_gap(model, method, prompt, seed)
    if gap == 0:
        return Verdict(True, "the same logits")
    if any(act.rows is None for act in method.acts(model.grids())):
        return Verdict(None, f"{gap:.2%} have other logits; a batch runs the rows that it needs")
    usual = _batch_gap(model, Dense(), prompt, seed)
    note = f"{gap:.2%} of the tokens have other logits; {usual:.2%} do in full generation"
    if gap <= max(2 * usual, FEW):
        return Verdict(True, note)
    exact = _in_float64(model)
    if exact is not None and _batch_gap(exact, method, prompt, seed) == 0:
        return Verdict(True, f"{note}; none do in float64, so it is rounding")
    return Verdict(False, note)


def _in_float64(model: Model) -> Model | None:
    """Return a copy of a model in float64; None if it is large, is that already, or mixes types.

    A method that rounds, such as `QuantKV`, makes large differences of small ones.
    """
    weights = sum(w.numel() for part in model.parts for w in part.parameters())
    if weights > SMALL or model.autocast is not None or model.dtype is torch.float64:
        return None
    return copy.deepcopy(model.detached()).to(model.device, torch.float64)


def _batch_gap(model: Model, method: Method, prompt: str, seed: int) -> float:
    """Return the largest share of tokens with other logits in a batch than alone."""
    prompts, seeds = [prompt, model.prompts.take(1)[0].prompt], (seed, seed + 1)
    both, shares = _seen(model, method, prompts, seeds), list[float]()
    for i, alone in enumerate(_seen(model, method, p, s) for p, s in zip(prompts, seeds)):
        part = Seen(both)
        part.steps = [s and (s[0][i : i + 1], s[1][i : i + 1]) for s in both.steps]
        shares.append(_share_moved(part, alone, _limit(model)))
    return max(shares)


def all_kept(model: Model, method: Method, prompt: str, seed: int) -> Verdict:
    """Force the pruned path with every token kept, and compare with full generation."""
    pairs = method.pairs if isinstance(method, Scheduled) else ()
    ratios = {name: NEXT_TO_NONE for name, ratio in pairs if 0 < ratio < 1}
    if not ratios:
        return Verdict(None, "it has no ratios of pruned steps")
    changes: dict[str, Any] = {"ratios": ratios}
    names = {f.name for f in fields(cast(Any, method))}
    changes |= {name: value for name, value in PLAIN.items() if name in names}
    if hasattr(getattr(method, "select", None), "keeping_all"):  # it prunes tokens by name
        changes["select"] = cast(Any, method).select.keeping_all()
    forced = cast(Method, replace(cast(Any, method), **changes))
    kept, full = (_seen(model, m, prompt, seed) for m in (forced, Dense()))
    gap = _share_moved(kept, full, _limit(model))
    if gap == 0:
        return Verdict(True, "the same logits")
    return Verdict(gap <= FEW, f"{gap:.2%} of the tokens have other logits")


def reads_back(method: Method) -> Verdict:
    """Read the method's `repr` back, with the classes of the method and of its fields."""
    parts = [method]
    if is_dataclass(method):
        parts += [getattr(method, f.name) for f in fields(method)]
    again = read_method(repr(method), classes=[type(part) for part in parts if is_dataclass(part)])
    return Verdict(again == method, repr(method) if again == method else f"it reads as {again!r}")


def nothing_left(model: Model, method: Method, prompt: str, seed: int, before: object) -> Verdict:
    """Generate twice; compare the pictures, and the model and the method with those before."""
    text = repr(method)
    first, second = (generate(model, prompt, method, seed=seed).canvas for _ in range(2))
    if not torch.equal(first, second):
        return Verdict(False, "the second generation differs from the first")
    if repr(method) != text:
        return Verdict(False, f"the method was {text}; after generating it is {method!r}")
    if _state(model) != before:
        return Verdict(
            False,
            "attributes, hooks or weights of the model's modules have changed, "
            "or the state of torch's random numbers",
        )
    return Verdict(True, "two generations are alike, model and method unchanged")


def _state(model: Model) -> object:
    """Return what a runner could change: weights, plain attributes, hooks, global random numbers.

    Other attributes are compared by name alone.
    """
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    modules = [
        (
            id(module),
            sorted((name, _plain(value)) for name, value in vars(module).items()),
            [len(getattr(module, hook)) for hook in hooks],
        )
        for part in model.parts
        for module in part.modules()
    ]
    return model.stamp(), modules, torch.get_rng_state().tolist()


def _plain(value: object) -> str:
    """Write the value of an attribute that is plain; nothing for any other."""
    return repr(value) if isinstance(value, bool | int | float | str | tuple | None) else ""


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
