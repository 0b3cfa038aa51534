"""Fits the decision rule of SkipVAR on a model: features of a picture so far -> tails it bears."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp
from torch import Tensor
from tqdm.auto import tqdm

from fastvar_lab.generation import generate, resume
from fastvar_lab.measure.quality import ssim
from fastvar_lab.methods.guidance import Tail
from fastvar_lab.methods.prune import Dense
from fastvar_lab.methods.skipvar import Linear, Origin, Rule, features_of_latents
from fastvar_lab.models.model import Model
from fastvar_lab.pictures import to_uint8
from fastvar_lab.prompts import Item

TAILS = (1, 2, 3)


def skipvar(
    model: Model, items: Sequence[Item], target: float = 0.96, decide: int = -4, look: int = -6
) -> tuple[Rule, str]:
    """Return a rule of SkipVAR fitted on some prompts, and a sentence on its origin.

    `target` is the SSIM to full generation that tails must reach; `decide` and `look` name steps
    from the end, see `Rule`. Raises ValueError for settings that do not fit the model.
    """
    steps = len(model.sizes)
    if not 0 < target < 1:
        raise ValueError(f"the target is an SSIM between 0 and 1; not {target}")
    if not (1 - steps < decide <= -1 - max(TAILS) and -steps <= look < 0):
        raise ValueError(
            f"of {steps} steps, decide names one with a step before it and {max(TAILS)} after it, "
            f"and look any, from the end; not {decide} and {look}"
        )
    bar = tqdm(items, desc="calibrate skipvar", unit="picture", leave=False)
    samples = [sample(model, item, steps + decide, steps + look) for item in bar]
    guidance = float(max(model.sampling.guidances))
    origin = Origin(model.family, model.name, model.fingerprint, model.precision, guidance)
    rule = fit(samples, target, steps, steps + decide, steps + look)._replace(origin=origin)
    labels = [longest(one.skipped, target) for one in samples]
    counts = ", ".join(f"{labels.count(n)} bear {n}" for n in sorted(set(labels)))
    right = sum(rule.skip(one.features) == n for one, n in zip(samples, labels, strict=True))
    source = (
        f"{model.name} at guidance {guidance:g}, SSIM {target:g}: of {len(items)} pictures, by "
        f"skipped steps, {counts}; {right} predicted"
    )
    if len(rule.skip.classes) == 1 and (rule.skip.classes[0] or len(rule.rows.classes) == 1):
        source += (
            "; all bear the same, so that the rule decides alike for every picture: take more "
            "prompts, or another target"
        )
    return rule, source


class Sample(NamedTuple):
    """A picture's features, and the SSIM to full generation of each of its tails."""

    features: tuple[float, ...]
    skipped: tuple[float, ...]
    alone: tuple[float, ...]


def sample(model: Model, item: Item, decide: int, look: int) -> Sample:
    """Generate one picture in full, and with each tail."""
    full = generate(model, item.prompt, Dense(), seed=item.seed, snapshot=())
    assert full.snapshot is not None
    canvases = full.snapshot.canvases

    def picture(canvas: Tensor) -> np.ndarray:
        return to_uint8(model.decode(canvas))[0]

    reference = picture(full.canvas)
    tails = (resume(model, full, Tail(cond_from=-n)).canvas for n in TAILS)
    before, after = canvases[decide - 1], canvases[decide]
    values = features_of_latents(before, after, full.request.grids, look, model.decode)
    return Sample(
        tuple(values[0].tolist()),
        tuple(ssim(picture(canvases[-1 - n]), reference) for n in TAILS),
        tuple(ssim(picture(canvas), reference) for canvas in tails),
    )


def longest(similarities: Sequence[float], target: float) -> int:
    """Return the longest tail whose SSIM reaches the target; 0 if none does.

    >>> longest((0.99, 0.95, 0.8), target=0.9)
    2
    """
    return max((n for n, value in zip(TAILS, similarities) if value >= target), default=0)


def fit(samples: Sequence[Sample], target: float, steps: int, decide: int, look: int) -> Rule:
    """Fit a rule for an SSIM target: the second classifier on the pictures that skip nothing.

    Raises ValueError without samples.
    """
    if not samples:
        raise ValueError("there is no sample to fit a rule to")
    skipped = [longest(one.skipped, target) for one in samples]
    whole = [one for one, label in zip(samples, skipped, strict=True) if label == 0]
    alone = [longest(one.alone, target) for one in whole]
    return Rule(
        steps,
        decide,
        look,
        logistic(np.array([one.features for one in samples]), skipped),
        logistic(np.array([one.features for one in whole or samples]), alone or [0] * len(samples)),
    )


def logistic(values: np.ndarray, labels: Sequence[int], strength: float = 1.0) -> Linear:
    """Fit multinomial logistic regression to standardised features (N, 2).

    The loss is `strength` times the sum of negative log likelihoods plus half the squared weights,
    the default of scikit-learn, with which the released classifiers of SkipVAR were fitted.
    """
    mean, scale = values.mean(axis=0), values.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    z, classes = (values - mean) / scale, sorted(set(labels))
    truth = np.array([classes.index(label) for label in labels])
    shape = (len(classes), z.shape[1] + 1)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = flat.reshape(shape)[:, :-1], flat.reshape(shape)[:, -1]
        scores = z @ weights.T + bias
        total = logsumexp(scores, axis=1, keepdims=True)
        error = np.exp(scores - total)
        likelihood = (total[:, 0] - scores[np.arange(len(z)), truth]).sum()
        error[np.arange(len(z)), truth] -= 1
        slope = np.column_stack((strength * error.T @ z + weights, strength * error.sum(axis=0)))
        return strength * likelihood + (weights**2).sum() / 2, slope.ravel()

    fit = minimize(loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", tol=1e-10)
    rows = np.round(fit.x.reshape(shape), 5)
    return Linear(
        tuple(np.round(mean, 5).tolist()),
        tuple(np.round(scale, 5).tolist()),
        tuple(classes),
        tuple(map(tuple, rows[:, :-1].tolist())),
        tuple(rows[:, -1].tolist()),
    )
