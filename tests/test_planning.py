"""Planned schedules: the method, its costs and effects, the planner, its file and command."""

import argparse
import json

import numpy as np
import pytest
import torch

import fastvar_lab as fv
from fastvar_lab.cli import options
from fastvar_lab.cli.main import main
from fastvar_lab.experiments.questions import shipped
from fastvar_lab.methods.parse import read_method, read_method_file, save_method
from fastvar_lab.planning import cost
from fastvar_lab.planning.effects import Calibration, calibration_items, psnr
from fastvar_lab.planning.planner import Planner
from fastvar_lab.planning.solve import choose
from fastvar_lab.prompts import seeded
from fastvar_lab.seam import Rows, Site
from fastvar_lab.store import Store
from tests.families import FAMILIES, prompt, small_model

KINDS = ("attn", "cross", "ffn")


@pytest.fixture(scope="module")
def model():
    return small_model("infinity")


@pytest.fixture(scope="module")
def planner(model):
    prompts = fv.PromptList(("a cyan star", "a red ring"))
    return Planner(model, "operations", n=2, prompts=prompts, quick=True, progress=False)


def digits(model, digit):
    return {kind: digit * model.depth for kind in model.transformer.kinds}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_even_plan_is_prune(family):
    model = small_model(family)
    plan = fv.Planned({-2: digits(model, "4"), -1: digits(model, "6")})
    runs = [
        fv.generate(model, prompt(model), method, seed=3)
        for method in (plan, fv.Prune({-2: 0.5, -1: 0.75}))
    ]
    assert torch.equal(runs[0].canvas, runs[1].canvas)


def test_each_place_forwards_its_own_share(model):
    last = model.grids()[-1]
    plan = fv.Planned({-1: {"attn": "08"[: model.depth].ljust(model.depth, "4")}})
    runner = plan.start(model.grids(), model.depth)
    assert runner.forwarded(Site(0, "attn"), last) == last.tokens
    assert runner.forwarded(Site(1, "attn"), last) == 0
    assert runner.forwarded(Site(1, "ffn"), last) == last.tokens
    assert fv.verify(model, plan).passed.all()


def test_rows_of_a_plan(model):
    plan = fv.Planned(rows={-2: "cond", -1: "skip"})
    acts = plan.acts(model.grids())
    assert [act.rows for act in acts[-3:]] == [Rows.BOTH, Rows.COND, Rows.SKIP]
    assert fv.generate(model, prompt(model), plan, seed=1).tokens[-1] is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(pruned={-1: {"attn": "09"}}), "a digit a layer from 0 to 8"),
        (dict(pruned={-1: {"mlp": "00"}}), "sublayers are attn, cross, ffn; not 'mlp'"),
        (dict(pruned={-1: {"attn": "44", "ffn": "4"}}), "as many digits as layers"),
        (dict(rows={-1: "both"}), "one of cond, null, skip; not 'both'"),
    ],
)
def test_a_wrong_plan_is_one_sentence(fields, message):
    with pytest.raises(ValueError, match=message):
        fv.Planned(**fields)


def test_a_plan_for_another_depth_is_refused(model):
    plan = fv.Planned({-1: {"attn": "4" * (model.depth + 1)}})
    with pytest.raises(ValueError, match=f"planned for {model.depth + 1} layers"):
        fv.generate(model, prompt(model), plan)


def test_a_plan_travels_as_a_file(tmp_path, model):
    plan = fv.Planned({-1: digits(model, "4")}, rows={-1: "cond"}, origin="by hand")
    save_method(plan, tmp_path / "plan.json")
    again = read_method_file(tmp_path / "plan.json")
    assert again == plan == read_method(repr(plan))
    assert again.origin == "by hand"
    (tmp_path / "other.json").write_text(json.dumps({"method": "Dense()"}))
    with pytest.raises(ValueError, match=r"other\.json: it is not a method that was saved"):
        read_method_file(tmp_path / "other.json")
    with pytest.raises(ValueError, match=r"cannot read the method .*none\.json: No such file"):
        read_method_file(tmp_path / "none.json")


def test_the_choice_of_levels_is_the_best_of_all():
    rng = np.random.default_rng(0)
    for _ in range(20):
        errors = np.cumsum(rng.random((4, 3)), axis=1)
        prices = 3 - np.cumsum(rng.random((4, 3)), axis=1)
        budget = float(rng.uniform(prices[:, -1].sum(), prices[:, 0].sum()))
        every = np.array(np.meshgrid(*[range(3)] * 4)).reshape(4, -1).T
        rows = np.arange(4)
        spent = prices[rows, every].sum(1)
        spoilt = np.where(spent <= budget, errors[rows, every].sum(1), np.inf)
        levels = choose(errors, prices, budget)
        assert prices[rows, levels].sum() <= budget + 1e-9
        # a relaxation: at most the largest single step worse than the best
        assert errors[rows, levels].sum() <= spoilt.min() + np.diff(errors, axis=1).max()


def test_a_plan_is_within_its_budget_and_not_worse_than_what_it_starts_from(planner):
    plan = planner.plan(1.5)
    assert plan.speedup >= 1.5 * 0.995
    assert plan.method.origin.endswith("2 prompts, cost in GFLOP")
    starts = planner._starts(planner.spent(fv.Dense()) / 1.5)
    assert all(planner.spent(start) <= planner.spent(fv.Dense()) / 1.5 * 1.0001 for start in starts)
    assert any(planner.sensitivity.is_even(start) for start in starts)
    assert plan.psnr >= psnr(planner.calibration.errors(starts)).mean(1).max() - 1e-6


def test_a_plan_keeps_the_quality_that_is_wanted(planner):
    wanted = planner.plan(1.5).psnr - 1
    plan = planner.plan_to(wanted)
    assert plan.psnr >= wanted
    assert plan.speedup >= 1.3


def test_counted_and_planned_costs_agree(planner, model):
    plan = fv.Planned({-1: digits(model, "4")}, rows={-1: "cond"})
    counted = cost.flops.total(
        cost.flops.step_flops(model, plan, model.grids(), planner.calibration.text_tokens)
    )
    assert planner.spent(plan) == pytest.approx(counted / 1e9)


def test_a_budget_out_of_reach_names_the_fastest(planner):
    with pytest.raises(ValueError, match=r"no schedule is 1e\+03 times as fast; the fastest is"):
        planner.plan(1000)


def test_known_effects_are_not_measured_again(model, tmp_path, monkeypatch):
    items = calibration_items(model, 2, fv.PromptList(("a cyan star", "a red ring")))
    methods = [fv.Planned({-1: digits(model, "4")}), fv.Planned(rows={-1: "cond"})]
    first = Calibration(model, items, store=Store(tmp_path), progress=False).errors(methods)
    monkeypatch.setattr(Calibration, "_measured", None)
    again = Calibration(model, items, store=Store(tmp_path), progress=False).errors(methods)
    assert np.array_equal(first, again)
    assert first.shape == (2, 2)


def test_calibration_prompts_are_not_those_that_anything_is_judged_on():
    model = fv.load("tiny")
    mine = {(i.prompt, i.seed) for i in calibration_items(model, 112)}
    for record in shipped().values():
        judged = seeded(model.prompts, record.seed).take(112)
        assert not mine & {(i.prompt, i.seed) for i in judged}, record.name


def test_measured_times_predict_a_generation(model):
    times = cost.measure(model, "a cyan star", progress=False)
    assert cost.total(times, model, fv.Dense(), model.grids()) > 0
    assert cost.total(times, model, fv.Dense(), model.grids()) > cost.total(
        times, model, fv.Planned(rows={-1: "skip"}), model.grids()
    )


def test_the_command_writes_a_schedule(tmp_path, capsys):
    out = tmp_path / "schedule.json"
    arguments = ["plan", "--speedup", "0.5", "--out", str(out)]
    assert main(arguments) == 2
    assert "a speedup is 1 or more; not 0.5" in capsys.readouterr().err
    assert main(["plan", "--speedup", "2", "--out", str(tmp_path)]) == 2
    assert "--out names the file of the schedule" in capsys.readouterr().err
    assert not out.exists()


def test_commands_take_a_schedule_from_a_file_or_a_method_as_python(tmp_path, capsys):
    plan = fv.Planned({-1: {"attn": "44446666"}}, rows={-1: "cond"})
    save_method(plan, tmp_path / "plan.json")
    parser = argparse.ArgumentParser()
    options.add_method(parser, "no pruning")
    texts = {str(tmp_path / "plan.json"): plan, "Merge({-1: 0.5})": fv.Merge({-1: 0.5})}
    for text, method in texts.items():
        assert options.method(parser.parse_args(["--method", text])) == method
    both = ["--ratios", "-1:0.5", "--method", "Dense()"]
    out = ["--out", str(tmp_path / "x")]
    for arguments in (["demo", *out], ["generate", "a red ring", *out], ["evaluate"]):
        assert main([*arguments, *both]) == 2
        assert "--ratios and --method exclude each other" in capsys.readouterr().err
    assert main(["evaluate", "--method", str(tmp_path / "none.json")]) == 2
    assert "none.json: No such file" in capsys.readouterr().err
    assert main(["evaluate", "--method", "nope"]) == 2
    assert "'nope' is not a method; a method is a call such as" in capsys.readouterr().err
