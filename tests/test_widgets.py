"""Widgets without a browser: controls, what they show, what they refuse, what they export."""

import threading
import time

import pytest

import fastvar_lab as fv
from fastvar_lab.widgets import Explorer
from fastvar_lab.widgets.worker import Newest


@pytest.fixture
def explorer(small):
    made = Explorer(small, "a red circle", seed=3)
    assert made.wait(60)
    return made


def test_a_slider_changes_the_picture_and_the_numbers(explorer, small):
    assert explorer.shown.first_step == 3
    before = explorer.pictures["FastVAR"].value
    explorer.ratios[-1].value = 0.9
    assert explorer.wait(60)
    assert explorer.shown.first_step == 4
    assert explorer.pictures["FastVAR"].value != before
    scratch = fv.generate(small, "a red circle", fv.Prune({-2: 0.5, -1: 0.9}), seed=3)
    assert (explorer.shown.fast == fv.to_uint8(small.decode(scratch.canvas))[0]).all()
    assert f"<b>{explorer.shown.psnr:.1f}</b> dB" in explorer.numbers.value
    assert "8x8" in explorer.costs.value


def test_masks_follow_their_controls(explorer):
    before = explorer.pictures["kept tokens"].value
    explorer.layer.value = 2
    other = explorer.pictures["kept tokens"].value
    assert other != before
    explorer.scale.value = 0  # the 1x1 step forwards everything
    assert explorer.pictures["kept tokens"].value == explorer.pictures["FastVAR"].value


def test_a_bad_prompt_is_said_kindly_and_recovered_from(explorer):
    explorer.prompt.value = "a red circl"
    assert explorer.wait(60)
    assert "unknown word 'circl'" in explorer.status.value.replace("&#x27;", "'")
    assert "role" in explorer.status.value
    explorer.prompt.value = "a blue circle"
    assert explorer.wait(60)
    assert "ran from step" in explorer.status.value
    explorer.cache.value = -1 - 1  # a pruned step cannot be restored from
    assert explorer.wait(60)
    assert "cache step" in explorer.status.value


def test_the_schedule_runs_as_python(explorer, small, monkeypatch):
    explorer.select.value = "random"
    explorer.restore.value = "nearest kept"
    explorer.layers.value = (1, 2)
    assert explorer.wait(60)
    monkeypatch.setattr(fv, "load", lambda name: small)
    space = {}
    exec(explorer.schedule.value, space)
    assert space["method"] == explorer.method
    assert (fv.to_uint8(small.decode(space["made"].canvas))[0] == explorer.shown.fast).all()


def test_figures_and_traces_are_saved(explorer, tmp_path):
    explorer.name.value = str(tmp_path / "found")
    explorer.save.click()
    explorer.keep.click()
    assert {p.suffix for p in tmp_path.iterdir()} == {".pdf", ".png", ".safetensors"}
    assert fv.Trace.load(tmp_path / "found.safetensors").provenance["seeds"] == [3]
    explorer.name.value = str(tmp_path / "nowhere" / "found")
    explorer.keep.click()
    assert "No such file" in explorer.status.value


def test_every_control_has_a_label(explorer):
    controls = [explorer.prompt, explorer.seed, *explorer.ratios.values(), explorer.cache,
                explorer.layers, explorer.select, explorer.restore, explorer.scale,
                explorer.layer, explorer.kind, explorer.schedule, explorer.name]  # fmt: skip
    assert all(control.description for control in controls)
    assert all(image.tooltip for image in explorer.pictures.values())


def test_the_newest_request_wins_and_a_stop_ends_what_runs():
    worker, done, seen = Newest(pause=0.02), [], threading.Event()

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
