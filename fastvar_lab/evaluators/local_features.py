"""A Fréchet distance of local tokenizer features: sharpness and texture, on few pictures.

Features are what the tokenizer's encoder says of every place before quantisation, (d,) at each of
h x w places. A picture gives h * w samples, so that a few pictures fill a covariance, and what is
blurred or overdone anywhere moves the distribution. It is no FID: its network knows the closed
world, its samples are places, and values compare within one model alone. Pictures are compared
with the truth of the same scenes: ten other scenes are ten times as far as a strong blur.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from fastvar_lab.evaluators.distances import Moments, frechet
from fastvar_lab.models.model import Model
from fastvar_lab.networks.exact import exact
from fastvar_lab.pictures import to_tensor

DRAWS = 200  # bootstrap resamples


class Sums(NamedTuple):
    """Of one picture's features: their number, sum (d,) and sum of outer products (d, d)."""

    n: int
    first: np.ndarray
    second: np.ndarray


@torch.no_grad()
@exact()
def sums(model: Model, picture: np.ndarray) -> Sums:
    """Return the sums of the features of a picture (H, W, 3) uint8."""
    device = next(model.tokenizer.parameters()).device
    shares = (to_tensor([picture], device) + 1) / 2
    latent = model.tokenizer.encode(shares)
    features = latent[0].flatten(1).T.double().cpu().numpy()
    return Sums(len(features), features.sum(0), features.T @ features)


def moments_of(parts: Sequence[Sums]) -> Moments:
    """Return the moments of the features of several pictures."""
    n = sum(part.n for part in parts)
    mean = np.sum([part.first for part in parts], axis=0) / n
    second = np.sum([part.second for part in parts], axis=0)
    return Moments(mean, (second - n * np.outer(mean, mean)) / (n - 1))


def distance(pictures: Sequence[Sums], truth: Sequence[Sums]) -> float:
    """Return the Fréchet distance between the features of pictures and of the truth."""
    return frechet(moments_of(pictures), moments_of(truth))


def distance_interval(
    pictures: Sequence[Sums], truth: Sequence[Sums], draws: int = DRAWS
) -> tuple[float, float]:
    """Return the 95 % interval of the distance: a percentile bootstrap over pairs, shifted.

    Pairs of picture and truth are resampled. Few pictures raise a Fréchet distance, and resampled
    ones more so: the percentiles are shifted so that the median of the resampled distances lies at
    the distance itself. The lower end is at least 0.
    """
    rng, n = np.random.default_rng(0), len(pictures)
    value = distance(pictures, truth)
    drawn = []
    for _ in range(draws):
        index = rng.integers(n, size=n)
        drawn.append(distance([pictures[i] for i in index], [truth[i] for i in index]))
    low, high = np.quantile(drawn, (0.025, 0.975))
    middle = float(np.median(drawn))
    return max(0.0, value + float(low) - middle), value + float(high) - middle
