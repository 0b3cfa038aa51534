"""Planned schedules judged: the grid by hand, fronts and gains, shared steps, predicted times."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import fastvar_lab as fv
from fastvar_lab.branching import Branches, branching
from fastvar_lab.cli.main import main
from fastvar_lab.experiments import verdicts
from fastvar_lab.experiments.base import Cell, Experiment, Question, Scope
from fastvar_lab.experiments.questions import (
    budget,
    budget_transfer,
    choice_by_picture,
    sublayer_sensitivity,
)
from fastvar_lab.experiments.resumed import resumed
from fastvar_lab.experiments.run import run
from fastvar_lab.measure.choice import best_choice, predicted
from fastvar_lab.measure.frontier import KEPT, WHOLE, envelope, gain, gains, reached
from fastvar_lab.measure.quality import psnr
from fastvar_lab.planning import predictions
from fastvar_lab.planning.by_hand import by_hand
from fastvar_lab.plotting import charts
from fastvar_lab.store import Store
from tests.families import small_model

PROMPTS = fv.PromptList(("a cyan star", "a red ring"))
LOOK = Scope("look", 2, 1)


@pytest.fixture(scope="module")
def model():
    return small_model("infinity")


def planned(model):
    """Two schedules of the shape that planned ones have."""
    half, most = ({kind: digit * model.depth for kind in model.transformer.kinds} for digit in "46")
    plans = fv.Planned({-1: half}, rows={-1: "cond"}), fv.Planned({-2: half, -1: most})
    return {f"planned {i + 2}x": plan for i, plan in enumerate(plans)}


def test_the_grid_by_hand_is_whole_and_holds_nothing_twice():
    model = fv.load("tiny")
    grid = by_hand(model.grids(), model.depth)
    assert len({tuple(map(repr, method.acts(model.grids()))) for method in grid}) == len(grid)
    assert len(by_hand(model.grids(), model.depth, guided=False)) == 65
    for method in (
        fv.Prune({-3: 0.25, -2: 0.5, -1: 0.75}, layers=(2, 8), null_until=-4),
        fv.Prune({-2: 0.75, -1: 1.0}),
        fv.Prune({-2: 0.75, -1: 1.0}, null_until=-3),
        fv.Prune({}, null_until=-2),
    ):
        assert method in grid
    for method in grid:
        ratios = [method.by_step(model.grids()).get(step, 0) for step in (7, 8, 9)]
        assert ratios == sorted(ratios)


def test_branches_compute_the_same_as_each_method_alone(model):
    full = fv.generate(model, ["a cyan star", "a red ring"], fv.Dense(), seed=3, snapshot=True)
    methods = [*by_hand(model.grids(), model.depth)[::9], *planned(model).values()]
    watching = {"select": fv.AttentionEntropy(), "rows": {-1: "cond"}}
    for digit in "46":  # both look at the same step, and differ in the last one alone
        shares = {-2: {"ffn": "4" * model.depth}, -1: {"ffn": digit * model.depth}}
        methods.append(fv.Planned(shares, **watching))
    for room in (2**30, 0):
        branches, first = Branches(model, full, room), []
        for method in branching(methods, model.grids()):
            shared, alone = branches.run(method), fv.resume(model, full, method)
            assert torch.equal(shared.canvas, alone.canvas), method
            first.append(shared.first_step - alone.first_step)
        assert min(first) == 0
        assert (max(first) > 0) == (room > 0)  # some steps were shared
    with pytest.raises(ValueError, match="kept no snapshot"):
        Branches(model, fv.generate(model, "a cyan star", fv.Dense(), seed=3))


def test_what_is_reached_at_a_speed_is_interpolated_in_time():
    values = pd.DataFrame({"slow": [40.0, 41.0], "fast": [30.0, 35.0], "worse": [29.0, 28.0]})
    speedups = pd.Series({"slow": 1.5, "fast": 3.0, "worse": 2.0})
    assert reached(values, speedups, 3.0).tolist() == [30, 35]
    assert reached(values, speedups, 2.0).tolist() == [35, 38]  # half of the pictures by each
    assert reached(values, speedups, 1.2).tolist() == [40, 41]  # the slowest is fast enough
    assert reached(values, speedups, 3.1) is None
    missing = gain(values, speedups, [["slow"]], [["fast"]], 2.0)
    assert missing["n"] == 0
    assert np.isnan(missing["difference"])


def test_an_envelope_of_more_schedules_is_never_lower():
    values = pd.DataFrame({"slow": [40.0], "fast": [30.0], "dropping": [31.0]})
    speedups = pd.Series({"slow": 2.0, "fast": 4.0, "dropping": 3.5})
    apart = [["slow", "fast"], ["dropping"]]
    alone = envelope(values, speedups, apart[:1], 3.0)
    assert envelope(values, speedups, apart, 3.0).tolist() == alone.tolist()
    assert reached(values, speedups, 3.0).item() < alone.item()
    frame = compared()
    frame.loc[frame.method.str.startswith("row "), "psnr"] -= 3.5  # now a little worse than others
    table = gains(frame).set_index(["envelope", "at"]).difference
    assert (table[WHOLE] <= table[KEPT] + 1e-9).all()


def compared(gap=3.0, n=12):
    """A frame of two planned schedules that are `gap` dB above all those by hand."""
    rng, rows = np.random.default_rng(0), []
    methods = [
        *(("planned", f"planned {s:g}x", s, 1, gap) for s in (1.4, 2.0, 4.4)),
        *(("FastVAR", f"rows {s:g}", s, 2, -2.0) for s in (1.2, 1.6, 2.5, 5.0)),
        *(("FastVAR", f"row {s:g}", s, 1, 0.0) for s in (1.3, 1.7, 2.6, 5.1)),
        ("full", "full", 1.0, 2, 60.0),
    ]
    noise = rng.normal(size=n)
    for family, label, speedup, live, above in methods:
        base = {"method": label, "family": family, "rows_32x32": live, "rows_24x24": 2}
        for i, e in enumerate(noise):
            psnr = 20 + 20 / speedup + above + e
            rows.append({**base, "kind": "quality", "picture": i, "psnr": psnr, "right": i % 2})
        rows.append({**base, "kind": "grid", "picture": 0, "psnr": 0.0})
        speeds = {"speedup": speedup, "speedup_low": speedup, "speedup_high": speedup}
        rows.append({**base, **speeds, "kind": "time", "speedup_flop_bound": speedup})
    return pd.DataFrame(rows).assign(disturbed=False)


def test_gains_are_over_each_envelope_at_equal_speed():
    table = gains(compared()).set_index(["envelope", "at"])
    assert table.difference[WHOLE].round(6).eq(3).all()  # all lie on lines in time
    assert table.difference[KEPT].round(6).eq(5).all()
    assert table.n.eq(12).all()
    assert table.low[WHOLE].gt(2.9).all()


def test_bars_are_judged_at_all_guidance_scales():
    frame = pd.concat([compared(gap).assign(guidance=g) for g, gap in ((2.0, 3.0), (4.0, 1.5))])
    assert budget.beats(WHOLE, (1.5, 2.0), 1.0, frame).verdict == verdicts.HOLDS
    assert budget.beats(WHOLE, (1.5, 2.0), 2.0, frame).verdict == verdicts.FAILS
    assert "guidance 4, 2x: +1.50 dB" in budget.beats(WHOLE, (2.0,), 2.0, frame).text
    assert budget.keeps_scores(frame).verdict == verdicts.HOLDS
    few = frame[(frame.kind != "quality") | (frame.picture < 4)]
    assert budget.beats(WHOLE, (1.5, 2.0), 1.0, few).verdict == verdicts.OPEN
    with pytest.raises(ValueError, match="fast enough at guidance 2, 8x"):
        budget.beats(WHOLE, (8.0,), 1.0, frame)


def test_a_chart_draws_sums_as_it_draws_the_frame(tmp_path):
    frame = pd.concat([compared().assign(guidance=g) for g in (2.0, 4.0)], ignore_index=True)
    points = charts.budget_points(frame)
    points.to_csv(tmp_path / "points.csv", index=False)
    again = pd.read_csv(tmp_path / "points.csv")
    assert charts.budget_points(again) is again
    assert set(points.what) == {"method", "envelope", "gain"}
    assert set(points[points.what == "method"].group) == {"planned", "by hand"}
    assert charts.budget(again).axes[0].get_ylabel() == charts.budget(frame).axes[0].get_ylabel()


def test_methods_that_follow_from_cells_are_compared(model, tmp_path):
    seen = []

    def then(question, frame):
        seen.append(frame)
        best = frame.groupby("method").psnr.mean().idxmax()
        return {best: question.methods[best]}

    def cells(question):
        items = question.prompts.take(question.scope.prompts)
        return [[Cell({"kind": "grid"}, m, label, items) for label, m in question.methods.items()]]

    ways = {"little": fv.Prune({-1: 0.25}), "much": fv.Prune({-2: 0.75, -1: 0.75})}
    record = Experiment(
        "?", "ours", charts.rivals, lambda _: ways, cells, resumed, then=then, name="followed"
    )  # fmt: skip
    options = {"model": model, "prompts": PROMPTS, "store": Store(tmp_path), "progress": False}
    untimed = run(record, LOOK, guidance=(2, 4), timed=False, **options)
    frame = run(record, LOOK, guidance=(2, 4), **options)
    assert len(frame) == len(untimed) + 4  # times of two at two scales
    assert set(frame[frame.kind == "quality"].method) == {"full", "little"}
    assert set(frame[frame.kind == "time"].method) == {"full", "little"}
    assert set(frame[frame.kind == "grid"].method) == {"little", "much"}
    assert all(set(part.guidance) in ({2.0}, {4.0}) for part in seen)
    with pytest.raises(ValueError, match="need cells to follow from"):
        Experiment("?", "ours", charts.rivals, then=then)


def test_cells_go_on_that_a_look_at_the_first_prompts_left(model, tmp_path):
    seen = []

    def cells(question):
        return [
            [Cell({}, m, label, (item,), i) for label, m in question.methods.items()]
            for i, item in enumerate(question.prompts.take(question.scope.prompts))
        ]

    def narrow(question, frame):
        seen.append(frame)
        best = frame.groupby("method").psnr.mean().idxmax()
        return lambda cell: cell.label == best

    ways = {"little": fv.Prune({-1: 0.25}), "much": fv.Prune({-2: 0.75, -1: 0.75})}
    how = {"narrow": narrow, "looked": 1, "name": "narrowed"}
    record = Experiment("?", "ours", charts.rivals, lambda _: ways, cells, resumed, **how)
    options = {"model": model, "prompts": PROMPTS, "store": Store(tmp_path), "progress": False}
    frame = run(record, LOOK, guidance=(2, 4), **options)
    for look in seen:
        assert sorted(zip(look.method, look.picture)) == [("little", 0), ("much", 0)]
    kept = [(scale, "little", picture) for scale in (2.0, 4.0) for picture in (0, 1)]
    assert list(zip(frame.guidance, frame.method, frame.picture)) == kept
    with pytest.raises(ValueError, match="how many prompts to look at"):
        Experiment("?", "ours", charts.rivals, cells=cells, work=resumed, narrow=narrow)


def test_transfer_keeps_what_is_near_an_envelope_where_it_is():
    cells = [
        Cell({"setting": setting}, label=label)
        for setting in ("here", "there")
        for label in ("planned", "good", "bad")
    ]
    quality = {"planned": 50.0, "good": 40.0, "bad": 39.0}
    rows = [
        {"setting": c.columns["setting"], "method": c.label, "family": "FastVAR", "rows_8x8": 2,
         "picture": 0, "speedup_flop_bound": 2.0,
         "psnr": quality[c.label] + (2 if c == cells[-1] else 0)}
        for c in cells if c.label != "planned"
    ]  # fmt: skip
    question = Question(None, LOOK, PROMPTS, {"planned": fv.Dense()}, PROMPTS.take(1)[0])
    wanted = budget_transfer.narrow(question, pd.DataFrame(rows))
    kept = [(c.columns["setting"], c.label) for c in cells if wanted(c)]
    assert kept == [("here", "planned"), ("here", "good"), ("there", "planned"), ("there", "bad")]


def test_resumed_pictures_are_those_of_each_method_alone(model):
    items = PROMPTS.take(2)
    methods = [fv.Prune({-2: 0.5, -1: 0.75}), *planned(model).values()]
    cells = [Cell({"kind": "grid"}, method, repr(method), items) for method in methods]
    for cell, rows in resumed(model, cells):
        full, fast = (
            fv.to_uint8(model.decode(fv.generate(
                model, cell.prompts, method, seed=cell.seeds).canvas))
            for method in (fv.Dense(), cell.method)
        )  # fmt: skip
        assert [row["psnr"] for row in rows] == [
            psnr(one, other) for one, other in zip(fast, full, strict=True)
        ]
        both = fv.costs(model, {"full": fv.Dense(), "fast": cell.method})
        flop = both.groupby("method").gflop.sum()
        assert rows[0]["speedup_flop_bound"] == pytest.approx(flop["full"] / flop["fast"], rel=0.05)


def test_what_is_near_an_envelope_is_compared(model):
    ways = budget.hand_methods(model)
    question = Question(model, LOOK, PROMPTS, planned(model), PROMPTS.take(1)[0])
    bounds, qualities = (1.2, 1.5, 2.0, 2.5, 3.0, 9.0), (50, 44, 40, 33, 35.8, 20)
    rows = [
        {"kind": "grid", "method": label, "family": "FastVAR", "picture": 0, "psnr": quality,
         "speedup_flop_bound": bound, "rows_8x8": 2}
        for label, bound, quality in zip(ways, bounds, qualities)
    ]  # fmt: skip
    chosen = budget.near_envelope(question, pd.DataFrame(rows))
    labels = [row["method"] for row in rows]
    # 33 dB at 2.5 is below the envelope between 2 and 3; 1.2 and 9 are beyond what is judged
    assert list(chosen) == [*planned(model), labels[1], labels[2], labels[4]]


def test_the_experiments_run_and_draw(model, tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "by_hand", lambda *how: by_hand(*how)[::12])
    options = {"model": model, "prompts": PROMPTS, "store": Store(tmp_path), "progress": False}
    frame = run("budget", LOOK, methods=planned, guidance=2, **options)
    assert set(frame.kind) == {"grid", "quality", "time"}
    assert charts.budget(frame).axes
    frame = run("budget_transfer", LOOK, methods=planned, guidance=2, **options)
    assert "textures and dots" not in set(frame.setting)  # its prompts are no closed world
    points = charts.transfer_points(frame)
    assert charts.transfer_points(points) is points
    assert set(points.envelope) == {KEPT, WHOLE}
    assert charts.transfer(frame).axes
    frame = run("small_maps", LOOK, methods=planned, guidance=2, **options)
    points = charts.small_maps_points(frame)
    assert charts.small_maps_points(points) is points
    assert set(points["at"]) == {1.25, 1.5, 2.0, 3.0}
    assert charts.small_maps(frame).axes
    frame = run("sublayer_sensitivity", LOOK, **options)
    points = charts.sublayer_points(frame)
    assert charts.sublayer_points(points) is points
    single = points[points.saved > 0.01].iloc[0]
    assert single.psnr_percent > single.psnr
    assert charts.sublayer_sensitivity(frame).axes[0].get_ylabel() == "scale step"
    assert sublayer_sensitivity.EXPERIMENT.cells is not None


def test_a_model_without_plans_is_one_sentence(model):
    for name in ("budget", "budget_transfer", "choice_by_picture", "small_maps"):
        with pytest.raises(ValueError, match="no schedules were planned for"):
            run(name, LOOK, model=model, prompts=PROMPTS)


def test_transfer_is_judged_on_textures_and_a_larger_map():
    tiny = fv.load("tiny")
    question = Question(tiny, Scope("look", 4, 1), tiny.prompts, {}, tiny.prompts.take(1)[0])
    held, larger, textures = budget_transfer.settings(question)
    assert larger.sizes[-1] == (48, 48)
    assert held.items == larger.items
    assert len(textures.items) == 4
    assert all("solid" not in item.prompt for item in textures.items)
    assert not {item.seed for item in textures.items} & {item.seed for item in held.items}


def judged(known, psnr):
    """A frame of `choice_by_picture` with three schedules, from features and qualities."""
    speeds = {"mild": 1.5, "middle": 2.0, "fast": 3.0}
    rows = [
        {"kind": "quality", "family": "planned", "picture": i, "method": method, "psnr": value}
        for i, row in enumerate(psnr)
        for method, value in zip(speeds, row, strict=True)
    ]  # fmt: skip
    features = [
        {"kind": "features", "picture": i, "update": x, "fine": 0.0, "uneven": 1.0}
        for i, x in enumerate(known)
    ]
    counts = [
        {"kind": "operations", "method": method, "operations": 1 / speed}
        for method, speed in speeds.items()
    ]
    return pd.DataFrame(features + rows + counts)


def test_a_choice_by_picture_gains_what_its_features_tell():
    x = np.tile([0.0, 1.0], 10)
    # where x is 1 the mild schedule gains 8 dB over the middle one, where it is 0 all are near
    psnr = np.column_stack((40 + 8 * x, 40 + 0 * x, 39.5 - 6 * x))
    rows = charts.choice_points(judged(x, psnr))
    gains = rows[rows.what == "gain"].set_index("rule")
    assert gains.difference["by what is known"] == pytest.approx(gains.difference["by the truth"])
    # halves, at 1.5 and 3: on average as many operations as 2 for all
    assert gains.difference["by the truth"] == pytest.approx((8 - 0.5) / 2)
    assert gains.operations.to_numpy() == pytest.approx(0.5)
    assert gains.difference["mildest and fastest, by lot"] == pytest.approx((4 - 3.5) / 2)
    assert choice_by_picture.beats_one_for_all(judged(x, psnr)).verdict == verdicts.HOLDS
    noise = np.random.default_rng(0).standard_normal((40, 3))
    psnr = noise + np.array([44, 40, 36])
    answer = choice_by_picture.beats_one_for_all(judged(noise[::-1, 0], psnr))
    assert answer.verdict != verdicts.HOLDS
    assert charts.choice(judged(x, psnr[:20])).axes


def test_the_best_choice_meets_its_budget_and_is_the_best():
    rng = np.random.default_rng(1)
    values, costs = rng.standard_normal((6, 3)), np.array([3.0, 2.0, 1.0])
    every = np.stack(np.meshgrid(*[range(3)] * 6), -1).reshape(-1, 6)
    allowed = every[costs[every].mean(1) <= 2]
    best = max(values[np.arange(6), picks].sum() for picks in allowed)
    picks = best_choice(values, costs, 2.0)
    assert costs[picks].mean() <= 2 + 1e-9
    assert values[np.arange(6), picks].sum() == pytest.approx(best)
    with pytest.raises(ValueError, match="cheapest choice costs 1, more than"):
        best_choice(values, costs, 0.5)


def test_a_prediction_does_not_see_its_own_picture():
    features, values = np.random.default_rng(2).standard_normal((2, 8, 2))
    before, changed = predicted(features, values), values.copy()
    changed[3] += 100
    after = predicted(features, changed)
    assert after[3] == pytest.approx(before[3])
    assert np.abs(after - before).max() > 1
    assert predicted(features[:1], values[:1]).tolist() == [[0, 0]]


def test_what_is_known_is_that_of_the_last_whole_step(model):
    methods = planned(model)  # they prune the last two steps
    question = Question(model, LOOK, PROMPTS, methods, PROMPTS.take(1)[0])
    ((cell,),) = choice_by_picture.cells(question)
    assert cell.columns["step"] == len(model.sizes) - 3
    rows = choice_by_picture.features(model, cell)
    assert [row["picture"] for row in rows] == [0, 1]
    _, trace = fv.observe(model, cell.prompts, fv.Dense(), seed=cell.seeds)
    step = cell.columns["step"]
    a, b = trace.canvases[step - 1][1], trace.canvases[step][1]
    assert rows[1]["update"] == pytest.approx(float((b - a).norm() / b.norm()))
    scores = [s[1] for (at, _), s in trace.scores.items() if at == step]
    uneven = np.mean([float(s.std(correction=0) / s.mean()) for s in scores])
    assert rows[1]["uneven"] == pytest.approx(uneven, rel=1e-5)
    frame = run("choice_by_picture", LOOK, model=model, methods=planned, prompts=PROMPTS,
                guidance=2, progress=False)  # fmt: skip
    assert charts.choice(frame).axes


def test_predicted_times_stand_beside_measured_ones(model):
    frame = predictions.predictions(model, (8,), 1, tuple(planned(model).values()), progress=False)
    assert len(frame) == 21
    assert frame.schedule[0] == "Dense()"
    assert (frame.predicted_ms > 0).all()
    assert (frame.error + 1 - frame.predicted_ms / frame.measured_ms).abs().max() < 1e-9
    assert "median error of 21 schedules" in predictions.table(frame)


def test_measured_speedups_of_schedules_are_medians_over_turns(model, monkeypatch):
    def turns(functions, repeats, progress):
        seconds = {name: (1.0, 1.0, 3.0) for name in functions} | {"Dense()": (1.0, 2.0, 3.0)}
        return {n: [SimpleNamespace(seconds=s) for s in each] for n, each in seconds.items()}

    monkeypatch.setattr(predictions, "turns", turns)
    frame = predictions.predictions(model, (8,), progress=False)
    predicted = frame.predicted_ms[0] / frame.predicted_ms
    assert (frame.speedup_error + 1 - predicted).abs().max() < 1e-9  # all are 1, not 2
    assert set(frame.measured_ms[1:]) == {1e3}


def test_the_suite_of_plans_refuses_what_it_does_not_take(capsys):
    assert main(["bench", "--suite", "plans", "--depth", "2"]) == 2
    assert "--suite plans takes no --case, --depth, --graphs and --out" in capsys.readouterr().err
