"""The bench command: median times beside counted operations and hardware floors."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch

from fastvar_lab.draws import Keyed
from fastvar_lab.generation import Watch, generate, resume
from fastvar_lab.instruments.recorder import Recorder
from fastvar_lab.instruments.trace import Trace
from fastvar_lab.measure.speedup import DISTURBED
from fastvar_lab.methods.prune import Dense, Prune
from fastvar_lab.models.model import Model, paper_preset
from fastvar_lab.provenance import provenance
from fastvar_lab.scales import Sizes
from fastvar_lab.seam import Method
from fastvar_lab.speed import flops
from fastvar_lab.speed.captured import captured_times
from fastvar_lab.speed.memory import Memory, memory
from fastvar_lab.speed.peak import peak_bytes
from fastvar_lab.speed.sublayers import short_ms, sublayer_ms
from fastvar_lab.speed.tally import StepCounts
from fastvar_lab.speed.timed import medians, speedups, timed, total_ms

FULL = "full"
SIDES = 256, 2048  # of the smallest and largest matrices whose products a CPU is timed at
LONGEST_PRODUCT = 0.5  # seconds


def schedules(model: Model) -> list[tuple[Sizes, dict[str, Method]]]:
    """Return the schedules to time, each with its methods by name: `Model.timed`.

    If that is empty, the model's schedule is timed under the methods of `released`.
    """
    pairs = [(sizes, dict(methods)) for sizes, methods in model.timed]
    return pairs or [(model.sizes, released(model, model.sizes))]


def released(model: Model, sizes: Sizes) -> dict[str, Method]:
    """Return a model's preset by name; if it skips steps, also a variant that skips none."""
    preset = paper_preset(model, sizes)
    name = f"{model.name} {model.grids(sizes)[-1].name}"
    methods = {f"{name} preset": preset}
    if isinstance(preset, Prune) and any(ratio == 1 for _, ratio in preset.pairs):
        pruned = {scale: ratio for scale, ratio in preset.pairs if ratio < 1}
        methods[f"{name} pruned steps"] = replace(preset, ratios=pruned)
    return methods


@dataclass(frozen=True)
class Rates:
    """Peak rates of a device, measured here: operations and bytes read per second."""

    flop: float
    byte: float

    def floor_ms(self, flop: Sequence[float], read: Sequence[float]) -> list[float]:
        """Return each step's lower bound in ms, from its operations `flop` and bytes `read`."""
        return [1e3 * max(f / self.flop, b / self.byte) for f, b in zip(flop, read, strict=True)]


def rates(device: torch.device | str, dtype: torch.dtype) -> Rates:
    """Measure the peak rates of a device with a large matrix product and a large sum."""
    device = torch.device(device)
    cells = 2**30 if device.type == "cuda" else 2**26
    b = torch.ones(cells, dtype=dtype, device=device)
    works = {"read": lambda: b.sum()}
    (times,) = short_ms(works, device, repeats=10, progress="rate of reading").values()
    read = b.numel() * b.element_size() / statistics.median(times) * 1e3
    return Rates(product_rate(device, dtype, progress="rate of products"), read)


def product_rate(
    device: torch.device | str, dtype: torch.dtype, progress: str | None = None
) -> float:
    """Measure the operations per second of a large matrix product; `progress` titles a bar.

    On a CPU without kernels for a type, where a large one takes minutes, the product is smaller.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return _product_rate(device, dtype, 8192, 10, progress)
    side, largest = SIDES
    rate = _product_rate(device, dtype, side, 1)
    while side < largest and 2 * (2 * side) ** 3 <= LONGEST_PRODUCT * rate:
        side *= 2
    return _product_rate(device, dtype, side, 10, progress)


def _product_rate(
    device: torch.device, dtype: torch.dtype, side: int, repeats: int, progress: str | None = None
) -> float:
    dice = torch.Generator(device).manual_seed(0)
    a = torch.randn(side, side, generator=dice, dtype=dtype, device=device)
    (times,) = short_ms({"product": lambda: a @ a}, device, repeats, progress=progress).values()
    return 2 * side**3 / statistics.median(times) * 1e3


def prompt(model: Model) -> str:
    """Return the prompt that is timed: the model's example."""
    return model.example


def bench(
    model: Model,
    repeats: int = 5,
    only: str = "",
    graphs: bool = False,
    timed: list[tuple[Sizes, dict[str, Method]]] | None = None,
) -> dict[str, Any]:
    """Time the cases whose name contains `only`, and one sublayer, recording and resuming.

    The cases are schedules with methods by name, by default those of `schedules`. Cases of `timed`
    are timed alone: a sublayer, recording and resuming are the model's, not theirs. With `graphs`
    cases have times of captured generations, too. Raises ValueError if no case matches.
    """
    every = schedules(model) if timed is None else timed
    chosen = [
        (sizes, {name: method for name, method in methods.items() if only in name})
        for sizes, methods in every
    ]
    if not any(methods for _, methods in chosen):
        names = ", ".join(name for _, methods in every for name in methods)
        raise ValueError(f"no case matches {only!r}; there are {names}")
    result: dict[str, Any] = {"cases": []}
    for sizes, methods in chosen:
        if methods:
            result["cases"] += cases(model, sizes, methods, repeats, graphs=graphs)
    if timed is None:
        result |= sublayer_ms(model, prompt(model), repeats, progress="bench sublayers")
        for part in (_record_overhead, _resume_ratio):
            result |= part(model, repeats)
    settings = {"depth": model.depth, "prompt": prompt(model), "repeats": repeats}
    return {**result, **settings, **provenance(model)}


def _device(model: Model) -> str:
    return torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else "cpu"


def cases(
    model: Model,
    sizes: Sizes,
    methods: dict[str, Method],
    repeats: int,
    pictures: int = 1,
    best: Rates | None = None,
    graphs: bool = False,
) -> list[dict[str, Any]]:
    """Time full and pruned generations in turns, from the first scale step to the final latent.

    `pictures` is the batch size. With peak rates `best`, every time has a floor beside it. Host
    times are those in which the host issues a step. At large steps they include waiting for a full
    GPU queue; only at small steps do they show the cost of issuing. Memory that a GPU allocates is
    measured before, in a run of each method of its own. `graphs` adds `captured_times`.
    """
    timed_methods: dict[str, Method] = {FULL: Dense(), **methods}
    grids, text_tokens = model.grids(sizes), len(prompt(model).split())
    draws = Keyed(tuple(range(pictures)), on_device=True)
    texts = [prompt(model)] * pictures
    alone = partial(generate, model, texts, sizes=sizes, draws=draws)
    peaks = {
        name: peak_bytes(model.device, partial(alone, method=method))
        for name, method in timed_methods.items()
    }
    once = partial(timed, model, texts, sizes=sizes, draws=draws)
    measured = speedups(
        {name: partial(once, method=method) for name, method in timed_methods.items()},
        repeats,
        lambda run: run.ms,
        base=FULL,
        progress=f"bench {grids[-1].name}",
    )
    flop, floor = dict[str, float](), dict[str, list[float]]()
    tokens, skipped = dict[str, list[float]](), dict[str, list[str]]()
    holds = {
        name: asdict(memory(model, method, sizes=sizes, pictures=pictures))
        for name, method in timed_methods.items()
    }
    for name, method in timed_methods.items():
        counts = StepCounts(model, method, grids, text_tokens, pictures)
        if counts.watch:  # the data decide: it is counted as it runs
            alone(method=method, watch=counts.watch)
        steps, tokens[name] = counts.flop(), counts.tokens()
        flop[name] = sum(steps)
        skipped[name] = [g.name for g, n in zip(grids, steps, strict=True) if not n]
        read = [0.0] * len(grids)  # if the data decide, what is read at least is not known
        if counts.exact:
            read = flops.step_bytes(model, method, grids, text_tokens, pictures)
        floor[name] = best.floor_ms(steps, read) if best else []
    rows = []
    for name, method in methods.items():
        pairs = measured[name]
        row: dict[str, Any] = {
            "name": name,
            "method": repr(method),
            "device": _device(model),
            "dtype": str(model.dtype).removeprefix("torch."),
            "pictures": pictures,
            "skipped": skipped[name],
            **pairs.speedup.columns(),
            "speedup_flop_bound": flop[FULL] / flop[name],
            "scales": [g.name for g in grids],
            "tokens_fast": tokens[name],
        }
        for side, case, runs in (("full", FULL, pairs.full), ("fast", name, pairs.fast)):
            row |= {
                f"ms_{side}": total_ms(runs),
                f"gflop_{side}": flop[case] / 1e9,
                f"gflop_per_s_{side}": flop[case] / total_ms(runs) / 1e6,
                f"step_ms_{side}": medians(runs),
                f"step_host_ms_{side}": medians(runs, "host_ms"),
                f"step_floor_ms_{side}": floor[case],
                f"memory_{side}": peaks[case],
                f"memory_counted_{side}": holds[case],
            }
        rows.append(row)
    if graphs:
        columns = captured_times(model, sizes, methods, repeats, pictures)
        rows = [{**row, **columns[row["name"]]} for row in rows]
    return rows


def _record_overhead(model: Model, repeats: int) -> dict[str, Any]:
    """Measure the time that recording adds, as a fraction of a full generation."""
    draws = Keyed((0,), on_device=True)

    def seconds(recorders: Callable[[], list[Watch]]) -> float:
        watch = recorders()
        return generate(model, prompt(model), Dense(), draws=draws, watch=watch).seconds

    runs = {
        "recorded": partial(seconds, lambda: [partial(Recorder, trace=Trace())]),
        "plain": partial(seconds, list),
    }
    added = speedups(runs, repeats, base="recorded", progress="bench recording")["plain"].speedup
    return {"record_overhead": added.median - 1, "record_disturbed": added.disturbed}


def _resume_ratio(model: Model, repeats: int) -> dict[str, Any]:
    """Measure the time of resuming at the last scale over that of generating from scratch."""
    draws = Keyed((0,), on_device=True)
    base = generate(model, prompt(model), Dense(), draws=draws, snapshot=True)
    method: Method = Prune({-1: 0.75})
    runs = {
        "resumed": lambda: resume(model, base, method).seconds,
        "scratch": lambda: generate(model, prompt(model), method, draws=draws).seconds,
    }
    share = speedups(runs, repeats, base="resumed", progress="bench resuming")["scratch"].speedup
    return {"resume_ratio": share.median, "resume_disturbed": share.disturbed}


def table(result: dict[str, Any]) -> str:
    """Format the result for a terminal."""
    if "pts_ms" not in result:  # cases alone
        return case_table(result["cases"])
    overhead = (result["pts_ms"] + result["ctr_ms"]) / result["attention_ms_full"]
    lines = [
        case_table(result["cases"]),
        f"one sublayer at the last step: PTS {result['pts_ms']:.3f} ms, CTR {result['ctr_ms']:.3f} "
        f"ms, together {overhead:.1%} of attention's {result['attention_ms_full']:.2f} ms; "
        f"FFN {result['ffn_ms_full']:.2f} ms",
        f"recording adds {result['record_overhead']:.1%}{_note(result['record_disturbed'])}; "
        f"resuming the last scale takes {result['resume_ratio']:.1%} of a generation from scratch"
        f"{_note(result['resume_disturbed'])}",
    ]
    return "\n".join(lines)


NOTE = f" ({DISTURBED})"


def _note(disturbed: bool) -> str:
    return NOTE if disturbed else ""


def case_table(timed_cases: Sequence[dict[str, Any]]) -> str:
    """Format timed cases; "share" is speedup over bound, "floor" the lower bound in ms."""
    width = max(20, *(len(case["name"]) for case in timed_cases))
    titles = ("full ms", "fast ms", "speedup", "bound", "share", "floor ms, full and fast")
    columns = 6 if timed_cases[0]["step_floor_ms_full"] else 5
    widths = (9, 9, 8, 6, 6, 25)[:columns]
    heads = (f"{title:>{n}}" for title, n in zip(titles, widths))
    lines = [" ".join((f"{'case':<{width}}", *heads))]
    for case in timed_cases:
        share = case["speedup"] / case["speedup_flop_bound"]
        floors = [sum(case[f"step_floor_ms_{side}"]) for side in ("full", "fast")]
        floor = f" {floors[0]:15.1f} {floors[1]:9.1f}" if any(floors) else ""
        memory = [case[f"memory_{side}"] / 1e9 for side in ("full", "fast")]
        peak = f"  {memory[0]:.1f} and {memory[1]:.1f} GB at most" if any(memory) else ""
        skipped = f"  skips {', '.join(case['skipped'])}" if case["skipped"] else ""
        batch = f"  {case['pictures']} pictures" if case["pictures"] > 1 else ""
        lines.append(
            f"{case['name']:<{width}} {case['ms_full']:9.1f} {case['ms_fast']:9.1f} "
            f"{case['speedup']:8.2f} {case['speedup_flop_bound']:6.2f} {share:6.2f}"
            f"{floor}{batch}{peak}{skipped}{_note(case['disturbed'])}"
        )
    for case in timed_cases:
        if "speedup_graphs" in case:
            lines.append(
                f"{case['name']:<{width}} speedup {case['speedup_eager']:.2f} with both sides "
                f"without graphs, {case['speedup_graphs']:.2f} with both with graphs; time with "
                f"graphs over time without: full {case['graphs_full']:.2f}, fast "
                f"{case['graphs_fast']:.2f}{_note(case['graphs_disturbed'])}"
            )
        elif "no_graph" in case:
            lines.append(f"{case['name']:<{width}} not captured: {case['no_graph']}")
    lines.append("memory, counted:")
    for case in timed_cases:
        for side in ("full", "fast"):
            counted = Memory(**case[f"memory_counted_{side}"])
            lines.append(f"{case['name']:<{width}} {side}: {counted}")
    return "\n".join(lines)
