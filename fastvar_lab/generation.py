"""The next-scale loop: generate under a method, keep a snapshot, resume under another method."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import index
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastvar_lab.cache import KVCache
from fastvar_lab.draws import Draws, Keyed
from fastvar_lab.models.model import Model
from fastvar_lab.progress import Progress
from fastvar_lab.sampling import Sampling
from fastvar_lab.seam import Act, Branch, Grid, Method, Plan, Runner, Site, Wrapper

Condition = Tensor | tuple[Tensor, ...]
"""What a text encoder returns: labels (n,), or a named tuple of tensors, rows first."""

Watch = Callable[[Runner], Runner]
"""Wraps the method's runner: a recorder, a stopwatch."""


@dataclass(frozen=True)
class Request:
    """What was asked for, apart from the method: the same request draws the same noise."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    grids: tuple[Grid, ...]
    sampling: Sampling
    draws: Draws
    condition: Condition | None = field(default=None, compare=False, repr=False)
    given: tuple[Tensor, ...] = field(default=(), compare=False, repr=False)


@dataclass
class Snapshot:
    """A generation that can be resumed after any of its scale steps; it owns all it holds.

    `canvases[s]` and `tokens[s]` are the latent (n, d, H, W) and tokens after step s,
    `lengths[s]` the KV length of each layer then; `held` branch outputs by (step, site). It goes
    on in the process that made it, with the weights it was made with: `stamp`.
    """

    model: nn.Module
    stamp: object = field(repr=False)
    request: Request
    method: Method
    canvases: list[Tensor]
    tokens: list[Tensor | None]
    lengths: list[tuple[int, ...]]
    cache: KVCache
    held: dict[tuple[int, Site], Tensor]


@dataclass(repr=False)
class Generation:
    """A finished generation. `canvas` is the final latent (n, d, H, W).

    `tokens[s]` are the tokens of step s: bits (n, L, d), codebook rows (n, L) or codes (n, L, d),
    None where it was skipped; `first_step` the first one that was run, the earlier ones coming
    from a snapshot. `seconds` run from the prompt to the final latent.
    """

    request: Request
    method: Method
    canvas: Tensor
    tokens: list[Tensor | None]
    first_step: int
    seconds: float
    snapshot: Snapshot | None = None

    def __repr__(self) -> str:
        prompts, shape = list(self.request.prompts), tuple(self.canvas.shape)
        held = ", with a snapshot" if self.snapshot else ""
        return (
            f"<Generation of {prompts}, latent {shape}, {self.seconds:.2f} s{held}, {self.method}>"
        )


def generate(
    model: Model,
    prompts: str | Sequence[str] | Condition,
    method: Method,
    *,
    seed: int | Sequence[int] = 0,
    sizes: Sequence[tuple[int, int]] | None = None,
    sampling: Sampling | None = None,
    draws: Draws | None = None,
    watch: Iterable[Watch] = (),
    snapshot: bool | Sequence[int] = False,
    given: Sequence[Tensor | None] = (),
    progress: bool = False,
) -> Generation:
    """Generate pictures for `prompts` under `method`.

    A condition that is already encoded (Text, Context, or a tensor of labels) may stand for the
    prompts.

    Picture i draws its noise from `seed + i`, or from its own of several seeds. `sizes` is the
    schedule of token maps, default the model's. `draws` replaces the keyed noise (parity with
    released code). `watch` wraps the runner, first outermost. `snapshot` keeps what `resume`
    needs, with the branch outputs of the given steps (True: all unpruned ones but the last; False:
    none is kept).
    `given` are the first steps' tokens, as a Generation holds them: these steps run, but draw
    nothing. `progress` shows a bar over the scale steps.

    >>> import fastvar_lab as fv
    >>> model = fv.load("tiny")
    >>> made = fv.generate(model, ["a red ring", "two stars"], fv.Prune({-1: 0.75}), seed=1)
    >>> fv.to_uint8(model.decode(made.canvas)).shape
    (2, 256, 256, 3)
    """
    condition: Condition | None = None
    if isinstance(prompts, Tensor) or hasattr(prompts, "_fields"):
        condition, wanted = cast(Condition, prompts), model.transformer.condition
        if not isinstance(condition, wanted):
            raise ValueError(
                f"{model.name} is conditioned on a {wanted.__name__} or on prompts; "
                f"not on a {type(condition).__name__}"
            )
        first = condition if isinstance(condition, Tensor) else condition[0]
        texts = tuple(f"condition {i}" for i in range(len(first)))
    else:
        words = cast(str | Sequence[str], prompts)
        texts = (words,) if isinstance(words, str) else tuple(words)
    if not texts:
        raise ValueError("there is no prompt to generate from")
    if not hasattr(method, "acts") or isinstance(method, type):
        raise ValueError(f"a method is a value such as Dense(); not {method!r}")
    try:
        one = index(cast(int, seed))
        seeds = tuple(one + i for i in range(len(texts)))
    except TypeError:
        seeds = tuple(index(s) for s in cast(Sequence[int], seed))
    if len(seeds) != len(texts):
        raise ValueError(f"{len(texts)} prompts need as many seeds; not {len(seeds)}")
    request = Request(
        texts,
        seeds,
        model.grids(sizes),
        sampling or model.sampling,
        draws or Keyed(seeds),
        condition,
        _given(given, model.device),
    )
    if len(request.grids) > model.transformer.config.levels:
        raise ValueError(
            f"{model.name} has level embeddings for {model.transformer.config.levels} scales; "
            f"the schedule has {len(request.grids)}"
        )
    _check_given(request)
    if progress:
        watch = [partial(Progress, steps=len(request.grids)), *watch]
    return _run(model, request, method, watch, snapshot, None, 0)


def _given(tokens: Sequence[Tensor | None], device: torch.device) -> tuple[Tensor, ...]:
    """Bring given tokens to a device; refuse those of a skipped step."""
    found = list[Tensor]()
    for step, drawn in enumerate(tokens):
        if drawn is None:
            raise ValueError(
                f"step {step} of the given tokens was skipped; give the steps before it"
            )
        found.append(drawn.to(device))
    return tuple(found)


def _check_given(request: Request) -> None:
    """Refuse tokens that do not fit the first steps."""
    if len(request.given) > len(request.grids):
        raise ValueError(
            f"tokens of {len(request.given)} steps, of a schedule of {len(request.grids)}"
        )
    for grid, tokens in zip(request.grids, request.given):
        wanted = (len(request.prompts), grid.h * grid.w)
        if tokens.shape[:2] != wanted:
            raise ValueError(
                f"the tokens given for step {grid.index} must be of shape {wanted}, bits or codes "
                f"behind; not {tuple(tokens.shape)}"
            )


def resume(
    model: Model,
    base: Generation | Snapshot,
    method: Method,
    *,
    watch: Iterable[Watch] = (),
    snapshot: bool | Sequence[int] = False,
) -> Generation:
    """Finish a generation under another method: the bits that generating from scratch would give.

    `base` was generated with a snapshot. Starts at the latest step before which both methods act
    alike and whose cache step is held; `first_step` of the result says where. The snapshot is not
    changed. Raises ValueError for a generation without one, for another model than its own or
    other weights, or for streamed draws.

    >>> import fastvar_lab as fv
    >>> model = fv.load("tiny")
    >>> full = fv.generate(model, "a red ring", fv.Dense(), seed=1, snapshot=True)
    >>> fv.resume(model, full, fv.Prune({-1: 0.75})).first_step
    9
    """
    held = base.snapshot if isinstance(base, Generation) else base
    if held is None:
        raise ValueError("the generation kept no snapshot; generate it with snapshot=True")
    if held.model is not model.transformer:
        raise ValueError(f"the snapshot was made by another model than this {model.name}")
    if held.stamp != model.drawing:
        raise ValueError(
            f"the weights, precision or device of {model.name} have changed since the snapshot"
        )
    if not isinstance(held.request.draws, Keyed):
        raise ValueError("only a generation with keyed draws can be resumed")
    first = resume_step(held, method, model)
    return _run(model, held.request, method, watch, snapshot, held, first)


def resume_step(snapshot: Snapshot, method: Method, model: Model) -> int:
    """Tell at which scale step `resume` would start."""
    grids = snapshot.request.grids
    before, after = snapshot.method.acts(grids), method.acts(grids)
    alike = next((i for i in range(len(grids)) if not _same(before[i], after[i])), len(grids))
    cache = method.cache_index(grids)
    if cache is not None and cache < alike:
        wanted = [site for step, site in snapshot.held if step == cache]
        if len(wanted) < len(model.transformer.kinds) * model.depth:
            return cache
    return alike


def _same(one: Act, other: Act) -> bool:
    """Tell whether a step is done alike; no, where rules hold arrays that are not one object."""
    try:
        return bool(one == other)
    except (RuntimeError, ValueError):  # arrays, compared, have no one answer
        return False


@dataclass
class Prefill:
    """The first steps of a generation, made elsewhere.

    `canvases` and `tokens` are what they left, `read(state)` fills the new state's KV cache.
    """

    canvases: list[Tensor]
    tokens: list[Tensor | None]
    read: Callable[[Any], None]


def finish(model: Model, request: Request, method: Method, start: Prefill) -> Generation:
    """Run the steps after a prefill."""
    return _run(model, request, method, (), False, start, len(start.canvases))


class _Keep(Wrapper):
    """Keeps references to the branch outputs of some steps: nothing is computed or copied."""

    def __init__(self, inner: Runner, steps: set[int]) -> None:
        super().__init__(inner)
        self.steps, self.kept = steps, dict[tuple[int, Site], Tensor]()

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        delta = self.inner.sublayer(site, grid, branch, x)
        if grid.index in self.steps:
            self.kept[grid.index, site] = delta
        return delta

    def held(self) -> dict[tuple[int, Site], Tensor]:
        return {**self.inner.held(), **self.kept}


def to_device(condition: Condition, device: torch.device) -> Condition:
    """Move an encoded condition."""
    if isinstance(condition, Tensor):
        return condition.to(device)
    return type(condition)(*(part.to(device) for part in condition))


def _run(
    model: Model,
    request: Request,
    method: Method,
    watch: Iterable[Watch],
    keep: bool | Sequence[int],
    base: Snapshot | Prefill | None,
    first: int,
) -> Generation:
    mixed = torch.autocast(model.device.type, model.autocast, enabled=model.autocast is not None)
    with torch.no_grad(), mixed:
        return _steps(model, request, method, watch, keep, base, first)


def _steps(
    model: Model,
    request: Request,
    method: Method,
    watch: Iterable[Watch],
    keep: bool | Sequence[int],
    base: Snapshot | Prefill | None,
    first: int,
) -> Generation:
    grids, n = request.grids, len(request.prompts)
    acts = method.acts(grids)
    held: dict[tuple[int, Site], Tensor] = {}
    if isinstance(base, Snapshot):
        held = {k: v for k, v in base.held.items() if k[0] < first}
    keeper: _Keep | None = None
    run: Runner = method.start(grids, model.depth, held)
    keep = tuple(keep) if isinstance(keep, Iterable) else bool(keep)
    if keep is not False:
        dense = {g.index for g, act in zip(grids, acts, strict=True) if act[0] == "dense"}
        steps = dense - {len(grids) - 1} if keep is True else set(keep)
        if not steps <= dense:
            raise ValueError(
                f"a snapshot keeps the outputs of unpruned steps, {sorted(dense)} here; "
                f"not {sorted(steps - dense)}"
            )
        run = keeper = _Keep(run, steps)
    for wrap in reversed(list(watch)):
        run = wrap(run)

    stream = request.draws.start(model.device)
    begin = _now(model.device)
    condition = request.condition
    if condition is None:
        condition = model.condition(request.prompts)
    condition = to_device(condition, model.device)
    if keeper is not None:  # a resumed run does not encode again
        request = replace(request, condition=condition)
    guided = request.sampling.guidance != model.transformer.unguided
    if guided:
        condition = model.transformer.with_null(condition)
    state = model.transformer.begin(condition, grids, run)
    cache = cast(KVCache, state.cache)
    canvas = model.blank(n, grids[-1])
    canvases, tokens, lengths = list[Tensor](), list[Tensor | None](), list[tuple[int, ...]]()
    rows = Plan.BOTH if guided else Plan.COND
    if base is not None and first > 0:
        canvases, tokens = base.canvases[:first], base.tokens[:first]
        canvas = canvases[-1]
        if isinstance(base, Snapshot):
            lengths = base.lengths[:first]
            cache.copy_prefix(base.cache, lengths[-1])
        else:
            base.read(state)

    for grid in grids[first:]:
        plan = run.plan(grid, canvas)
        drawn: Tensor | None = None
        if not isinstance(plan, Plan):
            raise ValueError(f"{type(run).__name__}.plan must return a Plan; it returned {plan!r}")
        if plan is not Plan.SKIP:
            if plan is not rows and guided:
                if rows is not Plan.BOTH:
                    raise ValueError(
                        f"the {plan.value} rows were asked for at step {grid.index}, after "
                        f"only the {rows.value} rows had run; dropped rows cannot come back"
                    )
                half = slice(0, n) if plan is Plan.COND else slice(n, 2 * n)
                state.keep_rows(half)
                run.keep_rows(half)
                rows = plan
            x = model.transformer.embed(state, grid, model.quantizer.next_input(canvas, grid))
            x = run.stack(grid, model.transformer.layers(state, grid, run), x)
            paired = guided and rows is Plan.BOTH
            if grid.index < len(request.given):
                drawn = request.given[grid.index]
            else:
                drawn = model.transformer.sample(
                    state, x, grid, paired, request.sampling, stream, model.quantizer.codebook
                )
            canvas = model.quantizer.accumulate(canvas, drawn, grid)
        run.after(grid, drawn, canvas)
        tokens.append(drawn)
        if keeper is not None:
            canvases.append(canvas)
            lengths.append(tuple(cache.lengths))
    seconds = _now(model.device) - begin

    kept: Snapshot | None = None
    if keeper is not None:
        kept = Snapshot(
            model.transformer,
            model.drawing,
            request,
            method,
            canvases,
            tokens,
            lengths,
            cache,
            {**held, **keeper.held()},
        )
    return Generation(request, method, canvas, tokens, first, seconds, kept)


def _now(device: torch.device) -> float:
    """Seconds on a clock that has waited for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
