"""Random draws as values: keyed by seed and step, or streamed in the order of the released code.

`Keyed` is the default. A method that skips a step does not change later noise, a picture gets the
same noise in a batch as alone, and every device gets the same numbers. `Streamed` reproduces the
released code: one multinomial per step from one generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from fastvar_lab.errors import short
from fastvar_lab.scales import whole


class Stream(Protocol):
    """The random draws of one generation."""

    def pick(self, step: int, probabilities: Tensor) -> Tensor:
        """Draw outcomes (n, ...) from probabilities (n, ..., V) at a scale step.

        They are int64; of two outcomes they may be bool.
        """
        ...

    def exponential(self, step: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Draw (n, *shape) exponentials of rate 1 at a scale step, for values of type `dtype`."""
        ...

    def normal(self, step: int, part: int, shape: tuple[int, ...], both: bool) -> Tensor:
        """Draw (n, *shape) standard normals: draw number `part` of a scale step; 0 starts it.

        With `both`, a stream in released order also draws, and drops, numbers for the null rows.
        """
        ...

    @property
    def ordered(self) -> bool:
        """Whether a step's draws shift those of later steps, so that none may be left out."""
        return False

    def labels(self, n: int, classes: int) -> Tensor:
        """Draw (n,) class labels, uniformly; before the first step."""
        ...

    def order(self, step: int, n: int, length: int) -> Tensor:
        """Draw a permutation (n, length) of a step's positions."""
        ...

    def part(self, number: int) -> Stream:
        """Return the draws of one of the forwards in which a step is drawn, counted from 0."""
        ...


class NotANumber(ValueError):
    """What a step draws from, or scores its tokens by, is no number; `step` says which."""

    def __init__(self, step: int) -> None:
        super().__init__(f"step {step} draws from what is no number")
        self.step = step


class Numbers:
    """Watches that draws and scores are from numbers, without waiting for a GPU in the scale loop.

    With `late`, nothing waits on a CPU either.
    """

    def __init__(self, late: bool = False) -> None:
        self.noted: list[tuple[int, Tensor]] = []
        self.late = late

    def note(self, step: int, values: Tensor) -> None:
        """Note a step's values; on a CPU raise NotANumber at once."""
        if values.is_meta:
            return
        wrong = values.sum().isnan()
        if not self.late and values.device.type == "cpu" and bool(wrong):
            raise NotANumber(step)
        self.add(step, wrong)

    def add(self, step: int, wrong: Tensor) -> None:
        """Note whether a step's values are wrong, a bool on the device."""
        if not wrong.is_meta:
            self.noted.append((step, wrong))

    def check(self) -> None:
        """Raise NotANumber for the first step that drew from what is no number."""
        if self.noted and bool(torch.stack([wrong for _, wrong in self.noted]).any()):
            raise NotANumber(next(step for step, wrong in self.noted if bool(wrong)))


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

    def __post_init__(self) -> None:
        if isinstance(self.seeds, str) or not isinstance(self.seeds, Iterable):
            raise ValueError(f"seeds are whole numbers, one a picture, as (5,); not {self.seeds!r}")
        for seed in self.seeds:
            whole("seed", seed)

    def start(self, device: torch.device) -> Stream:
        return _Keyed(self.seeds, device, device if self.on_device else torch.device("cpu"))


class _Keyed:
    """Draws on the device `source` and sends the numbers to `device`."""

    ordered = False

    def __init__(
        self,
        seeds: tuple[int, ...],
        device: torch.device,
        source: torch.device,
        prefix: str = "",
        numbers: Numbers | None = None,
    ) -> None:
        self.seeds, self.device, self.source, self.prefix = seeds, device, source, prefix
        self.pinned, self.numbers = _pinned(source, device), numbers or Numbers()

    def labels(self, n: int, classes: int) -> Tensor:
        drawn = self._each("labels", (), Tensor.uniform_)
        return (drawn * classes).long().clamp_(max=classes - 1)

    def order(self, step: int, n: int, length: int) -> Tensor:
        return self._each(f"{step}/order", (length,), Tensor.uniform_).argsort(dim=1, stable=True)

    def part(self, number: int) -> Stream:
        prefix = f"part {number}/" if number else ""
        return _Keyed(self.seeds, self.device, self.source, prefix, self.numbers)

    def exponential(self, step: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        # drawn in float32: a model in float64 gets the same numbers
        return self._each(f"{step}/exp", shape, Tensor.exponential_).to(dtype)

    def normal(self, step: int, part: int, shape: tuple[int, ...], both: bool) -> Tensor:
        return self._each(f"{step}/{part}/normal", shape, Tensor.normal_)

    def pick(self, step: int, probabilities: Tensor) -> Tensor:
        if len(probabilities) != len(self.seeds):
            raise ValueError(f"{len(probabilities)} pictures need as many seeds; not {self.seeds}")
        u = self._each(f"{step}", tuple(probabilities.shape[1:-1]), Tensor.uniform_)
        if probabilities.shape[-1] == 2:
            self.numbers.note(step, probabilities[..., 0])
            return u >= probabilities[..., 0]
        below = probabilities.cumsum(-1)
        whole = below[..., -1]  # 1, but for rounding: an outcome of probability 0 never comes
        self.numbers.note(step, whole)
        place = torch.minimum(u * whole, whole.nextafter(torch.zeros_like(whole)))
        outcomes = torch.searchsorted(below, place.unsqueeze(-1), right=True).squeeze(-1)
        return outcomes.clamp_(
            max=probabilities.shape[-1] - 1
        )  # nan would end beyond the last outcome

    def _each(self, key: str, shape: tuple[int, ...], fill: Callable[..., Tensor]) -> Tensor:
        return sent(self._numbers(f"{self.prefix}{key}", shape, fill), self.device)

    def _numbers(self, key: str, shape: tuple[int, ...], fill: Callable[..., Tensor]) -> Tensor:
        """Draw numbers (n, *shape) where they are drawn."""
        size = (len(self.seeds), *shape)
        drawn = torch.empty(size, dtype=torch.float32, device=self.source, pin_memory=self.pinned)
        for seed, row in zip(self.seeds, drawn):
            fill(row, generator=_generator(f"{seed}/{key}", self.source))
        return drawn


class Noise(NamedTuple):
    """A buffer of noise: the section that reads it, and how it is filled."""

    section: int
    buffer: Tensor
    fill: Callable[..., Tensor]


class Buffered(_Keyed):
    """Keyed draws into buffers that stay where they are, which captured graphs read.

    The buffers are those of the first generation; `refill` draws those of a section again, for the
    `seeds` that are set. `section` counts the scale steps that run; it is changed from outside.
    """

    def __init__(self, draws: Keyed, device: torch.device) -> None:
        source = device if draws.on_device else torch.device("cpu")
        super().__init__(draws.seeds, device, source, numbers=Numbers(late=True))
        self.section, self.drawing, self.owner = -1, False, self
        self.held: dict[str, Noise] = {}

    def restart(self) -> None:
        """Begin the same generation again."""
        self.section, self.numbers = -1, Numbers(late=True)

    def part(self, number: int) -> Stream:
        part = copy(self)
        part.prefix = f"part {number}/" if number else ""
        return part

    def refill(self, section: int) -> None:
        """Draw the noise that a section reads."""
        for key, noise in self.held.items():
            if noise.section == section:
                drawn = self._numbers(key, tuple(noise.buffer.shape[1:]), noise.fill)
                noise.buffer.copy_(drawn, non_blocking=True)

    def _each(self, key: str, shape: tuple[int, ...], fill: Callable[..., Tensor]) -> Tensor:
        name = f"{self.prefix}{key}"
        if name not in self.held:
            self.owner.drawing = True
            drawn = sent(self._numbers(name, shape, fill), self.device)
            self.held[name] = Noise(self.section, drawn, fill)
            self.owner.drawing = False
        return self.held[name].buffer


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
    Its mask iterations follow orders of NumPy's global generator. Here generators seeded with
    `rest` take their place. Steps whose tokens are given are drawn all the same, as in the released
    code, so that later steps get the same numbers. Raises ValueError for seeds that generators do
    not take: `seed` has 64 bits, `rest` 32.
    """

    seed: int
    rest: int = 0

    def __post_init__(self) -> None:
        for name, least, bits in (("seed", -(2**63), 64), ("rest", 0, 32)):
            value = whole(f"{name} of streamed draws", getattr(self, name))
            if not least <= value < 2**bits:
                raise ValueError(
                    f"the {name} of streamed draws must lie in {least} to {2**bits - 1}; "
                    f"not {short(value)}"
                )
            object.__setattr__(self, name, value)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of the whole batch, as a tuple."""
        return (self.seed,)

    def start(self, device: torch.device) -> Stream:
        host = torch.Generator("cpu").manual_seed(self.rest)
        local = host
        if device.type != "cpu":
            local = torch.Generator(device).manual_seed(self.rest)
        orders = np.random.RandomState(self.rest)
        return _Sequence(torch.Generator(device).manual_seed(self.seed), host, local, orders)


class _Sequence:
    """Draws one multinomial per step over the flattened batch."""

    ordered = True

    def __init__(
        self,
        picks: torch.Generator,
        host: torch.Generator,
        local: torch.Generator,
        orders: np.random.RandomState,
    ) -> None:
        self.picks, self.host, self.local, self.orders = picks, host, local, orders
        self.pictures, self.numbers = 0, Numbers()

    def labels(self, n: int, classes: int) -> Tensor:
        even = torch.full((classes,), 1 / classes, dtype=torch.float32, device=self.picks.device)
        return torch.multinomial(even, n, replacement=True, generator=self.picks)

    def order(self, step: int, n: int, length: int) -> Tensor:
        orders = np.stack([np.arange(length) for _ in range(n)])
        for order in orders:
            self.orders.shuffle(order)
        return sent(torch.from_numpy(orders), self.picks.device)

    def part(self, number: int) -> Stream:
        return self

    def pick(self, step: int, probabilities: Tensor) -> Tensor:
        self.pictures = len(probabilities)
        self.numbers.note(step, probabilities)
        if probabilities.device.type != "cpu":  # where the draw would end the process
            probabilities = probabilities.nan_to_num(1.0)
        flat = probabilities.reshape(-1, probabilities.shape[-1])
        drawn = torch.multinomial(flat, 1, replacement=True, generator=self.picks)
        return drawn.view(probabilities.shape[:-1])

    def exponential(self, step: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        empty = torch.empty((self.pictures, *shape), dtype=dtype, device=self.picks.device)
        return empty.exponential_(generator=self.picks)

    def normal(self, step: int, part: int, shape: tuple[int, ...], both: bool) -> Tensor:
        source = self.host if part == 0 else self.local
        rows = self.pictures * (2 if both else 1)
        size = (rows, *shape)
        drawn = torch.randn(size, generator=source, dtype=torch.float32, device=source.device)
        return sent(drawn[: self.pictures], self.picks.device)
