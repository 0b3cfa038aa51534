"""Randomness as values. Keyed draws depend on picture and step alone; streamed ones on order.

Keyed is the default: a method that skips a step leaves all later noise as it was, a batch draws
what its pictures would draw alone, and every device sees the same numbers. Streamed reproduces
the released code, one multinomial per step from one generator.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Stream(Protocol):
    """One generation's randomness: picks one of V outcomes per place."""

    def pick(self, step: int, probabilities: Tensor) -> Tensor:
        """Draw from probabilities (n, ..., V) at a scale step: outcomes (n, ...), int64."""
        ...


class Draws(Protocol):
    """A frozen value that says how to draw; its Stream lives for one generation."""

    def start(self, device: torch.device) -> Stream:
        """Begin a generation on a device."""
        ...


@dataclass(frozen=True)
class Keyed:
    """One float32 uniform per place, from a generator keyed by seed and step; inverse CDF."""

    seeds: tuple[int, ...]

    def start(self, device: torch.device) -> Stream:
        return self

    def uniform(self, step: int, shape: tuple[int, ...]) -> Tensor:
        """Draw (n, *shape) uniforms in [0, 1) on the CPU."""
        return torch.stack([_keyed(seed, step, shape) for seed in self.seeds])

    def pick(self, step: int, probabilities: Tensor) -> Tensor:
        if len(probabilities) != len(self.seeds):
            raise ValueError(f"{len(probabilities)} pictures need as many seeds; not {self.seeds}")
        u = self.uniform(step, tuple(probabilities.shape[1:-1]))
        if probabilities.is_cuda:
            u = u.pin_memory().to(probabilities.device, non_blocking=True)
        if probabilities.shape[-1] == 2:
            return (u >= probabilities[..., 0]).long()
        ahead = probabilities.cumsum(-1)[..., :-1] <= u.unsqueeze(-1)
        return ahead.sum(-1)


def _keyed(seed: int, step: int, shape: tuple[int, ...]) -> Tensor:
    # torch's CPU generator uses only the low 32 bits of a seed, hence a 32-bit hash
    key = hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=4).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key, "little"))
    return torch.rand(shape, generator=generator)


@dataclass(frozen=True)
class Streamed:
    """The released order: one generator on the model's device, one multinomial per step."""

    seed: int

    def start(self, device: torch.device) -> Stream:
        return _Sequence(torch.Generator(device).manual_seed(self.seed))


class _Sequence:
    """Draws one multinomial after another over the flattened batch."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def pick(self, step: int, probabilities: Tensor) -> Tensor:
        flat = probabilities.reshape(-1, probabilities.shape[-1])
        drawn = torch.multinomial(flat, 1, replacement=True, generator=self.generator)
        return drawn.view(probabilities.shape[:-1])
