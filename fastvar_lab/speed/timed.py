"""Timings: the loop of warm-up and turns, speedups measured in it, and timed generations."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tqdm.auto import tqdm

from fastvar_lab.generation import Generation, generate
from fastvar_lab.instruments.stopwatch import Stopwatch
from fastvar_lab.measure.speedup import WIDEST, Speedup
from fastvar_lab.models.model import Model
from fastvar_lab.seam import Method

T = TypeVar("T")

NUMBER: Any = float
"""Reads the time of a result that is itself a number."""

ATTEMPTS = 3
"""How often a disturbed timing is measured, the first time included."""


def turns(
    functions: Mapping[str, Callable[[], T]],
    repeats: int,
    warm_up: int = 1,
    progress: str | None = None,
) -> dict[str, list[T]]:
    """Call each function once per turn, so that a slow turn slows all of them.

    Returns the results of each function in `repeats` turns, by its name; results of the `warm_up`
    turns before them are dropped. `progress` is the title of a progress bar. Raises ValueError for
    less than one turn.

    >>> count = iter(range(6))
    >>> turns({"full": lambda: next(count), "fast": lambda: next(count)}, repeats=2)
    {'full': [2, 4], 'fast': [3, 5]}
    """
    if repeats < 1:
        raise ValueError(f"a timing needs at least one turn; not {repeats}")
    results: dict[str, list[T]] = {name: [] for name in functions}
    total = (repeats + warm_up) * len(functions)
    with tqdm(total=total, desc=progress, unit="run", disable=progress is None) as bar:
        for turn in range(repeats + warm_up):
            for name, function in functions.items():
                result = function()
                if turn >= warm_up:
                    results[name].append(result)
                bar.update()
    return results


@dataclass(frozen=True)
class Pairs(Generic[T]):
    """Results of full and fast in the same turns, and the speedup estimated from them.

    `ratios[i]` is the ratio of their times in turn i.
    """

    full: list[T]
    fast: list[T]
    speedup: Speedup
    ratios: tuple[float, ...]

    @property
    def middle(self) -> tuple[T, T]:
        """Full and fast of the turn whose ratio is nearest to the median.

        Their step times add up to totals whose ratio is the speedup (nearly so for an even number
        of turns).
        """
        gaps = [abs(ratio - self.speedup.median) for ratio in self.ratios]
        turn = gaps.index(min(gaps))
        return self.full[turn], self.fast[turn]


def paired(
    full: list[T], fast: list[T], time: Callable[[T], float] = NUMBER, widest: float = WIDEST
) -> Pairs[T]:
    """Estimate the speedup from results of the same turns; `time` reads the time of a result."""
    times = [time(result) for result in full], [time(result) for result in fast]
    ratios = tuple(a / b for a, b in zip(*times, strict=True))
    return Pairs(full, fast, Speedup.of(*times, widest), ratios)


def speedups(
    functions: Mapping[str, Callable[[], T]],
    repeats: int,
    time: Callable[[T], float] = NUMBER,
    *,
    base: str = "full",
    warm_up: int = 1,
    attempts: int = ATTEMPTS,
    widest: float = WIDEST,
    progress: str | None = None,
) -> dict[str, Pairs[T]]:
    """Measure the speedup of each function over the function `base`, all in the same turns.

    `time` reads the time of a function's result, in any unit. If the ratios of a function spread
    by more than `widest`, it is measured again together with `base`, up to `attempts` times in
    all. The attempt with the smallest spread counts; it is marked as disturbed if its spread is
    still too wide. The spread alone decides this, never the speedup. Raises ValueError if `base`
    is not in `functions`, and for less than one attempt.

    >>> clock = iter([9.0, 9.0, 4.0, 2.0, 4.2, 2.0, 4.1, 2.0])  # the first two warm up
    >>> pairs = speedups({"full": lambda: next(clock), "fast": lambda: next(clock)}, repeats=3)
    >>> print(pairs["fast"].speedup)
    2.05 [2.02 to 2.08]
    """
    if base not in functions:
        raise ValueError(f"the base {base!r} must be one of {', '.join(functions)}")
    over = {name: (base, name) for name in functions}
    options: dict[str, Any] = {"warm_up": warm_up, "attempts": attempts, "widest": widest}
    return speedups_between(functions, over, repeats, time, progress=progress, **options)


def speedups_between(
    functions: Mapping[str, Callable[[], T]],
    over: Mapping[str, tuple[str, str]],
    repeats: int,
    time: Callable[[T], float] = NUMBER,
    *,
    warm_up: int = 1,
    attempts: int = ATTEMPTS,
    widest: float = WIDEST,
    progress: str | None = None,
) -> dict[str, Pairs[T]]:
    """Measure several speedups, as `speedups` does, of pairs of functions that may differ.

    `over` names full and fast of each speedup; all functions run in the same turns. Raises
    ValueError for less than one attempt.

    >>> clock = iter([9.0, 9.0, 9.0, 6.0, 4.0, 1.0])  # the first three warm up
    >>> functions = {name: lambda: next(clock) for name in ("full", "half", "least")}
    >>> over = {"first": ("full", "half"), "second": ("half", "least")}
    >>> pairs = speedups_between(functions, over, repeats=1)
    >>> pairs["first"].speedup.median, pairs["second"].speedup.median
    (1.5, 4.0)
    """
    if attempts < 1:
        raise ValueError(f"a timing needs at least one attempt; not {attempts}")
    best: dict[str, Pairs[T]] = {}
    pending = list(over)
    for attempt in range(attempts):
        again = f"{progress}, again" if progress and attempt else progress
        needed = {function for name in pending for function in over[name]}
        results = turns(
            {n: functions[n] for n in functions if n in needed}, repeats, warm_up, again
        )
        for name in pending:
            full, fast = over[name]
            pairs = paired(results[full], results[fast], time, widest)
            if name not in best or pairs.speedup.spread < best[name].speedup.spread:
                best[name] = pairs
        pending = [name for name in pending if best[name].speedup.disturbed]
        if not pending:
            break
    return best


@dataclass
class Timed:
    """A timed generation.

    `step_ms` are the milliseconds of each scale step, `host_ms` those in which the host issued it.
    """

    generation: Generation
    step_ms: list[float]
    host_ms: list[float]

    @property
    def ms(self) -> float:
        """Milliseconds from the first scale step to the final latent."""
        return sum(self.step_ms)


def timed(model: Model, prompt: str | list[str], method: Method, **options: Any) -> Timed:
    """Generate once and time every step; `options` are those of `generate`."""
    watches: list[Stopwatch] = []

    def watch(run: Any) -> Stopwatch:
        watches.append(Stopwatch(run))
        return watches[0]

    generation = generate(model, prompt, method, watch=[watch], **options)
    steps = [g.index for g in generation.request.grids]
    ms, host = watches[0].step_ms(), watches[0].host_ms
    return Timed(generation, [ms[step] for step in steps], [host[step] for step in steps])


def medians(runs: Sequence[Timed], times: str = "step_ms") -> list[float]:
    """Return the median over runs of each scale step's `times`: "step_ms" or "host_ms"."""
    return [
        statistics.median(step) for step in zip(*(getattr(r, times) for r in runs), strict=True)
    ]


def total_ms(runs: Sequence[Timed]) -> float:
    """Return the median milliseconds from the first scale step to the final latent."""
    return statistics.median(run.ms for run in runs)
