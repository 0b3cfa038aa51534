"""HART's residual diffusion: a small diffusion MLP draws a token's residual to its codebook row.

Source: released HART code (parameter names under `diffloss`, schedule, formulas). Noise
prediction with a learned-range variance over a 1000-step cosine schedule, respaced to few steps.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvar_lab.backbones.layers import StepEmbedding, modulate, promoted
from fastvar_lab.draws import Stream
from fastvar_lab.tokens import wide

TRAINED_STEPS = 1000
SHRINK = 0.6  # released: the drawn residual is scaled by this


class Respaced(NamedTuple):
    """A diffusion schedule with fewer steps than in training, noisiest last.

    S numbers each, of a float64 tensor or a list.
    """

    steps: Any  # indices in the trained schedule
    beta: Any
    signal: Any  # cumulated product of 1 - beta
    signal_before: Any
    log_variance: Any  # of the posterior; the first entry equals the second


def respace(count: int) -> Respaced:
    """Keep `count` steps of the cosine schedule, evenly strided from the first to the last."""

    def level(share: float) -> float:
        return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2

    stride, place, kept = (TRAINED_STEPS - 1) / max(1, count - 1), 0.0, list[int]()
    for _ in range(count):
        kept.append(round(place))
        place += stride  # summed as in the released code: rounding may differ from i * stride
    trained = [
        min(1 - level((i + 1) / TRAINED_STEPS) / level(i / TRAINED_STEPS), 0.999)
        for i in range(TRAINED_STEPS)
    ]
    signal = (1 - torch.tensor(trained, dtype=torch.float64, device="cpu")).cumprod(0)[kept]
    before = torch.cat((signal.new_ones(1), signal[:-1]))
    beta = 1 - signal / before
    variance = beta * (1 - before) / (1 - signal)
    variance = torch.cat((variance[1:2], variance[1:]))
    return Respaced(torch.tensor(kept, device="cpu"), beta, signal, before, variance.log())


class ResidualBlock(nn.Module):
    """h + gate * MLP(LN(h) * (1 + scale) + shift); the condition gives shift, scale, gate.

    It comes through the SiLU that every modulation begins with, computed once for all of them.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        shift, scale, gate = self.adaLN_modulation[1](y).chunk(3, dim=-1)
        mixed = torch.addcmul(shift, self.in_ln(promoted(h)), 1 + scale)
        return torch.addcmul(h, self.mlp(mixed), gate)


class FinalLayer(nn.Module):
    """The last layer: noise and variance share per channel, after a modulated norm."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation[1](y).chunk(2, dim=-1)
        return self.linear(modulate(h, 1 + scale, shift))


class Denoiser(nn.Module):
    """The network: a noisy residual (N, d), its embedded step, a condition (N, C) -> (N, 2 d)."""

    def __init__(self, width: int, depth: int, code: int, condition: int) -> None:
        super().__init__()
        self.time_embed = StepEmbedding(width)
        self.cond_embed = nn.Linear(condition, width)
        self.input_proj = nn.Linear(code, width)
        self.res_blocks = nn.ModuleList(ResidualBlock(width) for _ in range(depth))
        self.final_layer = FinalLayer(width, 2 * code)

    def forward(self, x: Tensor, time: Tensor, z: Tensor) -> Tensor:
        y = F.silu(time + z)
        h = self.input_proj(x.to(y.dtype))
        for block in self.res_blocks:
            h = block(h, y)
        return self.final_layer(h, y)


class ResidualDiffusion(nn.Module):
    """Draws residuals (n, L, d) for tokens whose features condition the denoiser."""

    def __init__(self, width: int, depth: int, code: int, condition: int, steps: int) -> None:
        super().__init__()
        self.code, self.steps = code, steps
        self.net = Denoiser(width, depth, code, condition)
        self.schedule = Respaced(*(values.tolist() for values in respace(steps)))

    def times(self, device: torch.device) -> Tensor:
        """Return the embedded diffusion steps (steps, width), which all generations share."""
        return self.net.time_embed(torch.tensor(self.schedule.steps, device=device))

    def forward(
        self,
        features: Tensor,
        times: Tensor,
        grid_step: int,
        guidance: float | None,
        draws: Stream,
    ) -> Tensor:
        """Draw residuals for features (B, L, C); `guidance` t if null rows are among them.

        Only the noise is guided, (1 + t) cond - t null, and both halves see the same x. As in the
        released code, t of exactly 1 samples the conditional rows without guidance.
        """
        shape = (features.shape[1], self.code)
        z = self.net.cond_embed(features)
        plain = guidance is None or guidance == 1
        if guidance == 1:
            z = z.chunk(2)[0]
        schedule, halves = self.schedule, 1 if plain else 2
        x = wide(draws.normal(grid_step, 0, shape, both=guidance == 1))
        x = x.to(torch.promote_types(z.dtype, x.dtype))
        for turn, i in enumerate(reversed(range(self.steps)), start=1):
            out = self.net(x.repeat(halves, 1, 1), times[i], z)
            noise, share = out.split(self.code, dim=-1)
            if guidance is not None and not plain:
                cond, null = noise.chunk(2)
                noise, share = (1 + guidance) * cond - guidance * null, share.chunk(2)[0]
            share = (share + 1) / 2  # in the network's dtype up to here, as released
            noise, rest, share = wide(noise), wide(1 - share), wide(share)
            beta, signal, before = (values[i] for values in schedule[1:4])
            clean = x * (1 / signal) ** 0.5
            clean = clean.sub_(noise, alpha=(1 / signal - 1) ** 0.5).clamp_(-1, 1)
            mean = clean.mul_(beta * before**0.5 / (1 - signal))
            mean = mean.add_(x, alpha=(1 - before) * (1 - beta) ** 0.5 / (1 - signal))
            fresh = draws.normal(grid_step, turn, shape, both=True).to(mean)
            log_deviation = share * (0.5 * math.log(beta))
            log_deviation = log_deviation.add_(rest, alpha=0.5 * schedule.log_variance[i])
            x = torch.addcmul(mean, log_deviation.exp_(), fresh) if i else mean
        return SHRINK * x


def diffusion_flops(
    width: int, depth: int, code: int, condition: int, steps: int
) -> tuple[float, float]:
    """Return the operations per token and row: of the condition, and of the network's steps."""
    blocks = depth * (4 + 6) * width * width
    ends = 2 * code * width + 4 * width * width + 4 * code * width
    return 2.0 * condition * width, float(steps * (blocks + ends))
