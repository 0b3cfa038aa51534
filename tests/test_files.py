"""Files of the library: checksums, damage, read-only disks, home folders; mutated files."""

import json
import os
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import fastvar_lab as fv
from fastvar_lab.backbones.infinity import Text
from fastvar_lab.backbones.text import RandomContext, RandomText
from fastvar_lab.errors import WeightsError, short
from fastvar_lab.files import ABANDONED, expanded, write, write_json, write_utf8
from fastvar_lab.models import catalog, hub, releases, shipped, states, tiny
from fastvar_lab.models.checkpoints import read_released
from fastvar_lab.models.features import StoredFeatures
from fastvar_lab.pictures import write_image
from fastvar_lab.store import Store
from fastvar_lab.tensors import read_tensors, write_tensors
from fastvar_lab.training.loop import train
from tests.damage import LONGEST, PLACED, STATE, flipped, index, mutations, shards


@pytest.fixture
def folder(tmp_path):
    for name in (tiny.TOKENIZER_FILE, tiny.TRANSFORMER_FILE):
        (tmp_path / name).write_bytes((tiny.WEIGHTS / name).read_bytes())
    return tmp_path


def test_the_kind_of_this_labs_own_files_is_named_too(folder):
    (folder / tiny.TRANSFORMER_FILE).write_bytes(b"")
    with pytest.raises(WeightsError, match="it is an empty file"):
        fv.load("tiny", weights=folder)
    (folder / "trace.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match=r"cannot read the trace .* Git LFS pointer"):
        fv.Trace.load(folder / "trace.safetensors")


# checksums


def test_the_shipped_weights_are_those_of_their_hashes(tmp_path):
    hashes = json.loads((tiny.WEIGHTS / shipped.HASHES).read_text())
    assert hashes.keys() == {path.name for path in tiny.WEIGHTS.glob("*.safetensors")}
    shipped.check_hashes(tiny.WEIGHTS)
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


@pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_file_of_tensors_may_be_read_by_whom_the_umask_lets(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(3)})
    finally:
        os.umask(before)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o666 & ~mask


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


def test_models_are_listed_from_the_cache_without_torch(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(catalog, "NAMES", ("tiny", "var-d16"))
    first, place = catalog.catalog(), tmp_path / "fastvar_lab" / "models" / "requirements.json"
    code = """
import sys
from fastvar_lab.models import catalog
catalog.NAMES = ("tiny", "var-d16")
print(catalog.table(catalog.catalog()))
assert "torch" not in sys.modules
"""
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert listed.stdout.strip() == catalog.table(first), listed.stderr
    flipped(place, place.read_bytes().index(b'"parameters": ') + 14)
    assert catalog.catalog() == first
    monkeypatch.setattr(catalog, "source_hash", lambda: "another version")
    before = place.read_bytes()
    assert catalog.catalog() == first
    assert place.read_bytes() != before


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(catalog, "NAMES", ("tiny",))
    assert [row["name"] for row in catalog.catalog()] == ["tiny"]


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
    for encoder in ("8", "RandomText 8"):  # names without the hash of its weights
        save_file(kept, stored.path("a"), metadata={"prompt": "a", "encoder": encoder})
        assert torch.equal(StoredFeatures(tmp_path).encode(["a"]).features[0], kept["features"])
        anew = stored.encode(["a"]).features  # nothing says that they are this encoder's
        assert torch.equal(anew, RandomText(8).encode(["a"]).features)


class Embedding(RandomText):
    """Encodes every prompt as its one row of weights."""

    def __init__(self, value):
        super().__init__(8)
        self.row = torch.nn.Parameter(torch.full((1, 1, 8), float(value)))

    def encode(self, prompts):
        return Text(self.row.detach().expand(len(prompts), 1, 8), torch.ones(len(prompts), 1) > 0)


def test_features_know_their_encoder_by_its_weights(tmp_path):
    first = Embedding(1)
    stored = StoredFeatures(tmp_path, first)
    assert stored.encode(["a"]).features.unique().tolist() == [1]
    assert StoredFeatures(tmp_path, Embedding(2)).encode(["a"]).features.unique().tolist() == [2]
    assert stored.encode(["a"]).features.unique().tolist() == [1]
    first.row.data += 2  # raises no version counter
    assert stored.encode(["a"]).features.unique().tolist() == [3]


def test_results_from_features_of_other_encoders_are_kept_apart(tmp_path):
    small, apart = fv.load("tiny"), []
    for folder, value in (("one", 1), ("two", 2), ("again", 1)):
        StoredFeatures(tmp_path / folder, Embedding(value)).encode(["a"])
        small.text_encoder = StoredFeatures(tmp_path / folder)
        apart.append(small.fingerprint)
        StoredFeatures(tmp_path / folder, Embedding(value)).encode(["b"])
        assert small.fingerprint == apart[-1]  # more prompts of the same encoder
    assert apart[0] == apart[2] != apart[1]
    StoredFeatures(tmp_path / "again", Embedding(2)).encode(["c"])
    assert small.fingerprint not in apart


# disks that cannot be written, and what killed writers left


def test_features_of_a_disk_that_cannot_be_written_are_read_and_computed(tmp_path, monkeypatch):
    stored = StoredFeatures(tmp_path, RandomText(8))
    stored.encode(["a"])

    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("fastvar_lab.models.features.write_tensors", refuse)
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


def test_a_folder_is_listed_once_however_many_files_are_written(tmp_path, monkeypatch):
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    for name in "abc":
        write_json(tmp_path / f"{name}.json", {})
    assert listed == [tmp_path]


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
    assert Store("~/cells").folder == tmp_path / "cells"
    write_image("~/x.png", np.zeros((8, 8, 3), np.uint8))
    write_utf8("~/claims.md", "")
    assert {"x.png", "claims.md"} <= {path.name for path in tmp_path.iterdir()}
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


def test_paths_are_paths():
    assert expanded(Path("a") / "b") == Path("a/b")
    with pytest.raises(OSError, match="Not a directory"):
        write_tensors(Path("/dev/null/x.safetensors"), STATE)
    with pytest.raises(OSError, match="Not a directory"):
        write(Path("/dev/null/x"), lambda p: p.write_text(""))


def test_an_error_of_writing_names_the_file_that_was_to_be_written(tmp_path):
    path = tmp_path / "missing" / "x.json"
    with pytest.raises(FileNotFoundError) as error:
        write_json(path, {})
    assert error.value.filename == str(path)


@pytest.mark.parametrize("content", [b"", b"hello world", b"\x80\x02]q\x00.", b"PK\x03\x04"])
def test_a_damaged_checkpoint_of_training_is_named(tmp_path, content):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    options = {"steps": 1, "peak": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.0}
    with pytest.raises(ValueError, match=r"cannot resume from .*: it is damaged or of another"):
        train(torch.nn.Linear(1, 1), lambda _: 1 / 0, checkpoint=path, resume=True, **options)


# a small campaign of mutated files


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
        states.save(path, STATE, config, torch.float32)
        read = states.read
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
