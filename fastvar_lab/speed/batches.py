"""Throughput and latency by batch size, with the memory that each takes."""

from __future__ import annotations

import datetime
import statistics
from collections import defaultdict
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

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
from fastvar_lab.speed.captured import unless_refused
from fastvar_lab.speed.memory import memory, size
from fastvar_lab.speed.peak import peak_bytes
from fastvar_lab.speed.timed import Pairs, speedups

SIZES = (1, 2, 4, 8)
EAGER, GRAPHS = "without graphs", "with graphs"


def run(model: Model, *, repeats: int, only: str = "", graphs: bool = False) -> dict[str, Any]:
    """Time batches of each size under full generation and the methods that `bench` times.

    All batch sizes run in turns. A time is from encoded prompts to final latents: rows have `ms` of
    the batch and `per_second`, pictures; memory as counted beforehand and, on a GPU, as allocated
    in a run of its own before the turns. `only` is part of the names of methods. With `graphs`,
    captured generations are timed too. `left_out` are the batches that cannot be captured or do not
    fit in memory, each with its `reason`. Raises ValueError if no method matches, or nothing fits.
    """
    names = {"full": Dense(), **released(model, model.sizes)}
    methods: dict[str, Method] = {name: m for name, m in names.items() if only in name}
    if not methods:
        raise ValueError(f"no method matches {only!r}; there are {', '.join(names)}")
    rows, left_out = list[dict[str, Any]](), list[dict[str, Any]]()
    for mode in (EAGER, GRAPHS) if graphs else (EAGER,):
        for name, method in methods.items():
            timed, refused = _rows(model, name, method, mode, repeats)
            rows, left_out = rows + timed, left_out + refused
    if not rows:
        raise ValueError(f"no batch fits in memory: {left_out[0]['reason']}")
    return {
        "suite": "batches",
        "date": datetime.date.today().isoformat(),
        "repeats": repeats,
        "rows": rows,
        "left_out": left_out,
        **provenance(model),
    }


def _rows(
    model: Model, name: str, method: Method, mode: str, repeats: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Time the batches of a method; return their rows, and those that are left out."""

    def once(n: int) -> float:
        condition = model.condition([model.example] * n)
        draws = Keyed(tuple(range(n)), on_device=True)
        return generate(model, condition, method, draws=draws, graphs=mode == GRAPHS).seconds

    def alone(n: int) -> int:
        model.graphs.clear()  # those of another batch hold memory, too
        peak = peak_bytes(model.device, partial(once, n))
        once(n)  # on a CPU the first run, which may be refused
        return peak

    def turned(sizes: Collection[int]) -> dict[str, Pairs[float]]:
        functions = {str(n): partial(once, n) for n in sizes}
        warm_up = 1 if mode == EAGER else 2  # graphs are captured anew, and replayed once
        return speedups(functions, repeats, base=str(min(sizes)), warm_up=warm_up, progress=name)

    peaks, reasons = dict[int, int](), dict[int, str]()
    for n in SIZES:
        peak, reason = unless_refused(partial(alone, n))
        if peak is None:
            reasons[n] = reason
        else:
            peaks[n] = peak
    model.graphs.clear()
    measured, reason = unless_refused(partial(turned, peaks)) if peaks else (None, "")
    if measured is None:  # the turns hold the graphs of all batches
        reasons |= dict.fromkeys(peaks, reason)
    model.graphs.clear()
    common = {"method": name, "mode": mode}
    rows = list[dict[str, Any]]()
    for text, pairs in (measured or {}).items():
        n, seconds = int(text), statistics.median(pairs.fast)
        rows.append(
            {
                **common,
                "pictures": n,
                "ms": 1e3 * seconds,
                "per_second": n / seconds,
                "bytes_counted": memory(model, method, pictures=n).generation,
                "bytes_allocated": peaks[n],
                "disturbed": pairs.speedup.disturbed,
            }
        )
    return rows, [{**common, "pictures": n, "reason": reasons[n]} for n in sorted(reasons)]


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
    left_out = defaultdict[tuple[str, str, str], list[int]](list)
    for row in result["left_out"]:
        left_out[row["method"], row["mode"], row["reason"]].append(row["pictures"])
    for (method, mode, reason), pictures in left_out.items():
        batches = ", ".join(map(str, pictures))
        lines.append(f"left out: {method} {mode}, batches of {batches}: {reason}")
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
