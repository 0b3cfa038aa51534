"""Speed at the paper's sizes: released configurations with random weights, times beside floors."""

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
from fastvar_lab.files import digest, write_json
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
from fastvar_lab.speed.sublayers import PRUNED, sublayer_ms
from fastvar_lab.store import Rows, Store

SIDES = (512, 768, 1536, 2048)  # pixels, of the growth of cost; 1024 is among the aspects
BATCHES = (2, 4, 8)
TIMED = (
    *("seam", "tokens", "cache", "draws", "sampling", "scales", "generation"),
    *("backbones", "methods", "models", "instruments", "speed"),
)  # modules and rooms that what is timed runs through


@dataclass(frozen=True)
class Setting:
    """One model at one size; `sizes` None is the model's own schedule."""

    group: str
    model: str
    sizes: Sizes | None = None
    pictures: int = 1

    @property
    def name(self) -> str:
        """What `only` is looked for in: group, model and last map."""
        last = "x".join(map(str, self.sizes[-1])) if self.sizes else ""
        return " ".join(filter(None, (self.group, self.model, last, f"batch {self.pictures}")))


def settings() -> list[Setting]:
    """Everything that the suite times, one model after the other."""
    two = "infinity-2b"
    return [
        *(Setting("aspects", two, infinity(aspect)) for aspect in (1.0, 1.5, 0.5)),
        *(Setting("batches", two, infinity(), n) for n in BATCHES),
        *(Setting("growth", two, infinity_at(side, side)) for side in SIDES),
        Setting("memory", two, infinity_at(960, 1920)),
        Setting("sizes", "infinity-8b"),
        *(Setting("aspects", "infinity-8b", infinity(aspect)) for aspect in (1.5, 0.5)),
        Setting("sizes", "hart-0.7b"),
        *(Setting("batches", "hart-0.7b", None, n) for n in BATCHES),
        *(Setting("sizes", f"var-{size}") for size in ("d24", "d30", "d36")),
    ]


def chosen(only: str) -> list[Setting]:
    """Pick the settings whose name contains `only`; raise ValueError if there is none."""
    found = [s for s in settings() if only in s.name]
    if not found:
        names = ", ".join(s.name for s in settings())
        raise ValueError(f"no setting matches {only!r}; there are {names}")
    return found


def known(store: Store | None, settings: dict[str, Any], measure: Callable[[], Rows]) -> Rows:
    """Return what the store knows of settings, or measure; a disturbed timing is not kept."""
    rows = store.get(settings) if store else None
    if rows is None:
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
    out: Path | None = None,
) -> dict[str, Any]:
    """Time the settings whose name contains `only`, in full and under the paper's presets.

    `depth` cuts every model to so many layers: for a look at the command, not at the paper. Into
    the folder `out` every measurement is written as it is made, and read from there again.
    """
    wanted = chosen(only)
    conditions = {
        "repeats": repeats,
        "depth": depth,
        "dtype": str(dtype).removeprefix("torch."),
        **environment(device),
        "code": _code(),
    }
    store = None if out is None else Store(out / "cells").prepare()
    measured = _measure(wanted, partial(OnDemand, device=device, dtype=dtype, depth=depth),
                        conditions, store)  # fmt: skip
    if not measured["cases"]:
        where = conditions.get("gpu", device)
        raise ValueError(f"nothing that matches {only!r} fits the memory of {where}")
    words = ["python -m fastvar_lab bench --suite paper --device", device, "--repeats", repeats]
    words += ["--dtype", conditions["dtype"], *(["--depth", depth] if depth else [])]
    words += ["--case", shlex.quote(only)] if only else []
    return {
        "suite": "paper",
        "command": " ".join(map(str, words)),
        "date": datetime.date.today().isoformat(),
        **measured,
        "growth": growth(measured["cases"]),
        **conditions,
    }


def _measure(
    wanted: Sequence[Setting],
    model_of: Callable[[str], OnDemand],
    conditions: dict[str, Any],
    store: Store | None,
) -> dict[str, Any]:
    """Measure the device's rates, then each model's settings and sublayers, as far as they fit.

    What the store knows under the same `conditions` is read from there.
    """
    repeats = conditions["repeats"]
    some = model_of("")
    get = partial(known, store)
    (rated,) = get({"rates": True, **conditions}, lambda: [asdict(rates(some.device, some.dtype))])
    torch.cuda.empty_cache()  # does nothing without a GPU
    best = Rates(**rated)
    found, sublayers = list[dict[str, Any]](), dict[str, dict[str, float]]()
    for name, group in groupby(wanted, key=lambda s: s.model):
        model = model_of(name)
        common = {"model": name, **conditions}
        for setting in group:
            measure = partial(_cases, model, setting, repeats, best)
            cell = partial(get, {"setting": setting.name, **common}, measure)
            for case in _if_it_fits(setting.name, cell):
                found.append({"group": setting.group, "model": name, **case})
        cell = partial(
            get, {"sublayers": True, **common}, partial(_sublayers, model, repeats, best)
        )
        for row in _if_it_fits(f"sublayers of {name}", cell):
            sublayers[name] = row
        model.model = None  # before the next one is built
        torch.cuda.empty_cache()
    return {"cases": found, "sublayers": sublayers, "rates": rated}


@dataclass
class OnDemand:
    """A model that is built when it is first asked for: not at all if all is known."""

    name: str
    device: str
    dtype: torch.dtype
    depth: int | None
    model: Model | None = None

    def get(self) -> Model:
        """Return the model."""
        if self.model is None:
            self.model = load(self.name, "random", self.device, self.dtype, depth=self.depth)
        return self.model


def _if_it_fits(what: str, measure: Callable[[], Rows]) -> Rows:
    """Measure; where memory does not suffice say so, and return nothing."""
    try:
        return measure()
    except RuntimeError as error:
        # the libraries below have words of their own for it
        words = ("ALLOC_FAILED", "CUDA error: out of memory")
        if not (isinstance(error, torch.OutOfMemoryError) or any(w in str(error) for w in words)):
            raise
        told = str(error).splitlines()[0]
    torch.cuda.empty_cache()  # not above, where the error still holds what did not fit
    tqdm.write(f"{what} is left out: {told}")
    return []


def _cases(opened: OnDemand, setting: Setting, repeats: int, best: Rates) -> Rows:
    model = opened.get()
    sizes = setting.sizes or model.sizes
    methods = released(model, sizes)
    if setting.group not in ("aspects", "sizes"):  # pruned steps alone take nearly a full run
        methods = {name: m for name, m in methods.items() if name.endswith("paper preset")}
    return cases(model, sizes, methods, repeats, setting.pictures, best)


def _sublayers(opened: OnDemand, repeats: int, best: Rates) -> Rows:
    model = opened.get()
    return [{**sublayer_ms(model, prompt(model), repeats), **floors(model, best)}]


def floors(model: Model, best: Rates) -> dict[str, float]:
    """Milliseconds below which no sublayer call of `sublayer_ms` can get, by the same names.

    Selection reads all tokens and writes the kept ones; restoration reads the fresh ones and the
    cached map and writes all.
    """
    grids, backbone, found = model.grids(), model.transformer, dict[str, float]()
    words = len(prompt(model).split())
    ways: dict[str, Method] = {"full": Dense(), "pruned": PRUNED}
    for way, method in ways.items():
        *_, (_, act, made) = flops.calls(model, method, grids, words)
        live = flops.rows(act, 1, guided=True)
        for kind, name in (("attn", "attention"), ("ffn", "ffn")):
            few, keys = next((n, k) for called, n, k in made if called == kind)
            products = live * backbone.sublayer_flops(kind, few, keys)
            read = flops.sublayer_bytes(model, kind, live, keys)
            (found[f"{name}_floor_ms_{way}"],) = best.floor_ms([products], [read])
    # the last way is the pruned one
    every, before = grids[-1].tokens, grids[cast(int, PRUNED.cache_index(grids))].tokens
    token = live * backbone.config.width * backbone.head.weight.element_size()
    found["pts_floor_ms"], found["ctr_floor_ms"] = best.floor_ms(
        [0, 0], [token * (every + few), token * (few + before + every)]
    )
    return found


def growth(found: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Fit the exponents of time over tokens of the last map, full and under the paper's preset."""
    rows = grown(found)
    if len(rows) < 2:
        return {}
    tokens = [c["tokens"] for c in rows]
    return {
        way: charts.exponent(tokens, [c[f"ms_{way}"] for c in rows]) for way in ("full", "fast")
    }


def grown(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pick the square pictures of the model that is measured at several sizes, with `tokens`."""
    growing = {c["model"] for c in found if c["group"] == "growth"}
    rows = list[dict[str, Any]]()
    for case in found:
        h, w = parse_size(case["scales"][-1])
        square = h == w and case["model"] in growing and case["group"] in ("growth", "aspects")
        if square and case["name"].endswith("paper preset"):
            rows.append({**case, "tokens": h * w})
    return sorted(rows, key=lambda row: row["tokens"])


def _code() -> str:
    """Hash the sources that what is timed runs through."""
    here = Path(__file__).parent.parent
    sources = [
        path
        for name in TIMED
        for path in (
            (here / name).glob("*.py") if (here / name).is_dir() else [here / f"{name}.py"]
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
        small = (ms["pts_ms"] + ms["ctr_ms"]) / ms["attention_ms_full"]
        lines.append(f"{model}: {', '.join(calls)}; the last two {small:.1%} of full attention")
    if result["growth"]:
        lines += [
            "",
            f"Time grows with tokens to the power {result['growth']['full']:.2f} in full, "
            f"{result['growth']['fast']:.2f} pruned.",
        ]
    return "\n".join(lines)


def write(result: dict[str, Any], out: Path) -> None:
    """Write the result into a folder: numbers, table and figure."""
    write_json(out / "speed.json", result)
    files.write(out / "speed.txt", lambda p: p.write_text(table(result) + "\n"))
    drawn = charts.suite(pd.DataFrame(result["cases"]), pd.DataFrame(grown(result["cases"])))
    for ending in ("png", "pdf"):
        write_figure(out / f"speed.{ending}", drawn)
