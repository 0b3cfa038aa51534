"""Times generations with and without graphs beside each other, and says which have no graph."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch

from fastvar_lab.draws import Keyed
from fastvar_lab.generation import generate
from fastvar_lab.graphs import CannotCapture
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.scales import Sizes
from fastvar_lab.seam import Method
from fastvar_lab.speed.peak import out_of_memory
from fastvar_lab.speed.timed import speedups_between

T = TypeVar("T")

OVER = {
    **{f"speedup_{mode}": (f"{mode}_full", f"{mode}_fast") for mode in ("eager", "graphs")},
    **{f"graphs_{side}": (f"graphs_{side}", f"eager_{side}") for side in ("full", "fast")},
}
"""Ratios of times with and without graphs, by column: whose time over whose."""


def unless_refused(work: Callable[[], T]) -> tuple[T | None, str]:
    """Return the result of `work`, or why it cannot be captured or does not fit in memory.

    >>> unless_refused(lambda: 3)
    (3, '')
    """
    try:
        return work(), ""
    except (CannotCapture, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not out_of_memory(error):
            raise
        reason = str(error).splitlines()[0]
    gc.collect()  # after the block: the error keeps the tensors alive inside it
    torch.cuda.empty_cache()  # does nothing without a GPU
    return None, reason


def captured_times(
    model: Model, sizes: Sizes, methods: dict[str, Method], repeats: int, pictures: int = 1
) -> dict[str, dict[str, Any]]:
    """Time generations with and without graphs, in turns, from encoded prompts to final latents.

    Columns by method: `ms_eager_*` and `ms_graphs_*` of full and fast, `speedup_eager` and
    `speedup_graphs`, in which both sides run without graphs or both with, and `graphs_*`, the time
    with graphs over that without. Each ratio is the median of those of single turns. A method that
    cannot be captured, or beside which memory does not suffice, has `no_graph` alone: the reason.
    """
    condition = model.condition([model.example] * pictures)
    draws = Keyed(tuple(range(pictures)), on_device=True)

    def ms(method: Method, graphs: bool) -> float:
        run = generate(model, condition, method, sizes=sizes, draws=draws, graphs=graphs)
        return 1e3 * run.seconds

    columns = dict[str, dict[str, Any]]()
    for name, method in methods.items():
        functions = {
            f"{mode}_{side}": partial(ms, one, mode == "graphs")
            for side, one in (("full", Dense()), ("fast", method))
            for mode in ("eager", "graphs")
        }
        row, reason = unless_refused(partial(_graph_columns, functions, repeats, f"graphs, {name}"))
        columns[name] = {"no_graph": reason} if row is None else row
        model.graphs.clear()
    return columns


def _graph_columns(
    functions: Mapping[str, Callable[[], float]], repeats: int, progress: str
) -> dict[str, Any]:
    """Return the columns of `captured_times` of one method, from what returns milliseconds."""
    measured = speedups_between(functions, OVER, repeats, warm_up=2, progress=progress)
    times = dict[str, list[float]]()
    for column in ("speedup_eager", "speedup_graphs"):
        one, other = OVER[column]
        times |= {one: measured[column].full, other: measured[column].fast}
    return {
        **{f"ms_{name}": statistics.median(times[name]) for name in functions},
        **{column: measured[column].speedup.median for column in OVER},
        "graphs_disturbed": any(pairs.speedup.disturbed for pairs in measured.values()),
    }
