"""Generates and records: returns a generation and its Trace, with step times and provenance."""

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
    """Generate as `generate` does, and record a Trace.

    `features`, `outputs` and `attention` name the sites at which sublayer inputs, sublayer outputs
    and attention shares are recorded ("attn" sites alone for attention). `score` is the selector
    whose scores are recorded, by default that of pivotal token selection, independent of the
    method's own. `watch` wraps the runner outside of the recorder; `options` are those of
    `generate`. Step times include the recording; sublayer times include only that of attention.
    Raises ValueError for sites that the model does not have.

    >>> import fastvar_lab as fv
    >>> generation, trace = fv.observe(fv.load("tiny"), "a red ring", fv.PRESETS["tiny"], seed=1)
    >>> trace.kept[9, fv.Site(0, "attn")].sum(dim=1)  # of 1,024, for both guidance rows
    tensor([256, 256])
    """
    trace, watches = Trace(model.grids(options.get("sizes"))), list[Stopwatch]()
    rule = score or FarFromMean()
    sites = _sites(model, features, outputs, attention)
    watchers = [*watch, *_watchers(trace, watches, rule, sites)]
    generation = generate(model, prompts, method, watch=watchers, **options)
    return generation, _finish(model, generation, trace, watches[0], rule)


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
    """Resume `before` under another method and record; earlier steps are copied from `trace`.

    Raises ValueError if `trace` is of another generation, or was recorded with another `score`.

    >>> import fastvar_lab as fv
    >>> model = fv.load("tiny")
    >>> full, dense = fv.observe(model, "a red ring", fv.Dense(), seed=1, snapshot=True)
    >>> fast, trace = fv.observe_again(model, full, dense, fv.Prune({-1: 0.75}))
    >>> (fast.first_step, sorted(trace.canvases) == list(range(10)))
    (9, True)
    """
    later, watches = Trace(before.request.grids), list[Stopwatch]()
    rule = score or FarFromMean()
    recorded = trace.provenance.get("scores", repr(rule))
    if recorded != repr(rule):
        raise ValueError(f"the trace holds scores of {recorded}; give the same score, not {rule!r}")
    for name, value in _identity(model, before).items():
        recorded = trace.provenance.get(name, value)
        if _on_disk(recorded) != _on_disk(value):
            raise ValueError(
                f"the trace is of another generation: its {name} {recorded!r}, "
                f"where {value!r} is resumed"
            )
    sites = _sites(model, features, outputs, attention)
    watchers = [*watch, *_watchers(later, watches, rule, sites)]
    generation = resume(model, before, method, watch=watchers, snapshot=snapshot)
    _finish(model, generation, later, watches[0], rule)
    return generation, trace.before(generation.first_step).followed_by(later)


def _sites(model: Model, *named: Collection[Site]) -> dict[str, Collection[Site]]:
    """Return the sites of each record; raise ValueError for one that the model does not have."""
    recorded = dict[str, Collection[Site]]()
    for record, sites in zip(("features", "outputs", "attention"), named, strict=True):
        recorded[record] = (sites,) if isinstance(sites, Site) else tuple(sites)
        kinds = ("attn",) if record == "attention" else model.transformer.kinds
        allowed = {Site(layer, kind) for layer in range(model.depth) for kind in kinds}
        for site in recorded[record]:
            if site not in allowed:
                raise ValueError(
                    f"{record} takes sites, Site(layer, kind), of layers 0 to {model.depth - 1} "
                    f"and kinds {', '.join(kinds)}; not {site!r}"
                )
    return recorded


def _watchers(
    trace: Trace, watches: list[Stopwatch], rule: Selector, sites: dict[str, Collection[Site]]
) -> list[Watch]:
    """Return what wraps the runner: a Recorder into `trace`, and a Stopwatch into `watches`."""

    def recorder(run: Runner) -> Runner:
        return Recorder(run, trace, score=partial(select.score, rule), **sites)

    def stopwatch(run: Runner) -> Runner:
        watches.append(Stopwatch(run, sublayers=True))
        return watches[-1]

    return [recorder, stopwatch]


def _finish(
    model: Model, generation: Generation, trace: Trace, watch: Stopwatch, rule: Selector
) -> Trace:
    """Add times and provenance to a trace."""
    trace.step_ms, trace.sublayer_ms = watch.step_ms(), watch.sublayer_ms()
    trace.provenance = {
        **provenance(model, generation.method, generation.request),
        "scores": repr(rule),
        "first_step": generation.first_step,
    }
    return trace


def _on_disk(value: Any) -> str:
    """Write a provenance value as JSON, to compare it with one read from a file (tuples, lists)."""
    return json.dumps(value, default=str)


def _identity(model: Model, generation: Generation) -> dict[str, Any]:
    """Return what identifies a generation, apart from its method."""
    return {"model": model.name, "weights": model.fingerprint, **requested(generation.request)}
