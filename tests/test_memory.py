"""The memory of a generation, counted before it starts, against what it allocates."""

import gc
import json
import weakref
from dataclasses import asdict, replace
from functools import partial

import pytest
import torch

import fastvar_lab as fv
import fastvar_lab.speed.timed
from fastvar_lab.backbones.quantize import BitQuantizer
from fastvar_lab.cli.main import main
from fastvar_lab.models import tiny
from fastvar_lab.models.loading import hollow
from fastvar_lab.speed import batches, bench
from fastvar_lab.speed.memory import allocated, cloned, copied, memory
from fastvar_lab.speed.peak import peak_bytes
from tests.conftest import SIZES, small_config
from tests.families import FAMILIES, prompt, small_model

METHODS = [
    fv.Dense(),
    fv.Prune({-2: 0.5, -1: 0.75}),
    fv.Prune({-2: 0.3, -1: 1.0}, null_until=-3),
    fv.Prune({-1: 0.5}, select=fv.HighPass(), restore=fv.NearestKept()),
    fv.Merge({-1: 0.5}),
]


def precise(family, precision):
    model = small_model(family)
    if precision == "official":
        return model.set_precision("official", torch.bfloat16)
    return model.to("cpu", getattr(torch, precision))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("precision", "method"),
    [
        *(("float32", method) for method in METHODS),
        *((precision, method) for precision in ("bfloat16", "official") for method in METHODS[:2]),
    ],
    ids=repr,
)
def test_what_is_counted_before_is_what_is_allocated(family, precision, method):
    model = precise(family, precision)
    pictures = 3 if precision == "float32" else 1
    before = asdict(memory(model, method, pictures=pictures))
    condition = model.condition([model.example] * pictures)
    real = asdict(allocated(copied(model, cloned), condition, method))
    assert before == pytest.approx(real, rel=0.02)


@pytest.mark.parametrize(
    "method",
    [
        fv.SparseVAR(-1, layers=(0, 1), stride=3),
        fv.Prune({-1: 0.5}, restore=fv.Anchors(3), granularity="stack"),
    ],
    ids=repr,
)
def test_counting_leaves_nothing_without_content_behind(method):
    model = small_model("infinity")
    model.sizes = (*SIZES[:-1], (7, 9) if isinstance(method, fv.Prune) else (9, 7))  # not cached
    memory(model, method)
    canvas = fv.generate(model, prompt(model), method, seed=1).canvas
    memory(model, method)
    assert torch.equal(fv.generate(model, prompt(model), method, seed=1).canvas, canvas)


@pytest.mark.parametrize(
    "method",
    [
        *METHODS,
        fv.FocusVAR(first=-2, layer=1),
        fv.FocusVARAdaptive(probe=-2, early=0, late=1),
        fv.Planned({-1: {"attn": "444", "ffn": "444"}}, select=fv.AttentionEntropy()),
        fv.SharedUpdate(first=-2, last=-1, layers=(0, 1)),
        fv.SparseVAR(-1, layers=(0, 1), stride=3),
    ],
    ids=repr,
)
def test_a_generation_is_freed_with_its_last_name(method):
    """Large tensors in a cycle wait for the collector, which counts objects and no bytes."""
    model = small_model("infinity")
    gc.collect()
    gc.disable()
    try:
        run = fv.generate(model, prompt(model), method, seed=1, snapshot=True)
        resumed = fv.resume(model, run, method)
        left = [weakref.ref(tensor) for tensor in (run.canvas, resumed.canvas)]
        left.append(weakref.ref(run.snapshot.cache))
        del run, resumed
        assert [kept() for kept in left] == [None] * 3
    finally:
        gc.enable()


def test_parts_are_those_of_arithmetic():
    model, method = small_model("infinity"), fv.Prune({-1: 0.5})
    counted, grids, config = memory(model, method), model.grids(), model.transformer.config
    row = 2 * config.width * 4  # two guidance rows in float32
    stored = sum(grid.tokens for grid in grids[:-1])
    passing = stored + grids[-1].tokens // 2
    assert counted.cache == 2 * row * (config.depth * stored + passing)
    assert counted.restoration == 3 * config.depth * row * grids[-2].tokens
    weights = {
        weight.untyped_storage()._cdata: weight.untyped_storage().nbytes()
        for part in (model.transformer, model.tokenizer)
        for weight in (*part.parameters(), *part.buffers())
    }
    assert counted.weights == sum(weights.values())
    assert counted.generation <= counted.peak <= sum(asdict(counted).values())


def test_counting_changes_nothing():
    model = small_model("hart")
    stamp = model.stamp()
    first = fv.generate(model, prompt(model), fv.Dense(), seed=1)
    memory(model, fv.Dense())
    assert model.stamp() == stamp
    assert torch.equal(first.canvas, fv.generate(model, prompt(model), fv.Dense(), seed=1).canvas)


def test_numbers_that_are_computed_once_stay_right():
    """What reads a value from a tensor and remembers it must not do so while memory is counted."""
    config = small_config()
    bits = config["transformer"]["bits"] = config["tokenizer"]["channels"] = 7
    model = tiny.build_tiny(config).freeze()
    model.sizes = SIZES
    model.quantizer = BitQuantizer(bits)
    memory(model, fv.Dense())
    run = fv.generate(model, model.example, fv.Dense())
    assert run.canvas.abs().mean() > 0.1


def test_a_model_without_weights_takes_the_same():
    with_weights = fv.load("tiny").to("cpu", torch.bfloat16)
    assert memory(hollow("tiny"), fv.Dense()).cache == memory(with_weights, fv.Dense()).cache


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU to allocate on")
def test_a_gpu_allocates_what_was_counted():
    model = fv.load("infinity-125m", "random", "cuda", torch.bfloat16)
    counted = memory(model, fv.Dense())
    fv.generate(model, model.example, fv.Dense())
    torch.cuda.reset_peak_memory_stats()
    fv.generate(model, model.example, fv.Dense())
    assert torch.cuda.max_memory_allocated() == pytest.approx(counted.generation, rel=0.02)


def test_the_models_command_counts(capsys):
    words = ["models", "--memory", "tiny", "--size", "8", "--pictures", "2"]
    assert main([*words, "--json"]) == 0
    full, pruned = json.loads(capsys.readouterr().out)
    assert (full["method"], full["pictures"]) == ("full", 2)
    assert pruned["cache"] < full["cache"]
    assert pruned["restoration"] > 0
    assert main(["models", "--pictures", "2"]) == 2
    assert "--pictures requires --memory" in capsys.readouterr().err


def test_without_decoding_all_but_the_decoder_is_counted_alike(small):
    whole, latent = (fv.memory(small, fv.Dense(), decode=decode) for decode in (True, False))
    assert whole.decoder > 0 == latent.decoder
    assert latent == replace(whole, decoder=0, peak=whole.generation)


class Gpu:
    """Counts bytes as CUDA's allocator does: those held now, and the most since a reset."""

    def __init__(self, monkeypatch):
        self.held = self.peak = 0
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", self.reset)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: self.peak)

    def reset(self, device):
        self.peak = self.held

    def hold(self, count):
        self.held += count
        self.peak = max(self.peak, self.held)


class Cycle:
    """Holds bytes of a GPU, and refers to itself, as a runner and its generation do."""

    def __init__(self, gpu, count):
        self.gpu, self.count, self.own = gpu, count, self
        gpu.hold(count)

    def __del__(self):
        self.gpu.held -= self.count


def test_the_peak_of_a_case_counts_no_other(monkeypatch):
    gpu, device = Gpu(monkeypatch), torch.device("cuda")
    sizes = [300, 20, 100]
    assert [peak_bytes(device, partial(Cycle, gpu, n)) for n in sizes] == sizes
    assert peak_bytes(torch.device("cpu"), pytest.fail) == 0  # no run is needed there


def test_memory_is_measured_before_the_timed_turns(monkeypatch):
    model, seen = small_model("infinity"), list[str]()
    methods = {"half": fv.Prune({-1: 0.5}), "quarter": fv.Prune({-1: 0.25})}

    def peak(device, work):
        work()
        seen.append("memory")
        return 10 * len(seen)

    def timed(*args, **options):
        seen.append("time")
        return fastvar_lab.speed.timed.timed(*args, **options)

    monkeypatch.setattr(bench, "peak_bytes", peak)
    monkeypatch.setattr(bench, "timed", timed)
    rows = bench.cases(model, model.sizes, methods, repeats=1)
    assert seen[:3] == ["memory"] * 3
    assert set(seen[3:]) == {"time"}
    assert [(row["memory_full"], row["memory_fast"]) for row in rows] == [(10, 20), (10, 30)]


@pytest.mark.parametrize("graphs", [False, True])
def test_batches_measure_memory_of_each_size_alone(graphs, monkeypatch):
    model, seen, held = small_model("infinity"), list[str](), list[int]()

    def peak(device, work):
        held.append(len(model.graphs))
        work()
        seen.append("memory")
        return 10 * len(seen)

    def speedups(*args, **options):
        seen.append("time")
        return fastvar_lab.speed.timed.speedups(*args, **options)

    monkeypatch.setattr(batches, "SIZES", (1, 2))
    monkeypatch.setattr(batches, "peak_bytes", peak)
    monkeypatch.setattr(batches, "speedups", speedups)
    rows = batches.run(model, repeats=1, only="full", graphs=graphs)["rows"]
    assert seen == ["memory", "memory", "time"] * (1 + graphs)
    assert set(held) == {0}  # no graphs of another batch
    expected = [10, 20, *([40, 50] if graphs else [])]
    assert [row["bytes_allocated"] for row in rows] == expected
    assert not len(model.graphs)
