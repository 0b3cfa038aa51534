"""HART on small random weights: the seam's promises hold on a third family."""

from dataclasses import replace

import pytest
import torch

import fastvar_lab as fv
from fastvar_lab.backbones.autoencoder import AutoEncoderConfig
from fastvar_lab.backbones.hart import HARTConfig
from fastvar_lab.backbones.residual_diffusion import respace
from fastvar_lab.backbones.text import RandomContext
from fastvar_lab.measure import masks
from fastvar_lab.measure.relations import cross_scale_attention
from fastvar_lab.methods.merge import Merge
from fastvar_lab.models import build
from fastvar_lab.planning.cost import Operations, total
from fastvar_lab.prompts import Item
from fastvar_lab.speed import flops
from fastvar_lab.speed.tally import as_run

CONFIG = HARTConfig(2, 64, 2, 96, (1, 2, 3, 5, 6), 7, 24, 700, 8, 48, 2)
ATTENTION = fv.Site(1, "attn")
METHODS = [
    fv.Dense(),
    fv.Prune({-1: 0.6}),
    fv.Prune({-3: 0.3, -2: 1.0, -1: 0.7}, layers=(1, 2)),
    fv.Prune({-4: 0.5, -1: 1.0}),
    fv.Prune({-1: 0.5}, restore=fv.NearestKept(), null_until=-2),
    Merge({-2: 0.3, -1: 0.5}),
]


@pytest.fixture(scope="module", params=[False, True], ids=["rows", "smooth"])
def hart(request):
    torch.manual_seed(0)
    small = AutoEncoderConfig(8, (32, 32), 1, 1, attention=True)
    model = build.build(CONFIG, tokenizer=small).freeze().to("cpu", torch.float64)
    model.sampling = fv.Sampling(guidance=4.5, top_p=1.0, smooth=request.param)
    return model


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_batches_snapshots_and_records(hart, method):
    prompts = ["a red circle", "two"]
    batch = fv.generate(hart, prompts, method, seed=[1, 2], snapshot=True)
    alone = fv.generate(hart, "two", method, seed=2)
    assert torch.allclose(batch.canvas[1], alone.canvas[0], atol=1e-10)
    for other in METHODS:
        resumed = fv.resume(hart, batch, other)
        scratch = fv.generate(hart, prompts, other, seed=[1, 2])
        assert torch.equal(resumed.canvas, scratch.canvas)
    made, trace = fv.observe(hart, "two", method, seed=2)
    assert torch.equal(made.canvas, alone.canvas)
    assert {site.kind for _, site in trace.kept} == {"attn", "ffn"}
    assert hart.decode(made.canvas).shape == (1, 3, 12, 12)


def test_only_the_last_step_draws_residuals(hart):
    full = fv.generate(hart, "two", fv.Dense(), seed=1)
    book = hart.quantizer.codebook
    assert full.tokens[-1].shape == (1, 36, 8)
    gap = torch.cdist(full.tokens[-1], book.expand(1, -1, -1)).min(-1).values
    assert gap.min() > 0.01
    skipped = fv.generate(hart, "two", fv.Prune({-1: 1.0}), seed=1)
    assert skipped.tokens[-1] is None
    for a, b in zip(full.tokens[:-1], skipped.tokens[:-1], strict=True):
        assert torch.equal(a, b)


def test_text_tokens_are_counted_and_never_pruned(hart):
    grids = hart.grids()
    assert [g.tokens for g in grids] == [7, 4, 9, 25, 36]
    with pytest.raises(ValueError, match="carries text tokens"):
        fv.generate(hart, "two", fv.Prune({1: 0.5}))
    costs = flops.step_flops(hart, fv.Dense(), grids)
    assert costs[-1]["ends"] > 5 * costs[-2]["ends"]  # the diffusion
    with pytest.raises(ValueError, match="reads 7 text tokens; not 5"):
        fv.generate(hart, RandomContext(24, 5).encode(["two"]), fv.Dense())


@pytest.mark.parametrize("method", [fv.Dense(), fv.Tail(cond_from=-1), fv.Tail(null_from=-1)])
@pytest.mark.parametrize("changes", [{}, {"mask_iterations": 3}, {"residuals": False}], ids=str)
@pytest.mark.parametrize("guidance", [4.5, (0.0, 1.0, 2.0, 3.0, 1.0), 0.0], ids=str)
def test_the_residual_diffusion_is_counted_as_it_runs(hart, guidance, changes, method):
    model, item = hart.with_guidance(guidance), Item("a red circle", 1)
    model.sampling = replace(model.sampling, **changes)
    if guidance == 0.0 and method == fv.Tail(null_from=-1):
        with pytest.raises(ValueError, match="no guidance, so there are none"):
            as_run(model, method, item)
        return
    ran, net = [], hart.transformer.diffloss.net
    layers = [
        layer
        for name, layer in net.named_modules()
        if isinstance(layer, torch.nn.Linear) and not name.startswith("time_embed")
    ]
    hooks = [
        layer.register_forward_hook(lambda m, _, out: ran.append(2 * out.numel() * m.in_features))
        for layer in layers
    ]
    recorded = as_run(model, method, item)
    for hook in hooks:
        hook.remove()
    grids, rows = model.grids(), 1 if method != fv.Dense() or guidance == 0.0 else 2
    counted = flops.step_flops(model, method, grids, 3, sampling=model.sampling)
    assert flops.total(counted) == pytest.approx(recorded)
    last = model.transformer.finish_flops(grids[-1], rows, model.sampling)
    assert last == pytest.approx(sum(ran))
    operations = Operations(model, grids[-1], model.sampling)
    planned = total(operations, model, method, grids, 3, model.sampling)
    assert planned * 1e9 == pytest.approx(recorded)


def test_diffusion_schedule_is_the_released_one():
    found = respace(8)
    assert found.steps.tolist() == [0, 143, 285, 428, 571, 714, 856, 999]
    released = [4.128e-5, 0.054878, 0.148746, 0.249546, 0.366072, 0.517566, 0.735439, 0.99999995]
    assert found.beta.tolist() == pytest.approx(released, rel=2e-4)


def test_a_step_of_several_forwards_is_recorded_once(hart, tmp_path):
    model, site = replace(hart, sampling=replace(hart.sampling, mask_iterations=3)), ATTENTION
    run, trace = fv.observe(
        model, "two", fv.Dense(), seed=2, attention=[site], features=[site], outputs=[site]
    )
    assert torch.equal(run.canvas, fv.generate(model, "two", fv.Dense(), seed=2).canvas)
    assert masks.kept_map(trace, 4, site).all()
    assert trace.scores[4, site].shape == (2, 36)
    assert (4, site) not in trace.features.keys() | trace.outputs.keys()
    assert trace.seen[4, site] == (0, 1, 2, 3, 4)
    assert trace.attention[4, site].shape == (2, 2, 36, 5)
    shares = cross_scale_attention(trace).groupby(["step", "head"])[["share", "chance"]].sum()
    assert shares.to_numpy() == pytest.approx(1)
    trace.save(tmp_path / "parts.safetensors")
    again = fv.Trace.load(tmp_path / "parts.safetensors")
    assert torch.equal(again.attention[4, site], trace.attention[4, site])
