"""Tuning: spaces of settings, the search, its log; ranking at equal speed; local distances."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage

import fastvar_lab as fv
from fastvar_lab import scales
from fastvar_lab.cli.main import main
from fastvar_lab.evaluators import local_features
from fastvar_lab.experiments import agenda, comparison, run
from fastvar_lab.experiments.base import Question, Scope
from fastvar_lab.experiments.questions import rivals, shipped
from fastvar_lab.experiments.sets import rendering
from fastvar_lab.measure import controls
from fastvar_lab.measure.ranking import (
    detail_table,
    family_gap,
    memory_table,
    ranking,
    ranking_table,
)
from fastvar_lab.measure.set_table import set_table
from fastvar_lab.methods.columns import family
from fastvar_lab.methods.parse import read_method
from fastvar_lab.methods.skipvar import fitted_rules
from fastvar_lab.methods.spaces import AXES, find_space, spaces
from fastvar_lab.planning import candidates, tuning
from fastvar_lab.planning.effects import calibration_items
from fastvar_lab.planning.trials import SHIPPED, TARGETS, TuningLog, settings
from fastvar_lab.plotting import charts
from fastvar_lab.prompts import ClosedWorld, PromptList, seeded
from fastvar_lab.scales import TINY
from fastvar_lab.speed import tally
from fastvar_lab.speed.kv_bytes import held_share

FIGURES = Path(__file__).parent.parent / "figures"


@pytest.fixture
def tuner(small, tmp_path):
    items = PromptList("a red ring").take(1)
    return tuning.Tuner(small, items, TuningLog(tmp_path / "log.csv"), trials=5)


def test_a_stopped_tuning_goes_on_with_the_next_trial(tuner, monkeypatch):
    measured, measure = [], tuner.measure

    def stopping(setting):
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(setting.method)
        return measure(setting)

    space = find_space("conditional tail, skipping")
    monkeypatch.setattr(tuner, "measure", stopping)
    with pytest.raises(KeyboardInterrupt):
        tuner.tune(space)
    again = tuning.Tuner(tuner.model, tuner.items, TuningLog.read(tuner.log.path), trials=5)
    assert len(again.log.rows) == 3
    assert again.missing(space) == 2
    count = []
    monkeypatch.setattr(again, "measure", lambda setting: count.append(1) or measure(setting))
    again.tune(space)
    assert len(count) == 2
    assert again.missing(space) == 0
    whole = tuning.Tuner(tuner.model, tuner.items, TuningLog(tuner.log.path.with_name("b.csv")),
                         trials=5)  # fmt: skip
    whole.tune(space)
    assert whole.log.path.read_text() == again.log.path.read_text()
    assert whole.log.frame.trial.tolist() == [1, 2, 3, 4, 5]


def test_a_searched_setting_equal_to_a_published_one_is_not_measured_again(tuner, monkeypatch):
    space, measure, measured = find_space("conditional tail"), tuner.measure, []
    published = [fv.Tail(cond_from=-i) for i in range(1, 5)]
    monkeypatch.setattr(tuner, "_published", lambda space: published)
    monkeypatch.setattr(tuner, "measure", lambda s: measured.append(repr(s.method)) or measure(s))
    tuner.tune(space)
    assert len(set(measured)) == len(measured)
    assert tuner.log.frame.trial.tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 5]


def test_trials_on_other_pictures_are_not_taken_for_ones_own(tuner):
    tuner.tune(find_space("skipping"))
    others = PromptList(["a red ring", "a blue star"]).take(2)
    with pytest.raises(ValueError, match=r"log.csv holds trials of small on other calibration"):
        tuning.Tuner(tuner.model, others, TuningLog.read(tuner.log.path))
    assert len(TuningLog.read().frame["items"].unique()) == 1


def test_a_search_tries_settings_of_every_target_and_neighbours_of_the_best():
    options = [
        candidates.Candidate((i, j), fv.Dense(), 1.2 + 0.05 * i + 0.2 * j)
        for i in range(10) for j in range(20)
    ]  # fmt: skip
    seen = []

    def measure(setting):
        seen.append(setting)
        return candidates.Measured(40 - setting.saving - abs(setting.place[0] - 4), setting.saving)

    tried = list(candidates.search(options, 12, measure))
    assert tried == seen
    assert len({setting.place for setting in tried}) == 12
    for target in TARGETS:
        near = [s for s in tried if abs(np.log(s.saving / target)) <= candidates.BAND]
        assert len(near) >= 2
    assert list(candidates.search(options[:5], 12, measure)) == options[:5]
    unsure = [setting._replace(saving=None) for setting in options]
    later = [
        *candidates.search(unsure, 8, lambda s: candidates.Measured(30, 1.2 + 0.2 * s.place[1]))
    ]
    assert len({setting.place for setting in later}) == 8


def test_a_search_is_not_drawn_to_settings_that_save_nothing():
    options = [candidates.Candidate((i,), fv.Dense(), None) for i in range(40)]

    def measure(setting):
        saving = 1.0 if setting.place[0] < 30 else 1.0 + 0.3 * (setting.place[0] - 29)
        return candidates.Measured(100.0 if saving == 1 else 40 - saving, saving)

    tried = list(candidates.search(options, 12, measure))
    assert sum(measure(setting).saving > 1 for setting in tried[6:]) >= 5


@pytest.mark.parametrize(
    ("savings", "aims"),
    [
        ((1.0, 7.0), [1.5, 2.0, 3.0, 4.0]),
        ((1.03, 1.99), [1.5, 2.0]),  # 3 and 4 are out of reach, 2 is not
        ((1.03, 1.77), [1.5, 2.0]),  # the most that it saves is near to no target
        ((1.2, 1.45), [1.5]),
        ((2.14, 13.0), [2.0, 3.0, 4.0]),
        ((2.7, 2.8), [2.0, 3.0]),
        ((6.0, 9.0), [4.0]),
        ((), [1.5, 2.0, 3.0, 4.0]),
    ],
)
def test_trials_are_spent_on_targets_in_reach(savings, aims):
    assert candidates.aims(savings) == aims


def test_where_savings_are_not_known_the_next_target_is_tried_for():
    assert candidates.aims((1.03, 1.48)) == [1.5]
    assert candidates.aims((1.03, 1.48), unsure=True) == [1.5, 2.0]
    assert candidates.aims((1.0, 1.2), unsure=True) == [1.5]
    assert candidates.aims((2.1, 3.5), unsure=True) == [1.5, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("most", [1.77, 2.0, 2.9])
def test_a_family_that_reaches_few_targets_spends_its_trials_there(most):
    options = [
        candidates.Candidate((i, j), fv.Dense(), 1.03 + (most - 1.03) * i / 29)
        for i in range(30) for j in range(5)
    ]  # fmt: skip
    tried = [*candidates.search(options, 12, lambda s: candidates.Measured(40, s.saving))]
    savings, reached = [s.saving for s in tried], candidates.aims([1.03, most])
    assert reached == ([1.5, 2.0, 3.0] if most == 2.9 else [1.5, 2.0])
    assert len({setting.place for setting in tried}) == 12
    for target in reached:
        near = [s for s in savings if abs(np.log(s / min(target, most))) <= candidates.BAND]
        assert len(near) >= 12 // len(reached)


def test_better_pictures_do_not_make_up_for_a_saving_that_is_missed():
    """The family decides from the picture, as FocusVARAdaptive does; most settings save little."""
    options = [
        candidates.Candidate((i, j, k), fv.Dense(), None)
        for i in range(8) for j in range(8) for k in range(6)
    ]  # fmt: skip

    def measure(setting):
        step, layer, _ = setting.place  # the third field does nothing
        return candidates.Measured(50 - 3 * step, 1.03 + 0.017 * step * layer)

    for seed in range(8):
        tried = [*candidates.search(options, 12, measure, seed)]
        moved = [measure(setting) for setting in tried[6:]]
        savings = [result.saving for result in moved]
        assert min(savings) > 1.1
        assert max(savings) > 1.25
        assert len(set(moved)) >= 4  # the third field is left alone


def test_a_resumed_search_of_equal_results_takes_the_same_way(tuner):
    space, log = find_space("FocusVARAdaptive"), tuner.log
    tuner.trials = 10
    tuner.tune(space)
    whole = log.path.read_text()
    log.rows = TuningLog.read(log.path).rows[:-3]
    again = tuning.Tuner(tuner.model, tuner.items, log, trials=10)
    again.tune(space)
    assert log.path.read_text() == whole


def test_settings_are_the_best_ones_from_mild_to_extreme():
    trials = [
        {"saving": saving, "psnr": psnr}
        for saving, psnr in ((1.4, 40), (1.5, 35), (2.1, 37), (2.9, 30), (3.1, 33), (6.0, 25))
    ]
    assert [t["saving"] for t in settings(trials)] == [1.4, 2.1, 3.1, 6.0]
    assert settings([]) == []
    assert settings([{"saving": 1.0, "psnr": 100.0}]) == []
    assert len(settings(trials[:1])) == 1


def test_a_family_that_reaches_few_targets_shows_its_whole_front():
    savings = (1.35, 1.481, 1.484, 1.6, 1.74, 1.76, 1.77)
    psnr = (41.0, 33.1, 29.8, 29.0, 26.0, 23.0, 19.0)
    trials = [{"saving": s, "psnr": p} for s, p in zip(savings, psnr, strict=True)]
    # 1.484 is as near to 1.5 as 1.481, whose pictures are 3 dB better
    assert [t["saving"] for t in settings(trials, (1.5, 2.0, 3.0))] == [1.35, 1.481, 1.77]
    skipping = [{"saving": s, "psnr": 40 - s} for s in (2.1, 3.9, 7.6, 16.2, 37.4)]
    assert [t["saving"] for t in settings(skipping)] == [2.1, 3.9, 7.6, 16.2]


def test_calibration_and_judged_pictures_share_neither_prompt_nor_seed():
    model = fv.load("tiny")
    tuned = calibration_items(model, 64)
    for seed in {experiment.seed for experiment in shipped().values()}:
        judged = seeded(model.prompts, seed).take(112)
        assert not {item.prompt for item in judged} & {item.prompt for item in tuned}
        assert not {item.seed for item in judged} & {item.seed for item in tuned}


def test_a_damaged_or_unwritable_log_is_refused_before_the_work(tmp_path, capsys):
    path, whole = tmp_path / "log.csv", SHIPPED.read_bytes()
    head, first, *_ = lines = whole.split(b"\n")
    half = b"\n".join([*lines[:49], lines[49].partition(b"operations,")[0]])
    for damaged, sentence in (
        (half, "is damaged: line 50 holds no trial"),
        (head + b"\n" + first[:-1], "holds no trial"),
        (whole + b'tiny,"x', "is no log of a tuning"),
        (b"", "is no log of a tuning"),
        (b"model,psnr\ntiny,3\n", "log of a tuning: it lacks weights, guidance, family, trial, "),
        (b"\x00\xff" * 99, "is no log of a tuning"),
        (head + b"\n" + first.replace(b"Tail(", b"-Tail(").replace(b",0,", b",x,"), "is no log"),
        (head + b"\n" + first.replace(b"operations,", b"operations,-"), "line 2 holds no trial"),
    ):
        path.write_bytes(damaged)
        assert main(["tune", "skipping", "--log", str(path)]) == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert error.count("\n") == 1
        assert path.read_bytes() == damaged
    for unwritable in (tmp_path, path / "log.csv"):
        assert main(["tune", "skipping", "--log", str(unwritable)]) == 2
        assert capsys.readouterr().err.startswith("fastvar-lab: cannot ")


def test_the_shipped_log_reads_back_and_every_family_had_the_same_chances():
    model, log = fv.load("tiny"), TuningLog.read()
    for scale in rivals.GUIDANCES:
        trials = log.of(model.with_guidance(scale))
        tuned = {trial["family"] for trial in trials}
        assert tuned == set(spaces())
        for name in tuned:
            space, mine = find_space(name), [t for t in trials if t["family"] == name]
            searched = [trial["trial"] for trial in mine if trial["trial"]]
            assert searched == [*range(1, len(searched) + 1)]
            settings_ = math.prod(len(values) for values in space.options.values())
            if name == "SkipVAR":  # it has as many as rules were fitted on the model
                settings_ = len(fitted_rules("tiny", scale, len(TINY)))
            assert len(searched) == min(tuning.TRIALS, settings_)
            assert {family(read_method(trial["method"])) for trial in mine if trial["trial"]} <= {
                name
            }
            assert {trial["saves"] for trial in mine} == {space.saves}
        methods = rivals.methods(model.with_guidance(scale))
        assert len({repr(method) for method in methods.values()}) == len(methods)
        assert set(map(family, methods.values())) >= tuned
    assert set(AXES) == {space.axis for space in spaces().values()}
    assert rivals.methods(model.with_guidance(3.0)).keys() == {
        label for label in rivals.methods(model.with_guidance(3.0)) if "tuned" not in label
    }


def made_by_setting(model, name, n):
    """Generate under up to `n` settings of a family, far from each other, that suit the model."""
    space, made = find_space(name), {}
    subject = candidates.OnModel(model, PromptList("a red ring").take(1))
    for place in np.random.default_rng(0).permutation(list(space.places())):
        try:
            method = space.method(subject, place)
            made[method] = fv.generate(model, "a red ring", method, seed=3, snapshot=True)
        except ValueError:  # it needs more layers or steps
            continue
        if len(made) == n:
            break
    return made


@pytest.mark.parametrize("name", sorted(spaces().keys() - {"SkipVAR", "ScaleKV"}))
def test_settings_of_a_family_resume_from_each_other_with_the_bits_of_scratch(small, name):
    made = made_by_setting(small, name, 4)
    assert made
    for method, base in made.items():
        for other, scratch in made.items():
            resumed = fv.resume(small, base, other)
            assert torch.equal(resumed.canvas, scratch.canvas), (method, other)


@pytest.mark.parametrize("name", ["ToMe", "FocusVAR", "LazyVAR", "skipping"])
def test_a_search_tries_no_setting_that_does_a_controls_work(name):
    model, space = fv.load("tiny"), find_space(name)
    subject = candidates.OnModel(model, PromptList("a red ring").take(1))
    options = candidates.candidates(space, subject)
    works = {controls.control(option.method, model.grids()) for option in options}
    assert works == ({"skipping"} if name == "skipping" else {None})


def test_settings_of_scalekv_drop_nothing_before_the_cache_is_full():
    model, space = fv.load("tiny"), find_space("ScaleKV")
    subject = candidates.OnModel(model, PromptList("a red ring").take(1))
    published = [held_share(model, method) for method in space.published(subject)]
    assert published == pytest.approx([0.2, 0.1, 0.04], abs=0.005)
    for budget in (0.5, 0.2):
        place = [values.index(budget) if name == "budget" else 0 for name, values in
                 space.options.items()]  # fmt: skip
        method = space.method(subject, place)
        steps, held = method.budgets(model.grids(), 8), method.held_keys(model.grids(), 8)
        assert [held[step] for step in steps] == pytest.approx([8 * budget * 1497] * len(steps), 8)
        assert method.drafters == subject.calibrated("scalekv", budget=budget).drafters


def test_the_command_lists_families_and_refuses_what_it_does_not_know(capsys, tmp_path):
    log = ["--log", str(tmp_path / "log.csv")]
    assert main(["tune", *log]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in spaces())
    for wrong, message in (
        (["LazyVar"], "no family 'LazyVar'; nearest: LazyVAR"),
        (["zzz"], f"no family 'zzz'; there are {len(spaces())}; `fastvar-lab tune` lists them"),
        (["ToMe", "--all"], "--all tunes every family"),
        (["ToMe", "--n", "0"], "--n must be at least 1; not 0"),
        (["ToMe", "--trials", "3"], "a tuning takes 4 trials or more; not 3"),
    ):
        assert main(["tune", *log, *wrong]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "log.csv").write_text("a,b\n1,2\n")
    assert main(["tune", *log]) == 2
    assert "is no log of a tuning" in capsys.readouterr().err


def frame_of(families, pictures=30, times=True):
    """A comparison in which each setting has a speed and a mean quality, by family."""
    rng, rows = np.random.default_rng(0), []
    noise = rng.normal(0, 1, pictures)
    for scale in (2.0, 4.0):
        for name, points in {"full": {1.0: 100.0}, **families}.items():
            for speed, psnr in points.items():
                axis = None if name == "full" else "cache" if name == "small" else "selection"
                front = {"guidance": scale, "family": name, "axis": axis}
                front["method"] = name if name == "full" else f"{name} {speed}"
                rows += [
                    {**front, "kind": "quality", "picture": i, "psnr": psnr + noise[i]}
                    for i in range(pictures)
                ]
                small = name == "small"
                rows.append({**front, "kind": "operations",
                             "operations": 1.0 if small else 1 / (1.1 * speed),
                             "cache": 1 / speed if small else None})  # fmt: skip
                rows.append({**front, "kind": "time", "speedup": 1.0 if small else speed,
                             "speedup_low": speed, "speedup_high": speed,
                             "speedup_flop_bound": 1.1 * speed, "disturbed": False})  # fmt: skip
    return pd.DataFrame(rows)


FAMILIES = {
    "good": {1.4: 40.0, 2.0: 36.0, 4.2: 30.0},
    "poor": {1.6: 30.0, 2.5: 28.0, 2.4: 20.0},
    "small": {2.0: 50.0, 4.0: 40.0},
}


def test_families_are_ranked_at_equal_speed_by_their_frontiers():
    rows = ranking(frame_of(FAMILIES)).set_index(["guidance", "family", "target"])
    good = rows.loc[2.0, "good"]
    share = (1 / 2 - 1 / 3) / (1 / 2 - 1 / 4.2)
    assert good["mean"][3.0] - good["mean"][2.0] == pytest.approx(-6 * share)
    poor = rows.loc[2.0, "poor"]
    assert poor["behind"][1.5] > 5
    assert poor[["mean", "behind"]].loc[3.0].isna().all()  # no setting is as fast
    assert poor["behind"][2.0] == pytest.approx(poor["behind_low"][2.0])  # paired: one noise
    assert good["behind"][2.0] == 0
    assert good["low"][2.0] < good["mean"][2.0] < good["high"][2.0]
    assert ("small", 2.0) not in rows.loc[2.0].index  # it is not faster
    frame = frame_of(FAMILIES)
    gap = family_gap(frame[frame.guidance == 2.0], "poor", "good", 2.0)
    assert -gap["difference"] == pytest.approx(poor["behind"][2.0])
    assert [-gap["high"], -gap["low"]] == pytest.approx(
        [poor["behind_low"][2.0], poor["behind_high"][2.0]]
    )
    assert gap["n"] == 30
    with pytest.raises(ValueError, match="no setting of poor saves 3x"):
        family_gap(frame[frame.guidance == 2.0], "poor", "good", 3.0)
    table = ranking_table(frame_of(FAMILIES))
    assert table.family.tolist() == ["good", "poor"] * 2
    assert {"1.5x", "4x", "4x operations"} <= set(table)
    held = memory_table(frame_of(FAMILIES))
    assert held.family.tolist() == ["small", "small"]


def test_families_are_ranked_by_what_should_be_small():
    frame = frame_of(FAMILIES)
    frame["detail_error"] = 2 - frame.psnr / 40
    rows = ranking(frame, "detail_error").set_index(["guidance", "family", "target"])
    other = ranking(frame).set_index(["guidance", "family", "target"])
    assert rows["mean"].to_numpy() == pytest.approx(2 - other["mean"] / 40, nan_ok=True)
    assert rows.behind.to_numpy() == pytest.approx(other.behind / 40, nan_ok=True)
    assert (rows.low <= rows["mean"])[rows["mean"].notna()].all()
    assert detail_table(frame).family.tolist() == ["good", "poor"] * 2
    assert detail_table(frame_of(FAMILIES)).empty


def test_a_setting_that_prunes_nothing_lifts_no_family():
    frame = frame_of(FAMILIES | {"idle": {1.0: 100.0, 1.8: 30.0, 3.5: 28.0}})
    rows = ranking(frame).set_index(["guidance", "family", "target"])
    # the slowest setting that saves time is taken as it is, not mixed with full generation
    assert rows.loc[2.0, "idle"]["mean"][1.5] == pytest.approx(30, abs=0.5)
    frame.loc[frame.method == "idle 1.0", "speedup_flop_bound"] = 1.0
    frame["axis"] = frame.axis.replace("cache", "control")
    for axes in charts.by_axis(frame).axes:
        assert axes.get_ylim()[1] < 60


def test_the_time_of_a_method_that_depends_on_the_picture_is_a_mean_over_pictures(small):
    prompts = ClosedWorld()
    methods = {"full": fv.Dense(), "fixed": fv.Prune({-1: 0.5}),
               "decides": fv.SparseVAR(-2, threshold=0.8)}  # fmt: skip
    question = Question(small, Scope("look", 3, 1), prompts, methods, prompts.take(1)[0])
    (job,) = comparison.comparison(question, (), "look")[1:]
    assert [len(cell.items) for cell in job.cells] == [1, 1, 3]
    rows = {cell.label: row for cell, (row,) in comparison.times(small, job.cells)}
    fixed, deciding = comparison.counting(question, "look")
    assert [cell.label for cell in fixed.cells] == ["full", "fixed"]
    ((_, counted),) = comparison.counts(small, deciding.cells)
    shares = [row["operations"] for row in counted]
    assert len(set(shares)) > 1
    assert rows["decides"]["speedup_flop_bound"] == pytest.approx(1 / np.mean(shares), rel=0.01)


def test_operations_counted_from_shared_steps_are_those_of_a_whole_run(small):
    skips = fv.FocusVARAdaptive(fv.Prune({-2: 1.0}), probe=-1, early=0, late=1)
    methods = [
        fv.SparseVAR(-2, threshold=0.8), fv.SparseVAR(-1, threshold=0.8),
        fv.FocusVARAdaptive(fv.Prune({-2: 0.5}), probe=-1, early=0, late=1), skips,
        fv.Prune({-2: 1.0, -1: 0.5}), fv.Prune({-1: 1.0}),
    ]  # fmt: skip
    for guidance in (2.0, 4.0):
        model = small.with_guidance(guidance)
        item = ClosedWorld().take(1)[0]
        tallies = tally.Tallies(model, methods, item)
        assert tallies.shared > 1
        for method in methods:
            assert tallies.count(method) == tally.as_run(model, method, item), method


def test_families_that_are_not_as_fast_are_ordered_where_they_are():
    slow = {"poor": {1.6: 25.0}, "better": {1.7: 27.0}, "none": {1.03: 40.0}}
    frame = frame_of(slow | {"fast": {1.6: 26.0, 2.5: 24.0}})
    for table in (ranking_table(frame), detail_table(frame.assign(detail_error=-frame.psnr))):
        assert table[table.guidance == 2].family.tolist() == ["fast", "better", "poor"]


def test_intervals_at_equal_time_hold_the_turns_of_the_timings():
    frame = frame_of(FAMILIES)
    exact = ranking(frame).set_index(["guidance", "family", "target"])
    frame["speedup_low"], frame["speedup_high"] = frame.speedup / 1.2, frame.speedup * 1.2
    wide = ranking(frame).set_index(["guidance", "family", "target"])
    assert wide["mean"].equals(exact["mean"])
    at = (2.0, "good", 2.0)
    assert (wide.high - wide.low)[at] > 2 * (exact.high - exact.low)[at]
    assert wide.behind_high[2.0, "poor", 2.0] > exact.behind_high[2.0, "poor", 2.0] + 1
    counts = ranking(frame, by="operations")
    assert counts.equals(ranking(frame_of(FAMILIES), by="operations"))


STAND_INS = {
    "skipping": ("skipping", "Prune({-1: 1.0})", 2.0, 34.0),
    "tail": ("conditional tail", "Tail(cond_from=-2)", 1.4, 36.0),
    "LazyVAR, tuned (2)": ("LazyVAR", "LazyVAR({-1: 1.0})", 1.9, 34.0),
    "ToMe, tuned (1)": ("ToMe", "Merge({-1: 0.5})", 1.3, 37.0),
    "ToMe, tuned (3)": ("ToMe", "Merge({-1: 1.0})", 2.2, 34.0),
    "FocusVAR, tuned (1)": ("FocusVAR", "FocusVAR(first=-2, layer=0)", 1.4, 36.0),
    "SkipVAR, tuned (1)": ("SkipVAR", "SkipVAR(rule='tiny-0.9')", 2.0, 34.0),
    "SkipVAR, tuned (2)": ("SkipVAR", "SkipVAR(rule='tiny-0.96')", 1.5, 33.0),
    "planned 2x": ("planned", "Planned(rows={-1: 'skip'})", 2.0, 34.0),
}
"""Methods of a frame: family, method as it is written, speed and quality."""


def frame_of_stand_ins():
    rows = []
    for label, (name, text, speed, psnr) in STAND_INS.items():
        front = {"guidance": 2.0, "method": label, "family": name, "repr": text}
        front |= {f"kept_{grid.name}": 1 for grid in scales.grids(TINY)}
        by_picture = name == "SkipVAR"
        for i in range(4):
            rows.append({**front, "kind": "quality", "picture": i, "psnr": psnr + i})
            if by_picture:
                share = (0.5 + 0.1 * i) / speed
                rows.append({**front, "kind": "operations", "picture": i, "operations": share})
        if not by_picture:
            rows.append({**front, "kind": "operations", "operations": 1 / speed})
        rows.append({**front, "kind": "time", "speedup": speed, "speedup_low": speed,
                     "speedup_high": speed, "speedup_flop_bound": speed,
                     "disturbed": False})  # fmt: skip
    return pd.DataFrame(rows)


def test_settings_that_do_a_controls_work_stand_for_no_family():
    frame = frame_of_stand_ins()
    assert controls.stand_ins(frame) == {
        "FocusVAR, tuned (1)": "conditional tail",
        "LazyVAR, tuned (2)": "skipping",
        "ToMe, tuned (3)": "skipping",
        "SkipVAR, tuned (1)": "skipping",  # by its pictures
    }
    rows = ranking(frame).set_index(["family", "target"])
    assert np.isnan(rows["mean"]["ToMe", 1.5])  # no merging of tokens is as fast
    assert "LazyVAR" not in rows.index
    note = ranking_table(frame).attrs["note"]
    assert note.startswith("PSNR (dB), more is better, with 95 % intervals over the pictures and")
    assert "timings of equal work were up to 10 % apart" in note
    assert "LazyVAR, tuned (2); SkipVAR, tuned (1); ToMe, tuned (3) (skipping)" in note
    detail = frame.assign(detail_error=1.0, cache=0.5)
    note = detail_table(detail).attrs["note"]
    assert note.startswith("Distance of detail to rendered truth in octaves, less is better")
    assert "timing" not in memory_table(detail).attrs["note"].partition(".")[0]
    assert ranking_table(frame_of(FAMILIES)).attrs["note"].endswith("of each timing.")
    table = set_table(frame).set_index(["guidance", "method"])
    assert table.operations[2, "SkipVAR, tuned (2)"] == "43.3 % [33.3 to 53.3]"


def test_the_bench_chooses_no_setting_that_does_a_controls_work():
    for guidance in (2.0, 4.0):
        model = fv.load("tiny").with_guidance(guidance)
        grids = model.grids()
        tuned = {k: m for k, m in rivals.methods(model).items() if "tuned" in k}
        for label, method in tuned.items():
            assert not controls.stands_in(repr(method), label.partition(", tuned")[0], grids)
        assert sum(label.startswith("SparseVAR") for label in tuned) == len(TARGETS)
        assert any(label.startswith("SkipVAR") for label in tuned)


def test_a_frame_of_many_families_is_drawn_by_axis():
    frame = frame_of(FAMILIES | {"third": {2.0: 25.0}})
    frame.loc[frame.family == "third", "axis"] = "control"
    figure = charts.rivals(frame)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:3] == ["steps and rows alone", "tokens of sublayers", "keys and values"]
    assert len(figure.axes) == 6
    legends = [axes.get_legend() for axes in figure.axes[3:]]
    lines = [text.get_text() for legend in legends for text in legend.get_texts()]
    assert lines.count("front of all families") == 2
    figure.png()
    few = frame[frame.axis.isna() | (frame.axis == "selection")]
    assert len(charts.rivals(few[few.guidance == 2]).axes) == 1


@pytest.fixture(scope="module")
def rendered():
    items = ClosedWorld(seed=3).take(10)
    return items, [rendering(item, (128, 128)) for item in items]


def test_the_local_distance_ranks_blurred_and_sharpened_renders(rendered):
    model, (_, truth) = fv.load("tiny"), rendered

    def filtered(sigma, amount):
        def change(picture):
            wide = picture.astype(np.float32)
            smooth = ndimage.gaussian_filter(wide, (sigma, sigma, 0))
            return np.clip(wide + amount * (wide - smooth), 0, 255).astype(np.uint8)

        return [local_features.sums(model, change(picture)) for picture in truth]

    reference = [local_features.sums(model, picture) for picture in truth]
    same = local_features.distance(reference, reference)
    blurred = [local_features.distance(filtered(s, -1.0), reference) for s in (0.6, 1.0, 2.0)]
    sharpened = [local_features.distance(filtered(1.0, a), reference) for a in (0.5, 1.0, 2.0)]
    assert same == pytest.approx(0, abs=1e-6)
    for worse in (blurred, sharpened):
        assert worse == sorted(worse)
        assert worse[0] > 1e-3
        assert worse[-1] > 4 * worse[0]
    low, high = local_features.distance_interval(filtered(2.0, -1.0), reference, draws=40)
    assert low < blurred[-1] < high


def test_rivals_say_what_every_method_saves_and_how_far_its_pictures_are(tmp_path, monkeypatch):
    monkeypatch.setattr(rivals, "LOOK", ("skipping", "VAR-Q"))
    frame = run.run(
        "rivals", fv.Scope("quick", prompts=1, repeats=1), store=run.Store(tmp_path),
        guidance=2, progress=False,
    )  # fmt: skip
    assert set(frame.kind) == {"quality", "time", "operations", "set"}
    costs = frame[frame.kind == "operations"].set_index("family")
    assert costs.operations["skipping"] < 0.5
    assert costs.cache["VAR-Q"] < 0.6
    assert costs.operations["VAR-Q"] == costs.operations["full"] == 1
    distances = frame[frame.kind == "set"].set_index("family")
    assert (distances.frechet > 0).all()
    assert frame.filter(like="detail").notna().any().any()
    assert "ranking:" in run.table("rivals", frame)
    jobs = agenda.agenda("rivals", fv.Scope("quick", 1, 1), None, None, None, None, 2, print).jobs
    assert {job.waits for job in jobs} == {False, True}
