"""The scores of pictures and their prompts: CLIP score, HPSv2.1, ImageReward, and the judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from fastvar_lab.evaluators import geneval
from fastvar_lab.evaluators.case import Case, Result, mean
from fastvar_lab.evaluators.geneval_pictures import PictureJudge
from fastvar_lab.measure.statistics import UNKNOWN, wilson_of_means
from fastvar_lab.world.detect import detect
from fastvar_lab.world.grammar import Prompt, parse
from fastvar_lab.world.tasks import SIX, verdict


def clip_score(case: Case) -> Result:
    """Mean cosine of picture and prompt in CLIP's features, times 100: no clamp, no 2.5."""
    return _cosines(case, "clip", {})


def hps(case: Case) -> Result:
    """HPSv2.1: the same cosine in a CLIP that was tuned to people's preferences."""
    return _cosines(case, "hps", {"antialias": case.options.hps_resize == "antialias"})


def _cosines(case: Case, name: str, options: dict[str, Any]) -> Result:
    depends = {**options, **case.hash(name), **case.precision}
    known = dict[str, Any]()

    def compute(pictures: Sequence[np.ndarray], places: Sequence[int]) -> np.ndarray:
        network, prompts = case.network(name), [case.folder.prompts[i] for i in places]
        with case.mixed():
            for prompt in dict.fromkeys(p for p in prompts if p not in known):
                known[prompt] = network.texts([prompt])[0]
            texts = torch.stack([known[prompt] for prompt in prompts])
            cosines = (network.pictures(pictures, **options) * texts).sum(1)
        return (100 * cosines).float().cpu().numpy()

    rows = case.rows(name, compute, prompts=case.folder.prompts, **depends)
    return mean(case, rows[:, 0], **depends)


def image_reward(case: Case) -> Result:
    """ImageReward: people's preference, learned; about 0 on average, larger is better."""
    depends = case.hash("imagereward")

    def compute(pictures: Sequence[np.ndarray], places: Sequence[int]) -> np.ndarray:
        prompts = [case.folder.prompts[i] for i in places]
        return case.network("imagereward").score(prompts, pictures).cpu().numpy()

    rows = case.rows("imagereward", compute, prompts=case.folder.prompts, **depends)
    return mean(case, rows[:, 0], **depends)


def gen_eval(case: Case) -> Result:
    """GenEval's overall score, the mean of its tasks' shares; parts are the tasks."""
    entries = [sample.metadata for sample in case.folder.samples]
    depends: dict[str, Any] = {"rules": asdict(case.options.rules), **case.precision}
    depends |= case.hash("detector", "clip")
    judges = list[PictureJudge]()

    def compute(pictures: Sequence[np.ndarray], places: Sequence[int]) -> np.ndarray:
        if not judges:
            pair = case.network("detector"), case.network("clip")
            judges.append(PictureJudge(*pair, case.options.rules, case.mixed))
        verdicts = []
        for picture, i in zip(pictures, places):
            entry = entries[i]
            assert entry is not None  # as `scoring.check` has seen to
            verdicts.append(judges[0].judge(entry, picture)[0])
        return np.array(verdicts)

    hits = case.rows("geneval", compute, entries=entries, **depends)
    depends["interval"] = "bootstrap over prompts, task by task"
    return _tasks(case, hits[:, 0], depends)


def _tasks(case: Case, hits: np.ndarray, depends: Mapping[str, Any]) -> Result:
    """Average shares of right pictures over GenEval's tasks; intervals are over prompts."""
    tasks, prompts = case.folder.groups, case.folder.prompts
    parts = {"right": (float(hits.mean()), *UNKNOWN)}
    for task in dict.fromkeys(tasks):
        rows = np.flatnonzero(np.array(tasks) == task)
        texts, task_hits = [prompts[i] for i in rows], hits[rows].tolist()
        parts[task] = (
            float(np.mean(task_hits)),
            *geneval.interval([task] * len(task_hits), texts, task_hits),
        )
    n, value = len(set(zip(tasks, prompts))), geneval.overall(tasks, list(hits))
    low, high = geneval.interval(tasks, prompts, list(hits))
    return Result(value, low, high, len(hits), n, parts, depends)


MISMATCHED = "mismatched"


def closed_world(case: Case) -> Result:
    """Return the mean of the shares of right pictures in the closed world's six tasks.

    Parts are the tasks, texture, which is no task of GenEval, and the share of pictures that are
    right for another prompt of their task: the judge's chance rate.
    """
    prompts = [parse(prompt) for prompt in case.folder.prompts]
    tasks = np.array(case.folder.groups)

    def other(i: int) -> Prompt | None:
        """Return the next prompt of the same task that asks for something else."""
        alike = np.flatnonzero(tasks == tasks[i])
        after = (*alike[alike > i], *alike[alike < i])
        return next(
            (prompts[j] for j in after if prompts[j].canonical != prompts[i].canonical), None
        )

    def compute(pictures: Sequence[np.ndarray], places: Sequence[int]) -> np.ndarray:
        rows = []
        for picture, i in zip(pictures, places):
            objects, aspect = detect(picture), picture.shape[0] / picture.shape[1]
            wrong = other(i)
            chance = np.nan if wrong is None else verdict(wrong, objects, aspect)
            rows.append((verdict(prompts[i], objects, aspect), chance))
        return np.array(rows, dtype=float)

    known: dict[str, Any] = {"prompts": case.folder.prompts, "groups": case.folder.groups}
    rows = case.rows("closed-world", compute, **known).astype(float)
    hits, chances = rows[:, 0], rows[:, 1][np.isfinite(rows[:, 1])]
    numbers = case.folder.prompt_numbers
    several = len(np.unique(numbers)) < len(hits)

    def interval(*names: str) -> tuple[float, float]:
        """Return the interval of the mean of some tasks' shares of right pictures.

        Several pictures of a prompt depend on each other, so that prompts are drawn.
        """
        if not several:
            return wilson_of_means([hits[tasks == name] for name in names])
        inside = np.isin(tasks, names)
        prompts = list(map(str, numbers[inside]))
        return geneval.interval(tasks[inside].tolist(), prompts, hits[inside].tolist())

    there = list(dict.fromkeys(case.folder.groups))
    parts = {task: (float(hits[tasks == task].mean()), *interval(task)) for task in there}
    if len(chances):
        parts[MISMATCHED] = (float(chances.mean()), *UNKNOWN)
    six = [task for task in SIX if task in there]
    depends = {"interval": "bootstrap over prompts, task by task" if several else "Wilson's"}
    value = float(np.mean([parts[task][0] for task in six]))
    return Result(value, *interval(*six), len(hits), case.prompts, parts, depends)
