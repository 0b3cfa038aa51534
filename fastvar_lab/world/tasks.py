"""The six tasks of GenEval in the closed world, and a seventh for texture, with their verdict.

As in GenEval, a picture is correct if it shows everything that its prompt names. Other objects are
tolerated, except in counting, where the number must be exact. Models and methods are judged on
prompts that were held out of training; constants, settings and schedules are measured on others.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np

from fastvar_lab.world.detect import Detection, detect
from fastvar_lab.world.grammar import COLORS, RELATIONS, SHAPES, TEXTURES, Group, Prompt
from fastvar_lab.world.scene import holds

SIX = ("single_object", "two_objects", "counting", "colors", "position", "color_attribution")
TASKS = (*SIX, "texture")


class Question(NamedTuple):
    """A prompt of a task, and the seed to generate its picture with."""

    task: str
    prompt: Prompt
    seed: int


def draw_prompt(task: str, rng: np.random.Generator, held_out: bool = True) -> Prompt:
    """Draw a prompt of a task, held out of training or not."""
    while True:
        prompt = _task_prompt(task, rng)
        if prompt.held_out == held_out:
            return prompt


def questions(
    n: int, seed: int, tasks: Sequence[str] = TASKS, held_out: bool = True
) -> list[Question]:
    """Draw `n` questions that cycle through the tasks; a task's prompts depend on the seed alone.

    Raises ValueError for fewer than one, and for a negative seed.
    """
    if n < 1 or seed < 0:
        raise ValueError(f"questions must be 1 or more, their seed 0 or more; not {n} and {seed}")
    streams = {task: np.random.default_rng((seed, TASKS.index(task))) for task in tasks}
    return [
        Question(
            task, draw_prompt(task, streams[task], held_out), int(streams[task].integers(2**31))
        )
        for task in (tasks[i % len(tasks)] for i in range(n))
    ]


def verdict(prompt: Prompt, detections: Sequence[Detection], aspect: float = 1.0) -> bool:
    """Return whether the detections match the prompt; `aspect` is height / width."""
    if len(prompt.groups) == 1 and prompt.groups[0].count > 1:
        return sum(_fits(d, prompt.groups[0]) for d in detections) == prompt.groups[0].count
    groups = [g for g in prompt.groups for _ in range(g.count)]  # one entry per object
    for chosen in permutations(detections, len(groups)):
        if not all(map(_fits, chosen, groups)):
            continue
        if prompt.relation is None:
            return True
        first, second = ((d.x, d.y) for d in chosen)
        if holds(prompt.relation, first, second, aspect):
            return True
    return False


def judge(prompt: Prompt, image: np.ndarray) -> bool:
    """Detect the objects of a picture (H, W, 3) and return whether they match the prompt."""
    return verdict(prompt, detect(image), image.shape[0] / image.shape[1])


def _fits(detection: Detection, group: Group) -> bool:
    return (
        detection.shape == group.shape
        and group.color in (None, detection.color)
        and group.texture in (None, detection.texture)
    )


def _task_prompt(task: str, rng: np.random.Generator) -> Prompt:
    """Draw a prompt of a task, held out or not."""

    def group(count: int = 1, color: float = 0.5, texture: bool = False) -> Group:
        return Group(
            count,
            str(rng.choice(SHAPES)),
            str(rng.choice(list(COLORS))) if rng.random() < color else None,
            str(rng.choice(TEXTURES)) if texture else None,
        )

    if task == "single_object":
        return Prompt((group(),))
    if task == "colors":
        return Prompt((group(color=1),))
    if task == "texture":
        return Prompt((group(texture=True),))
    if task == "counting":
        return Prompt((group(count=int(rng.integers(2, 5))),))
    if task in ("two_objects", "position", "color_attribution"):
        color = 1.0 if task == "color_attribution" else 0.5
        first, second = group(color=color), group(color=color)
        while second.shape == first.shape:
            second = group(color=color)
        relation = str(rng.choice(RELATIONS)) if task == "position" else None
        return Prompt((first, second), relation)
    raise ValueError(f"task must be one of {', '.join(TASKS)}; not {task!r}")
