"""Draws again what a trace records, for what was not recorded."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from fastvar_lab.generation import Generation, Watch, generate
from fastvar_lab.instruments.trace import Trace
from fastvar_lab.methods.parse import read_method
from fastvar_lab.models.model import Model


def redrawn(model: Model, trace: Trace, watch: Iterable[Watch] = ()) -> Generation:
    """Return the generation that a trace records, with a snapshot; it is drawn once more.

    `watch` is that of `generate`.
    Raises ValueError if its provenance does not say all that it depends on, or if other tokens are
    drawn, as on another machine.

    >>> import fastvar_lab as fv
    >>> model = fv.load("tiny")
    >>> run, trace = fv.observe(model, "a red ring", fv.Prune({-1: 0.75}), seed=1)
    >>> torch.equal(redrawn(model, trace).canvas, run.canvas)
    True
    """
    origin = trace.provenance
    if "given" in origin or "negative" in origin:
        raise ValueError("the trace is of given tokens or negative prompts, which it does not hold")
    if origin.get("sampling") != repr(model.sampling):
        raise ValueError(
            f"the trace was sampled with {origin.get('sampling')}; {model.name} samples with "
            f"{model.sampling!r}"
        )
    prompts, seeds = list(origin.get("prompts", ())), list(origin.get("seeds", ()))
    if not seeds or len(seeds) != len(prompts):
        raise ValueError("the trace has no seed for each of its pictures")
    sizes = [(grid.h, grid.w) for grid in trace.grids]
    method = read_method(str(origin.get("method")))
    run = generate(model, prompts, method, seed=seeds, sizes=sizes, watch=watch, snapshot=True)
    for step, tokens in enumerate(run.tokens):
        kept = trace.tokens.get(step)
        same = (tokens is None) == (kept is None)
        if not same or (tokens is not None and not torch.equal(tokens, kept.to(tokens.device))):  # type: ignore[union-attr]
            raise ValueError(f"drawn again, step {step} has other tokens than in the trace")
    return run
