"""What generation promises on every device at hand, in every type; run it on a GPU with `-rA`.

Without a GPU the CPU stands for it, and the meta device, which has shapes and no numbers, shows
that nothing in the scale loop asks an accelerator for a number or sends it one but the noise.
"""

import traceback
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fastvar_lab as fv
from fastvar_lab.draws import Buffered
from fastvar_lab.generation import replayed
from fastvar_lab.methods.merge import Merge
from fastvar_lab.request import make_request
from fastvar_lab.seam import Wrapper
from fastvar_lab.speed.flops import step_flops
from fastvar_lab.speed.issued import issued
from tests.families import FAMILIES, prompt, small_model
from tests.test_generate import Heads

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
DTYPES = {"float32": 1e-4, "bfloat16": 0.1}  # how far a batch may be from its pictures alone
PRUNED = [
    fv.Prune({-2: 0.5, -1: 0.75}),
    fv.Prune({-2: 0.5, -1: 0.75}, select=fv.HighPass(), restore=fv.NearestKept()),
    fv.Prune({-2: 0.3, -1: 1.0}, null_until=-3),
    fv.Prune({-1: 0.5}, select=fv.UniformGrid(), restore=fv.Zero(), granularity="step"),
    fv.Prune({-1: 0.6}, select=fv.Random(), granularity="block"),
    Merge({-2: 0.3, -1: 0.5}),
]


@pytest.fixture(autouse=True)
def full_float32(monkeypatch):
    """Keep a GPU from rounding float32 to fewer bits, in products and convolutions."""
    for backend in (torch.backends.cuda.matmul, torch.backends.cudnn):
        if torch.cuda.is_available():
            monkeypatch.setattr(backend, "allow_tf32", False)


@pytest.fixture(scope="module", params=DTYPES)
def dtype(request):
    return request.param


@pytest.fixture(scope="module", params=DEVICES)
def device(request):
    return request.param


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, device, dtype):
    return small_model(request.param, device, getattr(torch, dtype))


def heads(model, prompts, method, **options):
    """Generate, and keep what enters the head at every step."""
    seen = []
    made = fv.generate(model, prompts, method, watch=[lambda run: Heads(run, seen)], **options)
    return made, seen


def test_all_kept_is_dense(model):
    dense = fv.generate(model, prompt(model), fv.Dense(), seed=3)
    kept = fv.generate(model, prompt(model), fv.Prune({-2: 1e-9, -1: 1e-9}, raster=True), seed=3)
    assert torch.equal(dense.canvas, kept.canvas)
    assert model.decode(dense.canvas).isfinite().all()


@pytest.mark.parametrize("method", PRUNED, ids=repr)
def test_once_more_resumed_and_recorded_are_the_same_bits(model, method):
    if isinstance(method, Merge) and model.device.type == "cuda":
        pytest.skip("averages are summed up in no fixed order")
    first = fv.generate(model, prompt(model), method, seed=3)
    again = fv.generate(model, prompt(model), method, seed=3)
    dense = fv.generate(model, prompt(model), fv.Dense(), seed=3, snapshot=True)
    seen, trace = fv.observe(model, prompt(model), method, seed=3)
    for other in (again, fv.resume(model, dense, method), seen):
        assert torch.equal(first.canvas, other.canvas)
    assert first.canvas.isfinite().all()
    assert trace.scores


def test_streamed_draws_reach_the_device(model):
    first, again = (
        fv.generate(model, prompt(model), PRUNED[0], draws=fv.Streamed(3)) for _ in range(2)
    )
    assert torch.equal(first.canvas, again.canvas)


@pytest.mark.parametrize("method", [fv.Dense(), PRUNED[0]], ids=repr)
def test_a_batch_is_near_its_pictures_alone(model, dtype, method):
    """Drawn bits may turn over by a rounding, and all after them: here the tokens are given."""
    one = fv.generate(model, prompt(model), method, seed=4)
    tokens = [t for t in one.tokens if t is not None]
    _, alone = heads(model, prompt(model), method, seed=4, given=tokens)
    twice = [torch.cat((t, t)) for t in tokens]
    _, batch = heads(model, [prompt(model)] * 2, method, seed=[9, 4], given=twice)
    for both, single in zip(batch, alone, strict=True):
        rows = both[[1, 3]] if len(both) == 4 else both[[1]]
        away = (rows - single).float().square().mean().sqrt()
        assert away <= DTYPES[dtype] * single.float().square().mean().sqrt()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [fv.Dense(), PRUNED[0]], ids=repr)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU to compare with the CPU")
def test_a_gpu_agrees_with_the_cpu(family, method):
    here, there = small_model(family), small_model(family, "cuda")
    own, expected = heads(here, prompt(here), method, seed=5)
    _, found = heads(there, prompt(there), method, seed=5, given=own.tokens)
    for a, b in zip(expected, found, strict=True):
        assert (a - b.cpu()).square().mean().sqrt() <= 1e-4 * a.square().mean().sqrt()


class Traffic(TorchDispatchMode):
    """Notes what crosses between the CPU and the meta device."""

    def __init__(self):
        super().__init__()
        self.crossings = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        here = {t.device.type for t in tensors if t.ndim or t.device.type == "meta"}
        if len(here) == 2:  # asking the meta device for a number is an error of its own
            frames = [f for f in traceback.extract_stack() if "fastvar_lab" in f.filename]
            frames = [f for f in frames if Path(f.filename).parent.name != "tests"]
            place = Path(frames[-1].filename).name, frames[-1].name
            self.crossings.append((str(func), *place))
        return out


class FirstStep(Wrapper):
    """Says when the first scale step begins."""

    def __init__(self, inner, begun):
        super().__init__(inner)
        self.begun = begun

    def rows(self, grid, canvas):
        if grid.index == 0:
            self.begun()
        return self.inner.rows(grid, canvas)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [fv.Dense(), *PRUNED], ids=repr)
def test_the_scale_loop_sends_noise_and_waits_for_nothing(family, method, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no meta device
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    model = small_model(family)
    model.to("meta", torch.bfloat16)
    with Traffic() as traffic:
        watch = partial(FirstStep, begun=traffic.crossings.clear)
        made = fv.generate(model, prompt(model), method, watch=[watch])
    assert made.canvas.is_meta
    assert set(traffic.crossings) == {("aten._to_copy.default", "draws.py", "sent")}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [fv.Dense(), *PRUNED], ids=repr)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that could be waited for")
def test_the_scale_loop_does_not_wait_for_a_gpu(family, method):
    model = small_model(family, "cuda", torch.bfloat16)
    strict = partial(torch.cuda.set_sync_debug_mode, "error")
    try:
        fv.generate(model, prompt(model), method, watch=[partial(FirstStep, begun=strict)])
    finally:
        torch.cuda.set_sync_debug_mode("default")


CAPTURED = [fv.Dense(), *(m for m in PRUNED if getattr(m, "select", None) != fv.Random())]


@pytest.mark.parametrize("method", CAPTURED, ids=repr)
def test_captured_generations_are_the_same_bits(model, method):
    if isinstance(method, Merge) and model.device.type == "cuda":
        pytest.skip("averages are summed up in no fixed order")
    for seed in (3, 3, 4):  # captured, replayed, replayed with other noise
        plain = fv.generate(model, prompt(model), method, seed=seed)
        captured = fv.generate(model, prompt(model), method, seed=seed, graphs=True)
        assert torch.equal(plain.canvas, captured.canvas)
        assert all(
            a is b is None or torch.equal(a, b)
            for a, b in zip(plain.tokens, captured.tokens, strict=True)
        )
    assert len(model.graphs) == 1
    model.graphs.clear()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", CAPTURED, ids=repr)
def test_what_is_captured_sends_nothing(family, method, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no meta device
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    model, restart = small_model(family), Buffered.restart
    model.to("meta", torch.bfloat16)
    request = make_request(model, prompt(model))
    with Traffic() as traffic:

        def restarted(buffers):
            traffic.crossings.clear()
            restart(buffers)

        monkeypatch.setattr(Buffered, "restart", restarted)
        replayed(model, request, method)
    assert len(model.graphs) == 1
    assert not traffic.crossings


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU whose memory could be held")
def test_releasing_graphs_gives_their_memory_back():
    model = small_model("infinity", "cuda")
    fv.generate(model, prompt(model), fv.Dense())
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    fv.generate(model, prompt(model), fv.Dense(), graphs=True)
    assert torch.cuda.memory_reserved() > before
    model.graphs.clear()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before


@pytest.mark.parametrize("family", FAMILIES)
def test_moving_a_model_lays_out_its_products_for_where_it_is(family):
    model = small_model(family).lay_out()

    def weights():
        return [m.weight for m in model.transformer.modules() if isinstance(m, torch.nn.Linear)]

    assert all(w.t().is_contiguous() for w in weights())
    model.to("meta")
    assert all(w.is_contiguous() for w in weights())


def test_autocast_casts_a_weight_once_a_generation():
    class Casts(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.seen = Counter()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten._to_copy.default and isinstance(args[0], torch.nn.Parameter):
                self.seen[id(args[0])] += 1
            return func(*args, **(kwargs or {}))

    model = small_model("var").set_precision("official", torch.bfloat16)
    with Casts() as casts:
        made = fv.generate(model, "7", fv.Prune({-1: 0.5}))
    assert not made.canvas.requires_grad
    linear = model.transformer.blocks[0].ffn.fc1.weight
    assert casts.seen[id(linear)] == 1
    model.set_precision("float32")
    assert not linear.requires_grad


WITHOUT = {"infinity": {"waves": 0}}  # learnt places are computed once, whatever is drawn


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [fv.Dense(), PRUNED[0]], ids=repr)
@pytest.mark.parametrize("cut", [0, 1])
def test_counted_operations_are_those_that_are_issued(family, method, cut):
    """But for what depends on no token, and mixtures of codes."""
    model = small_model(family)
    model.transformer.config = replace(model.transformer.config, **WITHOUT.get(family, {}))
    model.sizes = (*model.sizes[: -1 - cut], model.sizes[-1])
    seen = issued(model, method, prompt(model)).issued
    costs = step_flops(model, method, model.grids(), text_tokens=len(prompt(model).split()))
    for step, (found, cost) in enumerate(zip(seen, costs, strict=True)):
        if step or not model.transformer.prefix:  # whose text is embedded before the loop
            assert found == pytest.approx(sum(cost.values()), rel=0.02), step


@pytest.mark.parametrize(
    ("family", "autocast", "kinds"),
    [
        ("infinity", torch.bfloat16, {"attn": torch.bfloat16, "cross": torch.float32,
                                      "ffn": torch.float32}),
        ("var", torch.float16, {"attn": torch.float16, "ffn": torch.float16}),
        ("hart", torch.float16, {"attn": torch.float16, "ffn": torch.float16}),
    ],
)  # fmt: skip
def test_branches_come_out_in_the_types_of_the_released_mixture(family, autocast, kinds):
    class Types(Wrapper):
        def sublayer(self, site, grid, branch, x):
            delta = self.inner.sublayer(site, grid, branch, x)
            assert delta.dtype == kinds[site.kind]
            return delta

    model = small_model(family).set_precision("official", autocast)
    fv.generate(model, prompt(model), fv.Dense(), watch=[Types])
