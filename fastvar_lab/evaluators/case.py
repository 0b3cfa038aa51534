"""What a score reads: a folder, options, networks; and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastvar_lab.errors import unknown
from fastvar_lab.evaluators import benchmarks, distances, geneval, jackknife
from fastvar_lab.evaluators.picture_array import PictureArray
from fastvar_lab.evaluators.picture_folder import Pictures, PlainFolder, Rows, Sampled
from fastvar_lab.measure.statistics import bootstrap_of_ratio
from fastvar_lab.networks import collection, resizing
from fastvar_lab.networks.exact import exact

HPS_RESIZES = ("antialias", "alias")
VERSIONS = {"geneval": 1, "closed-world": 1, "inception": 1, "clip": 1, "hps": 1, "imagereward": 1}
"""Versions of the code that computes rows, pixels included: raise one when its numbers change."""


@dataclass(frozen=True)
class Options:
    """What decides a score beside the pictures; the defaults make the paper's numbers comparable.

    `reference` is a folder of pictures or an npz file as guided-diffusion keeps them. `resize` is
    that of Inception (`resizing.RESIZES`), by default the benchmark's; `hps_resize` says whether
    HPS's resize antialiases. `order` is the seed that shuffles pictures for the IS, None keeps
    them; `split` is the number of pictures of each of its splits. `subsets` are those of the KID.
    `half` rounds distances of precision and recall to float16, as guided-diffusion's are. `groups`
    are those of the jackknife that gives intervals of distances, 0 for none. `autocast` computes
    CLIP, HPS and GenEval's colors in float16, as released scripts do on GPUs; they run Inception
    and ImageReward in float32, as here. `rules` are GenEval's thresholds.
    """

    reference: Path | None = None
    resize: str | None = None
    hps_resize: str = "antialias"
    order: int | None = 0
    split: int = distances.SPLITS
    subsets: int = 100
    half: bool = False
    groups: int = jackknife.GROUPS
    autocast: bool = False
    rules: geneval.Rules = field(default_factory=geneval.Rules)

    def __post_init__(self) -> None:
        if self.resize is not None and self.resize not in resizing.RESIZES:
            raise unknown("resize", self.resize, resizing.RESIZES)
        if self.order is not None and self.order < 0:
            raise ValueError(f"order must be 0 or more; not {self.order}")
        if self.hps_resize not in HPS_RESIZES:
            raise unknown("resize of HPS", self.hps_resize, HPS_RESIZES)
        for name, least in (("split", 1), ("subsets", 1), ("groups", 0)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} must be {least} or more; not {value}")


@dataclass(frozen=True)
class Result:
    """A score: its value, 95 % interval, pictures and prompts, parts, and what decided it.

    A part is a value and its interval, by its name, such as that of a task.
    """

    value: float
    low: float = float("nan")
    high: float = float("nan")
    n: int = 0
    prompts: int = 0
    parts: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    depends: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Case:
    """A folder to score, under options, with a collection of networks on a device.

    `hits` and `opened` keep what several scores read: precision and recall, and the reference.
    """

    folder: Sampled
    options: Options = field(default_factory=Options)
    networks: str | Path | None = None
    device: str = "cpu"
    batch: int = 16
    hits: distances.Coverage | None = field(default=None, init=False)
    opened: Pictures | None = field(default=None, init=False)

    def network(self, name: str) -> Any:
        return collection.open_network(name, self.networks, self.device)

    def rows(
        self, name: str, compute: Rows, pictures: Pictures | None = None, **depends: Any
    ) -> np.ndarray:
        """Return rows of the folder's pictures, or of others, as `Pictures.rows` caches them.

        They depend on the version of their code, too.
        """
        pictures = self.folder if pictures is None else pictures
        return pictures.rows(name, compute, self.batch, version=VERSIONS[name], **depends)

    def hash(self, *names: str) -> dict[str, Any]:
        """Return the fingerprints of networks: part of what a score depends on."""
        return {name: collection.fingerprint(name, self.networks) for name in names}

    @property
    def resize(self) -> str:
        return self.options.resize or benchmarks.find(self.folder.benchmark).resize

    def reference(self) -> Pictures:
        """Open the reference; raise ValueError without one."""
        path = self.options.reference
        if path is None:
            raise ValueError("this score compares with a reference: name a folder or an npz file")
        if self.opened is None:  # an npz file is read whole
            self.opened = PictureArray(path) if path.suffix == ".npz" else PlainFolder(path)
        return self.opened

    @property
    def prompts(self) -> int:
        """The number of different prompts of each group, together; 0 where none are known."""
        return len({(s.group, s.prompt) for s in self.folder.samples if s.prompt})

    @property
    def precision(self) -> dict[str, str]:
        """What rows and results of CLIP record of its precision where it is not the usual one."""
        return {"autocast": "float16"} if self.options.autocast else {}

    def parts(self) -> list[np.ndarray]:
        """Return the groups of pictures that intervals of distances leave out in turn."""
        return jackknife.groups_of(len(self.folder), self.options.groups)

    def mixed(self) -> AbstractContextManager[object]:
        """Give the precision of CLIP: float32, or that of released scripts on GPUs."""
        if self.options.autocast:
            return torch.autocast(torch.device(self.device).type, torch.float16)
        return exact()


def over_prompts(numbers: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of values (N,) over prompts (N,), by number.

    Pictures of one prompt depend on each other, so that prompts are drawn, not pictures.
    """
    _, prompts = np.unique(numbers, return_inverse=True)
    return bootstrap_of_ratio(np.bincount(prompts, values), np.bincount(prompts))


def mean(case: Case, values: np.ndarray, **depends: Any) -> Result:
    """Return the mean over pictures, its interval over prompts, and the mean of each group."""
    numbers, groups = case.folder.prompt_numbers, np.array(case.folder.groups)
    parts = dict[str, tuple[float, float, float]]()
    for group in dict.fromkeys(case.folder.groups):
        inside = groups == group
        if not inside.all():
            low, high = over_prompts(numbers[inside], values[inside])
            parts[group] = float(values[inside].mean()), low, high
    depends["interval"] = "bootstrap over prompts"
    interval, prompts = over_prompts(numbers, values), len(np.unique(numbers))
    return Result(float(values.mean()), *interval, len(values), prompts, parts, depends)
