"""A stranger extends the lab: from the public face alone, each in its own few lines."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

import fastvar_lab as fv
from fastvar_lab.experiments.questions import reduced_precision, shipped
from fastvar_lab.plotting import charts
from tests.test_own_backbone import Toy, toy  # noqa: F401  (the fixture)

LOOK = fv.Scope("look", prompts=2, repeats=1)


@dataclass(frozen=True)
class LargestNorm:
    def scores(self, x, grid, site):
        return x.float().norm(dim=-1)


@dataclass(frozen=True)
class MeanOfKept:
    needs_cache: ClassVar[bool] = False

    def restore(self, fresh, index, grid, cached):
        base = fresh.mean(dim=1, keepdim=True).repeat(1, grid.tokens, 1)
        return base.scatter(1, index.unsqueeze(-1).expand_as(fresh), fresh)


@dataclass(frozen=True)
class LateUnguided:
    steps: int

    def acts(self, grids):
        late = len(grids) - self.steps
        return tuple(fv.Act(fv.Rows.COND if g.index >= late else fv.Rows.BOTH) for g in grids)

    def start(self, grids, depth, held=None):
        return fv.Runner()

    def cache_index(self, grids):
        return None


class RisingRunner(fv.PruneRunner):
    def ratio(self, site, grid):
        return super().ratio(site, grid) * (site.layer + 1) / len(self.layers)


@dataclass(frozen=True)
class Rising(fv.Prune):
    """Prune more, the deeper the layer."""

    def start(self, grids, depth, held=None):
        return RisingRunner(self, grids, depth, held or {})


METHODS = {
    "selector": fv.Prune({-2: 0.5, -1: 0.75}, select=LargestNorm()),
    "restorer": fv.Prune({-2: 0.5, -1: 0.75}, restore=MeanOfKept()),
    "late unguided": LateUnguided(2),
    "rising": Rising({-1: 0.8}),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_keep_their_promises(small, name):
    report = fv.verify(small, METHODS[name], "a red circle").set_index("promise")
    assert not report.passed.eq(False).any(), report.note.to_dict()
    assert report.passed["counted equals issued"]


def test_rows_that_are_dropped_are_counted(small):
    methods = {"full": fv.Dense(), "late": LateUnguided(2), "null": fv.Prune({}, null_until=-3)}
    gflop = fv.costs(small, methods).groupby("method").gflop.sum()
    assert gflop["late"] == gflop["null"] < gflop["full"]


def green(picture, reference):
    return float(picture[..., 1].mean() - reference[..., 1].mean())


@dataclass(frozen=True)
class Stars:
    name: str = "stars"

    @staticmethod
    def judge(item, picture):
        return float(picture.std() > 0)

    def take(self, n):
        from fastvar_lab.prompts import Item

        return tuple(Item(("a red star", "two blue stars")[i % 2], seed=i) for i in range(n))


@pytest.fixture(scope="module")
def tiny():
    model = fv.load("tiny")
    model.sizes = ((1, 1), (4, 4), (8, 8), (16, 16), (24, 24))
    return model


def test_a_metric_a_prompt_set_and_an_experiment_with_its_figure(tiny, tmp_path):
    experiment = fv.Experiment(
        question="Do large norms matter?",
        source="ours",
        methods=lambda model: METHODS,
        chart=charts.methods,
        name="norms",
    )
    store = fv.Store(tmp_path)
    frame = fv.run(
        experiment,
        LOOK,
        model=tiny,
        prompts=Stars(),
        metrics={"green": green},
        store=store,
        progress=False,
    )
    made = frame[frame.kind == "quality"]
    assert set(made.method) == {"full", *METHODS}
    assert made.green.notna().all()
    assert (made.right == 1).all()
    assert (made[made.method == "late unguided"]["rows_24x24"] == 1).all()
    assert len(experiment.chart(frame).axes) == 3
    again = fv.compare(
        tiny, METHODS, LOOK, prompts=Stars(), metrics={"green": green}, store=store, progress=False
    )
    columns = ["method", "picture", "psnr", "green"]
    kept = again[again.kind == "quality"][columns].reset_index(drop=True)
    assert kept.equals(made[columns].reset_index(drop=True))


PLANS = "schedules that were planned for the model"
NEEDS = {
    "drafting": "two VARs of the shipped configurations",
    "budget": PLANS,
    "budget_transfer": PLANS,
    "choice_by_picture": PLANS,
    "small_maps": PLANS,
}


@pytest.mark.parametrize("name", sorted(shipped().keys() - NEEDS.keys()))
def test_a_backbone_under_a_new_name_runs_every_experiment(toy, tmp_path, name, monkeypatch):  # noqa: F811
    monkeypatch.setattr(reduced_precision, "RELEASES", ())  # counted whatever the model
    model = replace(toy, fast=fv.Prune({-2: 0.5, -1: 0.75}))
    assert isinstance(model.transformer, Toy)
    model.sizes = ((1, 1), (2, 2), (4, 4), (8, 8), (16, 16), (22, 22))
    frame = fv.run(name, "quick", model=model, store=fv.Store(tmp_path), progress=False)
    assert (frame.model == "toy").all()
    record = shipped()[name]
    figure = record.chart(record.points(frame) if record.points else frame)
    assert figure.axes
    with pytest.raises(ValueError, match="schedule"):
        fv.paper_preset(toy)


def test_what_the_public_face_offers_is_there():
    for name in fv.__all__:
        assert getattr(fv, name) is not None
    assert torch.is_tensor(fv.load("tiny").transformer.head.weight)
