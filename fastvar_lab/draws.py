"""Randomness as values. Keyed draws depend on picture and step alone; streamed ones on order.

Keyed is the default: a method that skips a step leaves all later noise as it was, a batch draws
what its pictures would draw alone, and every device sees the same numbers. Streamed reproduces
the released code, one multinomial per step from one generator.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor


class Draws(Protocol):
    """Picks one of V outcomes per place."""

    def pick(self, step: int, probabilities: Tensor) -> Tensor:
        """Draw from probabilities (n, ..., V) at a scale step: outcomes (n, ...), int64."""
        ...


@dataclass(frozen=True)
class Keyed:
    """One float32 uniform per place, from a generator keyed by seed and step; inverse CDF."""

    seeds: tuple[int, ...]

    def uniform(self, step: int, shape: tuple[int, ...]) -> Tensor:
        """Draw (n, *shape) uniforms in [0, 1) on the CPU."""
        return torch.stack([_keyed(seed, step, shape) for seed in self.seeds])

    def pick(self, step: int, probabilities: Tensor) -> Tensor:
        u = self.uniform(step, tuple(probabilities.shape[1:-1])).to(probabilities.device)
        if probabilities.shape[-1] == 2:
            return (u >= probabilities[..., 0]).long()
        ahead = probabilities.cumsum(-1)[..., :-1] <= u.unsqueeze(-1)
        return ahead.sum(-1)


def _keyed(seed: int, step: int, shape: tuple[int, ...]) -> Tensor:
    # torch's CPU generator uses only the low 32 bits of a seed, hence a 32-bit hash
    key = hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=4).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key, "little"))
    return torch.rand(shape, generator=generator)


@dataclass
class Streamed:
    """The released order: one generator, one multinomial per step over the flattened batch."""

    seed: int
    device: str = "cpu"
    generator: torch.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.generator = torch.Generator(self.device).manual_seed(self.seed)

    def pick(self, step: int, probabilities: Tensor) -> Tensor:
        flat = probabilities.reshape(-1, probabilities.shape[-1])
        drawn = torch.multinomial(flat, 1, replacement=True, generator=self.generator)
        return drawn.view(probabilities.shape[:-1])
