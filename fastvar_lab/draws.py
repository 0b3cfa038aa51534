"""Random draws as values: keyed by seed and step, or streamed in the order of the released code.

`Keyed` is the default. A method that skips a step does not change later noise, a picture gets the
same noise in a batch as alone, and every device gets the same numbers. `Streamed` reproduces the
released code: one multinomial per step from one generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Stream(Protocol):
    """The random draws of one generation."""

    def pick(self, step: int, probabilities: Tensor) -> Tensor:
        """Draw outcomes (n, ...), int64, from probabilities (n, ..., V) at a scale step."""
        ...

    def exponential(self, step: int, shape: tuple[int, ...]) -> Tensor:
        """Draw (n, *shape) exponentials of rate 1 at a scale step."""
        ...

    def normal(self, step: int, part: int, shape: tuple[int, ...], both: bool) -> Tensor:
        """Draw (n, *shape) standard normals: draw number `part` of a scale step; 0 starts it.

        With `both`, a stream in released order also draws, and drops, numbers for the null rows.
        """
        ...


class Draws(Protocol):
    """A frozen value that starts a Stream for each generation."""

    def start(self, device: torch.device) -> Stream:
        """Begin a generation on a device."""
        ...


@dataclass(frozen=True)
class Keyed:
    """Draws keyed by seed and step; outcomes by the inverse CDF of one float32 uniform each.

    `seeds` has one seed per picture. Numbers are drawn on the CPU, so that every device gets the
    same. With `on_device` they are drawn on the model's device: other numbers, but faster for
    HART's millions of exponentials.
    """

    seeds: tuple[int, ...]
    on_device: bool = False

    def start(self, device: torch.device) -> Stream:
        return _Keyed(self.seeds, device, device if self.on_device else torch.device("cpu"))


class _Keyed:
    """Draws on the device `source` and sends the numbers to `device`."""

    def __init__(self, seeds: tuple[int, ...], device: torch.device, source: torch.device) -> None:
        self.seeds, self.device, self.source = seeds, device, source
        self.pinned = _pinned(source, device)

    def exponential(self, step: int, shape: tuple[int, ...]) -> Tensor:
        return self._each(f"{step}/exp", shape, Tensor.exponential_)

    def normal(self, step: int, part: int, shape: tuple[int, ...], both: bool) -> Tensor:
        return self._each(f"{step}/{part}/normal", shape, Tensor.normal_)

    def pick(self, step: int, probabilities: Tensor) -> Tensor:
        if len(probabilities) != len(self.seeds):
            raise ValueError(f"{len(probabilities)} pictures need as many seeds; not {self.seeds}")
        u = self._each(f"{step}", tuple(probabilities.shape[1:-1]), Tensor.uniform_)
        if probabilities.shape[-1] == 2:
            return (u >= probabilities[..., 0]).long()
        below = probabilities.cumsum(-1)
        whole = below[..., -1]  # 1 up to rounding; outcomes of probability 0 must never be drawn
        place = torch.minimum(u * whole, whole.nextafter(torch.zeros_like(whole)))
        return torch.searchsorted(below, place.unsqueeze(-1), right=True).squeeze(-1)

    def _each(self, key: str, shape: tuple[int, ...], fill: Callable[..., Tensor]) -> Tensor:
        """Fill one row per seed, each from its own generator."""
        drawn = torch.empty(len(self.seeds), *shape, device=self.source, pin_memory=self.pinned)
        for seed, row in zip(self.seeds, drawn):
            fill(row, generator=_generator(f"{seed}/{key}", self.source))
        return sent(drawn, self.device)


def sent(drawn: Tensor, device: torch.device) -> Tensor:
    """Send drawn numbers to a device, without waiting for a GPU."""
    if _pinned(drawn.device, device):
        drawn = drawn.pin_memory()  # no copy if it is pinned already
    return drawn.to(device, non_blocking=True)


def _pinned(source: torch.device, device: torch.device) -> bool:
    """Return whether a copy needs pinned memory, so that the host does not wait for the GPU."""
    return source.type == "cpu" and device.type == "cuda"


def _generator(name: str, device: torch.device) -> torch.Generator:
    # torch's CPU generator uses only the low 32 bits of a seed, hence a 32-bit hash
    key = hashlib.blake2b(name.encode(), digest_size=4).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(key, "little"))


@dataclass(frozen=True)
class Streamed:
    """Draws in the order of the released code: one generator, one multinomial per step.

    HART's diffusion uses torch's global generators in the released code: the starting noise comes
    from the CPU's, the rest from the device's (on a CPU they are the same), for both guidance rows.
    Here generators seeded with `rest` take their place.
    """

    seed: int
    rest: int = 0

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of the whole batch, as a tuple."""
        return (self.seed,)

    def start(self, device: torch.device) -> Stream:
        host = torch.Generator().manual_seed(self.rest)
        local = host
        if device.type != "cpu":
            local = torch.Generator(device).manual_seed(self.rest)
        return _Sequence(torch.Generator(device).manual_seed(self.seed), host, local)


class _Sequence:
    """Draws one multinomial per step over the flattened batch."""

    def __init__(
        self, picks: torch.Generator, host: torch.Generator, local: torch.Generator
    ) -> None:
        self.picks, self.host, self.local = picks, host, local
        self.pictures = 0

    def pick(self, step: int, probabilities: Tensor) -> Tensor:
        self.pictures = len(probabilities)
        flat = probabilities.reshape(-1, probabilities.shape[-1])
        drawn = torch.multinomial(flat, 1, replacement=True, generator=self.picks)
        return drawn.view(probabilities.shape[:-1])

    def exponential(self, step: int, shape: tuple[int, ...]) -> Tensor:
        empty = torch.empty(self.pictures, *shape, device=self.picks.device)
        return empty.exponential_(generator=self.picks)

    def normal(self, step: int, part: int, shape: tuple[int, ...], both: bool) -> Tensor:
        source = self.host if part == 0 else self.local
        rows = self.pictures * (2 if both else 1)
        drawn = torch.randn(rows, *shape, generator=source, device=source.device)
        return sent(drawn[: self.pictures], self.picks.device)
