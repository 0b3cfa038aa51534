"""Cells on disk, runs that are stopped, read back, and run elsewhere."""

import argparse
import bz2
import itertools
import json
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch

import fastvar_lab as fv
from fastvar_lab import scales
from fastvar_lab.branching import branching
from fastvar_lab.cli import options
from fastvar_lab.cli.main import main
from fastvar_lab.experiments import (
    agenda,
    base,
    claims,
    comparison,
    demo,
    figures,
    jobs,
    listing,
    output,
    run,
    verdicts,
    workers,
)
from fastvar_lab.experiments.committed import Committed
from fastvar_lab.experiments.comparison import merge_frames, with_full
from fastvar_lab.experiments.galleries import GALLERIES
from fastvar_lab.experiments.jobs import Addresses, CellJob, PictureJob, method_columns
from fastvar_lab.experiments.questions import (
    adaptive,
    drafting,
    intermediate_outputs,
    resolution_scaling,
    rivals,
    spectra,
    speed_gap,
    sublayer_overhead,
)
from fastvar_lab.experiments.questions import extreme_ratios as extreme
from fastvar_lab.experiments.sets import DistanceJob
from fastvar_lab.frames import FULL, counted
from fastvar_lab.measure.controls import control
from fastvar_lab.measure.quality import METRICS, MOST_PSNR
from fastvar_lab.measure.statistics import (
    bootstrap,
    paired,
    paired_at_equal,
    summary,
    wilson,
    wilson_of_gap,
    wilson_of_means,
)
from fastvar_lab.methods.columns import describe, written
from fastvar_lab.methods.fingerprint import user_code_hash
from fastvar_lab.methods.parse import read_method
from fastvar_lab.methods.prune import PruneRunner
from fastvar_lab.models import build
from fastvar_lab.models.spec import ModelSpec
from fastvar_lab.planning.trials import TuningLog
from fastvar_lab.plotting import charts, tables
from fastvar_lab.plotting.style import write_figure
from fastvar_lab.prompts import ClosedWorld, PromptList
from fastvar_lab.provenance import machine
from fastvar_lab.speed import flops, suite
from fastvar_lab.speed.kv_bytes import held_share
from fastvar_lab.store import Drawn, Store, key
from fastvar_lab.world.tasks import TASKS
from tests.damage import mutations
from tests.test_var import SMALL as AUTOENCODER
from tests.test_var import config as var_config

SETTINGS = {"experiment": "x", "cell": {"a": 1, "b": [1, 2]}}


def test_a_damaged_picture_is_none_and_its_file_is_called_damaged(tmp_path):
    store, address = Store(tmp_path), {"model": "m", "prompt": "x"}
    picture = (np.random.default_rng(0).random((9, 7, 3)) * 255).astype(np.uint8)
    store.put_picture(address, Drawn(picture, [torch.randn(3, 2)]), "mine")
    path = store.path(address, "pictures")
    whole = path.read_bytes()
    stream = whole.index(b"picture.npy") + 40  # within the deflated bytes
    for content in (b"", whole[:9], whole[:-40], whole[:stream] + bytes(60) + whole[stream + 60 :],
                    *(mutations(whole, seed) for seed in range(60))):  # fmt: skip
        path.write_bytes(content)
        found = store.picture(address)
        assert found is None or (found.picture == picture).all()
    path.write_bytes(b"")
    assert store.sizes().experiment.tolist() == ["damaged"]


def test_a_cell_is_read_back_and_a_damaged_one_is_not(tmp_path):
    store = Store(tmp_path).prepare()
    assert store.get(SETTINGS) is None
    store.put(SETTINGS, [{"value": 0.1, "none": None}])
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


def test_floats_that_json_lacks_are_read_back_as_they_were(tmp_path):
    store = Store(tmp_path).prepare()
    row = {
        "nan": np.nan,
        "inf": np.inf,
        "low": np.float32(-np.inf),
        "none": None,
        "all": (1, np.nan),
        "array": np.array([1.5, np.inf]),
    }
    store.put(SETTINGS, [row])
    (back,) = store.get(SETTINGS)
    assert np.isnan(back["nan"])
    assert (back["inf"], back["low"], back["none"]) == (np.inf, -np.inf, None)
    assert np.isnan(back["all"][1])
    assert back["array"] == [1.5, np.inf]
    store.put_values(SETTINGS, {"psnr": {"psnr": np.inf}})
    store.put_values(SETTINGS, {"mine": {"mine": np.nan}})
    assert store.values(SETTINGS)["psnr"] == {"psnr": np.inf}
    assert np.isnan(store.values(SETTINGS)["mine"]["mine"])
    for path in tmp_path.rglob("*.json"):  # standard JSON
        json.loads(path.read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    "cell", [{"a": (1, (2, 3))}, {"a": np.int64(3)}, {2: "b", 10: "a"}, {"a": np.nan}]
)
def test_settings_of_any_plain_values_are_found_again(cell, tmp_path):
    store, settings = Store(tmp_path).prepare(), {"experiment": "x", "cell": cell}
    store.put(settings, [{"value": 1, "cell": cell}])
    assert store.get(settings)[0]["value"] == 1
    drawn = Drawn(np.zeros((2, 2, 3), np.uint8), [None])
    store.put_picture(settings, drawn)
    assert store.picture(settings).tokens == [None]


def test_two_processes_do_not_corrupt_a_store(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(_write_many, [tmp_path] * 2)
    assert not list(tmp_path.rglob("*.partial*"))
    assert len(list(tmp_path.rglob("*.json"))) == 10


def test_unknown_experiments_name_the_nearest():
    with pytest.raises(ValueError, match="no experiment 'selector'; nearest: selectors"):
        agenda.find("selector")
    with pytest.raises(ValueError, match="scope must be one of quick, default, paper"):
        run.run("selectors", "huge")


def numbers(question):
    return [
        [base.Cell({"n": n, "part": p}) for p in range(2)] for n in range(question.scope.prompts)
    ]


@pytest.fixture
def tried(monkeypatch):
    """A stand-in experiment that counts how often each cell is computed."""
    seen = []

    def work(model, cells):
        for cell in cells:
            n, part = cell.columns["n"], cell.columns["part"]
            seen.append((n, part))
            if (n, part) == (2, 1) and seen.count((2, 1)) == 1:
                raise KeyboardInterrupt
            yield cell, [{"value": n * 10 + part}]

    monkeypatch.setitem(agenda.REGISTRY, "tried", tried_experiment(numbers, work))
    monkeypatch.setitem(base.SCOPES, "quick", base.Scope("quick", 4, 1))
    return seen


def tried_experiment(cells, work):
    work.__module__ = "fastvar_lab.tried"  # as if it shipped: what it counts is no part of it
    return base.Experiment("?", "", charts.methods, cells=cells, work=work, name="tried")


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


def test_a_distance_reads_each_picture_once(small, tmp_path, monkeypatch):
    read, order, items = [], [], ClosedWorld().take(base.BATCH + 1)
    methods = {"full": fv.Dense(), "late": fv.Prune({-1: 0.5}), "early": fv.Prune({-2: 0.5})}
    job, store = DistanceJob(methods, items), Store(tmp_path)
    picture, put = Store.picture, Store.put_picture

    def noted(self, address):
        read.append(key(address))
        return picture(self, address)

    def kept(self, address, *args):
        order.append((address["method"], address["prompt"]))
        put(self, address, *args)

    monkeypatch.setattr(Store, "picture", noted)
    monkeypatch.setattr(Store, "put_picture", kept)
    done = []
    job.compute(small, store, lambda: done.append(1))
    assert len(done) == len(job) == 9
    grids, drawn = small.grids(), []
    for part in (items[: base.BATCH], items[base.BATCH :]):
        drawn += [(repr(m), i.prompt) for m in branching(methods.values(), grids) for i in part]
    assert order == drawn  # as when all of a batch were read first
    assert len(read) == len(set(read)) == len(methods) * len(items)
    rows = [*job.rows(small, store, {})]
    job.compute(small, store)
    assert len(read) == 2 * len(methods) * len(items)
    damaged = next(tmp_path.rglob("*.npz"))
    damaged.write_bytes(b"")
    job.compute(small, store)
    assert len(order) == len(drawn) + 1
    assert [*job.rows(small, store, {})] == rows


def test_what_is_not_timed_is_counted_by_line(small, tmp_path):
    """Operations stand in place of times; those of a method that decides are of each picture."""

    def methods(model):
        pruned = {"keeps half": fv.Prune({-1: 0.5}), "keeps a quarter": fv.Prune({-1: 0.75})}
        return {"pruning": pruned, "by picture": {"": fv.SparseVAR(-2, threshold=0.5)}}

    record = base.Experiment("?", "", charts.by_operations, methods, name="mine", timed=False)
    look, options = base.Scope("look", prompts=2, repeats=1), {"progress": False}
    frame = run.run(record, look, model=small, store=Store(tmp_path), **options)
    assert set(frame.kind) == {"quality", "operations"}
    assert set(frame.line) == {"full", "pruning", "by picture"}
    costs = frame[frame.kind == "operations"].set_index("method").operations
    text = len(small.example.split())
    full, half = (
        flops.total(flops.step_flops(small, m, small.grids(), text, sampling=small.sampling))
        for m in (fv.Dense(), fv.Prune({-1: 0.5}))
    )
    assert costs["pruning, keeps half"] == pytest.approx(half / full)
    by_picture = costs["by picture, "]
    assert len(by_picture) == 2
    assert ((by_picture > 0.2) & (by_picture < 1)).all()
    assert costs["full"] == 1
    merged = counted(frame)
    assert merged.groupby("method").operations.nunique().max() == 1
    assert {"operations", "n"} <= set(tables.tabulate(frame).columns)
    drawn = [len(axes.lines) for axes in record.chart(frame).axes]
    assert drawn == [len(axes.lines) for axes in record.chart(charts.operations_points(frame)).axes]
    quick = run.run(record, "quick", model=small, store=Store(tmp_path), **options)
    assert set(quick.method) == {"full", "pruning, keeps a quarter", "by picture, "}


def test_lines_are_compared_where_they_cost_the_same():
    """Line a is 10 x operations + picture, b is 20 x operations; they meet in 0.3 to 0.5."""
    rows = [
        {"kind": "quality", "line": line, "method": f"{line} {x}", "picture": p, "psnr": y(x, p)}
        for line, points, y in (
            ("a", (0.2, 0.5), lambda x, p: 10 * x + p),
            ("b", (0.3, 0.7), lambda x, p: 20 * x),
            ("c", (0.9,), lambda x, p: 0.0),
        )
        for x in points
        for p in range(9)
    ]
    costs = {row["method"]: float(row["method"].split()[1]) for row in rows}
    counts = [{"kind": "operations", "method": m, "operations": x} for m, x in costs.items()]
    frame = pd.DataFrame([*rows, *counts])
    gap = paired_at_equal(counted(frame), "a", "b", "psnr")
    assert gap["difference"] == pytest.approx(4 - 10 * 0.4)  # at 0.3 and at 0.5, nine pictures
    assert gap["n"] == 9
    assert (gap["from"], gap["to"]) == (0.3, 0.5)
    assert [gap["at_from"], gap["at_to"]] == pytest.approx([1, -1])
    assert not gap["crosses"]  # nine pictures exclude neither
    text = verdicts.line_over("b", "a")(frame).text
    assert text.startswith("b over a, at 30 to 50 % of the operations: +0.00 dB")
    steep = frame.assign(psnr=frame.psnr.where(frame.line != "b", 4.5 * frame.psnr - 29))
    assert paired_at_equal(counted(steep), "a", "b", "psnr")["crosses"]
    answer = verdicts.line_over("b", "a")(steep)
    assert answer.text.endswith("; -9.00 at 30 %, +7.00 at 50 %")
    assert answer.verdict == verdicts.DEPENDS
    with pytest.raises(ValueError, match="a and c have no operations in common"):
        paired_at_equal(counted(frame), "a", "c", "psnr")
    with pytest.raises(ValueError, match="no line 'd'"):
        verdicts.line_over("d", "a")(frame)
    with pytest.raises(ValueError, match="no method a 1"):
        verdicts.method_over("a 1", "a 0.2")(frame)
    assert verdicts.method_over("a 0.5", "a 0.2")(frame).text.startswith("a 0.5 over a 0.2: +3.00")


def test_held_shares_are_those_of_the_cache_methods(small):
    keys = sum(grid.tokens for grid in small.grids()[:-1])
    heads = small.transformer.config.heads
    orders = (tuple(range(small.depth * heads)),) * 2
    assert held_share(small, fv.Prune({-1: 0.5})) is None
    assert held_share(small, fv.ScaleKV({-1: keys // 2})) <= 0.5
    assert held_share(small, fv.HeatKV(1.0, orders, sinks=2)) == 1
    assert held_share(small, fv.HeatKV(0.6, orders, sinks=2)) <= 0.6
    assert 0.5 < held_share(small, fv.QuantKV(8)) < 0.7
    inside = fv.FocusVAR(fv.Tail(fv.QuantKV(8), cond_from=-1), first=-2, last=-2, layer=1)
    assert held_share(small, inside) == held_share(small, fv.QuantKV(8))
    assert held_share(small, fv.Tail(fv.Prune({-2: 0.5}), cond_from=-1)) is None


def test_an_experiment_is_asked_at_several_guidance_scales(small, tmp_path):
    ways = {"skip": fv.Prune({-1: 1.0}), "null dropped": fv.Tail(cond_from=-1)}
    look, store = base.Scope("look", prompts=1, repeats=1), Store(tmp_path)
    record = base.Experiment("?", "", charts.methods, lambda _: ways, guidances=(2.0, 4.0))
    options = {"model": small, "store": store, "progress": False}
    pictures = run.run(record, look, timed=False, **options)
    assert set(pictures.kind) == {"quality"}
    frame = run.run(record, look, **options)
    assert len(frame) == len(pictures) + 2 * 3
    assert frame.guidance.unique().tolist() == [2, 4]
    by_scale = frame[frame.kind == "quality"].pivot_table(
        index="method", columns="guidance", values="psnr"
    )
    assert (by_scale.loc["skip", 2.0], by_scale.loc["full", 4.0]) != by_scale.loc["skip"].tolist()
    alone = fv.compare(
        small, ways, look, prompts=small.prompts, guidance=4, store=store, progress=False
    )
    assert set(alone.guidance) == {4}
    table = tables.tabulate(frame)
    assert table.guidance.tolist() == [2, 2, 2, 4, 4, 4]
    with pytest.raises(ValueError, match=r"guidances 2.0 and 4.0; take one: frame\[frame.guid"):
        charts.methods(frame)
    halves = [frame[frame.guidance == scale] for scale in (2, 4)]
    assert len(merge_frames(halves)) == len(frame)
    for wrong in ((), (2, 2)):
        with pytest.raises(ValueError, match="one scale, or several different ones"):
            run.run(record, look, model=small, guidance=wrong, store=store)


def question_of(name, model=None, scope="quick"):
    """What an experiment is asked of by default."""
    model, record = model or fv.load("tiny"), agenda.find(name)
    world, item = model.prompts, ClosedWorld().take(1)[0]
    return base.Question(model, base.SCOPES[scope], world, record.labelled(model), item)


def test_a_method_is_measured_once_whichever_experiments_ask_about_it(tmp_path):
    kept = []
    for name in ("extreme_ratios", "rivals"):
        question = question_of(name)
        jobs = agenda.jobs_of(agenda.find(name), question)
        method = next(m for m in jobs[0].methods.values() if m == fv.PRESETS["tiny"])
        addresses = Addresses(question.model)
        timed_jobs = [job for job in jobs if job.timed]
        timed = next(c for job in timed_jobs for c in job.cells if c.method == method)
        kept.append(
            [
                key(addresses.picture(method, jobs[0].items[0])),
                key(addresses.values(method, jobs[0].items[0])),
                key(timed_jobs[-1].address(timed, question.model)),
            ]
        )
    assert kept[0] == kept[1]
    assert len(set(kept[0])) == 3


def test_timed_cells_are_never_given_away(monkeypatch, tmp_path):
    here = []

    def cells(question):
        return [[base.Cell({"n": 0}, repeats=1)], [base.Cell({"n": 1})]]

    def work(model, cells):
        here.append(cells[0].columns["n"])
        yield cells[0], [{"value": cells[0].columns["n"]}]

    monkeypatch.setitem(agenda.REGISTRY, "tried", tried_experiment(cells, work))
    monkeypatch.setattr(workers, "_check_travels", lambda job: None)  # threads share memory
    with ThreadPoolExecutor(1) as elsewhere:
        given = []
        submit = elsewhere.submit
        monkeypatch.setattr(elsewhere, "submit", lambda f, *a: given.append(a[0]) or submit(f, *a))
        run.run("tried", "quick", store=Store(tmp_path), executor=elsewhere)
    assert [cell.columns for job in given for cell in job.cells] == [{"n": 1}]
    assert here == [1, 0]  # alone, when the others are there


def test_disturbed_timings_are_shown_and_measured_again(monkeypatch, tmp_path):
    wide, turn = [True], []

    def cells(question):
        return [[base.Cell(method=fv.Dense(), label=FULL, repeats=3)]]

    def work(model, cells):
        turn.append(1)
        yield cells[0], [{"ms": 1.0, "disturbed": wide[0]}]

    record, store = tried_experiment(cells, work), Store(tmp_path)
    assert run.run(record, "quick", store=store).disturbed.all()
    wide[0] = False
    assert not run.run(record, "quick", store=store).disturbed.any()
    assert not run.run(record, "quick", store=store).disturbed.any()
    assert len(turn) == 2
    assert claims.answer(record_claim(), pd.DataFrame({"ms": [1.0], "disturbed": [True]})) == (
        verdicts.Answer("timing disturbed", verdicts.OPEN)
    )


def record_claim():
    return verdicts.Claim("x", "y", lambda frame: verdicts.Answer("", verdicts.HOLDS))


@pytest.mark.parametrize(
    "name",
    [
        *("latency_by_scale", "module_profile", "sublayer_overhead", "attention_kernels"),
        *("memory", "resolution_scaling", "intermediate_outputs", "side_by_side"),
    ],
)
def test_addresses_say_which_preset_they_measure(name, monkeypatch):
    def addresses():
        question = question_of(name)
        model, found = question.model, []
        for job in agenda.jobs_of(agenda.find(name), question):
            if isinstance(job, CellJob):
                found += [key(job.address(cell, model)) for cell in job.cells]
            else:
                at, items = Addresses(model), job.items
                found += [key(at.picture(m, i)) for m in job.methods.values() for i in items]
        return found

    before = addresses()
    assert before == addresses()
    monkeypatch.setattr(fv.Model, "preset_of", lambda *_: fv.Prune({-2: 0.25, -1: 0.25}))
    monkeypatch.setattr(sublayer_overhead, "PRUNED", fv.Prune({-1: 0.25}))
    assert before != addresses()


@pytest.mark.parametrize("name", ["latency_by_scale", "spectra"])
def test_experiments_measure_a_model_of_classes(name, tmp_path):
    model = build.build(var_config(shared=False), tokenizer=AUTOENCODER).freeze()
    look = base.Scope("look", prompts=2, repeats=1)
    frame = run.run(name, look, model=model, store=Store(tmp_path), progress=False)
    assert len(frame)
    assert {item.group for item in model.prompts.take(2)} == {"class"}
    assert model.prompts.judge is None


def test_what_drafting_saves_is_counted(monkeypatch):
    monkeypatch.setattr(drafting, "load", partial(fv.load, depth=2))
    pair = {"drafter": "var-d20", "refiner": "var-d16"}
    cells = [base.Cell({**pair, "drafted": n}, repeats=1) for n in (6, 8)]
    early, late = (rows[0] for _, rows in drafting.drafting(fv.load("tiny"), cells))
    assert early["speedup_flop_bound"] > late["speedup_flop_bound"]
    assert early["kv_share"] == pytest.approx(16 / 20)
    assert early["ms"] > 0


def test_a_worker_with_other_weights_or_versions_is_refused(tmp_path):
    job = CellJob("x", 1, base.Each(lambda model, cell: []), (base.Cell(),))
    expected = workers.expectation(ModelSpec().open())
    checked = ("torch", "weights", "sizes", "fastvar-lab", "scikit-image", "numpy", "scipy",
               "a package", "code of fastvar-lab")  # fmt: skip
    for name in checked:
        other = {**expected, name: "1234"}
        with pytest.raises(ValueError, match=rf"this worker has the {name} .*begun with 1234"):
            workers.compute(job, ModelSpec(), str(tmp_path), other)
    for package in ("torch", "scipy"):
        older = {name: value for name, value in expected.items() if name != package}
        with pytest.raises(ValueError, match=rf"the {package} .*begun with unknown"):
            workers.compute(job, ModelSpec(), str(tmp_path), older)


def test_a_folder_that_cannot_be_written_fails_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot make the output folder"):
        run.run("selectors", "quick", store=Store(tmp_path / "file"))


def test_quality_rows_by_process_pool_equal_those_made_here(tmp_path):
    method = {"cache 4x4": fv.Prune({-2: 0.5, -1: 0.75}, cache_step=-8)}
    look = base.Scope("quick", 1, 1)
    here = run.compare(fv.load("tiny"), method, look, store=Store(tmp_path / "a"))
    with workers.executor(1) as pool:
        there = run.compare(
            ModelSpec("tiny"), method, look, store=Store(tmp_path / "b"), executor=pool
        )
    rows, others = (f[f.kind == "quality"].dropna(axis=1, how="all") for f in (here, there))
    assert rows.equals(others)
    full = rows[rows.method == FULL]
    assert (full.psnr == MOST_PSNR).all()
    assert set(full.group) <= set(TASKS)
    worst = rows[rows.method == "cache 4x4"]
    assert (worst.psnr < 60).all()
    assert (worst.cache_step == "4x4").all()
    assert (worst.agree_16x16 == 1).all()  # not changed before the first pruned step
    times = here[here.kind == "time"].set_index("method")
    assert times.speedup_flop_bound["full"] == 1
    assert times.speedup_flop_bound["cache 4x4"] > 1.5


def test_a_cluster_that_loses_a_worker_gives_the_same_cells(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setitem(base.SCOPES, "quick", base.Scope("quick", 8, 1))
    spec = ModelSpec(weights="random")
    here = run.run("spectra", "quick", model=spec, store=Store(tmp_path / "a"))
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
        with workers.executor(0, cluster.scheduler_address) as executor:
            there = run.run("spectra", "quick", model=spec, store=cells, executor=executor)
            killer.join()
            job = CellJob("x", 1, base.Each(spectra.spectra), (base.Cell(),))
            expected = {**workers.expectation(spec.open()), "weights": "1234"}
            with pytest.raises(ValueError, match="the run was begun with 1234"):
                executor.submit(workers.compute, job, spec, str(tmp_path), expected).result()
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

    asked, done = list[Future](), list[int]()
    job = CellJob("x", 1, base.Each(spectra.spectra), (base.Cell(),))

    def through(executor, jobs):
        workers.submit(executor, jobs, ModelSpec(), str(tmp_path), {}, done.append)

    with pytest.raises(KeyboardInterrupt):
        through(Stopping(), [job] * 9)
    assert len(asked) == 3
    assert all(future.cancelled() for future in asked)
    asked = [Future()]
    asked[0].cancel()
    asked[0].set_running_or_notify_cancel()
    lost = SimpleNamespace(submit=lambda *_: asked[0])
    with pytest.raises(RuntimeError, match="the cluster dropped its jobs"):
        through(lost, [job])


def test_workers_end_with_the_process_that_asks():
    asks = """
import os, time
from fastvar_lab.experiments import workers
if __name__ == "__main__":
    with workers.executor(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(99)
"""
    parent = subprocess.Popen([sys.executable, "-c", asks], stdout=subprocess.PIPE, text=True)
    assert int(parent.stdout.readline())
    parent.kill()
    parent.communicate(timeout=60)  # the worker holds the pipe, too, while it lives


def test_new_data_do_not_stand_beside_where_the_old_ones_are_from(tmp_path, monkeypatch):
    frame = run.run("memory", "quick", progress=False)
    there = partial(figures.draw_frame, fv.load("tiny"), "memory", frame, tmp_path, "quick")
    list(there())
    assert (tmp_path / "memory.json").exists()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(figures, "write_utf8", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(there())
    assert (tmp_path / "memory.csv.bz2").exists()
    assert not (tmp_path / "memory.json").exists()


COMPARISONS = sorted(name for name, record in agenda.REGISTRY.items() if record.cells is None)


@pytest.mark.parametrize("name", COMPARISONS)
def test_every_method_of_every_experiment_fits_the_embedded_model(name):
    question = question_of(name)
    jobs = agenda.jobs_of(agenda.find(name), question)
    names = list(jobs[0].methods)
    assert names[0] == "full"
    assert len(names) > 1
    for method in question.methods.values():
        method.start(question.model.grids(), question.model.depth)
        columns = describe(method, question.model.grids(), question.model.depth)
        assert read_method(written(method)) == method
        json.dumps(columns)
    pickle.dumps(jobs)


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
    frame = synthetic("extreme_ratios")
    frame = frame[(frame.kind != "quality") | (frame.picture < 24)].assign(right=1.0)
    assert extreme.whole_ratios_break_small_models(frame).verdict == verdicts.OPEN


def test_summaries_and_pairs():
    frame = pd.DataFrame(
        {"method": ["a", "a", "b", "b"], "picture": [0, 1, 0, 1], "psnr": [30.0, 32, 29, 31]}
    )
    means = summary(frame, ["method"], "psnr").set_index("method")
    assert means["mean"].tolist() == [31, 30]
    gap = paired(frame, "a", "b", "psnr")
    assert (gap["difference"], gap["low"], gap["high"], gap["n"]) == (1, 1, 1, 2)


def synthetic_budget(name):
    """A frame of planned schedules and those by hand, at two guidance scales."""
    rng, rows = np.random.default_rng(0), []
    for guidance, (family, live, above) in itertools.product(
        (2.0, 4.0), (("planned", 1, 3.0), ("FastVAR", 2, 0.0), ("FastVAR", 1, 1.0))
    ):
        for speedup in (1.4, 2.0, 3.1, 4.2):
            label = f"{family} {speedup} at guidance {guidance if above == 3 else live}"
            base = {"method": label, "family": family, "rows_32x32": live, "guidance": guidance}
            bound = {"speedup_flop_bound": speedup}
            times = {"speedup": speedup, "speedup_low": speedup, "speedup_high": speedup, **bound}
            rows += [
                {**base, **bound, "kind": "quality", "setting": "here", "picture": p,
                 "right": p % 2, "psnr": 50 - 5 * speedup + above + gap}
                for p, gap in enumerate(rng.normal(size=12))
            ]  # fmt: skip
            rows += [{**base, **times, "kind": "time"}] if name == "budget" else []
        full = {"method": "full", "family": "full", "rows_32x32": 2, "guidance": guidance}
        if name == "budget" and family == "planned":
            rows += [{**full, "kind": "quality", "picture": p, "psnr": 100.0} for p in range(12)]
            rows += [{**full, "kind": "time", "speedup": 1.0, "speedup_flop_bound": 1.0}]
    return pd.DataFrame(rows)


def synthetic(name):
    """A frame of the shape that an experiment returns."""
    rng = np.random.default_rng(0)
    model, record = fv.load("tiny"), agenda.find(name)
    if record.cells is None or name == "choice_by_picture":
        methods = with_full(record.labelled(model), model)
        columns = [method_columns(label, method, model) for label, method in methods.items()]
        rows = [
            {"kind": "quality", **c, "picture": p, "psnr": 30 + gap, "right": p % 2}
            for c in columns
            for p, gap in enumerate(rng.normal(size=24))
        ]
        if name == "choice_by_picture":
            rows += [
                {"kind": "features", "picture": p, "update": a, "fine": b, "uneven": 1.0}
                for p, (a, b) in enumerate(rng.normal(size=(24, 2)))
            ]
        if not record.timed:
            return untimed(record, model, rows, columns)
        rows += [
            {
                "kind": "time",
                **c,
                "speedup": s,
                "speedup_low": s - 0.1,
                "speedup_high": s + 0.2,
                "speedup_flop_bound": 2,
                "disturbed": False,
            }
            for c, s in zip(columns, 1 + rng.random(len(columns)), strict=True)
        ]
        return pd.DataFrame(rows)
    if name.startswith("budget") or name == "small_maps":
        return synthetic_budget(name)
    sizes = [f"{h}x{w}" for h, w in model.sizes]
    ways = ("full", "FastVAR")
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
             "log10_amplitude": -f + i, "settled": i / 9, "picture": p}
            for w in ("spectrum", "settled") for i, s in enumerate(sizes) for f in (1, 2, 3, 4)
            for p in range(2)
        ],
        "cross_scale": [
            {"what": w, "size": sizes[i], "source_size": sizes[j], "share": 0.1,
             "cosine": 1 / (1 + i - j), "step": i, "source": j, "first": f}
            for w in ("attention", "similarity") for i in range(10) for j in range(i + 1)
            for f in range(0, 40, 4)
        ],
        "sublayer_sensitivity": [
            {"step": i, "size": sizes[i], "kind": k, "layer": n, "pruned": share, "picture": p,
             "psnr": 40.0 - i - n, "speedup_flop_bound": 1.01}
            for i in (8, 9) for k in ("attn", "cross", "ffn") for n in range(8)
            for share in (0.5, 1.0) for p in range(2)
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
        "reduced_precision": [
            {"what": "quality", "precision": p, "method": m, "picture": i, "psnr": 30.0 + gap,
             "psnr_same": 31.0, "right": 1.0,
             "error": (p != "float32") * 30 + (m != FULL) * 20 + (p != "float32") * (i % 3)}
            for p in ("float32", "int8") for m in ways for i, gap in enumerate(rng.normal(size=24))
        ] + [
            {"what": "time", "precision": p, "method": m, "turn": t, "ms": 9.0 - t / 10,
             "speedup": (1 + (p != "float32")) * (1 + (m != FULL)) + t / 100,
             "product": 1.0 + (p != "float32"), "disturbed": False}
            for p in ("float32", "bfloat16") for m in ways for t in range(10)
        ] + [
            {"what": "memory", "release": "infinity-2b", "precision": p, "method": m,
             "weight_bytes": w, "cache_bytes": 1e9, "peak_bytes": w + 1e9 * (2 - (m != FULL))}
            for p, w in (("bfloat16", 4e9), ("int8", 2e9)) for m in ways
        ],
        "speed_gap": [
            {"side": s, "method": m, "ms": 9.0, "speedup": 1.8, "speedup_flop_bound": 2.0,
             "gap": 0.1, "choosing": 0.06, "restoring": 0.03, "products": 0.04, "rest": -0.03}
            for s in (32, 64) for m in ways
        ],
        "memory": [
            {"side": s, "method": m, "kv_measured": 1e7 * s, "held_measured": 1e6 * (m != FULL)}
            for s in (16, 32) for m in ways
        ],
    }  # fmt: skip
    frame = pd.DataFrame(frames[name])
    return frame.assign(family=frame.method) if "method" in frame else frame


def untimed(record, model, rows, columns):
    """The rows of pictures with counted operations, lines and guidance scales."""
    shares = np.linspace(0.2, 0.8, len(columns)).tolist()
    counts = [{"kind": "operations", **c, "operations": s} for c, s in zip(columns, shares)]
    if record.name == "cache_scores":
        counts = [{**row, "cache": row["operations"]} for row in counts]
    frame, lines = pd.DataFrame([*rows, *counts]), record.lines(model)
    if lines:
        frame["line"] = [lines.get(label, label) for label in frame.method]
    scales = [frame.assign(guidance=scale) for scale in record.guidances]
    return pd.concat(scales, ignore_index=True) if scales else frame


@pytest.mark.parametrize("name", sorted(agenda.REGISTRY))
def test_every_experiment_has_a_chart_and_a_table(name, tmp_path):
    frame = synthetic(name)
    figure = agenda.find(name).chart(frame)
    write_figure(tmp_path / "chart.png", figure)
    again = agenda.find(name).chart(frame)
    write_figure(tmp_path / "again.png", again)
    assert (tmp_path / "chart.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    for axes in figure.axes:
        assert axes.get_xlabel() or axes.get_ylabel()
    assert name in run.table(name, frame)


def test_a_complete_store_may_be_read_only(tmp_path, monkeypatch, small):
    """Results of experiments and of the suite are read where nothing can be written."""

    def cells(question):
        return [[base.Cell({"n": n})] for n in range(question.scope.prompts)]

    def work(model, cells):
        yield cells[0], [{"value": 1.0}]

    def tried(store, n):
        record, scope = tried_experiment(cells, work), base.Scope("look", n, 1)
        return run.run(record, scope, model=small, store=store, progress=False)

    store = Store(tmp_path / "cells")
    measured, measure = tried(store, 2), partial(suite.stored, store, {"setting": "x"})
    rows = measure(lambda: [{"ms": 1.0}])

    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("fastvar_lab.store.write", refuse)
    monkeypatch.setattr("fastvar_lab.store.writable", refuse)
    assert tried(store, 2).equals(measured)
    assert measure(pytest.fail) == rows
    args = argparse.Namespace(store=store.folder, known=None, workers=0, scheduler=None)
    with options.cells(args) as (opened, _):
        assert tried(opened, 2).equals(measured)
    with pytest.raises(OSError, match="Read-only"):
        tried(store, 3)


def test_folders_given_from_python_may_begin_with_a_tilde(tmp_path, monkeypatch, small):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "run", lambda name, scope, **options: synthetic(name))
    model = fv.load("tiny")
    made = list(figures.draw(model, ["selectors"], "~/figures", endings=("png",)))
    assert made[-1] == tmp_path / "figures" / "selectors.png"
    list(figures.draw_frame(model, "memory", synthetic("memory"), "~/frames", "quick"))
    assert (tmp_path / "frames" / "memory.pdf").exists()
    assert figures.check("~/figures") == []
    assert list(figures.redraw("~/figures", (), ["svg"]))[-1] == made[-1].with_suffix(".svg")
    demo.demo(small, "a red circle", fv.Prune({-1: 1.0}), 0, "~/demo")
    assert (tmp_path / "demo" / "demo.json").exists()
    assert not (tmp_path / "~").exists()


def test_progress_moves_with_every_result_of_a_job(small, tmp_path):
    methods = {f"{100 * share:.0f} %": fv.Prune({-1: share}) for share in (0.25, 0.5, 0.75)}
    items = fv.PromptList(("a red ring", "a cyan star")).take(2)
    job = PictureJob({"full": fv.Dense(), **methods}, items, 0, (METRICS["psnr"],))
    kept, store = list[int](), Store(tmp_path)
    job.compute(small, store, lambda: kept.append(sum(map(bool, job.rows(small, store, {})))))
    assert kept == [1, 2, 3, 4] == [*range(1, len(job) + 1)]


def test_results_are_read_back_from_the_data_of_a_figure(small, tmp_path, monkeypatch, capsys):
    methods = {f"{100 * share:.0f} %": fv.Prune({-1: share}) for share in (0.5, 0.75)}
    record = base.Experiment(
        "Is half enough?", "", charts.by_operations, name="mine", timed=False,
        methods=lambda model: {"PTS": methods}, points=charts.operations_points,
    )  # fmt: skip
    look, prompts = (
        base.Scope("look", prompts=2, repeats=1),
        fv.PromptList(("a red ring", "a star")),
    )
    options = {"model": small, "prompts": prompts, "progress": False}
    out = tmp_path / "out"
    drawn = dict(scope=look, prompts=prompts, store=Store(tmp_path / "first"))
    list(figures.draw(small, [record], out, **drawn))
    first = run.run(record, look, store=Store(tmp_path / "first"), **options)

    def other():
        return Store(tmp_path / "other", Committed(out))

    with monkeypatch.context() as patched:
        patched.setattr(jobs, "generate", None)
        patched.setattr(comparison.flops, "step_flops", None)
        again = run.run(record, look, store=other(), **options)
    assert first.cell.nunique() == len(first)
    pd.testing.assert_frame_equal(output.rounded(again), output.rounded(first), check_dtype=False)
    assert not list((tmp_path / "other").rglob("*.json"))
    scale = float(small.sampling.guidance)
    list(figures.draw(small, [replace(record, guidances=(scale,))], out, **drawn))
    with monkeypatch.context() as patched:
        patched.setattr(jobs, "generate", None)
        asked_without = run.run(record, look, store=other(), **options)
    assert "guidance" not in asked_without  # though that is where its results are from
    mine = {"mine": lambda picture, reference: float(picture.mean())}
    more = run.run(record, look, store=other(), metrics=mine, **options)  # draws them again
    assert more.mine.notna().any()
    assert len(list((tmp_path / "other").rglob("*.npz"))) == 6
    dense = fv.PromptList(("a cyan star",))
    assert not Committed(out).values(run.run(
        record, look, model=small, prompts=dense, store=Store(tmp_path / "first"), progress=False,
    ).cell[0])  # fmt: skip
    assert main(["experiment", "memory", "--quick", "--known", str(tmp_path / "first")]) == 2
    assert "there are no data of figures in" in capsys.readouterr().err


def test_rows_of_an_untimed_run_are_known_to_one_on_another_machine(tmp_path, monkeypatch, capsys):
    asked = ["experiment", "extreme_ratios", "--quick", "--untimed"]
    here, there = tmp_path / "out", tmp_path / "elsewhere"
    assert main([*asked, "--out", str(here), "--store", str(tmp_path / "cells")]) == 0
    data = here / "extreme_ratios_untimed.csv.bz2"
    assert str(data) in capsys.readouterr().out
    told = json.loads((here / "extreme_ratios_untimed.json").read_text())
    assert told["command"].endswith("experiment extreme_ratios --model tiny --untimed --quick")
    monkeypatch.setattr(jobs, "generate", None)  # pictures are known
    known = ["--known", str(here), "--store", str(tmp_path / "empty")]
    assert main([*asked, *known, "--out", str(there)]) == 0
    assert (there / data.name).read_bytes() == data.read_bytes()
    assert main(["figures", "--check", "--out", str(here)]) == 2  # no figure's data
    assert "there is no figure with its data" in capsys.readouterr().err


def test_claims_are_judged_by_the_data_of_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "run", lambda name, scope, **options: synthetic(name))
    list(figures.draw(fv.load("tiny"), ["memory", "caching_step", "skipping"], tmp_path))
    assert main(["claims", "--from", str(tmp_path), "--out", str(tmp_path)]) == 0
    printed, text = capsys.readouterr().out, (tmp_path / "claims.md").read_text()
    assert text in printed
    assert ["`memory`" in text, "`caching_step`" in text, "`cross_scale`" in text] == [1, 1, 0]
    assert "- skipping is left out: its data are only what is drawn; draw it again" in text
    assert f"Measured on {machine('cpu')['cpu']}." in text
    assert f"weights `{fv.load('tiny').fingerprint}`" in text
    (tmp_path / "empty").mkdir()
    assert main(["claims", "--from", str(tmp_path / "empty"), "--out", str(tmp_path)]) == 2
    assert "there are no data of experiments that test a claim" in capsys.readouterr().err
    assert (tmp_path / "claims.md").read_text() == text


def test_damaged_data_of_a_figure_are_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "run", lambda name, scope, **options: synthetic(name))
    list(figures.draw(fv.load("tiny"), ["memory"], tmp_path))
    report, data = tmp_path / "memory.json", tmp_path / "memory.csv.bz2"
    whole = report.read_text()
    for damaged in ("[" * 100_000, "null", "{}", '{"versions": 3}', "\udcff"):
        report.write_bytes(damaged.encode(errors="surrogateescape"))
        assert main(["figures", "--check", "--out", str(tmp_path)]) == 2
        assert "memory.json" in capsys.readouterr().err
        assert main(["figures", "--redraw", "--out", str(tmp_path)]) == 2
    report.write_text(whole)
    rows = data.read_bytes()
    foreign = bz2.compress(b"a,b\n1,2\n")
    for damaged in (b"", b"\xff\xfe", rows[:99], rows[:99] + bytes(9) + rows[108:], foreign):
        data.write_bytes(damaged)
        assert main(["figures", "--check", "--out", str(tmp_path)]) == 2
        assert "cannot draw memory from its data" in capsys.readouterr().err


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
    timed = ["latency_by_scale", "module_profile"]
    assert main(["experiment", timed[0], "--quick", "--untimed"]) == 2
    assert main(["experiment", *timed, "--quick", "--untimed"]) == 0
    said = capsys.readouterr().out
    assert all(f"all that {name} measures is timed; nothing to do" in said for name in timed)
    assert main(["experiment", "memory", "--model", "infinity-2b"]) == 2
    assert "infinity_2b_reg.pth" in capsys.readouterr().err


def test_a_list_reads_from_the_source_what_the_records_say():
    for name, listed in listing.experiments().items():
        record = agenda.REGISTRY[name]
        assert listed == (record.question, record.source, record.slow)
    assert [*listing.experiments()] == sorted(agenda.REGISTRY)
    assert listing.galleries() == tuple(GALLERIES)


def test_an_experiment_leaves_its_data_tables_figure_and_where_they_are_from(tmp_path):
    out = ["--out", str(tmp_path / "out"), "--store", str(tmp_path / "cells")]
    assert main(["experiment", "latency_by_scale", "--quick", *out]) == 0
    endings = {".bz2", ".json", ".md", ".tex", ".txt", ".png", ".pdf"}
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == endings
    told = json.loads((tmp_path / "out" / "latency_by_scale.json").read_text())
    assert (
        told["command"] == "python -m fastvar_lab experiment latency_by_scale --model tiny --quick"
    )
    assert told["weights"] == fv.load("tiny").fingerprint


def at_two_scales(frame):
    """A frame that was measured at two guidance scales, with other numbers at the second."""
    numbers = [c for c in ("psnr", "ms", "to_last", "log10_amplitude") if c in frame]
    other = frame.assign(guidance=4.0, **{c: frame[c] * 2 for c in numbers})
    return pd.concat([frame.assign(guidance=2.0), other], ignore_index=True)


@pytest.mark.parametrize("name", ["selectors", "spectra", "latency_by_scale", "memory"])
def test_each_of_several_guidance_scales_is_drawn_and_answered_alone(name, tmp_path):
    record, one = agenda.find(name), synthetic(name)
    both = at_two_scales(one)
    made = list(figures.draw_frame(fv.load("tiny"), name, both, tmp_path, "quick"))
    pictures = [f"{name}_guidance_{scale}.{kind}" for scale in (2, 4) for kind in ("png", "pdf")]
    assert [path.name for path in made] == [f"{name}.csv.bz2", *pictures]
    assert (tmp_path / f"{name}.md").read_text().startswith("| guidance ")
    assert json.loads((tmp_path / f"{name}.json").read_text())["rows"] == len(both)
    halves = [both[both.guidance == scale].drop(columns="guidance") for scale in (2, 4)]
    for claim in record.claims:
        alone = [claims.answer(claim, half) for half in halves]
        texts = [f"at guidance {s}: {a.text}" for s, a in zip((2, 4), alone)]
        assert claims.answer(claim, both).text == "; ".join(texts)


@pytest.mark.parametrize("name", ["selectors", "spectra", "latency_by_scale", "cross_scale",
                                  "sublayer_sensitivity", "attention_kernels"])  # fmt: skip
def test_charts_average_nothing_over_guidance_scales(name):
    record, both = agenda.find(name), at_two_scales(synthetic(name))
    with pytest.raises(ValueError, match=r"holds the guidances 2.0 and 4.0; take one: frame"):
        record.chart(record.points(both) if record.points else both)


def test_labels_that_look_like_nothing_stay_labels(tmp_path):
    frame = pd.DataFrame({"method": ["full", "None", "NA", "null"], "ms": [1.0, np.inf, None, 2]})
    again = output.write_frame(tmp_path / "mine", frame.assign(whole=[1, None, 3, 4]))
    assert again.method.tolist() == frame.method.tolist()
    assert again.ms.tolist()[:2] == [1.0, np.inf]
    assert np.isnan(again.ms[2])
    assert again.whole.dtype == float


def test_budgets_are_drawn_where_all_timings_by_hand_were_disturbed():
    frame = synthetic("budget")
    hand = (frame.kind == "time") & (frame.family == "FastVAR")
    points = charts.budget_points(frame.assign(disturbed=hand))
    assert set(points.what) == {"method", "gain"}
    assert set(points[points.what == "method"].family) == {"planned"}


def test_networks_of_a_judge_are_part_of_an_address():
    class Seeing:
        __module__ = "fastvar_lab.evaluators"

        def __init__(self, fingerprint):
            self.fingerprint = fingerprint

    names = [jobs._rule(Seeing(networks)) for networks in ("a", "b", "")]
    assert [name.rpartition("/")[2] for name in names[:2]] == ["a", "b"]
    assert names[2].endswith("Seeing")


def test_pictures_after_every_step_are_compared_with_one_full_generation(small, monkeypatch):
    methods, asked, observed = [], [], intermediate_outputs.observe

    def observe(model, prompts, method, **options):
        asked.append(method)
        return observed(model, prompts, method, **options)

    monkeypatch.setattr(intermediate_outputs, "observe", observe)
    record = agenda.find("intermediate_outputs")
    (batch,) = record.cells(question_of("intermediate_outputs", small))
    for cells in (batch, batch[1:]):
        asked.clear()
        rows = {cell.label: rows for cell, rows in record.work(small, cells)}
        assert len(asked) == len(batch)
        assert asked.count(fv.Dense()) == 1
        methods.append(rows[batch[1].label])
    assert methods[0] == methods[1]


def test_figures_are_checked_against_their_data(tmp_path, monkeypatch, capsys):
    model = fv.load("tiny")
    monkeypatch.setattr(run, "run", lambda name, scope, **options: synthetic(name))
    names = ["caching_step", "intermediate_outputs", "intermediate_outputs_scores"]
    made = list(figures.draw(model, names, tmp_path))
    assert {p.suffix for p in made} == {".bz2", ".npz", ".png", ".pdf"}
    assert "Which step is the best one" in (tmp_path / "caching_step.txt").read_text()
    assert figures.check(tmp_path) == []
    told = json.loads((tmp_path / "caching_step.json").read_text())
    assert told["command"] == "python -m fastvar_lab figures caching_step"
    assert told["weights"] == model.fingerprint
    table = (tmp_path / "caching_step.md").read_text()
    (tmp_path / "caching_step.md").write_text("")
    assert main(["figures", "--redraw", "--out", str(tmp_path)]) == 0
    assert str(tmp_path / "caching_step.pdf") in capsys.readouterr().out
    assert (tmp_path / "caching_step.md").read_text() == table
    assert figures.check(tmp_path) == []
    assert main(["figures", "--redraw", "spectra", "--out", str(tmp_path)]) == 2
    assert "spectra.json is not there" in capsys.readouterr().err
    data = tmp_path / "caching_step.csv.bz2"
    rows = bz2.decompress(data.read_bytes())
    data.write_bytes(bz2.compress(rows.replace(b"29.", b"19.")))
    assert "other bytes from the same data" in figures.check(tmp_path)[0]
    told["versions"]["matplotlib"] = "3.0"
    (tmp_path / "caching_step.json").write_text(json.dumps(told))
    assert "instead of 3.0" in figures.check(tmp_path)[0]
    assert main(["figures", "--check", "--out", str(tmp_path)]) == 2
    assert "caching_step.png: other pixels" in capsys.readouterr().err
    assert "is not there" in figures.check(tmp_path, ["spectra"])[0]
    with pytest.raises(ValueError, match="there is no figure with its data in"):
        figures.check(tmp_path / "elsewhere")


def test_captions_and_tables_of_figures_are_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "run", lambda name, scope, **options: synthetic(name))
    list(figures.draw(fv.load("tiny"), ["budget", "demo"], tmp_path, endings=("png",)))
    assert figures.check(tmp_path) == []
    files = ["budget.txt", "budget.md", "budget.tex", "demo.txt"]
    files += [f"budget_gains.{ending}" for ending in ("csv", "md", "tex")]
    for name in files:
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text.replace("a", "o", 1))
        assert figures.check(tmp_path) == [f"{tmp_path / name}: other text than its data write"]
        (tmp_path / name).write_text(text.replace("\n", "\r\n"), newline="")
        assert figures.check(tmp_path) == []  # as some checkouts write the ends of lines
    (tmp_path / "budget_gains.csv").unlink()
    report = json.loads((tmp_path / "demo.json").read_text())
    (tmp_path / "demo.json").write_text(json.dumps(report | {"caption": "Mine."}))
    assert main(["figures", "--check", "--out", str(tmp_path)]) == 2
    problems = capsys.readouterr().err
    assert f"{tmp_path / 'budget_gains.csv'} is not there" in problems
    assert f"{tmp_path / 'demo.json'}: another caption than its data write" in problems
    assert main(["figures", "--redraw", "--out", str(tmp_path), "--format", "png"]) == 0
    assert figures.check(tmp_path) == []
    (tmp_path / "budget.json").write_text(json.dumps({"versions": report["versions"]}))
    assert "cannot draw budget from its data" in figures.check(tmp_path, ["budget"])[0]


def test_a_folder_of_figures_has_an_index(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "run", lambda name, scope, **options: synthetic(name))
    index = tmp_path / "README.md"
    list(figures.draw(fv.load("tiny"), ["budget", "demo"], tmp_path, endings=("png",)))
    rows = [line.split(" | ") for line in index.read_text().splitlines() if line.startswith("| [")]
    assert [row[0].strip("| ") for row in rows] == ["[budget](budget.png)", "[demo](demo.png)"]
    assert rows[0][1].startswith("Are planned schedules better at equal time")
    assert rows[0][-1].strip("| ") == "[table](budget.md) [gains](budget_gains.md)"
    index.write_text(index.read_text().replace("demo", "memo"))
    assert figures.check(tmp_path) == [f"{index}: another list than that of its figures"]
    list(figures.redraw(tmp_path, ["demo"], ("png",)))
    assert figures.check(tmp_path) == []
    index.write_text("# Mine")
    list(figures.redraw(tmp_path, ["demo"], ("png",)))
    assert index.read_text() == "# Mine"
    assert figures.check(tmp_path) == []


def test_claims_are_judged_by_their_intervals():
    frames = {name: synthetic(name) for name in claims.claiming()}
    text = claims.table(frames, "Synthetic.")
    lines = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(lines) == sum(len(record.claims) for record in claims.claiming().values()) == 64
    found = {line.split(" | ")[0][2:].strip(): line.split("**")[1] for line in lines}
    assert found["Cost grows about linearly"] == verdicts.FAILS
    assert found["Pruning combines with fused attention"] == verdicts.FAILS
    assert found["Neighbouring scales are related"] == verdicts.HOLDS
    assert found["PTS and CTR cost next to nothing"] == verdicts.HOLDS
    few = synthetic("sublayer_overhead")
    answer = sublayer_overhead.overhead_is_negligible(few[few.turn < 3])
    assert answer.verdict == verdicts.OPEN
    assert "exponent 1.20 (1.20 to 1.20) pruned, n = 10, to be at most 1.15" in text
    sure = {"difference": 2.0, "low": 1.0, "high": 3.0, "n": 9}
    above = verdicts.above
    assert above(sure, " dB", "x").text == "x: +2.00 dB (+1.00 to +3.00, n = 9)"
    assert above({**sure, "low": -1.0}, "", "x").verdict == verdicts.OPEN
    assert above({**sure, "low": -3.0, "high": -1.0}, "", "x").verdict == verdicts.FAILS
    assert above(sure, "", "x", least=2.0).verdict == verdicts.OPEN
    assert above(sure, "", "x", least=4.0).verdict == verdicts.FAILS


def test_lines_are_compared_at_each_guidance_scale():
    frame = synthetic("adaptive")
    costs = frame[frame.kind == "operations"].groupby(["guidance", "line"])
    for _, part in costs:  # all lines over the same range
        frame.loc[part.index, "operations"] = np.linspace(0.2, 0.8, len(part))
    claim = agenda.REGISTRY["adaptive"].claims[0].answer
    old = frame[frame.guidance == 2.0].drop(columns="guidance")  # of one scale, without its column
    text = claim(old).text
    assert text.startswith("tails by picture (SkipVAR) over the same tails for all, at ")
    both = claim(frame).text.split("; ")
    assert both == [text.replace("for all", f"for all at guidance {scale}") for scale in (2, 4)]
    worse = frame.line.eq("tails by picture (SkipVAR)") & frame.guidance.eq(4.0)
    frame.loc[worse, "psnr"] -= 9.0
    frame.loc[~worse & frame.line.eq("tails by picture (SkipVAR)"), "psnr"] += 9.0
    assert claim(frame).verdict == verdicts.FAILS
    assert claim(frame[frame.guidance == 2.0]).verdict == verdicts.HOLDS


@pytest.mark.parametrize(("guidance", "name"), [(2.0, "tiny-"), (4.0, "tiny-cfg4-")])
def test_adaptive_shows_every_rule_of_a_guidance_scale(guidance, name):
    rules = adaptive.methods(fv.load("tiny").with_guidance(guidance))[adaptive.SKIPVAR]
    shares = ("0.98", "0.96", "0.94", "0.92", "0.9", "0.88")
    assert [*rules] == [f"rule {name}{share}" for share in shares]
    assert guidance in agenda.REGISTRY["adaptive"].guidances


def test_settings_near_twice_the_speed_stand_for_families():
    model = fv.load("tiny")
    savings = {t["method"]: t["saving"] for t in TuningLog.read().of(model)}
    chosen = speed_gap.methods(model)
    assert all(1.5 < savings[written(method)] < 2.75 for method in chosen.values())
    assert 1.75 < savings[written(chosen["SparseVAR"])] < 2.25
    assert control(chosen["LazyVAR"], model.grids()) is None


def test_the_docs_say_which_families_have_fewer_searched_settings():
    lists = []
    for guidance in (2, 4):
        model = fv.load("tiny").with_guidance(guidance)
        labels = [re.sub(r", tuned \(\d\)$", "", name) for name in rivals.methods(model)]
        families = dict.fromkeys(re.sub(r", as published.*", "", name) for name in labels)
        counts = {name.replace(", gathered", " without mixing"): labels.count(name)
                  for name in families}  # fmt: skip
        fewer = [f"{name} {count}" for name, count in counts.items() if count < 4]
        lists.append(f"guidance {guidance} {{}}{', '.join(fewer[:-1])} and {fewer[-1]}")
    sentence = f"At {lists[0].format('these are ')}; at {lists[1].format('')}."
    text = (Path(__file__).parents[1] / "docs/methods.md").read_text(encoding="utf8")
    assert sentence in " ".join(text.split())


def test_claims_say_what_a_frame_cannot_answer():
    frames = {name: synthetic(name) for name in ("extreme_ratios", "rivals")}
    frames["extreme_ratios"] = frames["extreme_ratios"].drop(columns="right")
    times = frames["rivals"].kind == "time"
    frames["rivals"].loc[times, "disturbed"] = True
    text = claims.table(frames, "Synthetic.")
    assert "not measured: the prompts have no judge" in text
    assert "no speed at which FastVAR and ToMe can be compared" in text


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("memory", lambda f: f[f.family == "full"], "no method beside full generation"),
        ("spectra", lambda f: f[f.step < 2], "too few steps to look two back"),
        ("caching_step", lambda f: f.drop(columns="cache_step"), "no method restores from a step"),
        (
            "resolution_scaling",
            lambda f: pd.concat([f, f[f.family != "full"].assign(method="other")]),
            "there must be one method that prunes; there are",
        ),
    ],
)
def test_claims_about_frames_of_your_own_are_answered_in_a_sentence(name, change, sentence):
    record, frame = agenda.find(name), change(synthetic(name))
    told = claims.answer(record.claims[0], frame)
    assert sentence in told.text
    assert told.verdict == verdicts.OPEN


def test_results_that_go_while_they_are_listed_are_left_out(tmp_path, monkeypatch):
    store = Store(tmp_path)
    for cell in range(3):
        store.put({"model": "tiny", "cell": cell}, [{"ms": 1.0}], experiment="memory")
    whole, gone = store.sizes(), store.path({"model": "tiny", "cell": 1})
    stat = Path.stat

    def removed(path, **options):
        if path == gone:
            raise FileNotFoundError(path)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", removed)
    assert whole.files.sum() - store.sizes().files.sum() == 1
    assert store.prune(everything=True) > 0


def test_tables_come_as_markdown_and_latex(tmp_path):
    frame = synthetic("ratio_tradeoff")
    table = tables.tabulate(frame)
    assert list(table.method) == list(frame.method.unique())
    told, tex = (text for _, text in output.tables(tmp_path / "ratio_tradeoff", frame))
    told = told.splitlines()
    assert [c.strip() for c in told[0].split("|")[1:4]] == ["method", "score", "PSNR (dB)"]
    assert len(told) == 2 + len(table)
    assert "\\toprule" in tex
    assert "%" not in tex.replace("\\%", "")
    gaps = pd.DataFrame({"method": ["a", "b"], "gap": [0.0889, -2.8e-05], "rest": [None, 0.1]})
    assert tables.tabulate(gaps).to_numpy().tolist() == [
        ["a", "8.9 %", ""],
        ["b", "0.0 %", "10.0 %"],
    ]
    latency = tables.tabulate(synthetic("latency_by_scale"))
    assert {"method", "map", "time (ms)"} <= set(latency.columns)
    memory = tables.tabulate(synthetic("memory"))
    assert {"KV cache (MB)", "restore cache (MB)"} <= set(memory.columns)


OWN = """
from dataclasses import dataclass, replace

@dataclass(frozen=True)
class Own:
    def scores(self, x, grid, site):
        return {sign}x.norm(dim=-1)
"""


def test_own_methods_are_compared_and_measured_anew_when_they_change(small, tmp_path, monkeypatch):
    monkeypatch.setattr(small, "prompts", ClosedWorld())
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
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == [
        "pruning, Own",
        "FastVAR",
    ]
    assert "mine 50%" in run.table("mine against PTS", frame)
    again = pd.concat([frame, frame])
    for draw in (charts.rivals, charts.methods, tables.tabulate):
        with pytest.raises(ValueError, match="stands twice in the frame"):
            draw(again)
        with pytest.raises(ValueError, match="the frame lacks rows of full"):
            draw(frame[frame.method != "full"])
    for draw in (charts.rivals, charts.methods):
        with pytest.raises(ValueError, match="rows of both kinds"):
            draw(frame[frame.kind != "time"])
    assert "speedup" not in tables.tabulate(frame[frame.kind != "time"])


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
        run.run("selectors", "quick", model=small, store=store, executor=pool)


def test_an_open_model_is_measured(small, tmp_path):
    frame = run.run("spectra", base.Scope("one", 1, 1), model=small, store=Store(tmp_path))
    assert frame.picture.nunique() == 1


def test_pictures_without_a_judge_have_no_score(small, tmp_path):
    look, store = base.Scope("one", 1, 1), Store(tmp_path)
    way, options = [fv.Prune({-1: 0.5})], {"store": store, "progress": False}
    world = ClosedWorld().take(1)
    for judge in (None, ClosedWorld.judge):
        prompts = PromptList(world[0].prompt, judge=judge)
        frame = run.compare(small, way, look, prompts=prompts, **options)
        assert ("right" in frame) == (judge is not None)
        for draw in (charts.methods, charts.tradeoff, charts.rivals):
            assert len(draw(frame).axes) >= 1
        assert ("score" in tables.tabulate(frame)) == (judge is not None)


def test_results_are_addressed_by_the_model_as_it_is(small, monkeypatch):
    item, keys = ClosedWorld().take(1)[0], []

    def add():
        keys.append(key(Addresses(small).picture(fv.Dense(), item)))

    add()
    for name, value in (
        ("sizes", scales.square(1, 2, 4, 6, 9)),
        ("sampling", fv.Sampling(guidance=1.0)),
        ("autocast", torch.bfloat16),
    ):
        monkeypatch.setattr(small, name, value)
        add()
    assert len(set(keys)) == 4


def test_times_are_addressed_by_machine(monkeypatch):
    model, rest = fv.load("tiny"), (1, base.Each(spectra.spectra))
    cells = [base.Cell(method=fv.Dense(), repeats=n) for n in (0, 3)]
    jobs = [CellJob("x", *rest, (cell,)) for cell in cells]

    def keys():
        return [key(job.address(job.cells[0], model)) for job in jobs]

    before = keys()
    monkeypatch.setattr("fastvar_lab.experiments.jobs.machine", lambda device: {"cpu": "another"})
    after = keys()
    assert before[0] == after[0]
    assert before[1] != after[1]


def darkness(picture, reference):
    return 255 - float(picture.mean())


def test_a_metric_is_added_without_a_call_of_a_transformer(small, tmp_path, monkeypatch):
    calls = []
    embed = type(small.transformer).embed
    monkeypatch.setattr(type(small.transformer), "embed", lambda *a: calls.append(1) or embed(*a))
    look, store, ways = base.Scope("two", 2, 1), Store(tmp_path), [fv.Prune({-1: 0.5})]
    first = run.compare(small, ways, look, store=store, progress=False)
    assert calls
    calls.clear()

    def closeness(picture, reference, item, tokens, reference_tokens):
        return {"same": float((tokens["1x1"] == reference_tokens["1x1"]).all()), "seed": item.seed}

    metrics = {"dark": darkness, "close": closeness}
    frame = run.compare(small, ways, look, metrics=metrics, store=store, progress=False)
    assert not calls
    pictures = frame[frame.kind == "quality"]
    assert pictures.dark.notna().all()
    assert (pictures.close_same == 1).all()
    assert pictures.close_seed.tolist() == pictures.seed.tolist()
    assert frame[first.columns].equals(first)
    assert "dark" in tables.tabulate(frame)
    with pytest.raises(ValueError, match="no metric 'psnrr'; nearest: psnr"):
        run.compare(small, ways, look, metrics=["psnrr"], store=store)
    with pytest.raises(ValueError, match="there is a metric 'psnr' already"):
        run.compare(small, ways, look, metrics={"psnr": darkness}, store=store)
    with pytest.raises(ValueError, match="the metric bad must return a number"):
        run.compare(small, ways, look, metrics={"bad": lambda *_: "x"}, store=store)


def test_one_picture_more_draws_no_known_one_again(small, tmp_path):
    store, way = Store(tmp_path), [fv.Prune({-1: 0.5})]
    for prompts in (1, 2):
        run.compare(small, way, base.Scope("few", prompts, 1), store=store, progress=False)
        assert len(list(tmp_path.rglob("*.npz"))) == 2 * prompts
    for damaged in tmp_path.rglob("*.npz"):
        damaged.write_bytes(damaged.read_bytes()[:-40])
    known = run.compare(small, way, base.Scope("few", 2, 1), store=store, progress=False)
    again = run.compare(
        small, way, base.Scope("few", 2, 1), metrics={"d": darkness}, store=store, progress=False
    )
    assert again.drop(columns=["d", "titles"]).equals(known)


@pytest.mark.parametrize(
    "tokens",
    [
        torch.rand(5, 3) > 0.5,
        torch.tensor([0, 4095, 70000]),
        torch.randn(4, 2),
        torch.tensor([[1.0, -1.0]]).bfloat16(),
        None,
    ],
)
def test_pictures_and_tokens_are_kept_without_loss(tmp_path, tokens):
    store, address = Store(tmp_path), {"model": "a/b", "prompt": "x"}
    picture = (np.random.default_rng(0).random((9, 7, 3)) * 255).astype(np.uint8)
    assert store.picture(address) is None
    store.put_picture(address, Drawn(picture, [tokens, None]), "mine")
    found = store.picture(address)
    assert (found.picture == picture).all()
    assert found.tokens[1] is None
    assert (tokens is None) == (found.tokens[0] is None)
    assert tokens is None or torch.equal(found.tokens[0].to(tokens.dtype), tokens)
    assert store.picture({**address, "prompt": "y"}) is None
    assert store.sizes()[["model", "experiment", "kind"]].values.tolist() == [
        ["a-b", "mine", "pictures"]
    ]


@pytest.mark.parametrize("name", ["google/var", "../x", "..", "", "~", "a\\b:c", "con", "x" * 400])
def test_no_name_of_a_model_leaves_its_folder(name, tmp_path):
    store = Store(tmp_path / "store")
    store.put({"model": name}, [{"ms": 1.0}])
    assert store.get({"model": name}) == [{"ms": 1.0}]
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert len(store.sizes()) == 1
    assert store.prune(name) > 0


def test_an_experiment_has_the_name_of_a_file(tmp_path):
    record = agenda.find("caching_step")
    for name in ("../x", "a/b", "..", "con"):
        with pytest.raises(ValueError, match=r"file name|name of a device"):
            replace(record, name=name)
    nameless = replace(record, name="")
    with pytest.raises(ValueError, match="files take the name of their experiment"):
        list(figures.draw_frame(fv.load("tiny"), nameless, pd.DataFrame(), tmp_path / "a", "quick"))
    assert not (tmp_path / "a").exists()


def test_a_store_is_pruned_by_model_and_by_age(tmp_path):
    store = Store(tmp_path)
    for model in ("one", "two"):
        store.put({"model": model}, [{"ms": 1.0}])
        store.put_values({"model": model}, {"psnr/2": {"psnr": 2.0}})
    with pytest.raises(ValueError, match="nothing selects what to remove"):
        store.prune()
    with pytest.raises(ValueError, match="has no results of the model 'three'"):
        store.prune("three")
    assert store.prune("one") > 0
    assert set(store.sizes().model) == {"two"}
    assert store.prune(days=1) == 0
    os.utime(store.path({"model": "two"}), (0, 0))
    assert store.prune(days=1) > 0
    assert store.get({"model": "two"}) is None
    assert store.values({"model": "two"})
    assert main(["store", "--store", str(tmp_path), "--prune", "--all"]) == 0
    assert not len(store.sizes())


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            {"trick": ["a", "a", "b"], "gain": [1.0, 2.0, 3.0]},
            {"trick": ["a", "b"], "gain": ["1.5", "3"]},
        ),
        ({"gain": [1.0, 2.0, 6.0]}, {"gain": ["3"]}),
        (
            {"method": ["x"] * 3, "trick": ["a", "a", "b"], "ms": [1.0, 2.0, 3.0]},
            {"method": ["x", "x"], "trick": ["a", "b"], "time (ms)": ["1.5", "3"]},
        ),
    ],
)
def test_columns_of_an_experiment_of_your_own_are_settings_or_measured(columns, expected):
    assert tables.tabulate(pd.DataFrame(columns)).to_dict("list") == expected


def test_tables_of_points_write_their_intervals():
    point = {"what": "settled", "size": "2x2", "step": 1, "low": 0.2, "high": 0.4, "n": 9}
    several = [{**point, "what": "spectrum", "mean": mean} for mean in (0.1, 0.3)]
    table = tables.tabulate(pd.DataFrame([{**point, "mean": 0.3}, *several]))
    assert table["mean"].to_list() == ["0.3 (0.2 to 0.4)", "0.2"]
    assert "several points" in table.attrs["note"]


def test_frames_of_several_models_and_machines_merge_into_one_table():
    one = synthetic("rivals").assign(model="a", weights="1", prompt="x")
    one["machine"] = np.where(one.kind == "time", "laptop", None)
    other = one.assign(model="b", weights="2")
    faster = one[one.kind == "time"].assign(machine="server", speedup=3.0)
    merged = merge_frames([one, other, pd.concat([one[one.kind == "quality"], faster])])
    assert len(merged) == 2 * len(one) + len(faster)
    table = tables.tabulate(merged)
    assert list(table.columns[:3]) == ["model", "machine", "method"]
    assert len(table) == 3 * one.method.nunique()
    with pytest.raises(ValueError, match="the frame holds the models a and b; take one"):
        charts.methods(merged)
    assert charts.methods(one).axes
    untimed = synthetic("restorers").assign(model="a", weights="1")
    both = pd.concat([untimed, untimed.assign(model="b")])
    table = tables.tabulate(both)
    assert table.model.to_list() == ["a"] * (len(table) // 2) + ["b"] * (len(table) // 2)
    assert table[table.model == "b"].drop(columns="model").to_dict("list") == tables.tabulate(
        untimed
    ).to_dict("list")
    with pytest.raises(ValueError, match="the frame holds the models a and b; take one"):
        charts.methods(both)
    with pytest.raises(ValueError, match="of different experiments"):
        merge_frames([one, synthetic("memory").assign(model="a", weights="1")])
    with pytest.raises(ValueError, match="a has the weights 1 and 3"):
        merge_frames([one, one.assign(weights="3")])
    with pytest.raises(ValueError, match="the models drew different prompts"):
        merge_frames([one, other.assign(prompt="y")])
    with pytest.raises(ValueError, match="has two values of one measurement"):
        merge_frames([one, one.assign(psnr=1.0)])


def test_an_experiment_of_ones_own_is_run_and_drawn(small, tmp_path, monkeypatch):
    def methods(model):
        return [fv.Prune({-1: ratio}) for ratio in (0.25, 0.75)]

    claim = verdicts.Claim("it runs", "-", lambda frame: verdicts.Answer("yes", verdicts.HOLDS))
    mine = base.Experiment(
        "Is it so?", "", charts.methods, methods=methods, claims=(claim,), name="mine"
    )
    look, store = base.Scope("one", 1, 1), Store(tmp_path / "store")
    paths = list(
        figures.draw(small, [mine], tmp_path / "out", scope=look, store=store, endings=("png",))
    )
    assert [path.name for path in paths] == ["mine.csv.bz2", "mine.png"]
    frame = pd.read_csv(tmp_path / "out" / "mine.csv.bz2")
    assert set(frame.method) == {"full", "8x8: 25 %", "8x8: 75 %"}
    assert claims.answer(claim, frame).verdict == verdicts.HOLDS


def test_what_a_model_cannot_answer_is_left_out_and_said(small, tmp_path):
    small_random = fv.load("tiny", "random")
    said = []
    names = ["side_by_side", "selectors", "latency_by_scale"]
    paths = figures.draw(
        small_random,
        names,
        tmp_path / "out",
        scope="quick",
        store=Store(tmp_path / "store"),
        note=said.append,
        endings=("png",),
    )
    assert {path.name.split(".")[0] for path in paths} == {"latency_by_scale"}
    assert [line.split(" is left out: ")[0] for line in said] == names[:2]
    assert "random weights" in said[0]
    with pytest.raises(ValueError, match="random weights"):
        list(figures.draw(small_random, names[:1], tmp_path, scope="quick"))


def test_names_with_dots_are_written_whole():
    texts = output.tables("out/rule_0.5", synthetic("rivals"))
    assert [path.name for path, _ in texts] == ["rule_0.5.md", "rule_0.5.tex"]


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


def test_commands_in_provenance_repeat_the_run(tmp_path, monkeypatch):
    """A command of provenance has all options, or is left out where none says the same."""
    (tmp_path / "my prompts.txt").write_text("a red ring\n")
    text, seen = str(tmp_path / "my prompts.txt"), []
    monkeypatch.setattr(run, "run", lambda name, *a, **options: synthetic(name))
    monkeypatch.setattr(figures, "write_figure", lambda *a: None)
    out, scenes = tmp_path / "out", ["--prompts", text, "--metrics", "vif,ssim"]
    options = f" --prompts '{text}' --metrics vif,ssim"
    assert main(["experiment", "selectors", *scenes, "--out", str(out)]) == 0
    told = json.loads((out / "selectors.json").read_text())
    assert told["command"] == f"python -m fastvar_lab experiment selectors --model tiny{options}"
    assert told["prompts"] == f"PromptFile(path={text!r})"
    assert told["metrics"] == ["vif", "ssim"]
    assert main(["figures", "selectors", "--quick", *scenes, "--out", str(out)]) == 0
    told = json.loads((out / "selectors.json").read_text())
    assert told["command"] == f"python -m fastvar_lab figures selectors --quick{options}"
    monkeypatch.setattr(claims, "measure", lambda *a, **options: seen.append(1) or {})
    assert main(["claims", "--quick", "--prompts", text, "--out", str(out)]) == 0
    line = f"Written by `python -m fastvar_lab claims --quick --prompts '{text}'`."
    assert line in (out / "claims.md").read_text()
    assert main(["experiment", "memory", *scenes, "--out", str(out)]) == 0
    assert "metrics" not in json.loads((out / "memory.json").read_text())  # it has none
    model, mine = fv.load("tiny"), fv.Metric("mine", "mine", lambda p, r: 0.0)
    look = base.Scope("look", 2, 1)
    for settings in ({"prompts": fv.PromptList("a ring")}, {"metrics": [mine]},
                     {"prompts": fv.PromptFile(text, seed=3)}, {"scope": look}):  # fmt: skip
        list(figures.draw(model, ["selectors"], out, **settings))
        assert "command" not in json.loads((out / "selectors.json").read_text())
    own = replace(agenda.find("selectors"), version=9)
    list(figures.draw_frame(model, own, synthetic("selectors"), out, "quick"))
    assert "command" not in json.loads((out / "selectors.json").read_text())
    opened = fv.load("tiny", sizes=((1, 1), (2, 2), (4, 4)))
    list(figures.draw(opened, ["selectors"], out))
    assert "command" not in json.loads((out / "selectors.json").read_text())


def test_claims_of_random_weights_are_those_of_speed(tmp_path, monkeypatch, capsys):
    """The command runs what random weights answer, and writes why the rest is left out."""
    asked = []

    def measured(name, *a, **options):
        asked.append(name)
        return synthetic(name)

    monkeypatch.setattr(run, "run", measured)
    assert main(["claims", "--quick", "--weights", "random", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "claims.md").read_text()
    assert capsys.readouterr().out == f"{text}\n"
    assert asked == [name for name, record in claims.claiming().items() if record.speed]
    assert {"memory", "latency_by_scale", "resolution_scaling"} <= set(asked)
    assert "Written by `python -m fastvar_lab claims --quick --weights random`." in text
    left_out = [line for line in text.splitlines() if line.startswith("- ")]
    assert len(left_out) == len(claims.claiming()) - len(asked)
    line = "- selectors is left out: tiny has random weights: only its speed means something"
    assert any(note.startswith(line) for note in left_out)
    question = question_of("resolution_scaling")
    cells = resolution_scaling.cells(replace(question, model=fv.load("tiny", "random")))
    assert {cell.columns["what"] for group in cells for cell in group} == {"time"}
