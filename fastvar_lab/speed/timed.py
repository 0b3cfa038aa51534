"""Timings: one loop of warm-up and turns, speedups measured in it, generations under a clock."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from tqdm.auto import tqdm

from fastvar_lab.generation import Generation, generate
from fastvar_lab.instruments.stopwatch import Stopwatch
from fastvar_lab.measure.speedup import WIDEST, Speedup
from fastvar_lab.models.model import Model
from fastvar_lab.seam import Method

T = TypeVar("T")

NUMBER: Any = float
"""Reads the time of a result that is one."""

ATTEMPTS = 3
"""How often a disturbed timing is measured in all."""


def turns(
    ways: Mapping[str, Callable[[], T]],
    repeats: int,
    warm_up: int = 1,
    progress: str | None = None,
) -> dict[str, list[T]]:
    """Call every way once a turn, one after the other: what slows one turn slows all in it.

    Returns what each way returned in each of `repeats` turns; that of `warm_up` turns before them
    is dropped. `progress` is the title of a bar. Raises ValueError for less than one turn.

    >>> count = iter(range(6))
    >>> turns({"full": lambda: next(count), "fast": lambda: next(count)}, repeats=2)
    {'full': [2, 4], 'fast': [3, 5]}
    """
    if repeats < 1:
        raise ValueError(f"a timing needs at least one turn; not {repeats}")
    results: dict[str, list[T]] = {name: [] for name in ways}
    total = (repeats + warm_up) * len(ways)
    with tqdm(total=total, desc=progress, unit="run", disable=progress is None) as bar:
        for turn in range(repeats + warm_up):
            for name, way in ways.items():
                result = way()
                if turn >= warm_up:
                    results[name].append(result)
                bar.update()
    return results


@dataclass(frozen=True)
class Pairs(Generic[T]):
    """What full and fast returned in the same turns, and the speedup estimated from them."""

    full: list[T]
    fast: list[T]
    speedup: Speedup
    ratios: tuple[float, ...]

    @property
    def middle(self) -> tuple[T, T]:
        """The turn whose ratio is the median, of an even number the nearest: full and fast.

        What is shown of it, such as the time of every step, adds up to the speedup.
        """
        away = [abs(ratio - self.speedup.median) for ratio in self.ratios]
        turn = away.index(min(away))
        return self.full[turn], self.fast[turn]


def paired(
    full: list[T], fast: list[T], time: Callable[[T], float] = NUMBER, widest: float = WIDEST
) -> Pairs[T]:
    """Estimate the speedup of what was measured in the same turns; `time` reads a result's time."""
    times = [time(result) for result in full], [time(result) for result in fast]
    ratios = tuple(a / b for a, b in zip(*times, strict=True))
    return Pairs(full, fast, Speedup.of(*times, widest), ratios)


def speedups(
    ways: Mapping[str, Callable[[], T]],
    repeats: int,
    time: Callable[[T], float] = NUMBER,
    *,
    base: str = "full",
    warm_up: int = 1,
    attempts: int = ATTEMPTS,
    widest: float = WIDEST,
    progress: str | None = None,
) -> dict[str, Pairs[T]]:
    """Measure how many times as fast as `base` each way is, all in the same turns.

    `time` reads the time of what a way returns, in any unit. A way whose ratios spread by more
    than `widest` is measured again, with `base` alone beside the other such ways, up to `attempts`
    times in all; its least spread attempt counts, marked as disturbed if even that one is too
    wide. The spread alone decides this, never the speedup. Raises ValueError if `base` is none of
    the ways.

    >>> clock = iter([9.0, 9.0, 4.0, 2.0, 4.2, 2.0, 4.1, 2.0])  # the first two warm up
    >>> pairs = speedups({"full": lambda: next(clock), "fast": lambda: next(clock)}, repeats=3)
    >>> print(pairs["fast"].speedup)
    2.05 [2.02 to 2.08]
    """
    if base not in ways:
        raise ValueError(f"the base {base!r} must be one of the ways {', '.join(ways)}")
    best: dict[str, Pairs[T]] = {}
    wanted = list(ways)
    for attempt in range(attempts):
        again = f"{progress}, again" if progress and attempt else progress
        results = turns({n: ways[n] for n in ways if n in (base, *wanted)}, repeats, warm_up, again)
        for name in wanted:
            pairs = paired(results[base], results[name], time, widest)
            if name not in best or pairs.speedup.spread < best[name].speedup.spread:
                best[name] = pairs
        wanted = [name for name in wanted if best[name].speedup.disturbed]
        if not wanted:
            break
    return best


@dataclass
class Timed:
    """A generation, the milliseconds that each of its scale steps took and took to issue.

    `peak_bytes` is the most memory that a GPU held; 0 elsewhere.
    """

    generation: Generation
    step_ms: list[float]
    host_ms: list[float]
    peak_bytes: int = 0

    @property
    def ms(self) -> float:
        """Milliseconds from the first scale step to the final latent."""
        return sum(self.step_ms)


def timed(model: Model, prompt: str | list[str], method: Method, **options: Any) -> Timed:
    """Generate once under a stopwatch; `options` are those of `generate`."""
    watches: list[Stopwatch] = []

    def watch(run: Any) -> Stopwatch:
        watches.append(Stopwatch(run))
        return watches[0]

    cuda = model.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(model.device)
    generation = generate(model, prompt, method, watch=[watch], **options)
    steps = [g.index for g in generation.request.grids]
    ms, host = watches[0].step_ms(), watches[0].host_ms
    peak = torch.cuda.max_memory_allocated(model.device) if cuda else 0
    return Timed(generation, [ms[step] for step in steps], [host[step] for step in steps], peak)


def medians(runs: Sequence[Timed], what: str = "step_ms") -> list[float]:
    """Median milliseconds of each scale step."""
    return [
        statistics.median(times) for times in zip(*(getattr(r, what) for r in runs), strict=True)
    ]


def total_ms(runs: Sequence[Timed]) -> float:
    """Median milliseconds from the first scale step to the final latent."""
    return statistics.median(run.ms for run in runs)
