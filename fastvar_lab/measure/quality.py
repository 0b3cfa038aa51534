"""How close two pictures, or two generations, are: several numbers, each from a kept library."""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from fastvar_lab.measure.spectra import radial_spectrum

MOST_PSNR = 100.0  # dB, stands for equal pictures, so that means stay finite


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """PSNR in dB of two uint8 pictures, at most 100, which stands for equal ones."""
    if np.array_equal(image, reference):
        return MOST_PSNR
    return min(MOST_PSNR, float(peak_signal_noise_ratio(reference, image)))


def ssim(image: np.ndarray, reference: np.ndarray) -> float:
    """Structural similarity of two uint8 pictures (H, W, 3); 1 if they are equal."""
    return float(structural_similarity(reference, image, channel_axis=-1))


def to_reference(image: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Compare a picture (H, W, 3) uint8 with its reference.

    psnr in dB (100 for equal pictures), ssim and ms_ssim (1 is equal), vif (visual information
    fidelity; 1 is equal, more is sharper), spectrum_error (mean absolute gap of log10 amplitudes).
    scikit-image and torchmetrics; multi-scale SSIM needs pictures of more than 160 px and is nan
    below.

    >>> picture = np.random.default_rng(0).integers(0, 256, (176, 176, 3)).astype(np.uint8)
    >>> to_reference(picture, picture)["psnr"]
    100.0
    """
    from torchmetrics.functional.image import (
        multiscale_structural_similarity_index_measure,
        visual_information_fidelity,
    )

    if image.shape != reference.shape:
        raise ValueError(f"pictures of {image.shape} and {reference.shape} cannot be compared")
    made, wanted = (
        rearrange(torch.from_numpy(x.astype(np.float32)), "h w c -> 1 c h w")
        for x in (image, reference)
    )
    large = min(image.shape[:2]) > 160
    spectra = [radial_spectrum(x / 255)[1] for x in (image, reference)]
    return {
        "psnr": psnr(image, reference),
        "ssim": ssim(image, reference),
        "ms_ssim": float(
            multiscale_structural_similarity_index_measure(made, wanted, data_range=255.0)
        )
        if large
        else float("nan"),
        "vif": float(visual_information_fidelity(made, wanted)),  # its noise is set for 0 to 255
        "spectrum_error": float(np.abs(spectra[0] - spectra[1]).mean()),
    }


def token_agreement(first: Tensor | None, second: Tensor | None) -> float:
    """Share of equal bits, or codebook rows, of one step; nan where either was skipped."""
    if first is None or second is None or first.is_floating_point():
        return float("nan")
    return float((first == second).float().mean())
