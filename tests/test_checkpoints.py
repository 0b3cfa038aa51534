"""Weights of others: their kinds, wrappers and shards, and what is refused, in one sentence."""

import json
import os
import time

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import fastvar_lab as fv
from fastvar_lab.backbones.infinity import Infinity, InfinityConfig
from fastvar_lab.errors import WeightsError
from fastvar_lab.models import tiny
from fastvar_lab.models.checkpoints import read_released
from tests.damage import LONGEST, PLACED, STATE, index, shards
from tests.families import FAMILIES, small_model


@pytest.fixture
def folder(tmp_path):
    for name in (tiny.TOKENIZER_FILE, tiny.TRANSFORMER_FILE):
        (tmp_path / name).write_bytes((tiny.WEIGHTS / name).read_bytes())
    return tmp_path


# what a file is


@pytest.mark.parametrize("ending", ["pth", "bin", "safetensors"])
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "an empty file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n",
            "Git LFS pointer",
        ),
        (b"\n<!DOCTYPE html><html><body>sign in", "a web page"),
        (b"hello world", "a text file"),
        (b"x", "a text file"),
        ("Zugriff verweigert: \u00fc".encode() * 60, "a text file"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, ending, content, kind):
    path = tmp_path / f"weights.{ending}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"cannot read weights .*: it is .*{kind}") as error:
        read_released(path)
    assert "weights_only" not in str(error.value)


class Asks:
    def __init__(self, function):
        self.function = function

    def __reduce__(self):
        return (self.function, ("this must not run",))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Asks(print), "print"),
        (Asks(os.system), r"posix.system|nt.system"),
        (np.zeros(3), r"numpy\S+_reconstruct"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
)
def test_a_refused_type_is_named_and_no_advice_of_torch_is_passed_on(tmp_path, value, name, capfd):
    torch.save({"x": value}, tmp_path / "bad.pth")
    with pytest.raises(WeightsError, match=f"would run code .* it asks for ({name})") as error:
        read_released(tmp_path / "bad.pth")
    assert "weights_only" not in str(error.value)
    assert "must not run" not in "".join(capfd.readouterr())


# what a state dict holds


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({0: torch.zeros(1)}, "0 is a Tensor"),
        ({"x": 3}, "x is a int"),
        ([torch.zeros(1)], "no state dict"),
        ({}, "no state dict"),
        ({"x": torch.eye(3).to_sparse()}, "x in .* is sparse"),
        ({"x": torch.zeros(3, device="meta")}, "x in .* is without content"),
        ({"x": torch.zeros(3, dtype=torch.complex64)}, "x in .* is complex"),
        ({"n" * 5000 + "\nm": 3}, r"nnn\.\.\.nn"),
    ],
)
def test_only_plain_tensors_under_names_are_let_in(tmp_path, state, reason):
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=reason) as error:
        read_released(tmp_path / "x.pth")
    assert len(str(error.value)) < LONGEST
    assert "\n" not in str(error.value)


CONFIG = {"depth": 1, "width": 64, "heads": 2, "ffn": 64, "bits": 4, "text_width": 32,
          "text_length": 8, "pool_heads": 4}  # fmt: skip


def states():
    torch.manual_seed(0)
    return Infinity(InfinityConfig(**CONFIG)).state_dict()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
        lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
        lambda s: {"n_averaged": torch.tensor(3)} | {f"module.{k}": v for k, v in s.items()},
        lambda s: {k.replace("blocks.0.", "blocks.0._orig_mod."): v for k, v in s.items()},
        lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}, "epoch": 3},
        lambda s: {"model": s, "optimizer": {}},
        lambda s: {"model": {k: v + 1 for k, v in s.items()}, "model_ema": s},
        lambda s: {"state_dict": {"model": s}},
    ],
)
def test_wrappers_and_nests_come_off(wrap):
    model = fv.from_states("infinity", CONFIG, wrap(states()))
    loaded = model.transformer.state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in states().items())


def test_a_prefix_is_named_where_keys_still_do_not_fit():
    state = {f"module.{k}": v for k, v in states().items() if k != "pos_start"}
    with pytest.raises(WeightsError, match=r"\(without the prefix module\.\) lacks pos_start"):
        fv.from_states("infinity", CONFIG, state)


def test_two_tensors_of_one_name_are_refused():
    state = states()
    with pytest.raises(WeightsError, match="the name pos_start"):
        fv.from_states("infinity", CONFIG, state | {"_orig_mod.pos_start": state["pos_start"]})
    with pytest.raises(WeightsError, match="pos_start appears twice"):
        fv.from_states("infinity", CONFIG, state | {"vae.pos_start": state["pos_start"]})


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.int64])
def test_numbers_of_another_kind_are_refused(dtype):
    state = states()
    state["head.weight"] = state["head.weight"].to(dtype)
    with pytest.raises(WeightsError, match=r"head.weight .* dtype torch.*needs a floating-point"):
        fv.from_states("infinity", CONFIG, state)
    state["head.weight"] = states()["head.weight"].to_sparse()
    with pytest.raises(WeightsError, match=r"head.weight in .* is sparse"):
        fv.from_states("infinity", CONFIG, state)


@pytest.mark.parametrize("family", FAMILIES)
def test_state_dicts_are_saved_after_weights_are_laid_out(family, tmp_path):
    model = small_model(family)
    wanted = {k: v.clone() for k, v in model.transformer.state_dict().items()}
    before = model.fingerprint
    model.lay_out().lay_out()
    assert model.fingerprint == before
    assert not model.transformer.blocks[0].ffn.parameters().__next__().is_contiguous()  # the point
    for part in model.parts:
        if part.state_dict():
            save_file(part.state_dict(), tmp_path / "part.safetensors")
    kept = load_file(tmp_path / "part.safetensors")
    save_file(model.transformer.state_dict(), tmp_path / "transformer.safetensors")
    kept = load_file(tmp_path / "transformer.safetensors")
    assert kept.keys() == wanted.keys()
    assert all(torch.equal(kept[k], v) for k, v in wanted.items())
    assert dict(model.transformer.state_dict(keep_vars=True))["head.weight"] is (
        model.transformer.head.weight
    )
    model.transformer.load_state_dict(kept)


# shards


def test_shards_without_an_index_are_all_read(tmp_path):
    place = shards(tmp_path / "x")
    assert read_released(place).keys() == STATE.keys()
    (place / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match="holds 1 of 2 shards; missing are 2"):
        read_released(place)


def test_files_that_may_not_belong_together_are_refused(tmp_path):
    with pytest.raises(
        WeightsError, match=r"holds 2 files \(a.safetensors, b.safetensors\) and no"
    ):
        read_released(shards(tmp_path / "x", ("a", "b")))
    place = shards(tmp_path / "y", ("m-1-of-2", "n-2-of-2"))
    with pytest.raises(WeightsError, match="and no index"):
        read_released(place)


def test_an_index_and_its_shards_must_agree(tmp_path):
    place = shards(tmp_path / "x")
    index(place, PLACED)
    assert read_released(place).keys() == STATE.keys()
    for placed, reason in (
        ({"b": PLACED["b"]}, "leaves out"),
        (PLACED | {"c": PLACED["b"]}, "lacks c, which its index says it holds"),
        (dict(zip(STATE, reversed(PLACED.values()))), "which its index says is of"),
    ):
        index(place, placed)
        with pytest.raises(WeightsError, match=reason):
            read_released(place)
    index(place, PLACED)
    save_file({"b": STATE["b"], "a.weight": STATE["a.weight"]}, place / PLACED["b"])
    with pytest.raises(WeightsError, match=r"holds a\.weight twice"):
        read_released(place)
    index(place, PLACED, "other.safetensors.index.json")
    with pytest.raises(WeightsError, match="two indices"):
        read_released(place)


@pytest.mark.parametrize(
    "name",
    [None, 3, "", "..", "../outside.safetensors", "/", "a/b", "a\\b", "x" * 5000, ["a"], "a\nb"],
)
def test_names_in_an_index_stay_inside_its_folder(tmp_path, name):
    save_file(STATE, tmp_path / "outside.safetensors")
    place = shards(tmp_path / "x")
    if name == "/":
        name = str(tmp_path / "outside.safetensors")
    index(place, dict.fromkeys(STATE, name))
    with pytest.raises(WeightsError, match="names the shard") as error:
        read_released(place)
    assert len(str(error.value)) < LONGEST
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"weight_map": null}', "[" * 100_000,
                                  '{"weight_map": {}}', "\ud800"])  # fmt: skip
def test_an_index_that_is_none_is_refused(tmp_path, text):
    place = shards(tmp_path / "x")
    (place / "model.safetensors.index.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(WeightsError, match="cannot read the index"):
        read_released(place)


# configurations


def rewritten(file, change):
    """Change the configuration inside a file of this library, and take its checksum away."""
    with safe_open(file, framework="pt") as opened:
        config = json.loads(opened.metadata()["config"])
    change(config)
    save_file(load_file(file), file, metadata={"config": json.dumps(config)})


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("transformer", "depth", 10**9), ("transformer", "depth", -1),
        ("transformer", "width", 10**9), ("transformer", "width", 0),
        ("transformer", "heads", 0), ("transformer", "heads", 3), ("transformer", "bits", True),
        ("transformer", "reference", [96]), ("transformer", "reference", [10**12, 96]),
        ("transformer", "levels", 10**9), ("transformer", "ffn", "4"),
        ("transformer", "ffn", 1.5), ("transformer", "waves", None),
        ("text", "depth", 10**9), ("text", "length", 10**12), ("text", "vocabulary", [1, 2]),
        ("text", "vocabulary", "words"), ("transformer", "depth", [[[[8]]]]),
    ],
)  # fmt: skip
def test_a_configuration_asks_for_no_more_than_its_tensors(folder, part, key, value):
    rewritten(folder / tiny.TRANSFORMER_FILE, lambda c: c[part].update({key: value}))
    begin = time.monotonic()
    with pytest.raises(WeightsError) as error:
        fv.load("tiny", weights=folder)
    assert time.monotonic() - begin < 5
    assert len(str(error.value)) < LONGEST


@pytest.mark.parametrize("config", ["[" * 50_000, "null", "{}", '{"transformer": null}', "nan",
                                    '{"transformer": {}, "text": {}}'])  # fmt: skip
def test_a_configuration_that_is_none_is_refused(folder, config):
    file = folder / tiny.TRANSFORMER_FILE
    save_file(load_file(file), file, metadata={"config": config})
    with pytest.raises(WeightsError):
        fv.load("tiny", weights=folder)


@pytest.mark.parametrize(
    "content",
    [
        {"depth": 10**9}, {"embed_dim": 10**9}, {"depth": "many"}, {"patch_nums": "1_x"},
        {"patch_nums": 7}, {"depth": -1}, {"num_heads": 0}, {"num_heads": [1]}, [], None,
    ],
)  # fmt: skip
def test_a_release_configuration_is_bounded_by_its_weights(tmp_path, content):
    (tmp_path / "llm").mkdir()
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "llm" / "config.json").write_text(json.dumps(content))
    torch.save(STATE, tmp_path / "llm" / "ema_model.bin")
    begin = time.monotonic()
    with pytest.raises(WeightsError) as error:
        fv.load("hart-0.7b", weights=tmp_path)
    assert time.monotonic() - begin < 5
    assert len(str(error.value)) < LONGEST
