"""VAR on small random weights: the seam's promises hold on a second family."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import fastvar_lab as fv
from fastvar_lab.backbones.autoencoder import AutoEncoderConfig, VQTokenizer
from fastvar_lab.backbones.quantize import VectorQuantizer
from fastvar_lab.backbones.var import VAR, VARConfig
from fastvar_lab.draft_and_refine import draft_and_refine
from fastvar_lab.errors import WeightsError
from fastvar_lab.models import build, families, releases
from fastvar_lab.models.checkpoints import read_released
from fastvar_lab.sampling import Sampling, cut, guide
from fastvar_lab.scales import grids, square
from fastvar_lab.seam import Grid, Site
from fastvar_lab.speed import flops

SMALL = AutoEncoderConfig(8, (32, 32), encoder_blocks=1, decoder_blocks=1, attention=True)
METHODS = [
    fv.Dense(),
    fv.Prune({-1: 0.6}),
    fv.Prune({-3: 0.3, -2: 1.0, -1: 0.7}, layers=(1, 2)),
    fv.Prune({-1: 0.5}, restore=fv.NearestKept(), null_until=-2),
]


def config(shared):
    return VARConfig(2, 64, 2, (1, 2, 3, 5, 6), shared, classes=10, vocabulary=50, code=8)


@pytest.fixture(scope="module", params=[False, True], ids=["own adaLN", "shared adaLN"])
def var(request):
    torch.manual_seed(0)
    model = build.build(config(request.param), tokenizer=SMALL)
    for part in model.parts:
        part.eval().requires_grad_(False)
    return model.to("cpu", torch.float64)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_batches_snapshots_and_records(var, method):
    batch = fv.generate(var, ["3", "7"], method, seed=[1, 2], snapshot=True)
    alone = fv.generate(var, "7", method, seed=2)
    assert torch.allclose(batch.canvas[1], alone.canvas[0], atol=1e-12)
    for other in METHODS:
        resumed = fv.resume(var, batch, other)
        assert torch.equal(resumed.canvas, fv.generate(var, ["3", "7"], other, seed=[1, 2]).canvas)
    made, trace = fv.observe(var, "7", method, seed=2)
    assert torch.equal(made.canvas, alone.canvas)
    assert {site.kind for _, site in trace.kept} == {"attn", "ffn"}
    assert var.decode(made.canvas).shape == (1, 3, 12, 12)


def test_forcing_all_kept_reproduces_dense(var):
    dense, forced = (fv.generate(var, "1", m) for m in (fv.Dense(), fv.Prune({-1: 1e-9})))
    assert torch.equal(dense.canvas, forced.canvas)
    assert not torch.equal(fv.generate(var, "1", fv.Prune({-1: 0.5})).canvas, dense.canvas)


def test_guidance_grows_from_none_at_the_first_scale(var):
    logits = torch.randn(2, 1, 50, dtype=torch.float64)

    class Seen:
        def pick(self, step, p):
            self.p = p
            return p.argmax(-1)

    seen, settings = Seen(), Sampling(guidance=4.0, top_p=1.0)
    for step in (0, 2, 4):
        grid = Grid(step, 1, 1)
        guided = guide(logits, var.transformer.guidance(None, grid, settings))
        var.transformer.draw(guided, grid, settings, seen)
        t = 4.0 * step / 4
        assert torch.allclose(seen.p, ((1 + t) * logits[:1] - t * logits[1:]).softmax(-1))


def test_unguided_generation_runs_half_the_rows(var):
    rows = []

    class Count(fv.Wrapper):
        def sublayer(self, site, grid, branch, x):
            rows.append(len(x))
            return self.inner.sublayer(site, grid, branch, x)

    fv.generate(var, "1", fv.Dense(), watch=[Count], sampling=Sampling(guidance=0.0))
    assert set(rows) == {1}


def test_phi_follows_the_released_table():
    quantizer = VectorQuantizer(5, 2, scales=10)
    convs = list(quantizer.quant_resi["qresi_ls"])
    assert [convs.index(quantizer.phi(s)) for s in range(10)] == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    quantizer.scales = 14  # HART's
    hart = [convs.index(quantizer.phi(s)) for s in range(14)]
    assert hart == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3]


def test_codebook_round_trip(var):
    quantizer, sizes = var.quantizer, var.sizes
    latent = torch.randn(1, 8, 6, 6, dtype=torch.float64)
    tokens = quantizer.encode(latent, sizes)
    assert [t.shape for t in tokens] == [(1, h * w) for h, w in sizes]
    code = quantizer.embedding(tokens[0]).view(1, 8, 1, 1)
    wide = F.interpolate(code, size=(6, 6), mode="bicubic")
    made = quantizer.accumulate(torch.zeros_like(latent), tokens[0], Grid(0, 1, 1))
    assert torch.allclose(made, 0.5 * wide + 0.5 * quantizer.phi(0)(wide))


def test_cut_forbids_the_unlikely():
    p = torch.tensor([[0.5, 0.25, 0.15, 0.1]])
    kept = [
        torch.isfinite(cut(p.log(), k, q)).tolist()[0] for k, q in ((2, 1.0), (0, 0.6), (0, 0.1))
    ]
    assert kept == [
        [True, True, False, False],
        [True, True, False, False],
        [True, False, False, False],
    ]
    tied = cut(torch.tensor([[1.0, 2.0, 2.0]]), 1, 1.0)
    assert torch.isfinite(tied).tolist() == [[False, True, True]]


@pytest.mark.parametrize("drafted", [1, 3, 4])
def test_code_with_the_same_model_twice_is_plain_generation(var, drafted):
    made = draft_and_refine(var, var, ["3", "7"], drafted, seed=[1, 2])
    plain = fv.generate(var, ["3", "7"], fv.Dense(), seed=[1, 2])
    assert made.first_step == drafted
    assert torch.allclose(made.canvas, plain.canvas, atol=1e-10)
    assert all(torch.equal(a, b) for a, b in zip(made.tokens, plain.tokens, strict=True))


def test_watchers_of_code_watch_the_refiner(var):
    watches = []

    def watch(run):
        watches.append(fv.Stopwatch(run))
        return watches[-1]

    made = draft_and_refine(var, var, "3", 3, watch=[watch], snapshot=False)
    assert made.first_step == 3
    assert [sorted(one.step_ms()) for one in watches] == [[3, 4]]


def test_code_refuses_what_cannot_be_drafted(var, small):
    with pytest.raises(ValueError, match="of 5 scales 1 to 4 can be drafted; not 5"):
        draft_and_refine(var, var, "3", 5)
    shorter = draft_and_refine(var, var, "3", 3, seed=1, sizes=var.sizes[:2] + var.sizes[-2:])
    assert [None if t is None else t.shape[1] for t in shorter.tokens] == [
        h * w for h, w in var.sizes[:2] + var.sizes[-2:]
    ]
    other = replace(var, quantizer=deepcopy(var.quantizer))
    with torch.no_grad():
        other.quantizer.codebook.add_(1)
    with pytest.raises(ValueError, match="need the same schedule and tokenizer"):
        draft_and_refine(var, other, "3", 2)
    for method in (
        fv.Prune({-1: 0.5}),
        fv.Prune({-1: 0.5}, select=fv.AttentionEntropy(), restore=fv.Zero()),
        fv.Planned(rows={-1: "held"}),
        fv.DepthVAR(-2),
        fv.SparseVAR(-1),
    ):
        with pytest.raises(ValueError, match=r"step 3 .* or looks at it; .* the steps from 4 on"):
            draft_and_refine(var, var, "3", 4, method=method)
        assert draft_and_refine(var, var, "3", 3, method=method).first_step == 3
    changed = (
        *(fv.Tail(cond_from=-3), fv.Tail(null_from=-3), fv.FocusVAR(first=-3, layer=1)),
        fv.SharedUpdate(first=-3, last=-1, layers=(0, 1)),
    )
    for method in changed:
        with pytest.raises(ValueError, match=r"step 2 .* or looks at it; .* the steps from 3 on"):
            draft_and_refine(var, var, "3", 3, method=method)
        assert draft_and_refine(var, var, "3", 2, method=method).first_step == 2
    for options, message in (
        ({"snapshot": True}, "keeps no snapshot; leave snapshot out"),
        ({"graphs": True}, "keeps no graphs; leave graphs out"),
        ({"sampling": 5}, "sampling must be a Sampling, or None for the model's; not 5"),
        ({"watch": 5}, "watch is a list of functions that wrap a runner; not 5"),
    ):
        with pytest.raises(ValueError, match=message):
            draft_and_refine(var, var, "3", 2, **options)
    with pytest.raises(ValueError, match=r"the number drafted must be a whole number; not 2\.5"):
        draft_and_refine(var, var, "3", 2.5)
    with pytest.raises(ValueError, match="two VARs"):
        draft_and_refine(small, small, "a red circle", 1)


def test_released_sizes_and_names():
    counts = {"var-d16": 310.3, "var-d30": 2010.0, "var-d36": 2353.9}
    for name, millions in counts.items():
        with torch.device("meta"):
            model = VAR(releases.VAR[name])
        total = sum(p.numel() for p in model.parameters())
        assert total / 1e6 == pytest.approx(millions, abs=0.06)
    with torch.device("meta"):
        tokenizer = VQTokenizer(families.VAR_TOKENIZER, 4096, 10)
    assert sum(p.numel() for p in tokenizer.parameters()) / 1e6 == pytest.approx(108.95, abs=0.01)
    shapes = {k: tuple(v.shape) for k, v in tokenizer.state_dict().items()}
    assert shapes["encoder.down.4.attn.1.qkv.weight"] == (1920, 640, 1, 1)
    assert shapes["decoder.up.3.block.0.nin_shortcut.weight"] == (320, 640, 1, 1)
    assert shapes["decoder.up.4.attn.2.proj_out.weight"] == (640, 640, 1, 1)
    assert shapes["quantize.quant_resi.qresi_ls.3.weight"] == (32, 32, 3, 3)
    assert shapes["decoder.mid.attn_1.norm.weight"] == (640,)


@pytest.mark.parametrize("nest", [(), ("trainer", "var_wo_ddp")])
def test_released_files_open(tmp_path, monkeypatch, nest):
    monkeypatch.setitem(releases.VAR, "var-d16", config(False))
    monkeypatch.setattr(families, "VAR_TOKENIZER", SMALL)
    torch.manual_seed(3)
    source = build.build(config(False), tokenizer=SMALL)
    state = dict(source.transformer.state_dict())
    state["lvl_1L"], state["attn_bias_for_masking"] = torch.zeros(1, 3), torch.zeros(1, 1, 3, 3)
    state["blocks.0.attn.scale_mul_1H11"] = state["blocks.0.attn.scale_mul_1H11"].view(1, 1, 2, 1)
    for key in reversed(nest):
        state = {key: state}
    torch.save(state, tmp_path / "var_d16.pth")
    vae = {**source.tokenizer.state_dict(), "quantize.ema_vocab_hit_SV": torch.zeros(5, 50)}
    torch.save(vae, tmp_path / "vae_ch160v4096z32.pth")
    model = fv.load("var-d16", weights=tmp_path)
    for part in source.parts:
        part.eval()
    made, wanted = (fv.generate(m, "4", fv.Prune({-1: 0.5})) for m in (model, source))
    assert torch.allclose(made.canvas, wanted.canvas, atol=1e-5)


class Harmful:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_pickles_that_run_code_are_refused(tmp_path, capsys):
    torch.save({"x": Harmful()}, tmp_path / "bad.pth")
    with pytest.raises(WeightsError, match="would run code"):
        read_released(tmp_path / "bad.pth")
    assert "must not run" not in capsys.readouterr().out
    (tmp_path / "cut.pth").write_bytes((tmp_path / "bad.pth").read_bytes()[:100])
    with pytest.raises(WeightsError, match=r"cannot read weights|would run code"):
        read_released(tmp_path / "cut.pth")


def test_bad_classes_and_missing_weights(var):
    for label in ("10", "-1", "cat"):
        with pytest.raises(ValueError, match=f"a class lies in 0 to 9; not '{label}'"):
            fv.generate(var, label, fv.Dense())
    with pytest.raises(ValueError, match="a class lies in 0 to 9; not 11"):
        fv.generate(var, torch.tensor([3, 11]), fv.Dense())
    with pytest.raises(
        ValueError, match=r"var-d16 needs weights: a folder with var_d16.pth and vae"
    ):
        fv.load("var-d16")


def test_flops_of_var_d16_at_256():
    with torch.device("meta"):
        transformer = VAR(releases.VAR["var-d16"])
    steps, per_layer = grids(square(*releases.VAR_256)), 0.0
    seen = 0
    for grid in steps:
        seen += grid.tokens
        per_layer += transformer.sublayer_flops("attn", grid.tokens, seen)
        per_layer += transformer.sublayer_flops("ffn", grid.tokens, 0)
    linear = 680 * 24 * 1024**2
    scores = sum(4 * 1024 * g.tokens * sum(x.tokens for x in steps[: g.index + 1]) for g in steps)
    assert per_layer == linear + scores
    assert Site(0, "cross").kind not in transformer.kinds
    assert flops.total([{"a": 1.0}, {"b": 2.0}]) == 3.0
