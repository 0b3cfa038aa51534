"""Files that are damaged, foreign or hostile, and what this lab reads and writes itself."""

import json
import os
import random
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import fastvar_lab as fv
from fastvar_lab.backbones.features import StoredFeatures
from fastvar_lab.backbones.infinity import Infinity, InfinityConfig
from fastvar_lab.backbones.text import RandomContext, RandomText
from fastvar_lab.errors import WeightsError, short
from fastvar_lab.files import ABANDONED, expanded, write, write_json
from fastvar_lab.models import catalog, hub, releases, tiny, weights
from fastvar_lab.models.checkpoints import read_released
from fastvar_lab.tensors import read_tensors, write_tensors
from tests.families import FAMILIES, small_model

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(4)}
LONGEST = 900  # characters of a message: a sentence, a path or two, and shortened names


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


def test_the_kind_of_this_labs_own_files_is_named_too(folder):
    (folder / tiny.TRANSFORMER_FILE).write_bytes(b"")
    with pytest.raises(WeightsError, match="it is an empty file"):
        fv.load("tiny", weights=folder)
    (folder / "trace.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match=r"cannot read the trace .* Git LFS pointer"):
        fv.Trace.load(folder / "trace.safetensors")


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
    own = model.transformer.state_dict()
    assert all(torch.equal(own[k], v) for k, v in states().items())


def test_a_prefix_is_named_where_keys_still_do_not_fit():
    state = {f"module.{k}": v for k, v in states().items() if k != "pos_start"}
    with pytest.raises(WeightsError, match=r"\(without the prefix module\.\) lacks pos_start"):
        fv.from_states("infinity", CONFIG, state)


def test_two_tensors_of_one_name_are_refused():
    state = states()
    with pytest.raises(WeightsError, match="the name pos_start"):
        fv.from_states("infinity", CONFIG, state | {"_orig_mod.pos_start": state["pos_start"]})
    with pytest.raises(WeightsError, match="pos_start comes twice"):
        fv.from_states("infinity", CONFIG, state | {"vae.pos_start": state["pos_start"]})


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.int64])
def test_numbers_of_another_kind_are_refused(dtype):
    state = states()
    state["head.weight"] = state["head.weight"].to(dtype)
    with pytest.raises(WeightsError, match=r"head.weight .* of torch.*needs floating-point"):
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


def shards(place, names=("model-00001-of-00002", "model-00002-of-00002"), ending="safetensors"):
    place.mkdir(exist_ok=True)
    for name, key in zip(names, STATE):
        save_file({key: STATE[key]}, place / f"{name}.{ending}")
    return place


def index(place, placed, name="model.safetensors.index.json"):
    (place / name).write_text(json.dumps({"weight_map": placed}))


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


PLACED = dict(zip(STATE, ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")))


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
    """Change the configuration inside a file of this lab, and take its checksum away."""
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


# checksums


def flipped(path, byte, bit=0):
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


def test_the_shipped_weights_are_those_of_their_hashes(tmp_path):
    hashes = json.loads((tiny.WEIGHTS / tiny.HASHES).read_text())
    assert hashes.keys() == {path.name for path in tiny.WEIGHTS.glob("*.safetensors")}
    tiny.check_hashes(tiny.WEIGHTS)
    for path in tiny.WEIGHTS.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    fv.load("tiny", weights=tmp_path)
    flipped(tmp_path / tiny.TOKENIZER_FILE, -5)
    with pytest.raises(WeightsError, match="SHA-256 differs"):
        fv.load("tiny", weights=tmp_path)


@pytest.mark.parametrize("byte", [-1, -7, -8000])
def test_one_bit_of_a_file_of_this_lab_is_noticed(tmp_path, byte):
    model = fv.load("tiny")
    tiny.save_tokenizer(model, tmp_path)
    tiny.save_transformer(model, tmp_path)
    fv.load("tiny", weights=tmp_path)
    flipped(tmp_path / tiny.TRANSFORMER_FILE, byte)
    with pytest.raises(WeightsError, match="checksum differs"):
        fv.load("tiny", weights=tmp_path)


def test_swapped_tensors_and_other_metadata_are_noticed(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.zeros(3), "b": torch.ones(3)}, {"from": "here"})
    assert read_tensors(path)[1]["from"] == "here"
    tensors, metadata = load_file(path), read_tensors(path)[1]
    for changed, told in (
        ({"a": tensors["b"], "b": tensors["a"]}, metadata),
        ({**tensors, "a": tensors["a"].view(3, 1)}, metadata),
        ({**tensors, "a": tensors["a"].int()}, metadata),
        (tensors, {**metadata, "from": "there"}),
    ):
        save_file(changed, path, metadata=told)
        with pytest.raises(ValueError, match="checksum differs"):
            read_tensors(path)
    save_file(tensors, path)  # of before there were checksums
    assert torch.equal(read_tensors(path)[0]["b"], torch.ones(3))


def test_one_bit_of_a_file_of_torch_is_noticed(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"x": torch.arange(1000.0)}, path)
    flipped(path, path.read_bytes().index(struct.pack("<f", 500.0)))
    with pytest.raises(WeightsError, match=r"the checksum of .*data/0 in it differs"):
        read_released(path)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"x": torch.arange(1000.0)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_released(path)["x"][3] == 3  # written without checksums


def test_models_say_what_is_known_of_hashes(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "NAMES", ("tiny", "var-d16"))
    files = releases.release("var-d16").files
    for file in files:
        (tmp_path / file).write_bytes(b"weights")
    tiny_row, row = catalog.catalog(tmp_path)
    assert (tiny_row["hash"], row["hash"]) == ("equal", "unknown")
    kept = tmp_path / ".cache" / "huggingface" / "download"
    kept.mkdir(parents=True)
    sha = catalog.digest_of_file(tmp_path / files[0])
    for file in files:
        (kept / f"{file}.metadata").write_text(f"{'0' * 40}\n{sha}\n1700000000.0\n")
    assert catalog.catalog(tmp_path)[1]["hash"] == "known"
    assert catalog.catalog(tmp_path, check=True)[1]["hash"] == "equal"
    (tmp_path / files[1]).write_bytes(b"wexghts")
    assert catalog.catalog(tmp_path, check=True)[1]["hash"] == "differs"
    assert "differs" in catalog.table(catalog.catalog(tmp_path, check=True))


def test_the_name_of_a_blob_in_the_hubs_cache_is_its_hash(tmp_path):
    (tmp_path / ("a" * 64)).write_bytes(b"x")
    (tmp_path / "var_d16.pth").symlink_to(tmp_path / ("a" * 64))
    assert hub.published_sha256(tmp_path / "var_d16.pth") == "a" * 64
    assert hub.published_sha256(tmp_path / ("a" * 64)) is None


# traces and features


@pytest.fixture(scope="module")
def trace():
    return fv.observe(fv.load("tiny"), "a red circle", fv.Dense(), sizes=[(1, 1), (2, 2)])[1]


def retold(path, **changes):
    """Change the metadata of a trace, and take its checksum away."""
    tensors, metadata = read_tensors(path)
    del metadata["sha256"]
    save_file(tensors, path, metadata={k: v for k, v in (metadata | changes).items() if v})


@pytest.mark.parametrize(
    "changes",
    [
        {"provenance": "null"}, {"provenance": "[" * 50_000}, {"provenance": ""},
        {"grids": "null"}, {"grids": "[[0, 1]]"}, {"grids": '[[0, "1", 1, 0]]'},
        {"grids": "[[0, 1000000000, 1000000000, 0]]"}, {"grids": "[]"}, {"grids": ""},
        {"plain": '{"save/1": 3}'}, {"plain": '{"step_ms/1": "fast"}'}, {"plain": '{"nothing": 3}'},
        {"plain": '{"tokens/x": null}'}, {"plain": '{"tokens/7": null}'}, {"plain": "[]"},
        {"plain": '{"seen/1/0/attn": [0, "x"]}'}, {"plain": '{"__dict__/1": 3}'},
    ],
)  # fmt: skip
def test_a_trace_is_read_only_as_one_is_written(trace, tmp_path, changes):
    path = tmp_path / "trace.safetensors"
    trace.save(path)
    retold(path)
    assert fv.Trace.load(path).grids == trace.grids  # of before there were checksums
    trace.save(path)
    retold(path, **changes)
    with pytest.raises(ValueError, match="cannot read the trace") as error:
        fv.Trace.load(path)
    assert len(str(error.value)) < LONGEST


@pytest.mark.parametrize(
    "name",
    ["save/1", "tokens", "tokens/1/0/attn", "scores/0", "kept/1/0/attn", "x" * 5000, "canvases/0",
     "seen/1/0/attn"],
)  # fmt: skip
def test_a_tensor_that_no_trace_holds_is_refused(trace, tmp_path, name):
    path = tmp_path / "trace.safetensors"
    trace.save(path)
    tensors, metadata = read_tensors(path)
    write_tensors(path, {**tensors, name: torch.zeros(3, 99)}, metadata)
    with pytest.raises(ValueError, match="cannot read the trace") as error:
        fv.Trace.load(path)
    assert len(str(error.value)) < LONGEST


def test_one_bit_of_a_trace_is_noticed(trace, tmp_path):
    trace.save(tmp_path / "trace.safetensors")
    flipped(tmp_path / "trace.safetensors", -3)
    with pytest.raises(ValueError, match="checksum differs"):
        fv.Trace.load(tmp_path / "trace.safetensors")


def test_damaged_features_are_computed_again_or_refused(tmp_path):
    encoder = RandomText(8)
    stored = StoredFeatures(tmp_path, encoder)
    wanted = stored.encode(["a b"]).features
    flipped(stored.path("a b"), -3)
    with pytest.raises(ValueError, match=r"cannot read the features .*checksum differs"):
        StoredFeatures(tmp_path).encode(["a b"])
    assert torch.equal(stored.encode(["a b"]).features, wanted)
    assert torch.equal(StoredFeatures(tmp_path).encode(["a b"]).features, wanted)
    for tensors in ({}, {"features": torch.zeros(3)}, {"other": torch.zeros(3, 3)},
                    {"features": torch.zeros(2, 3), "positions": torch.zeros(9)}):  # fmt: skip
        write_tensors(stored.path("a b"), tensors, {"prompt": "a b"})
        with pytest.raises(ValueError, match="cannot read the features"):
            StoredFeatures(tmp_path).encode(["a b"])


def test_features_of_two_encoders_do_not_mix(tmp_path):
    StoredFeatures(tmp_path, RandomText(8)).encode(["a"])
    StoredFeatures(tmp_path, RandomContext(8, 3)).encode(["b"])
    with pytest.raises(ValueError, match="of several encoders"):
        StoredFeatures(tmp_path).encode(["a", "b"])


def test_features_of_before_there_were_checksums_open(tmp_path):
    stored = StoredFeatures(tmp_path, RandomText(8))
    kept = {"features": torch.ones(2, 8)}
    save_file(kept, stored.path("a"), metadata={"prompt": "a", "encoder": "8"})
    assert torch.equal(stored.encode(["a"]).features[0], kept["features"])
    assert torch.equal(StoredFeatures(tmp_path).encode(["a"]).features[0], kept["features"])


# disks that cannot be written, and what killed writers left


def test_features_of_a_disk_that_cannot_be_written_are_read_and_computed(tmp_path, monkeypatch):
    stored = StoredFeatures(tmp_path, RandomText(8))
    stored.encode(["a"])

    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("fastvar_lab.backbones.features.write_tensors", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stored.encode(["a"])
    with pytest.warns(UserWarning, match="features are not kept: .*Read-only"):
        assert stored.encode(["b"]).features.shape == (1, 1, 8)


READ_ONLY = """
import errno, os, sys
root = os.environ["READ_ONLY"]

def refuse(event, args):
    writes = event in ("os.mkdir", "os.symlink", "os.rename", "os.remove", "os.link")
    if event == "open" and isinstance(args[2], int):
        writes = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    paths = [str(path) for path in args[:2] if isinstance(path, (str, os.PathLike))]
    for path in paths:
        if writes and os.path.abspath(path).startswith(root):
            raise OSError(errno.EROFS, "Read-only file system", str(path))

sys.addaudithook(refuse)
"""


def run_read_only(root, script, **environment):
    told = {**os.environ, "READ_ONLY": str(root), **environment}
    return subprocess.run(
        [sys.executable, "-c", READ_ONLY + script], env=told, capture_output=True, text=True
    )


def test_a_complete_cache_of_the_hub_on_a_read_only_disk_is_enough(tmp_path):
    commit = "c" * 40
    for repo, files in (
        ("mit-han-lab/hart-0.7b-1024px", ("llm/ema_model.bin", "tokenizer/model.safetensors")),
        ("mit-han-lab/Qwen2-VL-1.5B-Instruct", ("model.safetensors", "config.json")),
    ):
        place = tmp_path / f"models--{repo.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text(commit)
        for file in files:
            path = place / "snapshots" / commit / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    done = run_read_only(
        tmp_path,
        "from fastvar_lab.models import hub, releases\n"
        "folder, text = hub.fetch(releases.release('hart-0.7b'))\n"
        "print((folder / 'llm' / 'ema_model.bin').exists(), (text / 'config.json').exists())",
        HF_HUB_OFFLINE="1",
        HF_HUB_CACHE=str(tmp_path),
    )
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_pictures_and_figures_need_no_folder_to_write_to(tmp_path):
    """A home, caches and a working folder that are read-only: loading, generating, drawing work."""
    done = run_read_only(
        tmp_path,
        "import fastvar_lab as fv, fastvar_lab.plotting.charts\n"
        "model = fv.load('tiny')\n"
        "made = fv.generate(model, 'a red circle', fv.Dense(), sizes=[(1, 1), (2, 2)])\n"
        "print(tuple(model.decode(made.canvas).shape))",
        HOME=str(tmp_path),
        XDG_CACHE_HOME=str(tmp_path / "cache"),
        XDG_CONFIG_HOME=str(tmp_path / "config"),
    )
    assert done.stdout.strip() == "(1, 3, 16, 16)", done.stderr


def test_what_a_killed_writer_left_goes_when_it_is_old(tmp_path):
    old, young = tmp_path / ".partial-0.json", tmp_path / ".partial-1.json"
    for path in (old, young):
        path.write_text("half")
    os.utime(old, (time.time() - ABANDONED - 60,) * 2)
    write_json(tmp_path / "x.json", {})
    assert (old.exists(), young.exists()) == (False, True)
    assert json.loads((tmp_path / "x.json").read_text()) == {}


# paths and messages


def test_a_leading_tilde_is_the_home_folder(tmp_path, monkeypatch, trace, folder):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/x") == tmp_path / "x"
    assert fv.load("tiny", weights="~").name == "tiny"
    trace.save("~/kept.safetensors")
    assert fv.Trace.load("~/kept.safetensors").grids == trace.grids
    StoredFeatures("~/features", RandomText(8)).encode(["a"])
    assert list((tmp_path / "features").iterdir())
    torch.save(STATE, tmp_path / "x.pth")
    assert read_released("~/x.pth").keys() == STATE.keys()
    (tmp_path / "prompts.txt").write_text("a red circle")
    assert fv.PromptFile("~/prompts.txt").take(1)[0].prompt == "a red circle"
    done = subprocess.run(
        [sys.executable, "-m", "fastvar_lab", "generate", "a star", "--size=4", "--out=~/out"],
        capture_output=True, text=True, env={**os.environ, "HOME": str(tmp_path)}, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "out").glob("*.png"))


def test_names_and_values_are_shortened_to_one_line():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for value in ("x" * 10**7, "a\nb\x1b[31m", deep, 10**5000, ValueError("one\ntwo"), "\ud800"):
        text = short(value)
        assert len(text) <= 60
        assert text.isprintable()
    assert short(ValueError("one\ntwo")) == "one"


# a small campaign of mutated files


def mutations(content, seed):
    """Mutate bytes: flips, cuts, insertions, repeats, and numbers where lengths are."""
    rng = random.Random(seed)
    changed = bytearray(content)
    where = min(len(changed) - 1, int(rng.random() ** 3 * len(changed)))  # headers come first
    match rng.randrange(6):
        case 0:
            changed[where] ^= 1 << rng.randrange(8)
        case 1:
            del changed[where:]
        case 2:
            changed[where:where] = rng.randbytes(rng.randrange(1, 9))
        case 3:
            changed[where : where + 8] = rng.choice((b"\xff" * 8, b"\0" * 8, b"[" * 8, b"9" * 8))
        case 4:
            del changed[where : where + rng.randrange(1, 40)]
        case 5:
            changed[where:where] = changed[where : where + 30]
    return bytes(changed)


@pytest.mark.parametrize("kind", ["pth", "legacy.pth", "safetensors", "index", "trace", "features",
                                  "own"])  # fmt: skip
def test_mutated_files_end_in_an_error_of_one_sentence(kind, tmp_path, trace):
    read = read_released
    path = tmp_path / f"x.{kind}"
    if kind == "pth":
        torch.save(STATE, path)
    elif kind == "legacy.pth":
        torch.save(STATE, path, _use_new_zipfile_serialization=False)
    elif kind == "safetensors":
        save_file(STATE, path)
    elif kind == "index":
        place = shards(tmp_path / "shards")
        index(place, PLACED)
        path = place / "model.safetensors.index.json"
        read = lambda _: read_released(place)  # noqa: E731
    elif kind == "trace":
        trace.save(path)
        tensors, metadata = read_tensors(path)
        del metadata["sha256"]  # or every mutation would end there
        save_file({k: v for k, v in tensors.items() if "/1/" in k}, path, metadata=metadata)
        read = fv.Trace.load
    elif kind == "features":
        stored = StoredFeatures(tmp_path, RandomText(8))
        stored.encode(["a"])
        path = stored.path("a")
        read = lambda _: StoredFeatures(tmp_path).encode(["a"])  # noqa: E731
    else:
        config = {part: {"depth": 1} for part in ("transformer", "text")}
        weights.save(path, STATE, config, torch.float32)
        read = weights.read
    whole = path.read_bytes()
    messages = list[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(150):
            path.write_bytes(mutations(whole, seed))
            try:
                read(path)
            except UnicodeError:  # a ValueError too, of a library
                raise
            except (ValueError, OSError) as error:
                messages.append(str(error))
    assert len(messages) > 30
    assert max(map(len, messages)) < LONGEST
    assert not any("\n" in text or "weights_only" in text for text in messages)


def test_paths_are_paths():
    assert expanded(Path("a") / "b") == Path("a/b")
    with pytest.raises(OSError, match="Not a directory"):
        write_tensors(Path("/dev/null/x.safetensors"), STATE)
    with pytest.raises(OSError, match="Not a directory"):
        write(Path("/dev/null/x"), lambda p: p.write_text(""))
