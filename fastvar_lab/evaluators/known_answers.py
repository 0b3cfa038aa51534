"""Published known answers: scores of files that anyone can fetch, for those who have networks.

A score that agrees shows that weights, pixels and formulas are those of the official script.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from fastvar_lab.errors import unknown
from fastvar_lab.evaluators.benchmark_plans import BenchmarkPlan
from fastvar_lab.evaluators.benchmarks import find
from fastvar_lab.evaluators.case import Options
from fastvar_lab.evaluators.picture_array import SampleArray
from fastvar_lab.evaluators.picture_folder import PictureFolder, PlainFolder
from fastvar_lab.evaluators.scoring import score
from fastvar_lab.networks import collection


class Row(NamedTuple):
    """A score: what was published, how far ours may be from it, and ours."""

    name: str
    published: float
    tolerance: float
    value: float

    @property
    def agrees(self) -> bool:
        return abs(self.value - self.published) <= self.tolerance


@dataclass(frozen=True)
class Inputs:
    """What a check reads: the pictures, a benchmark's prompts, and how it is scored."""

    pictures: Path
    data: Path | None = None
    options: Options = field(default_factory=Options)
    networks: str | Path | None = None
    device: str = "cpu"
    batch: int = 16


@dataclass(frozen=True)
class KnownAnswer:
    """Published values by name, each with a tolerance, and a function that computes ours.

    `files` says what the user brings, `source` where the values stand.
    """

    files: str
    source: str
    published: Mapping[str, tuple[float, float]]
    compute: Callable[[Inputs], Mapping[str, float]]


def check(name: str, inputs: Inputs) -> list[Row]:
    """Compute a known answer; raise ValueError where none is known, or for other files."""
    if name in NONE_KNOWN:
        raise ValueError(f"no published answer is known for {name}: {NONE_KNOWN[name]}")
    if name not in KNOWN:
        raise unknown("known answer", name, [*KNOWN, *NONE_KNOWN])
    answer = KNOWN[name]
    if not inputs.pictures.exists():
        raise ValueError(f"there is no {inputs.pictures}; this check reads {answer.files}")
    values = answer.compute(inputs)
    return [Row(key, *answer.published[key], values[key]) for key in answer.published]


def table(rows: list[Row]) -> str:
    """Format a check for a terminal."""
    lines = [f"{'score':<24} {'published':>10} {'within':>8} {'here':>10}"]
    for row in rows:
        lines.append(
            f"{row.name:<24} {row.published:10.4f} {row.tolerance:8.4f} {row.value:10.4f}  "
            f"{'agrees' if row.agrees else 'DIFFERS'}"
        )
    return "\n".join(lines)


def _array_scores(inputs: Inputs, names: tuple[str, ...]) -> dict[str, float]:
    """Score an npz file as guided-diffusion does: in its order, distances in float16."""
    options = replace(inputs.options, resize="tensorflow", order=None, half=True, groups=0)
    pictures = SampleArray(inputs.pictures, "imagenet")
    results = score(pictures, names, options, inputs.networks, inputs.device, inputs.batch)
    return {name: results[name].value for name in names}


def _imagenet(inputs: Inputs) -> dict[str, float]:
    return _array_scores(inputs, ("is", "fid", "sfid", "precision", "recall"))


def _imagenet_reference(inputs: Inputs) -> dict[str, float]:
    return _array_scores(inputs, ("is",))


def _hps(inputs: Inputs) -> dict[str, float]:
    folder = PictureFolder(inputs.pictures, BenchmarkPlan(find("hps"), inputs.data, ending="jpg"))
    values = {}
    for resize in ("antialias", "alias"):
        options = replace(inputs.options, hps_resize=resize)
        results = score(folder, ["hps"], options, inputs.networks, inputs.device, inputs.batch)
        values[resize] = results["hps"].value
    return values


OCEAN = "a painting of an ocean with clouds and birds, day time, low depth field effect"


def _image_reward(inputs: Inputs) -> dict[str, float]:
    pictures = PlainFolder(inputs.pictures)
    places = {name: i for i, name in enumerate(pictures.names)}
    names = [f"{i}.webp" for i in range(1, 5)]
    for name in names:
        if name not in places:
            raise ValueError(f"{inputs.pictures} has no picture {name}")
    network = collection.open_network("imagereward", inputs.networks, inputs.device)
    seen = [pictures.read(places[name]) for name in names]
    return dict(zip(names, network.score([OCEAN] * 4, seen).tolist()))


KNOWN: dict[str, KnownAnswer] = {
    "imagenet": KnownAnswer(
        "admnet_guided_upsampled_imagenet256.npz, and --reference VIRTUAL_imagenet256_labeled.npz",
        "github.com/openai/guided-diffusion, evaluations",
        {"is": (215.84, 0.5), "fid": (3.943, 0.02), "sfid": (6.140, 0.03),
         "precision": (0.8265, 0.003), "recall": (0.5309, 0.003)},
        _imagenet,
    ),
    "imagenet-reference": KnownAnswer(
        "VIRTUAL_imagenet256_labeled.npz",
        "github.com/openai/guided-diffusion, issue 142",
        {"is": (338.0, 1.0)},
        _imagenet_reference,
    ),
    "hps": KnownAnswer(
        "the folder of HPDv2's pictures of SDXL-base-0.9, and --data, its four JSON files",
        "github.com/tgxs002/HPSv2: README (alias), issue 43 (antialias, two measurements)",
        {"antialias": (28.71, 0.1), "alias": (30.63, 0.1)},
        _hps,
    ),
    "imagereward": KnownAnswer(
        "the folder assets/images of github.com/THUDM/ImageReward",
        "github.com/THUDM/ImageReward, README",
        {"1.webp": (0.5812, 0.01), "2.webp": (0.2745, 0.01), "3.webp": (-1.4132, 0.01),
         "4.webp": (-2.0296, 0.01)},
        _image_reward,
    ),
}  # fmt: skip
"""Every known answer, by name."""

NONE_KNOWN = {
    "geneval": "no pictures were published with their verdicts; its detector's box AP on COCO's "
    "validation set of 2017 is 49.3 (mmdetection), which is not computed here",
    "mjhq": "its FIDs are of generated pictures that were not published",
    "clip": "no cosine of ViT-L/14 was published for a picture",
    "lpips": "its README shows pictures without their distances",
    "dino": "no cosine was published for a pair of pictures",
}
"""Scores without a known answer, and why."""
