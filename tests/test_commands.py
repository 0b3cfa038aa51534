"""The commands as a person runs them."""

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from skimage.io import imread

import fastvar_lab as fv
from fastvar_lab import cli
from fastvar_lab.cli import cmd_demo
from fastvar_lab.cli.main import commands, main
from fastvar_lab.cli.options import spec
from fastvar_lab.evaluators.closed_world import true_tokens
from fastvar_lab.files import write
from fastvar_lab.models import tiny
from fastvar_lab.models.spec import ModelSpec
from fastvar_lab.pictures import file_name
from fastvar_lab.plotting import charts, panels
from fastvar_lab.plotting.style import write_figure
from fastvar_lab.speed import batches, bench, compiled, suite
from fastvar_lab.speed.suite import growth, settings
from fastvar_lab.world.tasks import judge, questions
from tests.families import small_model


def test_demo(tmp_path):
    command = [sys.executable, "-m", "fastvar_lab", "demo", "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--prompt", "a red circle", "--seed", "3", "--ratios", "-2:0.5,-1:0.75"],
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads((tmp_path / "demo.json").read_text())
    assert {"ms_full", "ms_fast", "tokens_full", "tokens_fast", "speedup", "speedup_flop_bound",
            "psnr", "ssim", "seed", "weights", "versions"} <= set(report)  # fmt: skip
    assert len(report["ms_full"]) == len(report["tokens_fast"]) == 10
    assert report["tokens_full"][-1] == 1024
    assert report["tokens_fast"][-2:] == [288, 256]
    assert report["seed"] == 3
    assert report["speedup"] > 1
    assert 15 < report["psnr"] < 60
    for name in ("full", "fast"):
        assert imread(tmp_path / f"{name}.png").shape == (256, 256, 3)
    assert imread(tmp_path / "compare.png").shape[1] > 1000
    with Image.open(tmp_path / "race.gif") as gif:
        assert gif.n_frames > 10
        assert gif.size == (572, 368)
    assert "speedup" in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "compare.png", "demo.json", "fast.png", "full.png", "race.gif"]  # fmt: skip


def test_a_command_is_one_file():
    files = sorted(path.stem for path in Path(cli.__path__[0]).glob("cmd_*.py"))
    assert [f"cmd_{name}" for name in commands()] == files
    for command in commands().values():
        assert "\n" not in command.HELP


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["generate", "--help"], ["demo", "--nope"], ["nothing"], ["evaluate", "--n", "1"],
     ["generate", "a ring", "--ratios=-1:0.5", "--paper"], ["models", "--weights", "nowhere"]],
    ids=" ".join,
)  # fmt: skip
def test_help_and_errors_come_without_torch(arguments):
    code = f"""
import sys
from fastvar_lab.cli.main import main
try:
    main({arguments!r})
except SystemExit:
    pass
assert not {{"torch", "numpy", "pandas"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    "arguments", [["experiment"], ["experiment", "x"], ["figures", "--list"], ["figures", "x"],
                  ["store", "--store", "nowhere"],
                  *([command, "--model", "x"] for command in ("demo", "bench", "claims")),
                  ["generate", "x", "--model", "nope"], ["experiment", "memory", "--model", "x"],
                  ["demo", "--ratios", "x"], ["generate", "x", "--ratios=-1:2"],
                  ["evaluate", "--ratios", "x"], ["evaluate", "--size", "x"],
                  ["generate", "x", "--size", "0"]], ids=" ".join
)  # fmt: skip
def test_lists_and_wrong_names_come_without_torch(arguments):
    code = f"""
import sys
from fastvar_lab.cli.main import main
status = main({arguments!r})
assert "torch" not in sys.modules
sys.exit(status)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == (2 if "x" in arguments else 0), done.stderr


@pytest.mark.parametrize("command", ["demo", "evaluate", "figures", "claims", "experiment"])
def test_commands_take_any_model(command):
    parser = argparse.ArgumentParser()
    commands()[command].add_arguments(parser)
    options = ["--model", "m", "--weights", "random", "--device", "cpu", "--dtype", "bfloat16"]
    args = parser.parse_args(options)
    assert spec(args) == ModelSpec("m", "random", "cpu", "bfloat16")


def test_pictures_of_random_weights_mean_nothing(tmp_path, capsys):
    line = "fastvar-lab: random weights: pictures and scores mean nothing\n"
    short = ["--size", "8", "--out", str(tmp_path)]
    assert main(["generate", "a ring", "--weights", "random", *short]) == 0
    assert line in capsys.readouterr().err
    assert main(["generate", "a ring", *short]) == 0
    assert line not in capsys.readouterr().err


def test_a_model_without_a_judge_is_not_evaluated(monkeypatch, capsys):
    model = fv.load("tiny")
    model.prompts = fv.ClosedWorld(judge=None)
    monkeypatch.setattr(ModelSpec, "open", lambda spec: model)
    assert main(["evaluate", "--n", "7"]) == 2
    error = capsys.readouterr().err
    assert error == (
        "fastvar-lab: tiny has no judge: `evaluate` scores only pictures of the closed world\n"
    )


def test_generate_writes_a_picture_a_prompt(tmp_path, capsys):
    main(["generate", "a red circle", "two stars", "--out", str(tmp_path), "--size", "16x24"])
    for name in ("a-red-circle-0-16x24", "two-stars-1-16x24"):
        (path,) = tmp_path.glob(f"{name}-*.png")
        assert imread(path).shape == (128, 192, 3)


def test_evaluate_prints_scores(capsys, tmp_path):
    words = ["evaluate", "--n", "7", "--seed", "1", "--json", "--store", str(tmp_path)]
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["tasks"]) == {"single_object", "two_objects", "counting", "colors",
                                    "position", "color_attribution", "texture"}  # fmt: skip
    assert 0 <= result["overall"] <= 1
    assert result["reconstruction_psnr"] > 26
    assert len(list(tmp_path.glob("*/rows/*.json"))) == 1


def test_true_tokens_are_those_of_right_pictures():
    model, asked = fv.load("tiny"), questions(3, seed=2)
    tokens = true_tokens(model, asked)
    made = fv.generate(model, [q.prompt.text for q in asked], fv.Dense(), given=tokens)
    images = fv.to_uint8(model.decode(made.canvas))
    assert all(judge(q.prompt, image) for q, image in zip(asked, images, strict=True))


def test_a_terminated_command_leaves_nothing_half_written(tmp_path, monkeypatch, capsys):
    def half(_):
        def save(partial):
            partial.write_text("half")
            signal.raise_signal(signal.SIGTERM)

        write(tmp_path / "a.txt", save)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(cmd_demo, "run", half)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "fastvar-lab: interrupted\n"
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_error_without_words_is_named(monkeypatch, capsys):
    def fail(_):
        raise TimeoutError

    monkeypatch.setattr(cmd_demo, "run", fail)
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == "fastvar-lab: TimeoutError\n"


def test_bench_prints_its_keys(capsys):
    assert main(["bench", "--repeats", "1", "--case", "32x32", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    keys = {"cases", "pts_ms", "ctr_ms", "attention_ms_full", "ffn_ms_full", "record_overhead",
            "resume_ratio"}  # fmt: skip
    assert keys <= set(result)
    for case in result["cases"]:
        assert {"name", "device", "ms_full", "ms_fast", "speedup", "speedup_flop_bound"} <= set(
            case
        )


def test_bench_times_a_method_alone(capsys, monkeypatch):
    for part in ("sublayer_ms", "_record_overhead", "_resume_ratio", "schedules"):
        monkeypatch.setattr(bench, part, pytest.fail)
    words = ["bench", "--ratios=-1:0.5", "--size", "8", "--repeats", "1"]
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    (case,) = result["cases"]
    assert case["scales"][-1] == "8x8"
    assert case["method"] == repr(fv.Prune({-1: 0.5}))
    assert main(words) == 0
    assert case["name"] in capsys.readouterr().out


def test_the_papers_suite_runs_cut_down(capsys):
    words = ["bench", "--suite", "paper", "--case", "var-d24", "--depth", "2", "--repeats", "1"]
    assert main([*words, "--graphs", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    (case,) = result["cases"]
    assert case["scales"][-1] == "16x16"
    assert 1 < case["speedup_flop_bound"] < 1.5
    assert "with both sides without graphs" in bench.case_table([case])
    for mode in ("eager", "graphs"):
        share = case[f"ms_{mode}_full"] / case[f"ms_{mode}_fast"]
        assert case[f"speedup_{mode}"] == pytest.approx(share)
    for way in ("full", "fast"):
        share = case[f"ms_graphs_{way}"] / case[f"ms_eager_{way}"]
        assert case[f"graphs_{way}"] == pytest.approx(share)
        assert min(case[f"step_floor_ms_{way}"]) > 0
        assert sum(case[f"step_floor_ms_{way}"]) < case[f"ms_{way}"]
    parts = result["sublayers"]["var-d24"]
    for name in ("attention", "ffn"):
        floors = [parts[f"{name}_floor_ms_{way}"] for way in ("pruned", "full")]
        assert 0 < floors[0] < floors[1]
        assert parts[f"{name}_ms_pruned"] > 0
    assert {"pts_ms", "pts_floor_ms", "ctr_ms", "ctr_floor_ms"} <= set(parts)


def test_batches_have_times_and_memory(tmp_path):
    result = batches.run(small_model("infinity"), repeats=1, only="full", graphs=True)
    assert "with graphs" in batches.table(result)
    batches.write(result, tmp_path)
    rows = json.loads((tmp_path / "batches.json").read_text())["rows"]
    assert [(row["mode"], row["pictures"]) for row in rows] == [
        (mode, n) for mode in ("without graphs", "with graphs") for n in (1, 2, 4, 8)
    ]
    for row in rows:
        assert row["per_second"] == pytest.approx(1e3 * row["pictures"] / row["ms"])
    counted = [row["bytes_counted"] for row in rows[:4]]
    assert counted == sorted(counted)
    assert (tmp_path / "batches.pdf").exists()


def test_branches_are_compiled_where_there_is_a_compiler(monkeypatch):
    model = small_model("infinity")
    monkeypatch.setattr(compiled.torch, "compile", lambda function, dynamic: function)
    monkeypatch.setattr(compiled, "COMPILERS", ("sh",))
    result = compiled.run(model, repeats=2)
    assert "feed-forward branch" in compiled.table(result)
    assert {row["largest_difference"] for row in result["rows"]} == {0.0}
    monkeypatch.setattr(compiled, "COMPILERS", ("no-compiler",))
    with pytest.raises(ValueError, match=r"torch.compile needs a C\+\+ compiler on a CPU"):
        compiled.run(model, repeats=2)


def test_the_suite_goes_on_where_it_stopped(capsys, tmp_path, monkeypatch):
    words = ["bench", "--suite", "paper", "--case", "var-d24", "--depth", "1", "--repeats", "1"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    first = capsys.readouterr().out
    assert "TFLOP/s" in first
    assert (tmp_path / "speed.txt").read_text() == first
    assert imread(tmp_path / "speed.png").shape[1] > 1000
    assert len(list((tmp_path / "cells").rglob("*.json"))) == 3  # rates, one setting, sublayers
    monkeypatch.setattr(suite, "load", None)  # nothing is built again
    assert main([*words, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == first
    numbers = json.loads((tmp_path / "speed.json").read_text())
    assert {"date", "device", "dtype", "versions", "repeats", "code"} <= set(numbers)
    assert numbers["command"] == (
        "python -m fastvar_lab bench --suite paper --device cpu --repeats 1 --dtype float32 "
        "--depth 1 --case var-d24"
    )


@pytest.mark.parametrize("part", ["cases", "sublayer_ms", "load"])
def test_the_suite_leaves_out_what_does_not_fit(part, monkeypatch, capsys):
    def full(*_, **__):
        raise torch.OutOfMemoryError("no memory for this\nand a long story")

    monkeypatch.setattr(suite, part, full)
    words = ["bench", "--suite", "paper", "--case", "var-d24", "--depth", "1", "--repeats", "1"]
    told = main(words)
    shown = capsys.readouterr()
    assert "no memory for this" in shown.out + shown.err
    assert "long story" not in shown.out + shown.err
    assert told == (0 if part == "sublayer_ms" else 2)


def test_growth_is_drawn_beside_the_speedups():
    steps = {"scales": ["1x1", "4x4"], "step_ms_full": [1.0, 4.0], "step_ms_fast": [1.0, 2.0],
             "step_floor_ms_full": [0.1, 0.4], "step_floor_ms_fast": [0.1, 0.2],
             "skipped": [], "pictures": 1, "speedup": 2.0, "speedup_flop_bound": 2.5}  # fmt: skip
    growing = [
        {"group": "growth", "name": f"m {s}x{s} preset", **steps,
         "scales": ["1x1", f"{s}x{s}"], "tokens": s * s, "ms_full": s**4.0, "ms_fast": s**2.0}
        for s in (8, 16)
    ]  # fmt: skip
    drawn = charts.suite(pd.DataFrame(growing), pd.DataFrame(growing))
    assert len(drawn.axes) == 3
    assert "exponent 1.00" in drawn.axes[2].get_legend().get_texts()[1].get_text()


def test_growth_is_fitted_over_tokens():
    rows = [
        {"group": group, "name": f"a {s} preset", "scales": [s], "model": "a",
         "ms_full": n**4.0, "ms_fast": n**2.0}
        for group, s, n in (("growth", "8x8", 8), ("aspects", "16x16", 16), ("growth", "32x32", 32),
                            ("aspects", "8x32", 99))
    ]  # fmt: skip
    assert growth(rows) == {"full": pytest.approx(2), "fast": pytest.approx(1)}
    assert {"infinity-2b", "infinity-8b", "hart-0.7b", "var-d36"} <= {s.model for s in settings()}
    for model in ("infinity-2b", "infinity-8b"):  # 1024x1024 and two other aspects
        assert len({s.sizes for s in settings() if s.model == model and s.group == "aspects"}) >= 2
    assert len({s.name for s in settings()}) == len(settings())


def test_models_are_listed(capsys, tmp_path):
    (tmp_path / "var_d16.pth").touch()
    (tmp_path / "vae_ch160v4096z32.pth").touch()
    assert main(["models", "--weights", str(tmp_path), "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert [rows[n]["here"] for n in ("tiny", "var-d16", "infinity-2b")] == [True, True, False]
    count = rows["infinity-2b"]["parameters"]
    assert count / 1e6 == pytest.approx(2204.6, abs=0.05)
    each = 2 * 2 * 2048 * 2  # keys and values, guided, bytes
    kv = each * (32 * (10521 - 64 * 64) + 10521)  # the last step's pass through one buffer
    assert rows["infinity-2b"]["memory_gb"]["1024"] == pytest.approx((2 * count + kv) / 1e9)
    assert main(["models"]) == 0
    assert "hart-0.7b" in capsys.readouterr().out


def test_a_released_size_generates_with_random_weights(tmp_path):
    size = ["--model", "infinity-125m", "--weights", "random", "--pn", "0.06M"]
    assert main(["generate", "a cat", *size, "--out", str(tmp_path), "--ratios", "-1:0.5"]) == 0
    (path,) = tmp_path.glob("a-cat-0-16x16-pruned-*.png")
    assert imread(path).shape == (256, 256, 3)


BAD = [
    (["generate", "x", "--model", "infinty"], "model must be one of tiny, var-d16"),
    (["generate", "x", "--model", "infinity-2b"], "needs weights: a folder with infinity_2b_reg"),
    (["generate", "x", "--model", "infinity-2b", "--aspect", "1.4"], "nearest: 1.333 and 1.5"),
    (["generate", "1", "--model", "var-d16", "--pn", "1M"], "--pn and --aspect are for Infinity"),
    (["generate", "a ring", "--ratios=-1:0.5", "--paper"], "give at most one"),
    (["generate", "a ring", "--precision", "half"], "precision must be one of float32, official"),
    (["bench", "--model", "var-d16", "--depth", "2"], "only random weights can be cut"),
    (["demo", "--prompt", "a red circl"], "unknown word 'circl' in the prompt; nearest: circle"),
    (["demo", "--prompt", "circle a"], "expected one of a, an"),
    (["demo", "--ratios", "-1:1.5"], "must lie in [0, 1]; not 1.5"),
    (["demo", "--ratios=-1:nan"], "must lie in [0, 1]; not nan"),
    (["demo", "--ratios", "31:0.5"], "no scale 31 in this schedule"),
    (["demo", "--ratios", "1:0.5"], "no unpruned scale step"),
    (["demo", "--ratios", "half"], "cannot read 'half'"),
    (["demo", "--weights", "/nowhere"], "cannot read weights"),
    (["generate", "a ring", "--size", "0"], "a size is a token map"),
    (["generate", "a ring", "--size", "200", "--out", "none"], "a map of 200x200 takes 17"),
    (["figures", "intermediate"], "no figure 'intermediate'; nearest: intermediate_outputs"),
    (["figures", "--format", "gif"], "--format takes png, pdf and svg; not 'gif'"),
    (["evaluate", "--n", "1"], "--n must be at least 7"),
    (["evaluate", "--n", "7", "--size", "huge"], "not 'huge'"),
    (["evaluate", "--n", "7", "--given", "11"], "0 to 10 scales can be given; not 11"),
    (["bench", "--case", "99"], "no case matches '99'"),
    (["bench", "--suite", "paper", "--case", "99"], "no setting matches '99'"),
    (["bench", "--suite", "paper", "--model", "var-d16"], "--suite fixes models and weights"),
    (["bench", "--out", "somewhere"], "--out requires --suite"),
    (["bench", "--ratios", "32x32:0.5", "--case", "x"], "take no --suite, --attached or --case"),
    (["bench", "--size", "48"], "--size needs --method or --ratios"),
    (["bench", "--suite", "batches", "--case", "none"], "no method matches 'none'; there are full"),
    (["bench", "--suite", "launches", "--graphs"], "takes --case and --json alone"),
    (["generate", "a red ring", "--graphs", "--streamed"], "a captured graph draws keyed noise"),
    (["bench", "--repeats", "0"], "--repeats must be at least 1"),
    (["train", "tokenizer", "--device", "cuda", "--steps", "1"], "no CUDA GPU"),
    (["demo", "--device", "cuda"], "no CUDA GPU"),
]

DROPPED = [
    (["notebooks", "--strip", "--execute", "x"], "--strip, which runs nothing, takes no --execute"),
    (["notebooks", "--strip", "--html", "x"], "--strip, which runs nothing, takes no --html"),
    (["notebooks", "--copy", "x", "--strip"], "--copy, which runs nothing, takes no --strip"),
    (["notebooks", "--copy", "x", "--folder", "y"], "which runs nothing, takes no --folder"),
    (["models", "--memory", "tiny", "--check"], "which reads no files, takes no --check"),
    (["models", "--memory", "tiny", "--weights", "."], "which reads no files, takes no --weights"),
    (["claims", "--from", ".", "--quick"], "which measures nothing, takes no --quick"),
    (["claims", "--from", ".", "--prompts", "geneval"], "takes no --prompts"),
    (["claims", "--from", ".", "--store", "x"], "takes no --store"),
    (["claims", "--from", ".", "--workers", "2"], "takes no --workers"),
    (["claims", "--from", ".", "--lora-scale", "2"], "takes no --lora-scale"),
]


@pytest.mark.parametrize(("words", "message"), DROPPED, ids=[" ".join(w) for w, _ in DROPPED])
def test_options_that_would_be_dropped_are_refused(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]
    assert len(said) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(w) for w, _ in BAD])
def test_bad_input_is_one_line_and_status_2(words, message, tmp_path, capsys):
    out = [] if words[0] in ("evaluate", "bench") else ["--out", str(tmp_path / "out")]
    assert main([*words, *out]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]
    assert not [line for line in said if "Traceback" in line]
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder_is_refused_before_the_work(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main(["demo", "--out", str(tmp_path / "file")]) == 2
    assert "cannot make the output folder" in capsys.readouterr().err


def test_truncated_weights_end_in_one_line(tmp_path, capsys):
    for name in (tiny.TOKENIZER_FILE, tiny.TRANSFORMER_FILE):
        (tmp_path / name).write_bytes((tiny.WEIGHTS / name).read_bytes()[:5000])
    assert main(["demo", "--weights", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "cannot read weights" in capsys.readouterr().err


def test_a_failed_write_leaves_nothing(tmp_path):
    (tmp_path / "kept.txt").write_text("old")

    def fail(path):
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "kept.txt", fail)
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]
    assert (tmp_path / "kept.txt").read_text() == "old"


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_figures_are_the_same_bytes_each_time(tmp_path, ending):
    image = np.random.default_rng(0).random((32, 32, 3))

    def draw(name):
        figure = panels.comparison(
            image, image * 0.9, {"kept": image[..., 0]}, ["1x1", "2x2"], [1, 2], [1, 1], "t", "n",
            name="FastVAR",
        )  # fmt: skip
        write_figure(tmp_path / name, figure)
        return (tmp_path / name).read_bytes()

    assert draw(f"a.{ending}") == draw(f"b.{ending}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "not writable" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["generate", "a red ring", "--ratios", ""], "cannot read ''"),
        (["evaluate", "--ratios", ""], "cannot read ''"),
        (["generate", "a red ring", "--size", ""], "not ''"),
        (["evaluate", "--seed", "-1", "--n", "7"], "the seed of a prompt set must be 0 or more"),
        (["evaluate", "--judge", "--size", "48"], "--judge scores rendered scenes and takes no"),
        (["models", "--weights", "nowhere"], "the folder nowhere does not exist"),
        (["train", "tokenizer", "--peak", "-1"], "--peak must lie in"),
        (["train", "tokenizer", "--seed", "-1"], "--seed must lie in"),
        (
            ["generate", "a cat", "--model", "infinity-2b", "--aspect", "0"],
            "an aspect must be above 0",
        ),
        (["generate", "a red ring", "--download"], "tiny does not take the option download"),
        (["generate", "a red ring", "--weights", ""], "cannot read weights"),
    ],
)
def test_nothing_given_is_not_the_default(words, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_pruned_picture_lies_beside_the_full_one(tmp_path, capsys):
    out = ["--out", str(tmp_path / "two words"), "--size", "8"]
    assert main(["generate", "a red ring", *out]) == 0
    assert main(["generate", "a red ring", "--ratios", "-1:0.5", *out]) == 0
    names = [path.stem.rpartition("-")[0] for path in (tmp_path / "two words").iterdir()]
    assert sorted(names) == ["a-red-ring-0-8x8", "a-red-ring-0-8x8-pruned"]
    with pytest.raises(SystemExit):
        main(["generate", "a red ring", "--ratio", "-1:0.5"])
    assert "unrecognized arguments" in capsys.readouterr().err
    assert len(file_name("環" * 300, 1, "32x32", "0" * 8, True).encode()) < 140
