"""What a picture looks like, and what its spectrum is, after every scale step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from fastvar_lab.trace import Trace

Decode = Callable[[Tensor], Tensor]
"""Latents (n, d, h, w) to pictures (n, 3, H, W) in [0, 1]."""


def images(trace: Trace, decode: Decode) -> np.ndarray:
    """Decode the latent after every recorded step: (steps, n, H, W, 3) in [0, 1].

    Paper, Figs 3a and A.2. Kept in `trace.derived`, so that it is decoded once.
    """
    key = ("images", decode)
    if key not in trace.derived:
        made = [decode(trace.canvases[s]).permute(0, 2, 3, 1).cpu() for s in sorted(trace.canvases)]
        trace.derived[key] = np.stack([m.numpy() for m in made])
    return trace.derived[key]


def radial_spectrum(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean log amplitude by spatial frequency of an image (H, W) or (H, W, channels).

    Returns frequencies in (0, 0.5] cycles per cell, and log10 amplitudes, averaged over rings
    one frequency step wide and over channels. Paper, Fig. 3b, takes one diagonal instead.
    """
    planes = image[..., None] if image.ndim == 2 else image
    height, width = planes.shape[:2]
    amplitude = np.log10(np.abs(np.fft.fft2(planes, axes=(0, 1))) + 1e-12).mean(axis=-1)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    bins = max(1, min(height, width) // 2)
    ring = np.ceil(radius * 2 * bins - 1e-9).astype(int)
    counts = np.bincount(ring.ravel(), minlength=bins + 1)[1 : bins + 1]
    sums = np.bincount(ring.ravel(), amplitude.ravel(), minlength=bins + 1)[1 : bins + 1]
    return np.arange(1, bins + 1) / (2 * bins), sums / np.maximum(counts, 1)


def spectra(trace: Trace, decode: Decode) -> tuple[np.ndarray, np.ndarray]:
    """Radial spectrum of the decoded image after every step: frequencies, (steps, n, bins).

    Kept in `trace.derived`, so that it is computed once.
    """
    key = ("spectra", decode)
    if key not in trace.derived:
        pairs = [[radial_spectrum(image) for image in step] for step in images(trace, decode)]
        amplitudes = np.array([[amplitude for _, amplitude in step] for step in pairs])
        trace.derived[key] = (pairs[0][0][0], amplitudes)
    return trace.derived[key]
