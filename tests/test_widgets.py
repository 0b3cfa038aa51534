"""Widgets without a browser: controls, what they show, what they refuse, what they export."""

import gc
import json
import re
import threading
import time
import weakref
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal as Literal_

import ipywidgets as widgets
import pandas as pd
import pytest
import torch
from ipywidgets.widgets.widget import _instances
from PIL import Image

import fastvar_lab as fv
from fastvar_lab.backbones.var import LabelEncoder
from fastvar_lab.experiments.base import Scope
from fastvar_lab.experiments.explore import Exploration, Stopped
from fastvar_lab.experiments.run import compare
from fastvar_lab.measure.quality import MOST_PSNR, psnr
from fastvar_lab.measure.speedup import Speedup
from fastvar_lab.methods import settings
from fastvar_lab.methods.columns import family
from fastvar_lab.models.features import StoredFeatures
from fastvar_lab.plotting import panels
from fastvar_lab.prompts import ClosedWorld, PromptList
from fastvar_lab.store import Store
from fastvar_lab.widgets import Explorer, ParetoPicker, ScaleBrowser, lifetime
from fastvar_lab.widgets.budget_panel import BudgetPanel
from fastvar_lab.widgets.fields import Field, Layers, Literal
from fastvar_lab.widgets.number_fields import Integer, Share, Span
from fastvar_lab.widgets.python_source import python_source
from fastvar_lab.widgets.worker import Newest
from tests import standins
from tests.families import small_model


@pytest.fixture
def explorer(small):
    widget = Explorer(small, "a red circle", seed=3)
    assert widget.wait(60)
    return widget


def test_a_slider_changes_the_picture_and_the_numbers(explorer, small):
    assert explorer.shown.first_step == 3
    before = explorer.viewer.data("a")
    explorer.ratios[-1].value = 0.9
    assert explorer.wait(60)
    assert explorer.shown.first_step == 4
    assert explorer.viewer.data("a") != before
    scratch = fv.generate(small, "a red circle", fv.Prune({-2: 0.5, -1: 0.9}), seed=3)
    assert (explorer.shown.fast == fv.to_uint8(small.decode(scratch.canvas))[0]).all()
    assert f"<b>{explorer.shown.psnr:.1f} dB</b>" in explorer.view.numbers.value
    last = explorer.strip.cells[-1]
    assert last["name"] == "8x8"
    assert last["lines"] == ["11%"]
    gflop = explorer.shown.gflop_full[-1], explorer.shown.gflop_fast[-1]
    assert [bar["text"] for bar in last["bars"]] == [
        f"full: {gflop[0]:.1f} GFLOP",
        f"A: {gflop[1]:.1f} GFLOP",
    ]


def test_masks_follow_their_controls(explorer):
    before = explorer.viewer.data("kept")
    explorer.view.layer.value = 2
    assert explorer.viewer.data("kept") != before
    assert explorer.viewer.p3["note"] == "8x8, attn of layer 2, 25%"
    explorer.strip.picked = 0  # the 1x1 step forwards everything
    assert explorer.viewer.data("kept") == explorer.viewer.data("a")


def test_errors_stand_under_their_field_and_what_is_old_is_dimmed(explorer):
    def old():
        return {"fv-stale" in part._dom_classes for part in explorer.results}

    assert old() == {False}
    explorer.prompt.value = "a red circl"
    assert explorer.wait(60)
    assert "unknown word 'circl'" in explorer.prompt.error
    assert "the prompt: see" in explorer.status.value
    assert "alert" in explorer.status.value
    assert old() == {True}
    explorer.prompt.value = "a blue circle"
    assert old() == {True}  # until it is drawn
    assert explorer.wait(60)
    assert (explorer.prompt.error, old()) == ("", {False})
    explorer.a.controls["cache_step"].value = -3
    assert explorer.wait(60)
    explorer.ratios[-3].value = 0.5  # the step restored from
    assert explorer.wait(60)
    assert "cache step" in explorer.ratios[-3].error
    assert old() == {True}
    explorer.ratios[-3].value = 0.0
    assert explorer.wait(60)
    assert (explorer.ratios[-3].error, old()) == ("", {False})


def test_a_long_prompt_is_not_repeated_by_its_error(explorer):
    for prompt in ("a red circle and " * 60 + "a ring", "x " * 243, "a red circle " * 81):
        explorer.prompt.value = prompt
        assert 10 < len(explorer.prompt.error) < 400
        assert prompt not in explorer.prompt.error
        assert len(explorer.status.value) < 120


def test_only_steps_that_may_be_restored_from_are_offered(explorer):
    cache = explorer.a.controls["cache_step"]
    assert cache.options == ["by itself", "1x1", "2x2", "4x4"]
    explorer.ratios[-2].value = 0
    assert cache.options == ["by itself", "1x1", "2x2", "4x4", "6x6"]
    explorer.ratios[-3].value = 0.3
    assert cache.options == ["by itself", "1x1", "2x2"]
    assert explorer.wait(60)


def test_the_python_of_the_page_draws_the_same_picture(explorer, small, monkeypatch):
    monkeypatch.setattr(small, "source", "fv.load('small')")
    explorer.a.controls["select"].value = fv.Random()
    explorer.a.controls["restore"].value = fv.NearestKept()
    explorer.a.controls["layers"].value = (1, 3)
    assert explorer.wait(60)
    monkeypatch.setattr(fv, "load", lambda name: small)
    space = {}
    exec(explorer.saving.python, space)
    assert space["method"] == explorer.method
    assert (fv.to_uint8(small.decode(space["generation"].canvas))[0] == explorer.shown.fast).all()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"guidance": 4.0}, "model = model.with_guidance(4.0)"),
        ({"top_p": 0.5, "temperature": 2.0}, "model.sampling = fv.Sampling("),
    ],
)
def test_the_python_of_the_page_samples_as_the_model_does(small, monkeypatch, changes, line):
    monkeypatch.setattr(small, "source", "fv.load('small')")
    monkeypatch.setattr(small, "opened", small.sizes)
    monkeypatch.setattr(small, "opened_sampling", small.sampling)
    monkeypatch.setattr(fv, "load", lambda name: replace(small))
    other = replace(small, sampling=replace(small.sampling, **changes))
    python = python_source(other, "a red circle", 3, fv.Prune({-1: 0.5}))
    assert python_source(small, "a red circle", 3, fv.Dense()).count("model") == 3
    assert line in python
    space = {}
    exec(python, space)
    alone = fv.generate(other, "a red circle", fv.Prune({-1: 0.5}), seed=3)
    assert torch.equal(space["generation"].canvas, alone.canvas)
    plain = fv.generate(small, "a red circle", fv.Prune({-1: 0.5}), seed=3)
    assert not torch.equal(plain.canvas, alone.canvas)


def test_a_loaded_model_knows_the_sampling_it_was_opened_with():
    model = fv.load("tiny")
    assert "guidance" not in python_source(model, "a red circle", 3, fv.Dense())
    strong = python_source(model.with_guidance(4.0), "a red circle", 3, fv.Dense())
    assert "model = fv.load('tiny')\nmodel = model.with_guidance(4.0)\n" in strong


def test_the_python_of_the_page_has_the_type_of_the_model(monkeypatch):
    def opened(name):
        model = small_model("infinity")
        model.source, model.opened, model.opened_types = "fv.load('x')", model.sizes, model.types
        return model

    model = opened("x")
    plain = python_source(model, "a red circle", 3, fv.Dense())
    assert "torch" not in plain
    model.to("cpu", torch.float64)
    python = python_source(model, "a red circle", 3, fv.Dense())
    assert python.startswith("import torch\n")
    assert "\nmodel.to('cpu', torch.float64)\n" in python
    monkeypatch.setattr(fv, "load", opened)
    space = {}
    exec(python, space)
    assert torch.equal(
        space["generation"].canvas, fv.generate(model, "a red circle", fv.Dense(), seed=3).canvas
    )
    model.set_precision("int8")
    python = python_source(model, "a red circle", 3, fv.Dense())
    assert f"# model: in {model.precision} on cpu, as you set it" in python


def test_figures_and_traces_are_saved(explorer, tmp_path):
    saving = explorer.saving
    saving.folder = tmp_path
    saving.name.value = "masks.pdf"  # the suffix is left off
    saving.figure.click()
    saving.trace.click()
    files = {"masks.pdf", "masks.png", "masks-2.safetensors"}  # nothing is overwritten
    assert {p.name for p in tmp_path.iterdir()} == files
    assert fv.Trace.load(tmp_path / "masks-2.safetensors").provenance["seeds"] == [3]
    saving.folder = tmp_path / "nowhere"
    saving.trace.click()
    assert "nowhere does not exist" in saving.status.value


NAMES = (
    ".",
    "..",
    "../outside",
    "~/x",
    'con:*?<>|"',
    "x" * 300,
    " ",
    ".hidden",
    "a/b",
    "nul",
    "a\\b",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_no_file_name_is_refused_under_its_field(explorer, tmp_path, name):
    folder = tmp_path / "here"
    folder.mkdir()
    explorer.saving.folder = folder
    explorer.saving.name.value = name
    explorer.saving.figure.click()
    assert 5 < len(explorer.saving.name.error) < 120
    assert list(folder.iterdir()) == []
    assert [p.name for p in tmp_path.iterdir()] == ["here"]


def test_every_control_has_a_label_and_says_what_it_does(explorer):
    def parts(widget):
        yield widget
        for child in getattr(widget, "children", ()):
            yield from parts(child)

    every = list(parts(explorer))
    fields = [part for part in every if isinstance(part, Field)]
    assert len(fields) > 20
    assert [f.label for f in fields if not f.label or not f.help] == []
    buttons = [part for part in every if isinstance(part, widgets.Button)]
    assert [b.description for b in buttons if not b.tooltip] == []
    slots = [getattr(explorer.viewer, slot) for slot in explorer.viewer.slots.values()]
    assert all(slot["alt"] and slot["title"] for slot in slots)
    assert all(image["alt"] for cell in explorer.strip.cells for image in cell["images"])


def test_what_is_typed_is_taken_as_it_is_or_refused():
    share = Share("pruned", 0.5)
    for text in ("30", "30 %", "30%", "0.3", ".3", "0,3"):
        share.value = 0.5
        share.text = text
        assert (share.value, share.error, share.text) == (0.3, "", "30 %"), text
    share.text = "100 %"
    assert share.value == 1
    for text in ("1", "101", "-3", "x", "", "3 0", "1e9"):
        share.text = text
        assert share.error, text
        assert share.invalid, text
        assert share.value == 1, text
    with pytest.raises(ValueError, match="0 % to 100 %"):
        share.value = 1.5
    seed = Integer("seed", 2**40)
    assert seed.text == "1099511627776"
    for text in ("1.5", "1e3", "", "five"):
        seed.text = text
        assert "whole number" in seed.error
    seed.text = " -5 "
    assert (seed.value, seed.error, seed.text) == (-5, "", "-5")
    span = Span("range", (None, None))
    for text, value in (("1.5 to 2", (1.5, 2)), ("from 3", (3, None)), ("to 4,5", (None, 4.5)),
                        (" ", (None, None)), ("-1 to -0.5", (-1, -0.5))):  # fmt: skip
        span.text = text
        assert (span.value, span.error) == (value, ""), text
    for text in ("2 to 1", "to", "from", "1 2", "x"):
        span.text = text
        assert span.error, text
    layers = Layers("layers", None, depth=4, optional=True)
    assert layers.text == "0 3"
    layers.text = "1 2"
    assert layers.value == (1, 3)
    layers.text = "2 1"
    assert "upwards" in layers.error
    layers.text = "0 3"
    assert layers.value is None
    plain = Literal("ranks", {-1: 0.5})
    plain.text = "__import__('os')"
    assert plain.error
    plain.text = "{-1: 0.25}"
    assert (plain.value, plain.error) == ({-1: 0.25}, "")


@pytest.mark.parametrize("seed", [2**40, -5])
def test_any_seed_is_drawn(small, seed):
    explorer = Explorer(small, "a red circle", seed=seed)
    assert explorer.wait(60)
    assert (explorer.seed.value, explorer.shown.seed) == (seed, seed)
    full = fv.generate(small, "a red circle", fv.Dense(), seed=seed)
    assert (fv.to_uint8(small.decode(full.canvas))[0] == explorer.shown.full).all()
    explorer.close()


def test_a_closed_widget_frees_what_it_held(small):
    before = len(_instances)
    explorer = Explorer(small, "a red circle", seed=3)
    assert explorer.wait(60)
    canvas = weakref.ref(explorer.lab.full[0].canvas)
    held = weakref.ref(explorer)
    explorer.a.family.value = "ToMe"  # the controls of FastVAR go
    assert explorer.wait(60)
    explorer.close()
    explorer.close()
    gc.collect()
    assert canvas() is None  # even while a variable holds the widget
    assert explorer.comm is None
    del explorer
    gc.collect()
    assert held() is None
    assert len(_instances) == before


def test_every_widget_frees_its_parts(small):
    before = len(_instances)
    _, trace = fv.observe(small, "a red circle", fv.Prune({-1: 0.5}), seed=1)
    browser = ScaleBrowser(trace, small)
    assert len(_instances) > before
    browser.close()
    assert len(_instances) == before


def test_without_a_view_memory_is_freed_and_comes_back_with_one(explorer):
    explorer.viewer._received(None, {"views": 1}, None)
    explorer.viewer._received(None, {"views": -1}, None)
    assert explorer.lab.full is None
    assert explorer.duel is None
    explorer.viewer._received(None, {"views": 1}, None)
    assert explorer.wait(60)
    assert explorer.shown is not None
    explorer.cell, explorer.execution = "a cell", 1
    lifetime.LATEST["a cell"] = 2  # the cell has run again
    explorer.viewer._received(None, {"views": -1}, None)
    assert explorer.closed


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
    picker = explorer.request.pickers[0]
    assert explorer.python().splitlines()[2] == "model = fv.load('tiny', weights='random')"
    explorer.model.sizes = explorer.model.sizes[1:]
    assert explorer.python().splitlines()[3] == f"model.sizes = {explorer.model.sizes}"
    assert picker.first.count.value == 2
    assert picker.first.color.value == "red"
    assert picker.second.shape.value == "ring"
    assert picker.second.color.text == "any"
    picker.first.texture.value = "dotted"
    assert explorer.prompt.value == "two red dotted squares and a ring"
    picker.joint.value = "above"
    assert "relates two single objects" in explorer.prompt.error
    picker.joint.value = "and"
    assert (explorer.prompt.error, explorer.run_stop.description) == ("", "Stop")
    assert explorer.prompt.value == "two red dotted squares and a ring"
    explorer.worker.cancel()
    picker.joint.value = "above"
    assert "relates two single objects" in explorer.prompt.error
    picker.first.count.value = 1
    assert explorer.prompt.value == "a red dotted square above a ring"
    picker.joint.value = "nothing else"
    assert explorer.prompt.value == "a red dotted square"
    assert "fv-hidden" in picker.second._dom_classes
    explorer.worker.cancel()
    explorer.prompt.value = "a star and a ring and a cross"  # three groups are for typing
    assert picker.first.shape.value == "square"
    controls = [*picker.first.children, picker.joint, *picker.second.children]
    assert all(control.disabled for control in controls)  # else they would replace the prompt
    assert "3 groups, and these lists hold two" in picker.note.value
    assert "fv-hidden" not in picker.note._dom_classes
    explorer.worker.cancel()
    explorer.prompt.value = "a star and a ring"
    assert not any(control.disabled for control in controls)
    assert picker.first.shape.value == "star"
    assert "fv-hidden" in picker.note._dom_classes
    explorer.worker.cancel()
    assert explorer.wait(60)


def test_a_method_sets_the_controls(explorer, small):
    method = fv.Prune({8: 0.6, 6: 0.25}, select=fv.HighPass(), cache_step=-4, layers=(1, 3))
    explorer.apply(method)
    assert explorer.wait(60)
    assert explorer.a.controls["cache_step"].text == "2x2"
    assert explorer.method == fv.Prune(
        {-2: 0.25, -1: 0.6}, select=fv.HighPass(), cache_step=-4, layers=(1, 3)
    )
    made = fv.generate(small, "a red circle", method, seed=3)
    assert (explorer.shown.fast == fv.to_uint8(small.decode(made.canvas))[0]).all()
    explorer.apply(fv.Prune({-1: 0.5}))
    assert explorer.a.controls["cache_step"].text == "by itself"
    explorer.apply(fv.Prune({1: 1.0, 8: 1 / 3}))  # earlier scales have sliders too
    assert explorer.ratios[-5].value == 1
    assert explorer.ratios[-1].text == "33.3333 %"
    with pytest.raises(ValueError, match="the selector must be one of"):
        explorer.apply(fv.Prune({-1: 0.5}, select=fv.Random(7)))
    with pytest.raises(ValueError, match="reach beyond the 3 layers"):
        explorer.apply(fv.Prune({-1: 0.5}, layers=(1, 9)))
    blocks = fv.Prune({-1: 0.5}, granularity="block", sublayers=("attn",), null_until=-2)
    explorer.apply(blocks)
    assert explorer.method == blocks
    assert explorer.wait(60)


def test_stop_says_so_and_run_goes_on(explorer, monkeypatch):
    monkeypatch.setattr(explorer.worker, "pause", 1.0)
    before = explorer.viewer.data("a")
    explorer.ratios[-1].value = 0.5
    assert explorer.run_stop.description == "Stop"
    explorer.run_stop.click()
    assert explorer.wait(60)
    assert "stopped; the pictures are those of an earlier request" in explorer.status.value
    assert explorer.viewer.data("a") == before
    explorer.run_stop.click()
    assert explorer.wait(60)
    assert explorer.run_stop.description == "Run"
    assert explorer.shown.method.pairs[-1] == (-1, 0.5)
    assert explorer.progress.value == 5


def stopped(panel):
    panel.run_stop.click()
    assert panel.run_stop.description == "Stop"
    panel.run_stop.click()
    assert panel.wait(60)
    return re.sub("<[^>]*>", "", panel.status.value)


def test_a_stop_names_no_pictures_where_there_are_none(explorer, small, monkeypatch):
    monkeypatch.setattr(explorer.time.worker, "pause", 1.0)
    assert stopped(explorer.time) == "stopped"
    monkeypatch.setattr(explorer.survey.worker, "pause", 1.0)
    assert stopped(explorer.survey) == "stopped"
    explorer.survey.seeds.value = 1
    monkeypatch.setattr(explorer.survey.worker, "pause", 0.0)
    explorer.survey.run_stop.click()
    assert explorer.survey.wait(60)
    monkeypatch.setattr(explorer.survey.worker, "pause", 1.0)
    assert stopped(explorer.survey).endswith("those of an earlier request")
    browser = ScaleBrowser(explorer.shown.trace, small)
    monkeypatch.setattr(browser.worker, "pause", 1.0)
    assert stopped(browser) == "stopped"
    browser.close()
    first = Explorer(small, "a red circle", seed=4)
    first.worker.cancel()
    first.run_stop.description = "Stop"
    first.run_stop.click()
    assert "pictures" not in first.status.value
    first.close()


def test_a_stop_while_the_page_is_written_comes_after_it(explorer, monkeypatch):
    writing, put = threading.Event(), explorer.viewer.put

    def slow_put(*shown, **notes):
        writing.set()
        time.sleep(0.1)  # for a stop to come meanwhile
        put(*shown, **notes)

    monkeypatch.setattr(explorer.viewer, "put", slow_put)
    refused = partial(explorer.apply, fv.Prune({-1: 0.5}, select=fv.Random(7)))
    for ratio, act, message in (
        (0.5, explorer.run_stop.click, "stopped"),
        (0.7, partial(explorer.guarded, refused), "selector must be one of"),
    ):
        writing.clear()
        explorer.ratios[-1].value = ratio
        assert writing.wait(60)
        act()
        assert explorer.wait(60)
        assert message in explorer.status.value
        assert explorer.run_stop.description == "Run"


def test_a_saved_figure_tells_of_the_picture_that_is_shown(explorer, tmp_path):
    explorer.prompt.value = "a red circl"
    explorer.saving.folder = tmp_path
    explorer.saving.figure.click()
    assert "saved" in explorer.saving.status.value
    assert (explorer.shown.prompt, explorer.shown.seed) == ("a red circle", 3)


def test_a_saved_figure_shows_what_the_page_shows(explorer, tmp_path, monkeypatch):
    drawn = []

    def kept(full, fast, *rest, **named):
        drawn.append((full, fast, rest, named))
        return comparison(full, fast, *rest, **named)

    comparison = panels.comparison
    monkeypatch.setattr(panels, "comparison", kept)
    explorer.saving.folder = tmp_path
    explorer.saving.figure.click()
    explorer.b.apply(fv.Prune({-1: 1.0}))
    explorer.update()
    assert explorer.wait(60)
    explorer.saving.figure.click()
    duel = explorer.duel
    (full, _, _, plain), (left, right, rest, named) = drawn
    assert (full * 255 == duel.a.full).all()
    assert (plain["base"], plain["name"]) == ("full", "FastVAR")
    assert (left * 255 == duel.b.fast).all()
    assert not (duel.b.fast == duel.b.full).all()
    assert (right * 255 == duel.a.fast).all()
    assert rest[2:4] == (duel.b.gflop_fast, duel.a.gflop_fast)
    assert f"PSNR {duel.psnr:.1f} dB" in rest[4]
    assert (named["base"], named["name"]) == (f"B: {family(duel.b.method)}", "A: FastVAR")


def test_an_explorer_takes_any_family():
    model = fv.load("var-d16", weights="random", depth=2, sizes=((1, 1), (2, 2), (4, 6)))
    explorer = Explorer(model)
    assert explorer.prompt.value == "0"
    assert explorer.wait(60)
    assert "tokens changed" in explorer.view.numbers.value
    explorer.prompt.value = "a cat"
    assert explorer.wait(60)
    assert "a class lies in 0 to 999" in explorer.prompt.error


def test_a_failure_in_the_worker_shows_in_the_widget(explorer, monkeypatch):
    def fail(*_):
        raise KeyError("nobody expected this")

    monkeypatch.setattr(explorer.lab, "duel", fail)
    explorer.ratios[-1].value = 0.5
    assert explorer.wait(60)
    assert "KeyError" in explorer.status.value
    assert "alert" in explorer.status.value
    assert explorer.progress.layout.visibility == "hidden"


def test_steps_of_one_forward_are_shown_apart(explorer, small, tmp_path):
    method = fv.LazyVAR({-2: 0.6, -1: 0.8})
    explorer.apply(method)
    assert explorer.wait(60)
    assert "done" in explorer.status.value
    assert [cell["lines"][0] for cell in explorer.strip.cells[-2:]] == ["42%", "20%"]
    assert f"<b>{explorer.shown.psnr:.1f} dB</b>" in explorer.view.numbers.value
    explorer.saving.folder = tmp_path
    explorer.saving.figure.click()
    assert "saved" in explorer.saving.status.value
    _, trace = fv.observe(small, "a red circle", method, seed=3)
    browser = ScaleBrowser(trace, small)
    browser.step.value = 4
    assert "8x8: 13 of 64 tokens forwarded" in browser.status.value
    assert browser.frames()


def test_numbers_are_those_of_the_pictures_whatever_the_masks_do(explorer, monkeypatch):
    def broken(*_):
        raise ValueError("no masks")

    monkeypatch.setattr(explorer.strip, "show", broken)
    explorer.ratios[-1].value = 0.9
    assert explorer.wait(60)
    assert "no masks" in explorer.status.value
    assert f"<b>{explorer.view.duel.psnr:.1f} dB</b>" in explorer.view.numbers.value


def test_scale_steps_are_browsed(small, tmp_path):
    method = fv.Prune({-3: 1.0, -1: 0.5})
    _, trace = fv.observe(small, ["a red circle", "a blue ring"], method, seed=1)
    browser = ScaleBrowser(trace, small)
    assert "8x8: 32 of 64 tokens" in browser.status.value  # no other is pruned in part
    assert "Opened on 8x8" in browser.opened.value
    seen = []
    for step in range(5):
        browser.step.value = step
        seen.append(browser.viewer.data("sofar"))
    assert "32 of 64 tokens forwarded by attn of layer 0" in browser.status.value
    assert len(set(seen)) == 4  # the skipped step changes nothing
    browser.step.value = 2
    assert "skipped" in browser.status.value
    assert browser.player.shown == browser.player.step == 2
    browser.picture.value = 1
    assert browser.viewer.data("sofar") != seen[2]
    trace.save(tmp_path / "kept.safetensors")
    ScaleBrowser(fv.Trace.load(tmp_path / "kept.safetensors"), small)
    with pytest.raises(ValueError, match="made with the weights"):
        ScaleBrowser(trace, fv.load("tiny", weights="random"))


def test_scale_steps_play_beside_full_generation_and_are_exported(small, tmp_path):
    prompts, method = ["a red circle", "a blue ring"], fv.Prune({-1: 0.5})
    _, trace = fv.observe(small, prompts, method, seed=[1, 2])
    browser = ScaleBrowser(trace, small, folder=tmp_path)
    assert browser.viewer.p1["hidden"]
    browser.run_stop.click()
    assert browser.wait(60)
    assert not browser.viewer.p1["hidden"]
    assert "fv-hidden" in browser.run_stop._dom_classes
    _, full = fv.observe(small, prompts, fv.Dense(), seed=[1, 2])
    given = ScaleBrowser(trace, small, full)
    for step in range(5):
        browser.player.step = step
        given.step.value = step
        assert browser.step.value == given.player.shown == step
        for slot in ("full", "gap", "sofar"):
            assert browser.viewer.data(slot) == given.viewer.data(slot)
        assert (browser.viewer.data("full") == browser.viewer.data("sofar")) == (step < 4)
    gain = int(browser.viewer.p2["note"].split(",")[0][2:])
    assert browser.viewer.p2["bar"]["high"] == f"+{1 / gain:.3g}"
    low, high = (float(browser.viewer.p4["bar"][end]) for end in ("low", "high"))
    assert low < high
    frames = browser.frames()
    assert [frame.ms for frame in frames] == [600] * 4 + [2500]
    browser.export.click()
    with Image.open(tmp_path / "scale_steps.gif") as gif:
        assert gif.n_frames == 5
        assert gif.size[0] > given.frames()[0].picture.shape[0]
    browser.name.value = "../steps"
    browser.export.click()
    assert "file name" in browser.name.error
    dense = ScaleBrowser(full, small)
    assert "fv-hidden" in dense.run_stop._dom_classes
    assert dense.opened.value == '<span role="status"></span>'
    _, other = fv.observe(small, prompts, fv.Dense(), seed=[1, 3])
    with pytest.raises(ValueError, match="full generation has other seeds than the trace"):
        ScaleBrowser(trace, small, other)
    for widget in (browser, given, dense):
        widget.close()


def test_a_point_of_the_trade_off_is_picked_and_sent(explorer, small, tmp_path):
    schedules = [{-1: 0.5}, {-2: 0.5, -1: 0.75}, {-1: 1.0}]
    ways, store = [fv.Prune(ratios) for ratios in schedules], Store(tmp_path)
    prompts = ClosedWorld().take(2)
    small_set = PromptList([item.prompt for item in prompts], judge=ClosedWorld.judge)
    look = Scope("test", 2, 1)
    frame = compare(small, ways, look, prompts=small_set, store=store, progress=False)
    frame = frame.assign(disturbed=frame.disturbed & False)  # one turn has no spread to judge
    apart = {way: 1 + place / 4 for place, way in enumerate(frame.method.unique())}
    frame = frame.assign(speedup=frame.method.map(apart))  # speeds of so small a model may be equal
    picker = ParetoPicker(frame, small, explorer, "a red circle", 3)
    assert picker.hand_over.disabled
    assert sum(p["front"] for p in picker.scatter.points) >= 1
    before = picker.viewer.data("picked")
    picker.scatter.picked = 1
    assert picker.wait(60)
    assert picker.table.picked == 1
    assert picker.viewer.data("picked") != before
    assert "PSNR" in picker.status.value
    picker.hand_over.click()
    assert explorer.wait(60)
    assert explorer.method.pairs == picker.method.pairs
    picker.value.value = "right"
    assert picker.scatter.y_label == "score"
    speeds = sorted(point["x"] for point in picker.scatter.points)
    for point in picker.scatter.points:
        assert point["y_range"][0] <= point["y"] <= point["y_range"][1]
        assert f"{point['x']:.2f}" in point["cells"][0]
    picker.scatter.x_span = [speeds[0] - 1, (speeds[0] + speeds[1]) / 2]  # brushed
    assert [p["inside"] for p in picker.scatter.points].count(True) == 1
    assert picker.table.points == picker.scatter.points
    picker.spans["x"].text = f"from {speeds[1] - 1e-3:.6g}"
    assert [p["inside"] for p in picker.scatter.points].count(True) == 2
    picker.spans["x"].text = "fast"
    assert "write a range as 1.5 to 2" in picker.spans["x"].error
    picker.clear.click()
    assert all(p["inside"] for p in picker.scatter.points)
    explorer.close()
    picker.hand_over.click()
    assert "the Explorer is closed" in picker.status.value
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
    select = explorer.a.controls["select"]
    select.text = "norm"
    assert explorer.wait(60)
    assert explorer.method.select == Norm()
    assert "select=Norm()" in explorer.saving.python
    explorer.apply(fv.Prune({-1: 0.5}))
    assert explorer.a.controls["select"].text == "far from mean (PTS)"
    explorer.apply(fv.Prune({-1: 0.5}, select=Norm()))
    assert explorer.a.controls["select"].text == "norm"
    for other in (fv.Merge({-1: 0.5}), fv.Dense()):
        explorer.apply(other)
        assert explorer.wait(60)
        assert explorer.method == other


@dataclass(frozen=True)
class Late(fv.Dense):
    """Runs no null rows after step `last`."""

    last: int = 2
    mode: Literal_["plain", "fine"] = "plain"

    def acts(self, grids):
        alone = fv.Act(fv.Rows.COND)
        return tuple(fv.Act() if g.index <= self.last else alone for g in grids)


def test_a_method_of_ones_own_has_its_controls(small):
    explorer = Explorer(small, "a red circle", seed=3, methods={"late": Late()})
    explorer.a.family.value = "late"
    assert explorer.wait(60)
    assert explorer.method == Late()
    assert {n: c.kind for n, c in explorer.a.controls.items()} == {"last": "text", "mode": "choice"}
    assert "Runs no null rows" in explorer.a.about.value
    assert explorer.a.controls["last"].help == "Runs no null rows after step last."
    cost = explorer.shown.speedup_flop_bound
    explorer.a.controls["last"].text = "1"
    assert explorer.wait(60)
    assert explorer.shown.speedup_flop_bound > cost > 1
    explorer.close()


def test_every_family_is_set_and_read_back_by_its_own_controls(small):
    explorer = Explorer(small, "a red circle", seed=3)
    grids = small.grids()
    for name, method in explorer.a.offer.families.items():
        explorer.paused = True
        explorer.a.family.value = name
        assert explorer.method == method
        names = {s.name for s in settings.settings(type(method))}
        assert set(explorer.a.controls) == names
        settings.check(explorer.method, grids, small.depth)
    assert {"full", "FastVAR", "ToMe", "FasterVAR", "conditional tail", "StepVAR"} <= set(
        explorer.a.offer.families
    )
    explorer.close()


def test_heatkv_is_offered_where_it_was_calibrated():
    explorer = Explorer(fv.load("tiny"), "a red ring", seed=3)
    method = explorer.a.offer.families["HeatKV"]
    explorer.paused = True
    explorer.a.family.value = "HeatKV"
    assert explorer.method == method
    assert explorer.a.controls["orders"].kind == "lines"
    assert explorer.a.controls["orders"].lines.startswith("6x6: 7 6 4 22")
    explorer.a.controls["budget"].text = "0.25"
    assert explorer.method == replace(method, budget=0.25)
    explorer.close()


def test_two_methods_are_compared(explorer, small):
    assert explorer.b.method == fv.Dense()
    assert explorer.duel.psnr == explorer.shown.psnr
    explorer.b.family.value = "ToMe"
    assert explorer.wait(60)
    a, b = explorer.method, explorer.b.method
    pictures = [
        fv.to_uint8(small.decode(fv.generate(small, "a red circle", m, seed=3).canvas))[0]
        for m in (a, b)
    ]
    assert (explorer.duel.a.fast == pictures[0]).all()
    assert (explorer.duel.b.fast == pictures[1]).all()
    assert explorer.duel.psnr == psnr(*pictures)
    assert f"{explorer.duel.b.psnr:.1f} dB" in explorer.view.numbers.value
    assert len(explorer.strip.cells[-1]["bars"]) == 3
    explorer.swap.click()
    assert explorer.wait(60)
    assert (explorer.method, explorer.b.method) == (b, a)
    explorer.copy_a.click()
    assert explorer.wait(60)
    assert explorer.b.method == b
    assert explorer.duel.psnr == MOST_PSNR
    explorer.view.gain.value = 5
    assert explorer.viewer.p2["note"].startswith("x 5")
    explorer.view.mode.text = "swipe between A and B"
    assert explorer.viewer.mode == "swipe"


def click(strip, place):
    """Pick a cell as the page does."""
    strip.set_state({"picked": place, "picks": strip.picks + 1})


def test_a_cell_is_picked_again_after_the_page_was_changed(explorer, monkeypatch):
    method, shown = explorer.method, explorer.viewer.data("a")

    def is_back():
        assert explorer.wait(60)
        assert (explorer.prompt.error, explorer.seed.error, explorer.seed.invalid) == (
            "",
            "",
            False,
        )
        return (explorer.method, explorer.viewer.data("a")) == (method, shown)

    strip, survey = explorer.history.strip, explorer.survey
    assert strip.picked == 0
    for change in (
        lambda: setattr(explorer.prompt, "value", "a red circl"),
        lambda: setattr(explorer.seed, "text", "1.5"),
        lambda: setattr(explorer.ratios[-1], "text", "x"),
    ):
        change()
        click(strip, 0)
        assert is_back()
        assert "done" in explorer.status.value
    monkeypatch.setattr(explorer.worker, "pause", 1.0)
    explorer.ratios[-1].value = 0.9
    explorer.run_stop.click()
    monkeypatch.undo()
    click(strip, 0)
    assert is_back()
    survey.seeds.value = 1
    survey.run_stop.click()
    assert survey.wait(60)
    for prompt in ("a blue ring", "a red circl"):
        click(survey.strip, 0)
        assert explorer.wait(60)
        assert explorer.shown.prompt == "a red circle"
        explorer.prompt.value = prompt
    click(survey.strip, 0)
    assert is_back()


def test_what_was_tried_is_gone_back_to_and_reported(explorer, tmp_path):
    history, first = explorer.history, explorer.method
    history.folder = tmp_path
    history.pin.click()
    explorer.ratios[-1].value = 0.9
    assert explorer.wait(60)
    assert [t.a for t in history.shown] == [first, explorer.method]  # the pinned one leads
    assert history.strip.picked == 1
    shown = explorer.viewer.data("a")
    click(history.strip, 0)
    assert explorer.wait(60)
    assert explorer.method == first
    assert explorer.viewer.data("a") != shown
    assert len(history.shown) == 2
    history.write.click()
    names = {p.name for p in (tmp_path / "report").iterdir()}
    assert names == {"index.html", "numbers.csv", "provenance.json", "01.py", "01a.png", "01b.png"}
    page = (tmp_path / "report/index.html").read_text()
    assert "http" not in page.split("<details>")[0]
    assert page.count("data:image/png") == 2
    rows = pd.read_csv(tmp_path / "report/numbers.csv")
    assert rows.psnr[0] == explorer.shown.psnr
    history.write.click()  # nothing is overwritten
    assert (tmp_path / "report-2/index.html").exists()
    history.name.value = "../report"
    history.write.click()
    assert "file name" in history.name.error


def test_settings_that_cannot_be_gone_back_to_say_so(explorer, monkeypatch):
    def refused(method):
        raise ValueError("no such method any more")

    monkeypatch.setattr(explorer.a, "apply", refused)
    click(explorer.history.strip, 0)
    assert '<span role="alert">no such method any more</span>' in explorer.status.value
    assert not explorer.paused


def test_times_stand_beside_operations(explorer):
    panel = explorer.time
    panel.run_stop.click()
    assert panel.wait(60)
    times = panel.times
    assert set(times.steps) == {"full", "A"}
    assert [bar["text"] for bar in explorer.strip.cells[-1]["bars"]] == [
        f"{name}: {times.steps[name][-1].median:.1f} ms" for name in ("full", "A")
    ]
    assert f"{times.totals['A'].median:.1f} [" in panel.table.value
    for disturbed in (False, True):
        speedup = Speedup(1.49, 1.26, 2.02, 1.2, 2.1, times.turns, disturbed)
        panel.show(replace(times, speedups={"full": Speedup.of([1], [1]), "A": speedup}))
        note = ", timing disturbed" if disturbed else ""
        says = f"A: 1.49 [1.26 to 2.02] times as fast{note} ({times.turns} turns)"
        assert f">{says}<" in panel.status.value
    explorer.ratios[-1].value = 0.9
    assert explorer.wait(60)
    assert panel.times is None  # those of another method
    assert "GFLOP" in explorer.strip.cells[-1]["bars"][0]["text"]


def test_a_budget_or_a_target_moves_all_the_other_controls(small):
    plans = [(1.5, fv.Prune({-1: 1.0}), 33.2), (1.2, fv.Prune({-1: 0.5}, select=fv.Random(7)), 40)]
    explorer = Explorer(small, "a red circle", seed=3, plans=plans)
    assert explorer.wait(60)
    panel = explorer.budget
    assert panel.budget.options == [
        "as A is set",
        "1.20 x",
        "1.50 x",
    ]
    assert panel.target.options == ["as A is set", *(f"{step} dB" for step in range(40, 32, -1))]
    panel.budget.text = "1.50 x"
    assert explorer.wait(60)
    assert (explorer.method, explorer.ratios[-1].value) == (plans[0][1], 1.0)
    assert explorer.shown.method == plans[0][1]
    assert panel.target.text == "33 dB"
    panel.target.text = "34 dB"
    assert explorer.wait(60)
    assert explorer.method == plans[1][1]
    assert explorer.a.controls["select"].text == "Random(seed=7)"
    assert (panel.budget.text, panel.target.text) == ("1.20 x", "34 dB")
    assert "1.20 times the speed, for 40.0 dB" in panel.note.value
    explorer.ratios[-1].value = 0.6
    assert explorer.wait(60)
    assert (panel.budget.value, panel.target.value, panel.note.value) == (None, None, "")
    explorer.close()
    without = BudgetPanel([(2.0, fv.Dense())], print)
    assert "fv-hidden" in without.target._dom_classes  # no quality is known


def test_a_model_with_planned_schedules_brings_its_budgets():
    model = fv.load("tiny")
    explorer = Explorer(model)
    explorer.worker.cancel()
    points = fv.frontier(model)
    assert [plan.method for plan in explorer.budget.plans] == [point.method for point in points]
    for point in points:  # the controls can express them all
        explorer.a.apply(point.method)
        assert explorer.method == point.method
    assert "fv-hidden" not in explorer.budget._dom_classes
    explorer.close()


def test_a_model_without_plans_has_no_budget(explorer):
    assert "fv-hidden" in explorer.budget._dom_classes


def test_several_prompts_and_seeds_are_drawn_the_worst_first(explorer, small):
    survey = explorer.survey
    survey.prompts.value = "a red circle\n\n a blue ring \n"
    survey.seeds.value = 3
    survey.run_stop.click()
    assert survey.wait(60)
    values = [sample.psnr for sample in survey.samples]
    assert values == sorted(values)
    assert {(s.prompt, s.seed) for s in survey.samples} == {
        (p, s) for p in ("a red circle", "a blue ring") for s in (3, 4, 5)
    }
    assert f"{values[0]:.1f} to {values[-1]:.1f} (n = 6)" in survey.status.value
    assert [cell["name"] for cell in survey.strip.cells] == [f"{v:.1f} dB" for v in values]
    worst = survey.samples[0]
    alone = fv.generate(small, worst.prompt, explorer.method, seed=worst.seed)
    assert (fv.to_uint8(small.decode(alone.canvas))[0] == worst.a).all()
    click(survey.strip, 0)
    assert explorer.wait(60)
    assert (explorer.shown.prompt, explorer.shown.seed) == (worst.prompt, worst.seed)
    assert explorer.shown.psnr == worst.psnr
    survey.seeds.value = 64
    survey.guarded(survey.update)
    assert "at most 64" in survey.status.value
    survey.prompts.value = "a red circl"
    survey.run_stop.click()
    assert "unknown word" in survey.prompts.error


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


def picked_frame(small, **columns):
    """Return a frame that compares a pruned method with full generation."""
    ways = ("full", fv.Dense()), ("half", fv.Prune({-1: 0.5}))
    rows = [
        {
            "kind": "quality",
            "method": name,
            "repr": repr(m),
            "family": family(m),
            "picture": 0,
            "psnr": 30.0,
            "model": small.name,
            "weights": small.fingerprint,
        }
        for name, m in ways
    ]
    rows += [{**row, "kind": "time", "speedup": 1.5, "speedup_flop_bound": 2.0} for row in rows]
    return pd.DataFrame(rows).assign(**columns)


def test_points_are_drawn_at_the_guidance_scale_of_the_frame(small):
    strong = small.with_guidance(6.0)
    explorer = Explorer(small, "a red circle", seed=3)
    picker = ParetoPicker(picked_frame(small, guidance=6.0), small, explorer, "a red circle", 3)
    picker.scatter.picked = 0
    assert picker.wait(60)
    assert explorer.wait(60)
    method = fv.Prune({-1: 0.5})
    lab = Exploration(strong)
    assert f"PSNR {lab.compare('a red circle', 3, method).psnr:.1f} dB" in picker.status.value
    weak = Exploration(small).compare("a red circle", 3, method)
    assert f"PSNR {weak.psnr:.1f} dB" not in picker.status.value
    picker.hand_over.click()  # the Explorer would draw another picture
    assert "measured at guidance 6.0, and the Explorer draws at" in picker.status.value
    assert explorer.method != method
    for widget in (picker, explorer):
        widget.close()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"model": "other"}, "measured on other; not on small"),
        ({"weights": "0" * 16}, "measured with the weights 0000000000000000 of small"),
    ],
)
def test_a_frame_of_another_model_is_not_picked_from(small, columns, message):
    with pytest.raises(ValueError, match=message):
        ParetoPicker(picked_frame(small, **columns), small)


def test_recorded_times_stand_in_the_documentation():
    root = Path(__file__).parents[1]
    medians = json.loads((root / "figures/screenshots/slider.json").read_text())["median_s"]
    page = (root / "docs/widgets.md").read_text()
    for label, name in (
        ("share pruned at 32x32", "32x32"),
        ("share pruned at 24x24", "24x24"),
        ("time budget, 3 s after the last move",) * 2,
        ("seed: full and pruned generation from scratch", "from scratch, full and pruned"),
    ):
        assert f"| {label} | {medians[name]} |" in page
    assert (root / "docs/explorer.gif").stat().st_size < 3_000_000


def look(panel, x, y):
    """Mark a place, and wait for what is shown of its token."""
    panel.viewer.place = [x, y]
    assert panel.wait(60)


def test_a_marked_token_shows_its_life(explorer, small):
    token = explorer.token
    look(token, 0.3, 0.7)
    run = explorer.lab.drawn_of(explorer.shown.trace).generation
    life = fv.token_life(small, run, explorer.shown.trace, -1, (5, 2))
    pd.testing.assert_frame_equal(token.life["scores"], life.scores)
    assert "token in row 5, column 2 of 8x8, A" in token.status.value
    assert 0 < token.seconds[0] <= token.seconds[1]
    first = life.scores.query("step == 4 and layer == 0 and kind == 'attn'").iloc[0]
    assert f"Rank {first['rank']} of 64 by PTS in attn of layer 0" in token.about.value
    square = token.matrix.tables[0]["cells"][4][0]
    assert square[1:] == [
        first.state,
        f"8x8, attn of layer 0: {first.state}, rank {first['rank']} of 64, score {first.score:.4g}",
    ]
    assert [c["name"] for c in token.patches.cells] == ["1x1", "2x2", "4x4", "6x6", "8x8"]
    assert token.code.value.count("<tr>") == 5
    token.matrix.picked = [1, 2, 1]  # attention to the words, step 2, layer 1
    assert token.wait(60)
    assert explorer.view.sight == (2, 1, "cross")
    life = fv.token_life(small, run, explorer.shown.trace, 2, (2, 1), layer=1)
    notes = [f"{share:.1%}" for share in life.attention["attn"].shares.values()]
    assert [m["note"] for m in token.maps.maps] == notes
    assert all(word in token.text.value for word in ("<span>a</span>", "<span>circle</span>"))
    token.maps.picked = [3, 0, 5, 1]  # a token of another step
    assert token.wait(60)
    assert "row 0, column 5 of 6x6" in token.status.value
    assert explorer.strip.picked == 3
    explorer.ratios[-2].value = 1.0
    assert explorer.wait(60)
    assert token.wait(60)
    assert "6x6 is skipped" in token.about.value
    assert token.maps.maps == []
    explorer.viewer._received(None, {"views": 1}, None)
    explorer.viewer._received(None, {"views": -1}, None)
    assert (token.recorded, token.drawn) == ({}, {})


def counted(monkeypatch, owner, name):
    """Count the calls of a method: the list that is returned gets an entry for each."""
    calls, method = [], getattr(owner, name)

    def call(*given, **named):
        calls.append(name)
        return method(*given, **named)

    monkeypatch.setattr(owner, name, call)
    return calls


def test_another_sublayer_and_step_are_drawn_once(explorer, small, monkeypatch):
    look(explorer.token, 0.3, 0.7)
    masks = counted(monkeypatch, explorer.view.strip, "show")
    puts, looks = (
        counted(monkeypatch, explorer.viewer, "put"), counted(monkeypatch, explorer.token, "ask"),
    )  # fmt: skip
    explorer.token.matrix.picked = [1, 2, 1]  # another kind, step and layer
    assert explorer.token.wait(60)
    assert explorer.view.sight == (2, 1, "cross")
    assert (len(masks), len(puts), len(looks)) == (1, 2, 1)
    explorer.token.maps.picked = [3, 0, 5, 1]  # another step alone
    assert explorer.token.wait(60)
    assert (explorer.view.sight, len(masks), len(puts), len(looks)) == ((3, 1, "cross"), 1, 4, 2)
    _, trace = fv.observe(small, "a red circle", fv.Prune({-1: 0.5}), seed=1)
    browser = ScaleBrowser(trace, small)
    look(browser.token, 0.3, 0.7)
    drawn, looks = (
        counted(monkeypatch, browser, "_draw"), counted(monkeypatch, browser.token, "ask"),
    )  # fmt: skip
    browser.token.matrix.picked = [1, 2, 1]
    assert browser.token.wait(60)
    assert (browser._sight(), len(drawn), len(looks)) == ((2, 1, "cross"), 1, 1)
    browser.close()


def test_a_generation_for_a_token_stops_when_it_is_not_wanted_any_more(explorer, small):
    lab = explorer.lab
    explorer.ahead.cancel()
    assert explorer.ahead.wait(60)
    lab.last = {}
    with pytest.raises(Stopped):
        explorer._subject(lambda: True)
    assert lab.last == {}
    _, trace = fv.observe(small, "a red circle", fv.Prune({-1: 0.5}), seed=1)
    browser = ScaleBrowser(trace, small)
    with pytest.raises(Stopped):
        browser._subject(lambda: True)
    assert (browser.generation, browser.undrawn) == (None, "")
    look(browser.token, 0.3, 0.7)
    assert browser.generation is not None
    browser.close()


def test_a_restored_token_says_so(explorer):
    trace = explorer.shown.trace
    pruned = (~trace.kept[4, fv.Site(0, "attn")][0]).nonzero()[0].item()
    look(explorer.token, (pruned % 8 + 0.5) / 8, (pruned // 8 + 0.5) / 8)
    assert "it is restored, from 4x4, and asks for nothing" in explorer.token.about.value
    assert explorer.token.maps.maps == []


def test_a_browsed_trace_has_lives_too(small):
    method = fv.Prune({-1: 0.5})
    run, trace = fv.observe(small, ["a red circle", "a ring"], method, seed=1, snapshot=True)
    browser = ScaleBrowser(trace, small)
    browser.picture.value, browser.step.value = 1, 3
    look(browser.token, 0.9, 0.1)
    assert "token in row 0, column 5 of 6x6" in browser.token.status.value
    expected = fv.token_life(small, run, trace, 3, (0, 5), picture=1)
    assert len(browser.token.maps.maps) == len(expected.attention["attn"].maps) == 4
    notes = [f"{share:.1%}" for share in expected.attention["attn"].shares.values()]
    assert [m["note"] for m in browser.token.maps.maps] == notes
    assert (3, fv.Site(2, "ffn")) in browser.outputs  # later layers are there at once
    trace.provenance["method"] = "Mine()"  # of one's own, which is not read back
    other = ScaleBrowser(trace, small)
    look(other.token, 0.5, 0.5)
    assert "No attention: Mine in" in other.token.about.value
    assert len(other.token.patches.cells) == 5


def test_a_mask_is_painted_and_drawn(explorer, small):
    paint = explorer.paint
    paint.paint.marks = "k" * 8 + "p" * 8 + "." * 48
    assert explorer.method.select == fv.FarFromMean()
    assert "8 to keep, 8 to prune, of 64; not used by A yet" in paint.status.value
    paint.apply()
    assert explorer.wait(60)
    select = fv.Painted({-1: "0:0-7"}, {-1: "1:0-7"})
    assert explorer.method == fv.Prune({-2: 0.5, -1: 0.75}, select=select)
    assert "A selects them" in paint.status.value
    assert f"select=fv.{select!r}" in explorer.saving.python
    made = fv.generate(small, "a red circle", explorer.method, seed=3)
    assert (explorer.shown.fast == fv.to_uint8(small.decode(made.canvas))[0]).all()
    before = explorer.viewer.data("a")
    paint.paint.marks = "k" * 8 + "." * 48 + "p" * 8  # strokes change A at once
    assert explorer.wait(60)
    assert explorer.viewer.data("a") != before
    assert explorer.method.select == fv.Painted({-1: "0:0-7"}, {-1: "7:0-7"})
    paint.paint.marks = "k" * 30 + "." * 34  # more than the share of 75 % keeps
    assert "30 tokens are painted to keep; the schedule keeps 16" in explorer.status.value
    paint.match()
    assert explorer.wait(60)
    assert explorer.shown.trace.kept[4, fv.Site(1, "ffn")][0].sum() == 30
    assert explorer.ratios[-1].value == 34 / 64
    first = explorer.history.shown[0]
    explorer.a.controls["select"].text = "random"
    assert explorer.wait(60)
    explorer._back(next(t for t in explorer.history.shown if isinstance(t.a.select, fv.Painted)))
    assert explorer.wait(60)
    assert isinstance(explorer.method.select, fv.Painted)
    assert first is not None
    paint.step.value = 3
    assert paint.paint.marks == "." * 36
    paint.take()
    assert paint.paint.marks.count("k") == 18
    paint.clear()
    assert explorer.wait(60)
    explorer.a.family.value = "ToMe"
    paint._guard(paint.apply)()
    assert "choose FastVAR as method A" in paint.status.value
    assert explorer.wait(60)


def test_random_weights_are_warned_of(explorer):
    def notes(widget):
        return [
            p.value
            for p in widget.request.children
            if "mean nothing" in str(getattr(p, "value", ""))
        ]

    assert notes(explorer) == []
    other = Explorer(fv.load("var-d16", weights="random", depth=2, sizes=((1, 1), (2, 2))))
    other.worker.cancel()
    assert len(notes(other)) == 1
    assert (other.prompt.label, other.prompt.text) == ("class", "0: tench")
    assert len(other.prompt.options) == 1000
    assert "0 to 999, null or random" in other.prompt.help
    assert other.wait(60)
    other.close()


def test_models_are_picked(small):
    before = len(_instances)
    tuned = replace(small, name="tuned")
    classes = small_model("var")
    classes.source = "fv.load('var-d16', weights='random')"
    explorer = Explorer(
        {"base": small, "tuned": tuned, "classes": classes}, "a red circle", 3,
        plans=[(2.0, fv.Prune({-1: 0.9}))],
    )  # fmt: skip
    assert explorer.wait(60)
    assert explorer.picker.options == ["base", "tuned", "classes"]
    explorer.ratios[-1].value = 0.4
    assert explorer.wait(60)
    held = weakref.ref(explorer.lab.full[0].canvas)
    method = explorer.method
    explorer.picker.text = "tuned"
    assert explorer.wait(60)
    gc.collect()
    assert held() is None
    assert (explorer.model, explorer.method) == (tuned, method)  # of the same steps and layers
    assert (explorer.shown.prompt, explorer.shown.seed) == ("a red circle", 3)
    assert "fv-hidden" in explorer.budget._dom_classes  # the plans are those of the first
    explorer.pick("classes")
    assert explorer.wait(60)
    assert explorer.shown is not None, explorer.status.value
    assert explorer.prompt.label == "class number"
    assert any("mean nothing" in str(getattr(p, "value", "")) for p in explorer.request.children)
    assert len(explorer.strip.cells) == len(classes.sizes)
    models = [tried.model for tried in explorer.history.shown]
    assert models == ["classes", "tuned", "base", "base"]
    click(explorer.history.strip, 2)
    assert explorer.wait(60)
    assert (explorer.picker.value, explorer.model, explorer.method) == ("base", small, method)
    assert explorer.shown.prompt == "a red circle"
    explorer.close()
    gc.collect()
    assert len(_instances) == before


def test_an_attached_model_is_picked(small):
    live = standins.LiveVAR()
    attached = fv.attach(live)
    explorer = Explorer([small, attached], "a red circle", 3)
    assert explorer.wait(60)
    assert explorer.picker.options == ["small", "var"]
    explorer.picker.text = "var"
    assert explorer.wait(60)
    assert explorer.shown is not None, explorer.status.value
    assert (explorer.model, explorer.shown.prompt) == (attached, attached.example)

    def drawn():
        run = fv.generate(attached, explorer.shown.prompt, explorer.method, seed=3)
        return fv.to_uint8(attached.decode(run.canvas))[0]

    assert (explorer.shown.fast == drawn()).all()
    assert "mean nothing" not in str([getattr(p, "value", "") for p in explorer.request.children])
    before = explorer.shown.fast
    with torch.no_grad():  # training goes on: what is kept is of other weights
        live.class_emb.weight.mul_(3)
    explorer.update()
    assert explorer.wait(60)
    assert (explorer.shown.fast == drawn()).all()
    assert (explorer.shown.fast != before).any()
    look(explorer.token, 0.3, 0.7)
    assert explorer.token.life["gazes"] or "restored" in explorer.token.about.value
    explorer.pick("small")
    assert explorer.wait(60)
    assert explorer.shown.prompt == "a red circle" or explorer.shown.prompt == small.example
    explorer.close()


def test_classes_are_picked_by_name():
    names = ("tench", "golden retriever", *map(str.upper, "abcdef"), "Siberian husky", "i")
    model = replace(small_model("var"), text_encoder=LabelEncoder(10, names))
    explorer = Explorer(model, "golden retriever")
    assert explorer.wait(60)
    field = explorer.prompt
    assert (field.value, field.text) == ("1", "1: golden retriever")
    assert len(field.options) == 10
    assert explorer.viewer.p0["alt"].startswith("1: golden retriever, seed 0, drawn by")
    assert "1: golden retriever" in explorer.history.strip.cells[0]["tip"]
    assert "(model, '1', method" in explorer.saving.python
    field.text = "Siberian Husky"
    assert (field.value, field.text, field.error) == ("8", "8: Siberian husky", "")
    field.text = "golden retreiver"
    assert "nearest: 1: golden retriever" in field.error
    assert field.value == "8"
    field.text = "null"
    assert (field.value, field.text, field.error) == ("null", "null", "")
    explorer.worker.cancel()
    assert explorer.wait(60)
    explorer.close()


def test_a_planned_schedule_is_shown_in_words(small):
    plan = fv.Planned(
        {-2: {"ffn": "048"}, -1: {"attn": "448", "cross": "666"}},
        rows={-3: "cond"}, previous={-1: "attn"},
    )  # fmt: skip
    explorer = Explorer(small, "a red circle", plans=[(2.0, plan)])
    assert explorer.wait(60)
    explorer.apply(plan)
    assert explorer.wait(60)
    shown = {name: explorer.a.controls[name] for name in ("pruned", "rows", "previous")}
    assert {control.kind for control in shown.values()} == {"lines"}
    assert shown["pruned"].text.splitlines() == [
        "6x6 ffn: 50 % in layer 1, not computed in layer 2",
        "8x8 attn: 50 % in layers 0 to 1, not computed in layer 2",
        "8x8 cross: 75 % in layers 0 to 2",
    ]
    assert shown["rows"].text == "4x4: the conditional rows alone"
    assert shown["previous"].text == "8x8: attn"
    assert explorer.method == plan
    explorer.a.controls["cache_step"].value = -4  # what can be edited leaves the rest as it is
    assert explorer.wait(60)
    assert explorer.method == replace(plan, cache_step=-4)
    explorer.close()


def test_scripts_share_one_helper():
    folder = Path(lifetime.__file__).parent
    names = re.compile(r"^(?:function|const|let) (\w+)", re.MULTILINE)
    shared = set(names.findall((folder / "elements.js").read_text()))
    assert shared == {"make"}
    for path in folder.glob("*.js"):
        if path.name != "elements.js":  # a name declared twice is a syntax error of the module
            assert not shared & set(names.findall(path.read_text())), path.name
            assert "function make" not in path.read_text()


def test_what_is_no_open_model_is_refused(small):
    with pytest.raises(ValueError, match=r"must be open, by fv\.load or fv\.attach; not 'tiny'"):
        Explorer("tiny")
    with pytest.raises(ValueError, match="two models are named 'small'; give them by name"):
        Explorer([small, small])
    with pytest.raises(
        ValueError, match=r"a prompt is text, or a class label; not \['a red ring'\]"
    ):
        Explorer(small, ["a red ring"])
    with pytest.raises(ValueError, match="no model: give one"):
        Explorer([])


def test_the_plans_beside_that_in_view_are_drawn_ahead(small):
    plans = [(speed, fv.Prune({-1: ratio})) for speed, ratio in ((1.2, 0.3), (1.5, 0.6), (2, 0.9))]
    explorer = Explorer(small, "a red circle", seed=3, plans=plans)
    assert explorer.wait(60)
    assert explorer.ahead.wait(60)
    assert plans[0][1] in [c.method for c in explorer.lab.kept]
    explorer.budget.budget.text = "1.50 x"
    assert explorer.wait(60)
    assert explorer.ahead.wait(60)
    methods = [c.method for c in explorer.lab.kept]
    assert all(method in methods for _, method in plans)
    known = next(c for c in explorer.lab.kept if c.method == plans[2][1])
    explorer.budget.budget.text = "2.00 x"
    assert explorer.wait(60)
    assert explorer.shown is known
    look(explorer.token, 0.3, 0.7)  # its generation is drawn once more
    assert explorer.token.life["gazes"] or "restored" in explorer.token.about.value
    assert explorer.lab.drawn_of(known.trace) is not None
    explorer.close()


def test_tokens_of_method_b_have_lives_too(explorer):
    look(explorer.token, 0.3, 0.7)
    explorer.whose.text = "method B"
    assert explorer.token.wait(60)
    assert "token in row 5, column 2 of 8x8, B" in explorer.token.status.value
    assert set(explorer.token.life["scores"].state) == {"computed"}  # full generation
    assert len(explorer.token.maps.maps) == 5


def test_encoded_prompts_are_picked_by_name(small, tmp_path):
    prompts = ["a blue ring", "a red circle"]
    StoredFeatures(tmp_path, small.text_encoder).encode(prompts[:1])
    StoredFeatures(tmp_path, small.text_encoder).encode(prompts[1:])
    stored = StoredFeatures(tmp_path).to(torch.float64)
    assert stored.encoded_prompts == tuple(prompts)
    explorer = Explorer(replace(small, text_encoder=stored, grammar=None), "a red circle", seed=3)
    assert explorer.wait(60)
    assert explorer.shown is not None, explorer.status.value
    (picker,) = explorer.request.pickers
    picker.text = "a blue ring"
    assert explorer.wait(60)
    assert explorer.shown.prompt == "a blue ring"
    explorer.prompt.text = "a red circle"
    assert picker.text == "a red circle"
    explorer.prompt.text = "a red ring"
    assert picker.text == "as typed"
    assert explorer.wait(60)
    picker.text = "a red circle"  # the last one that was known can be picked again
    assert explorer.wait(60)
    assert explorer.shown.prompt == explorer.prompt.value == "a red circle"
    explorer.close()
