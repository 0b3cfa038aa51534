"""Generations under stopwatches, in turns: what experiments on time have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fastvar_lab.experiments.base import Cell, base_of, in_turns
from fastvar_lab.generation import generate
from fastvar_lab.instruments.stopwatch import Stopwatch
from fastvar_lab.models.model import Model
from fastvar_lab.seam import Runner
from fastvar_lab.speed.timed import Pairs


def watched(
    model: Model, cells: Sequence[Cell], sublayers: bool = False
) -> Iterator[tuple[Cell, Pairs[Stopwatch]]]:
    """Generate under stopwatches, every cell's method in turns with full generation."""

    def once(cell: Cell) -> Stopwatch:
        watches = list[Stopwatch]()

        def watch(run: Runner) -> Stopwatch:
            watches.append(Stopwatch(run, sublayers=sublayers))
            return watches[0]

        assert cell.method is not None
        generate(model, cell.prompts, cell.method, watch=[watch], sizes=cell.sizes)
        return watches[0]

    yield from in_turns(cells, once, base_of(cells), total_ms)


def total_ms(watch: Stopwatch) -> float:
    """Milliseconds of all scale steps."""
    return sum(watch.step_ms().values())
