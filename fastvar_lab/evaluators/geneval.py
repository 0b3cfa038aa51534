"""GenEval: its prompts, its judge of detected objects, and its scores. Needs no torch.

The 553 prompts are drawn anew, byte for byte as published. Source: Ghosh et al., NeurIPS 2023;
github.com/djghosh13/geneval (MIT).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from fastvar_lab.errors import unknown
from fastvar_lab.measure.statistics import DRAWS

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")
SEED = 43  # of the published list
METADATA_SHA256 = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
IMAGES = 4  # for each prompt
GREY = 0x99  # of the ground on which objects are looked at
_NUMBERS = ("", "one", "two", "three", "four")

# the 80 classes of COCO in its order, with GenEval's names for three of them
_COCO = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,"
    "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,"
    "backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,"
    "baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,"
    "banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,computer mouse,tv remote,computer keyboard,"
    "cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,"
    "hair drier,toothbrush"
)
CLASSES = tuple(_COCO.split(","))

Metadata = dict[str, Any]
"""One prompt as published: `tag`, `include`, perhaps `exclude`, `prompt`."""


def _an(text: str) -> str:
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def _plural(text: str) -> str:
    return f"{text}es" if text.endswith("s") else f"{text}s"


def metadata(seed: int = SEED) -> list[Metadata]:
    """Draw the prompts, task by task; equal ones stand once."""
    rng = np.random.default_rng(seed)

    def names(count: int, first: int = 0) -> list[str]:
        picked = rng.choice(len(CLASSES) - first, size=count, replace=False) + first
        return [CLASSES[int(i)] for i in picked]

    def item(task: str, include: list[Metadata], prompt: str, **more: Any) -> Metadata:
        return {"tag": task, "include": include, **more, "prompt": f"a photo of {prompt}"}

    def one(name: str, **more: Any) -> Metadata:
        return {"class": name, "count": 1, **more}

    items = [item(TASKS[0], [one(name)], _an(name)) for name in names(len(CLASSES))]
    for _ in range(100):
        a, b = names(2)
        items.append(item(TASKS[1], [one(a), one(b)], f"{_an(a)} and {_an(b)}"))
    for _ in range(100):
        name = CLASSES[int(rng.choice(len(CLASSES)))]
        count = int(rng.integers(2, 4, endpoint=True))
        several = {"class": name, "count": count}
        more = {"exclude": [{"class": name, "count": count + 1}]}
        items.append(item(TASKS[2], [several], f"{_NUMBERS[count]} {_plural(name)}", **more))
    for _ in range(100):  # people are left out
        name = CLASSES[int(rng.choice(len(CLASSES) - 1)) + 1]
        color = COLORS[int(rng.choice(len(COLORS)))]
        items.append(item(TASKS[3], [one(name, color=color)], f"{_an(color)} {name}"))
    for _ in range(100):
        a, b = names(2)
        relation = RELATIONS[int(rng.choice(len(RELATIONS)))]
        placed = [one(b), one(a, position=[relation, 0])]
        items.append(item(TASKS[4], placed, f"{_an(a)} {relation} {_an(b)}"))
    for _ in range(100):
        a, b = names(2, first=1)
        x, y = (COLORS[int(i)] for i in rng.choice(len(COLORS), size=2, replace=False))
        pair = [one(a, color=x), one(b, color=y)]
        items.append(item(TASKS[5], pair, f"{_an(x)} {a} and {_an(y)} {b}"))
    return list({json.dumps(entry): entry for entry in items}.values())


@dataclass(frozen=True)
class Rules:
    """The judge's thresholds, as published.

    `threshold` of scores, that of counting, the most objects of a class, the overlap above which
    the weaker of two is dropped (1: none is), and the margin of relations, as a share of sizes.
    Colors are asked of an object on `ground`, a grey level (-1: as it is in the picture), and of
    its box alone if `crop`.

    >>> Rules.read(["margin=0.2", "crop=no"])
    Rules(threshold=0.3, counting_threshold=0.9, most=16, overlap=1.0, margin=0.2, ground=153, \
crop=False)
    """

    threshold: float = 0.3
    counting_threshold: float = 0.9
    most: int = 16
    overlap: float = 1.0
    margin: float = 0.1
    ground: int = GREY
    crop: bool = True

    def __post_init__(self) -> None:
        limits = {"threshold": (0, 1), "counting_threshold": (0, 1), "most": (1, np.inf),
                  "overlap": (0, 1), "margin": (0, np.inf), "ground": (-1, 255)}  # fmt: skip
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if not least <= value <= most:  # nan neither
                upto = f"{least} to {most}" if np.isfinite(most) else f"{least} or more"
                raise ValueError(f"the rule {name} is {upto}; not {value}")

    @classmethod
    def read(cls, texts: Sequence[str]) -> Rules:
        """Read rules from texts NAME=VALUE; raise ValueError for others."""
        kinds: dict[str, Any] = {field.name: type(field.default) for field in fields(cls)}
        values = dict[str, Any]()
        for text in texts:
            name, _, value = text.partition("=")
            if name not in kinds:
                raise unknown("rule", name, kinds)
            try:
                yes = {"yes": True, "no": False}
                values[name] = yes[value] if kinds[name] is bool else kinds[name](value)
            except (KeyError, ValueError):
                kind = {bool: "yes or no", int: "a whole number"}.get(kinds[name], "a number")
                raise ValueError(f"the rule {name} is {kind}; not {value!r}") from None
        return cls(**values)


@dataclass(frozen=True)
class Detected:
    """One object: its score, its box (xmin, ymin, xmax, ymax) in pixels, its number."""

    score: float
    box: tuple[float, float, float, float]
    index: int = 0


Colors = Callable[[str, Sequence[Detected]], Sequence[str]]
"""Names the color of each object of a class."""


def kept(objects: Sequence[Detected], counting: bool, rules: Rules) -> list[Detected]:
    """Return the objects of one class that the judge looks at, best first."""
    least = rules.counting_threshold if counting else rules.threshold
    boxes = sorted((o for o in objects if o.score > least), key=lambda o: -o.score)[: rules.most]
    result = list[Detected]()
    for candidate in boxes:  # an overlap of 1 drops nothing
        if rules.overlap >= 1 or all(_iou(candidate, o) < rules.overlap for o in result):
            result.append(candidate)
    return result


def _iou(one: Detected, other: Detected) -> float:
    """Return intersection over union of two boxes whose ends belong to them."""

    def area(box: Sequence[float]) -> float:
        return max(box[2] - box[0] + 1, 0) * max(box[3] - box[1] + 1, 0)

    a, b = one.box, other.box
    both = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    return both / (area(a) + area(b) - both)


def relations(one: Detected, other: Detected, margin: float = 0.1) -> set[str]:
    """Return how `one` lies to `other`: up to two of `RELATIONS`, none if they are too near."""
    a, b = np.array(one.box).reshape(2, 2), np.array(other.box).reshape(2, 2)
    offset = a.mean(0) - b.mean(0)
    free = np.maximum(np.abs(offset) - margin * ((a[1] - a[0]) + (b[1] - b[0])), 0)
    free = free * np.sign(offset)
    if np.all(np.abs(free) < 1e-3):
        return set()
    dx, dy = free / np.linalg.norm(offset)
    holds = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {name for name, yes in holds.items() if yes}


def verdict(
    item: Metadata,
    detected: Mapping[str, Sequence[Detected]],
    colors: Colors,
    rules: Rules | None = None,
) -> tuple[bool, str]:
    """Judge the objects of a picture by class; return whether all holds, and what does not.

    Objects that the prompt does not name are tolerated, except in counting. Colors are asked for
    only where the prompt has one.
    """
    rules = rules or Rules()
    counting = item["tag"] == "counting"
    objects = {name: kept(several, counting, rules) for name, several in detected.items()}
    groups, reasons = list[list[Detected] | None](), list[str]()
    for clause in item.get("include", []):
        name, count = clause["class"], clause["count"]
        group = objects.get(name, [])[:count]
        reason = ""
        if len(group) < count:
            reason = f"{len(group)} of {count} {name}"
        elif "color" in clause:
            right = list(colors(name, group)).count(clause["color"])
            if right < count:
                reason = f"{right} of {count} {clause['color']} {name}"
        if not reason and "position" in clause:
            relation, target = clause["position"]
            others = groups[target]
            if others is None:
                reason = f"no {item['include'][target]['class']} to place {name} by"
            elif any(relation not in relations(o, t, rules.margin) for o in group for t in others):
                reason = f"{name} is not {relation} its target"
        groups.append(None if reason else group)
        reasons += [reason] if reason else []
    for clause in item.get("exclude", []):
        if len(objects.get(clause["class"], [])) >= clause["count"]:
            reasons.append(f"{clause['count']} or more {clause['class']}")
    return not reasons, "; ".join(reasons)


def overall(tasks: Sequence[str], hits: Sequence[float]) -> float:
    """Return the unweighted mean of the tasks' shares of right pictures."""
    rows, values = np.asarray(tasks), np.asarray(hits, dtype=float)
    return float(np.mean([values[rows == task].mean() for task in dict.fromkeys(tasks)]))


def interval(
    tasks: Sequence[str], prompts: Sequence[str], hits: Sequence[float], seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of `overall`: a bootstrap over the prompts of each task.

    Pictures of one prompt depend on each other, so that prompts are drawn, not pictures. Where all
    prompts of a task agree there is no spread to draw from: then the share is drawn from Jeffreys'
    posterior of its prompts. The interval holds the value.
    """
    values, rng = np.asarray(hits, dtype=float), np.random.default_rng(seed)
    means = list[np.ndarray]()
    for task in dict.fromkeys(tasks):
        by_prompt = dict[str, list[float]]()
        for name, prompt, value in zip(tasks, prompts, values):
            if name == task:
                by_prompt.setdefault(prompt, []).append(value)
        shares = np.array([np.mean(v) for v in by_prompt.values()])
        if np.ptp(shares) == 0:
            right = shares[0] * len(shares)
            means.append(rng.beta(right + 0.5, len(shares) - right + 0.5, size=DRAWS))
            continue
        means.append(shares[rng.integers(len(shares), size=(DRAWS, len(shares)))].mean(1))
    low, high = np.percentile(np.mean(means, axis=0), (2.5, 97.5))
    value = overall(tasks, hits)
    return min(float(low), value), max(float(high), value)
