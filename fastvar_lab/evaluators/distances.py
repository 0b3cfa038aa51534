"""FID, KID, IS, precision and recall as functions of features: NumPy in, numbers out.

Features (N, D) come from any network; the scores of the papers take Inception's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.special

SPLITS = 5000  # pictures a split of the IS, guided-diffusion
NEIGHBOURS = 3  # of precision and recall
BLOCK = 2048  # rows of a matrix of distances held at once


class Moments(NamedTuple):
    """The mean (D,) and unbiased covariance (D, D) of features, in float64."""

    mean: np.ndarray
    covariance: np.ndarray


def moments(features: np.ndarray) -> Moments:
    """Return the moments of features (N, D); raise ValueError for fewer than two rows."""
    if len(features) < 2:
        raise ValueError(f"a covariance takes at least 2 pictures; not {len(features)}")
    data = np.asarray(features, dtype=np.float64)
    return Moments(data.mean(0), np.atleast_2d(np.cov(data, rowvar=False)))


def frechet(first: Moments, second: Moments) -> float:
    """Return the Fréchet distance of two Gaussians: the FID, if the features are Inception's.

    The trace of the root of the product is that of the root of S1^(1/2) S2 S1^(1/2), which is
    symmetric: no complex numbers appear, and singular covariances are no special case. Source:
    Heusel et al., NeurIPS 2017.

    >>> one = Moments(np.zeros(2), np.eye(2))
    >>> frechet(one, Moments(np.ones(2), 4 * np.eye(2)))
    4.0
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(
            f"features of {first.mean.size} and of {second.mean.size} numbers cannot be compared"
        )
    values, vectors = scipy.linalg.eigh(first.covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    product = scipy.linalg.eigvalsh(root @ second.covariance @ root)
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    gap = np.square(first.mean - second.mean).sum()
    return float(gap + traces - 2 * np.sqrt(product.clip(0)).sum())


def kernel_distance(
    first: np.ndarray, second: np.ndarray, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the KID, and its deviation over subsets: unbiased, so that few pictures are no bias.

    The kernel is (x . y / D + 1)^3. Source: Binkowski et al., ICLR 2018.
    """
    rng, width = np.random.default_rng(seed), first.shape[1]
    size = min(size, len(first), len(second))
    if size < 2:
        raise ValueError("the KID takes at least 2 pictures on each side")
    values = []
    for _ in range(subsets):
        x, y = (
            np.asarray(data[rng.choice(len(data), size, replace=False)], dtype=np.float64)
            for data in (first, second)
        )
        xx, yy, xy = ((a @ b.T / width + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        inside = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (size * (size - 1))
        values.append(inside - 2 * xy.mean())
    return float(np.mean(values)), float(np.std(values))


def inception_score(
    logits: np.ndarray, split: int = SPLITS, seed: int | None = 0
) -> tuple[float, float]:
    """Return the mean and deviation of the IS over splits of logits (N, K).

    Pictures are shuffled by `seed` first: in class order a split holds few classes, and the score
    falls sevenfold. None keeps their order. Source: Salimans et al., NeurIPS 2016; splits of 5,000
    as in guided-diffusion.
    """
    data = np.asarray(logits, dtype=np.float64)
    if seed is not None:
        data = data[np.random.default_rng(seed).permutation(len(data))]
    scores = []
    for first in range(0, len(data), split):
        chances = scipy.special.softmax(data[first : first + split], axis=1)
        gap = scipy.special.rel_entr(chances, chances.mean(0)).sum(1)
        scores.append(np.exp(gap.mean()))
    return float(np.mean(scores)), float(np.std(scores))


class Coverage(NamedTuple):
    """For each sample, and for each reference, whether the other set covers it: hits (N,)."""

    precision: np.ndarray
    recall: np.ndarray


def precision_recall(
    samples: np.ndarray, reference: np.ndarray, neighbours: int = NEIGHBOURS
) -> Coverage:
    """Tell which samples lie in a ball of the reference (precision), and the reverse (recall).

    A ball's radius reaches to the k-th neighbour within its own set. Distances in float32, row by
    row in blocks; guided-diffusion's are in float16, which raises both by about 0.002. Source:
    Kynkäänniemi et al., NeurIPS 2019.

    >>> points = np.eye(8, dtype=np.float32)
    >>> precision_recall(points, points).precision.all()
    np.True_
    """
    for name, data in (("samples", samples), ("references", reference)):
        if len(data) <= neighbours:
            raise ValueError(f"{neighbours} neighbours need more than {len(data)} {name}")
    radii = [_radii(np.asarray(data, np.float32), neighbours) for data in (reference, samples)]
    return Coverage(
        _covered(np.asarray(samples, np.float32), np.asarray(reference, np.float32), radii[0]),
        _covered(np.asarray(reference, np.float32), np.asarray(samples, np.float32), radii[1]),
    )


def _distances(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return squared distances (n, m) of rows (n, D) and others (m, D), 0 or more."""
    lengths = [np.einsum("nd,nd->n", x, x, dtype=np.float64) for x in (rows, others)]
    gaps = lengths[0][:, None] + lengths[1][None] - 2.0 * (rows @ others.T)
    return gaps.clip(0)


def _radii(data: np.ndarray, neighbours: int) -> np.ndarray:
    """Return each row's squared distance to its k-th neighbour, itself left out."""
    radii = np.empty(len(data))
    for first in range(0, len(data), BLOCK):
        gaps = _distances(data[first : first + BLOCK], data)
        here = np.arange(first, first + len(gaps))
        gaps[np.arange(len(gaps)), here] = -1.0  # itself, whatever rounding says
        radii[here] = np.partition(gaps, neighbours, axis=1)[:, neighbours]
    return radii


def _covered(rows: np.ndarray, centers: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Tell for each row whether it lies within any ball."""
    blocks = [
        (_distances(rows[first : first + BLOCK], centers) <= radii).any(1)
        for first in range(0, len(rows), BLOCK)
    ]
    return np.concatenate(blocks)
