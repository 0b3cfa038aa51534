"""Launches: the rule of counting, and that they grow no more."""

import pytest
import torch

import fastvar_lab as fv
from fastvar_lab.cli.main import main
from fastvar_lab.seam import Site
from fastvar_lab.speed import launches
from fastvar_lab.speed.launches import Counter, count
from tests.families import FAMILIES, small_model


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda x: x.view(4, 2).t()[1:].unsqueeze(0).expand(3, -1, -1), 0),
        (lambda x: torch.empty_like(x), 0),
        (lambda x: x + 1, 1),
        (lambda x: x.t().contiguous(), 1),
        (lambda x: torch.nn.functional.linear(x, x, x[0, :2]), 1),
        (lambda x: torch.nn.functional.layer_norm(x, (4,)), 1),
        (lambda x: bool((x.isnan() | (x < 0)).any()), 0),
        (lambda x: bool(x.sum().isnan()), 2),
    ],
)
def test_what_is_a_launch(work, expected):
    x = torch.ones(2, 4)
    with Counter() as counter:
        work(x)
    assert counter.count == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_all_layers_and_steps_issue_as_much(family):
    model = small_model(family)
    counted, grids = count(model, fv.Dense()), model.grids()
    for kind in model.transformer.kinds:
        each = {counted.sublayers[2, Site(layer, kind)] for layer in range(model.depth)}
        assert each == {counted.most(kind)}
    assert counted.total == counted.begin + sum(
        counted.ends[grid.index]
        + sum(n for (step, _), n in counted.sublayers.items() if step == grid.index)
        for grid in grids
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_pruning_adds_one_scoring_one_gather_and_one_scatter(family):
    """Mean, difference, square, sum, sort, gather; resizing and scatter."""
    model = small_model(family)
    dense, pruned = (count(model, method) for method in (fv.Dense(), fv.Prune({-1: 0.5})))
    last = len(model.grids()) - 1
    site = Site(0, "ffn")
    assert pruned.sublayers[last, site] - dense.sublayers[last, site] <= 8


def test_a_tenth_fewer_launches_than_recorded(capsys):
    assert main(["bench", "--suite", "launches", "--case", "tiny"]) == 0
    assert "->" in capsys.readouterr().out
    record = {(row["model"], row["method"]): row for row in launches.before()["rows"]}
    for row in launches.suite("tiny"):
        assert row["total"] <= 0.9 * record[row["model"], row["method"]]["total"]
