"""Folders of pictures as the scores read them, and rows of numbers cached beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from fastvar_lab.errors import short
from fastvar_lab.evaluators import row_files
from fastvar_lab.evaluators.benchmark_plans import BenchmarkPlan, Sample, read_samples
from fastvar_lab.files import DAMAGED, digest, expanded, folder, read_json

SETTINGS, SAMPLES = "settings.json", "samples.jsonl"
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
READERS = 4  # threads

Rows = Callable[[Sequence[np.ndarray], Sequence[int]], np.ndarray]
"""Computes rows (n, D) of pictures, given with their places."""


class RowKind(NamedTuple):
    """Rows of one kind: their name, what computes them, what they depend on beside pictures."""

    name: str
    compute: Rows
    depends: Mapping[str, Any]


class Pictures:
    """Pictures by place, and rows of numbers of them that are computed once.

    `names` are relative to `root`; `stamp(i)` changes when a picture does. Where `named` is true, a
    picture must be of the format that its name says.
    """

    named = True

    def __init__(self, root: Path, names: Sequence[str], cache: Path) -> None:
        self.root, self.names, self.cache = root, list(names), cache

    def __len__(self) -> int:
        return len(self.names)

    def read(self, i: int) -> np.ndarray:
        """Return picture i, (H, W, 3) uint8; raise ValueError that names an unreadable one."""
        path = self.root / self.names[i]
        try:
            with Image.open(path) as image:
                kind = FORMATS[path.suffix.lower()]
                if self.named and image.format != kind:
                    raise ValueError(f"it is {image.format}, named as {kind}")
                if image.mode[0] in "IF":  # a conversion would cut its values off
                    raise ValueError(f"its mode {image.mode} is not of 8 bits a channel")
                return np.asarray(image.convert("RGB"))
        except (*DAMAGED, Image.DecompressionBombError) as error:
            raise ValueError(f"cannot read the picture {path}: {short(error, 100)}") from None

    def stamp(self, i: int) -> tuple[int, int]:
        try:
            status = (self.root / self.names[i]).stat()
        except OSError as error:
            path = self.root / self.names[i]
            raise ValueError(f"cannot read the picture {path}: {error.strerror}") from None
        return status.st_size, status.st_mtime_ns

    def batches(self, places: Sequence[int], size: int) -> Iterator[tuple[list[int], list[Any]]]:
        """Yield pictures in batches, the next one being read meanwhile."""
        parts = [list(places[i : i + size]) for i in range(0, len(places), size)]
        with ThreadPoolExecutor(READERS) as pool:
            reading = [pool.submit(self.read, i) for i in (parts[0] if parts else [])]
            for part, after in zip(parts, [*parts[1:], []]):
                pictures = [future.result() for future in reading]
                reading = [pool.submit(self.read, i) for i in after]
                yield part, pictures

    def rows(self, name: str, compute: Rows, batch: int, **depends: Any) -> np.ndarray:
        """Return rows (N, D) float32 of all pictures; what is cached is not computed again.

        `depends` is what the rows depend on beside the pictures, such as a network's hash. Every
        batch is kept when it is done. Rows of a picture that has changed, and rows that are not as
        they were written, are computed anew. Several processes may do so at once.
        """
        return self.rows_together([RowKind(name, compute, depends)], batch)[0]

    def rows_together(self, kinds: Sequence[RowKind], batch: int) -> list[np.ndarray]:
        """Return `rows` of several kinds; each picture is read once for all that lack it."""
        stamps = np.array([self.stamp(i) for i in range(len(self))], dtype=np.int64).reshape(-1, 2)
        tables = [row_files.Table(self._base(kind), stamps) for kind in kinds]
        todo = list(map(int, np.flatnonzero(np.any([table.lacks for table in tables], axis=0))))
        bar = tqdm(total=len(self), initial=len(self) - len(todo), unit="picture",
                   desc=", ".join(kind.name for kind in kinds), disable=not todo)  # fmt: skip
        with bar:
            for places, pictures in self.batches(todo, batch):
                for kind, table in zip(kinds, tables):
                    pairs = [pair for pair in zip(places, pictures) if table.lacks[pair[0]]]
                    if pairs:
                        here, seen = map(list, zip(*pairs))
                        table.put(here, kind.compute(seen, here))
                bar.update(len(places))
        if any(table.values is None for table in tables):
            raise ValueError(f"there is no picture in {self.root}")
        return [np.array(table.values) for table in tables]

    def _base(self, kind: RowKind) -> Path:
        """Return the path of a kind's files, without their suffix."""
        content = [kind.name, kind.depends, self.names]
        key = digest(json.dumps(content, sort_keys=True, default=str))[:12]
        return folder(self.cache) / f"{kind.name}-{key}"


class Sampled(Pictures):
    """Pictures of a benchmark, which can be scored: each with its sample."""

    samples: list[Sample]
    settings: dict[str, Any] | None = None
    benchmark: str

    @property
    def prompts(self) -> list[str]:
        return [sample.prompt for sample in self.samples]

    @property
    def groups(self) -> list[str]:
        return [sample.group for sample in self.samples]

    @property
    def prompt_numbers(self) -> np.ndarray:
        """The number of each picture's prompt (N,): pictures of one prompt follow each other.

        A text that is drawn once more counts as another prompt, a picture without one as its own.
        """
        each = [(s.group, s.prompt or i) for i, s in enumerate(self.samples)]
        return np.cumsum([i > 0 and each[i] != each[i - 1] for i in range(len(each))])

    def check(self) -> None:
        """Raise ValueError for pictures that are not exactly those that are to be scored."""


class PictureFolder(Sampled):
    """A folder of a benchmark's pictures: its samples, and its settings if `make` wrote them.

    Raises ValueError for what is no folder, and without settings for a missing `plan`.

    >>> PictureFolder("nowhere")
    Traceback (most recent call last):
    ValueError: there is no folder nowhere
    """

    def __init__(self, root: str | Path, plan: BenchmarkPlan | None = None) -> None:
        path = expanded(root)
        if not path.is_dir():
            raise ValueError(f"there is no folder {path}")
        self.settings = read_settings(path)
        if plan is None and self.settings is None:
            raise ValueError(
                f"{path} has no {SETTINGS}: name its benchmark to score pictures made elsewhere"
            )
        if plan is None and "benchmark" not in (self.settings or {}):
            raise ValueError(f"{path / SETTINGS} does not say of what benchmark the pictures are")
        self.samples = plan.samples() if plan is not None else _samples(path)
        self.plan = plan
        known = self.settings or {}
        self.benchmark = str(known.get("benchmark")) if plan is None else plan.benchmark.name
        names = [sample.path for sample in self.samples]
        super().__init__(path, names, row_files.scores_folder(path))

    def read(self, i: int) -> np.ndarray:
        """Return picture i; raise ValueError for another size than the first's if `make` wrote it.

        Pictures made elsewhere may be of several sizes.
        """
        picture = super().read(i)
        if self.settings is not None and picture.shape != self._first:
            raise ValueError(
                f"{self.root / self.names[i]} has {picture.shape[:2]} pixels, {self.names[0]} has "
                f"{self._first[:2]}; `make` writes one size"
            )
        return picture

    @cached_property
    def _first(self) -> tuple[int, ...]:
        return super().read(0).shape

    def check(self) -> None:
        """Raise ValueError for missing or further pictures, or another prompt list than recorded.

        What is scored is exactly what was to be made: no picture is skipped.
        """
        if self.plan is None and self.settings is not None:
            listed = digest(json.dumps(list(dict.fromkeys(self.prompts))))
            if listed != self.settings.get("prompts_sha256"):
                raise ValueError(f"the prompts in {self.root / SAMPLES} are not those recorded")
        there, expected = set(picture_names(self.root)), set(self.names)
        for kind, names in (("lacks", expected - there), ("also holds", there - expected)):
            if names:
                shown = ", ".join(sorted(names)[:3])
                raise ValueError(
                    f"{self.root} {kind} {len(names)} pictures, of {len(expected)}: {shown}"
                )


def picture_names(root: Path) -> list[str]:
    """Return the pictures in a folder and those inside it, sorted, hidden ones left out."""
    return sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.suffix.lower() in FORMATS and not path.name.startswith(".")
    )


def read_settings(root: Path) -> dict[str, Any] | None:
    """Return what `make` recorded in a folder; None if it recorded nothing."""
    path = root / SETTINGS
    try:
        return read_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {short(error, 100)}") from None


def _samples(root: Path) -> list[Sample]:
    path = root / SAMPLES
    try:
        return read_samples(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {short(error, 100)}") from None


class PlainFolder(Pictures):
    """Any folder of pictures, such as a reference set; its rows are cached beside it if possible.

    Folders inside it are read, too, as clean-fid does, and pictures with the suffix of another
    format. Hidden files are left out.
    """

    named = False

    def __init__(self, root: str | Path) -> None:
        path = expanded(root)
        if not path.is_dir():
            raise ValueError(f"there is no folder {path}")
        super().__init__(path, picture_names(path), row_files.rows_folder(path))
