"""Planned schedules: the method, its costs and effects, the planner, its file and command."""

import argparse
import json
import re
from dataclasses import replace
from functools import partial
from importlib.resources import files

import numpy as np
import pytest
import torch

import fastvar_lab as fv
from fastvar_lab.branching import Branches
from fastvar_lab.cache import read_later
from fastvar_lab.cli import cmd_generate, cmd_plan, options
from fastvar_lab.cli.main import main
from fastvar_lab.files import read_json, write_json
from fastvar_lab.methods.parse import read_method, read_method_file, save_method
from fastvar_lab.planning import cost, predictions
from fastvar_lab.planning.by_hand import by_hand
from fastvar_lab.planning.effects import Calibration, calibration_items
from fastvar_lab.planning.exchange import exchanged
from fastvar_lab.planning.places import STACK, Tail
from fastvar_lab.planning.planner import Plan, Planner, planned_on
from fastvar_lab.planning.plans import plan_frame
from fastvar_lab.planning.search import Search
from fastvar_lab.planning.space import Choice
from fastvar_lab.planning.starts import Share
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


def test_even_starts_both_prune_and_skip(planner):
    rows = planner.starts.table
    shapes = {(tail.skipped, {*shares.values()} != {Share()}) for *_, shares, tail in rows}
    assert {(0, True), (1, True), (1, False)} <= shapes
    for *_, shares, tail in rows:
        last = len(planner.calibration.grids) - tail.skipped
        assert all(share == Share() for step, share in shares.items() if step >= last)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_even_plan_is_prune(family):
    model = small_model(family)
    plan = fv.Planned({-2: digits(model, "4"), -1: digits(model, "6")})
    runs = [
        fv.generate(model, prompt(model), method, seed=3)
        for method in (plan, fv.Prune({-2: 0.5, -1: 0.75}))
    ]
    assert torch.equal(runs[0].canvas, runs[1].canvas)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("select", [fv.FarFromMean(), fv.Shared(fv.AttentionEntropy("low"))])
def test_stacks_are_pruned_as_by_prune(family, select):
    model = small_model(family)
    plan = fv.Planned(stacks={-2: 4, -1: 6}, select=select)
    prune = fv.Prune({-2: 0.5, -1: 0.75}, select=select, restore=fv.ZeroCode(), granularity="stack")
    runs = [fv.generate(model, prompt(model), method, seed=3) for method in (plan, prune)]
    assert torch.equal(runs[0].canvas, runs[1].canvas)
    costs = [cost.flops.step_flops(model, method, model.grids()) for method in (plan, prune)]
    assert costs[0] == costs[1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "fields",
    [
        dict(stacks={-2: 4, -1: 6}),
        dict(stacks={-2: 4}, rows={-1: "skip"}),
        dict(stacks={-1: 3}, rows={-1: "held"}),
        dict(stacks={-2: 3}, rows={-2: "cond", -1: "held"}),
        dict(stacks={-1: 7}, select=fv.Shared(fv.AttentionEntropy("low"))),
    ],
)
def test_stacks_keep_the_promises_of_methods(family, fields):
    model = small_model(family)
    plan = fv.Planned(**fields)
    assert fv.verify(model, plan).passed.all()
    assert read_method(repr(plan)) == plan
    beside = fv.Planned({-1: digits(model, "4")}, stacks={-2: 4})
    assert fv.verify(model, beside).passed.all()
    assert read_method(repr(beside)) == beside


def test_stacks_work_where_guidance_merges_rows_inside(model):
    sampling = fv.Sampling(guidance=3.0, guidance_layer=-2)
    plan = fv.Planned(stacks={-1: 4})
    same = fv.Prune({-1: 0.5}, restore=fv.ZeroCode(), granularity="stack")
    runs = [fv.generate(model, prompt(model), m, seed=1, sampling=sampling) for m in (plan, same)]
    assert torch.equal(runs[0].canvas, runs[1].canvas)


def test_nothing_is_taken_from_a_step_with_pruned_stacks(model):
    held = fv.Planned(stacks={-2: 4}, rows={-1: "held"})
    assert held.held_from(model.grids()) == {len(model.grids()) - 1: len(model.grids()) - 3}
    plan = fv.Planned({-1: digits(model, "4")}, stacks={-2: 4}, previous={-1: "attn"})
    with pytest.raises(
        ValueError, match=r"takes outputs of .*, where 0\.5 of the tokens have none"
    ):
        fv.generate(model, prompt(model), plan)
    with pytest.raises(ValueError, match="two names of the plan are the same scale step"):
        fv.Planned({-1: digits(model, "4")}, stacks={-1: 4}).acts(model.grids())


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


def test_held_guidance_is_the_difference_of_the_last_step_of_both_rows(model):
    held = fv.Planned(rows={-1: "held"})
    alone = fv.Planned(rows={-1: "cond"})
    assert fv.verify(model, held).passed.all()
    counts = [
        cost.flops.total(cost.flops.step_flops(model, m, model.grids())) for m in (held, alone)
    ]
    assert counts[0] == counts[1]
    trained = fv.load("tiny")  # random weights seldom change what is drawn
    full = fv.generate(trained, "a red ring", fv.Dense(), seed=1, snapshot=True)
    runs = [fv.resume(trained, full, method) for method in (held, alone)]
    assert not torch.equal(runs[0].canvas, runs[1].canvas)
    again = fv.generate(trained, "a red ring", held, seed=1)
    assert torch.equal(runs[0].canvas, again.canvas)
    everywhere = fv.Planned(rows={-i: "held" for i in range(1, len(model.grids()) + 1)})
    with pytest.raises(ValueError, match="none before it runs both rows"):
        fv.generate(model, prompt(model), everywhere)


@pytest.mark.parametrize("rows", [{-2: "held"}, {-4: "null", -3: "held", -2: "held"}])
@pytest.mark.parametrize("select", [fv.FarFromMean(), fv.OutputEntropy("low")])
def test_a_resumed_plan_runs_the_step_whose_difference_it_holds(model, rows, select):
    plan = fv.Planned({-1: {"ffn": "8" * model.depth}}, rows=rows, select=select)
    # its own snapshot holds outputs of feed-forwards alone, so that the cache step runs again
    scratch = fv.generate(model, prompt(model), plan, seed=1, snapshot=())
    again = fv.resume(model, scratch, plan)
    assert again.first_step <= min(plan.held_from(model.grids()).values())
    assert torch.equal(again.canvas, scratch.canvas)


def test_plans_that_differ_in_a_rule_share_no_step_that_a_later_one_looks_back_at(model):
    plans = [
        fv.Planned({-1: digits(model, "4")}, rows={-1: "held"}, select=rule)
        for rule in (fv.FarFromMean(), fv.HighPass())
    ]
    scratch = [fv.generate(model, prompt(model), p, seed=1, snapshot=True) for p in plans]
    for base, plan, other in zip(scratch, plans[::-1], scratch[::-1], strict=True):
        assert torch.equal(fv.resume(model, base, plan).canvas, other.canvas)


def test_places_restore_from_their_own_output_at_the_step_before(model):
    shares = {-2: digits(model, "4"), -1: digits(model, "4")}
    kinds = model.transformer.kinds
    plan = fv.Planned(shares, previous={-2: kinds, -1: kinds})
    rolling = fv.Planned(shares, restore=fv.PreviousBranch())
    runs = [fv.generate(model, prompt(model), m, seed=1).canvas for m in (plan, rolling)]
    assert torch.equal(*runs)
    one = fv.Planned(shares, previous={-1: "attn"})
    assert fv.verify(model, one).passed.all()
    assert read_method(repr(one)) == one
    trained = fv.load("tiny")  # random weights seldom change what is drawn
    pruned = {-2: digits(trained, "4"), -1: digits(trained, "4")}
    full = fv.generate(trained, "a red ring", fv.Dense(), seed=1, snapshot=True)
    first, second = (
        fv.resume(trained, full, fv.Planned(pruned, previous=previous)).canvas
        for previous in ({}, {-1: "attn"})
    )
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(pruned={-1: {"attn": "09"}}), "a digit a layer from 0 to 8"),
        (dict(pruned={-1: ("attn",)}), r"scale -1: kinds of sublayers with their digits; not \("),
        (dict(pruned={-1: 5}), "scale -1: kinds of sublayers with their digits; not 5"),
        (dict(pruned={-1: {"mlp": "00"}}), "sublayers are attn, cross, ffn; not 'mlp'"),
        (dict(pruned={-1: {"attn": "44", "ffn": "4"}}), "as many digits as layers"),
        (dict(rows={-1: "both"}), "one of cond, null, skip, held; not 'both'"),
        (dict(stacks={-1: 8}), "scale -1: 1 to 7 eighths of the tokens stay out .*; not 8"),
        (dict(stacks={-1: True}), "1 to 7 eighths"),
        (dict(stacks={-1: "a"}), "1 to 7 eighths of the tokens stay out of all layers; not 'a'"),
        (dict(stacks={-1: 4}, select=fv.TrueChange()), "looks at outputs, which tokens out of all"),
        (dict(previous={-1: "mlp"}), "sublayers are attn, cross, ffn; not 'mlp'"),
    ],
)
def test_a_wrong_plan_is_one_sentence(fields, message):
    with pytest.raises(ValueError, match=message):
        fv.Planned(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(rows={-1: "cond", 8: "skip"}), "two names of the plan's rows are the same"),
        (dict(previous={-1: "attn", 8: "ffn"}), "two names of the plan's previous are the same"),
        (dict(pruned={-1: {"attn": "444"}}, previous={-1: "attn"}, rows={-2: "skip"}), "8x8 takes"),
    ],
    ids=str,
)
def test_a_plan_that_does_not_fit_the_schedule_is_one_sentence(model, fields, message):
    with pytest.raises(ValueError, match=message):
        fv.Planned(**fields).acts(model.grids())


def test_codes_are_zero_where_a_plan_computes_no_token(model):
    plan = fv.Planned({-1: digits(model, "8")}, restore=fv.ZeroCode())
    skip = fv.Prune({-1: 1.0})
    runs = [fv.generate(model, prompt(model), m, seed=1).canvas for m in (plan, skip)]
    assert torch.equal(*runs)


LEFT = "0-7:0-3"  # half of the last map


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(pruned={-1: {"attn": "444"}}, select=fv.Painted(prune={-1: LEFT})), None),
        (dict(pruned={-1: {"attn": "044"}}, select=fv.Painted(prune={-1: LEFT})), None),
        (
            dict(pruned={-1: {"attn": "434"}}, select=fv.Painted(prune={-1: LEFT})),
            "32 tokens are painted to prune; the schedule prunes 24 of 64",
        ),
        (dict(pruned={-1: {"attn": "444"}}, select=fv.Painted(keep={-1: LEFT})), None),
        (
            dict(pruned={-1: {"attn": "145"}}, select=fv.Painted(keep={-1: LEFT})),
            "32 tokens are painted to keep; the schedule keeps 24 of 64",
        ),
        (
            dict(pruned={-1: {"attn": "148"}}, select=fv.Painted(keep={-1: LEFT})),
            "32 tokens are painted to keep; the schedule keeps 0 of 64",
        ),
        (dict(stacks={-1: 4}, select=fv.Painted(keep={-1: LEFT})), None),
        (
            dict(pruned={-2: {"attn": "444"}}, stacks={-1: 5}, select=fv.Painted(keep={-1: LEFT})),
            "32 tokens are painted to keep; the schedule keeps 24 of 64",
        ),
        (dict(pruned={-1: {"attn": "466"}}, restore=fv.Anchors()), None),
        (
            dict(pruned={-1: {"attn": "467"}}, restore=fv.Anchors()),
            "keeps 9 anchors; the ratio 0.875 keeps 8 of 64 tokens",
        ),
    ],
    ids=str,
)
def test_rules_are_checked_against_every_share_of_a_plan(model, fields, message):
    plan = fv.Planned(**fields)
    if message is None:
        assert fv.generate(model, prompt(model), plan).canvas.isfinite().all()
        return
    with pytest.raises(ValueError, match=message):
        plan.acts(model.grids())


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
    (tmp_path / "plans.json").write_text(json.dumps({"plans": []}))
    with pytest.raises(ValueError, match=r"it holds several schedules, which fv\.frontier reads"):
        read_method_file(tmp_path / "plans.json")
    with pytest.raises(ValueError, match=r"cannot read the method .*none\.json: No such file"):
        read_method_file(tmp_path / "none.json")


def test_a_plan_is_within_its_budget_and_not_worse_than_what_it_starts_from(planner):
    budget = planner.spent(fv.Dense()) / 1.5
    plan = planner.plan(1.5)
    assert plan.speedup >= 1.5
    assert plan.method.origin.endswith("2 prompts, cost in GFLOP")
    starts = planner.starts.best(budget, 4)
    assert starts
    assert all(planner.space.spent(start) <= budget * 1.0001 for start in starts)
    assert plan.psnr >= -10 * planner.space.errors(starts, "starts").mean(1).min() - 1e-6


def test_a_plan_is_not_worse_than_what_people_write(planner):
    written = planner.starts.written()
    assert {choice.tail.skipped for choice in written} == {0, 1, 2, 3}
    hand = by_hand(planner.calibration.grids, planner.model.depth)
    methods = {planner.space.method(choice) for choice in written}
    half = next(m for m in hand if m.by_step(planner.calibration.grids) and m.null_until is None
                and m.layers is None and set(dict(m.pairs).values()) == {0.5})  # fmt: skip
    steps = half.by_step(planner.calibration.grids)
    kinds = {kind: "4" * planner.model.depth for kind in planner.model.transformer.kinds}
    same = fv.Planned({step - len(planner.calibration.grids): kinds for step in steps})
    assert same in methods
    plan = planner.plan(2.0)
    near = planner._written(planner.spent(fv.Dense()) / 2, planner.space.prior)
    assert near
    assert plan.psnr >= -10 * planner.space.errors(near, "written").mean(1).min() - 1e-6


def test_a_quick_count_of_even_schedules_is_the_count(planner):
    for last in (Share("6", "6"), Share(stack="6")):
        shares = dict(zip(planner.starts.steps, (Share(), Share("4", "0"), last)))
        for tail in (Tail(), Tail(0, 2), Tail(0, 1, held=True)):
            choice = planner.starts.choice(shares, tail)
            assert planner.starts.cost(shares, tail) == pytest.approx(planner.space.spent(choice))


def test_a_choice_is_fitted_to_a_budget(planner):
    space, budget = planner.space, planner.spent(fv.Dense()) / 1.4
    worth = np.arange(len(space.places), dtype=float) + 1
    for level in (0, 4):
        fitted = space.fit(Choice((level,) * len(space.places)), worth, budget)
        assert 0.8 * budget < space.spent(fitted) <= budget
        assert fitted.levels[0] >= fitted.levels[-1]  # the least worth is pruned first


def test_a_step_is_pruned_in_its_sublayers_or_as_a_stack(planner):
    space = planner.space
    stacks = [place.kind == STACK for place in space.places]
    even = Choice(tuple(0 if stack else 2 for stack in stacks))
    plan = space.method(even)
    assert plan.pruned
    assert not plan.stacks
    switched = space.switched(even)
    assert len(switched) == sum(stacks)
    for other in switched:
        plan = space.method(other)
        assert len(plan.stacks) == 1
        assert len(plan.pruned) == sum(stacks) - 1
        assert space.spent(other) == pytest.approx(space.spent(even), rel=0.1)
        assert space.live(other).sum() < space.live(even).sum()
    everything = space.method(space.fastest())
    assert set(dict(everything.stacks).values()) <= {7}
    fitted = space.fit(switched[0], np.ones(len(stacks)), space.spent(switched[0]) / 1.3)
    assert space.method(fitted).stacks  # a fit does not change how a step is pruned


def test_stacks_are_not_charged_for_restoring(model):
    times = cost.Times(
        {kind: (0.0, 0.0, 0.0, 1.0) for kind in model.transformer.kinds},
        {grid.index: (0.0, 0.0) for grid in model.grids()},
    )
    stack = fv.Planned(stacks={-1: 4})
    prune = fv.Prune({-1: 0.5}, restore=fv.ZeroCode(), granularity="stack")
    sublayers = fv.Planned({-1: digits(model, "4")})
    assert [cost.total(times, model, m, model.grids()) for m in (stack, prune)] == [0.0, 0.0]
    calls = model.depth * len(model.transformer.kinds)
    restored = 2 * model.grids()[-1].tokens * calls
    assert cost.total(times, model, sublayers, model.grids()) == restored


def test_a_plan_keeps_the_quality_that_is_wanted(planner):
    wanted = planner.plan(1.5).psnr - 1
    plan = planner.plan_to(wanted)
    assert plan.psnr >= wanted
    assert plan.speedup >= 1.3


def test_a_quality_out_of_reach_is_refused_before_a_search(model, monkeypatch):
    """Fewer rows leave 40 dB, pruning 50 dB: the smallest change that keeps more is none."""
    prompts = fv.PromptList(("a cyan star", "a red ring"))
    planner = Planner(model, "operations", n=2, prompts=prompts, quick=True, progress=False)
    measured = list[fv.Planned]()

    def errors(self, method, first, branches):
        measured.append(method)
        return np.full(2, 1e-4 if method.rows else 1e-5)

    monkeypatch.setattr(Calibration, "_measured", errors)
    monkeypatch.setattr(Planner, "plan", lambda *_: Plan(fv.Planned(), 2.0, 49.0))
    space, full = planner.space, planner.spent(fv.Dense())
    changes = [planner.spent(space.method(choice)) for choice in space.changes(planner.rules[0])]
    gentle = planner.plan_to(49.5)
    assert gentle.speedup == full / max(spent for spent in changes if spent < full)
    assert (gentle.method, gentle.psnr) == (measured[0], pytest.approx(50))
    assert len(measured) == 1
    assert planner.plan_to(48).speedup == 2
    with pytest.raises(ValueError, match=r"keeps 50.5 dB; the best keeps 50.0 dB, 1[.\d]* times"):
        planner.plan_to(50.5)
    assert len(measured) <= len(changes)


def test_counted_and_planned_costs_agree(planner, model):
    plan = fv.Planned({-1: digits(model, "4")}, rows={-1: "cond"})
    counted = cost.flops.total(
        cost.flops.step_flops(model, plan, model.grids(), planner.calibration.text_tokens)
    )
    assert planner.spent(plan) == pytest.approx(counted / 1e9)


def test_a_budget_out_of_reach_names_the_fastest(planner):
    with pytest.raises(ValueError, match=r"no schedule is 1e\+03 times as fast .*; the fastest is"):
        planner.plan(1000)


def test_known_effects_are_not_measured_again(model, tmp_path, monkeypatch):
    items = calibration_items(model, 2, fv.PromptList(("a cyan star", "a red ring")))
    methods = [fv.Planned({-1: digits(model, "4")}), fv.Planned(rows={-1: "cond"})]
    first = Calibration(model, items, store=Store(tmp_path), progress=False).errors(methods)
    monkeypatch.setattr(Calibration, "_measured", None)
    again = Calibration(model, items, store=Store(tmp_path), progress=False).errors(methods)
    assert np.array_equal(first, again)
    assert first.shape == (2, 2)


def test_a_budget_is_one_of_four(model):
    for budgets in ({}, {"speedup": 2, "psnr": 30}):
        with pytest.raises(ValueError, match="give one budget of speedup, psnr, milliseconds"):
            fv.plan(model, **budgets)
    with pytest.raises(ValueError, match="milliseconds counts time; leave cost='operations' out"):
        fv.plan(model, milliseconds=5, cost="operations")
    with pytest.raises(ValueError, match="cost must be one of time, operations, bytes"):
        fv.plan(model, 2, cost="watts")
    with pytest.raises(ValueError, match="1 or more pictures; not 0"):
        fv.plan(model, 2, n=0)
    with pytest.raises(ValueError, match="above 0, and finite; not -1"):
        fv.plan(model, cache_bytes=-1)
    with pytest.raises(ValueError, match=r"a PSNR in dB above 0 and below 100, .*; not -3"):
        fv.plan(model, psnr=-3)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (dict(speedup=float("inf")), "a speedup is 1 or more, and finite; not inf"),
        (dict(speedup="2"), "a speedup is 1 or more, and finite; not 2"),
        (dict(speedup=True), "a speedup is 1 or more, and finite; not True"),
        (dict(psnr=float("nan")), "a PSNR in dB above 0 and below 100, .*; not nan"),
        (dict(psnr=100), "a PSNR in dB above 0 and below 100, .*; not 100"),
        (dict(milliseconds=float("nan")), "a budget is a number above 0, and finite; not nan"),
        (dict(cache_bytes="1"), "a budget is a number above 0, and finite; not 1"),
        (dict(speedup=2, n=2.5), "the number of pictures must be a whole number; not 2.5"),
    ],
)
def test_a_wrong_budget_is_refused_before_anything_is_measured(model, monkeypatch, budget, message):
    monkeypatch.setattr(cost, "measure", None)
    monkeypatch.setattr(Calibration, "_measured", None)
    with pytest.raises(ValueError, match=message):
        fv.plan(model, **budget)


def test_a_budget_out_of_reach_says_what_there_is(planner, model):
    prompts = fv.PromptList(("a cyan star",))
    with pytest.raises(
        ValueError, match=r"times as small \(10 of .*; the smallest is [\d.]+ times"
    ):
        fv.plan(model, cache_bytes=10, n=1, prompts=prompts, quick=True, progress=False)


def test_a_budget_of_bytes_counts_keys_that_later_steps_read(model):
    prompts = fv.PromptList(("a cyan star",))
    planner = Planner(model, "bytes", n=1, prompts=prompts, quick=True, progress=False)
    full = planner.spent(fv.Dense())
    width, size = model.transformer.config.width, model.dtype.itemsize
    tokens = sum(grid.tokens for grid in model.grids()[:-1])
    assert full == 2 * model.depth * tokens * 2 * width * size
    tokens = sum(grid.tokens for grid in model.grids()[:-2])
    skipping = planner.spent(fv.Planned(rows={-1: "skip"}))
    assert skipping == 2 * model.depth * tokens * 2 * width * size
    assert planner.starts.cost({}, Tail(skipped=1)) == skipping
    plan = planner.plan_within(full / 1.3)
    assert planner.spent(plan.method) <= full / 1.3
    assert planner.plan_within(2 * full).method == fv.Planned()


def test_a_picture_of_a_plan_shows_what_is_computed(model):
    plan = fv.Planned({-1: {"attn": "48" + "0" * (model.depth - 2)}}, rows={-1: "held"})
    frame = plan_frame(model, plan)
    last = frame[(frame.step == len(model.grids()) - 1) & (frame["kind"] == "attn")]
    assert list(last.computed)[:2] == [0.5, 0.0]
    assert set(last.rows) == {"held"}
    titles = [axes.get_title() for axes in fv.plan_figure(model, plan).axes]
    assert titles == ["attention, % run", "cross-attention, % run", "feed-forward, % run"]


SHIPPED = {
    "time": (1.25, 1.5, 2, 2.5, 3, 4, 5, 6),
    "operations": (1.25, 1.5, 2, 3, 4, 5, 6),
}


def test_planned_schedules_ship_for_the_embedded_model():
    model = fv.load("tiny")
    full = cost.flops.total(cost.flops.step_flops(model, fv.Dense(), model.grids()))
    for guidance in (2, 4):
        for counted, speedups in SHIPPED.items():
            for speedup in speedups:
                plan = fv.planned(model, speedup, guidance, cost=counted)
                spent = cost.flops.total(cost.flops.step_flops(model, plan, model.grids()))
                assert full / spent >= 0.999 * speedup  # time falls less than operations
                if counted == "operations" and plan.pruned:  # rows are dropped whole
                    assert full / spent < 1.06 * speedup
                assert f"guidance {guidance}" in plan.origin
                assert ("ms" if counted == "time" else "GFLOP") in plan.origin
                assert read_method(repr(plan)) == plan
    assert fv.planned(model) == fv.planned(model, 2, 2, cost="time")
    with pytest.raises(ValueError, match="ship for the costs time, operations; not 'bytes'"):
        fv.planned(model, cost="bytes")
    for arguments, message in (
        ((7,), "ship for the speedups 1.25, 1.5, 2, 2.5, 3, 4, 5, 6; not 7"),
        ((2, 3.0), "planned at guidance 2, 4; not 3"),
        ((2, 2, model.sizes_to(48, 48)), "planned for maps to 32x32; not to 48x48"),
    ):
        with pytest.raises(ValueError, match=message):
            fv.planned(model, *arguments)
    for wrong in ("2", None, [2], True, 0):
        with pytest.raises(ValueError, match=r"a speedup is 1 or more, and finite; not"):
            fv.planned(model, wrong)
    for wrong in ("2", [2], (2, 4), True, -1, float("nan")):
        for call in (partial(fv.planned, model, 2), partial(fv.frontier, model)):
            with pytest.raises(ValueError, match="a guidance scale is 0 or more, and finite; not"):
                call(wrong)
    with pytest.raises(ValueError, match="no schedule was planned for the weights"):
        fv.planned(small_model("infinity"))


def test_guidance_scales_exchange_their_plans(model, planner):
    scales = [replace(model.sampling, guidance=scale) for scale in (1, 2, 4)]
    planners = [replace(planner, n=1, sampling=sampling) for sampling in scales]
    good, bad = (fv.Planned(rows={step: "skip" for step in range(-n, 0)}) for n in (1, 2))
    origins = [f"guidance {scale.guidance}" for scale in scales]
    plans = [
        {2.0: Plan(replace(method, origin=origin), 2.1, 7.0)}
        for method, origin in zip((bad, bad, good), origins, strict=True)
    ]
    unguided, taken, kept = exchanged(planners, plans)
    assert unguided == plans[0]  # its schedules cost something else
    assert kept == plans[2]
    assert taken[2.0].method == replace(good, origin=origins[1])
    errors = planners[1].calibration.errors([good])
    assert taken[2.0].psnr == pytest.approx(-10 * np.log10(errors).mean())


def test_a_file_of_several_plans_is_a_frontier(tmp_path):
    model, file = fv.load("tiny"), tmp_path / "plans.json"
    shipped = read_json((files("fastvar_lab.planning") / "tiny_plans.json").read_bytes())["plans"]
    write_json(file, {"plans": shipped})
    for how in ({}, {"guidance": 4}, {"guidance": 4, "cost": "operations"}):
        assert fv.frontier(model, **how, file=file) == fv.frontier(model, **how)
    with pytest.raises(ValueError, match=r"for time for the weights of tiny, \w+, and maps to 8x8"):
        fv.frontier(small_model("infinity"), file=file)
    write_json(file, {"plans": [{**plan, "cost": "bytes"} for plan in shipped]})
    assert {point.speedup for point in fv.frontier(model, cost="bytes", file=file)} == {
        plan["speedup"] for plan in shipped
    }
    for changed, message in (
        ({"guidance": "2"}, "a guidance scale is 0 or more, and finite; not 2"),
        ({"guidance": None}, "a guidance scale is 0 or more, and finite; not None"),
        ({"psnr": "40"}, "a PSNR is a number; not 40"),
        ({"speedup": 0}, "a speedup is 1 or more, and finite; not 0"),
        ({"method": 3}, "each has sizes, and as text weights"),
        ({"weights": []}, "each has sizes, and as text weights"),
    ):
        write_json(file, {"plans": [*shipped, {**shipped[0], **changed}]})
        with pytest.raises(ValueError, match=f"cannot read schedules from .*: {message}"):
            fv.frontier(model, file=file)
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(ValueError, match=f"cannot read schedules from {path}: "):
            fv.frontier(model, file=path)
    save_method(fv.planned(model), file)
    for content in (file.read_text(), '{"plans": [1]}', '{"plans": [{}]}', "[]"):
        file.write_text(content)
        with pytest.raises(ValueError, match=r"cannot read schedules from .*plans\.json"):
            fv.frontier(model, file=file)


def test_weights_are_checked_once_to_find_a_schedule(monkeypatch):
    model, read = fv.load("tiny"), list[str]()
    weights = model.fingerprint
    monkeypatch.setattr(fv.Model, "fingerprint", property(lambda _: read.append("") or weights))
    for find in (fv.planned, fv.frontier):
        read.clear()
        assert find(model)
        assert len(read) == 1


def test_planned_schedules_have_names_for_commands():
    parser = argparse.ArgumentParser()
    options.add_method(parser, "no pruning")
    parser.set_defaults(model="tiny", guidance=None)
    assert options.method(parser.parse_args(["--method", "planned-2x"])) == fv.planned(
        fv.load("tiny"), 2, 2
    )
    generates = argparse.ArgumentParser()
    cmd_generate.add_arguments(generates)
    for scale, planned_at in (("2", 2), ("4", 4), ("0," * 9 + "4", 4)):
        line = ["a red ring", "--method", "planned-2x", "--guidance", scale]
        arguments = generates.parse_args(line)
        assert options.method(arguments) == fv.planned(fv.load("tiny"), 2, planned_at)
    with pytest.raises(ValueError, match="--guidance takes numbers such as 3 or 1,2,3; not 'x'"):
        options.method(generates.parse_args([*line[:-1], "x"]))
    counted = argparse.Namespace(memory="tiny", method="planned-2x", ratios=None)
    assert options.method(counted) == fv.planned(fv.load("tiny"), 2, 2)
    for arguments, message in (
        (["--method", "planned-9x"], "schedules of tiny are planned-1.25x, .*; not planned-9x"),
        (["--method", "planned-2x", "--guidance", "3"], "planned at guidance 2, 4; not 3"),
        (["--method", "planned-2x", "--model", "var-d16"], "ship for tiny; not for var-d16"),
    ):
        parser = argparse.ArgumentParser()
        options.add_method(parser, "no pruning")
        parser.add_argument("--model", default="tiny")
        parser.add_argument("--guidance", type=float)
        with pytest.raises(ValueError, match=message):
            options.method(parser.parse_args(arguments))


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
    assert "a speedup is 1 or more, and finite; not 0.5" in capsys.readouterr().err
    assert main(["plan", "--speedup", "2", "--out", str(tmp_path)]) == 2
    assert "--out names the file of the schedule" in capsys.readouterr().err
    for figure in ("x.docx", "."):
        assert main(["plan", "--speedup", "2", "--out", str(out), "--figure", figure]) == 2
        message = f"--figure names a png, pdf or svg file; not {figure}"
        assert message in capsys.readouterr().err
    for psnr in ("nan", "0", "100"):
        assert main(["plan", "--psnr", psnr, "--out", str(out)]) == 2
        assert "--psnr is a PSNR in dB above 0 and below 100, " in capsys.readouterr().err
    for option in ("--ms", "--cache-mb"):
        assert main(["plan", option, "nan", "--out", str(out)]) == 2
        assert f"{option} is a number above 0, and finite; not nan" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        (["--speedup", "2", "1000", "--guidance", "2", "4"], "no schedule is 1e+03 times as fast"),
        (["--psnr", "99.9"], "no schedule keeps 99.9 dB; the best keeps"),
    ],
)
def test_the_command_refuses_what_is_out_of_reach_before_it_searches(
    tmp_path, monkeypatch, capsys, model, budgets, message
):
    monkeypatch.setattr(options, "open_model", lambda args: model)
    monkeypatch.setattr(Search, "best", None)
    monkeypatch.setattr(Calibration, "_measured", lambda *_: np.array([1e-3]))
    out, prompts = tmp_path / "plans.json", tmp_path / "prompts.txt"
    prompts.write_text("a cyan star\n")
    more = ["--cost", "operations", "--n", "1", "--quick", "--out", str(out)]
    more += ["--prompts", str(prompts), "--store", str(tmp_path / "store")]
    assert main(["plan", *budgets, *more]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_measured_times_are_those_of_the_measured_speedup(planner, monkeypatch, capsys):
    full, fast = [300.0, 900.0, 800.0, 320.0, 310.0], [200.0, 300.0, 400.0, 160.0, 155.0]
    monkeypatch.setattr(predictions, "measured", lambda *_: (full, fast))
    cmd_plan._say(planner, Plan(fv.Planned(), 2.0, 40.0))
    ms = r"measured: speedup 2\.00 .*, (\d+) ms instead of (\d+)"
    quick, slow = map(float, re.search(ms, capsys.readouterr().out).groups())
    assert slow / quick == 2


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


def test_a_plan_for_other_weights_sizes_or_guidance_is_named(model, capsys):
    plan = fv.Planned({-1: digits(model, "4")})
    options.say_where_planned(plan, model)  # by hand
    options.say_where_planned(fv.Dense(), model)
    place = planned_on(model, model.grids(), model.sampling)
    plan = replace(plan, origin=f"{place}, 2 prompts, cost in ms")
    options.say_where_planned(plan, model)
    for scale in (4, 4.0):  # the same guidance
        sampling = replace(model.sampling, guidance=scale)
        assert planned_on(model, model.grids(), sampling).endswith("guidance 4.0")
    assert capsys.readouterr().err == ""
    other = replace(plan, origin=plan.origin.replace(model.fingerprint, "0" * 16))
    for arguments in (
        (plan, model, model.sizes[:-1]),
        (plan, model, None, replace(model.sampling, guidance=7.0)),
        (other, model),
    ):
        options.say_where_planned(*arguments)
        text = capsys.readouterr().err
        assert text.startswith("fastvar-lab: the schedule was planned on tiny ")
        assert text.count("\n") == 1


@pytest.mark.parametrize(
    "prompts",
    [
        fv.PromptList(["a red ring"]),
        fv.PromptList([f"prompt {i}" for i in range(101)]),
        fv.ClassNumbers(10),
        fv.ClosedWorld(),
    ],
)
def test_no_calibration_picture_is_a_judged_one(model, prompts):
    judged = {item.seed for item in prompts.take(512)}
    for items in (
        calibration_items(replace(model, prompts=prompts), 64),
        calibration_items(model, 64, prompts),
    ):
        assert not {item.seed for item in items} & judged


@pytest.mark.parametrize("steps", [1, 2])
def test_schedules_of_one_or_two_steps(model, steps):
    sizes = [(1, 1), (8, 8)][-steps:]
    shown = model.grids(sizes)
    assert by_hand(shown, model.depth) == []
    full = fv.generate(model, prompt(model), fv.Dense(), seed=1, sizes=sizes, snapshot=True)
    again = Branches(model, full).run(fv.Dense())
    assert torch.equal(again.canvas, full.canvas)
    cache = model.transformer.new_cache(shown, 2, fv.Runner())
    cache.expect([read_later([Rows.BOTH] * steps)] * model.depth)
    assert cache.planned >= 2 * 2 * model.transformer.config.width * 4 * shown[-1].tokens
    if steps == 2:
        for plan in cost.random_schedules(model, shown, 4, 0):
            assert fv.generate(model, prompt(model), plan, sizes=sizes).canvas.isfinite().all()
