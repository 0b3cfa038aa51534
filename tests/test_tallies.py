"""Operations as they ran: many methods are counted from shared first steps, with equal numbers."""

from dataclasses import dataclass

import pytest

import fastvar_lab as fv
from fastvar_lab.experiments import demo
from fastvar_lab.experiments.base import BATCH, Cell, Each, Question, Scope
from fastvar_lab.experiments.comparison import counting, counts
from fastvar_lab.experiments.explore import Exploration
from fastvar_lab.experiments.jobs import _rule
from fastvar_lab.frames import OPERATIONS
from fastvar_lab.methods.focusvar import FocusVARAdaptive
from fastvar_lab.methods.skipvar import SkipVAR, fitted_rules
from fastvar_lab.prompts import ClosedWorld, Item
from fastvar_lab.seam import Act, Rows
from fastvar_lab.speed import bench, flops, tally
from fastvar_lab.speed.tally import Tallies, Tally, total


@dataclass(frozen=True)
class Skips:
    """Decides as it goes that a step is skipped; `name` tells its last steps apart."""

    step: int
    name: str = ""

    def acts(self, grids):
        acts = [Act() for _ in grids]
        acts[-1] = Act(key=(self.name,) if self.name else ())
        acts[self.step] = Act(rows=None, key=(type(self),))
        return tuple(acts)

    def cache_index(self, grids):
        return None

    def stateful_from(self, grids):
        return len(grids)  # its runner carries nothing from step to step

    def start(self, grids, depth, held=None):
        return SkipsRunner(self.step)


class SkipsRunner(fv.Runner):
    def __init__(self, step):
        self.step = step

    def rows(self, grid, canvas):
        return Rows.SKIP if grid.index == self.step else Rows.BOTH


@pytest.fixture(scope="module")
def shipped():
    return fv.load("tiny")


def from_scratch(model, method, item):
    """Count the operations of a picture that is generated alone, from its first step."""
    tallies, words = [], len(item.prompt.split())

    def watch(runner):
        tallies.append(Tally(runner, model, model.grids(), words))
        return tallies[0]

    run = fv.generate(model, item.prompt, method, seed=item.seed, watch=[watch])
    assert run.first_step == 0
    return total(model, run, tallies[0])


def deciding(guidance):
    """Methods that decide from the data, and act from different steps on."""
    return [
        SkipVAR(fitted_rules("tiny", guidance, 10)[0]),
        fv.SparseVAR(-2),
        fv.SparseVAR(-1, threshold=0.3),
        FocusVARAdaptive(fv.Prune({-2: 0.5, -1: 0.7}), probe=-1, early=2, late=5),
        FocusVARAdaptive(fv.Prune({-2: 1.0}), probe=-1, early=2, late=5),  # skips a step before
    ]


@pytest.mark.parametrize("guidance", [2.0, 4.0])
def test_operations_of_resumed_pictures_are_those_from_scratch(shipped, guidance, monkeypatch):
    model, item = shipped.with_guidance(guidance), ClosedWorld().take(1)[0]
    methods = deciding(guidance)
    assert not any(flops.exact(method, model.grids()) for method in methods)
    starts, run = [], tally.run
    monkeypatch.setattr(
        tally, "run", lambda *args, **more: starts.append(args[3].first) or run(*args, **more)
    )
    tallies = Tallies(model, methods, item)
    counted = [tallies.count(method) for method in methods]
    assert starts == [7, 7, 8, 8, 8]
    assert counted == [from_scratch(model, method, item) for method in methods]
    assert len(set(counted)) == len(counted)


def test_what_no_two_methods_share_is_not_generated_beside_them(small):
    item = Item("a red circle", 1)
    early, late = fv.Prune({2: 0.5}, restore=fv.Zero()), fv.Prune({-1: 0.5})
    for methods, shared in (([], 0), ([late], 0), ([early, late], 1), ([fv.Dense(), late], 4)):
        tallies = Tallies(small, methods, item)
        assert tallies.shared == shared
        for method in methods:
            assert tallies.count(method) == from_scratch(small, method, item)
    whole = Tallies(small, [fv.Dense(), fv.Dense()], item)
    assert (whole.shared, whole.count(fv.Dense())) == (5, from_scratch(small, fv.Dense(), item))


def test_keys_are_those_of_the_steps_that_ran(small):
    """A skipped step that comes first after resuming has no keys."""
    method, tallies = fv.Prune({-2: 1.0, -1: 0.5}), []
    full = fv.generate(small, "a red circle", fv.Dense(), seed=1, snapshot=True)

    def watch(runner):
        tallies.append(Tally(runner, small, small.grids(), 3))
        return tallies[0]

    resumed = fv.resume(small, full, method, watch=[watch])
    assert resumed.first_step == 3
    counted = flops.total(flops.step_flops(small, method, small.grids(), 3))
    assert total(small, resumed, tallies[0]) == pytest.approx(counted, rel=1e-12)


def test_cells_of_counted_operations_keep_rows_and_addresses(small):
    items = ClosedWorld().take(BATCH + 1)
    methods = {"full": fv.Dense(), "a": fv.SparseVAR(-2, threshold=0.5), "b": fv.SparseVAR(-1)}
    question = Question(small, Scope("look", len(items), 1), ClosedWorld(), methods, items[0])
    fixed, *batches = counting(question, "mine")
    assert [[cell.label for cell in job.cells] for job in batches] == [["a", "b"]] * 2
    assert _rule(fixed.work) == "fastvar_lab.experiments.comparison.counts"
    assert not isinstance(fixed.work, Each)
    assert list(counts(small, fixed.cells)) == [(fixed.cells[0], [{OPERATIONS: 1.0}])]
    for job in batches:
        for cell, rows in job.work(small, job.cells):
            assert isinstance(cell, Cell)
            for i, (item, row) in enumerate(zip(cell.items, rows, strict=True)):
                words = len(item.prompt.split())
                full = flops.total(flops.step_flops(small, fv.Dense(), small.grids(), words))
                share = from_scratch(small, cell.method, item) / full
                assert row == {"picture": cell.first + i, OPERATIONS: share}


def test_steps_of_one_forward_are_counted_apart(small):
    """Tokens of the first step do not read the keys of the second."""
    for ratios in ({-2: 0.5, -1: 0.75}, {-3: 0.5, -2: 0.75}):
        method, tallies = fv.LazyVAR(ratios), []

        def watch(runner, tallies=tallies):
            tallies.append(Tally(runner, small, small.grids(), 3))
            return tallies[0]

        fv.generate(small, "a red circle", method, seed=1, watch=[watch])
        costs = flops.step_flops(small, method, small.grids(), 3)
        counted = [sum(cost.values()) for cost in costs]
        assert [tallies[0].flop[step] for step in range(5)] == pytest.approx(counted, rel=1e-12)


def test_an_exploration_shows_what_ran(small):
    item, grids = Item("a red circle", 3), small.grids()
    lab, sparse = Exploration(small), fv.SparseVAR(-2, threshold=0.5)
    declared = flops.total(flops.step_flops(small, sparse, grids, 3))
    assert from_scratch(small, sparse, item) < declared
    for method, first in ((sparse, 2), (Skips(3), 3), (Skips(3, "b"), 4)):
        shown = lab.compare(item.prompt, item.seed, method)
        assert shown.first_step == first  # the last goes on from the one before
        counted = from_scratch(small, method, item)
        assert sum(shown.gflop_fast) * 1e9 == pytest.approx(counted, rel=1e-12)
    assert shown.gflop_fast[3] == 0
    lab.prepare(fv.SparseVAR(-1, threshold=0.5), lambda: False)
    ahead = lab.kept[-1]
    counted = from_scratch(small, ahead.method, item)
    assert sum(ahead.gflop_fast) * 1e9 == pytest.approx(counted, rel=1e-12)
    skipped = lab.compare(item.prompt, item.seed, Skips(4))
    assert skipped.gflop_fast == [*skipped.gflop_full[:-1], 0.0]
    assert skipped.work == (4, 0, 1)
    assert skipped.speedup_flop_bound > 1.5
    fixed = lab.compare(item.prompt, item.seed, fv.Prune({-1: 0.5}))
    costs = flops.step_flops(small, fixed.method, grids, 3)
    assert fixed.gflop_fast == [sum(cost.values()) / 1e9 for cost in costs]


def test_demo_and_bench_show_what_ran(small):
    report, _, shares, _ = demo.compare(small, "a red circle", Skips(4), 3, repeats=1)
    assert report["tokens_fast"] == [1, 4, 16, 36, 0]
    assert report["speedup_flop_bound"] > 1.5
    assert not shares["kept at 8x8"].any()
    assert "skipped" in demo.table(report).splitlines()[5]
    methods = {"skips": Skips(4), "pruned": fv.Prune({-2: 1.0, -1: 0.5})}
    rows = bench.cases(small, small.sizes, methods, 1, best=bench.Rates(1e9, 1e9))
    assert [row["skipped"] for row in rows] == [["8x8"], ["6x6"]]
    assert rows[0]["tokens_fast"] == [1, 4, 16, 36, 0]
    assert rows[0]["speedup_flop_bound"] > 1.5
    assert rows[0]["step_floor_ms_fast"][-1] == 0
