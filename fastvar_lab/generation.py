"""The next-scale loop: generates under a method, and resumes under another one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from fastvar_lab.audit import Audit, check_value, checked_acts, forwards
from fastvar_lab.backbones.protocol import State
from fastvar_lab.draws import Draws, Keyed, NotANumber, Numbers
from fastvar_lab.models.model import Model
from fastvar_lab.progress import Progress
from fastvar_lab.request import Condition, Request, make_request, to_device
from fastvar_lab.sampling import Sampling, guide
from fastvar_lab.seam import Block, Grid, Handles, Method, Rows, Runner, Stack
from fastvar_lab.snapshots import Keep, Snapshot, Start, resume_step, steps_to_keep

Watch = Callable[[Runner], Runner]
"""A function that wraps the method's runner, such as a recorder or a stopwatch."""


@dataclass(repr=False)
class Generation:
    """A finished generation. `canvas` is the final latent (n, d, H, W).

    `tokens[s]` are the tokens of step s: bits (n, L, d), codebook rows (n, L) or codes (n, L, d);
    None if the step was skipped. `first_step` is the first step that was run; earlier ones come
    from a snapshot. `seconds` is the time from the prompt to the final latent.
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
    seed: int | Sequence[int] | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    sampling: Sampling | None = None,
    draws: Draws | None = None,
    watch: Iterable[Watch] = (),
    snapshot: bool | Sequence[int] = False,
    given: Sequence[Tensor | None] = (),
    progress: bool = False,
) -> Generation:
    """Generate pictures for `prompts` under `method`.

    `prompts` may also be an encoded condition (Text, Context, or a tensor of labels). Picture i
    draws its noise from `seed + i` (default 0), or from seed i of several. `draws` replaces the
    seed by another source of noise (for parity with released code). `sizes` is the schedule of
    token maps, by default the model's. `watch` wraps the runner, first outermost. `snapshot` keeps
    the state that `resume` needs, with the branch outputs of the given steps (True: all unpruned
    steps but the last; False: no snapshot). `given` are the tokens of the first steps, as in a
    Generation: these steps run, but are not sampled. `progress` shows a progress bar.

    Raises ValueError for arguments that do not fit the model or the schedule, and for a method
    whose runner contradicts its declarations.

    >>> import fastvar_lab as fv
    >>> model = fv.load("tiny")
    >>> run = fv.generate(model, ["a red ring", "two stars"], fv.Prune({-1: 0.75}), seed=1)
    >>> fv.to_uint8(model.decode(run.canvas)).shape
    (2, 256, 256, 3)
    """
    check_value(method)
    if not isinstance(watch, Iterable) or not all(map(callable, watch := [*watch])):
        raise ValueError(f"watch is a list of functions that wrap a runner; not {watch!r}")
    request = make_request(
        model, prompts, seed=seed, sizes=sizes, sampling=sampling, draws=draws, given=given
    )
    if progress:
        watch = [partial(Progress, steps=len(request.grids)), *watch]
    return run(model, request, method, watch=watch, snapshot=snapshot)


def resume(
    model: Model,
    base: Generation | Snapshot,
    method: Method,
    *,
    watch: Iterable[Watch] = (),
    snapshot: bool | Sequence[int] = False,
) -> Generation:
    """Finish a generation under another method, with the same result as from scratch.

    `base` is a generation with a snapshot, or the snapshot, which is not changed. The run starts
    at the latest possible step: the acts of both methods must be equal before it, and the outputs
    of the new method's cache step must be in the snapshot. `first_step` of the result is that
    step. Raises ValueError without a snapshot, for another or a changed model, and for streamed
    draws.

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
    changed = [what for what, now in model.drawing.items() if held.stamp[what] != now]
    if changed:
        raise ValueError(
            f"the {' and '.join(changed)} of {model.name} have changed since the snapshot"
        )
    if not isinstance(held.request.draws, Keyed):
        raise ValueError("only a generation with keyed draws can be resumed")
    start = held.start(resume_step(held, method, model))
    return run(model, held.request, method, start, watch=watch, snapshot=snapshot)


def run(
    model: Model,
    request: Request,
    method: Method,
    start: Start | None = None,
    *,
    watch: Iterable[Watch] = (),
    snapshot: bool | Sequence[int] = False,
) -> Generation:
    """Run the steps after `start`, by default all of them.

    `generate`, `resume` and drafting call it, and check their arguments before.
    """
    start = start or Start()
    mixed = torch.autocast(model.device.type, model.autocast, enabled=model.autocast is not None)
    with torch.no_grad(), mixed:
        live = _prepare(model, request, method, start, watch, snapshot)
        try:
            _loop(live)
            return _finish(live)
        except NotANumber as error:
            grid = request.grids[error.step]
            raise ValueError(
                f"{model.name} computes what is no number at step {error.step} ({grid.name}), in "
                f"{model.precision}: try another precision or a higher temperature, or check the "
                "weights"
            ) from None


@dataclass
class _Live:
    """The state of a running generation: values that its steps share, and results so far."""

    model: Model
    request: Request
    method: Method
    start: Start
    run: Audit
    keep: Keep | None
    states: dict[Rows, State]  # by the rows that run
    guided: bool
    begin: float
    canvas: Tensor
    rows: Rows
    canvases: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor | None] = field(default_factory=list)
    lengths: list[tuple[int, ...]] = field(default_factory=list)
    numbers: Numbers = field(default_factory=Numbers)

    def state(self, rows: Rows) -> State:
        """Return the state of some guidance rows; without guidance, the only one."""
        rows = rows if self.guided else Rows.BOTH
        if rows not in self.states:
            self.states[rows] = self.states[Rows.BOTH].on(rows.of(len(self.request.prompts)))
        return self.states[rows]

    def state_of(self, x: Tensor) -> State:
        """Return the state of the rows of hidden states; fused streams are conditional rows."""
        alone = self.rows is Rows.BOTH and len(x) == len(self.request.prompts)
        return self.state(Rows.COND if alone else self.rows)

    def stack(self, grid: Grid, rows: Rows) -> Stack:
        """Return the layers bound to one forward."""

        def on(rows: Rows) -> Sequence[Block]:
            return self.model.transformer.layers(self.state(rows), grid, self.run)

        return Stack(on(rows), on)

    def leave(self, grid: Grid, drawn: Tensor | None, logits: Tensor | None) -> None:
        """Pass a finished step to the runner, and store its results."""
        self.run.after(grid, drawn, self.canvas, logits)
        self.tokens.append(drawn)
        if self.keep is not None:
            self.canvases.append(self.canvas)
            self.lengths.append(tuple(self.states[Rows.BOTH].cache.lengths))


def _prepare(
    model: Model,
    request: Request,
    method: Method,
    start: Start,
    watch: Iterable[Watch],
    snapshot: bool | Sequence[int],
) -> _Live:
    """Check the method, start its runner, and compute the values that all scale steps share."""
    grids, n, backbone = request.grids, len(request.prompts), model.transformer
    acts = checked_acts(method, grids, model.depth)
    runner = inner = method.start(grids, model.depth, start.held)
    keep = None
    if isinstance(snapshot, Iterable) or snapshot:
        runner = keep = Keep(runner, steps_to_keep(snapshot, acts))
    for wrap in reversed(list(watch)):
        runner = wrap(runner)
    audit = Audit(runner, method, acts, grids, backbone.kinds, model.depth)

    begin = _now(model.device)
    condition = request.condition
    if condition is None:
        condition = model.condition(request.prompts)
    condition = to_device(condition, model.device)
    if keep is not None:  # a resumed run does not encode again
        request = replace(request, condition=condition)
    guided = request.sampling.guidance != backbone.unguided
    state = backbone.begin(backbone.with_null(condition) if guided else condition, grids, audit)
    start.read(state)
    blank = model.blank(n, grids[-1])
    live = _Live(
        model=model,
        request=request,
        method=method,
        start=start,
        run=audit,
        keep=keep,
        states={Rows.BOTH: state},
        guided=guided,
        begin=begin,
        canvas=start.canvases[-1] if start.first else blank,
        rows=Rows.BOTH if guided else Rows.COND,
        canvases=list(start.canvases),
        tokens=list(start.tokens),
        lengths=list(start.lengths),
    )
    audit.prepare(
        Handles(
            pictures=n,
            guided=guided,
            guide=lambda grid, x: guide(x, backbone.guidance(state, grid, request.sampling)),
            logits=lambda x: backbone.logits(live.state_of(x), x),
            decode=model.decode,
        )
    )
    for grid, drawn, canvas in zip(grids, start.tokens, start.canvases):
        inner.recall(grid, drawn, canvas)
    return live


def _loop(live: _Live) -> None:
    """Run the remaining steps: choose rows, embed, run the layers, sample, accumulate."""
    model, request, run = live.model, live.request, live.run
    backbone, quantizer, n = model.transformer, model.quantizer, len(request.prompts)
    stream = request.draws.start(model.device)
    live.numbers = getattr(stream, "numbers", live.numbers)
    for grid in forwards(request.grids, run.acts, live.start.first):
        rows = run.decided(grid, live.canvas)
        if rows is Rows.SKIP:
            live.leave(grid, None, None)
            continue
        rows = _runnable(rows, live.guided, grid)
        if rows is not live.rows:
            run.keep_rows(rows.of(n))
            live.rows = rows
        state = live.state(rows)
        entering = [
            backbone.embed(state, step, quantizer.next_input(live.canvas, step))
            for step in grid.steps
        ]
        x = entering[0] if len(entering) == 1 else torch.cat(entering, dim=1)
        x = run.stack(grid, live.stack(grid, rows), x)
        run.close(grid, rows, n)
        state, paired = live.state_of(x), live.guided and len(x) == 2 * n
        for step, last in zip(grid.steps, x.split([s.tokens for s in grid.steps], dim=1)):
            if step.index < len(request.given):
                drawn, logits = request.given[step.index], None
            else:
                drawn, logits = backbone.sample(
                    state, last, step, paired, request.sampling, stream, quantizer.codebook
                )
            places = run.places(step, drawn)
            live.canvas = quantizer.accumulate(live.canvas, drawn, step, places)
            if drawn.is_floating_point():  # codes, which nothing was picked for
                live.numbers.note(step.index, drawn)
            live.leave(step, drawn, logits)


def _runnable(rows: Rows, guided: bool, grid: Grid) -> Rows:
    """Return the rows that run, given that null rows exist only with guidance."""
    if not guided and rows is Rows.NULL:
        raise ValueError(
            f"step {grid.index} ({grid.name}) asks for the null rows alone; "
            "this sampling has no guidance, so there are none"
        )
    return rows if guided else Rows.COND


def _finish(live: _Live) -> Generation:
    """Stop the clock, make the snapshot, and release the state."""
    seconds, model, snapshot = _now(live.model.device) - live.begin, live.model, None
    live.numbers.check()
    if live.keep is not None:
        snapshot = Snapshot(
            model.transformer,
            model.drawing,
            live.request,
            live.method,
            live.canvases,
            live.tokens,
            live.lengths,
            live.states[Rows.BOTH].cache,
            {**live.start.held, **live.keep.held()},
        )
    live.states.clear()  # runners may keep the handles, which refer to `live`
    return Generation(
        live.request, live.method, live.canvas, live.tokens, live.start.first, seconds, snapshot
    )


def _now(device: torch.device) -> float:
    """Return the time in seconds, after waiting for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
