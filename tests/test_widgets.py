"""Widgets without a browser: controls, what they show, what they refuse, what they export."""

import threading
import time
from dataclasses import dataclass
from functools import partial

import pandas as pd
import pytest

import fastvar_lab as fv
from fastvar_lab.experiments.base import Scope
from fastvar_lab.experiments.run import compare
from fastvar_lab.methods.columns import family
from fastvar_lab.prompts import ClosedWorld, PromptList
from fastvar_lab.store import Store
from fastvar_lab.widgets import Explorer, ParetoPicker, ScaleBrowser
from fastvar_lab.widgets.worker import Newest


@pytest.fixture
def explorer(small):
    widget = Explorer(small, "a red circle", seed=3)
    assert widget.wait(60)
    return widget


def test_a_slider_changes_the_picture_and_the_numbers(explorer, small):
    assert explorer.shown.first_step == 3
    before = explorer.gallery.pictures["FastVAR"].value
    explorer.ratios[-1].value = 0.9
    assert explorer.wait(60)
    assert explorer.shown.first_step == 4
    assert explorer.gallery.pictures["FastVAR"].value != before
    scratch = fv.generate(small, "a red circle", fv.Prune({-2: 0.5, -1: 0.9}), seed=3)
    assert (explorer.shown.fast == fv.to_uint8(small.decode(scratch.canvas))[0]).all()
    assert f"<b>{explorer.shown.psnr:.1f}</b> dB" in explorer.numbers.value
    assert "8x8" in explorer.costs.value


def test_masks_follow_their_controls(explorer):
    before = explorer.gallery.pictures["kept tokens"].value
    explorer.layer.value = 2
    other = explorer.gallery.pictures["kept tokens"].value
    assert other != before
    explorer.scale.value = 0  # the 1x1 step forwards everything
    assert (
        explorer.gallery.pictures["kept tokens"].value == explorer.gallery.pictures["FastVAR"].value
    )


def test_a_bad_prompt_is_said_kindly_and_recovered_from(explorer):
    explorer.prompt.value = "a red circl"
    assert explorer.wait(60)
    assert "unknown word 'circl'" in explorer.status.value.replace("&#x27;", "'")
    assert "role" in explorer.status.value
    explorer.prompt.value = "a blue circle"
    assert explorer.wait(60)
    assert "scale steps" in explorer.status.value
    explorer.cache.value = -1 - 1  # a pruned step cannot be restored from
    assert explorer.wait(60)
    assert "cache step" in explorer.status.value


def test_the_schedule_runs_as_python(explorer, small, monkeypatch):
    monkeypatch.setattr(small, "source", "fv.load('small')")
    explorer.select.value = "random"
    explorer.restore.value = "nearest kept"
    explorer.layers.value = (1, 2)
    assert explorer.wait(60)
    monkeypatch.setattr(fv, "load", lambda name: small)
    space = {}
    exec(explorer.schedule.value, space)
    assert space["method"] == explorer.method
    assert (fv.to_uint8(small.decode(space["generation"].canvas))[0] == explorer.shown.fast).all()


def test_figures_and_traces_are_saved(explorer, tmp_path):
    explorer.name.value = str(tmp_path / "found")
    explorer.save.click()
    explorer.keep.click()
    assert {p.suffix for p in tmp_path.iterdir()} == {".pdf", ".png", ".safetensors"}
    assert fv.Trace.load(tmp_path / "found.safetensors").provenance["seeds"] == [3]
    explorer.save.click()  # nothing is overwritten
    assert {"found.pdf", "found-2.pdf"} <= {p.name for p in tmp_path.iterdir()}
    explorer.name.value = str(tmp_path / "nowhere" / "found")
    explorer.keep.click()
    assert "nowhere does not exist" in explorer.status.value
    explorer.name.value = " "
    explorer.save.click()
    assert "name the file to save" in explorer.status.value


def test_every_control_has_a_label(explorer):
    controls = [explorer.prompt, explorer.seed, *explorer.ratios.values(), explorer.cache,
                explorer.layers, explorer.select, explorer.restore, explorer.scale,
                explorer.layer, explorer.kind, explorer.schedule, explorer.name]  # fmt: skip
    assert all(control.description for control in controls)
    titles = [box.children[0].value.split(",")[0] for box in explorer.gallery.children]
    assert titles == list(explorer.gallery.pictures)


def test_the_newest_request_wins_and_a_stop_ends_what_runs():
    worker, done, seen = Newest(pause=0.5), [], threading.Event()

    def slow(stopped):
        seen.set()
        while not stopped():
            time.sleep(0.005)
        done.append("stopped")

    worker.ask(slow)
    assert seen.wait(5)
    for i in range(3):
        worker.ask(lambda stopped, i=i: done.append(i))
    assert worker.wait(5)
    assert done == ["stopped", 2]
    seen.clear()
    worker.ask(slow)
    assert seen.wait(5)
    worker.cancel()
    assert worker.wait(5)
    assert done == ["stopped", 2, "stopped"]


def test_pickers_and_text_follow_each_other():
    model = fv.load("tiny", weights="random")
    explorer = Explorer(model, "two red squares and a ring")
    explorer.worker.cancel()
    picker = explorer.children[1]
    assert explorer.python().splitlines()[2] == "model = fv.load('tiny', weights='random')"
    explorer.model.sizes = explorer.model.sizes[1:]
    assert explorer.python().splitlines()[3] == f"model.sizes = {explorer.model.sizes}"
    assert picker.first.count.value == 2
    assert picker.first.color.value == "red"
    assert picker.second.shape.value == "ring"
    assert picker.second.color.label == "any"
    picker.first.texture.value = "dotted"
    assert explorer.prompt.value == "two red dotted squares and a ring"
    picker.joint.value = "above"
    assert "relates two single objects" in explorer.status.value
    picker.first.count.value = 1
    assert explorer.prompt.value == "a red dotted square above a ring"
    picker.joint.value = "nothing else"
    assert explorer.prompt.value == "a red dotted square"
    assert picker.second.layout.display == "none"
    explorer.worker.cancel()
    explorer.prompt.value = "a star and a ring and a cross"  # three groups are for typing
    assert picker.first.shape.value == "square"
    explorer.worker.cancel()
    assert explorer.wait(60)


def test_a_method_sets_the_controls(explorer, small):
    method = fv.Prune({8: 0.6, 6: 0.25}, select=fv.HighPass(), cache_step=-4, layers=(1, 3))
    explorer.apply(method)
    assert explorer.wait(60)
    assert explorer.cache.label == "2x2"
    assert explorer.method == fv.Prune(
        {-2: 0.25, -1: 0.6}, select=fv.HighPass(), cache_step=-4, layers=(1, 3)
    )
    made = fv.generate(small, "a red circle", method, seed=3)
    assert (explorer.shown.fast == fv.to_uint8(small.decode(made.canvas))[0]).all()
    explorer.apply(fv.Prune({-1: 0.5}))
    assert explorer.cache.label == "last unpruned step"
    with pytest.raises(ValueError, match="no slider for the scale 1x1"):
        explorer.apply(fv.Prune({1: 1.0}))
    with pytest.raises(ValueError, match="the selector must be one of"):
        explorer.apply(fv.Prune({-1: 0.5}, select=fv.Random(7)))
    with pytest.raises(ValueError, match="whole percents"):
        explorer.apply(fv.Prune({-1: 1 / 3}))
    with pytest.raises(ValueError, match="reach beyond the 3 layers"):
        explorer.apply(fv.Prune({-1: 0.5}, layers=(1, 9)))
    with pytest.raises(ValueError, match="pruning of sublayers in both rows"):
        explorer.apply(fv.Prune({-1: 0.5}, granularity="block"))


def test_stop_says_so_and_run_goes_on(explorer, monkeypatch):
    monkeypatch.setattr(explorer.worker, "pause", 1.0)
    before = explorer.gallery.pictures["FastVAR"].value
    explorer.ratios[-1].value = 0.5
    assert explorer.run_stop.description == "Stop"
    explorer.run_stop.click()
    assert explorer.wait(60)
    assert "stopped" in explorer.status.value
    assert explorer.gallery.pictures["FastVAR"].value == before
    explorer.run_stop.click()
    assert explorer.wait(60)
    assert explorer.run_stop.description == "Run"
    assert explorer.shown.method.pairs[-1] == (-1, 0.5)
    assert explorer.progress.value == 5


def test_a_stop_while_the_page_is_written_comes_after_it(explorer, monkeypatch):
    writing, put = threading.Event(), explorer.gallery.put

    def slow_put(*shown):
        writing.set()
        time.sleep(0.3)  # for a stop to come meanwhile
        put(*shown)

    monkeypatch.setattr(explorer.gallery, "put", slow_put)
    refused = partial(explorer.apply, fv.Prune({-1: 1 / 3}))
    for ratio, act, told in (
        (0.5, explorer.run_stop.click, "stopped"),
        (0.7, partial(explorer.guarded, refused), "whole percents"),
    ):
        writing.clear()
        explorer.ratios[-1].value = ratio
        assert writing.wait(60)
        act()
        assert explorer.wait(60)
        assert told in explorer.status.value
        assert explorer.run_stop.description == "Run"


def test_a_saved_figure_tells_of_the_picture_that_is_shown(explorer, tmp_path):
    explorer.prompt.value = "a red circl"
    explorer.name.value = str(tmp_path / "shown")
    explorer.save.click()
    assert "saved" in explorer.status.value
    assert (explorer.shown.prompt, explorer.shown.seed) == ("a red circle", 3)


def test_an_explorer_takes_any_family():
    model = fv.load("var-d16", weights="random", depth=2, sizes=((1, 1), (2, 2), (4, 6)))
    explorer = Explorer(model)
    assert explorer.prompt.value == "0"
    assert explorer.wait(60)
    assert "tokens changed" in explorer.numbers.value
    explorer.prompt.value = "a cat"
    assert explorer.wait(60)
    assert "alert" in explorer.status.value


def test_a_failure_in_the_worker_shows_in_the_widget(explorer, monkeypatch):
    def fail(*_):
        raise KeyError("nobody expected this")

    monkeypatch.setattr(explorer.lab, "compare", fail)
    explorer.ratios[-1].value = 0.5
    assert explorer.wait(60)
    assert "KeyError" in explorer.status.value
    assert "alert" in explorer.status.value
    assert explorer.progress.layout.display == "none"


def test_scale_steps_are_browsed(small, tmp_path):
    method = fv.Prune({-3: 1.0, -1: 0.5})
    _, trace = fv.observe(small, ["a red circle", "a blue ring"], method, seed=1)
    browser = ScaleBrowser(trace, small)
    assert browser.status.value.count("1x1: 1 of 1 tokens")
    seen = []
    for step in range(5):
        browser.step.value = step
        seen.append(browser.gallery.pictures["picture so far"].value)
    assert "32 of 64 tokens forwarded by attn of layer 0" in browser.status.value
    assert len(set(seen)) == 4  # the skipped step changes nothing
    browser.step.value = 2
    assert "skipped" in browser.status.value
    browser.picture.value = 1
    assert browser.gallery.pictures["picture so far"].value != seen[2]
    trace.save(tmp_path / "kept.safetensors")
    ScaleBrowser(fv.Trace.load(tmp_path / "kept.safetensors"), small)
    with pytest.raises(ValueError, match="made with the weights"):
        ScaleBrowser(trace, fv.load("tiny", weights="random"))


def test_a_point_of_the_trade_off_is_picked_and_sent(explorer, small, tmp_path):
    schedules = [{-1: 0.5}, {-2: 0.5, -1: 0.75}, {-1: 1.0}]
    ways, store = [fv.Prune(ratios) for ratios in schedules], Store(tmp_path)
    prompts = ClosedWorld().take(2)
    small_set = PromptList([item.prompt for item in prompts], judge=ClosedWorld.judge)
    look = Scope("test", 2, 1)
    frame = compare(small, ways, look, prompts=small_set, store=store, progress=False)
    frame = frame.assign(disturbed=frame.disturbed & False)  # one turn has no spread to judge
    picker = ParetoPicker(frame, small, explorer, "a red circle", 3)
    assert picker.hand_over.disabled
    assert sum(p["front"] for p in picker.scatter.points) >= 1
    before = picker.gallery.pictures["picked"].value
    picker.scatter.picked = 1
    assert picker.wait(60)
    assert picker.point.value == 1
    assert picker.gallery.pictures["picked"].value != before
    assert "PSNR" in picker.status.value
    picker.hand_over.click()
    assert explorer.wait(60)
    assert explorer.method.pairs == picker.method.pairs
    picker.value.value = "right"
    assert picker.scatter.y_label == "score"
    with pytest.raises(ValueError, match="compares methods"):
        ParetoPicker(pd.DataFrame({"ms": [1.0]}), small)


@dataclass(frozen=True)
class Norm:
    """A selector of one's own."""

    def scores(self, x, grid, site):
        return x.norm(dim=-1)


def test_rules_of_ones_own_are_offered_and_exported(small):
    explorer = Explorer(small, "a red circle", seed=3, selectors={"norm": Norm()})
    assert explorer.wait(60)
    explorer.select.value = "norm"
    assert explorer.wait(60)
    assert explorer.method.select == Norm()
    assert "select=Norm()" in explorer.schedule.value
    explorer.apply(fv.Prune({-1: 0.5}))
    assert explorer.select.value == "far from mean (PTS)"
    explorer.apply(fv.Prune({-1: 0.5}, select=Norm()))
    assert explorer.select.value == "norm"
    for other in (fv.Merge({-1: 0.5}), fv.Dense()):
        with pytest.raises(ValueError, match="the controls express a Prune"):
            explorer.apply(other)


def test_points_of_ones_own_methods_are_picked(small):
    mine = fv.Prune({-1: 0.5}, select=Norm())
    rows = [
        {
            "kind": "quality",
            "method": name,
            "repr": repr(m),
            "family": family(m),
            "picture": 0,
            "psnr": 30.0,
            "right": 1.0,
        }
        for name, m in (("full", fv.Dense()), ("mine", mine))
    ]
    rows += [{**row, "kind": "time", "speedup": 1.5, "speedup_flop_bound": 2.0} for row in rows]
    picker = ParetoPicker(pd.DataFrame(rows), small, prompt="a red circle", methods={"mine": mine})
    picker.scatter.picked = 0
    assert picker.method == mine
    assert picker.wait(60)
    assert "PSNR" in picker.status.value
