"""Decoded pictures after each scale step, their differences, and spectra.

Shapes: steps S, pictures n, pixels (H, W), latents (n, d, h, w). Pictures and spectra of a trace
are cached in `trace.derived`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from einops import rearrange
from torch import Tensor

from fastvar_lab.instruments.trace import Trace
from fastvar_lab.measure.spectral_gap import gap_to_last
from fastvar_lab.seam import Site
from fastvar_lab.tokens import wide

Decode = Callable[[Tensor], Tensor]
"""Latents (n, d, h, w) to pictures (n, 3, H, W) in [0, 1]."""

T = TypeVar("T")


def once(trace: Trace, key: Any, compute: Callable[[], T]) -> T:
    """Return the value cached in `trace.derived` under `key`; compute it if it is not there."""
    if key not in trace.derived:
        trace.derived[key] = compute()
    return trace.derived[key]


def images(trace: Trace, decode: Decode) -> np.ndarray:
    """Decode the latent after every recorded step: (S, n, H, W, 3) in [0, 1].

    Source: paper, Figs 3a and A.2.

    >>> import fastvar_lab as fv
    >>> model = fv.load("tiny")
    >>> _, trace = fv.observe(model, "a red ring", fv.PRESETS["tiny"], seed=1)
    >>> images(trace, model.decode).shape
    (10, 1, 256, 256, 3)
    """

    def compute() -> np.ndarray:
        pictures = (decode(trace.canvases[s]) for s in sorted(trace.canvases))
        return np.stack([rearrange(p, "n c h w -> n h w c").cpu().numpy() for p in pictures])

    return once(trace, ("images", decode), compute)


def added(trace: Trace, decode: Decode) -> np.ndarray:
    """Return the change of the picture in each step: (S, n, H, W, 3), from black at the first.

    A skipped step changes nothing. Source: paper, Fig. 3a, here as differences.

    >>> import fastvar_lab as fv
    >>> model = fv.load("tiny")
    >>> _, trace = fv.observe(model, "a red ring", fv.PRESETS["tiny"], seed=1)
    >>> added(trace, model.decode).shape
    (10, 1, 256, 256, 3)
    """
    pictures = images(trace, decode)
    return np.diff(pictures, axis=0, prepend=np.zeros_like(pictures[:1]))


def most_telling(trace: Trace, decode: Decode, row: int = 0) -> int:
    """Return the step that shows best what a method does to the picture with index `row`.

    That is, of the steps at which it computes a part of the tokens, the one that changes the
    picture most; without such a step, of all steps after the first. Change is mean square.

    >>> import fastvar_lab as fv
    >>> model = fv.load("tiny")
    >>> _, trace = fv.observe(model, "a red ring", fv.PRESETS["tiny"], seed=1)
    >>> trace.size(most_telling(trace, model.decode))
    '32x32'
    """
    steps = sorted(trace.canvases)
    kept = {step: [k.float().mean().item() for (s, _), k in trace.kept.items() if s == step]
            for step in steps}  # fmt: skip
    pruned = [step for step in steps if any(share < 1 for share in kept[step]) and any(kept[step])]
    change = (added(trace, decode)[:, row] ** 2).mean(axis=(1, 2, 3))
    return max(pruned or steps[1:] or steps, key=lambda step: change[steps.index(step)])


def energy(trace: Trace, decode: Decode) -> pd.DataFrame:
    """Return the energy added by each step: the mean square change of picture and latent.

    Columns: step, size, picture, domain ("image" in squared intensity, "latent" in squared latent
    units), energy.

    >>> import fastvar_lab as fv
    >>> model = fv.load("tiny")
    >>> _, trace = fv.observe(model, "a red ring", fv.PRESETS["tiny"], seed=1)
    >>> frame = energy(trace, model.decode).set_index(["domain", "size"])
    >>> bool(frame.energy["image", "2x2"] > frame.energy["image", "32x32"])
    True
    """
    rows = []
    steps = sorted(trace.canvases)
    change = (added(trace, decode) ** 2).mean(axis=(2, 3, 4))
    previous = None
    for i, step in enumerate(steps):
        canvas = wide(trace.canvases[step])
        gap = canvas if previous is None else canvas - previous
        latent = gap.square().mean(dim=(1, 2, 3)).tolist()
        previous = canvas
        for picture, (a, b) in enumerate(zip(change[i], latent, strict=True)):
            common = {"step": step, "size": trace.size(step), "picture": picture}
            rows.append({**common, "domain": "image", "energy": float(a)})
            rows.append({**common, "domain": "latent", "energy": b})
    return pd.DataFrame(rows)


def radial_spectrum(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean log amplitude by spatial frequency of an image (H, W) or (H, W, channels).

    Returns frequencies in (0, 0.5] cycles per cell, and log10 amplitudes averaged over channels
    and over rings that are one frequency step wide; nan for an image of a single cell. Differs
    from the paper (Fig. 3b), which uses one diagonal instead of rings.
    """
    planes = image[..., None] if image.ndim == 2 else image
    height, width = planes.shape[:2]
    amplitude = np.log10(np.abs(np.fft.fft2(planes, axes=(0, 1))) + 1e-12).mean(axis=-1)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    bins = max(1, min(height, width) // 2)
    ring = np.ceil(radius * 2 * bins - 1e-9).astype(int)
    counts = np.bincount(ring.ravel(), minlength=bins + 1)[1 : bins + 1]
    sums = np.bincount(ring.ravel(), amplitude.ravel(), minlength=bins + 1)[1 : bins + 1]
    means = np.divide(sums, counts, out=np.full(bins, np.nan), where=counts > 0)
    return np.arange(1, bins + 1) / (2 * bins), means


def spectra(trace: Trace, decode: Decode) -> tuple[np.ndarray, np.ndarray]:
    """Return the radial spectra of the decoded pictures: frequencies (bins), (S, n, bins)."""

    def compute() -> tuple[np.ndarray, np.ndarray]:
        pairs = [[radial_spectrum(image) for image in step] for step in images(trace, decode)]
        return pairs[0][0][0], np.array([[a for _, a in step] for step in pairs])

    return once(trace, ("spectra", decode), compute)


def spectrum_frame(trace: Trace, decode: Decode, site: Site | None = None) -> pd.DataFrame:
    """Return the spectra of picture, latent and (at a recorded `site`) features of every step.

    Columns: step, size, picture, domain ("image", "latent", "features"), frequency in cycles per
    cell of that domain, log10_amplitude, and to_last, the difference to the last step's amplitude
    (nan for features, whose maps differ in size). Features of steps of which some tokens are
    dropped from the whole stack are no map, and left out. Source: paper, Fig. 3b.
    """
    rows = list[pd.DataFrame]()

    def add(domain: str, step: int, picture: int, plane: np.ndarray) -> None:
        f, a = radial_spectrum(plane)
        frame = {"step": step, "size": trace.size(step), "picture": picture, "domain": domain}
        rows.append(pd.DataFrame({**frame, "frequency": f, "log10_amplitude": a}))

    steps = sorted(trace.canvases)
    pictures = images(trace, decode)
    for picture in range(pictures.shape[1]):
        for i in reversed(range(len(steps))):
            latent = rearrange(wide(trace.canvases[steps[i]][picture]), "d h w -> h w d")
            add("image", steps[i], picture, pictures[i, picture])
            add("latent", steps[i], picture, latent.cpu().numpy())
    for (step, where), x in trace.features.items():
        grid = trace.grids[step]
        if where == site and x.shape[1] == grid.tokens:
            shown = wide(x[: pictures.shape[1], grid.prefix :])
            maps = rearrange(shown, "b (h w) c -> b h w c", h=grid.h)
            for picture, plane in enumerate(maps.cpu().numpy()):
                add("features", step, picture, plane)
    frame = pd.concat(rows, ignore_index=True)
    return frame.assign(to_last=gap_to_last(frame))
