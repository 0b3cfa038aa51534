"""The next-scale loop: generates under a method, and resumes under another one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from weakref import proxy

import torch
from torch import Tensor

from fastvar_lab.audit import (
    Audit,
    check_model,
    check_parts,
    check_value,
    checked_acts,
    forwards,
    merged_acts,
)
from fastvar_lab.capture import capture_key, check_capture
from fastvar_lab.draws import Buffered, Draws, Keyed, NotANumber, Stream
from fastvar_lab.errors import short
from fastvar_lab.graphs import Captured, Output, Recorder, tensors_of
from fastvar_lab.live import Live, drawn_in_parts, drawn_tokens, edited
from fastvar_lab.models.model import Model
from fastvar_lab.progress import Progress
from fastvar_lab.request import Condition, Prompts, Request, make_request, to_device
from fastvar_lab.sampling import Sampling
from fastvar_lab.seam import Grid, Handles, Method, Rows, Runner
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
    prompts: Prompts,
    method: Method,
    *,
    seed: int | Sequence[int] | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    sampling: Sampling | None = None,
    draws: Draws | None = None,
    watch: Iterable[Watch] = (),
    snapshot: bool | Sequence[int] = False,
    given: Sequence[Tensor | None] = (),
    keep: Tensor | None = None,
    negative: Prompts = None,
    progress: bool = False,
    graphs: bool = False,
) -> Generation:
    """Generate pictures for `prompts` under `method`.

    `prompts` may also be an encoded condition (Text, Context, or a tensor of labels), and None for
    a class label that is drawn (`request.condition` of the result holds it). Picture i draws its
    noise from `seed + i` (default 0), or from seed i of several. `draws` replaces the seed by
    another source of noise (for parity with released code). `sizes` is the schedule of token maps,
    by default the model's. `watch` wraps the runner, first outermost. `snapshot` keeps the state
    that `resume` needs, with the branch outputs of the given steps (True: all unpruned steps but
    the last; False: no snapshot). `given` are the tokens of the first steps, as in a Generation:
    these steps run, but are not sampled. With `keep`, a mask (h, w) or (n, h, w) of any resolution,
    given tokens stay where it is True and the others are drawn (see `editing.py`). `negative` are
    prompts in place of the null condition that guidance leads away from. `progress` shows a
    progress bar.

    With `graphs`, the operations of all scale steps are captured at the first call and replayed at
    later ones of the same method, schedule, sampling, batch size and length of the text, with the
    same bits (`graphs.py`): CUDA graphs on a GPU. There is no progress bar then. The model keeps
    the last few; `model.graphs.clear()` releases them.

    Raises ValueError for arguments that do not fit the model or the schedule, for a method
    whose runner contradicts its declarations, and with `graphs` for what they cannot repeat: given
    tokens, snapshots, watchers, streamed draws, and methods that decide from the data.

    >>> import fastvar_lab as fv
    >>> model = fv.load("tiny")
    >>> run = fv.generate(model, ["a red ring", "two stars"], fv.Prune({-1: 0.75}), seed=1)
    >>> fv.to_uint8(model.decode(run.canvas)).shape
    (2, 256, 256, 3)
    """
    check_value(method)
    watch = checked_watch(watch)
    request = make_request(
        model,
        prompts,
        seed=seed,
        sizes=sizes,
        sampling=sampling,
        draws=draws,
        given=given,
        keep=keep,
        negative=negative,
    )
    if graphs:
        check_capture(
            model, request, method, [*watch, *([snapshot] if snapshot is not False else [])]
        )
        return replayed(model, request, method)
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
    at the latest possible step: the acts of both methods must be equal before it, the outputs of
    the new method's cache step must be in the snapshot, and a runner that carries more than a
    snapshot holds must run from where it begins to do so (`stateful_from`). `first_step` of the
    result is that step. Raises ValueError without a snapshot, for another or a changed model, and
    for streamed draws.

    >>> import fastvar_lab as fv
    >>> model = fv.load("tiny")
    >>> full = fv.generate(model, "a red ring", fv.Dense(), seed=1, snapshot=True)
    >>> fv.resume(model, full, fv.Prune({-1: 0.75})).first_step
    9
    """
    watch, held = checked_watch(watch), resumable(model, base)
    start = held.start(resume_step(held, method, model))
    return run(model, held.request, method, start, watch=watch, snapshot=snapshot)


def checked_watch(watch: Iterable[Watch]) -> list[Watch]:
    """Return the functions that wrap a runner as a list; raise ValueError for anything else."""
    functions = [*watch] if isinstance(watch, Iterable) else [watch]
    if not isinstance(watch, Iterable) or not all(map(callable, functions)):
        raise ValueError(f"watch is a list of functions that wrap a runner; not {watch!r}")
    return functions


def resumable(model: Model, base: Generation | Snapshot) -> Snapshot:
    """Return the snapshot of a generation; raise ValueError if `model` cannot go on from it.

    That is without a snapshot, for another or a changed model, and for streamed draws.
    """
    held = base.snapshot if isinstance(base, Generation) else base
    if held is None:
        raise ValueError("the generation kept no snapshot; generate it with snapshot=True")
    if not isinstance(held, Snapshot):
        raise ValueError(f"resume goes on from a generation or a snapshot; not {short(held)}")
    if held.model is not model.transformer:
        raise ValueError(f"the snapshot was made by another model than this {model.name}")
    changed = [what for what, now in model.drawing.items() if held.stamp[what] != now]
    if changed:
        raise ValueError(
            f"the {' and '.join(changed)} of {model.name} have changed since the snapshot"
        )
    if not isinstance(held.request.draws, Keyed):
        raise ValueError("only a generation with keyed draws can be resumed")
    return held


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
    with _computing(model, request):
        live = _prepare(model, request, method, start or Start(), watch, snapshot)
        _loop(live)
        return _finish(live)


def replayed(model: Model, request: Request, method: Method) -> Generation:
    """Run all steps from what is captured; capture them first if they are not.

    The first run warms up and gives the first result. `generate` calls it, and checks its
    arguments before.
    """
    assert isinstance(request.draws, Keyed)
    acts = checked_acts(method, request.grids, model.depth)
    skipped = {step for step, act in enumerate(acts) if act.skips}
    recorder = Recorder(method, skipped, Buffered(request.draws, model.device))
    begin = partial(_prepare, model, request, method, Start(), [recorder.wrap], False)
    with _computing(model, request):
        live = begin()
        inputs = _inputs(live)
        key = capture_key(model, request, method, live.run, inputs)
        captured = model.graphs.find(key)
        if captured is not None:
            output = captured.replay(inputs, request.draws.seeds)
            live.canvas, live.tokens, live.numbers.noted = output
            return _finish(live)
        live.stream = recorder.buffers
        with recorder.warming():
            _loop(live)
        generation = _finish(live)
    with _computing(model, request):
        live = begin()
        live.stream, inputs = recorder.buffers, _inputs(live)
        with recorder.capturing() as recording:
            _loop(live)
        output = Output(live.canvas, live.tokens, live.numbers.noted)
        model.graphs.keep(key, Captured(recording, recorder.buffers, inputs, output, live))
    return generation


def _inputs(live: Live) -> list[Tensor]:
    """Return the tensors that the steps begin with: the blank latent, and those of the state."""
    return [live.canvas, *tensors_of(live.states[Rows.BOTH])]


@contextmanager
def _computing(model: Model, request: Request) -> Iterator[None]:
    """Compute in the model's types, without gradients; name the step that draws from no number."""
    model.check_ready()
    mixed = torch.autocast(model.device.type, model.autocast, enabled=model.autocast is not None)
    with torch.no_grad(), mixed:
        try:
            yield
        except NotANumber as error:
            grid = request.grids[error.step]
            raise ValueError(
                f"{model.name} computes what is no number at step {error.step} ({grid.name}), in "
                f"{model.precision}: try another precision or a higher temperature, or check the "
                "weights"
            ) from None


def _prepare(
    model: Model,
    request: Request,
    method: Method,
    start: Start,
    watch: Iterable[Watch],
    snapshot: bool | Sequence[int],
) -> Live:
    """Check the method, start its runner, and compute the values that all scale steps share."""
    grids, n, backbone = request.grids, len(request.prompts), model.transformer
    acts = checked_acts(method, grids, model.depth)
    check_model(method, model, request.sampling)
    merge = backbone.merge_layer(request.sampling)
    merged = merged_acts(method, acts, grids, merge)
    parts = [len(backbone.parts(grids, step, request.sampling)) for step in range(len(grids))]
    check_parts(method, acts, grids, parts)
    runner = method.start(grids, model.depth, start.held)
    keep = None
    if isinstance(snapshot, Iterable) or snapshot:
        runner = keep = Keep(runner, steps_to_keep(snapshot, acts))
    for wrap in reversed(list(watch)):
        runner = wrap(runner)
    audit = Audit(runner, method, merged, grids, backbone.kinds, model.depth, parts)

    begin = _now(model.device)
    stream = request.draws.start(model.device)
    request, condition = _conditions(model, request, stream, keep is not None)
    guided = backbone.guided(request.sampling)
    state = backbone.begin(condition, grids, audit)
    later = audit.keys_read(grids, guided, resumable=keep is not None)
    state.cache.expect(later, keep is not None)
    if start.first:
        state.cache.enter(start.first - 1)
        start.read(state)
    blank = model.blank(n, grids[-1])
    live = Live(
        model=model,
        request=request,
        method=method,
        start=start,
        run=audit,
        keep=keep,
        states={Rows.BOTH: state},
        stream=stream,
        guided=guided,
        merge=merge,
        begin=begin,
        canvas=start.canvases[-1] if start.first else blank,
        rows=Rows.BOTH if guided else Rows.COND,
        canvases=list(start.canvases),
        tokens=list(start.tokens),
        lengths=list(start.lengths),
    )
    here = proxy(live)  # runners keep their handles: a cycle would keep all tensors after the run
    audit.prepare(
        Handles(
            pictures=n,
            guided=guided,
            guide=lambda grid, x: here.guide(grid, x),
            logits=lambda x: backbone.logits(here.state_of(x), x),
            decode=model.decode,
            temperature=lambda grid: request.sampling.temperature_at(grid.index),
            left=lambda grid: (
                1.0 if backbone.tempered else request.sampling.temperature_at(grid.index)
            ),
            given=0 if request.kept else len(request.given),
            wrong=lambda grid, wrong: here.numbers.add(grid.index, wrong),
        )
    )
    for grid, drawn, canvas in zip(grids, start.tokens, start.canvases):
        audit.recall(grid, drawn, canvas)
    return live


def _conditions(
    model: Model, request: Request, stream: Stream, keep: bool
) -> tuple[Request, Condition]:
    """Encode the prompts of all rows; the request holds them if labels were drawn, or to `keep`."""
    backbone = model.transformer
    encoded = request.condition
    if encoded is None:
        encoded = model.condition(request.prompts)
    chosen = backbone.drawn(encoded, stream)
    condition = to_device(chosen, model.device)
    null = request.null
    if null is None and request.negative:
        null = model.condition(request.negative)
    null = None if null is None else to_device(null, model.device)
    if keep or chosen is not encoded:  # a resumed run does not encode or draw again
        request = replace(request, condition=condition, null=null)
    if not backbone.guided(request.sampling):
        return request, condition
    if null is None:
        return request, backbone.with_null(condition)
    return request, backbone.with_negative(condition, null)


def _loop(live: Live) -> None:
    """Run the remaining steps: choose rows, embed, run the layers, sample, accumulate."""
    model, request, run = live.model, live.request, live.run
    backbone, quantizer, n = model.transformer, model.quantizer, len(request.prompts)
    live.numbers = getattr(live.stream, "numbers", live.numbers)
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
        live.states[Rows.BOTH].cache.enter(grid.steps[-1].index)
        entering = [
            backbone.embed(state, step, quantizer.next_input(live.canvas, step))
            for step in grid.steps
        ]
        parts = backbone.parts(request.grids, grid.index, request.sampling)
        if len(parts) > 1:
            drawn = [drawn_in_parts(live, grid, entering[0], parts)]
            run.close(grid, rows, n)
        else:
            x = entering[0] if len(entering) == 1 else torch.cat(entering, dim=1)
            x = run.stack(grid, live.stack(grid, rows), x)
            run.close(grid, rows, n)
            if live.merges(rows) and live.merge == model.depth:
                x = live.guide(grid, x)
            lasts = x.split([s.tokens for s in grid.steps], dim=1)
            drawn = [drawn_tokens(live, step, last) for step, last in zip(grid.steps, lasts)]
        for step, (tokens, logits) in zip(grid.steps, drawn):
            tokens = edited(live, step, tokens)
            places = run.places(step, tokens)
            live.canvas = quantizer.accumulate(live.canvas, tokens, step, places)
            if tokens.is_floating_point():  # codes, which nothing was picked for
                live.numbers.note(step.index, tokens)
            live.leave(step, tokens, logits)


def _runnable(rows: Rows, guided: bool, grid: Grid) -> Rows:
    """Return the rows that run, given that null rows exist only with guidance."""
    if not guided and rows is Rows.NULL:
        raise ValueError(
            f"step {grid.index} ({grid.name}) asks for the null rows alone; "
            "this sampling has no guidance, so there are none"
        )
    return rows if guided else Rows.COND


def _finish(live: Live) -> Generation:
    """Stop the clock, make the snapshot, and release the state."""
    seconds, model, snapshot = _now(live.model.device) - live.begin, live.model, None
    live.numbers.check()
    live.states[Rows.BOTH].cache.close()
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
