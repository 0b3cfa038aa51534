"""Where results are from, and the one hash of contents."""

import hashlib
import json

import torch

import fastvar_lab as fv
from fastvar_lab.files import digest
from fastvar_lab.models import stamps
from fastvar_lab.provenance import environment, provenance, versions
from fastvar_lab.speed import suite
from fastvar_lab.store import Store


def test_a_result_says_where_it_is_from(small):
    method = fv.Prune({-1: 0.5})
    made, trace = fv.observe(small, "a red ring", method, seed=3)
    told = provenance(small, method, made.request, command="demo", packages=["pillow"])
    assert told == {
        "command": "demo",
        "model": "small",
        "weights": small.fingerprint,
        "precision": small.precision,
        "method": repr(method),
        "prompts": ("a red ring",),
        "seeds": (3,),
        "sampling": repr(small.sampling),
        "draws": "Keyed(seeds=(3,), on_device=False)",
        "sizes": list(small.sizes),
        **environment("cpu", ["pillow"]),
    }
    assert {"device", "machine", "cpu", "threads", "versions"} <= set(told)
    assert {"torch", "fastvar-lab", "pillow"} <= set(told["versions"])
    json.dumps(told)
    assert {**trace.provenance, "versions": 0, "command": "demo"} == {
        **told, "versions": 0, "scores": "FarFromMean()", "first_step": 0}  # fmt: skip
    assert "method" not in provenance(small)


def test_versions_name_each_package_once():
    assert list(versions("torch", "pillow")) == ["torch", "numpy", "scikit-image", "pillow"]


def test_a_digest_is_that_of_its_parts_joined():
    whole = hashlib.sha256("é and bytes".encode()).hexdigest()
    assert digest("é and ", b"by", memoryview(b"tes")) == whole
    assert digest("é and bytes", length=16) == whole[:16]


def test_the_fingerprint_of_the_weights_that_ship_is_the_one_in_figures_and_card():
    assert fv.load("tiny").fingerprint == "b6c2386e4ee47d75"


def test_weights_are_read_once_where_nothing_changes_them(monkeypatch):
    model, read = fv.load("tiny"), []
    known = model.fingerprint
    weigh = stamps.checksums
    monkeypatch.setattr(stamps, "checksums", lambda part: read.append(part) or weigh(part))
    with model.unchanged(), model.with_guidance(4.0).unchanged():
        assert {model.fingerprint, model.with_guidance(3.0).fingerprint} == {known}
        assert len(read) == len(model.parts)
    with torch.no_grad():
        next(model.transformer.parameters()).data += 1  # noticed again from here on
    assert model.fingerprint != known


def test_a_disturbed_timing_is_not_kept(tmp_path):
    store, calls = Store(tmp_path).prepare(), []

    def measure():
        calls.append(1)
        return [{"speedup": 2.0, "disturbed": len(calls) == 1}]

    for count, shaken in ((1, True), (2, False), (2, False)):
        assert suite.stored(store, {"a": 1}, measure)[0]["disturbed"] is shaken
        assert len(calls) == count
