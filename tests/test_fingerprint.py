"""User-defined rules are hashed by the syntax of their sources, and by bytecode where none is."""

import copy
import importlib
import linecache
import pickle
import sys
import warnings
from dataclasses import dataclass

import pytest
from torch import nn

import fastvar_lab as fv
from fastvar_lab import scales
from fastvar_lab.backbones.layers import RMSNorm
from fastvar_lab.methods import fingerprint
from fastvar_lab.methods.fingerprint import SourceWarning, code_of, user_code_hash

RULE = '''
"""A module."""
from dataclasses import dataclass

SIGN = {sign}

def unit(x): return x / x.norm()

@dataclass(frozen=True)
class Mine:
    """A rule."""
    weight: float = {weight}

    def scores(self, x, grid, site):
        return {body}
'''
USUAL = {"sign": 1, "weight": 1.0, "body": "SIGN * unit(x)"}


def hash_of(rule):
    method = fv.Prune({-1: 0.5}, select=rule)
    return user_code_hash(method, method.start(scales.grids(scales.TINY), 8))


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Hash the rule `Mine` of a module that is written as a file, without a warning."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def hashed(text):
        (tmp_path / "user_rules.py").write_text(text)
        sys.modules.pop("user_rules", None)
        importlib.invalidate_caches()
        module = importlib.import_module("user_rules")
        with warnings.catch_warnings():
            warnings.simplefilter("error", SourceWarning)
            return hash_of(module.Mine())

    yield hashed
    sys.modules.pop("user_rules", None)


def test_comments_layout_and_docstrings_do_not_matter(written):
    usual = RULE.format(**USUAL)
    other = usual.replace("return SIGN * unit(x)", "# as before\n        return (SIGN\n * unit(x))")
    other = other.replace("A rule.", "The rule.").replace("A module.", "\n\n")
    assert other != usual
    assert written(usual) == written(other)


@pytest.mark.parametrize(
    ("name", "value"), [("sign", 2), ("weight", 2.0), ("body", "SIGN * x"), ("body", "unit(x)")]
)
def test_what_is_computed_matters(written, name, value):
    assert written(RULE.format(**USUAL)) != written(RULE.format(**{**USUAL, name: value}))


def test_what_the_code_names_matters(written):
    usual = RULE.format(**USUAL)
    assert written(usual) != written(usual.replace("x.norm()", "x.sum()"))


def test_lambdas_have_a_source(written):
    text = "class Mine:\n    scores = lambda self, x, grid, site: {}\n"
    assert written(text.format("x")) == written(text.format("(x)")) != written(text.format("-x"))


def test_the_hash_is_not_of_bytecode(written, monkeypatch):
    before = written(RULE.format(**USUAL))
    monkeypatch.setattr(fingerprint._Canonical, "_bytecode", None)
    monkeypatch.setattr(sys, "version_info", (3, 99))
    assert written(RULE.format(**USUAL)) == before


def test_a_notebook_cell_has_a_source():
    found = []
    for turn, body in enumerate(("SIGN * unit(x)", "SIGN * unit(x)  # as before", "SIGN * x")):
        text, name = RULE.format(**{**USUAL, "body": body}), f"/tmp/ipykernel_1/{turn}.py"
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
        space = {"__name__": "__main__"}
        exec(compile(text, name, "exec"), space)
        with warnings.catch_warnings():
            warnings.simplefilter("error", SourceWarning)
            found.append(hash_of(space["Mine"]()))
        del linecache.cache[name]
    assert found[0] == found[1] != found[2]


def test_a_file_that_was_edited_since_is_not_what_runs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = tmp_path / "edited_rules.py"
    path.write_text(RULE.format(**USUAL))
    module = importlib.import_module("edited_rules")
    path.write_text(RULE.format(**{**USUAL, "body": "SIGN * x + 1  # longer than before"}))
    with pytest.warns(SourceWarning, match=r"source of Mine\.scores is missing or differs from"):
        edited = hash_of(module.Mine())
    del sys.modules["edited_rules"]
    importlib.invalidate_caches()
    assert hash_of(importlib.import_module("edited_rules").Mine()) != edited
    del sys.modules["edited_rules"]


class Gain(nn.Module):
    """As an adapter scales what a layer computes; its scale is no weight."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.scale = layer, 1.0

    def forward(self, x):
        return self.layer(x) * self.scale

    def hook(self, module, inputs, output):
        return output * self.scale


def own_forward(layer, scale):
    forward = layer.forward
    layer.forward = lambda x: forward(x) * scale["of"]
    return lambda: scale.update(of=3.0)


def adapter(model, layer):
    model.transformer.blocks[1].ffn.fc2 = gain = Gain(layer)
    return lambda: setattr(gain, "scale", 3.0)


def hook_with_an_object(model, layer):
    gain = Gain(layer)
    layer.register_forward_hook(gain.hook)
    return lambda: setattr(gain, "scale", 3.0)


def hook_with_the_model(model, layer):
    scale = {"of": 1.0}
    layer.register_forward_hook(lambda module, _, out: out * scale["of"] if model else out)
    return lambda: scale.update(of=3.0)


def hook_of_every_module(model, layer):
    def twice(module, inputs, output):
        return output * 2 if module is layer else None

    return lambda: nn.modules.module.register_module_forward_hook(twice)


def eps_of_a_torch_module(model, layer):
    norm = next(m for m in model.tokenizer.modules() if isinstance(m, nn.GroupNorm))
    return lambda: setattr(norm, "eps", 0.1)


def setting_of_a_module_of_this_library(model, layer):
    norm = next(m for m in model.transformer.modules() if isinstance(m, RMSNorm))
    return lambda: setattr(norm, "eps", 0.1)


def another_module_without_weights(model, layer):
    projection = model.transformer.text_proj_for_ca
    return lambda: projection.__setitem__(1, nn.ReLU())


SET = (adapter, hook_with_an_object, hook_with_the_model, hook_of_every_module,
       setting_of_a_module_of_this_library, another_module_without_weights,
       lambda model, layer: own_forward(layer, {"of": 1.0}))  # fmt: skip


@pytest.mark.parametrize("prepare", SET)
def test_what_is_set_on_a_module_decides_what_the_model_is(small, prepare):
    """Neither weights nor the handles of hooks change, but what is computed does."""
    model = copy.deepcopy(small)
    change = prepare(model, model.transformer.blocks[1].ffn.fc2)
    before, stamp = model.fingerprint, model.drawing
    full = fv.generate(model, "a red ring", fv.Dense(), seed=1, snapshot=True)
    assert (model.fingerprint, model.drawing) == (before, stamp)
    handle = change()
    try:
        assert model.fingerprint != before
        with pytest.raises(ValueError, match="have changed since the snapshot"):
            fv.resume(model, full, fv.Prune({-1: 0.5}))
    finally:
        if handle is not None:
            handle.remove()


def test_settings_of_shipped_modules_count_where_they_were_changed(small):
    model = copy.deepcopy(small)
    before, change = model.fingerprint, eps_of_a_torch_module(model, None)
    assert before == small.fingerprint
    change()
    after = model.fingerprint
    assert after != before
    other = copy.deepcopy(small)
    eps_of_a_torch_module(other, None)()
    assert other.fingerprint == after


def test_a_snapshot_says_what_has_changed(small):
    model = copy.deepcopy(small)
    change = setting_of_a_module_of_this_library(model, None)
    full = fv.generate(model, "a red ring", fv.Dense(), seed=1, snapshot=True)
    change()
    with pytest.raises(ValueError, match=r"^the settings of .* have changed since the snapshot$"):
        fv.resume(model, full, fv.Prune({-1: 0.5}))


def test_code_without_a_source_is_hashed_for_one_python_alone(monkeypatch):
    space = {"__name__": "mine"}
    exec(RULE.format(**USUAL), space)
    with pytest.warns(SourceWarning, match="results are cached for this version of Python alone"):
        here = hash_of(space["Mine"]())
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    with pytest.warns(SourceWarning):
        assert hash_of(space["Mine"]()) != here


def test_functions_are_hashed_with_what_they_name():
    def of(factor):
        return lambda picture: factor * picture

    assert code_of(of(1)) == code_of(of(1)) != code_of(of(2))
    assert len(code_of(of(1))) == 16


def test_pickling_does_not_change_the_hash():
    """An instance that is pickled for the first time leaves a mark on its class."""

    @dataclass(frozen=True)
    class Mine:
        weight: float = 1.0

        def scores(self, x, grid, site):
            return x.norm(dim=-1) * self.weight

    before = hash_of(Mine())
    with pytest.raises((AttributeError, pickle.PicklingError)):  # a local class does not travel
        pickle.dumps(Mine())
    assert "__slotnames__" in vars(Mine)
    assert hash_of(Mine()) == before
