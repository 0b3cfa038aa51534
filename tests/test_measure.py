"""Instruments on known inputs."""

import numpy as np
import torch

import fastvar_lab as fv
from fastvar_lab.measure.steps import images, radial_spectrum, spectra
from fastvar_lab.scales import grids, square


def test_a_ring_of_waves_shows_at_its_own_frequency():
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    white = np.fft.fft2(np.random.default_rng(0).standard_normal((64, 64)))
    for cycles in (4, 10, 25):
        ring = (radius > (cycles - 1) / 64 + 1e-9) & (radius <= cycles / 64 + 1e-9)
        f, amplitude = radial_spectrum(np.fft.ifft2(white * ring).real)
        assert f[amplitude.argmax()] == cycles / 64
        assert np.sort(amplitude)[-2] < amplitude.max() - 8
    assert len(f) == 32
    assert f[-1] == 0.5


def test_constants_have_no_spectrum_and_shapes_follow():
    assert radial_spectrum(np.ones((16, 24, 3)))[1].max() < -8
    assert radial_spectrum(np.random.default_rng(0).random((16, 24)))[1].shape == (8,)


def test_derived_arrays_are_computed_once():
    sizes = square(1, 2)
    canvases = {i: torch.rand(2, 3, 4, 4) for i in range(2)}
    trace, calls = fv.Trace(grids(sizes), canvases=canvases), []

    def decode(latent):
        calls.append(len(latent))
        return latent

    f, amplitudes = spectra(trace, decode)
    assert amplitudes.shape == (2, 2, len(f))
    assert images(trace, decode).shape == (2, 2, 4, 4, 3)
    assert calls == [2, 2]


def test_a_trace_before_a_step_forgets_the_rest():
    trace = fv.Trace(grids(square(1, 2)), tokens={0: None, 1: None}, step_ms={0: 1.0, 1: 2.0})
    assert trace.before(1).step_ms == {0: 1.0}
    assert trace.before(1).followed_by(trace).step_ms == trace.step_ms
