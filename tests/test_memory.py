"""The memory of a generation, counted before it starts, against what it allocates."""

import json
from dataclasses import asdict, replace

import pytest
import torch

import fastvar_lab as fv
from fastvar_lab.backbones.quantize import BitQuantizer
from fastvar_lab.cli.main import main
from fastvar_lab.models import tiny
from fastvar_lab.models.loading import hollow
from fastvar_lab.speed.memory import allocated, cloned, copied, memory
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
