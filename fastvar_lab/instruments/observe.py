"""Generate and watch: a generation with its Trace, times inside, provenance on it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any

from fastvar_lab.generation import Generation, Watch, generate, resume
from fastvar_lab.instruments.recorder import Recorder
from fastvar_lab.instruments.stopwatch import Stopwatch
from fastvar_lab.instruments.trace import Trace
from fastvar_lab.methods import select
from fastvar_lab.methods.select import FarFromMean, Selector
from fastvar_lab.models.model import Model
from fastvar_lab.provenance import provenance, requested
from fastvar_lab.seam import Method, Runner, Site


def observe(
    model: Model,
    prompts: str | Sequence[str],
    method: Method,
    *,
    features: Collection[Site] = (),
    outputs: Collection[Site] = (),
    attention: Collection[Site] = (),
    score: Selector | None = None,
    watch: Iterable[Watch] = (),
    **options: Any,
) -> tuple[Generation, Trace]:
    """Generate as `generate` does, and record. `features`, `outputs`, `attention` name sites.

    Raises ValueError for sites that the model does not have; attention is that of "attn".

    `score` is the selector whose scores are recorded, by default pivotal token selection's,
    whatever the method selects by. `watch` wraps the runner outside of the recorder.

    Step times include the recording itself; sublayer times only that of attention.

    >>> import fastvar_lab as fv
    >>> made, trace = fv.observe(fv.load("tiny"), "a red ring", fv.PRESETS["tiny"], seed=1)
    >>> trace.kept[9, fv.Site(0, "attn")].sum(dim=1)  # of 1,024, for both guidance rows
    tensor([256, 256])
    """
    trace, watches = Trace(model.grids(options.get("sizes"))), list[Stopwatch]()
    rule = score or FarFromMean()
    wanted = _wanted(model, features, outputs, attention)
    watchers = [*watch, *_watchers(trace, watches, rule, wanted)]
    made = generate(model, prompts, method, watch=watchers, **options)
    return made, _finish(model, made, trace, watches[0], rule)


def observe_again(
    model: Model,
    before: Generation,
    trace: Trace,
    method: Method,
    *,
    features: Collection[Site] = (),
    outputs: Collection[Site] = (),
    attention: Collection[Site] = (),
    score: Selector | None = None,
    snapshot: bool | Sequence[int] = False,
    watch: Iterable[Watch] = (),
) -> tuple[Generation, Trace]:
    """Resume `before` under another method and record; earlier steps come from its `trace`.

    Raises ValueError if those are of another generation, or were recorded with another `score`.

    >>> import fastvar_lab as fv
    >>> model = fv.load("tiny")
    >>> full, dense = fv.observe(model, "a red ring", fv.Dense(), seed=1, snapshot=True)
    >>> fast, trace = fv.observe_again(model, full, dense, fv.Prune({-1: 0.75}))
    >>> (fast.first_step, sorted(trace.canvases) == list(range(10)))
    (9, True)
    """
    later, watches = Trace(before.request.grids), list[Stopwatch]()
    rule = score or FarFromMean()
    told = trace.provenance.get("scores", repr(rule))
    if told != repr(rule):
        raise ValueError(f"the trace holds scores of {told}; give the same score, not {rule!r}")
    for name, value in _asked(model, before).items():
        told = trace.provenance.get(name, value)
        if _on_disk(told) != _on_disk(value):
            raise ValueError(
                f"the trace is of another generation: its {name} {told!r}, "
                f"where {value!r} is resumed"
            )
    wanted = _wanted(model, features, outputs, attention)
    watchers = [*watch, *_watchers(later, watches, rule, wanted)]
    made = resume(model, before, method, watch=watchers, snapshot=snapshot)
    _finish(model, made, later, watches[0], rule)
    return made, trace.before(made.first_step).followed_by(later)


def _wanted(model: Model, *named: Collection[Site]) -> dict[str, Collection[Site]]:
    """Name what sites are wanted for; raise ValueError for one that the model does not have."""
    found = dict[str, Collection[Site]]()
    for what, sites in zip(("features", "outputs", "attention"), named, strict=True):
        found[what] = (sites,) if isinstance(sites, Site) else tuple(sites)
        kinds = ("attn",) if what == "attention" else model.transformer.kinds
        there = {Site(layer, kind) for layer in range(model.depth) for kind in kinds}
        for site in found[what]:
            if site not in there:
                raise ValueError(
                    f"{what} takes sites, Site(layer, kind), of layers 0 to {model.depth - 1} and "
                    f"kinds {', '.join(kinds)}; not {site!r}"
                )
    return found


def _watchers(
    trace: Trace, watches: list[Stopwatch], rule: Selector, wanted: dict[str, Collection[Site]]
) -> list[Watch]:
    def recorder(run: Runner) -> Runner:
        return Recorder(run, trace, score=partial(select.score, rule), **wanted)

    def stopwatch(run: Runner) -> Runner:
        watches.append(Stopwatch(run, sublayers=True))
        return watches[-1]

    return [recorder, stopwatch]


def _finish(
    model: Model, made: Generation, trace: Trace, watch: Stopwatch, rule: Selector
) -> Trace:
    trace.step_ms, trace.sublayer_ms = watch.step_ms(), watch.sublayer_ms()
    trace.provenance = {
        **provenance(model, made.method, made.request),
        "scores": repr(rule),
        "first_step": made.first_step,
    }
    return trace


def _on_disk(value: Any) -> str:
    """Write a part of a provenance as files hold it: a tuple comes back from there as a list."""
    return json.dumps(value, default=str)


def _asked(model: Model, made: Generation) -> dict[str, Any]:
    """Say which generation it is, apart from its method."""
    return {"model": model.name, "weights": model.fingerprint, **requested(made.request)}
