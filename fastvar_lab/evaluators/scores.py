"""The scores of a folder of pictures, each a function in one registry.

A score is a function of a `Case`: the folder, the options, and ways to open networks and to cache
rows. It returns a `Result`. To add one, write the function and a line in `SCORES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastvar_lab.errors import unknown
from fastvar_lab.evaluators import benchmarks, distances, geneval
from fastvar_lab.evaluators.geneval_pictures import PictureJudge
from fastvar_lab.evaluators.picture_folder import (
    PictureArray,
    PictureFolder,
    Pictures,
    PlainFolder,
)
from fastvar_lab.measure.statistics import UNKNOWN, bootstrap, wilson
from fastvar_lab.networks import collection, resizing
from fastvar_lab.prompts import Item, world_judge

HPS_RESIZES = ("antialias", "alias")


@dataclass(frozen=True)
class Options:
    """What decides a score beside the pictures; the defaults make the paper's numbers comparable.

    `reference` is a folder of pictures or an npz file as guided-diffusion keeps them. `resize` is
    that of Inception (`resizing.RESIZES`), by default the benchmark's; `hps_resize` says whether
    HPS's resize antialiases. `order` is the seed that shuffles pictures for the IS, None keeps
    them. `subsets` are those of the KID. `rules` are GenEval's thresholds.
    """

    reference: Path | None = None
    resize: str | None = None
    hps_resize: str = "antialias"
    order: int | None = 0
    subsets: int = 100
    rules: geneval.Rules = field(default_factory=geneval.Rules)

    def __post_init__(self) -> None:
        if self.resize is not None and self.resize not in resizing.RESIZES:
            raise unknown("resize", self.resize, resizing.RESIZES)
        if self.hps_resize not in HPS_RESIZES:
            raise unknown("resize of HPS", self.hps_resize, HPS_RESIZES)


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
    """A folder to score, under options, with a collection of networks on a device."""

    folder: PictureFolder
    options: Options = field(default_factory=Options)
    networks: str | Path | None = None
    device: str = "cpu"
    batch: int = 16

    def network(self, name: str) -> Any:
        return collection.open_network(name, self.networks, self.device)

    def hash(self, *names: str) -> dict[str, str]:
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
        return PictureArray(path) if path.suffix == ".npz" else PlainFolder(path)

    def activations(self, part: str, pictures: Pictures | None = None) -> np.ndarray:
        """Return one part of Inception's activations of the folder's pictures, or of others."""
        pictures = self.folder if pictures is None else pictures
        depends = {"resize": self.resize, **self.hash("inception")}
        compute = partial(_activations, self)
        rows = pictures.rows("inception", compute, self.batch, **depends)
        network = self.network("inception")
        wide, classes = network.fc.in_features, network.fc.out_features
        pooled, spatial, logits = np.split(rows, [wide, rows.shape[1] - classes], axis=1)
        return {"pooled": pooled, "spatial": spatial, "logits": logits}[part]

    def moments(self, part: str) -> distances.Moments:
        """Return the reference's moments: those in its npz file, else those of its pictures."""
        path, keys = (
            self.options.reference,
            {"pooled": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")},
        )
        if path is not None and path.suffix == ".npz":
            with np.load(path) as held:
                if set(keys[part]) <= set(held.files):
                    return distances.Moments(*(held[key] for key in keys[part]))
        return distances.moments(self.activations(part, self.reference()))


def _activations(case: Case, pictures: Sequence[np.ndarray], places: Sequence[int]) -> np.ndarray:
    resize = resizing.RESIZES[case.resize]
    pixels = torch.stack([resize(picture) for picture in pictures]).to(case.device)
    with torch.no_grad(), _exact():
        return torch.cat([t.float().cpu() for t in case.network("inception")(pixels)], 1).numpy()


class _exact:
    """Turns the reduced precision of GPUs' products off: it shifts distances of features."""

    def __enter__(self) -> None:
        self.before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def __exit__(self, *error: object) -> None:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = self.before


def _by_prompt(case: Case, values: np.ndarray) -> np.ndarray:
    """Return the mean of each prompt's pictures: these are independent, pictures are not."""
    groups = dict[tuple[str, str], list[float]]()
    for sample, value in zip(case.folder.samples, values):
        groups.setdefault((sample.group, sample.prompt), []).append(float(value))
    return np.array([np.mean(v) for v in groups.values()])


def _mean(case: Case, values: np.ndarray, **depends: Any) -> Result:
    """Return the mean over pictures, its interval over prompts, and the mean of each group."""
    groups, by_prompt = np.array(case.folder.groups), _by_prompt(case, values)
    names = list(dict.fromkeys(case.folder.groups))
    parts = {}
    if len(names) > 1:
        for name in names:
            inside = values[groups == name]
            parts[name] = (float(inside.mean()), *bootstrap(inside))
    low, high = bootstrap(by_prompt)
    return Result(float(values.mean()), low, high, len(values), len(by_prompt), parts, depends)


def clip_score(case: Case) -> Result:
    """Mean cosine of picture and prompt in CLIP's features, times 100: no clamp, no 2.5."""
    return _cosines(case, "clip", {})


def hps(case: Case) -> Result:
    """HPSv2.1: the same cosine in a CLIP that was tuned to people's preferences."""
    return _cosines(case, "hps", {"antialias": case.options.hps_resize == "antialias"})


def _cosines(case: Case, name: str, options: dict[str, Any]) -> Result:
    depends = {**options, **case.hash(name)}
    known = dict[str, Any]()

    def compute(pictures: Sequence[np.ndarray], places: Sequence[int]) -> np.ndarray:
        network, prompts = case.network(name), [case.folder.prompts[i] for i in places]
        for prompt in dict.fromkeys(p for p in prompts if p not in known):
            known[prompt] = network.texts([prompt])[0]
        texts = torch.stack([known[prompt] for prompt in prompts])
        return (100 * (network.pictures(pictures, **options) * texts).sum(1)).cpu().numpy()

    prompts = {"prompts": case.folder.prompts}
    rows = case.folder.rows(name, compute, case.batch, **depends, **prompts)
    return _mean(case, rows[:, 0], **depends)


def image_reward(case: Case) -> Result:
    """ImageReward: people's preference, learned; about 0 on average, larger is better."""
    depends = case.hash("imagereward")

    def compute(pictures: Sequence[np.ndarray], places: Sequence[int]) -> np.ndarray:
        prompts = [case.folder.prompts[i] for i in places]
        return case.network("imagereward").score(prompts, pictures).cpu().numpy()

    prompts = {"prompts": case.folder.prompts}
    rows = case.folder.rows("imagereward", compute, case.batch, **depends, **prompts)
    return _mean(case, rows[:, 0], **depends)


def gen_eval(case: Case) -> Result:
    """GenEval's overall score, the mean of its tasks' shares; parts are the tasks."""
    depends = {"rules": asdict(case.options.rules), **case.hash("detector", "clip")}
    judges = list[PictureJudge]()

    def compute(pictures: Sequence[np.ndarray], places: Sequence[int]) -> np.ndarray:
        if not judges:
            judges.append(
                PictureJudge(case.network("detector"), case.network("clip"), case.options.rules)
            )
        verdicts = []
        for picture, i in zip(pictures, places):
            entry = case.folder.samples[i].metadata
            if entry is None:
                raise ValueError("GenEval's score needs its metadata of each prompt")
            verdicts.append(judges[0].judge(entry, picture)[0])
        return np.array(verdicts)

    hits = case.folder.rows("geneval", compute, case.batch, **depends)[:, 0]
    return _tasks(case, hits, depends)


def _tasks(case: Case, hits: np.ndarray, depends: Mapping[str, Any]) -> Result:
    tasks, prompts = case.folder.groups, case.folder.prompts
    low, high = geneval.interval(tasks, prompts, list(hits))
    parts = {"right": (float(hits.mean()), *UNKNOWN)}
    for task in dict.fromkeys(tasks):
        rows = np.flatnonzero(np.array(tasks) == task)
        texts, task_hits = [prompts[i] for i in rows], hits[rows].tolist()
        parts[task] = (
            float(np.mean(task_hits)),
            *geneval.interval([task] * len(task_hits), texts, task_hits),
        )
    n = len(set(zip(tasks, prompts)))
    return Result(geneval.overall(tasks, list(hits)), low, high, len(hits), n, parts, depends)


def closed_world(case: Case) -> Result:
    """Return the mean of the closed world's tasks' shares of right pictures."""

    def compute(pictures: Sequence[np.ndarray], places: Sequence[int]) -> np.ndarray:
        return np.array([
            world_judge(Item(case.folder.prompts[i], 0), picture)
            for picture, i in zip(pictures, places)
        ])  # fmt: skip

    prompts = {"prompts": case.folder.prompts}
    return _tasks(case, case.folder.rows("closed-world", compute, case.batch, **prompts)[:, 0], {})


def _frechet(case: Case, part: str) -> Result:
    value = distances.frechet(distances.moments(case.activations(part)), case.moments(part))
    return Result(value, n=len(case.folder), prompts=len(set(case.folder.prompts)),
                  depends=_against(case))  # fmt: skip


def _against(case: Case) -> dict[str, Any]:
    reference = case.options.reference
    return {
        "resize": case.resize,
        "reference": None if reference is None else reference.name,
        **case.hash("inception"),
    }


def kid(case: Case) -> Result:
    """KID times 1000: like the FID, without its bias at few pictures."""
    pair = case.activations("pooled"), case.activations("pooled", case.reference())
    value, spread = distances.kernel_distance(*pair, subsets=case.options.subsets)
    parts = {"deviation over subsets": (1e3 * spread, *UNKNOWN)}
    return Result(1e3 * value, n=len(case.folder), prompts=len(set(case.folder.prompts)),
                  parts=parts, depends=_against(case))  # fmt: skip


def inception_score(case: Case) -> Result:
    """IS: how sure Inception is of each picture, and how varied the pictures are."""
    value, spread = distances.inception_score(case.activations("logits"), seed=case.options.order)
    depends = {"resize": case.resize, "order": case.options.order, **case.hash("inception")}
    return Result(value, n=len(case.folder), prompts=len(set(case.folder.prompts)),
                  parts={"deviation over splits": (spread, *UNKNOWN)}, depends=depends)  # fmt: skip


def _coverage(case: Case, part: str) -> Result:
    pair = case.activations("pooled"), case.activations("pooled", case.reference())
    hits = getattr(distances.precision_recall(*pair), part).astype(float)
    low, high = wilson(hits)
    return Result(float(hits.mean()), low, high, len(case.folder),
                  len(set(case.folder.prompts)), depends=_against(case))  # fmt: skip


@dataclass(frozen=True)
class Score:
    """A score under its name: how tables show it, what it needs, and its function.

    `larger` says whether a larger value is better.
    """

    name: str
    title: str
    function: Callable[[Case], Result]
    networks: tuple[str, ...] = ()
    reference: bool = False
    digits: int = 2
    larger: bool = True


SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        Score("geneval", "GenEval", gen_eval, ("detector", "clip"), digits=3),
        Score("fid", "FID", partial(_frechet, part="pooled"), ("inception",), True, larger=False),
        Score("kid", "KID x 1000", kid, ("inception",), True, larger=False),
        Score("sfid", "sFID", partial(_frechet, part="spatial"), ("inception",), True,
              larger=False),
        Score("is", "IS", inception_score, ("inception",), digits=1),
        Score("precision", "precision", partial(_coverage, part="precision"), ("inception",),
              True, digits=3),
        Score("recall", "recall", partial(_coverage, part="recall"), ("inception",), True,
              digits=3),
        Score("clip", "CLIP score", clip_score, ("clip",)),
        Score("hps", "HPSv2.1", hps, ("hps",)),
        Score("imagereward", "ImageReward", image_reward, ("imagereward",), digits=4),
        Score("closed-world", "closed world", closed_world, digits=3),
    )
}  # fmt: skip
"""Every score, by name."""


def find(name: str) -> Score:
    """Return a score by name; raise ValueError for an unknown one."""
    if name not in SCORES:
        raise unknown("score", name, SCORES)
    return SCORES[name]
