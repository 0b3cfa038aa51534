"""Randomness as values. Keyed draws depend on picture and step alone; streamed ones on order.

Keyed is the default: a method that skips a step leaves all later noise as it was, a batch draws
what its pictures would draw alone, and every device sees the same numbers. Streamed reproduces
the released code, one multinomial per step from one generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Stream(Protocol):
    """One generation's randomness: picks one of V outcomes per place."""

    def pick(self, step: int, probabilities: Tensor) -> Tensor:
        """Draw from probabilities (n, ..., V) at a scale step: outcomes (n, ...), int64."""
        ...

    def exponential(self, step: int, shape: tuple[int, ...]) -> Tensor:
        """Draw (n, *shape) exponentials of rate 1 at a scale step."""
        ...

    def normal(self, step: int, part: int, shape: tuple[int, ...], both: bool) -> Tensor:
        """Draw (n, *shape) normals: the `part`-th draw of a scale step, 0 the starting noise.

        `both`: released code draws as much again for the null rows, and drops it.
        """
        ...


class NotANumber(ValueError):
    """What a step draws from is no number; `step` says which."""

    def __init__(self, step: int) -> None:
        super().__init__(f"step {step} draws from what is no number")
        self.step = step


class Numbers:
    """Watches that what is drawn from are numbers, without waiting for a GPU in the scale loop."""

    def __init__(self) -> None:
        self.noted: list[tuple[int, Tensor]] = []

    def note(self, step: int, values: Tensor) -> None:
        """Note a step's values; on a CPU raise NotANumber at once."""
        if values.is_meta:
            return
        wrong = values.sum().isnan()
        if values.device.type == "cpu" and bool(wrong):
            raise NotANumber(step)
        self.noted.append((step, wrong))

    def check(self) -> None:
        """Raise NotANumber for the first step that drew from what is no number."""
        if self.noted and bool(torch.stack([wrong for _, wrong in self.noted]).any()):
            raise NotANumber(next(step for step, wrong in self.noted if bool(wrong)))


class Draws(Protocol):
    """A frozen value that says how to draw; its Stream lives for one generation."""

    def start(self, device: torch.device) -> Stream:
        """Begin a generation on a device."""
        ...


@dataclass(frozen=True)
class Keyed:
    """One float32 uniform per place, from a generator keyed by seed and step; inverse CDF.

    The CPU draws, so that every device sees the same numbers; `on_device` draws others where they
    are needed, which HART's millions of exponentials take less time for.
    """

    seeds: tuple[int, ...]
    on_device: bool = False

    def start(self, device: torch.device) -> Stream:
        return _Keyed(self.seeds, device, device if self.on_device else torch.device("cpu"))


class _Keyed:
    """Draws on `source`, for `device`."""

    def __init__(self, seeds: tuple[int, ...], device: torch.device, source: torch.device) -> None:
        self.seeds, self.device, self.source = seeds, device, source
        self.pinned, self.numbers = _pinned(source, device), Numbers()

    def exponential(self, step: int, shape: tuple[int, ...]) -> Tensor:
        return self._each(f"{step}/exp", shape, Tensor.exponential_)

    def normal(self, step: int, part: int, shape: tuple[int, ...], both: bool) -> Tensor:
        return self._each(f"{step}/{part}/normal", shape, Tensor.normal_)

    def pick(self, step: int, probabilities: Tensor) -> Tensor:
        if len(probabilities) != len(self.seeds):
            raise ValueError(f"{len(probabilities)} pictures need as many seeds; not {self.seeds}")
        u = self._each(f"{step}", tuple(probabilities.shape[1:-1]), Tensor.uniform_)
        if probabilities.shape[-1] == 2:
            self.numbers.note(step, probabilities[..., 0])
            return (u >= probabilities[..., 0]).long()
        below = probabilities.cumsum(-1)
        whole = below[..., -1]  # 1, but for rounding: an outcome of probability 0 never comes
        self.numbers.note(step, whole)
        place = torch.minimum(u * whole, whole.nextafter(torch.zeros_like(whole)))
        outcomes = torch.searchsorted(below, place.unsqueeze(-1), right=True).squeeze(-1)
        return outcomes.clamp_(max=probabilities.shape[-1] - 1)  # what is no number ends beyond

    def _each(self, what: str, shape: tuple[int, ...], fill: Callable[..., Tensor]) -> Tensor:
        size = (len(self.seeds), *shape)
        drawn = torch.empty(size, dtype=torch.float32, device=self.source, pin_memory=self.pinned)
        for seed, row in zip(self.seeds, drawn):
            fill(row, generator=_generator(f"{seed}/{what}", self.source))
        return sent(drawn, self.device)


def sent(drawn: Tensor, device: torch.device) -> Tensor:
    """Send what the CPU drew to a device; a GPU's queue is not waited for."""
    if _pinned(drawn.device, device):
        drawn = drawn.pin_memory()  # which leaves what is pinned as it is
    return drawn.to(device, non_blocking=True)


def _pinned(source: torch.device, device: torch.device) -> bool:
    """Tell whether what is sent must lie in pinned memory, lest the host wait for the GPU."""
    return source.type == "cpu" and device.type == "cuda"


def _generator(name: str, device: torch.device) -> torch.Generator:
    # torch's CPU generator uses only the low 32 bits of a seed, hence a 32-bit hash
    key = hashlib.blake2b(name.encode(), digest_size=4).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(key, "little"))


@dataclass(frozen=True)
class Streamed:
    """The released order: one generator on the model's device, one multinomial per step.

    HART's diffusion draws elsewhere, from torch's global generators: the starting noise from the
    CPU's, the rest from the device's (on a CPU they are one), guidance rows included. Both are
    stood in for by generators seeded with `rest`.
    """

    seed: int
    rest: int = 0

    @property
    def seeds(self) -> tuple[int, ...]:
        """The one seed, of the whole batch."""
        return (self.seed,)

    def start(self, device: torch.device) -> Stream:
        host = torch.Generator("cpu").manual_seed(self.rest)
        here = host
        if device.type != "cpu":
            here = torch.Generator(device).manual_seed(self.rest)
        return _Sequence(torch.Generator(device).manual_seed(self.seed), host, here)


class _Sequence:
    """Draws one multinomial after another over the flattened batch."""

    def __init__(
        self, picks: torch.Generator, host: torch.Generator, here: torch.Generator
    ) -> None:
        self.picks, self.host, self.here = picks, host, here
        self.pictures, self.numbers = 0, Numbers()

    def pick(self, step: int, probabilities: Tensor) -> Tensor:
        self.pictures = len(probabilities)
        self.numbers.note(step, probabilities)
        if probabilities.device.type != "cpu":  # where the draw would end the process
            probabilities = probabilities.nan_to_num(1.0)
        flat = probabilities.reshape(-1, probabilities.shape[-1])
        drawn = torch.multinomial(flat, 1, replacement=True, generator=self.picks)
        return drawn.view(probabilities.shape[:-1])

    def exponential(self, step: int, shape: tuple[int, ...]) -> Tensor:
        size = (self.pictures, *shape)
        empty = torch.empty(size, dtype=torch.float32, device=self.picks.device)
        return empty.exponential_(generator=self.picks)

    def normal(self, step: int, part: int, shape: tuple[int, ...], both: bool) -> Tensor:
        source = self.host if part == 0 else self.here
        rows = self.pictures * (2 if both else 1)
        size = (rows, *shape)
        drawn = torch.randn(size, generator=source, dtype=torch.float32, device=source.device)
        return sent(drawn[: self.pictures], self.picks.device)
