"""Scores a model on the tasks of the closed world: pictures are made, then scored."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastvar_lab.evaluators.benchmark_plans import BenchmarkPlan
from fastvar_lab.evaluators.benchmarks import find
from fastvar_lab.evaluators.closed_world import need_judge, reconstruction_psnr
from fastvar_lab.evaluators.picture_folder import PictureFolder
from fastvar_lab.evaluators.prompt_scores import MISMATCHED
from fastvar_lab.evaluators.scoring import score
from fastvar_lab.experiments.making import MakeJob, make
from fastvar_lab.files import expanded
from fastvar_lab.measure.statistics import bootstrap
from fastvar_lab.models.model import Model
from fastvar_lab.sampling import Sampling
from fastvar_lab.scales import as_sizes
from fastvar_lab.seam import Method
from fastvar_lab.store import Store

RECONSTRUCTION = 1  # version: raise it when the tokenizer's PSNR means something else


def evaluate(
    model: Model,
    method: Method,
    n: int = 200,
    seed: int = 0,
    sizes: Sequence[tuple[int, int]] | None = None,
    sampling: Sampling | None = None,
    given: int = 0,
    folder: str | Path | None = None,
    store: Store | None = None,
) -> dict[str, Any]:
    """Score the pictures of `n` held-out prompts, with 95 % intervals.

    It is `make` and `score` on the benchmark closed-world: `folder` keeps the pictures, which a
    stopped evaluation goes on with; without one they are temporary. Returns the score of every
    task, `overall` (the mean of the six tasks of GenEval), `texture`, the tokenizer's
    reconstruction PSNR in dB, and `mismatched`, the score of each picture against another prompt
    of its task: the judge's chance rate. The PSNR depends on the model alone, and is kept in
    `store`, by default that of the user's cache. The first `given` scales get the tokens of a
    correct picture, to find the scale at which errors start. Raises ValueError for a model without
    the closed world's judge, for more given scales than there are, and for a folder of other
    pictures.
    """
    need_judge(model)
    maps = model.sizes if sizes is None else as_sizes(sizes)
    plan = BenchmarkPlan(find("closed-world"), n=n, seed=seed)
    job = MakeJob(plan, method, sampling, maps, given=given)
    with ExitStack() as stack:
        root = expanded(folder or Path(stack.enter_context(TemporaryDirectory())) / "pictures")
        make(model, job, root)
        pictures = PictureFolder(root)
        result = score(pictures, ["closed-world"])["closed-world"]
        groups = pictures.groups
    psnr = _reconstruction(model, min(n, 100), seed, store or Store())
    parts = dict(result.parts)
    mismatched = parts.pop(MISMATCHED, None)
    return {
        "n": n,
        "seed": seed,
        "method": repr(method),
        "size": "x".join(map(str, maps[-1])),
        "given": given,
        "weights": model.fingerprint,
        "overall": result.value,
        "overall_ci95": (result.low, result.high),
        "tasks": {
            task: {"score": value, "n": groups.count(task), "ci95": interval}
            for task, (value, *interval) in parts.items()
        },
        "texture": parts["texture"][0] if "texture" in parts else None,
        "mismatched": None if mismatched is None else mismatched[0],
        "reconstruction_psnr": sum(psnr) / len(psnr),
        "reconstruction_psnr_ci95": bootstrap(psnr),
    }


def _reconstruction(model: Model, n: int, seed: int, store: Store) -> list[float]:
    """Return `reconstruction_psnr`, from the store if it is there."""
    address = {**model.context, "reconstruction": RECONSTRUCTION, "scenes": n, "seed": seed}
    rows = store.get(address)
    if rows is None:
        rows = [{"psnr": value} for value in reconstruction_psnr(model, n, seed)]
        with suppress(OSError):  # a disk that may only be read
            store.put(address, rows, "evaluate")
    return [row["psnr"] for row in rows]


def table(result: dict[str, Any]) -> str:
    """Format a result for a terminal."""
    lines = [f"{'task':<18} {'score':>6} {'95 % interval':>15} {'n':>4}"]
    for task, row in result["tasks"].items():
        low, high = row["ci95"]
        lines.append(
            f"{task:<18} {row['score']:6.3f} {f'{low:.2f} to {high:.2f}':>15} {row['n']:4}"
        )
    low, high = result["overall_ci95"]
    lines.append(
        f"{'overall of six':<18} {result['overall']:6.3f} {f'{low:.2f} to {high:.2f}':>15}"
    )
    if result["mismatched"] is not None:
        lines.append(f"judged against another prompt of the task: {result['mismatched']:.3f}")
    lines.append(f"tokenizer reconstruction: {result['reconstruction_psnr']:.2f} dB PSNR")
    return "\n".join(lines)
