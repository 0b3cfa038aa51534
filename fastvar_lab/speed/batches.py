"""Throughput and latency by batch size, with the memory that each takes."""

from __future__ import annotations

import datetime
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from fastvar_lab import files
from fastvar_lab.draws import Keyed
from fastvar_lab.files import write_json
from fastvar_lab.generation import generate
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts
from fastvar_lab.plotting.style import write_figure
from fastvar_lab.provenance import provenance
from fastvar_lab.seam import Method
from fastvar_lab.speed.bench import NOTE, released
from fastvar_lab.speed.memory import memory, size
from fastvar_lab.speed.timed import speedups

SIZES = (1, 2, 4, 8)
EAGER, GRAPHS = "without graphs", "with graphs"


def run(model: Model, *, repeats: int, only: str = "", graphs: bool = False) -> dict[str, Any]:
    """Time batches of each size under full generation and the methods that `bench` times.

    All batch sizes run in turns. A time is from encoded prompts to final latents: rows have `ms` of
    the batch and `per_second`, pictures; memory as counted beforehand and, on a GPU, as allocated.
    `only` is part of the names of methods. With `graphs`, captured generations are timed too.
    Raises ValueError if no method matches.
    """
    names = {"full": Dense(), **released(model, model.sizes)}
    methods: dict[str, Method] = {name: m for name, m in names.items() if only in name}
    if not methods:
        raise ValueError(f"no method matches {only!r}; there are {', '.join(names)}")
    rows = list[dict[str, Any]]()
    for mode in (EAGER, GRAPHS) if graphs else (EAGER,):
        for name, method in methods.items():
            rows += _rows(model, name, method, mode, repeats)
    return {
        "suite": "batches",
        "date": datetime.date.today().isoformat(),
        "repeats": repeats,
        "rows": rows,
        **provenance(model),
    }


def _rows(model: Model, name: str, method: Method, mode: str, repeats: int) -> list[dict[str, Any]]:
    def once(n: int) -> tuple[float, int]:
        if model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(model.device)
        condition = model.condition([model.example] * n)
        draws = Keyed(tuple(range(n)), on_device=True)
        generation = generate(model, condition, method, draws=draws, graphs=mode == GRAPHS)
        cuda = model.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(model.device) if cuda else 0
        return generation.seconds, peak

    functions = {str(n): partial(once, n) for n in SIZES}
    measured = speedups(
        functions, repeats, lambda run: run[0], base=str(SIZES[0]), warm_up=2, progress=name
    )
    rows = []
    for n in SIZES:
        pairs = measured[str(n)]
        seconds = statistics.median(run[0] for run in pairs.fast)
        rows.append(
            {
                "method": name,
                "mode": mode,
                "pictures": n,
                "ms": 1e3 * seconds,
                "per_second": n / seconds,
                "bytes_counted": memory(model, method, pictures=n).generation,
                "bytes_allocated": max(run[1] for run in pairs.fast),
                "disturbed": n != SIZES[0] and pairs.speedup.disturbed,
            }
        )
    model.graphs.clear()
    return rows


def table(result: dict[str, Any]) -> str:
    """Format the result for a terminal."""
    rows = result["rows"]
    width = max(20, *(len(row["method"]) for row in rows))
    lines = [
        f"{result['date']}, {result['model']} on {result['device']}: medians of "
        f"{result['repeats']}, from encoded prompts to final latents",
        f"{'method':<{width}} {'mode':<14} pictures   ms of batch  ms a picture  pictures/s"
        "      counted  allocated",
    ]
    for row in rows:
        taken = size(row["bytes_allocated"]) if row["bytes_allocated"] else "-"
        lines.append(
            f"{row['method']:<{width}} {row['mode']:<14} {row['pictures']:8} {row['ms']:13.1f} "
            f"{row['ms'] / row['pictures']:13.1f} {row['per_second']:11.2f} "
            f"{size(row['bytes_counted']):>12} {taken:>10}{NOTE if row['disturbed'] else ''}"
        )
    return "\n".join(lines)


def write(result: dict[str, Any], out: str | Path) -> None:
    """Write the result into a folder: numbers, table and figure."""
    out = files.folder(out)
    write_json(out / "batches.json", result)
    text = table(result) + "\n"
    files.write_utf8(out / "batches.txt", text)
    figure = charts.batches(pd.DataFrame(result["rows"]))
    for ending in ("png", "pdf"):
        write_figure(out / f"batches.{ending}", figure)
