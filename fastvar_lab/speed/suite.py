"""The paper suite: times released configurations with random weights, beside hardware floors."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from tqdm.auto import tqdm

from fastvar_lab import files
from fastvar_lab.files import digest, expanded, write_json
from fastvar_lab.measure.speedup import disturbed
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.loading import load
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts
from fastvar_lab.plotting.style import write_figure
from fastvar_lab.provenance import environment
from fastvar_lab.scales import Sizes, infinity, infinity_at, parse_size
from fastvar_lab.seam import Method
from fastvar_lab.speed import flops
from fastvar_lab.speed.bench import Rates, case_table, cases, prompt, rates, released
from fastvar_lab.speed.peak import out_of_memory
from fastvar_lab.speed.sublayers import PRUNED, sublayer_ms
from fastvar_lab.store import Rows, Store

SIDES = (512, 768, 1536, 2048)  # pixels a side, to fit growth; 1024 is in the group "aspects"
BATCHES = (2, 4, 8)
TIMED = (
    *("seam", "tokens", "cache", "draws", "sampling", "scales", "live", "generation"),
    *("graphs", "capture", "audit", "request", "snapshots", "tensors"),
    *("backbones", "methods", "models", "instruments", "speed"),
)  # modules and rooms whose code a timing depends on


@dataclass(frozen=True)
class Setting:
    """One model at one size and batch size; without `sizes`, at the model's schedule."""

    group: str
    model: str
    sizes: Sizes | None = None
    pictures: int = 1

    @property
    def name(self) -> str:
        """The name that `--case` is matched with: group, model, last map and batch size."""
        last = "x".join(map(str, self.sizes[-1])) if self.sizes else ""
        return " ".join(filter(None, (self.group, self.model, last, f"batch {self.pictures}")))


def settings() -> list[Setting]:
    """Return all settings of the suite, grouped by model."""
    infinity_2b = "infinity-2b"
    return [
        *(Setting("aspects", infinity_2b, infinity(aspect)) for aspect in (1.0, 1.5, 0.5)),
        *(Setting("batches", infinity_2b, infinity(), n) for n in BATCHES),
        *(Setting("growth", infinity_2b, infinity_at(side, side)) for side in SIDES),
        Setting("memory", infinity_2b, infinity_at(960, 1920)),
        Setting("sizes", "infinity-8b"),
        *(Setting("aspects", "infinity-8b", infinity(aspect)) for aspect in (1.5, 0.5)),
        Setting("sizes", "hart-0.7b"),
        *(Setting("batches", "hart-0.7b", None, n) for n in BATCHES),
        *(Setting("sizes", f"var-{size}") for size in ("d24", "d30", "d36")),
    ]


def chosen(only: str) -> list[Setting]:
    """Return the settings whose name contains `only`; raise ValueError if there is none."""
    matches = [s for s in settings() if only in s.name]
    if not matches:
        names = ", ".join(s.name for s in settings())
        raise ValueError(f"no setting matches {only!r}; there are {names}")
    return matches


def stored(store: Store | None, settings: dict[str, Any], measure: Callable[[], Rows]) -> Rows:
    """Return the stored rows of `settings`, or measure and store them unless disturbed."""
    rows = store.get(settings) if store else None
    if rows is None:
        if store:
            store.prepare()
        rows = measure()
        if store and not disturbed(rows):
            store.put(settings, rows)
    return rows


def run(
    *,
    repeats: int,
    only: str,
    device: str,
    dtype: torch.dtype,
    depth: int | None = None,
    out: str | Path | None = None,
    graphs: bool = False,
) -> dict[str, Any]:
    """Time the settings whose name contains `only`, in full and under the models' presets.

    `depth` cuts every model to its first layers, for a quick trial of the command. With `graphs`
    cases have times of captured generations, too. Each measurement
    is stored in the folder `out` at once, and read from there in a later run. Raises ValueError if
    no setting matches, or none fits in memory.
    """
    matches = chosen(only)
    conditions = {
        "repeats": repeats,
        "depth": depth,
        "graphs": graphs,
        "dtype": str(dtype).removeprefix("torch."),
        **environment(device),
        "code": _code(),
    }
    store = None if out is None else Store(expanded(out) / "cells")
    measured = _measure(matches, partial(OnDemand, device=device, dtype=dtype, depth=depth),
                        conditions, store)  # fmt: skip
    if not measured["cases"]:
        place = conditions.get("gpu", device)
        raise ValueError(f"no setting that matches {only!r} fits in the memory of {place}")
    command = ["python -m fastvar_lab bench --suite paper --device", device, "--repeats", repeats]
    command += ["--dtype", conditions["dtype"], *(["--depth", depth] if depth else [])]
    command += ["--graphs"] if graphs else []
    command += ["--case", shlex.quote(only)] if only else []
    return {
        "suite": "paper",
        "command": " ".join(map(str, command)),
        "date": datetime.date.today().isoformat(),
        **measured,
        "growth": growth(measured["cases"]),
        **conditions,
    }


def _measure(
    matches: Sequence[Setting],
    model_of: Callable[[str], OnDemand],
    conditions: dict[str, Any],
    store: Store | None,
) -> dict[str, Any]:
    """Measure the device's rates, then each model's settings and sublayers.

    Measurements stored under the same `conditions` are read; those that exceed memory are left out.
    """
    repeats = conditions["repeats"]
    unnamed = model_of("")  # for its device and dtype
    get = partial(stored, store)
    (peak,) = get(
        {"rates": True, **conditions}, lambda: [asdict(rates(unnamed.device, unnamed.dtype))]
    )
    torch.cuda.empty_cache()  # does nothing without a GPU
    best = Rates(**peak)
    timed, sublayers = list[dict[str, Any]](), dict[str, dict[str, float]]()
    for name, group in groupby(matches, key=lambda s: s.model):
        model = model_of(name)
        common = {"model": name, **conditions}
        for setting in group:
            measure = partial(_cases, model, setting, repeats, best, conditions["graphs"])
            cell = partial(get, {"setting": setting.name, **common}, measure)
            for case in _if_it_fits(setting.name, cell):
                timed.append({"group": setting.group, "model": name, **case})
        cell = partial(
            get, {"sublayers": True, **common}, partial(_sublayers, model, repeats, best)
        )
        for row in _if_it_fits(f"sublayers of {name}", cell):
            sublayers[name] = row
        model.model = None  # before the next one is built
        torch.cuda.empty_cache()
    return {"cases": timed, "sublayers": sublayers, "rates": peak}


@dataclass
class OnDemand:
    """A model that is built at the first `get`, so not at all if all measurements are stored."""

    name: str
    device: str
    dtype: torch.dtype
    depth: int | None
    model: Model | None = None

    def get(self) -> Model:
        """Return the model; build it at the first call."""
        if self.model is None:
            self.model = load(self.name, "random", self.device, self.dtype, depth=self.depth)
        return self.model


def _if_it_fits(name: str, measure: Callable[[], Rows]) -> Rows:
    """Measure; if memory does not suffice, print a line and return no rows."""
    try:
        return measure()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        reason = str(error).splitlines()[0]
    torch.cuda.empty_cache()  # after the block: the error keeps the tensors alive inside it
    tqdm.write(f"{name} is left out: {reason}")
    return []


def _cases(opened: OnDemand, setting: Setting, repeats: int, best: Rates, graphs: bool) -> Rows:
    model = opened.get()
    sizes = setting.sizes or model.sizes
    methods = released(model, sizes)
    if setting.group not in (
        "aspects",
        "sizes",
    ):  # the variant without skipping takes nearly a full run
        methods = {name: m for name, m in methods.items() if name.endswith("preset")}
    return cases(model, sizes, methods, repeats, setting.pictures, best, graphs)


def _sublayers(opened: OnDemand, repeats: int, best: Rates) -> Rows:
    model = opened.get()
    times = sublayer_ms(model, prompt(model), repeats, progress=f"sublayers of {opened.name}")
    return [{**times, **floors(model, best)}]


def floors(model: Model, best: Rates) -> dict[str, float]:
    """Return lower bounds in ms of the times of `sublayer_ms`, such as "attention_floor_ms_full".

    Selection reads all tokens and writes the kept ones. Restoration reads the computed tokens and
    the cached map, and writes all tokens.
    """
    grids, backbone, bounds = model.grids(), model.transformer, dict[str, float]()
    text_tokens = len(prompt(model).split())
    methods: dict[str, Method] = {"full": Dense(), "pruned": PRUNED}
    for label, method in methods.items():
        *_, last = flops.steps(model, method, grids, text_tokens)
        for kind, name in (("attn", "attention"), ("ffn", "ffn")):
            _, live, few, keys = next(call for call in last.calls if call.site.kind == kind)
            products = live * backbone.sublayer_flops(kind, few, keys)
            read = flops.sublayer_bytes(model, kind, live, keys)
            (bounds[f"{name}_floor_ms_{label}"],) = best.floor_ms([products], [read])
    # `live` and `few` are those of the pruned method, which comes last
    every, before = grids[-1].tokens, grids[cast(int, PRUNED.cache_index(grids))].tokens
    token = live * backbone.config.width * (model.autocast or model.dtype).itemsize
    bounds["pts_floor_ms"], bounds["ctr_floor_ms"] = best.floor_ms(
        [0, 0], [token * (every + few), token * (few + before + every)]
    )
    return bounds


def growth(timed: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Fit exponents of time over tokens of the last map, "full" and "fast" (preset)."""
    rows = grown(timed)
    if len(rows) < 2:
        return {}
    tokens = [c["tokens"] for c in rows]
    return {
        side: charts.exponent(tokens, [c[f"ms_{side}"] for c in rows]) for side in ("full", "fast")
    }


def grown(timed: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the square cases of the models timed at several sizes, with a column `tokens`.

    Cases whose timing was disturbed are left out.
    """
    growing = {c["model"] for c in timed if c["group"] == "growth"}
    rows = list[dict[str, Any]]()
    for case in timed:
        h, w = parse_size(case["scales"][-1])
        square = h == w and case["model"] in growing and case["group"] in ("growth", "aspects")
        if square and case["name"].endswith("preset") and not disturbed([case]):
            rows.append({**case, "tokens": h * w})
    return sorted(rows, key=lambda row: row["tokens"])


def _code() -> str:
    """Hash the source files that a timing depends on."""
    root = Path(__file__).parent.parent
    sources = [
        path
        for name in TIMED
        for path in (
            (root / name).glob("*.py") if (root / name).is_dir() else [root / f"{name}.py"]
        )
    ]
    return digest(*(path.read_bytes() for path in sorted(sources)), length=16)


def table(result: dict[str, Any]) -> str:
    """Format the result for a terminal."""
    best = result["rates"]
    lines = [
        f"{result['date']}, {result.get('gpu', result['device'])}, {result['dtype']}, torch "
        f"{result['versions']['torch']}: {best['flop'] / 1e12:.2f} TFLOP/s in a large product, "
        f"{best['byte'] / 1e9:.0f} GB/s read; medians of {result['repeats']}",
        "",
        case_table(result["cases"]),
        "",
        "One call at the last step, full and with three quarters pruned (ms, floor in brackets):",
    ]
    for model, ms in result["sublayers"].items():
        calls = [
            f"{title} {ms[f'{name}_ms_full']:.3f} ({ms[f'{name}_floor_ms_full']:.3f}) and "
            f"{ms[f'{name}_ms_pruned']:.3f} ({ms[f'{name}_floor_ms_pruned']:.3f})"
            for title, name in (("attention", "attention"), ("FFN", "ffn"))
        ]
        calls += [
            f"{name.upper()} {ms[f'{name}_ms']:.3f} ({ms[f'{name}_floor_ms']:.3f})"
            for name in ("pts", "ctr")
        ]
        overhead = (ms["pts_ms"] + ms["ctr_ms"]) / ms["attention_ms_full"]
        lines.append(f"{model}: {', '.join(calls)}; the last two {overhead:.1%} of full attention")
    if result["growth"]:
        lines += [
            "",
            f"Time grows with tokens to the power {result['growth']['full']:.2f} in full, "
            f"{result['growth']['fast']:.2f} pruned.",
        ]
    return "\n".join(lines)


def write(result: dict[str, Any], out: str | Path) -> None:
    """Write the result into a folder: numbers, table and figure."""
    out = files.folder(out)
    write_json(out / "speed.json", result)
    files.write_utf8(out / "speed.txt", table(result) + "\n")
    figure = charts.suite(pd.DataFrame(result["cases"]), pd.DataFrame(grown(result["cases"])))
    for ending in ("png", "pdf"):
        write_figure(out / f"speed.{ending}", figure)
