"""Scores a model on the tasks of the closed world, with confidence intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor
from tqdm.auto import tqdm

from fastvar_lab.backbones import quantize
from fastvar_lab.generation import generate
from fastvar_lab.measure.statistics import bootstrap, wilson, wilson_of_means
from fastvar_lab.models.model import Model
from fastvar_lab.pictures import to_tensor, to_uint8
from fastvar_lab.prompts import world_judge
from fastvar_lab.sampling import Sampling
from fastvar_lab.scales import as_sizes
from fastvar_lab.seam import Method
from fastvar_lab.world.detect import Detection, detect
from fastvar_lab.world.render import render
from fastvar_lab.world.scene import Scene, compose, random_prompt
from fastvar_lab.world.tasks import SIX, Question, questions, verdict

BATCH = 4  # pictures generated at once
_ATTRIBUTES, _KINDS = ("shape", "color", "texture"), ("rendered", "reconstructed")


def answers(
    model: Model,
    items: Sequence[Question],
    method: Method,
    sizes: Sequence[tuple[int, int]] | None = None,
    sampling: Sampling | None = None,
    given: int = 0,
) -> list[list[Detection]]:
    """Generate a picture for every question and detect its objects.

    The first `given` scales are not sampled; they get the tokens of a correct picture
    (`true_tokens`). Returns the detections of each picture, in the order of the questions.
    """
    detections = []
    for first in tqdm(range(0, len(items), BATCH), desc="evaluate", unit="batch"):
        part = items[first : first + BATCH]
        texts, seeds = [q.prompt.text for q in part], [q.seed for q in part]
        generation = generate(
            model,
            texts,
            method,
            seed=seeds,
            sizes=sizes,
            sampling=sampling,
            given=true_tokens(model, part, sizes)[:given] if given else (),
        )
        detections += [detect(image) for image in to_uint8(model.decode(generation.canvas))]
    return detections


def true_tokens(
    model: Model, items: Sequence[Question], sizes: Sequence[tuple[int, int]] | None = None
) -> list[Tensor]:
    """Encode a correct picture for every question: tokens (n, h * w, d) of each scale."""
    maps = list(model.sizes if sizes is None else as_sizes(sizes))
    height, width = (model.tokenizer.config.stride * k for k in maps[-1])
    scenes = [compose(q.prompt, q.seed, height / width) for q in items]
    image = to_tensor([render(scene, (height, width)) for scene in scenes], model.device)
    with torch.no_grad():
        latent = model.tokenizer.encoder(image.to(model.dtype)).float()
    return quantize.encode(latent, maps)[0]


def side(model: Model) -> int:
    """Return the height in pixels of a picture of the model's schedule."""
    return model.tokenizer.config.stride * model.sizes[-1][0]


def reconstruct(model: Model, picture: np.ndarray) -> np.ndarray:
    """Encode and decode a picture (H, W, 3) uint8 of the size of the model's schedule."""
    image = to_tensor([picture], model.device)
    with torch.no_grad():
        latent = model.tokenizer.encoder(image.to(model.dtype))
        _, states = quantize.encode(latent.float(), model.sizes)
    return to_uint8(model.decode(states[-1]))[0]


def scenes(n: int, seed: int) -> Iterator[Scene]:
    """Yield `n` random scenes of the closed world."""
    rng = np.random.default_rng((seed, 7))
    for _ in tqdm(range(n), desc="scenes", unit="scene"):
        yield compose(random_prompt(rng), int(rng.integers(2**31)))


def reconstruction_psnr(model: Model, n: int, seed: int) -> list[float]:
    """Return the PSNR in dB of the tokenizer's reconstructions of `n` random scenes."""
    pictures = (render(scene, side(model)) for scene in scenes(n, seed))
    return [float(peak_signal_noise_ratio(p, reconstruct(model, p))) for p in pictures]


def judge_accuracy(model: Model, n: int = 1000, seed: int = 0) -> dict[str, dict[str, float]]:
    """Score the detector on `n` rendered scenes and on their reconstructions by the tokenizer.

    Returns, for "rendered" and "reconstructed", the share of objects whose shape, color, texture
    and `place` (within 2 % of the side) are detected correctly, and in `count` the share of scenes
    with the correct number of detections.
    """
    hits = {kind: dict.fromkeys((*_ATTRIBUTES, "place", "count"), 0.0) for kind in _KINDS}
    objects = 0
    for scene in scenes(n, seed):
        objects += len(scene.objects)
        picture = render(scene, side(model))
        for kind, image in zip(_KINDS, (picture, reconstruct(model, picture)), strict=True):
            detections = detect(image)
            hits[kind]["count"] += len(detections) == len(scene.objects)
            for item in scene.objects if detections else ():
                near = min(detections, key=lambda d: np.hypot(d.x - item.x, d.y - item.y))
                hits[kind]["place"] += np.hypot(near.x - item.x, near.y - item.y) < 0.02
                for attribute in _ATTRIBUTES:
                    hits[kind][attribute] += getattr(near, attribute) == getattr(item, attribute)
    return {
        kind: {k: float(v) / (n if k == "count" else objects) for k, v in row.items()}
        for kind, row in hits.items()
    }


def need_judge(model: Model) -> None:
    """Raise ValueError if the closed world's judge cannot score the model's pictures."""
    if model.prompts.judge is not world_judge:
        raise ValueError(
            f"{model.name} has no judge: `evaluate` scores only pictures of the closed world"
        )


def evaluate(
    model: Model,
    method: Method,
    n: int = 200,
    seed: int = 0,
    sizes: Sequence[tuple[int, int]] | None = None,
    sampling: Sampling | None = None,
    given: int = 0,
) -> dict[str, Any]:
    """Score the pictures of `n` held-out prompts, with 95 % intervals.

    Returns the score of every task, `overall` (the mean of the six tasks of GenEval), `texture`,
    the tokenizer's reconstruction PSNR in dB, and `mismatched`, the score of each picture against
    another prompt of its task: the judge's chance rate. The first `given` scales get the tokens of
    a correct picture, to find the scale at which errors start. Raises ValueError for a model
    without the closed world's judge, and for more given scales than there are.
    """
    need_judge(model)
    items = questions(n, seed)
    maps = model.sizes if sizes is None else as_sizes(sizes)
    if not 0 <= given <= len(maps):
        raise ValueError(f"0 to {len(maps)} scales can be given; not {given}")
    h, w = maps[-1]
    detections = answers(model, items, method, sizes, sampling, given)
    right: dict[str, list[float]] = {}
    wrong: list[float] = []
    for i, (question, objects) in enumerate(zip(items, detections, strict=True)):
        right.setdefault(question.task, []).append(verdict(question.prompt, objects, h / w))
        others = [q.prompt for q in items[i + 1 :] + items[:i] if q.task == question.task]
        others = [p for p in others if p.canonical != question.prompt.canonical]
        if others:
            wrong.append(verdict(others[0], objects, h / w))
    psnr = reconstruction_psnr(model, min(n, 100), seed)
    six = [task for task in SIX if task in right]
    result: dict[str, Any] = {
        "n": n,
        "seed": seed,
        "method": repr(method),
        "size": f"{h}x{w}",
        "given": given,
        "weights": model.fingerprint,
        "overall": float(np.mean([np.mean(right[task]) for task in six])),
        "overall_ci95": wilson_of_means([right[task] for task in six]),
        "tasks": {
            task: {"score": float(np.mean(hits)), "n": len(hits), "ci95": wilson(hits)}
            for task, hits in right.items()
        },
        "texture": float(np.mean(right["texture"])) if "texture" in right else None,
        "mismatched": float(np.mean(wrong)) if wrong else None,
        "reconstruction_psnr": float(np.mean(psnr)),
        "reconstruction_psnr_ci95": bootstrap(psnr),
    }
    return result


def table(result: dict[str, Any]) -> str:
    """Format a result for a terminal."""
    lines = [f"{'task':<18} {'score':>6} {'95 % interval':>15} {'n':>4}"]
    for task, row in result["tasks"].items():
        low, high = row["ci95"]
        lines.append(
            f"{task:<18} {row['score']:6.3f} {f'{low:.2f} to {high:.2f}':>15} {row['n']:4}"
        )
    low, high = result["overall_ci95"]
    lines.append(
        f"{'overall of six':<18} {result['overall']:6.3f} {f'{low:.2f} to {high:.2f}':>15}"
    )
    if result["mismatched"] is not None:
        lines.append(f"judged against another prompt of the task: {result['mismatched']:.3f}")
    lines.append(f"tokenizer reconstruction: {result['reconstruction_psnr']:.2f} dB PSNR")
    return "\n".join(lines)
