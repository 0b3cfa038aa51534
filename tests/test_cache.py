"""What the KV cache keeps: all that a later step or a resumed generation reads, and no more."""

from dataclasses import dataclass

import pytest
import torch

import fastvar_lab as fv
from fastvar_lab.cache import KVCache, read_later
from fastvar_lab.seam import Act, Rows, Runner, Site, Wrapper
from tests.families import FAMILIES, prompt, small_model
from tests.test_engine import RowsAt, Toy, toys


@dataclass(frozen=True)
class WithoutLayer(Toy):
    """One layer's attention does not run in the last steps."""

    layer: int
    count: int

    def changes(self, steps):
        return {-back: Act(key=("without", self.layer)) for back in range(1, self.count + 1)}

    def runner(self, grids, depth):
        return WithoutRunner(Site(self.layer, "attn"), len(grids) - self.count)


class WithoutRunner(Runner):
    def __init__(self, site, first):
        self.site, self.first = site, first

    def forwarded(self, site, grid):
        return 0 if site == self.site and grid.index >= self.first else grid.tokens

    def sublayer(self, site, grid, branch, x):
        return branch(x) if self.forwarded(site, grid) else torch.zeros_like(x)


METHODS = [
    fv.Dense(),
    fv.Prune({-2: 0.5, -1: 0.75}),
    fv.Prune({-2: 0.3, -1: 1.0}, null_until=-3),
    fv.Prune({-1: 1.0}, null_until=-4),
    RowsAt(((-2, Rows.NULL), (-1, Rows.COND))),
    RowsAt(((0, Rows.COND), (1, Rows.COND))),
    RowsAt(tuple((step, Rows.NULL) for step in range(1, 5))),
    WithoutLayer(0, 2),
    WithoutLayer(1, 1),
    *toys(3),
]


class Stored(Wrapper):
    """Notes the bytes of stored keys and values while the last step runs."""

    def __init__(self, inner, caches, noted):
        super().__init__(inner)
        self.caches, self.noted = caches, noted

    def sublayer(self, site, grid, branch, x):
        self.noted.append(self.caches[-1].bytes)
        return self.inner.sublayer(site, grid, branch, x)


@pytest.fixture
def caches(monkeypatch):
    """All caches that are created."""
    created, begin = list[KVCache](), KVCache.__init__

    def noted(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        created.append(self)

    monkeypatch.setattr(KVCache, "__init__", noted)
    return created


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_what_no_later_step_reads_is_not_stored_and_the_bits_are_the_same(
    family, method, caches, monkeypatch
):
    model, noted = small_model(family), {"less": [], "all": []}

    def run(name):
        watch = [lambda runner: Stored(runner, caches, noted[name])]
        return fv.generate(model, prompt(model), method, seed=3, watch=watch)

    less = run("less")
    monkeypatch.setattr(KVCache, "expect", lambda *_: None)
    whole = run("all")
    assert torch.equal(less.canvas, whole.canvas)
    assert max(noted["less"]) < max(noted["all"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("guided", [True, False])
def test_dense_generation_stores_all_steps_but_the_last(family, guided, caches):
    model, noted = small_model(family), []
    sampling = None if guided else fv.Sampling(guidance=model.transformer.unguided, top_p=1.0)
    watch = [lambda runner: Stored(runner, caches, noted)]
    fv.generate(model, prompt(model), fv.Dense(), sampling=sampling, watch=watch)
    tokens = sum(grid.tokens for grid in model.grids()[:-1])
    rows, config = 2 if guided else 1, model.transformer.config
    assert max(noted) == 2 * 4 * rows * tokens * config.width * config.depth
    assert caches[-1].bytes == 0
    assert caches[-1].passing is None


def test_null_rows_are_dropped_after_the_last_step_that_runs_them(caches):
    model, noted = small_model("infinity"), []
    watch = [lambda runner: Stored(runner, caches, noted)]
    fv.generate(model, prompt(model), fv.Prune({-1: 0.5}, null_until=-3), watch=watch)
    grids, config = model.grids(), model.transformer.config
    tokens = sum(grid.tokens for grid in grids[:-1])
    both = sum(grid.tokens for grid in grids[:-3])
    each = 2 * 4 * config.width * config.depth
    assert noted[-3 * config.depth] == each * tokens  # one row, as the last step begins
    assert max(noted) <= each * (2 * both + tokens)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("base", METHODS[:6], ids=repr)
def test_a_snapshot_holds_what_any_method_may_resume_from(family, base):
    model = small_model(family)
    full = fv.generate(model, prompt(model), base, seed=3, snapshot=True)
    for method in METHODS[:6]:
        again = fv.resume(model, full, method, snapshot=True)
        scratch = fv.generate(model, prompt(model), method, seed=3)
        assert torch.equal(again.canvas, scratch.canvas)
        twice = fv.resume(model, again, base)
        assert torch.equal(twice.canvas, full.canvas)
    assert full.snapshot.cache.passing is None


def test_rows_read_later():
    both, cond, null, skip = Rows.BOTH, Rows.COND, Rows.NULL, Rows.SKIP
    assert read_later([both, skip, both]) == [both, both, skip]
    assert read_later([both, null, skip, null, skip]) == [null, null, null, skip, skip]
    assert read_later([cond, null, cond]) == [both, cond, skip]
