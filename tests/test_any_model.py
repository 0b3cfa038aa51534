"""An attached model runs what others run: experiments, figures, claims, widgets, commands."""

import sys

import pytest
import torch

import fastvar_lab as fv
from fastvar_lab.cli.main import main
from fastvar_lab.errors import PromptError
from fastvar_lab.experiments import agenda, claims, figures, run, verdicts
from fastvar_lab.experiments.base import Scope
from fastvar_lab.experiments.questions import memory, reduced_precision, resolution_scaling
from fastvar_lab.experiments.workers import executor
from fastvar_lab.models.standin import live_infinity
from fastvar_lab.store import Store
from fastvar_lab.widgets import Explorer
from tests import standins
from tests.test_attach import context, text

LOOK, SIZES = Scope("look", 1, 1), [(1, 1), (2, 2), (4, 4), (6, 6)]
PRESET = fv.Prune({-2: 0.5, -1: 0.75})


def named_infinity():
    """Without a text encoder: two encoded texts, of different lengths, by name."""
    features, mask = text()
    named = {"a cat": (features, mask), "a dog": (features[:, :4] * 2, mask[:, :4])}
    live = standins.live_infinity()
    options = {"sizes": SIZES, "sampling": fv.Sampling(guidance=3.0), "fast": PRESET}
    tokenizer = standins.tree(standins.autoencoder_names(6, 32, False, 0, wrap=True), seed=1)
    return fv.attach(live, text=named, tokenizer=tokenizer, name="mine", **options)


def open_var():
    return fv.attach(standins.LiveVAR(), name="mine", fast=PRESET)


def open_hart():
    live, tokenizer = standins.live_hart()
    named = {"a cat": tuple(context())}
    return fv.attach(live, tokenizer=tokenizer, text=named, name="mine", fast=PRESET)


OPENED = {"infinity": named_infinity, "var": open_var, "hart": open_hart}


@pytest.mark.parametrize(
    ("family", "name"),
    [
        *(("infinity", n) for n in ("caching_step", "latency_by_scale", "spectra", "memory")),
        *(("infinity", n) for n in ("reduced_precision", "intermediate_outputs", "cross_scale")),
        *(("infinity", n) for n in ("resolution_scaling", "attention_kernels")),
        *((f, n) for f in ("var", "hart") for n in ("side_by_side", "module_profile", "memory")),
    ],
)
def test_it_runs_experiments_with_figures_and_claims(family, name, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "SIDES", (4, 6))
    monkeypatch.setattr(resolution_scaling, "SIDES", (4, 6))
    monkeypatch.setattr(reduced_precision, "RELEASES", ())
    model = OPENED[family]()
    frame = run.run(name, LOOK, model=model, store=Store(tmp_path / "store"), progress=False)
    assert set(frame.model) == {"mine"}
    paths = list(figures.draw_frame(model, name, frame, tmp_path / "out", "quick"))
    assert all(path.exists() for path in paths)
    record = agenda.find(name)
    for claim in record.claims:
        told = claims.answer(claim, frame, record.guidances)
        assert told.verdict in (verdicts.OPEN, verdicts.HOLDS)


def test_named_conditions_are_prompts():
    model = named_infinity()
    assert (model.example, model.prompts.take(3)[1].prompt) == ("a cat", "a dog")
    both = fv.generate(model, ["a cat", "a dog"], fv.Dense(), seed=[3, 4])
    features, mask = text()
    from fastvar_lab.backbones.infinity import Text

    alone = fv.generate(model, Text(features[:, :4] * 2, mask[:, :4]), fv.Dense(), seed=4)
    assert (both.canvas[1] - alone.canvas[0]).abs().max() < 1e-4
    with pytest.raises(PromptError, match=r"mine has no condition 'a bird'; .* 'a cat', 'a dog'$"):
        fv.generate(model, "a bird", fv.Dense())
    other = {"a cat": (text()[0] * 3, text()[1])}
    live = standins.live_infinity()
    first, second = (fv.attach(live, text=t, sizes=SIZES) for t in ({"a cat": text()}, other))
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({}, "text names no condition"),
        ({"a": torch.ones(1, 3, 32)}, "the condition a must be a Text of one row"),
        (
            {"a": (torch.ones(2, 3, 32), torch.ones(2, 3))},
            r"\(1, T, D\) beside \(1, T\); not \[\(2",
        ),
        ({"a": (torch.ones(1, 3, 32), torch.ones(1, 4))}, "must be a Text of one row"),
        ({3: text()}, "the condition 3 must be a Text"),
    ],
)
def test_what_is_no_named_condition(named, message):
    with pytest.raises(ValueError, match=message):
        fv.attach(standins.live_infinity(), text=named)
    with pytest.raises(ValueError, match="conditioned on class numbers; it takes no texts"):
        fv.attach(standins.LiveVAR(), text={"a": text()})


def test_its_explorer_shows_named_conditions():
    explorer = Explorer(named_infinity())
    assert explorer.wait(60)
    assert explorer.prompt.value == "a cat"
    explorer.prompt.value = "a bird"
    explorer.wait(60)
    assert "its encoded conditions are" in explorer.prompt.error


MODULE = """
from tests.test_any_model import {function} as open_live
def not_a_model(): return 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the user's, with a function that opens a live object."""
    (tmp_path / "my_models.py").write_text(MODULE.format(function="open_var"))
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_models:open_live"
    sys.modules.pop("my_models", None)


def test_a_function_opens_a_model(module):
    model = fv.load(module)
    assert (model.name, model.source) == ("mine", "fv.load('my_models:open_live')")
    assert model.fingerprint == open_var().fingerprint
    for name, message in (
        ("my_models:none", "cannot open my_models:none: .*no attribute 'none'"),
        ("no_models:open_live", "there is no module 'no_models' to open"),
        ("my_models:not_a_model", "must return a Model, such as attach does; not 3"),
        ("my models:x", "model must be one of .*, or module:function; not 'my models:x'"),
    ):
        with pytest.raises(ValueError, match=message):
            fv.load(name)
    with pytest.raises(ValueError, match="opens the model itself; dtype is for it to choose"):
        fv.load(module, dtype=torch.bfloat16)


def test_commands_take_it(module, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert main(["generate", "7", "--model", module, "--seed", "3", *out]) == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 1
    assert main(["experiment", "memory", "--quick", "--model", module, "--dtype", "int8"]) == 2
    assert "opens the model itself" in capsys.readouterr().err
    assert main(["check", module]) == 2
    assert "opens itself: compare it by fv.check" in capsys.readouterr().err


def test_commands_find_a_module_in_the_current_folder(module, tmp_path, monkeypatch):
    found = [place for place in sys.path if place not in ("", str(tmp_path))]
    monkeypatch.setattr(sys, "path", found)
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "7", "--model", module, "--out", "out"]) == 0


def test_workers_open_it_through_its_function(module, tmp_path, monkeypatch):
    spec = fv.ModelSpec(module)
    with executor(workers=1) as pool:
        options = {"store": Store(tmp_path / "s"), "progress": False, "executor": pool}
        there = fv.run("spectra", LOOK, model=spec, **options)
        with pytest.raises(ValueError, match=r"does not travel to workers; .*'module:function'"):
            fv.run("spectra", LOOK, model=spec.open(), **options)
    here = fv.run("spectra", LOOK, model=spec, store=Store(tmp_path / "t"), progress=False)
    assert there.equals(here)


def test_the_stand_in_draws_what_the_embedded_model_draws():
    live, tiny = live_infinity(), fv.load("tiny")
    live.scales = live.scales[:5]
    sampling = fv.Sampling(guidance=2.0, temperature=0.6, top_p=1.0)
    parts = {"tokenizer": live.vae_decode, "text": live.encode_text, "sizes": live.scales}
    model = fv.attach(live, **parts, reference=live.rotary_grid, sampling=sampling)
    ours = {id(m) for m in tiny.transformer.modules()}
    assert not any(type(m).__module__.startswith("fastvar_lab.backbones") for m in live.modules())
    assert not ours & {id(m) for m in live.modules()}
    prompt = "two green stars"
    made = fv.generate(model, prompt, fv.Dense(), seed=1)
    same = fv.generate(tiny, prompt, fv.Dense(), seed=1, sizes=live.scales)
    apart = (made.canvas - same.canvas).abs() > 1e-4  # a bit may round to the other side
    assert apart.float().mean() < 0.02
    assert model.tokenizer.config.stride == tiny.tokenizer.config.stride
    result = fv.check(model, lambda: live.autoregressive_infer(prompt, 1), prompt=prompt, seed=1)
    assert result.step is None
    assert len(result.layers) == 5 * 9
    assert result.largest < 1e-3


def test_prompts_of_its_own():
    live = live_infinity()
    parts = {"tokenizer": live.vae_decode, "text": live.encode_text, "sizes": live.scales[:4]}
    prompts = ["two green stars", "a blue ring"]
    model = fv.attach(live, **parts, reference=live.rotary_grid, prompts=prompts)
    assert model.example == "two green stars"
    assert [item.prompt for item in model.prompts.take(2)] == prompts
    assert fv.memory(model, fv.Prune({-1: 0.5})).peak > 0
    assert type(model.text_encoder).example == "a cat on a mat"  # the class's stays
    some = fv.attach(standins.live_infinity(), text={"a": text(), "b": text()}, prompts="b")
    assert some.example == "b"


def test_attached_costs_nothing(capsys):
    from fastvar_lab.speed.attached import attached_ratio, table

    result = attached_ratio(open_small(), repeats=3)
    assert 0.5 < result["attached_ratio"] < 2  # of milliseconds; the command says the real one
    assert "times as long as a loaded one" in table(result)
    assert main(["bench", "--attached", "--case", "x"]) == 2
    assert "--attached times one ratio" in capsys.readouterr().err
    with pytest.raises(ValueError, match="shares the weights of a live object"):
        attached_ratio(open_var())


def open_small():
    from tests.families import small_model

    return small_model("infinity")
