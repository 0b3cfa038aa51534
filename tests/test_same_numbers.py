"""The same request gives the same numbers, whatever the process; what is no number is refused."""

import threading
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

import fastvar_lab as fv
from fastvar_lab.methods.registry import selectors
from fastvar_lab.models.seeding import seeded
from tests.families import FAMILIES, prompt, small_model

METHODS = [
    fv.Dense(),
    *(fv.Prune({-2: 0.5, -1: 0.75}, select=rule) for rule in selectors().values()),
    fv.Prune({-1: 0.5}, restore=fv.NearestKept()),
    fv.Prune({-1: 0.5}, restore=fv.CachedBranch("bilinear")),
    fv.Merge({-1: 0.5}),
]


@contextmanager
def default_type(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.fixture(params=FAMILIES)
def model(request):
    return small_model(request.param)


@pytest.mark.parametrize(
    "process",
    [
        lambda: default_type(torch.float64),
        lambda: default_type(torch.bfloat16),
        lambda: default_device("meta"),
        lambda: torch.autocast("cpu", torch.bfloat16),
        torch.inference_mode,
        lambda: torch.random.fork_rng([]),
    ],
    ids=["float64", "bfloat16", "meta", "autocast", "inference", "generator"],
)
def test_settings_of_the_process_change_no_picture(model, process):
    for method in METHODS:
        for draws in (None, fv.Streamed(3)):
            plain = fv.generate(model, prompt(model), method, draws=draws)
            with process():
                if process is torch.random.fork_rng:
                    torch.manual_seed(7)
                made = fv.generate(model, prompt(model), method, draws=draws)
                picture = model.decode(made.canvas)
            for step, tokens in enumerate(plain.tokens):
                assert torch.equal(made.tokens[step], tokens), (method, step)
            assert torch.equal(made.canvas, plain.canvas), method
            assert torch.equal(picture, model.decode(plain.canvas))


def test_random_weights_are_those_of_their_seed_whatever_the_process():
    def fingerprint():
        return fv.load("var-d16", weights="random", depth=1, seed=4).fingerprint

    plain = fingerprint()
    with default_type(torch.float64):
        assert fingerprint() == plain
    busy, stop = [], threading.Event()

    def draw():
        while not stop.is_set():
            busy.append(torch.rand(50))

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        assert {fingerprint() for _ in range(4)} == {plain}
    finally:
        stop.set()
        thread.join()
    assert busy
    assert fv.load("var-d16", weights="random", depth=1, seed=5).fingerprint != plain


@pytest.mark.parametrize(
    "open_model",
    [
        lambda: fv.load("tiny"),
        lambda: fv.load("tiny", weights="random"),
        lambda: fv.load("infinity-125m", weights="random", depth=1),
    ],
)
def test_opening_a_model_draws_nothing_from_the_process(open_model):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    before, host = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    model = open_model()
    fv.generate(model, model.example, fv.Prune({-1: 0.5}, select=fv.Random()), seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == host  # noqa: NPY002


def test_seeded_weights_are_those_that_the_global_generator_would_draw():
    def weights():
        return [
            torch.nn.Linear(5, 3).weight,
            torch.nn.Embedding(4, 3).weight,
            torch.randn(3),
            torch.nn.init.trunc_normal_(torch.empty(4, 4), std=0.02),
        ]

    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        wanted = weights()
    with seeded(3):
        assert all(torch.equal(a, b) for a, b in zip(weights(), wanted, strict=True))


@pytest.mark.parametrize("draws", [None, fv.Streamed(1)])
def test_what_is_no_number_is_not_drawn(model, draws):
    with torch.no_grad():
        model.transformer.blocks[-1].ffn.register_forward_hook(
            lambda layer, inputs, out: out * float("nan")
        )
    with pytest.raises(ValueError, match=r"no number at step 0 \(1x1\), in float32: try another"):
        fv.generate(model, prompt(model), fv.Dense(), draws=draws)


def test_a_temperature_that_overflows_is_named(model):
    sampling = replace(model.sampling, temperature=1e-42)
    with pytest.raises(ValueError, match=r"no number at step 0 .*higher temperature"):
        fv.generate(model, prompt(model), fv.Dense(), sampling=sampling)


def test_a_decoder_that_returns_no_numbers_draws_no_picture(small):
    made = fv.generate(small, "a red ring", fv.Dense())
    with torch.no_grad():
        broken = next(p for p in small.tokenizer.decoder.parameters() if p.dim() > 1)
        kept = broken.clone()
        broken.view(-1)[0] = float("nan")
    try:
        with pytest.raises(ValueError, match="small's decoder returns values that are no numbers"):
            small.decode(made.canvas)
    finally:
        with torch.no_grad():
            broken.copy_(kept)
    with pytest.raises(ValueError, match="no numbers; there is no picture of them"):
        fv.to_uint8(torch.full((1, 3, 2, 2), float("nan")))


def _through_data(model):
    weight = model.transformer.head.weight
    weight.data += 1e-3
    return lambda: weight.data.sub_(1e-3)


def _by_hook(model):
    handle = model.transformer.blocks[0].register_forward_hook(lambda layer, x, out: out * 1.01)
    return handle.remove


def _in_numpy(model):
    weight = model.transformer.head.weight.detach().numpy()
    weight[0, 0] += 1
    return lambda: weight.__setitem__((0, 0), weight[0, 0] - 1)


def _halved(model):
    weight = model.transformer.head.weight.data
    weight.mul_(0.5)  # changes exponents alone
    return lambda: weight.mul_(2)


def _rows_swapped(model):
    weight = model.transformer.head.weight.data
    order = [1, 0, *range(2, len(weight))]
    weight.copy_(weight[order].clone())
    return lambda: weight.copy_(weight[order].clone())


@pytest.mark.parametrize("change", [_through_data, _by_hook, _in_numpy, _halved, _rows_swapped])
def test_a_model_that_computes_something_else_is_another_model(model, change):
    made = fv.generate(model, prompt(model), fv.Dense(), seed=1, snapshot=True)
    before = model.fingerprint
    back = change(model)
    assert model.fingerprint != before
    with pytest.raises(ValueError, match="have changed since the snapshot"):
        fv.resume(model, made, fv.Prune({-1: 0.5}))
    back()


def test_hooks_are_told_apart_by_their_code(model):
    found = []
    for gain in (1.0, 1.5, 1.5):
        handle = model.transformer.head.register_forward_hook(lambda layer, x, out, g=gain: out * g)
        found.append(model.fingerprint)
        handle.remove()
    assert found[0] != found[1] == found[2]


@pytest.mark.parametrize("rule", [fv.FarFromMean(), fv.NearMean(), fv.HighPass()])
def test_two_tokens_are_equally_far_from_their_mean(rule):
    x = torch.randn(5, 2, 64)
    scores = rule.scores(x, fv.Grid(1, 1, 2), fv.Site(0, "attn"))
    assert torch.equal(scores[:, 0], scores[:, 1])
    mean = x.mean(1, keepdim=True)
    assert torch.allclose(scores.abs(), (x - mean).square().sum(-1), rtol=1e-4)


def test_a_batch_is_its_pictures_where_scores_tie():
    model = fv.load("tiny")
    sizes, method = ((1, 1), (1, 2), (8, 8)), fv.Prune({-2: 0.5})
    prompts = ["a red circle", "three blue squares", "a cyan star left of a dotted pink ring"]
    for rule in (fv.FarFromMean(), fv.NearMean(), fv.HighPass()):
        chosen = replace(method, select=rule)
        batch = fv.generate(model, prompts, chosen, seed=(1, 2, 3), sizes=sizes)
        for i, text in enumerate(prompts):
            alone = fv.generate(model, text, chosen, seed=i + 1, sizes=sizes)
            assert torch.equal(batch.tokens[1][i], alone.tokens[1][0])


def test_equal_scores_go_by_place():
    from fastvar_lab.methods.select import top

    scores = torch.tensor([[1.0, 3.0, 3.0, 1.0, 3.0, 1.0, 1.0, 1.0]]).repeat(1, 40)
    assert top(scores, 6).tolist() == [[1, 2, 4, 9, 10, 12]]
    assert top(torch.zeros(2, 500), 3).tolist() == [[0, 1, 2]] * 2
