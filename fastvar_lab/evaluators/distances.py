"""FID, KID, IS, precision and recall as functions of features: NumPy in, numbers out.

Features (N, D) come from any network; the scores of the papers take Inception's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import scipy.special
from tqdm.auto import tqdm

SPLITS = 5000  # pictures a split of the IS, guided-diffusion
NEIGHBOURS = 3  # of precision and recall
BLOCK = 2048  # rows of a matrix of distances held at once
HALF_MAXIMUM = float(np.finfo(np.float16).max)


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


def square_root(covariance: np.ndarray) -> np.ndarray:
    """Return the symmetric root (D, D) of a covariance."""
    values, vectors = scipy.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def frechet(first: Moments, second: Moments, root: np.ndarray | None = None) -> float:
    """Return the Fréchet distance of two Gaussians: the FID, if the features are Inception's.

    The trace of the root of the product is that of the root of S1^(1/2) S2 S1^(1/2), which is
    symmetric: no complex numbers appear, and singular covariances are no special case. `root` is
    the `square_root` of the first covariance, where it serves several distances. Source: Heusel
    et al., NeurIPS 2017.

    >>> one = Moments(np.zeros(2), np.eye(2))
    >>> frechet(one, Moments(np.ones(2), 4 * np.eye(2)))
    4.0
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(
            f"features of {first.mean.size} and of {second.mean.size} numbers cannot be compared"
        )
    root = square_root(first.covariance) if root is None else root
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
    for _ in tqdm(range(subsets), desc="KID", unit="subset", delay=2):
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
    samples: np.ndarray,
    reference: np.ndarray,
    neighbours: int = NEIGHBOURS,
    half: bool = False,
) -> Coverage:
    """Tell which samples lie in a ball of the reference (precision), and the reverse (recall).

    A ball's radius reaches to the k-th neighbour within its own set. Distances in float32, row by
    row in blocks. `half` rounds lengths, products and distances to float16, as guided-diffusion's
    are, which raises both scores by about 0.002; distances that overflow are computed in float32,
    as there. Source: Kynkäänniemi et al., NeurIPS 2019.

    >>> points = np.eye(8, dtype=np.float32)
    >>> precision_recall(points, points).precision.all()
    np.True_
    """
    for name, data in (("samples", samples), ("references", reference)):
        if len(data) <= neighbours:
            raise ValueError(f"{neighbours} neighbours need more than {len(data)} {name}")
    sets = [np.asarray(data, np.float32) for data in (samples, reference)]
    if half and max(float(np.square(data).sum(1).max()) for data in sets) * 4 > HALF_MAXIMUM:
        half = False
    x, y = (data.astype(np.float16).astype(np.float32) if half else data for data in sets)
    rows = 2 * (len(x) + len(y))
    with tqdm(total=rows, desc="precision and recall", unit="row", delay=2) as bar:
        return Coverage(
            _covered(x, y, _radii(y, neighbours, half, bar), half, bar),
            _covered(y, x, _radii(x, neighbours, half, bar), half, bar),
        )


def _blocks(
    rows: np.ndarray, others: np.ndarray, half: bool, bar: Any
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first row of each block of rows, with the block's distances to others."""
    for first in range(0, len(rows), BLOCK):
        gaps = _distances(rows[first : first + BLOCK], others, half)
        yield first, gaps
        bar.update(len(gaps))


def _distances(rows: np.ndarray, others: np.ndarray, half: bool) -> np.ndarray:
    """Return squared distances (n, m) of rows (n, D) and others (m, D), 0 or more."""
    lengths = [np.einsum("nd,nd->n", x, x, dtype=np.float64) for x in (rows, others)]
    products = rows @ others.T
    if not half:
        gaps = lengths[0][:, None] + lengths[1][None] - 2.0 * products
        return gaps.clip(0)
    one, other = (length.astype(np.float16) for length in lengths)
    gaps = (one[:, None] - np.float16(2) * products.astype(np.float16)) + other[None]
    return gaps.clip(0).astype(np.float32)


def _radii(data: np.ndarray, neighbours: int, half: bool, bar: Any) -> np.ndarray:
    """Return each row's squared distance to its k-th neighbour, itself left out."""
    radii = np.empty(len(data))
    for first, gaps in _blocks(data, data, half, bar):
        here = np.arange(first, first + len(gaps))
        gaps[np.arange(len(gaps)), here] = -1.0  # itself, whatever rounding says
        radii[here] = np.partition(gaps, neighbours, axis=1)[:, neighbours]
    return radii


def _covered(
    rows: np.ndarray, centers: np.ndarray, radii: np.ndarray, half: bool, bar: Any
) -> np.ndarray:
    """Tell for each row whether it lies within any ball."""
    return np.concatenate([(gaps <= radii).any(1) for _, gaps in _blocks(rows, centers, half, bar)])
