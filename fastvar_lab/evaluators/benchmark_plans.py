"""What is to be made of a benchmark: its prompts, the pictures of each, their seeds and files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from fastvar_lab.errors import short
from fastvar_lab.files import digest, expanded, read_json
from fastvar_lab.prompts import positive_prompt

SEEDS = ("each", "per-prompt", "one")
"""Seed rules: every picture its own; the k-th picture of all prompts the same; all the same."""


class Prompt(NamedTuple):
    """A prompt of a benchmark: its text, the group it counts in, its name in the layout.

    `metadata` is what a judge or an official script reads beside the pictures. `seed` is that of
    the prompt's first picture, where it comes with one.
    """

    text: str
    group: str
    name: str
    metadata: Mapping[str, Any] | None = None
    seed: int | None = None


class Sample(NamedTuple):
    """A picture to make: its path in the folder, prompt, seed, group, metadata.

    `prompt` is what is scored; `written` is what the model is given: the same, or rewritten.
    """

    path: str
    prompt: str
    seed: int
    group: str
    written: str
    metadata: Mapping[str, Any] | None = None


Source = Callable[["BenchmarkPlan"], list[Prompt]]
"""Reads the prompts of a plan: from its data, for its category where there are several."""


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    `layout` is a path with `{name}` and `{j}`, the picture's number; `{j:04d}` pads it. `images`
    are made for each prompt, `pictures` in all are what a table compares. `endings` are allowed
    file formats, the first one is the default. `data` says what the user has to bring.
    """

    name: str
    source: str
    prompts: Source
    layout: str
    images: int
    pictures: int
    scores: tuple[str, ...]
    endings: tuple[str, ...] = ("png",)
    data: str = ""
    categories: tuple[str, ...] = ()
    resize: str = "clean"


@dataclass(frozen=True)
class BenchmarkPlan:
    """What is to be made of a benchmark, and what decides it; the defaults are the protocol.

    `n` prompts are taken from all groups in turn, None takes all. `rewritten` is a JSON file from
    prompts to what the model is given instead; `suffix` follows prompts about people (see
    `positive_prompt`). `seed` is that of the first picture, and of the closed world's prompts.

    >>> from fastvar_lab.evaluators.benchmarks import find
    >>> BenchmarkPlan(find("geneval"), n=6, seeds="per-prompt").samples()[1].path
    '00000/samples/0001.png'
    """

    benchmark: Benchmark
    data: Path | None = None
    category: str | None = None
    n: int | None = None
    images: int | None = None
    ending: str | None = None
    seeds: str = "each"
    seed: int = 0
    rewritten: Path | None = None
    suffix: str | None = None

    def __post_init__(self) -> None:
        mark = self.benchmark
        if mark.categories and self.category not in mark.categories:
            raise ValueError(
                f"{mark.name} is scored by category, one of {', '.join(mark.categories)}; "
                f"not {self.category}"
            )
        if not mark.categories and self.category is not None:
            raise ValueError(f"{mark.name} has no categories; omit {self.category!r}")
        if mark.data and self.data is None:
            raise ValueError(f"{mark.name} needs {mark.data}")
        if self.seeds not in SEEDS:
            raise ValueError(f"seeds must be one of {', '.join(SEEDS)}; not {self.seeds!r}")
        if self.ending is not None and self.ending not in mark.endings:
            raise ValueError(
                f"pictures of {mark.name} are {' or '.join(mark.endings)}; not {self.ending}"
            )
        for name, value in (("n", self.n), ("images", self.images)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more; not {value}")

    @property
    def format(self) -> str:
        return self.ending or self.benchmark.endings[0]

    def prompts(self) -> list[tuple[int, Prompt]]:
        """Read the prompts, each with its number in the whole benchmark; files are read once.

        Raises ValueError for data that are not those of the benchmark.
        """
        return list(self._prompts)

    @cached_property
    def _prompts(self) -> list[tuple[int, Prompt]]:
        every = list(enumerate(self.benchmark.prompts(self)))
        if not every:
            raise ValueError(f"{self.data} holds no prompt of {self.benchmark.name}")
        if self.n is not None and self.n > len(every):
            raise ValueError(f"{self.benchmark.name} has {len(every)} prompts; not {self.n}")
        turns, ranked = Counter[str](), list[tuple[int, int, Prompt]]()
        for i, prompt in every:
            ranked.append((turns[prompt.group], i, prompt))
            turns[prompt.group] += 1
        return sorted(((i, p) for _, i, p in sorted(ranked, key=_turn)[: self.n]), key=_number)

    def samples(self) -> list[Sample]:
        """Return the pictures to make, in order; files are read once."""
        return list(self._samples)

    @cached_property
    def _samples(self) -> list[Sample]:
        rewritten = _rewriting(self.rewritten)
        images, samples = self.images or self.benchmark.images, list[Sample]()
        for i, prompt in self._prompts:
            written = prompt.text
            if rewritten is not None:
                if prompt.text not in rewritten:
                    raise ValueError(f"{self.rewritten} has no text for {short(prompt.text)}")
                written = rewritten[prompt.text]
            if self.suffix is not None:
                written = positive_prompt(written, self.suffix)
            first = self.seed if prompt.seed is None else prompt.seed
            number = i * images if prompt.seed is None else 0
            for j in range(images):
                offset = {"each": number + j, "per-prompt": j, "one": 0}[self.seeds]
                path = self.benchmark.layout.format(name=prompt.name, j=j)
                samples.append(Sample(f"{path}.{self.format}", prompt.text, first + offset,
                                      prompt.group, written, prompt.metadata))  # fmt: skip
        return samples

    def record(self) -> dict[str, Any]:
        """Return what decides the pictures, as plain values; texts by their SHA-256."""
        samples = self.samples()
        prompts = list(dict.fromkeys(s.prompt for s in samples))
        written = list(dict.fromkeys(s.written for s in samples))
        return {
            "benchmark": self.benchmark.name,
            "category": self.category,
            "prompts": len(self.prompts()),
            "images": self.images or self.benchmark.images,
            "seeds": self.seeds,
            "seed": self.seed,
            "prompts_sha256": digest(json.dumps(prompts)),
            "rewritten_sha256": None if self.rewritten is None else digest(json.dumps(written)),
            "positive_prompt": self.suffix is not None,
            "format": self.format,
        }


def _number(entry: tuple[int, Prompt]) -> int:
    return entry[0]


def _turn(entry: tuple[int, int, Prompt]) -> tuple[int, int]:
    return entry[:2]


def _rewriting(path: Path | None) -> dict[str, str] | None:
    if path is None:
        return None
    table = read_data(path, dict)
    if not all(isinstance(value, str) for value in table.values()):
        raise ValueError(f"{path} must hold a rewritten text for each prompt")
    return table


def read_data(path: Path, kind: type) -> Any:
    """Read a JSON file of the user's; raise ValueError that names it."""
    try:
        return read_json(expanded(path).read_bytes(), kind)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {short(error, 120)}") from None


def sample_rows(samples: Sequence[Sample]) -> str:
    """Write samples as JSON lines: a folder's own list of what it holds."""
    return "".join(json.dumps(sample._asdict()) + "\n" for sample in samples)


def read_samples(text: str) -> list[Sample]:
    """Read what `sample_rows` wrote; raise ValueError for anything else."""
    try:
        return [Sample(**json.loads(line)) for line in text.splitlines()]
    except (TypeError, ValueError) as error:
        raise ValueError(f"it is no list of samples ({short(error)})") from None
