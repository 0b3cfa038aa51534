"""Scores a folder: checks it, computes what is not cached, writes the results beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from fastvar_lab.evaluators import benchmarks
from fastvar_lab.evaluators.case import Case, Options, Result, over_prompts
from fastvar_lab.evaluators.picture_folder import Pictures, RowKind, Sampled
from fastvar_lab.evaluators.results import keep, pictures_sha256
from fastvar_lab.evaluators.scores import SCORES, Score, find
from fastvar_lab.measure.learned import Learned
from fastvar_lab.measure.quality import METRICS, Chosen, Metric, as_metrics
from fastvar_lab.networks import collection
from fastvar_lab.prompts import Item


def score(
    folder: Sampled,
    names: Iterable[str] | None = None,
    options: Options | None = None,
    networks: str | Path | None = None,
    device: str = "cpu",
    batch: int = 16,
) -> dict[str, Result]:
    """Score a folder of pictures; return results by name, and keep them beside it.

    `names` are those of `SCORES`, by default the benchmark's. Rows of numbers are cached, a batch
    at a time. Raises ValueError, before anything is computed, for pictures that are missing or too
    many, for a network or reference that is not there.

    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> from fastvar_lab.evaluators.picture_folder import PictureFolder
    >>> from fastvar_lab.evaluators.benchmark_plans import BenchmarkPlan
    >>> with TemporaryDirectory() as work:
    ...     (Path(work) / "black").mkdir()
    ...     Image.new("RGB", (64, 64)).save(Path(work) / "black" / "00000_0.png")
    ...     plan = BenchmarkPlan(benchmarks.find("closed-world"), n=1)
    ...     score(PictureFolder(Path(work) / "black", plan))["closed-world"].value
    0.0
    """
    case = Case(folder, options or Options(), networks, device, batch)
    chosen = [find(name) for name in names or benchmarks.find(folder.benchmark).scores]
    check(case, chosen)
    pictures = None if folder.settings is None else pictures_sha256(folder.root)
    results = {}
    for one in chosen:
        results[one.name] = one.function(case)
        keep(folder, one.name, results[one.name], device, pictures)
    return results


def check(case: Case, chosen: Sequence[Score]) -> None:
    """Raise ValueError for whatever a score would lack."""
    case.folder.check()
    for one in chosen:
        if one.by_prompt and not all(case.folder.prompts):
            raise ValueError(f"the score {one.name} reads prompts, which {case.folder.root} lacks")
        if one.by_entry and not all(sample.metadata for sample in case.folder.samples):
            raise ValueError(
                f"the score {one.name} reads an entry of its benchmark for each prompt, which "
                f"{case.folder.root} lacks"
            )
        if one.reference and case.options.reference is None:
            raise ValueError(
                f"the score {one.name} compares with a reference: give --reference, a folder of "
                "pictures or an npz file"
            )
        for network in one.networks:
            collection.check_files(network, case.networks)
    path = case.options.reference
    if path is not None and not path.exists():
        raise ValueError(f"there is no reference {path}")
    if path is not None and path.resolve() == case.folder.root.resolve():
        raise ValueError(f"{path} is compared with itself; name another reference")
    if path is not None and path.is_dir():
        _check_categories(case.folder, path)
    if any(one.reference for one in chosen) and not len(case.reference()):
        raise ValueError(f"there is no picture in {path}")


def _check_categories(folder: Sampled, reference: Path) -> None:
    """Raise ValueError for a reference of other categories than the folder's."""
    known = benchmarks.find(folder.benchmark).categories
    mixed = sorted(p.name for p in reference.iterdir() if p.is_dir() and p.name in known)
    groups = set(folder.groups)
    if known and (mixed or (reference.name in known and reference.name not in groups)):
        raise ValueError(
            f"{reference} holds the category {', '.join(mixed) or reference.name}; {folder.root} "
            f"is of {', '.join(sorted(groups))}: name the folder of that"
        )


def paired(
    folder: Sampled,
    other: Sampled,
    names: Chosen,
    batch: int = 16,
    networks: str | Path | None = None,
    device: str | None = None,
) -> dict[str, Result]:
    """Compare each picture of a folder with that of the same name in another one.

    `names` are metrics of `measure.quality`; each is averaged over pictures, not pooled. Raises
    ValueError for folders of different prompts.
    """
    metrics = check_paired(folder, other, names, networks, device)
    rows = paired_rows(folder, other, metrics, batch)
    return {metric.name: _paired(folder, other, metric, rows[metric.name]) for metric in metrics}


def check_paired(
    folder: Sampled,
    other: Sampled,
    names: Chosen,
    networks: str | Path | None = None,
    device: str | None = None,
) -> list[Metric]:
    """Return the metrics that compare two folders; raise ValueError for what would fail later."""
    check_pair(folder, other)
    metrics = metrics_of_pictures(names, networks, device)
    for metric in metrics:
        if isinstance(metric.function, Learned):
            collection.check_files(metric.function.network, networks)
    return metrics


def check_pair(folder: Sampled, other: Sampled) -> None:
    """Raise ValueError for folders that are not whole, or not of the same prompts and seeds."""
    folder.check()
    other.check()
    if folder.names != other.names or folder.prompts != other.prompts:
        raise ValueError(f"{folder.root} and {other.root} are not of the same prompts")
    if [s.seed for s in folder.samples] != [s.seed for s in other.samples]:
        raise ValueError(f"{folder.root} and {other.root} are not of the same seeds")


def metrics_of_pictures(
    names: Chosen, networks: str | Path | None = None, device: str | None = None
) -> list[Metric]:
    """Return metrics by name, their networks of a collection, on a device.

    Raises ValueError for those that read more than pictures hold.
    """
    metrics = as_metrics(names)
    for i, metric in enumerate(metrics):
        if metric.wants - {"item"}:
            raise ValueError(f"the metric {metric.name} reads tokens, which folders do not hold")
        if isinstance(metric.function, Learned):
            place = None if networks is None else str(networks)
            there = replace(metric.function, networks=place, device=device)
            metrics[i] = replace(metric, function=there)
    return metrics


def _paired(folder: Sampled, other: Sampled, metric: Metric, rows: np.ndarray) -> Result:
    numbers = folder.prompt_numbers
    low, high = over_prompts(numbers, rows)
    depends = {"against": other.root.name, "metric": metric.address,
               "interval": "bootstrap over prompts"}  # fmt: skip
    return Result(float(rows.mean()), low, high, len(rows), len(set(numbers)), {}, depends)


class _Pairs(Pictures):
    """The pictures of a folder, each with that of another one: (2, H, W, 3); rows are the first's.

    Raises ValueError for pictures of different sizes.
    """

    def __init__(self, folder: Sampled, other: Sampled) -> None:
        super().__init__(folder.root, folder.names, folder.cache)
        self.folder, self.other = folder, other

    def read(self, i: int) -> np.ndarray:
        picture, reference = self.folder.read(i), self.other.read(i)
        if reference.shape != picture.shape:
            raise ValueError(
                f"{self.names[i]} has {picture.shape[:2]} pixels and {reference.shape[:2]}"
            )
        pair = np.stack((picture, reference))
        pair.setflags(write=False)  # several metrics see it
        return pair

    def stamp(self, i: int) -> tuple[int, int]:
        return self.folder.stamp(i)


def paired_rows(
    folder: Sampled, other: Sampled, metrics: Iterable[Metric], batch: int = 16
) -> dict[str, np.ndarray]:
    """Return metrics of each picture of a folder beside that of another one: numbers (N,) by name.

    They are cached beside the folder; a pair is read once for all metrics. Raises ValueError for
    pictures of different sizes.
    """

    def compute(metric: Metric, pairs: Sequence[np.ndarray], places: Sequence[int]) -> np.ndarray:
        rows = list[float]()
        for (picture, reference), i in zip(pairs, places):
            sample = folder.samples[i]
            item = Item(sample.prompt, sample.seed, sample.group)
            values = metric.columns(picture, reference, item=item)
            if len(values) != 1:
                raise ValueError(
                    f"folders are compared by metrics of one value; {metric.name} gives "
                    f"{len(values)}: {', '.join(values)}"
                )
            rows += values.values()
        return np.array(rows)

    shared = {"other": [other.stamp(i) for i in range(len(other))], "prompts": folder.prompts}
    kinds = [
        RowKind(metric.name, partial(compute, metric), {"metric": metric.address, **shared})
        for metric in metrics
    ]
    rows = _Pairs(folder, other).rows_together(kinds, batch)
    return {kind.name: values[:, 0] for kind, values in zip(kinds, rows)}


def _interval(low: float, high: float, digits: int) -> str:
    return f"{low:.{digits}f} to {high:.{digits}f}" if np.isfinite(low) else "-"


def _heading(name: str) -> tuple[str, int]:
    """Return title and digits of a score, or of a metric; those of your own go by their name."""
    shown = METRICS.get(name) or SCORES.get(name)
    return (shown.title, shown.digits) if shown else (name, 3)


def table(results: Mapping[str, Result]) -> str:
    """Format results for a terminal.

    >>> print(table({"clip": Result(27.53, 27.1, 28.0, n=3000, prompts=3000)}))
    score                        value        95 % interval  pictures  prompts
    CLIP score                   27.53       27.10 to 28.00      3000     3000
    """
    lines = [f"{'score':<24} {'value':>9}  {'95 % interval':>19} {'pictures':>9} {'prompts':>8}"]
    for name, result in results.items():
        title, digits = _heading(name)
        interval = _interval(result.low, result.high, digits)
        lines.append(
            f"{title:<24} {result.value:9.{digits}f}  {interval:>19} {result.n:>9} "
            f"{result.prompts:>8}"
        )
        for part, (value, low, high) in result.parts.items():
            lines.append(f"  {part:<22} {value:9.{digits}f}  {_interval(low, high, digits):>19}")
    return "\n".join(lines)
