"""CoDe: a small VAR drafts the first scales, a large one reads them in one pass and refines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from fastvar_lab.audit import checked_acts
from fastvar_lab.backbones.var import VARState
from fastvar_lab.generation import Generation, checked_watch, generate, run
from fastvar_lab.methods.prune import Dense, Prune
from fastvar_lab.models.model import Model
from fastvar_lab.scales import whole
from fastvar_lab.seam import Grid, Group, Method, Rows, Runner, Stack, stateful_from
from fastvar_lab.snapshots import Start


def prefill(
    model: Model, state: VARState, grids: Sequence[Grid], canvases: Sequence[Tensor]
) -> None:
    """Fill the KV cache of `state` with drafted scales, in one pass over all their tokens.

    `canvases` are the latents (n, d, H, W) after each of the steps `grids`.
    """
    inputs = [model.blank(canvases[0].shape[0], grids[-1]), *canvases[:-1]]
    x = torch.cat(
        [
            model.transformer.embed(state, grid, model.quantizer.next_input(canvas, grid))
            for grid, canvas in zip(grids, inputs, strict=True)
        ],
        dim=1,
    )
    group: Any = Group(tuple(grids))  # passed in place of a Grid
    runner = Runner()
    layers = model.transformer.layers(state, group, runner)
    runner.stack(group, Stack(layers), x)


def draft_and_refine(
    drafter: Model,
    refiner: Model,
    prompts: str | Sequence[str],
    drafted: int,
    *,
    method: Method | None = None,
    **options: Any,
) -> Generation:
    """Generate with CoDe: `drafter` runs the first `drafted` scale steps, `refiner` the others.

    `method` acts on the refiner's steps, which watchers watch; `options` are those of `generate`,
    but for snapshots and graphs. Returns the refiner's generation, whose `seconds` are those of
    both models. Raises ValueError unless both models are VARs with the same schedule and tokenizer,
    for guidance at a layer, for `drafted` outside 1 to steps - 1, and for a method that changes or
    looks at drafted steps. Source: Chen et al., CoDe (CVPR 2025), training-free mode; here the
    drafted scales are read in a pass before the refiner's first step, not together with it.
    """
    for name in ("snapshot", "graphs"):
        if options.pop(name, False) is not False:
            raise ValueError(f"CoDe runs two models, of which it keeps no {name}; leave {name} out")
    watch, drafted = checked_watch(options.pop("watch", ())), whole("number drafted", drafted)
    if not drafter.family == refiner.family == "var":
        raise ValueError("CoDe drafts and refines with two VARs")
    codes = [cast(Tensor, model.quantizer.codebook) for model in (drafter, refiner)]
    narrow = min((code.dtype for code in codes), key=lambda dtype: dtype.itemsize)
    same_codes = torch.equal(*(code.to(narrow) for code in codes))
    if drafter.sizes != refiner.sizes or not same_codes:
        raise ValueError("drafter and refiner need the same schedule and tokenizer")
    sampling = options.get("sampling") or drafter.sampling
    if getattr(sampling, "guidance_layer", 0):  # `generate` says what is no Sampling
        raise ValueError(
            f"CoDe reads drafts with guidance at the logits; not at layer {sampling.guidance_layer}"
        )
    grids = refiner.grids(options.get("sizes"))
    steps = len(grids)
    if not 1 <= drafted < steps:
        raise ValueError(f"of {steps} scales 1 to {steps - 1} can be drafted; not {drafted}")
    method = method or Dense()
    acts, cache = checked_acts(method, grids, refiner.depth), method.cache_index(grids)
    first = drafted - 1 if acts[drafted].joined else stateful_from(method, grids)
    for grid, act in zip(grids[:drafted], acts, strict=False):
        plain = act.whole and act.rows is Rows.BOTH
        if not plain or grid.index >= first or grid.index == cache:
            raise ValueError(
                f"{type(method).__name__} changes step {grid.index} ({grid.name}) or looks at it; "
                f"the refiner runs the steps from {drafted} on"
            )
    skip_rest = Prune({-i: 1.0 for i in range(1, steps - drafted + 1)})
    draft = generate(drafter, prompts, skip_rest, snapshot=(), **options)
    assert draft.snapshot is not None
    canvases = draft.snapshot.canvases[:drafted]

    def read(state: Any) -> None:
        grids = draft.request.grids
        prefill(refiner, state, grids[:drafted], canvases)

    start = Start(canvases, draft.tokens[:drafted], read)
    refined = run(refiner, draft.request, method, start, watch=watch)
    return replace(refined, seconds=refined.seconds + draft.seconds)
