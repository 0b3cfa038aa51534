"""Weights in fewer bits beside pruning: pictures, time, and memory of the released sizes."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from functools import cache
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

from fastvar_lab.experiments.base import (
    Cell,
    Experiment,
    Methods,
    Question,
    full_and_preset,
    has_random_weights,
    in_turns,
    timed_cells,
)
from fastvar_lab.experiments.verdicts import (
    FAILS,
    HOLDS,
    OPEN,
    Answer,
    Claim,
    above,
    label,
    mean,
    median,
    together,
)
from fastvar_lab.frames import FASTVAR, FULL
from fastvar_lab.generation import generate, resume
from fastvar_lab.measure.quality import psnr
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.converted import converted
from fastvar_lab.models.loading import hollow
from fastvar_lab.models.model import Model
from fastvar_lab.pictures import to_uint8
from fastvar_lab.planning.plans import frontier
from fastvar_lab.plotting import charts
from fastvar_lab.speed.bench import product_rate
from fastvar_lab.speed.memory import Memory, memory
from fastvar_lab.store import Rows

WIDE = "float32"
PRECISIONS: dict[str, tuple[str, torch.dtype]] = {
    WIDE: (WIDE, torch.float32),
    "bfloat16": (WIDE, torch.bfloat16),
    "float16": (WIDE, torch.float16),
    "int8": ("int8", torch.float32),
}
"""Names of precisions, as `Model.set_precision` takes them."""

COUNTED = {k: v for k, v in PRECISIONS.items() if k != "int8"} | {"int8": ("int8", torch.bfloat16)}
"""Those whose memory is counted: int8 weights beside bfloat16, as they are served."""

RELEASES = ("infinity-2b", "hart-0.7b", "var-d30")
REAL = 1.5  # products at least so many times as fast as in float32: the device has a kernel
WORSE = -0.5  # dB by which two errors together may exceed their sum
PLANNED = 2.0  # times as fast as full generation: of the planned schedules, the nearest one


def methods(model: Model) -> Methods:
    """Full generation, the preset, and a planned schedule of a model that has some."""
    plans = frontier(model)
    nearest = sorted(plans, key=lambda plan: abs(plan.speedup - PLANNED))[:1]
    named = {f"planned {plan.speedup:g}x": plan.method for plan in nearest}
    return {**full_and_preset(model), **named}


def cells(question: Question) -> list[list[Cell]]:
    """Return cells of pictures by batch, of times, and of the memory of released sizes.

    Random weights are timed and counted alone; a quick look times two precisions, and counts one
    size.
    """
    quick = question.scope.name == "quick"
    drawn = [
        [
            Cell({"what": "quality", "precision": name}, method, label, items, first,
                 question.prompts.judge)
            for name in PRECISIONS
            for label, method in question.methods.items()
        ]
        for first, items in question.batches()
    ]  # fmt: skip
    names = list(PRECISIONS)[: 2 if quick else None]
    timed = [
        cell
        for name in names
        for cell in timed_cells(question, question.scope.repeats, what="time", precision=name)
    ]
    counted = [
        [
            Cell({"what": "memory", "release": release, "precision": name, "method": family,
                  "family": family})
            for name in COUNTED
            for family in (FULL, FASTVAR)
        ]
        for release in RELEASES[: 1 if quick else None]
    ]  # fmt: skip
    return [*([] if has_random_weights(question.model) else drawn), timed, *counted]


def reduced_precision(model: Model, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Rows]]:
    """Draw, time or count one group of cells."""
    work = {"quality": _pictures, "time": _times, "memory": _memory}
    yield from work[cells[0].columns["what"]](model, cells)


def _pictures(model: Model, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Rows]]:
    """Compare pictures with the full ones in float32, and with those in their own precision.

    `error` is the mean square beside the full pictures in float32, of values in 0 to 255.
    """
    prompts, seeds = cells[0].prompts, cells[0].seeds

    @cache
    def full(name: str) -> Any:
        narrow = converted(model, *PRECISIONS[name])
        return narrow, generate(narrow, prompts, Dense(), seed=seeds, snapshot=True)

    @cache
    def pictures(name: str, method: Any) -> np.ndarray:
        narrow, dense = full(name)
        run = dense if method == Dense() else resume(narrow, dense, method)
        return to_uint8(narrow.decode(run.canvas))

    for cell in cells:
        name = cell.columns["precision"]
        drawn, same, wide = (
            pictures(name, cast(Hashable, cell.method)),
            pictures(name, Dense()),
            pictures(WIDE, Dense()),
        )
        rows: Rows = [
            {
                "picture": cell.first + i,
                **item._asdict(),
                "psnr": psnr(drawn[i], wide[i]),
                "psnr_same": psnr(drawn[i], same[i]),
                "error": float(np.square(drawn[i].astype(float) - wide[i]).mean()),
                **cell.score(i, drawn[i]),
            }
            for i, item in enumerate(cell.items)
        ]
        yield cell, rows


def _times(model: Model, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Rows]]:
    """Time generations in turns; `product` is how fast products are, as multiples of float32's.

    Weights in int8 have no product of their own: they are converted for each.
    """
    names = dict.fromkeys([WIDE, *(cell.columns["precision"] for cell in cells)])
    models = {name: converted(model, *PRECISIONS[name]) for name in names}
    speeds = {d: product_rate(model.device, d) for d in {PRECISIONS[n][1] for n in names}}

    def once(cell: Cell) -> float:
        assert cell.method is not None
        return generate(models[cell.columns["precision"]], cell.prompts, cell.method).seconds

    first = cells[0]
    columns = {"what": "time", "precision": WIDE}
    base = Cell(columns, Dense(), FULL, first.items, repeats=first.repeats)
    for cell, pairs in in_turns(cells, once, base, float):
        share = speeds[PRECISIONS[cell.columns["precision"]][1]] / speeds[torch.float32]
        rows: Rows = [
            {"turn": turn, "ms": seconds * 1e3, "speedup": ratio, "product": share,
             "disturbed": pairs.speedup.disturbed}
            for turn, (seconds, ratio) in enumerate(zip(pairs.fast, pairs.ratios, strict=True))
        ]  # fmt: skip
        yield cell, rows


def _memory(model: Model, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Rows]]:
    """Count bytes of a released size up to the latent; no weights are needed."""

    @cache
    def opened(release: str, kind: str, dtype: torch.dtype) -> Model:
        return hollow(release, kind, dtype)

    counts = dict[tuple[Any, ...], Memory]()  # types of one width hold the same bytes
    for cell in cells:
        release, name, way = (cell.columns[c] for c in ("release", "precision", "method"))
        kind, dtype = COUNTED[name]
        key = release, kind, dtype.itemsize, way
        if key not in counts:
            shape = opened(release, kind, dtype)
            method = Dense() if way == FULL else shape.preset
            assert method is not None
            counts[key] = memory(shape, method, decode=False)
        count = counts[key]
        caches = count.cache + count.restoration
        held = {"weight_bytes": count.weights, "cache_bytes": caches}
        yield cell, [{**held, "peak_bytes": count.generation}]


def errors(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row a picture, precision and pruned method: how two errors go together.

    `gap` is in dB: the error that both alone sum up to, over that of both together. Above 0 they
    hide each other, below they amplify each other; at 0 they add.
    """
    rows = frame[frame.what == "quality"]
    full = label(rows[rows.family == "full"], "that prunes nothing")
    error = rows.pivot_table(index="picture", columns=["precision", "method"], values="error")
    parts = []
    for name, way in error.columns:
        if name != WIDE and way != full:
            alone = error[name, full] + error[WIDE, way]
            both = error[name, way]
            known = pd.DataFrame({"alone": alone, "both": both}).dropna()
            known = known[(known > 0).all(axis=1)]
            gap = 10 * np.log10(known.alone / known.both)
            parts.append(pd.DataFrame({"precision": name, "method": way, "gap": gap}))
    return pd.concat(parts).reset_index()


def errors_add(frame: pd.DataFrame) -> Answer:
    """Compare the sum of both errors with the error of both together, picture by picture."""
    if not (frame.what == "quality").any():
        raise ValueError("random weights draw nothing to compare")
    answers = []
    for (name, way), part in errors(frame).groupby(["precision", "method"], sort=False):
        gap = mean(part.gap.to_numpy())
        answers.append(above(gap, " dB", f"{way} in {name}", WORSE))
    return together(answers)


def combines(frame: pd.DataFrame) -> Answer:
    """Speedup of both over the better one alone, in precisions whose products are faster."""
    rows = frame[frame.what == "time"]
    full = label(rows[rows.family == "full"], "that prunes nothing")
    speedup = rows.pivot_table(index="turn", columns=["precision", "method"], values="speedup")
    product = rows.groupby("precision").product.mean()
    real, answers = [n for n in product.index if product[n] >= REAL], list[Answer]()
    if not real:
        return Answer("this device has no faster products in fewer bits", OPEN)
    for name in real:
        for way in (w for n, w in speedup.columns if n == name and w != full):
            if (name, full) not in speedup or (WIDE, way) not in speedup:
                raise ValueError("the timing beside it was disturbed")
            alone = {name: speedup[name, full], way: speedup[WIDE, way]}
            better = max(alone, key=lambda key: alone[key].median())
            gap = median((speedup[name, way] - alone[better]).to_numpy())
            each = ", ".join(f"{k} {v.median():.2f}x" for k, v in alone.items())
            what = f"{each}, both {speedup[name, way].median():.2f}x; both over {better}"
            answers.append(above(gap, "x", what))
    return together(answers)


def memory_falls(frame: pd.DataFrame) -> Answer:
    """Peak memory of released sizes: int8 weights and pruning, beside each of them alone."""
    rows, texts, falls = frame[frame.what == "memory"], list[str](), list[bool]()
    if not len(rows):
        raise ValueError("no released size was counted")
    for release, part in rows.groupby("release", sort=False):
        peak = part.set_index(["precision", "method"]).peak_bytes / 1e9
        both, narrow, fast = (
            float(peak[key]) for key in (("int8", FASTVAR), ("int8", FULL), ("bfloat16", FASTVAR))
        )
        base = float(peak["bfloat16", FULL])
        texts.append(
            f"{release}: {base:.2f} GB in bfloat16, {fast:.2f} pruned, {narrow:.2f} in int8, "
            f"{both:.2f} with both"
        )
        falls.append(both < min(narrow, fast))
    verdict = HOLDS if all(falls) else FAILS if not any(falls) else OPEN
    return Answer("; ".join(texts), verdict)


EXPERIMENT = Experiment(
    question="Do the errors of reduced precision and of pruning add, or hide each other?",
    source="FastVAR, supplement, future work",
    methods=methods,
    cells=cells,
    work=reduced_precision,
    chart=charts.precisions,
    claims=(
        Claim(
            "Errors of fewer bits and of pruning do not amplify each other",
            "no number: future work (supplement)",
            errors_add,
        ),
        Claim(
            "Pruning combines with faster products in fewer bits",
            "no number: future work (supplement)",
            combines,
        ),
        Claim(
            "Narrow weights and pruning save different memory",
            "no number: future work (supplement)",
            memory_falls,
        ),
    ),
    seed=31,
    slow=True,
    speed=True,
    version=2,
)
