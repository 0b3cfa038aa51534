"""Times the pure maths of branches, compiled and not, at the last scale step of a model.

Only functions of tensors are compiled: modulation, normalised and rotated queries and keys, and the
feed-forward branch. Decisions stay in Python. Nothing in the library compiles by default: compiled
functions round otherwise, and take seconds to build for every shape.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastvar_lab.backbones.branches import feed_forward_branch
from fastvar_lab.backbones.layers import modulate, unit
from fastvar_lab.backbones.positions import rotate_
from fastvar_lab.measure.speedup import DISTURBED
from fastvar_lab.models.model import Model
from fastvar_lab.provenance import provenance
from fastvar_lab.seam import Runner
from fastvar_lab.speed.timed import paired, turns

COMPILERS = ("g++", "clang++", "c++")


def check_compiler(device: torch.device) -> None:
    """Raise ValueError on a CPU without the C++ compiler that `torch.compile` runs."""
    if device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
        raise ValueError(
            f"torch.compile needs a C++ compiler on a CPU, one of {', '.join(COMPILERS)}; "
            "none is installed"
        )


def branches(model: Model) -> dict[str, tuple[Callable[..., Tensor], tuple[Any, ...]]]:
    """Return the functions to compile with arguments of the last step, for both guidance rows.

    Raises ValueError for a model without adaLN branches.
    """
    backbone: Any = model.transformer
    if not hasattr(backbone.blocks[0], "ffn") or "cross" not in backbone.kinds:
        raise ValueError(f"branches are compiled for Infinity models; not for {model.name}")
    grid, config = model.grids()[-1], backbone.config
    dice = torch.Generator(model.device).manual_seed(0)
    shape = (2, grid.tokens, config.width)
    x = torch.randn(shape, generator=dice, dtype=model.dtype, device=model.device)
    qk = x.repeat(1, 1, 2).view(2, grid.tokens, 2 * config.heads, config.head_dim)
    text = backbone.with_null(model.condition([model.example]))
    state = backbone.begin(text, model.grids(), Runner())
    mod, (_, scale) = state.modulations[0], state.constants[0]
    ffn, table = backbone.blocks[0].ffn, state.table(grid)

    def queries_and_keys(qk: Tensor, scale: Tensor, table: Tensor) -> Tensor:
        out = unit(qk, precise=True)
        out[:, :, : config.heads].mul_(scale)
        return rotate_(out, table).to(qk.dtype)

    def feed_forward(x: Tensor) -> Tensor:
        return feed_forward_branch(x, ffn=ffn, mod=mod)

    return {
        "modulated norm": (modulate, (x, mod.up1, mod.shift1)),
        "queries and keys": (queries_and_keys, (qk, scale, table)),
        "feed-forward branch": (feed_forward, (x,)),
    }


def run(model: Model, *, repeats: int, only: str = "") -> dict[str, Any]:
    """Time each function compiled and not, in turns; rows have ms, build seconds, difference.

    Raises ValueError without a compiler, or if no function's name contains `only`.
    """
    check_compiler(model.device)
    rows = list[dict[str, Any]]()
    with torch.no_grad():
        chosen = {name: pair for name, pair in branches(model).items() if only in name}
        if not chosen:
            raise ValueError(f"no branch matches {only!r}; there are {', '.join(branches(model))}")
        for name, (function, args) in chosen.items():
            begin = time.perf_counter()
            compiled = torch.compile(function, dynamic=False)
            out, plain = compiled(*args), function(*args)
            seconds = time.perf_counter() - begin
            works = {"plain": function, "compiled": compiled}
            times = turns(
                {which: _timer(work, args, model.device) for which, work in works.items()},
                repeats,
                warm_up=3,
                progress=name,
            )
            pairs = paired(times["plain"], times["compiled"])
            gap = (out.double() - plain.double()).abs().max() / plain.double().abs().max()
            rows.append(
                {
                    "branch": name,
                    "ms_plain": statistics.median(pairs.full),
                    "ms_compiled": statistics.median(pairs.fast),
                    **pairs.speedup.columns(),
                    "build_seconds": seconds,
                    "largest_difference": float(gap),
                }
            )
    return {"suite": "compiled", "repeats": repeats, "rows": rows, **provenance(model)}


def _timer(
    work: Callable[..., Tensor], args: tuple[Any, ...], device: torch.device
) -> Callable[[], float]:
    def once() -> float:
        begin = time.perf_counter()
        work(*args)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return 1e3 * (time.perf_counter() - begin)

    return once


def table(result: dict[str, Any]) -> str:
    """Format the result for a terminal."""
    lines = [
        f"{'branch':<20} {'ms':>8} {'compiled':>9} {'speedup':>8} {'build s':>8} {'difference':>11}"
    ]
    for row in result["rows"]:
        lines.append(
            f"{row['branch']:<20} {row['ms_plain']:8.2f} {row['ms_compiled']:9.2f} "
            f"{row['speedup']:8.2f} {row['build_seconds']:8.1f} {row['largest_difference']:11.1e}"
            f"{f'  ({DISTURBED})' if row['disturbed'] else ''}"
        )
    return "\n".join(lines)
