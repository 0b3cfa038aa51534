"""Makes a benchmark's pictures: a folder that is resumed, sharded, and never mixed."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from fastvar_lab.audit import checked_acts
from fastvar_lab.errors import short, unknown
from fastvar_lab.evaluators.benchmark_plans import BenchmarkPlan, Sample, sample_rows
from fastvar_lab.evaluators.closed_world import true_tokens
from fastvar_lab.evaluators.picture_folder import SAMPLES, SETTINGS, read_settings
from fastvar_lab.files import PARTIAL, expanded, write, write_json, write_utf8
from fastvar_lab.files import folder as writable
from fastvar_lab.generation import generate
from fastvar_lab.methods.columns import written
from fastvar_lab.methods.fingerprint import user_code_hash
from fastvar_lab.models.features import text_label
from fastvar_lab.models.model import Model
from fastvar_lab.models.spec import ModelSpec
from fastvar_lab.models.stamps import Identity
from fastvar_lab.pictures import to_uint8
from fastvar_lab.provenance import environment, versions
from fastvar_lab.sampling import Sampling
from fastvar_lab.scales import Sizes, as_sizes
from fastvar_lab.seam import Method
from fastvar_lab.world.grammar import parse
from fastvar_lab.world.tasks import Question

PIXELS = ("round", "truncate")
"""How values become whole grey levels: to the nearest, or cut off, as HART's released script."""
QUALITY = 95  # of JPEG files, the default of OpenCV, which the released scripts use
ZLIB = 3  # of PNG files: less than half the time of the default, for a seventh more bytes
TIMED = 100  # batches to make from which on two are timed first
BYTES = {"png": 1.5, "jpg": 0.25}  # for each pixel, of photographs


@dataclass(frozen=True)
class MakeJob:
    """All that decides how a folder's pictures are made, beside the model.

    `quality` is that of JPEG files, `pixels` one of `PIXELS`. `given` first scales are not drawn,
    but get the tokens of a correct picture, in the closed world alone.

    >>> from fastvar_lab.evaluators.benchmarks import find
    >>> from fastvar_lab.methods.prune import Dense
    >>> plan = BenchmarkPlan(find("closed-world"), n=10)
    >>> [len(batch) for batch in MakeJob(plan, Dense()).batches()]
    [4, 4, 2]
    """

    plan: BenchmarkPlan
    method: Method
    sampling: Sampling | None = None
    sizes: Sizes | None = None
    batch: int = 4
    quality: int = QUALITY
    pixels: str = PIXELS[0]
    given: int = 0

    def __post_init__(self) -> None:
        if self.pixels not in PIXELS:
            raise unknown("way from values to pixels", self.pixels, PIXELS)
        if self.given and self.plan.benchmark.name != "closed-world":
            raise ValueError(
                f"{self.plan.benchmark.name} has no correct pictures to give tokens of"
            )
        if self.batch < 1 or not 1 <= self.quality <= 100:
            raise ValueError(
                f"the batch must be 1 or more, the quality 1 to 100; not {self.batch}, "
                f"{self.quality}"
            )

    def batches(self) -> list[list[Sample]]:
        """Return the pictures that are generated together; resuming and sharding keep them."""
        samples = self.plan.samples()
        return [samples[i : i + self.batch] for i in range(0, len(samples), self.batch)]

    def settings(self, model: Model) -> dict[str, Any]:
        """Return what decides the pictures, as plain values: a folder holds those of one."""
        sampling = model.sampling if self.sampling is None else self.sampling
        sizes = model.sizes if self.sizes is None else as_sizes(self.sizes)
        parts = [part for part in model.parts if part is not model.text_encoder]
        runner = self.method.start(model.grids(self.sizes), model.depth)
        code = user_code_hash(self.method, runner)
        return json.loads(
            json.dumps(
                {
                    **self.plan.record(),
                    "model": model.name,
                    "family": model.family,
                    "weights": Identity(parts).of(parts),
                    "text": text_label(model.text_encoder),
                    "precision": model.precision,
                    "device": model.device.type,
                    "method": written(self.method),
                    **({"code": code} if code else {}),  # of your own classes
                    "guidance": sampling.guidance,
                    "temperature": sampling.temperature,
                    "top_p": sampling.top_p,
                    "top_k": sampling.top_k,
                    "smooth": sampling.smooth,
                    "sampling": repr(sampling),
                    "sizes": [list(size) for size in sizes],
                    "quality": self.quality if self.plan.format == "jpg" else None,
                    "pixels": self.pixels,
                    "given": self.given,
                    "batch": self.batch,
                    "versions": versions("fastvar-lab", "pillow"),
                }
            )
        )


def make(
    model: Model | ModelSpec,
    job: MakeJob,
    folder: Path,
    shard: tuple[int, int] = (0, 1),
    executor: Executor | None = None,
) -> int:
    """Make the pictures of a folder that are not there; return how many were made.

    `shard` (i, n) makes every n-th batch from batch i, for several GPUs with one folder. An
    `executor` takes batches to workers, which need the same files and a `ModelSpec`. Every picture
    is written whole, and those of a batch when it is done. Raises ValueError for a folder that
    holds the pictures of other settings, and whatever the method or a prompt makes impossible.

    >>> import fastvar_lab as fv
    >>> from tempfile import TemporaryDirectory
    >>> from fastvar_lab.evaluators.benchmarks import find
    >>> job = MakeJob(BenchmarkPlan(find("closed-world"), n=1), fv.Dense(), sizes=((1, 1), (4, 4)))
    >>> with TemporaryDirectory() as work:
    ...     [make(fv.load("tiny"), job, Path(work) / "full") for _ in range(2)]
    [1, 0]
    """
    opened = model.open() if isinstance(model, ModelSpec) else model
    folder = expanded(folder)
    prepare(opened, job, folder)
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"a shard is i/n with i from 0 to n - 1; not {index}/{count}")
    todo = [b for b in job.batches()[index::count] if any(missing(folder, s) for s in b)]
    total, done = sum(map(len, todo)), 0
    with tqdm(total=total, desc=job.plan.benchmark.name, unit="picture") as bar:
        if executor is None:
            with ThreadPoolExecutor(1) as writer:  # writes a batch while the next is generated
                writing: Future[int] | None = None
                for part in todo:
                    pictures = _generate(opened, job, part)
                    done += 0 if writing is None else writing.result()
                    writing = writer.submit(_write_batch, pictures, job, part, folder)
                    bar.update(len(part))
                done += 0 if writing is None else writing.result()
        else:
            if not isinstance(model, ModelSpec):
                raise ValueError("workers open a model by a ModelSpec; give one")
            whole = folder.resolve()
            futures = {executor.submit(_on_worker, model, job, b, whole): len(b) for b in todo}
            try:
                for future in as_completed(futures):
                    done += future.result()
                    bar.update(futures[future])
            finally:
                for future in futures:
                    future.cancel()
    return done


def prepare(model: Model, job: MakeJob, folder: Path) -> None:
    """Check everything that can be checked, and record the settings; raise ValueError otherwise."""
    samples, folder = job.plan.samples(), expanded(folder)
    for sample in samples:
        model.check(sample.written)
    sizes = model.sizes if job.sizes is None else as_sizes(job.sizes)
    if not 0 <= job.given <= len(sizes):
        raise ValueError(f"0 to {len(sizes)} scales can be given; not {job.given}")
    checked_acts(job.method, model.grids(job.sizes), model.depth)
    settings, rows = job.settings(model), sample_rows(samples)
    known = read_settings(folder)
    if known is None and _holds_files(folder):
        known = read_settings(folder)  # of another shard, which has written them meanwhile
        if known is None:
            raise ValueError(f"{folder} holds other files; name a new folder")
    if known is None:
        writable(folder)
        extra = {"environment": environment(model.device), "source": model.source}
        write_json(folder / SETTINGS, {**settings, **extra}, replace=False)
        known = read_settings(folder) or settings  # those of whoever was first
    method = settings["method"]
    if known.get("method") == method and known.get("code") != settings.get("code"):
        raise ValueError(
            f"{folder} holds pictures of other code of {short(method)}: name another folder"
        )
    for name, value in settings.items():
        if known.get(name) != value:
            raise ValueError(
                f"{folder} holds pictures with {name} {short(known.get(name))}; now it is "
                f"{short(value)}: name another folder"
            )
    if not (folder / SAMPLES).exists():  # new, or killed before it was written
        write_utf8(folder / SAMPLES, rows)


def _holds_files(folder: Path) -> bool:
    """Tell whether there is anything in a folder that nobody is about to write whole."""
    return folder.exists() and any(PARTIAL not in path.name for path in folder.iterdir())


def missing(folder: Path, sample: Sample) -> bool:
    """Tell whether a picture has yet to be made."""
    return not (folder / sample.path).exists()


def _generate(model: Model, job: MakeJob, part: Sequence[Sample]) -> np.ndarray:
    """Generate a batch: (n, H, W, 3) uint8."""
    generation = generate(
        model,
        [sample.written for sample in part],
        job.method,
        seed=[sample.seed for sample in part],
        sizes=job.sizes,
        sampling=job.sampling,
        given=_given(model, job, part),
    )
    values = model.decode(generation.canvas)
    return to_uint8(values) if job.pixels == "round" else _truncated(values)


def _write_batch(pictures: np.ndarray, job: MakeJob, part: Sequence[Sample], folder: Path) -> int:
    """Write those pictures of a batch that are not there; return how many."""
    count, folders = 0, {(folder / sample.path).parent for sample in part}
    for place in folders:
        writable(place)
    for sample, picture in zip(part, pictures, strict=True):
        if missing(folder, sample):
            _write_metadata(folder, sample)  # first: a picture that is there needs nothing more
            _write(folder / sample.path, picture, job.quality)
            count += 1
    return count


def _given(model: Model, job: MakeJob, part: Sequence[Sample]) -> list[Tensor]:
    """Return the tokens of correct pictures that stand for the first scales."""
    if not job.given:
        return []
    questions = [Question(s.group, parse(s.prompt), s.seed) for s in part]
    return true_tokens(model, questions, job.sizes)[: job.given]


def _truncated(values: Tensor) -> np.ndarray:
    """Cut pictures (n, 3, h, w) in [0, 1] off to whole grey levels (n, h, w, 3) uint8."""
    levels = values.detach().float().clamp(0, 1).mul(255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()


def _write(path: Path, picture: np.ndarray, quality: int) -> None:
    image = Image.fromarray(picture)
    more = {"quality": quality} if path.suffix == ".jpg" else {"compress_level": ZLIB}
    write(path, lambda partial: image.save(partial, **more))  # type: ignore[arg-type]


def _write_metadata(folder: Path, sample: Sample) -> None:
    """Write a prompt's metadata where GenEval's scripts read them: beside its `samples`."""
    path = (folder / sample.path).parent.parent / "metadata.jsonl"
    if sample.metadata is not None and not path.exists():
        writable(path.parent)
        write_utf8(path, json.dumps(dict(sample.metadata)))


def _on_worker(spec: ModelSpec, job: MakeJob, part: Sequence[Sample], folder: Path) -> int:
    return _write_batch(_generate(spec.open(), job, part), job, part, folder)


class Estimate(NamedTuple):
    """What making a folder takes: pictures left, seconds if timed, gigabytes of files."""

    pictures: int
    seconds: float | None
    gigabytes: float


def estimate(model: Model, job: MakeJob, folder: Path, timed: bool | None = None) -> Estimate:
    """Estimate what the pictures take that are not there; writes nothing.

    `timed` generates two batches, one to warm up; by default where so many are left that two take
    no notable part of the time.
    """
    batches, folder = job.batches(), expanded(folder)
    left = [s for b in batches for s in b if missing(folder, s)]
    if not left:
        return Estimate(0, 0.0, 0.0)
    last, side = model.grids(job.sizes)[-1], model.tokenizer.config.stride * model.quantizer.patch
    size = len(left) * last.h * last.w * side**2 * BYTES[job.plan.format] / 1e9
    if timed is None:
        timed = len(left) >= TIMED * job.batch
    if not timed:
        return Estimate(len(left), None, size)
    seconds = 0.0
    for _ in range(2):
        begin = time.perf_counter()
        _generate(model, job, batches[0])  # to the host, so that a GPU has finished
        seconds = (time.perf_counter() - begin) / len(batches[0])
    return Estimate(len(left), seconds * len(left), size)
