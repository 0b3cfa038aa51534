"""What widgets are given, and what is asked of them while a control is wrong."""

import gc
import json
import math
import sys
import threading
from dataclasses import dataclass, make_dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest

import fastvar_lab as fv
from fastvar_lab.backbones.var import LabelEncoder
from fastvar_lab.class_names import imagenet_names
from fastvar_lab.errors import PromptError
from fastvar_lab.files import file_stem
from fastvar_lab.methods import settings
from fastvar_lab.methods.select import Selector
from fastvar_lab.seam import Method
from fastvar_lab.widgets import (
    Explorer,
    ParetoPicker,
    ScaleBrowser,
    scale_browser,
    survey_panel,
    time_panel,
)
from fastvar_lab.widgets.budget_panel import BudgetPanel
from fastvar_lab.widgets.fields import Choice
from fastvar_lab.widgets.number_fields import Integer, Number, Share
from tests.families import small_model


@dataclass(frozen=True)
class Norm:
    """Keeps what is large."""

    def scores(self, x, grid, site):
        return x.float().norm(dim=-1)


class Plain:
    """Full generation, as a base for fields."""

    def acts(self, grids):
        return (fv.Act(),) * len(grids)

    def start(self, grids, depth, held=None):
        return fv.Runner()

    def cache_index(self, grids):
        return None


@dataclass(frozen=True)
class Holds(Plain):
    """Holds a selector. `select` is not used."""

    select: Selector = Norm()


def drawn(explorer):
    assert explorer.wait(60)
    return explorer.status.value


@pytest.fixture
def explorer(small):
    widget = Explorer(small, "a red circle", seed=3)
    assert widget.wait(60)
    yield widget
    widget.close()


@pytest.mark.parametrize("seed", [1.5, math.inf, math.nan, "abc", None, True])
def test_a_seed_that_is_none_is_refused_and_nothing_else_is_said(small, seed, monkeypatch):
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)  # errors of `__del__`
    with pytest.raises(ValueError, match="seed is a whole number; not"):
        Explorer(small, "a red circle", seed=seed)
    gc.collect()
    assert not ignored


@pytest.mark.parametrize("field", [Integer("x", 1), Number("x", 0.5), Share("x", 0.5)])
@pytest.mark.parametrize("value", [None, "abc", math.nan, True])
def test_a_control_refuses_what_is_no_number_of_it(field, value):
    if isinstance(field, Number) and value is math.nan:
        return  # a setting may be one
    before = field.value
    with pytest.raises(ValueError, match=r"x is a |a share lies in"):
        field.value = value
    assert field.value == before


OPTIONAL = [
    (int | None, "Integer", "3", 3),
    (float | None, "Number", "0.5", 0.5),
    (str | None, "Field", "late", "late"),
    (bool | None, "Choice", "off", False),
    (Literal["a", "b"] | None, "Choice", "b", "b"),
    (Selector | None, "Choice", "random", fv.Random()),
    (Method | None, "Literal", "", None),
]


@pytest.mark.parametrize(("hint", "control", "text", "value"), OPTIONAL)
def test_a_setting_that_may_be_none_has_a_control(small, hint, control, text, value):
    kind = make_dataclass("Odd", [("x", hint, None)], bases=(Plain,), frozen=True)
    explorer = Explorer(small, "a red circle", methods={"odd": kind()})
    explorer.a.family.value = "odd"
    assert "done" in drawn(explorer)
    field = explorer.a.controls["x"]
    assert (type(field).__name__, field.text) == (control, "none")
    field.text = text
    assert "done" in drawn(explorer)
    assert (explorer.method, field.error) == (kind(value), "")
    field.text = "none"
    assert (explorer.method, field.error) == (kind(), "")
    assert explorer.wait(60)
    explorer.close()


def test_a_type_that_only_its_place_knows_is_written_as_python():
    kind = make_dataclass("Local", [("x", "Nowhere", 1)], bases=(Plain,), frozen=True)
    assert [s.kind for s in settings.settings(kind)] == ["literal"]


def test_rules_and_families_that_methods_bring_are_offered(small):
    own = Explorer(small, "a red circle", methods={"holds": Holds()})
    own.a.family.value = "holds"
    assert "done" in drawn(own)
    assert own.a.controls["select"].text == "Norm()"
    own.close()
    around = fv.Tail(Holds(), skip_from=-1)  # a method inside another is offered too
    outer = Explorer(small, "a red circle", methods={"Holds": around})
    outer.a.family.value = "Holds"
    assert "done" in drawn(outer)
    assert outer.method == around
    assert outer.a.controls["method"].method == Holds()
    outer.close()
    for fast in (Holds(), fv.Prune({-1: 0.5}, select=Norm())):
        preset = Explorer(replace(small, fast=fast), "a red circle", plans=[(2.0, Holds(Norm()))])
        assert "done" in drawn(preset)
        assert preset.method == fast
        preset.budget.budget.value = 0
        assert "done" in drawn(preset)
        assert preset.method == Holds()
        preset.close()


def test_a_method_that_fits_no_model_is_refused_and_one_that_fits_another_left_out(small):
    @dataclass(frozen=True)
    class Mine(fv.Prune):
        """Prunes."""

    with pytest.raises(ValueError, match="method 'mine' fits no model: no scale 64 in this"):
        Explorer(small, methods={"mine": Mine({64: 0.5})})
    with pytest.raises(ValueError, match="method 'mine' fits no model: a method is a value"):
        Explorer(small, methods={"mine": Mine})
    kind = make_dataclass("Odd", [("x", Any)], bases=(Plain,), frozen=True)
    with pytest.raises(ValueError, match="fits no model: the fields of Odd do not compare"):
        Explorer(small, methods={"mine": kind(np.arange(3))})
    with pytest.raises(ValueError, match=r"fits no model: .* is a dataclass; Plain is none"):
        Explorer(small, methods={"mine": Plain()})
    classes = small_model("var")
    explorer = Explorer({"a": small, "b": classes}, methods={"mine": Mine({small.sizes[-1]: 0.5})})
    assert "mine" in explorer.a.offer.families
    fits = small.sizes[-1] in classes.sizes
    explorer.pick("b")
    assert "done" in drawn(explorer)
    assert ("mine" in explorer.a.offer.families) == fits
    explorer.close()


def test_plans_without_a_finite_quality_are_taken_and_others_refused():
    fast = fv.Prune({-1: 0.9})
    panel = BudgetPanel(
        [(1, fv.Dense(), math.inf), (2.001, fast, None), (2.002, fv.Dense())], print
    )
    assert panel.target.options == ["as A is set"]
    assert panel.budget.options[2:] == ["2.00 x", "2.00 x (2)"]
    panel.budget.text = "2.00 x (2)"
    assert panel.budget.value == 2  # labels that are equal are told apart
    panel.follow(fv.Dense())
    assert (panel.budget.value, panel.target.value) == (0, None)
    for plan in (
        (2.0,), (2.0, fast, "good"), fast, (2.0, "fast"), (math.nan, fast), (math.inf, fast),
        (0, fast),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="a plan is a speedup, a method, and maybe the PSNR"):
            BudgetPanel([plan], print)
    for plans in ("plans.json", 3):
        with pytest.raises(ValueError, match=r"plans are a list, as frontier returns it, .*; not"):
            BudgetPanel(plans, print)


def test_labels_that_are_equal_are_told_apart():
    choice = Choice("prompt", 1, "", [("a cat", 1), ("a cat", 2)])
    assert choice.options == ["a cat", "a cat (2)"]
    choice.text = "a cat (2)"
    assert choice.value == 2
    choice.offer([("a dog", 3), ("a dog", 4)])
    assert (choice.options, choice.text) == (["a dog", "a dog (2)"], "a cat (2)")


def test_a_model_is_picked_while_a_control_is_wrong(small):
    explorer = Explorer({"base": small, "tuned": replace(small, name="tuned")}, "a red circle")
    assert explorer.wait(60)
    explorer.ratios[-1].text = "x"
    explorer.seed.text = "1.5"
    explorer.pick("tuned")
    assert "done" in drawn(explorer)
    assert (explorer.model.name, explorer.picker.value) == ("tuned", "tuned")
    assert (explorer.method, explorer.seed.error) == (small.preset, "")
    assert explorer.history.shown[0].model == "tuned"
    explorer.close()


def test_nothing_is_computed_with_settings_that_are_not_on_the_page(explorer):
    explorer.survey.seeds.value = 1
    for field, text, label in (
        (explorer.seed, "1.5", "seed"),
        (explorer.prompt, "a red circl", "the prompt"),
        (explorer.ratios[-1], "x", "method A"),
    ):
        right, field.text = field.text, text
        for panel in (explorer.survey, explorer.time):
            panel.run_stop.click()
            assert panel.wait(60)
            assert f"{label}: see what stands under" in panel.status.value
        assert (explorer.survey.samples, explorer.time.times) == ([], None)
        field.text = right
        assert "done" in drawn(explorer)


def test_tokens_of_the_picture_in_view_have_lives_while_a_control_is_wrong(explorer):
    explorer.ratios[-1].text = "x"
    explorer.viewer.place = [0.3, 0.7]
    assert explorer.token.wait(60)
    assert "token in row 5, column 2" in explorer.token.status.value
    explorer.paint.step.value = 2
    assert "a share cannot be read" in explorer.paint.status.value


def test_classes_are_given_by_number_too():
    model = replace(small_model("var"), text_encoder=LabelEncoder(10, imagenet_names()[:10]))
    explorer = Explorer(model, 7)
    assert "done" in drawn(explorer)
    assert (explorer.prompt.value, explorer.prompt.text) == ("7", "7: cock")
    explorer.prompt.text = " NULL "
    assert (explorer.prompt.value, explorer.prompt.error) == ("null", "")
    assert explorer.wait(60)
    explorer.survey.prompts.value = "goldfish\ncrane"
    explorer.survey.run_stop.click()
    assert explorer.survey.wait(60)
    assert "not 'crane'" in explorer.survey.prompts.error
    assert "prompts: see what stands" in explorer.survey.status.value
    explorer.close()
    unknown = Explorer(model, "crane")
    assert "the prompt: see what stands" in drawn(unknown)
    assert (unknown.prompt.text, unknown.shown) == ("crane", None)
    assert "not 'crane'" in unknown.prompt.error
    unknown.prompt.text = "tench"
    assert "done" in drawn(unknown)
    unknown.close()
    _, trace = fv.observe(model, ["1", "goldfish", 2], fv.Prune({-1: 0.5}), seed=[4, 5, 6])
    browser = ScaleBrowser(trace, model)
    assert browser.picture.options == [
        "1: goldfish, seed 4", "1: goldfish, seed 5", "2: great white shark, seed 6",
    ]  # fmt: skip
    browser.close()


@pytest.mark.parametrize(
    ("classes", "text", "message"),
    [
        (20, "15: x", "class 15 is not 'x'"),
        (20, "crane", "not 'crane'; such as 9 or ostrich"),
        (5, "cock", "0 to 4, or is a name; not 'cock'"),
    ],
)
def test_names_of_some_classes_alone(classes, text, message):
    encoder = LabelEncoder(classes, imagenet_names()[:10])
    with pytest.raises(PromptError, match=message):
        encoder.label(text)


def test_a_name_of_two_classes_is_refused_with_both():
    with pytest.raises(PromptError, match=r"crane \(bird\), .*crane \(machine\)"):
        LabelEncoder(1000, imagenet_names()).label("crane")


def test_a_file_name_has_as_many_bytes_as_file_systems_allow():
    assert file_stem("é" * 100, ["pdf"]) == "é" * 100
    with pytest.raises(ValueError, match="at most 200 bytes; this one has 204"):
        file_stem("\N{CAT}" * 51, ["pdf"])


def test_a_report_that_is_not_written_says_so(explorer, tmp_path):
    history = explorer.history
    history.folder = tmp_path
    history.write.click()
    assert "wrote" in history.status.value
    history.name.value = ".."
    history.write.click()
    assert "nothing was written" in history.status.value
    assert len(list(tmp_path.iterdir())) == 1


def test_a_survey_of_other_methods_is_dimmed(explorer):
    def old():
        return {"fv-stale" in part._dom_classes for part in explorer.survey.results}

    share, explorer.survey.seeds.value = explorer.ratios[-1].value, 1
    explorer.survey.run_stop.click()
    assert explorer.survey.wait(60)
    assert (len(explorer.survey.samples), old()) == (1, {False})
    explorer.ratios[-1].value = 0.3
    assert "done" in drawn(explorer)
    assert old() == {True}
    explorer.ratios[-1].value = share
    assert "done" in drawn(explorer)
    assert old() == {False}
    explorer.survey.strip.picked = 0
    explorer.release()  # the last view has gone
    strip = explorer.survey.strip
    assert (explorer.survey.samples, strip.cells, strip.picked) == ([], [], -1)
    assert "A beside B for each" in explorer.survey.status.value


def trade_off(**qualities):
    """Return a frame that compares methods, each faster than the one before, on one picture."""
    count = len(next(iter(qualities.values())))
    rows = []
    for place in range(count + 1):
        method = fv.Prune({-1: place / 10}) if place else fv.Dense()
        name = {"method": repr(method) if place else "full", "repr": repr(method)}
        name["family"] = "FastVAR" if place else "full"
        values = {column: v[place - 1] if place else math.nan for column, v in qualities.items()}
        rows.append({**name, "kind": "quality", "picture": 0, **values})
        rows.append({**name, "kind": "time", "speedup": 1.0 + place, "speedup_flop_bound": 2.0})
    return pd.DataFrame(rows)


def test_the_front_holds_the_best_whichever_way_a_quality_counts(small):
    frame = trade_off(
        psnr=[40.0, 30.0, 35.0], spectrum_error=[0.1, 0.3, 0.2], vif=[0.9, 0.8, 0.7],
        detail_error=[0.2, 0.1, 0.3], mine=[1.0, 2.0, 3.0],
    )  # fmt: skip
    picker = ParetoPicker(frame, small, prompt="a red circle")
    for column, best in (
        ("psnr", [True, False, True]),
        ("spectrum_error", [True, False, True]),
        ("detail_error", [False, True, True]),
        ("vif", [False] * 3),  # neither more nor less is better
        ("mine", [False, False, True]),
    ):
        picker.value.value = column
        assert [p["front"] for p in picker.scatter.points] == best, column
        assert [p["cells"][-1] for p in picker.table.points] == ["yes" if b else "" for b in best]
    picker.close()


def test_methods_that_lack_a_quality_or_a_speed_are_left_out_and_counted(small):
    frame = trade_off(psnr=[40.0, 30.0, 20.0], mine=[math.nan, 2.0, math.nan])
    frame.loc[(frame.kind == "time") & (frame.speedup == 3), "speedup"] = math.nan
    picker = ParetoPicker(frame, small, prompt="a red circle")
    names = [repr(fv.Prune({-1: place / 10})) for place in (1, 2, 3)]
    assert [p["name"] for p in picker.scatter.points] == [names[0], names[2]]
    assert "1 of 3 methods lack this or a speedup" in picker.note.value
    json.dumps(picker.scatter.points, allow_nan=False)
    picker.scatter.picked = 1
    picker.value.value = "mine"  # of which no method is left
    assert (picker.scatter.points, picker.scatter.picked, picker.method) == ([], -1, None)
    assert "3 of 3" in picker.note.value
    picker.close()
    frame = trade_off(psnr=[40.0, 30.0], mine=[math.nan, 2.0])
    picker = ParetoPicker(frame, small, prompt="a red circle")
    assert picker.note.value == '<span role="status"></span>'
    picker.scatter.picked = 1
    picker.value.value = "mine"
    assert (picker.scatter.picked, picker.name) == (0, names[1])  # the same method
    assert picker.wait(60)
    picker.close()


def held(monkeypatch, module, name):
    """Let a function of a module wait for a call of what is returned, and tell that it runs."""
    runs, go, function = threading.Event(), threading.Event(), getattr(module, name)

    def waits(*given, **named):
        runs.set()
        assert go.wait(60)
        return function(*given, **named)

    monkeypatch.setattr(module, name, waits)
    return runs, go


def test_times_of_methods_that_changed_meanwhile_are_dropped(explorer, monkeypatch):
    runs, go = held(monkeypatch, time_panel, "step_times")
    panel, shown = explorer.time, []
    monkeypatch.setattr(panel, "shown", shown.append)
    panel.run_stop.click()
    assert runs.wait(60)
    explorer.ratios[-1].value = 0.9
    assert panel.run_stop.description == "Run"
    assert "done" in drawn(explorer)
    go.set()
    assert panel.wait(60)
    assert (panel.times, panel.table.value, shown) == (None, "", [])
    assert "Run measures both methods" in panel.status.value
    assert "GFLOP" in explorer.strip.cells[-1]["bars"][0]["text"]


def test_a_survey_of_methods_that_changed_meanwhile_is_dimmed(explorer, monkeypatch):
    runs, go = held(monkeypatch, survey_panel, "survey")
    survey, share = explorer.survey, explorer.ratios[-1].value
    survey.seeds.value = 1
    survey.run_stop.click()
    assert runs.wait(60)
    explorer.ratios[-1].value = 0.9
    assert "done" in drawn(explorer)
    go.set()
    assert survey.wait(60)
    assert len(survey.samples) == 1
    assert {"fv-stale" in part._dom_classes for part in survey.results} == {True}
    explorer.ratios[-1].value = share
    assert "done" in drawn(explorer)
    assert {"fv-stale" in part._dom_classes for part in survey.results} == {False}


def test_the_button_of_full_generation_keeps_its_label(small, monkeypatch):
    _, trace = fv.observe(small, "a red circle", fv.Prune({-1: 0.5}), seed=1)
    browser, label = ScaleBrowser(trace, small), "Draw full generation too"
    assert browser.run_stop.description == label
    runs, go = held(monkeypatch, scale_browser, "observe")
    browser.run_stop.click()
    assert runs.wait(60)
    assert browser.run_stop.description == "Stop"
    browser.run_stop.click()
    assert browser.run_stop.description == label
    go.set()
    assert browser.wait(60)
    assert browser.full is None
    browser.run_stop.click()
    assert browser.wait(60)
    assert browser.full is not None
    assert browser.run_stop.description == label
    browser.close()


def test_methods_inside_others_are_shown_or_refused_before_anything_changes(explorer):
    a = explorer.a
    for method in (
        fv.Tail(fv.FocusVAR(layer=2), skip_from=-1),
        fv.Tail(fv.FocusVAR(fv.Prune({-1: 0.5}), layer=1), skip_from=-1),
        fv.FocusVAR(layer=1),
    ):
        explorer.apply(method)
        assert "done" in drawn(explorer)
        assert (explorer.method, explorer.shown.method) == (method, method)
    before, controls = a.family.value, dict(a.controls)
    for method, message in (
        (fv.Tail(fv.Prune({-1: 0.5}, select=Norm()), cond_from=-1), "the selector must be one of"),
        (fv.Tail(Holds(), cond_from=-1), "the controls know .*; not Holds"),
        (fv.Tail(fv.FocusVAR(Holds(), layer=1), skip_from=-1), "the controls know .*; not Holds"),
    ):
        with pytest.raises(ValueError, match=message):
            explorer.apply(method)
        assert (a.family.value, a.controls, explorer.method) == (
            before,
            controls,
            fv.FocusVAR(layer=1),
        )


def test_a_family_that_its_controls_refuse_says_so_under_its_name(small):
    kind = make_dataclass("Odd", [("mode", Literal["a", "b"], "a")], bases=(Plain,), frozen=True)
    explorer = Explorer(small, "a red circle", seed=3, methods={"odd": kind("c")})
    before = explorer.method
    explorer.a.family.text = "odd"
    assert "mode must be one of a, b; not c" in explorer.a.family.error
    assert (explorer.a.family.text, explorer.method) == ("FastVAR", before)
    assert "done" in drawn(explorer)
    explorer.ratios[-1].value = 0.5
    assert explorer.a.family.error == ""
    assert "done" in drawn(explorer)
    with pytest.raises(ValueError, match="mode must be one of a, b; not c"):
        explorer.apply(kind("c"))
    assert explorer.a.family.value == "FastVAR"
    assert explorer.ratios[-1].value == 0.5
    explorer.close()


def test_pictures_of_one_stream_of_noise_are_named_by_their_prompts(small):
    prompts, method = ["a red circle", "a blue ring", "a blue ring"], fv.Prune({-1: 0.5})
    _, trace = fv.observe(small, prompts, method, draws=fv.Streamed(0))
    browser = ScaleBrowser(trace, small)
    assert browser.picture.options == ["a red circle", "a blue ring", "a blue ring (2)"]
    before = browser.viewer.data("sofar")
    browser.picture.text = "a blue ring"
    assert browser.viewer.data("sofar") != before
    browser.close()


@pytest.mark.parametrize(
    "options",
    [{"draws": fv.Streamed(0)}, {"sampling": fv.Sampling(top_k=3)}, {"negative": "a ring"}],
)
def test_full_generation_is_offered_where_the_trace_says_how(small, options):
    _, trace = fv.observe(small, "a red circle", fv.Prune({-1: 0.5}), **options)
    browser = ScaleBrowser(trace, small)
    assert "fv-hidden" in browser.run_stop._dom_classes
    with pytest.raises(ValueError, match="full generation takes keyed draws"):
        browser.update()
    browser.close()
    _, full = fv.observe(small, "a red circle", fv.Dense(), **options)
    given = ScaleBrowser(trace, small, full)
    assert not given.viewer.p1["hidden"]
    given.close()
    _, other = fv.observe(small, "a red circle", fv.Dense())
    with pytest.raises(ValueError, match="full generation has other"):
        ScaleBrowser(trace, small, other)
