"""The conventions of a shell: pipes, exit statuses, and refusals before anything is written."""

import os
import subprocess
import sys

import pytest

import fastvar_lab as fv
from fastvar_lab.cli.main import main
from fastvar_lab.experiments import run
from fastvar_lab.experiments.base import Scope
from fastvar_lab.store import Store

LAB = [sys.executable, "-m", "fastvar_lab"]
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@pytest.mark.parametrize("arguments", [["experiment"], ["--help"]])
def test_a_reader_that_leaves_ends_a_command_quietly(arguments):
    read, written = os.pipe()
    os.close(read)
    pipes = {"stdout": written, "stderr": subprocess.PIPE, "env": BUFFERED}
    command = subprocess.Popen([*LAB, *arguments], **pipes)
    os.close(written)
    assert command.communicate(timeout=60)[1] == b""
    assert command.returncode == 141


def test_a_full_disk_is_one_line(tmp_path):
    with open("/dev/full", "w", encoding="utf-8") as full:
        ended = subprocess.run(
            [*LAB, "experiment"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ended.returncode == 2
    assert ended.stderr == "fastvar-lab: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_is_no_error(closed):
    command = f"{sys.executable} -m fastvar_lab figures --list {closed}"
    ended = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert ended.returncode == 0
    assert ended.stderr == ""


LATE = [
    (["claims", "--workers", "-1"], "--workers must be 0 or more; not -1"),
    (["experiment", "memory", "--workers", "-1"], "--workers must be 0 or more; not -1"),
    (["figures", "selectors", "--workers", "-1"], "--workers must be 0 or more; not -1"),
    (
        ["claims", "--store", "/dev/null/x"],
        "cannot make the store folder /dev/null/x: /dev/null is",
    ),
    (["claims", "--model", "nothing"], "nothing"),
    (["claims", "--prompts", "/nowhere"], "cannot read the prompt file /nowhere"),
    (
        ["generate", "a ring", "--features", "/dev/null"],
        "cannot make the features folder /dev/null",
    ),
    (["generate", "a ring", "--seed=--"], "--seed takes a value; not '--'"),
    (["generate", "a ring", "--ratios", "31:0.5"], "no scale 31 in this schedule"),
    (["demo", "--ratios", "31:0.5"], "no scale 31 in this schedule"),
    (["demo", "--device", "nope"], "device must be cpu or cuda, such as cuda:0; not 'nope'"),
    (["train", "tokenizer", "--resume"], "tokenizer.ckpt does not exist"),
    (["train", "tokenizer", "--from", "nowhere"], "cannot read weights nowhere"),
    (["figures", "side_by_side", "--metrics", "nope"], "no metric 'nope'"),
    (["figures", "side_by_side", "--prompts", "/nowhere"], "cannot read the prompt file /nowhere"),
    (["demo", "--dtype=--"], "--dtype takes a value; not '--'"),
]


@pytest.mark.parametrize(("arguments", "message"), LATE, ids=[" ".join(a) for a, _ in LATE])
def test_what_can_be_refused_is_refused_before_anything_is_made(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "cache").exists()


def test_a_metric_that_pictures_are_too_small_for_is_left_out_or_refused(tmp_path):
    model = fv.load("tiny", sizes=((1, 1), (2, 2), (4, 4)))
    methods, look, told = {"mine": fv.Prune({-1: 0.5})}, Scope("x", 1, 1), []
    options = {"store": Store(tmp_path), "progress": False, "note": told.append}
    with pytest.raises(
        ValueError, match="32x32 px are too small for the metric vif, which needs 41"
    ):
        run.compare(model, methods, look, metrics="vif", **options)
    assert not list(tmp_path.rglob("*.npz"))
    frame = run.compare(model, methods, look, **options)
    assert told == ["pictures of 32x32 px are too small for the metric vif, which needs 41 px a "
                    "side: it is left out"]  # fmt: skip
    assert "vif" not in frame
    assert frame.ssim.notna().any()


def test_pictures_of_other_content_have_other_names(tmp_path):
    """A shell loop over sizes or ratios loses no picture; a repeated command writes it again."""
    settings = [["--size", "4"], ["--size", "8"], ["--size", "8", "--ratios", "-1:0.5"],
                ["--size", "8", "--ratios", "-1:0.75"], ["--size", "8", "--seed", "1"],
                ["--size", "8", "--dtype", "bfloat16"], ["--size", "8"]]  # fmt: skip
    for options in settings:
        assert main(["generate", "a ring", "--out", str(tmp_path), *options]) == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 6
    both = ["generate", "two stars", "a ring", "--seed", "0", "--size", "8", "--out", str(tmp_path)]
    assert main(both) == 0
    assert len(list(tmp_path.iterdir())) == 7  # the ring has seed 1 here, which was drawn before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nope"], "fastvar-lab: argument COMMAND: invalid choice: 'nope'"),
        (["demo", "--dtype", "float8"], "fastvar-lab demo: argument --dtype: invalid choice"),
        (["demo", "--seed", "x"], "fastvar-lab demo: argument --seed: invalid int value: 'x'"),
        (["demo", "--nope"], "fastvar-lab: unrecognized arguments: --nope"),
    ],
)
def test_arguments_that_do_not_parse_are_one_line(arguments, sentence, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(sentence)
    assert output.err.count("\n") == 1
