"""Cells on disk, runs that are stopped, read back, and run elsewhere."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch

import fastvar_lab as fv
from fastvar_lab import scales
from fastvar_lab.cli.main import main
from fastvar_lab.experiments import base, claims, costs, figures, quality, run
from fastvar_lab.measure.statistics import (
    bootstrap,
    paired,
    summary,
    wilson,
    wilson_of_gap,
    wilson_of_means,
)
from fastvar_lab.methods.fingerprint import user_code_hash
from fastvar_lab.methods.prune import PruneRunner
from fastvar_lab.models import build
from fastvar_lab.plotting import charts, tables
from fastvar_lab.plotting.style import write_figure
from fastvar_lab.prompts import ClosedWorld
from fastvar_lab.provenance import versions
from fastvar_lab.store import Store, key
from fastvar_lab.world.tasks import TASKS
from tests.test_var import SMALL as AUTOENCODER
from tests.test_var import config as var_config

SETTINGS = {"experiment": "x", "cell": {"a": 1, "b": [1, 2]}}


def test_a_cell_is_read_back_and_a_damaged_one_is_not(tmp_path):
    store = Store(tmp_path).prepare()
    assert store.get(SETTINGS) is None
    store.put(SETTINGS, [{"value": 0.1, "none": float("nan")}])
    assert store.get(SETTINGS) == [{"value": 0.1, "none": None}]
    assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1})
    path = store.path(SETTINGS)
    whole = path.read_text()
    for damaged in (whole[:-5], whole.replace("0.1", "0.2"), "", "[]"):
        path.write_text(damaged)
        assert store.get(SETTINGS) is None
    other = {**SETTINGS, "cell": {"a": 2}}
    path.write_text(whole)
    store.path(other).parent.mkdir(parents=True, exist_ok=True)
    store.path(other).write_text(whole)
    assert store.get(other) is None


def _write_many(folder):
    store = Store(folder)
    for i in range(200):
        store.put({"n": i % 10}, [{"value": i % 10}] * 50)
        found = store.get({"n": i % 10})
        assert found is not None
        assert len(found) == 50


def test_two_processes_do_not_corrupt_a_store(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(_write_many, [tmp_path] * 2)
    assert not list(tmp_path.rglob("*.partial*"))
    assert len(list(tmp_path.rglob("*.json"))) == 10


def test_unknown_experiments_name_the_nearest():
    with pytest.raises(ValueError, match="no experiment 'selector'; nearest: selectors"):
        run.find("selector")
    with pytest.raises(ValueError, match="scope must be one of quick, default, paper"):
        run.run("selectors", "huge")


@pytest.fixture
def tried(monkeypatch):
    """A stand-in experiment that counts how often each cell is computed."""
    seen = []

    def jobs(model, scope):
        return [[{"n": n, "part": p} for p in range(2)] for n in range(scope.prompts)]

    def work(model, cells):
        for cell in cells:
            seen.append((cell["n"], cell["part"]))
            if cell == {"n": 2, "part": 1} and seen.count((2, 1)) == 1:
                raise KeyboardInterrupt
            yield cell, [{"value": cell["n"] * 10 + cell["part"]}]

    experiment = base.Experiment("tried", "?", "", jobs, work)
    monkeypatch.setitem(run.REGISTRY, "tried", experiment)
    monkeypatch.setitem(base.SCOPES, "quick", base.Scope("quick", 4, 1))
    return seen


def test_a_stopped_run_goes_on_where_it_was(tried, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run.run("tried", "quick", store=Store(tmp_path))
    assert tried == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    frame = run.run("tried", "quick", store=Store(tmp_path))
    assert tried[6:] == [(2, 1), (3, 0), (3, 1)]
    assert frame.value.tolist() == [0, 1, 10, 11, 20, 21, 30, 31]
    again = run.run("tried", "quick", store=Store(tmp_path))
    assert len(tried) == 9
    assert again.equals(frame)
    damaged = next(tmp_path.rglob("*.json"))
    damaged.write_text("{")
    assert run.run("tried", "quick", store=Store(tmp_path)).equals(frame)
    assert len(tried) == 10


def test_a_method_is_measured_once_whichever_experiments_ask_about_it():
    model, scope = run.open_model(run.Opened()), base.SCOPES["quick"]
    kept = []
    for name, label in (("selectors", "far from mean (PTS)"), ("rivals", "FastVAR 50%, 75%")):
        experiment = run.find(name)
        job = experiment.jobs(model, scope)[0]
        cell = next(c for c in job if c["method"] == label)
        kept.append([key(run.address(experiment, model, c)) for c in (job[0], cell)])
    assert kept[0] == kept[1]
    assert len(set(kept[0])) == 2


def test_timed_cells_are_never_given_away(monkeypatch, tmp_path):
    here = []

    def jobs(model, scope):
        return [[{"n": 0, "repeats": 1}], [{"n": 1}]]

    def work(model, cells):
        here.append(cells[0]["n"])
        yield cells[0], [{"value": cells[0]["n"]}]

    monkeypatch.setitem(run.REGISTRY, "tried", base.Experiment("tried", "?", "", jobs, work))
    with ThreadPoolExecutor(1) as elsewhere:
        given = []
        submit = elsewhere.submit
        monkeypatch.setattr(elsewhere, "submit", lambda f, *a: given.append(a[2]) or submit(f, *a))
        run.run("tried", "quick", store=Store(tmp_path), executor=elsewhere)
    assert given == [[{"n": 1}]]
    assert here == [1, 0]  # alone, when the others are there


@pytest.mark.parametrize(
    "name",
    [
        *("latency_by_scale", "module_profile", "sublayer_overhead", "attention_kernels"),
        *("memory", "resolution_scaling", "intermediate_outputs", "side_by_side"),
    ],
)
def test_cells_say_which_preset_they_measure(name, monkeypatch):
    experiment, model = run.find(name), run.open_model(run.Opened())

    def cells():
        return [key(c) for job in experiment.jobs(model, base.SCOPES["quick"]) for c in job]

    before = cells()
    assert before == cells()
    monkeypatch.setattr(model, "fast", fv.Prune({-2: 0.25, -1: 0.25}))
    monkeypatch.setattr(costs, "PRUNED", fv.Prune({-1: 0.25}))
    assert before != cells()


@pytest.mark.parametrize("name", ["latency_by_scale", "spectra"])
def test_experiments_measure_a_model_of_classes(name, tmp_path):
    model = build.build(var_config(shared=False), tokenizer=AUTOENCODER).freeze()
    look = base.Scope("look", prompts=2, repeats=1)
    frame = run.run(name, look, how=model, store=Store(tmp_path), progress=False)
    assert len(frame)
    asked = [item for batch in base.batches(model, look, 11) for item in batch["batch"]]
    assert {item["task"] for item in asked} == {"class"}
    assert np.isnan(base.score(model, asked[0]["prompt"], np.zeros((8, 8, 3), np.uint8)))


def test_what_drafting_saves_is_counted(monkeypatch):
    model = run.open_model(run.Opened())
    few = partial(fv.load, depth=2)
    monkeypatch.setattr(costs, "load", few)
    cell = {"drafter": "var-d20", "refiner": "var-d16", "repeats": 1}
    found = costs.drafting(model, [{**cell, "drafted": n} for n in (6, 8)])
    early, late = (rows[0] for _, rows in found)
    assert early["speedup_flop_bound"] > late["speedup_flop_bound"]
    assert early["kv_share"] == pytest.approx(16 / 20)
    assert early["ms"] > 0


def test_a_worker_with_other_weights_or_versions_is_refused(tmp_path):
    cells = [{"a": 1}]
    with pytest.raises(ValueError, match="this worker has torch"):
        run.compute("selectors", run.Opened(), cells, str(tmp_path), "0.1")
    with pytest.raises(ValueError, match="the run was begun with 1234"):
        run.open_model(run.Opened(fingerprint="1234"))


def test_a_folder_that_cannot_be_written_fails_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot make the output folder"):
        run.run("selectors", "quick", store=Store(tmp_path / "file"))


def test_quality_rows_by_process_pool_equal_those_made_here(tmp_path, monkeypatch):
    whole = run.REGISTRY["caching_step"]

    def few(model, scope):
        jobs = whole.jobs(model, base.Scope("quick", 1, 1))
        return [[c for c in job if c["method"] in ("full", "cache 4x4")] for job in jobs]

    monkeypatch.setitem(run.REGISTRY, "caching_step", replace(whole, jobs=few))
    here = run.run("caching_step", "quick", store=Store(tmp_path / "a"))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        there = run.run("caching_step", "quick", store=Store(tmp_path / "b"), executor=executor)
    rows, others = (f[f.kind == "quality"].drop(columns="kind") for f in (here, there))
    assert rows.equals(others)
    full = rows[rows.method == quality.FULL]
    assert (full.psnr == 100).all()
    assert set(full.task) <= set(TASKS)
    worst = rows[rows.method == "cache 4x4"]
    assert (worst.psnr < 60).all()
    assert (worst.agree_16x16 == 1).all()  # not changed before the first pruned step
    times = here[here.kind == "time"].set_index("method")
    assert times.speedup_flop_bound["full"] == 1
    assert times.speedup_flop_bound["cache 4x4"] > 1.5


def test_a_cluster_that_loses_a_worker_gives_the_same_cells(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setitem(base.SCOPES, "quick", base.Scope("quick", 8, 1))
    how = run.Opened(weights="random")
    here = run.run("spectra", "quick", how=how, store=Store(tmp_path / "a"))
    cells = Store(tmp_path / "b")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        first = next(iter(cluster.workers.values()))

        def kill_one():
            deadline = time.monotonic() + 120
            while not list(cells.folder.rglob("[!.]*.json")) and time.monotonic() < deadline:
                time.sleep(0.02)
            os.kill(first.process.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_one)
        killer.start()
        with run.executor(0, cluster.scheduler_address) as executor:
            there = run.run("spectra", "quick", how=how, store=cells, executor=executor)
            killer.join()
            asked = (
                "spectra",
                replace(how, fingerprint="1234"),
                [],
                str(tmp_path),
                versions()["torch"],
            )
            with pytest.raises(ValueError, match="the run was begun with 1234"):
                executor.submit(run.compute, *asked).result()
    assert there.equals(here)
    assert {p.name for p in cells.folder.rglob("[!.]*.json")} == {
        p.name for p in (tmp_path / "a").rglob("*.json")
    }


def test_jobs_are_dropped_when_a_run_is_interrupted_or_loses_its_cluster(tmp_path):
    class Stopping(ThreadPoolExecutor):
        def submit(self, *_):
            if len(asked) == 3:
                raise KeyboardInterrupt
            asked.append(Future())
            return asked[-1]

    asked, bar = list[Future](), SimpleNamespace(update=sum)
    through = partial(run._through, name="spectra", how=run.Opened(), folder=str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        through(Stopping(), jobs=[[{}]] * 9, bar=bar)
    assert len(asked) == 3
    assert all(job.cancelled() for job in asked)
    asked = [Future()]
    asked[0].cancel()
    asked[0].set_running_or_notify_cancel()
    lost = SimpleNamespace(submit=lambda *_: asked[0])
    with pytest.raises(RuntimeError, match="spectra: the cluster dropped its jobs"):
        through(lost, jobs=[[{}]], bar=bar)


def test_workers_end_with_the_process_that_asks():
    asks = """
import os, time
from fastvar_lab.experiments import run
if __name__ == "__main__":
    with run.executor(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(99)
"""
    parent = subprocess.Popen([sys.executable, "-c", asks], stdout=subprocess.PIPE, text=True)
    assert int(parent.stdout.readline())
    parent.kill()
    parent.communicate(timeout=60)  # the worker holds the pipe, too, while it lives


def test_new_data_do_not_stand_beside_where_the_old_ones_are_from(tmp_path, monkeypatch):
    frame = run.run("memory", "quick", progress=False)
    there = partial(
        figures.draw_frame, fv.load("tiny"), "memory", frame, tmp_path, "quick", run.Opened()
    )
    list(there())
    assert (tmp_path / "memory.json").exists()
    monkeypatch.setattr(figures, "write_tables", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        list(there())
    assert (tmp_path / "memory.csv").exists()
    assert not (tmp_path / "memory.json").exists()


@pytest.mark.parametrize("experiment", quality.EXPERIMENTS, ids=lambda e: e.name)
def test_every_method_of_every_experiment_fits_the_embedded_model(experiment):
    model = run.open_model(run.Opened())
    jobs = experiment.jobs(model, base.SCOPES["quick"])
    labels = [cell["method"] for cell in jobs[0]]
    assert labels[0] == "full"
    assert len(labels) == len(set(labels)) > 1
    make = experiment.jobs.args[0]
    for method in make(model).values():
        method.start(model.grids(), model.depth)
    json.dumps(jobs)


def test_bootstrap_intervals_cover_the_mean():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = bootstrap(rng.normal(1.0, 2.0, 40))
        hits += low <= 1.0 <= high
    assert 0.88 <= hits / 200 <= 0.99
    assert np.isnan(bootstrap([])[0])


@pytest.mark.parametrize(("p", "n"), [(0.97, 16), (0.97, 112), (0.99, 112)])
def test_intervals_of_hits_cover_shares_near_one(p, n):
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        low, high = wilson((rng.random(n) < p).astype(float))
        covered += low <= p <= high
    assert covered / 400 >= 0.9


def test_intervals_of_paired_and_joined_hits_cover_and_have_a_width():
    rng = np.random.default_rng(0)
    paired_, joined = 0, 0
    for _ in range(400):
        shared = rng.random(60) < 0.9
        first, second = (np.where(rng.random(60) < 0.05, ~shared, shared) for _ in "ab")
        low, high = wilson_of_gap(first.astype(float), second.astype(float))
        paired_ += low <= 0 <= high
        groups = [(rng.random(16) < p).astype(float) for p in (0.8, 0.95, 0.99)]
        low, high = wilson_of_means(groups)
        joined += low <= (0.8 + 0.95 + 0.99) / 3 <= high
    assert paired_ / 400 >= 0.93
    assert joined / 400 >= 0.93
    low, high = wilson_of_gap([1.0, np.nan, 0.0], [1.0, 0.0, np.nan])
    assert low < 0 < high
    for n in (13, 41, 88, 92):
        half = [1.0] * n + [0.0] * n
        low, high = wilson_of_gap(half, half)
        assert -0.2 < low < 0 < high < 0.2
    few = [1.0] * 24
    frame = pd.DataFrame(
        {
            "kind": "quality",
            "method": ["full"] * 24
            + ["-2: 50%, -1: 100%"] * 24
            + ["-3: 100%, -2: 100%, -1: 100%"] * 24,
            "picture": [*range(24)] * 3,
            "right": few * 3,
        }
    )
    assert claims.whole_ratios_break_small_models(frame).verdict == claims.OPEN


def test_summaries_and_pairs():
    frame = pd.DataFrame(
        {"method": ["a", "a", "b", "b"], "picture": [0, 1, 0, 1], "psnr": [30.0, 32, 29, 31]}
    )
    means = summary(frame, ["method"], "psnr").set_index("method")
    assert means["mean"].tolist() == [31, 30]
    gap = paired(frame, "a", "b", "psnr")
    assert (gap["difference"], gap["low"], gap["high"], gap["n"]) == (1, 1, 1, 2)


def synthetic(name):
    """A frame of the shape that an experiment returns."""
    rng = np.random.default_rng(0)
    model = run.open_model(run.Opened())
    experiment = run.find(name)
    if experiment in quality.EXPERIMENTS:
        methods = ["full", *experiment.jobs.args[0](model)]
        rows = [
            {"kind": "quality", "method": m, "picture": p, "psnr": 30 + gap, "right": p % 2}
            for m in methods
            for p, gap in enumerate(rng.normal(size=6))
        ]
        rows += [
            {
                "kind": "time",
                "method": m,
                "speedup": s,
                "speedup_min": s - 0.1,
                "speedup_max": s + 0.2,
                "speedup_flop_bound": 2,
            }
            for m, s in zip(methods, 1 + rng.random(len(methods)), strict=True)
        ]
        return pd.DataFrame(rows)
    sizes = [f"{h}x{w}" for h, w in model.sizes]
    ways = ("full", "fast")
    by_step = [
        {"turn": t, "step": i, "size": s, "method": m, "ms": 1.0 + i, "share": 0.1, "kind": k}
        for i, s in enumerate(sizes) for m in ways for k in ("attn", "ffn") for t in range(10)
    ]  # fmt: skip
    frames = {
        "latency_by_scale": by_step,
        "sublayer_overhead": [
            {"kind": k, "ms": ms, "turn": t}
            for k, ms in (("attention", 9.0), ("ffn", 5.0), ("pts", 0.1), ("ctr", 0.1))
            for t in range(10)
        ],
        "module_profile": by_step,
        "spectra": [
            {"what": w, "domain": "image", "step": i, "size": s, "frequency": f / 8,
             "to_last": -f + i, "settled": i / 9, "picture": p}
            for w in ("spectrum", "settled") for i, s in enumerate(sizes) for f in (1, 2, 3, 4)
            for p in range(2)
        ],
        "cross_scale": [
            {"what": w, "size": sizes[i], "source_size": sizes[j], "share": 0.1,
             "cosine": 1 / (1 + i - j), "step": i, "source": j, "first": f}
            for w in ("attention", "similarity") for i in range(10) for j in range(i + 1)
            for f in range(0, 40, 4)
        ],
        "resolution_scaling": [
            {"what": "time", "side": s, "tokens": s * s, "method": m, "ms": s**2.4 + t, "turn": t}
            for s in (16, 32, 64) for m in ways for t in range(10)
        ] + [
            {"what": "zero-shot", "side": s, "picture": p, "right": p % 2}
            for s in (32, 48) for p in range(4)
        ],
        "attention_kernels": [
            {"kernel": k, "method": m, "ms": 3.0 + t, "turn": t}
            for k in ("unfused", "fused") for m in ways for t in range(10)
        ],
        "intermediate_outputs": [
            {"method": m, "step": i, "size": sizes[i], "picture": p, "psnr": 20.0 + i, "right": 1.0}
            for m in ways for i in range(10) for p in range(3)
        ],
        "drafting": [
            {"kind": "time", "method": f"CoDe, {n} drafted", "ms": 9.0, "speedup": 1.0 + n / 20,
             "speedup_flop_bound": 2.0, "kv_share": 0.5} for n in (6, 8)
        ],
        "memory": [
            {"side": s, "method": m, "kv_measured": 1e7 * s, "held_measured": 1e6 * (m == "fast")}
            for s in (16, 32) for m in ways
        ],
    }  # fmt: skip
    return pd.DataFrame(frames[name])


@pytest.mark.parametrize("name", sorted(run.REGISTRY))
def test_every_experiment_has_a_chart_and_a_table(name, tmp_path):
    frame = synthetic(name)
    figure = charts.CHARTS[name](frame)
    write_figure(tmp_path / "chart.png", figure)
    again = charts.CHARTS[name](frame)
    write_figure(tmp_path / "again.png", again)
    assert (tmp_path / "chart.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    for axes in figure.axes:
        assert axes.get_xlabel() or axes.get_ylabel()
    assert name in run.table(name, frame)


def test_the_pareto_front_keeps_what_nothing_beats():
    points = pd.DataFrame({"x": [1.0, 2, 3, 2, 1], "y": [5.0, 4, 1, 3, 4]})
    assert charts.front(points, "x", "y").to_numpy().tolist() == [[1, 5], [2, 4], [3, 1]]
    assert charts.exponent([1, 10, 100], [2, 20, 200]) == pytest.approx(1)


def test_the_experiment_command_lists_and_refuses(capsys):
    assert main(["experiment"]) == 0
    assert "Does the cache restore pruned places better" in capsys.readouterr().out
    assert main(["experiment", "selector"]) == 2
    assert "nearest: selectors" in capsys.readouterr().err
    assert main(["experiment", "selectors", "--quick", "--paper"]) == 2
    assert main(["experiment", "memory", "--model", "infinity-2b"]) == 2
    assert "infinity_2b_reg.pth" in capsys.readouterr().err


def test_an_experiment_leaves_its_data_tables_figure_and_where_they_are_from(tmp_path):
    out = ["--out", str(tmp_path / "out"), "--store", str(tmp_path / "cells")]
    assert main(["experiment", "memory", "--quick", *out]) == 0
    endings = {".csv", ".json", ".md", ".tex", ".png", ".pdf"}
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == endings
    told = json.loads((tmp_path / "out" / "memory.json").read_text())
    assert told["command"] == "python -m fastvar_lab experiment memory --model tiny --quick"
    assert told["weights"] == fv.load("tiny").fingerprint


def test_figures_are_checked_against_their_data(tmp_path, monkeypatch, capsys):
    model = run.open_model(run.Opened())
    monkeypatch.setattr(run, "run", lambda name, scope, **options: synthetic(name))
    names = ["selectors", "intermediate_outputs", "intermediate_outputs_scores"]
    made = list(figures.draw(model, names, tmp_path))
    assert {p.suffix for p in made} == {".csv", ".npz", ".png", ".pdf"}
    assert figures.check(tmp_path) == []
    told = json.loads((tmp_path / "selectors.json").read_text())
    assert told["command"] == "python -m fastvar_lab figures selectors"
    assert told["weights"] == model.fingerprint
    table = (tmp_path / "selectors.md").read_text()
    (tmp_path / "selectors.md").write_text("")
    assert main(["figures", "--redraw", "--out", str(tmp_path)]) == 0
    assert str(tmp_path / "selectors.pdf") in capsys.readouterr().out
    assert (tmp_path / "selectors.md").read_text() == table
    assert figures.check(tmp_path) == []
    assert main(["figures", "--redraw", "spectra", "--out", str(tmp_path)]) == 2
    assert "spectra.json is not there" in capsys.readouterr().err
    csv = tmp_path / "selectors.csv"
    csv.write_text(csv.read_text().replace("29.", "19."))
    assert "other bytes from the same data" in figures.check(tmp_path)[0]
    told["versions"]["matplotlib"] = "3.0"
    (tmp_path / "selectors.json").write_text(json.dumps(told))
    assert "instead of 3.0" in figures.check(tmp_path)[0]
    assert main(["figures", "--check", "--out", str(tmp_path)]) == 2
    assert "selectors.png: other pixels" in capsys.readouterr().err
    assert "is not there" in figures.check(tmp_path, ["spectra"])[0]
    with pytest.raises(ValueError, match="there is no figure with its data in"):
        figures.check(tmp_path / "elsewhere")


def test_claims_are_judged_by_their_intervals():
    frames = {claim.experiment: synthetic(claim.experiment) for claim in claims.CLAIMS}
    text = claims.table(frames, "Synthetic.")
    lines = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(lines) == len(claims.CLAIMS) == 12
    verdicts = {line.split(" | ")[0][2:]: line.split("**")[1] for line in lines}
    assert verdicts["Cost grows about linearly"] == claims.FAILS
    assert verdicts["Pruning combines with fused attention"] == claims.FAILS
    assert verdicts["Neighbouring scales are related"] == claims.HOLDS
    assert verdicts["PTS and CTR cost next to nothing"] == claims.HOLDS
    few = synthetic("sublayer_overhead")
    assert claims.overhead_is_negligible(few[few.turn < 3]).verdict == claims.OPEN
    assert "exponent 1.20 (1.20 to 1.20) pruned, n = 10, to be at most 1.15" in text
    sure = {"difference": 2.0, "low": 1.0, "high": 3.0, "n": 9}
    assert claims.above(sure, " dB", "x").text == "x: +2.00 dB (+1.00 to +3.00, n = 9)"
    assert claims.above({**sure, "low": -1.0}, "", "x").verdict == claims.OPEN
    assert claims.above({**sure, "low": -3.0, "high": -1.0}, "", "x").verdict == claims.FAILS
    assert claims.above(sure, "", "x", least=2.0).verdict == claims.OPEN
    assert claims.above(sure, "", "x", least=4.0).verdict == claims.FAILS


def test_tables_come_as_markdown_and_latex(tmp_path):
    frame = synthetic("ratio_tradeoff")
    table = tables.tabulate(frame)
    assert list(table.method) == list(frame.method.unique())
    figures.write_tables(tmp_path / "ratio_tradeoff", frame)
    told = (tmp_path / "ratio_tradeoff.md").read_text().splitlines()
    assert told[0].startswith("| method | score | PSNR (dB) |")
    assert len(told) == 2 + len(table)
    tex = (tmp_path / "ratio_tradeoff.tex").read_text()
    assert "\\toprule" in tex
    assert "%" not in tex.replace("\\%", "")
    latency = tables.tabulate(synthetic("latency_by_scale"))
    assert {"method", "size", "ms"} <= set(latency.columns)


OWN = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Own:
    def scores(self, x, grid, site):
        return {sign}x.norm(dim=-1)
"""


def test_own_methods_are_compared_and_measured_anew_when_they_change(small, tmp_path, monkeypatch):
    monkeypatch.setattr(small, "sizes", scales.square(1, 2, 4, 6, 32))  # 256 px, for MS-SSIM
    monkeypatch.syspath_prepend(tmp_path)
    store, look, found = Store(tmp_path / "cells"), base.Scope("look", 2, 1), []
    for name, sign in (("first", ""), ("second", "-"), ("third", "")):
        (tmp_path / f"{name}.py").write_text(OWN.format(sign=sign))
        rule = __import__(name).Own()
        rule.__class__.__qualname__ = "Own"
        ways = {"mine 50%": fv.Prune({-1: 0.5}, select=rule), "PTS 50%": fv.Prune({-1: 0.5})}
        frame = run.compare(small, ways, look, store=store, progress=False)
        found.append(frame[frame.method == "mine 50%"].psnr.tolist()[:2])
    assert found[0] != found[1]
    assert found[0] == found[2]
    assert frame[frame.kind == "quality"].right.notna().all()
    figure = charts.rivals(frame)
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == ["mine", "PTS"]
    assert "mine 50%" in run.table("mine against PTS", frame)
    again = pd.concat([frame, frame])
    for draw in (charts.rivals, charts.methods, tables.tabulate):
        with pytest.raises(ValueError, match="stands twice in the frame"):
            draw(again)
        with pytest.raises(ValueError, match="the frame lacks rows of full"):
            draw(frame[frame.method != "full"])
        with pytest.raises(ValueError, match="rows of both kinds"):
            draw(frame[frame.kind != "time"])


def test_methods_that_cannot_be_told_apart_or_do_not_fit_are_refused(small, tmp_path):
    class Plain:
        def scores(self, x, grid, site):
            return x.norm(dim=-1)

    store = Store(tmp_path)
    for ways, told in (
        ({"mine": fv.Prune({-1: 0.5}, select=Plain())}, "mine: .* make it a frozen dataclass"),
        ({"mine": fv.Prune({64: 0.5})}, "mine: no scale 64 in this schedule"),
        ({"full": fv.Prune({-1: 0.5})}, "'full' names generation without pruning"),
    ):
        with pytest.raises(ValueError, match=told):
            run.compare(small, ways, "quick", store=store)
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="does not travel"):
        run.run("selectors", "quick", how=small, store=store, executor=pool)


def test_an_open_model_is_measured(small, tmp_path):
    frame = run.run("spectra", base.Scope("one", 1, 1), how=small, store=Store(tmp_path))
    assert frame.picture.nunique() == 1


def test_pictures_of_other_worlds_are_not_judged(small, monkeypatch):
    prompt = "a red circle"
    picture = np.zeros((64, 64, 3), np.uint8)
    assert base.score(small, prompt, picture) == 0
    monkeypatch.setattr(small, "prompts", ClosedWorld(judge=None))
    assert np.isnan(base.score(small, prompt, picture))


def test_cells_are_kept_by_what_the_model_was_told(small, monkeypatch):
    experiment = run.find("selectors")
    cell = experiment.jobs(small, base.SCOPES["quick"])[0][0]
    keys = [key(run.address(experiment, small, cell))]
    for name, value in (
        ("sizes", scales.square(1, 2, 4, 6, 9)),
        ("sampling", fv.Sampling(guidance=1.0)),
        ("autocast", torch.bfloat16),
    ):
        monkeypatch.setattr(small, name, value)
        keys.append(key(run.address(experiment, small, cell)))
    assert len(set(keys)) == 4


def test_times_are_kept_by_machine(monkeypatch):
    model, scope = run.open_model(run.Opened()), base.SCOPES["quick"]
    experiment = run.find("selectors")
    quality_cell, timed = (experiment.jobs(model, scope)[i][0] for i in (0, -1))
    before = [key(run.address(experiment, model, c)) for c in (quality_cell, timed)]
    monkeypatch.setattr(run, "machine", lambda device: {"cpu": "another"})
    after = [key(run.address(experiment, model, c)) for c in (quality_cell, timed)]
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_names_with_dots_are_written_whole(tmp_path):
    frame = synthetic("rivals")
    for ratio in ("0.5", "0.75"):
        figures.write_tables(f"{tmp_path}/rule_{ratio}", frame)
    names = {"rule_0.5.md", "rule_0.5.tex", "rule_0.75.md", "rule_0.75.tex"}
    assert {p.name for p in tmp_path.iterdir()} == names


def test_rules_are_told_apart_by_their_code():
    def told(text, made):
        space = {"__name__": "mine", "fv": fv, "PruneRunner": PruneRunner}
        exec(text, space)
        method = eval(made, space)
        return user_code_hash(method, method.start(scales.grids(scales.TINY), 8))

    assert told("", "fv.Prune({-1: 0.5}, select=fv.HighPass())") == ""
    assert told("", "fv.Merge({-1: 0.5})") == ""
    rule, mine = "class Mine:\n    def scores(self, x, grid, site): return {}", "Mine()"
    made = f"fv.Prune({{-1: 0.5}}, select={mine})"
    assert told(rule.format("x"), made) == told(rule.format("x") + "  # as before", made) != ""
    assert told(rule.format("x"), made) != told(rule.format("-x"), made)
    assert told(rule.format("x in {'a', 'b'}"), made) != told(rule.format("x in {'a', 'c'}"), made)
    runner = """
class Mine(PruneRunner):
    share = {}
    def ratio(self, site, grid): return {}
class Method(fv.Prune):
    def start(self, grids, depth, held=None): return Mine(self, grids, depth, {{}})
"""
    codes = {told(runner.format(*parts), "Method({-1: 0.5})") for parts in ((1, 0), (1, 1), (2, 0))}
    assert len(codes) == 3


@pytest.mark.parametrize(
    "rule",
    [
        "class Mine:\n @torch.no_grad()\n def scores(self, x, grid, site): return {} * x",
        "class Mine:\n def scores(self, x, grid, site, *, sign={}): return sign * x",
        "class Mine:\n signs = [{}]\n def scores(self, x, grid, site): return self.signs[0] * x",
        "class Mine:\n sign = torch.tensor({}.0)\n def scores(self, x, grid, site): return x",
        "sign = {}\nclass Mine:\n def scores(self, x, grid, site): return sign * x",
        "def f(x): return {} * x\nclass Mine:\n def scores(self, x, grid, site): return f(x)",
        "class Mine:\n @cached_property\n def a(self): return {}\n def scores(self, *_): return 1",
        "def rule(sign):\n class Mine:\n  def scores(self, x, grid, site): return sign * x\n"
        " return Mine\nMine = rule({})",
        "@dataclass(frozen=True)\nclass Of:\n weight: object\n def scores(self, *_): return 1\n"
        "def Mine(): return Of(torch.arange(2000.0) + {})",
        "@dataclass(frozen=True, slots=True)\nclass Mine:\n k: int = {}\n"
        " def scores(self, *_): return 1",
        "@dataclass(frozen=True, slots=True)\nclass Mine:\n k: int = 1\n"
        " def scores(self, *_): return {}",
        "class Mine(NamedTuple):\n k: int = 1\n def scores(self, *_): return {}",
        "class Mine(NamedTuple):\n k: int = {}\n def scores(self, *_): return 1",
        "torch.manual_seed({})\nmix = torch.nn.Linear(2, 2)\n"
        "class Mine:\n def scores(self, x, grid, site): return mix(x)",
        "def f(x): return g(x) * {}\ndef g(x): return f(x)\n"
        "class Mine:\n def scores(self, x, grid, site): return f(x)",
        "held = [{}]\nheld.append(held)\nclass Mine:\n def scores(self, *_): return held",
        "class Mine(torch.nn.Module):\n def __init__(self):\n  super().__init__()\n"
        "  self.weight = torch.full((3,), {}.0)\n def scores(self, x, grid, site): return x",
    ],
)
def test_rules_differ_by_all_that_they_are_made_of(rule):
    def told(sign):
        space = {"__name__": "mine", "torch": torch, "dataclass": dataclass}
        space |= {"cached_property": cached_property, "NamedTuple": NamedTuple}
        exec(rule.format(sign), space)
        method = fv.Prune({-1: 0.5}, select=space["Mine"]())
        return user_code_hash(method, method.start(scales.grids(scales.TINY), 8))

    assert told(1) == told(1) != told(2)


RULE = """
import fastvar_lab as fv, helpers
from fastvar_lab.methods.fingerprint import user_code_hash
def unit(x): return x / x.norm()
def near(x): return unit(x) + helpers.shift(x)
def far(x): return -unit(x)
class Mine:
    names = {"a", "b", "c"}
    def scores(self, x, grid, site): return near(x) if site.layer else far(x)
method = fv.Prune({-1: 0.5}, select=Mine())
print(user_code_hash(method, method.start([], 8)))
"""


def test_rules_are_told_alike_in_every_process_and_by_the_modules_they_use(tmp_path):
    (tmp_path / "mine.py").write_text(RULE.replace("method.start([], 8)", "fv.seam.Runner()"))

    def told(shift, seed):
        (tmp_path / "helpers.py").write_text(f"def shift(x): return x + {shift}\nother = {seed}")
        env = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "mine.py"]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True).stdout

    found = [told(1, 1), told(1, 2), told(1, 3)]
    assert len(found[0]) == 17
    assert len(set(found)) == 1
    assert told(2, 1) != found[0]


def test_what_a_rule_computed_once_is_no_part_of_it(small, tmp_path):
    @dataclass(frozen=True)
    class Mine:
        @cached_property
        def weight(self):
            return torch.arange(3.0)

        def scores(self, x, grid, site):
            return x.float().sum(-1) * self.weight.sum()

    method = fv.Prune({-1: 0.5}, select=Mine())

    def told():
        return user_code_hash(method, method.start(small.grids(), small.depth))

    before = told()
    fv.generate(small, "a red ring", method)
    assert told() == before
