"""Speed, as a command: medians in one process, each beside its counted operations."""

from __future__ import annotations

import statistics
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from tqdm.auto import tqdm

from fastvar_lab import flops
from fastvar_lab.demo import Timed, label, medians, timed, total_ms
from fastvar_lab.generate import generate, resume
from fastvar_lab.methods.presets import PRESETS, paper_preset
from fastvar_lab.methods.prune import Dense, Prune
from fastvar_lab.models import Model
from fastvar_lab.output import versions
from fastvar_lab.record import Recorder
from fastvar_lab.scales import Sizes, infinity
from fastvar_lab.seam import Method
from fastvar_lab.sublayers import sublayer_ms
from fastvar_lab.trace import Trace


def schedules(model: Model) -> list[tuple[Sizes, dict[str, Prune]]]:
    """Name the methods that are measured on each schedule.

    A released model runs its own schedule under the paper's preset, and, where that skips steps,
    under its pruned steps alone.
    """
    if model.name != "tiny":
        last, steps = label(model.grids()[-1]), len(model.sizes)
        preset = paper_preset(model.name, steps, model.depth)
        methods = {f"{model.name} {last} paper preset": preset}
        if any(ratio == 1 for _, ratio in preset.pairs):
            pruned = {name: ratio for name, ratio in preset.pairs if ratio < 1}
            methods[f"{model.name} {last} pruned steps"] = replace(preset, ratios=pruned)
        return [(model.sizes, methods)]
    paper = PRESETS["infinity-all-layers"]
    return [
        (model.sizes, {"32x32": Prune({24: 0.5, 32: 0.75}), "32x32 paper preset": paper}),
        (infinity(), {"64x64": Prune({48: 0.5, 64: 0.75}), "64x64 paper preset": paper}),
    ]


def prompt(model: Model) -> str:
    """Return what is drawn: a sentence, or a class for a VAR."""
    return model.text_encoder.example


def bench(model: Model, repeats: int = 5, only: str = "") -> dict[str, Any]:
    """Measure the cases whose name contains `only`, one sublayer's parts, recording, resuming."""
    chosen = [
        (sizes, {name: method for name, method in methods.items() if only in name})
        for sizes, methods in schedules(model)
    ]
    if not any(methods for _, methods in chosen):
        names = ", ".join(name for _, methods in schedules(model) for name in methods)
        raise ValueError(f"no case matches {only!r}; there are {names}")
    result: dict[str, Any] = {"cases": []}
    for sizes, methods in chosen:
        if methods:
            result["cases"] += _cases(model, sizes, methods, repeats)
    result |= sublayer_ms(model, prompt(model), repeats)
    for part in (_record_overhead, _resume_ratio):
        result |= part(model, repeats)
    settings = {
        "model": model.name,
        "depth": model.depth,
        "prompt": prompt(model),
        "repeats": repeats,
        "weights": model.fingerprint,
    }
    machine = {"device": _device(model), "threads": torch.get_num_threads()}
    return {**result, **settings, **machine, "versions": versions()}


def _device(model: Model) -> str:
    return torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else "cpu"


def _cases(
    model: Model, sizes: Sizes, methods: dict[str, Prune], repeats: int
) -> list[dict[str, Any]]:
    """Time full and pruned generations in turns, first scale step to final latent."""
    ways: dict[str, Method] = {"": Dense(), **methods}
    runs: dict[str, list[Timed]] = {name: [] for name in ways}
    grids, words = model.grids(sizes), len(prompt(model).split())
    turns = [(repeat, name) for repeat in range(repeats + 1) for name in ways]
    for repeat, name in tqdm(turns, desc=f"bench {label(grids[-1])}", unit="picture"):
        run = timed(model, prompt(model), ways[name], seed=0, sizes=sizes)
        if repeat:  # the first of each is a warm-up
            runs[name].append(run)
    ms = {name: total_ms(some) for name, some in runs.items()}
    flop = {
        name: flops.total(flops.step_flops(model, way, grids, words=words))
        for name, way in ways.items()
    }
    return [
        {
            "name": name,
            "method": repr(method),
            "device": _device(model),
            "dtype": str(model.dtype).removeprefix("torch."),
            "skipped": [
                label(g)
                for g, act in zip(grids, method.acts(grids), strict=True)
                if act[0] == "skip"
            ],
            "ms_full": ms[""],
            "ms_fast": ms[name],
            "speedup": ms[""] / ms[name],
            "speedup_flop_bound": flop[""] / flop[name],
            "gflop_full": flop[""] / 1e9,
            "gflop_fast": flop[name] / 1e9,
            "gflop_per_s_full": flop[""] / ms[""] / 1e6,
            "gflop_per_s_fast": flop[name] / ms[name] / 1e6,
            "scales": [label(g) for g in grids],
            "step_ms_full": medians(runs[""]),
            "step_ms_fast": medians(runs[name]),
            "tokens_fast": flops.forwarded(model, method, grids),
        }
        for name, method in methods.items()
    ]


def _record_overhead(model: Model, repeats: int) -> dict[str, float]:
    """Fraction of a full generation's time that recording scores, masks and latents adds."""
    off, on = [], []
    for repeat in range(repeats + 1):
        plain = generate(model, prompt(model), Dense()).seconds
        seen = generate(
            model, prompt(model), Dense(), watch=[partial(Recorder, trace=Trace())]
        ).seconds
        if repeat:
            off.append(plain)
            on.append(seen)
    return {"record_overhead": statistics.median(on) / statistics.median(off) - 1}


def _resume_ratio(model: Model, repeats: int) -> dict[str, float]:
    """Time of a resumed generation over one from scratch, the last scale's ratio changed."""
    base = generate(model, prompt(model), Dense(), snapshot=True).snapshot
    assert base is not None
    scratch, again = [], []
    method: Method = Prune({-1: 0.75})
    for repeat in range(repeats + 1):
        whole = generate(model, prompt(model), method).seconds
        part = resume(model, base, method).seconds
        if repeat:
            scratch.append(whole)
            again.append(part)
    return {"resume_ratio": statistics.median(again) / statistics.median(scratch)}


def table(result: dict[str, Any]) -> str:
    """Format the result for a terminal."""
    lines = [f"{'case':<20} {'full ms':>9} {'fast ms':>9} {'speedup':>8} {'bound':>6} {'share':>6}"]
    for case in result["cases"]:
        share = case["speedup"] / case["speedup_flop_bound"]
        skipped = f"  skips {', '.join(case['skipped'])}" if case["skipped"] else ""
        lines.append(
            f"{case['name']:<20} {case['ms_full']:9.1f} {case['ms_fast']:9.1f} "
            f"{case['speedup']:8.2f} {case['speedup_flop_bound']:6.2f} {share:6.2f}{skipped}"
        )
    small = (result["pts_ms"] + result["ctr_ms"]) / result["attention_ms_full"]
    lines.append(
        f"one sublayer at the last step: PTS {result['pts_ms']:.3f} ms, CTR {result['ctr_ms']:.3f} "
        f"ms, together {small:.1%} of attention's {result['attention_ms_full']:.2f} ms; "
        f"FFN {result['ffn_ms_full']:.2f} ms"
    )
    lines.append(
        f"recording adds {result['record_overhead']:.1%}; resuming the last scale takes "
        f"{result['resume_ratio']:.1%} of a generation from scratch"
    )
    return "\n".join(lines)
