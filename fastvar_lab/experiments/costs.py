"""Experiments on what generation costs: time by step, module and size; kernels; memory."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fastvar_lab.drafting import draft_and_refine
from fastvar_lab.experiments.base import (
    Experiment,
    Ratios,
    Scope,
    Settings,
    batches,
    draws_the_world,
    each_cell,
    in_turns,
    labelled,
    prompts_and_seeds,
    score,
    timed_prompt,
    told,
    ways,
)
from fastvar_lab.generation import generate
from fastvar_lab.instruments.stopwatch import Stopwatch
from fastvar_lab.methods.prune import Dense, Prune
from fastvar_lab.models.loading import load
from fastvar_lab.models.model import Model
from fastvar_lab.pictures import to_uint8
from fastvar_lab.scales import Sizes, stretch
from fastvar_lab.seam import Grid, Method, Runner, Site, Wrapper
from fastvar_lab.speed import flops
from fastvar_lab.speed.sublayers import PRUNED, sublayer_times
from fastvar_lab.store import Rows
from fastvar_lab.tokens import wide

Answers = Iterator[tuple[Settings, Rows]]


def _timed_jobs(model: Model, scope: Scope) -> list[list[Settings]]:
    common = {"prompt": timed_prompt(model), "repeats": 3 * scope.repeats}
    return [[{**way, **common} for way in told(ways(model))]]


def _watched(
    model: Model, cells: Sequence[Settings], sizes: Sizes | None = None, sublayers: bool = False
) -> list[list[Stopwatch]]:
    """Generate under stopwatches, every cell's method in turns."""

    def once(cell: Settings) -> Stopwatch:
        found = list[Stopwatch]()

        def watch(run: Runner) -> Stopwatch:
            found.append(Stopwatch(run, sublayers=sublayers))
            return found[0]

        generate(model, cell["prompt"], ways(model)[cell["method"]], watch=[watch], sizes=sizes)
        return found[0]

    return in_turns(cells, once)


def latency(model: Model, cells: Sequence[Settings]) -> Answers:
    """Milliseconds, counted operations and tokens of every scale step, turn by turn."""
    grids = model.grids()
    for cell, watches in zip(cells, _watched(model, cells), strict=True):
        method, runs = ways(model)[cell["method"]], [w.step_ms() for w in watches]
        costs = flops.step_flops(model, method, grids, words=len(cell["prompt"].split()))
        tokens = flops.forwarded(model, method, grids)
        yield (
            cell,
            [
                {
                    "turn": turn,
                    "step": g.index,
                    "size": g.name,
                    "ms": run[g.index],
                    "share": run[g.index] / sum(run.values()),
                    "gflop": sum(costs[g.index].values()) / 1e9,
                    "tokens": tokens[g.index],
                }
                for turn, run in enumerate(runs)
                for g in grids
            ],
        )


def modules(model: Model, cells: Sequence[Settings]) -> Answers:
    """Milliseconds of one layer's sublayers at every step, turn by turn (paper, Fig. A.1)."""
    grids = model.grids()
    for cell, watches in zip(cells, _watched(model, cells, sublayers=True), strict=True):
        runs = [w.sublayer_ms() for w in watches]
        yield (
            cell,
            [
                {
                    "turn": turn,
                    "step": step,
                    "size": grids[step].name,
                    "kind": kind,
                    "ms": ms / model.depth,
                }
                for turn, run in enumerate(runs)
                for (step, kind), ms in run.items()
            ],
        )


SIDES = (16, 24, 32, 48, 64)


def _resolution_jobs(model: Model, scope: Scope) -> list[list[Settings]]:
    sides = (*SIDES, 96) if scope.name == "paper" else SIDES
    common = {"what": "time", "prompt": timed_prompt(model), "repeats": 2 * scope.repeats}
    timed = [[{**common, "side": side, **way} for way in told(ways(model))] for side in sides]
    if not draws_the_world(model):
        return timed
    scored = [
        [{"what": "zero-shot", "side": side, **batch} for side in (32, 48)]
        for batch in batches(model, scope, seed=23)
    ]
    return [*timed, *scored]


def resolution(model: Model, cells: Sequence[Settings]) -> Answers:
    """Time to a final map of so many tokens along a side; task scores of larger pictures.

    Timed schedules are stretched, so that all have as many steps; scored ones are the model's.
    """
    if cells[0]["what"] == "time":
        yield from _growth(model, cells)
        return
    for cell in cells:
        batch, side = cell["batch"], cell["side"]
        prompts, seeds = prompts_and_seeds(batch)
        sizes = model.sizes_to(side, side)
        made = generate(model, prompts, Dense(), seed=seeds, sizes=sizes)
        right = [
            score(model, b["prompt"], picture)
            for b, picture in zip(batch, to_uint8(model.decode(made.canvas)), strict=True)
        ]
        yield (
            cell,
            [{**b, "picture": cell["first"] + i, "right": right[i]} for i, b in enumerate(batch)],
        )


def _growth(model: Model, cells: Sequence[Settings]) -> Answers:
    side = cells[0]["side"]
    sizes = stretch(model.sizes, side, side)
    grids = model.grids(sizes)
    for cell, watches in zip(cells, _watched(model, cells, sizes), strict=True):
        method = ways(model)[cell["method"]]
        words = len(cell["prompt"].split())
        cost = flops.total(flops.step_flops(model, method, grids, words=words))
        yield (
            cell,
            [
                {
                    "turn": turn,
                    "ms": sum(w.step_ms().values()),
                    "gflop": cost / 1e9,
                    "tokens": side**2,
                }
                for turn, w in enumerate(watches)
            ],
        )


class Unfused(Wrapper):
    """Attention in plain products, the whole matrix held: what fused kernels avoid."""

    def __init__(self, inner: Runner) -> None:
        super().__init__(inner)
        self.largest = 0  # bytes of the largest attention matrix

    def attend(
        self,
        site: Site,
        grid: Grid,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        weights = wide(q) @ wide(k).transpose(-1, -2) * scale
        if mask is not None:
            weights = weights + mask
        self.largest = max(self.largest, weights.numel() * weights.element_size())
        return (weights.softmax(-1) @ wide(v)).to(q.dtype)


def _overhead_jobs(model: Model, scope: Scope) -> list[list[Settings]]:
    common = {"prompt": timed_prompt(model), "repeats": 3 * scope.repeats}
    return [[{"repr": repr(PRUNED), **common}]]


def overhead(model: Model, cell: Settings) -> Rows:
    """Milliseconds of selection, restoration, attention and feed-forward of one call."""
    times = sublayer_times(model, cell["prompt"], cell["repeats"])
    names = ("pts_ms", "ctr_ms", "attention_ms_full", "ffn_ms_full")
    return [
        {"kind": name.split("_")[0], "turn": turn, "ms": ms}
        for name in names
        for turn, ms in enumerate(times[name])
    ]


def _kernel_jobs(model: Model, scope: Scope) -> list[list[Settings]]:
    kernels = ("unfused", "fused")
    return [
        [{"kernel": kernel, **cell} for kernel in kernels for cell in _timed_jobs(model, scope)[0]]
    ]


def kernels(model: Model, cells: Sequence[Settings]) -> Answers:
    """Time and memory under fused and unfused attention, turn by turn (paper, Table 5)."""
    cuda = model.device.type == "cuda"

    def once(cell: Settings) -> tuple[float, int]:
        seen = list[Unfused]()

        def watch(run: Runner) -> Runner:
            seen.append(Unfused(run))
            return seen[0]

        if cuda:
            torch.cuda.reset_peak_memory_stats(model.device)
        watchers = [watch] if cell["kernel"] == "unfused" else []
        made = generate(model, cell["prompt"], ways(model)[cell["method"]], watch=watchers)
        if cuda:
            return made.seconds, torch.cuda.max_memory_allocated(model.device)
        return made.seconds, seen[0].largest if seen else 0

    for cell, found in zip(cells, in_turns(cells, once), strict=True):
        yield (
            cell,
            [
                {"turn": turn, "ms": seconds * 1e3, "bytes": size}
                for turn, (seconds, size) in enumerate(found)
            ],
        )


def _schedules(model: Model) -> dict[str, Method]:
    """Full generation, the preset, and one that prunes less and one that skips the last step."""
    others: tuple[Ratios, ...] = ({-1: 0.5}, {-2: 0.5, -1: 1.0})
    return {**ways(model), **{labelled(ratios): Prune(ratios) for ratios in others}}


def _memory_jobs(model: Model, scope: Scope) -> list[list[Settings]]:
    sides, prompt = (16, 32, 48, 64), timed_prompt(model)
    ways = told(_schedules(model))
    return [[{"side": side, "prompt": prompt, **way} for side in sides for way in ways]]


def memory(model: Model, cell: Settings) -> Rows:
    """Bytes of the KV cache and of what is held to restore from: computed, and as allocated."""
    method = _schedules(model)[cell["method"]]
    sizes = stretch(model.sizes, cell["side"], cell["side"])
    grids, config = model.grids(sizes), model.transformer.config
    run = method.start(grids, model.depth)
    row = 2 * config.width * model.transformer.head.weight.element_size()
    keys = sum(run.forwarded(Site(i, "attn"), g) for i in range(model.depth) for g in grids)
    cache_step = method.cache_index(grids)
    sites = 0
    if isinstance(method, Prune) and cache_step is not None:
        layers = len(method.depth_checked(model.depth))
        kinds = [k for k in model.transformer.kinds if k in method.sublayers]
        sites = layers * len(kinds) * grids[cache_step].tokens
    made = generate(model, cell["prompt"], method, sizes=sizes, snapshot=())
    assert made.snapshot is not None
    held = sum(t.numel() * t.element_size() for t in made.snapshot.held.values())
    return [
        {
            "kv_computed": 2 * row * keys,
            "kv_measured": made.snapshot.cache.bytes,
            "held_computed": row * sites,
            "held_measured": held,
        }
    ]


def _drafting_jobs(model: Model, scope: Scope) -> list[list[Settings]]:
    cuda = model.device.type == "cuda"
    drafter = "var-d30" if cuda else "var-d20"  # the paper's; what a laptop holds
    steps = (6, 7, 8, 9) if scope.name == "paper" else (6, 8)
    common = {"drafter": drafter, "refiner": "var-d16", "repeats": scope.repeats}
    return [[{"drafted": drafted, **common} for drafted in steps]]


def drafting(model: Model, cells: Sequence[Settings]) -> Answers:
    """Time of CoDe on two VARs with random weights, and its share of their keys: cost alone."""
    parts = (cells[0]["drafter"], cells[0]["refiner"])
    large, small = (load(name, "random", model.device, model.dtype) for name in parts)
    small = replace(small, tokenizer=large.tokenizer, quantizer=large.quantizer)
    grids = large.grids()

    def once(cell: Settings) -> float:
        if not cell["drafted"]:
            return generate(large, "0", Dense(), seed=0).seconds
        return draft_and_refine(large, small, "0", cell["drafted"], seed=0).seconds

    alone, *both = in_turns([{**cells[0], "drafted": 0}, *cells], once)
    whole, rest = (flops.step_flops(m, Dense(), grids, words=0) for m in (large, small))
    keys = [m.depth * m.transformer.config.width for m in (large, small)]
    for cell, seconds in zip(cells, both, strict=True):
        drafted = cell["drafted"]
        tokens = [sum(g.tokens for g in part) for part in (grids, grids[:drafted])]
        row = {
            "kind": "time",
            "method": f"CoDe, {drafted} of {len(grids)} steps drafted",
            "ms": statistics.median(seconds) * 1e3,
            "ms_full": statistics.median(alone) * 1e3,
            "speedup": statistics.median(a / b for a, b in zip(alone, seconds, strict=True)),
            "speedup_flop_bound": flops.total(whole)
            / (flops.total(whole[:drafted]) + flops.total(rest)),
            "kv_share": max(keys[0] * tokens[1], keys[1] * tokens[0]) / (keys[0] * tokens[0]),
        }
        yield cell, [row]


EXPERIMENTS = (
    Experiment(
        "latency_by_scale",
        "Which scale steps take the time?",
        "Fig. 2",
        _timed_jobs,
        latency,
        version=3,
    ),
    Experiment(
        "module_profile",
        "How much time do attention and feed-forward take in a layer, with and without pruning?",
        "supplement, Fig. A.1",
        _timed_jobs,
        modules,
        version=3,
    ),
    each_cell(
        "sublayer_overhead",
        "What do selection and restoration add to a sublayer?",
        "supplement, Fig. A.1",
        _overhead_jobs,
        overhead,
        version=2,
    ),
    Experiment(
        "resolution_scaling",
        "How does time grow with the picture, and do larger pictures stay right?",
        "section 4.3; supplement, Fig. A.5",
        _resolution_jobs,
        resolution,
        version=3,
        slow=True,
    ),
    Experiment(
        "attention_kernels",
        "Does pruning combine with fused attention?",
        "Table 5",
        _kernel_jobs,
        kernels,
        version=3,
    ),
    each_cell(
        "memory",
        "What memory do the KV cache and the restore cache take?",
        "section 4.2",
        _memory_jobs,
        memory,
    ),
    Experiment(
        "drafting",
        "What does drafting with a large VAR and refining with a small one (CoDe) save?",
        "Chen et al., CVPR 2025: 1.7x with 8 steps drafted",
        _drafting_jobs,
        drafting,
        version=2,
        slow=True,
    ),
)
