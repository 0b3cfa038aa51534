"""GenEval's judge of pictures: the detector's objects, their colors by CLIP, the verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fastvar_lab.evaluators.geneval import (
    CLASSES,
    COLORS,
    TASKS,
    Detected,
    Rules,
    metadata,
    verdict,
)
from fastvar_lab.networks import collection
from fastvar_lab.networks.exact import exact
from fastvar_lab.networks.pretrained import Clip, Detector, Objects
from fastvar_lab.prompts import Item

TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}",
             "a photo of a {color} object")  # fmt: skip


class PictureJudge:
    """Judges pictures by GenEval's protocol, with a detector and a CLIP.

    `mixed` gives the precision of CLIP, by default float32; the official script runs it in float16
    on a GPU.
    """

    def __init__(
        self,
        detector: Detector,
        clip: Clip,
        rules: Rules | None = None,
        mixed: Callable[[], AbstractContextManager[object]] = exact,
    ) -> None:
        self.detector, self.clip, self.rules = detector, clip, rules or Rules()
        self.mixed = mixed
        self.colors_of = lru_cache(maxsize=len(CLASSES))(self._colors_of)

    def judge(self, item: Mapping[str, Any], picture: np.ndarray) -> tuple[bool, str]:
        """Tell whether a picture (H, W, 3) uint8 shows what its prompt says, and what is wrong."""
        least = min(self.rules.threshold, self.rules.counting_threshold)
        objects = self.detector.detect(picture, least)
        detected = dict[str, list[Detected]]()
        for i, (kind, score, box) in enumerate(zip(objects.classes, objects.scores, objects.boxes)):
            place = (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
            detected.setdefault(CLASSES[kind], []).append(Detected(float(score), place, i))

        def colors(name: str, group: Sequence[Detected]) -> list[str]:
            return self.colors(
                name, [cut_out(picture, objects, o.index, self.rules) for o in group]
            )

        return verdict(dict(item), detected, colors, self.rules)

    def colors(self, name: str, crops: Sequence[np.ndarray]) -> list[str]:
        """Return the likeliest color of each crop of an object."""
        with self.mixed():
            nearest = (self.clip.pictures(crops) @ self.colors_of(name).T).argmax(1)
        return [COLORS[int(i)] for i in nearest]

    def _colors_of(self, name: str) -> Tensor:
        """Return the features (10, D) of the colors of an object: the mean over templates."""
        means = [
            self.clip.texts([t.format(color=color, name=name) for t in TEMPLATES]).mean(0)
            for color in COLORS
        ]
        return normalize(torch.stack(means), dim=-1)


def cut_out(
    picture: np.ndarray, objects: Objects, i: int, rules: Rules | None = None
) -> np.ndarray:
    """Put object i of a picture on grey ground and cut it out; all of it for an empty box."""
    rules, seen = rules or Rules(), picture
    if rules.ground >= 0:
        ground = np.full_like(picture, rules.ground)
        seen = np.where(objects.masks[i][..., None], picture, ground)
    x0, y0, x1, y1 = (int(v) for v in objects.boxes[i])
    return seen[y0:y1, x0:x1] if rules.crop and x1 > x0 and y1 > y0 else seen


def open_judge(
    networks: str | None = None, device: str = "cpu", rules: Rules | None = None
) -> PictureJudge:
    """Open the judge with the networks of a collection."""
    detector, clip = (collection.open_network(n, networks, device) for n in ("detector", "clip"))
    return PictureJudge(detector, clip, rules)


@lru_cache(maxsize=1)
def _by_prompt() -> dict[str, dict[str, Any]]:
    return {item["prompt"]: item for item in metadata()}


@dataclass(frozen=True)
class ItemJudge:
    """GenEval's judge of an item of a prompt set: 1.0 or 0.0."""

    networks: str | None = None
    device: str = "cpu"

    @property
    def fingerprint(self) -> str:
        """The hashes of its networks, which decide its verdicts."""
        return "+".join(collection.fingerprint(n, self.networks) for n in ("detector", "clip"))

    def __call__(self, item: Item, picture: np.ndarray) -> float:
        entry = _by_prompt().get(item.prompt)
        if entry is None:
            raise ValueError(f"{item.prompt!r} is no prompt of GenEval")
        return float(_judge(self.networks, self.device).judge(entry, picture)[0])


_judge = lru_cache(maxsize=1)(open_judge)


@dataclass(frozen=True)
class GenEvalPrompts:
    """GenEval's prompts as a prompt set for experiments, cycling through its tasks.

    >>> GenEvalPrompts().take(2)[1].group
    'two_object'
    """

    networks: str | None = None
    device: str = "cpu"
    seed: int = 0
    name: ClassVar[str] = "geneval"

    @property
    def judge(self) -> ItemJudge:
        return ItemJudge(self.networks, self.device)

    def take(self, n: int) -> tuple[Item, ...]:
        """Return `n` items, one of each task in turn."""
        if n < 1:
            raise ValueError(f"take at least 1 prompt; not {n}")
        by_task = {task: [m for m in metadata() if m["tag"] == task] for task in TASKS}
        items = list[Item]()
        for i in range(n):
            task = TASKS[i % len(TASKS)]
            several = by_task[task]
            entry = several[(i // len(TASKS)) % len(several)]
            items.append(Item(entry["prompt"], self.seed + i, task))
        return tuple(items)
