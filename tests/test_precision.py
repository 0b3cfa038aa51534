"""int8 weights, copies in another precision, and pruning beside them."""

import pandas as pd
import pytest
import torch
from torch import nn

import fastvar_lab as fv
from fastvar_lab import scales
from fastvar_lab.experiments import base, run, verdicts
from fastvar_lab.experiments.questions import reduced_precision
from fastvar_lab.frames import FASTVAR, FULL
from fastvar_lab.instruments.attention import Attention
from fastvar_lab.instruments.recorder import _attention_shares
from fastvar_lab.instruments.unfused import Unfused
from fastvar_lab.measure.head_weights import head_weights
from fastvar_lab.methods import prune_runner
from fastvar_lab.methods.fastervar import FasterVAR
from fastvar_lab.methods.prune_runner import Stored
from fastvar_lab.methods.restore import PreviousBranch
from fastvar_lab.methods.restore_anchors import Anchors
from fastvar_lab.methods.scalekv import important
from fastvar_lab.methods.select import HighPass, PrincipalHighPass
from fastvar_lab.methods.select_previous import attention_entropy
from fastvar_lab.models import build
from fastvar_lab.models.converted import converted
from fastvar_lab.models.loading import hollow
from fastvar_lab.models.precision import Int8Linear
from fastvar_lab.seam import Grid, Handles, Site, Stack
from fastvar_lab.store import Store
from tests.families import FAMILIES, small_model
from tests.test_adapters import logits_of
from tests.test_attach import attached
from tests.test_var import SMALL as AUTOENCODER
from tests.test_var import config as var_config

HALVES = (torch.bfloat16, torch.float16)


@pytest.fixture(params=FAMILIES)
def model(request):
    return small_model(request.param)


def test_int8_weights_are_within_half_a_step():
    torch.manual_seed(0)
    linear = nn.Linear(64, 32)
    linear.weight.data[3] = 0
    narrow = Int8Linear(linear)
    step = linear.weight.abs().amax(1, keepdim=True) / 127
    back = narrow.weight.float() * narrow.scale
    assert ((back - linear.weight).abs() <= step * 0.501).all()
    assert narrow.weight.dtype == torch.int8
    x = torch.randn(2, 5, 64)
    assert torch.allclose(narrow(x), x @ back.T + linear.bias, atol=1e-5)
    assert narrow(x.bfloat16()).dtype == torch.bfloat16


def test_int8_models_draw_and_say_so(model):
    plain, identity = logits_of(model), model.fingerprint
    count = sum(isinstance(m, nn.Linear) for m in model.transformer.blocks.modules())
    before = fv.memory(model, fv.Dense()).weights
    held = sum(m.weight.numel() for m in model.transformer.blocks.modules()
               if isinstance(m, nn.Linear))  # fmt: skip
    model.set_precision("int8")
    assert model.precision.split(", ")[:2] == ["float32", f"{count} layers in int8"]
    assert model.fingerprint != identity
    narrow = logits_of(model, fv.Prune({-1: 0.5}))
    assert narrow.isfinite().all()
    gap = (logits_of(model) - plain)[:16].abs().max() / plain.std()  # of the first token
    assert 0 < gap < 0.1
    saved = before - fv.memory(model, fv.Dense()).weights
    assert 0.9 * 3 * held <= saved <= 3 * held
    model.set_precision("int8", torch.bfloat16)
    assert logits_of(model).isfinite().all()
    with pytest.raises(ValueError, match="are int8 already; open it again for float32"):
        model.set_precision("float32")


def test_every_way_to_open_int8():
    for opened in (fv.load("tiny", dtype=torch.int8), fv.load("tiny", precision="int8")):
        assert opened.precision == "float32, 56 layers in int8"
    released = hollow("infinity-2b", "int8")
    assert released.precision.startswith("bfloat16, 224 layers in int8")
    with pytest.raises(ValueError, match="official precision has no int8 weights"):
        fv.load("tiny", precision="official", dtype=torch.int8)
    with pytest.raises(ValueError, match="precision must be one of float32, official, int8; not"):
        fv.load("tiny", precision="int4")


@pytest.mark.parametrize("family", ["var", "infinity", "hart"])
def test_copies_leave_an_attached_model_alone(family):
    _, _, model, condition = attached(family)
    before, identity = fv.generate(model, condition, fv.Dense(), seed=1).canvas, model.fingerprint
    for precision in reduced_precision.PRECISIONS.values():
        narrow = converted(model, *precision)
        made = fv.generate(narrow, condition, fv.Prune({-1: 0.5}), seed=1).canvas
        assert made.isfinite().all()
    assert narrow.text_encoder is model.text_encoder
    assert model.fingerprint == identity
    assert torch.equal(fv.generate(model, condition, fv.Dense(), seed=1).canvas, before)
    with pytest.raises(ValueError, match="for int8 convert that object and attach it again"):
        model.set_precision("int8")


def frame(gap):
    """Errors of 10 and 20 that together are 30, times a factor."""
    error = {("float32", "full"): 0.0, ("int8", "full"): 10.0, ("float32", "fast"): 20.0}
    error["int8", "fast"] = 30.0 * gap
    return pd.DataFrame(
        [
            {"what": "quality", "precision": p, "method": m, "picture": i, "error": e,
             "family": "full" if m == "full" else "FastVAR"}
            for (p, m), e in error.items()
            for i in range(12)
        ]
    )  # fmt: skip


def test_errors_add_hide_or_amplify():
    added = reduced_precision.errors(frame(1.0))
    assert added.gap.abs().max() < 1e-9
    assert reduced_precision.errors(frame(0.5)).gap.mean() == pytest.approx(3.01, abs=0.01)
    assert reduced_precision.errors_add(frame(1.0)).verdict == verdicts.HOLDS
    assert reduced_precision.errors_add(frame(2.0)).verdict == verdicts.FAILS


def test_the_experiment_runs(tmp_path, monkeypatch):
    model = small_model("infinity")
    opened = lambda name, kind, dtype: small_model(name).set_precision(kind, dtype)  # noqa: E731
    monkeypatch.setattr(reduced_precision, "RELEASES", ("infinity",))
    monkeypatch.setattr(reduced_precision, "hollow", opened)
    monkeypatch.setitem(base.SCOPES, "quick", base.Scope("quick", 2, 1))
    measured = run.run("reduced_precision", "quick", model=model, store=Store(tmp_path),
                       progress=False)  # fmt: skip
    drawn = measured[measured.what == "quality"]
    assert set(drawn.precision) == set(reduced_precision.PRECISIONS)
    full = drawn[(drawn.precision == "float32") & (drawn.family == "full")]
    assert (full.error == 0).all()
    times = measured[measured.what == "time"]
    assert set(times.precision) == {"float32", "bfloat16"}
    counted = measured[measured.what == "memory"].set_index(["precision", "method"])
    assert set(counted.index) == {
        (p, w) for p in reduced_precision.COUNTED for w in (FULL, FASTVAR)
    }
    weights = counted.weight_bytes.xs(FULL, level="method")
    assert weights["int8"] < weights["bfloat16"] == weights["float16"] < weights["float32"]


@pytest.mark.parametrize("family", FAMILIES)
def test_types_of_one_width_hold_the_same_bytes(family):
    narrow = (small_model(family).set_precision("float32", d) for d in HALVES)
    first, second = (fv.memory(model, fv.Prune({-1: 0.5})) for model in narrow)
    assert first == second


def official(family, low):
    if family == "var, shared adaLN":
        torch.manual_seed(0)
        model = build.build(var_config(shared=True), tokenizer=AUTOENCODER).freeze()
    else:
        model = small_model(family)
    return model.set_precision("official", low)


@pytest.mark.parametrize("restore", [fv.CachedBranch(), fv.Zero(), PreviousBranch()], ids=repr)
@pytest.mark.parametrize("family", FAMILIES)
def test_stacks_are_restored_beside_tokens_that_enter_in_sixteen_bits(family, restore):
    model = official(family, torch.bfloat16)
    method = fv.Prune({-2: 0.5, -1: 0.5}, granularity="stack", restore=restore)
    assert logits_of(model, method).isfinite().all()


@pytest.mark.parametrize("low", HALVES)
@pytest.mark.parametrize("family", [*FAMILIES, "var, shared adaLN"])
@pytest.mark.parametrize(
    "method",
    [fv.SparseVAR(first=-1), fv.Prune({-1: 0.5}, select=fv.BlockChange(), granularity="stack")],
    ids=repr,
)
def test_changes_are_summed_over_sublayers_of_several_types(method, family, low):
    assert logits_of(official(family, low), method).isfinite().all()


@pytest.fixture(params=[None, *HALVES], ids=str)
def autocast(request):
    """Compute under autocast, as the official precision does, or not."""
    with torch.autocast("cpu", request.param, enabled=request.param is not None):
        yield


def in_full(scores, expected):
    return torch.allclose(scores, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_structure_is_scored_in_full_under_autocast(autocast):
    torch.manual_seed(0)
    x = torch.randn(2, 64, 1024)
    centred = x - x.mean(1, keepdim=True)
    weights = centred.norm(dim=-1, keepdim=True)
    v = (centred * weights).sum(1).unsqueeze(-1).double()
    for _ in range(5):
        v = centred.double().mT @ (centred.double() @ v)
        v = v / v.norm(dim=1, keepdim=True)
    grid, site = Grid(9, 8, 8), Site(0, "attn")
    expected = (centred.double() @ v).squeeze(-1).abs() + HighPass().scores(x, grid, site)
    assert in_full(PrincipalHighPass().scores(x, grid, site).double(), expected)


def test_attention_is_looked_at_in_full_under_autocast(autocast):
    torch.manual_seed(0)
    q, k, v = 3 * torch.randn(2, 2, 16, 8), torch.randn(2, 2, 24, 8), torch.randn(2, 2, 24, 8)
    weights = (q.double() @ k.double().mT).softmax(-1)
    entropy = -(weights * weights.log()).sum(-1).mean(1)
    assert in_full(attention_entropy(q, k, 1.0).double(), entropy)
    assert in_full(torch.stack([*head_weights(q, k, 1.0)], 1).double(), weights)
    shares = torch.stack([part.sum(-1) for part in weights.split([8, 16], -1)], -1)
    assert in_full(_attention_shares(q, k, [8, 16], 1.0, None).double(), shares)
    site, grid = Site(0, "attn"), Grid(1, 4, 4)
    attended = Unfused(fv.Runner()).attend(site, grid, q, k, v, None, 1.0)
    assert in_full(attended.double(), weights @ v.double())
    record = Attention(site, grid, q, k, None, 1.0, None)
    assert in_full(record.weights(3, row=1).double(), weights[1, :, 3])


def test_keys_are_chosen_in_full_under_autocast(autocast):
    q = torch.ones(1, 1, 16, 1)
    k = 1 + torch.arange(24.0).view(1, 1, 24, 1) / 4096  # one value in 16 bits
    method = fv.ScaleKV({-1: 20}, window=1, pool=1)
    kept = important(q, k, Grid(1, 4, 4), 4, method)[0, 0].tolist()
    assert set(kept) == {13, 21, 22, 23}


def test_low_rank_mixtures_are_summed_in_full_under_autocast(autocast):
    grids = scales.grids(((2, 2), (4, 4)))
    runner, seen = FasterVAR({-1: 0.5}, chunks=1).start(grids, 1), []

    def block(x):
        seen.append(x)
        return x

    torch.manual_seed(0)
    runner.prepare(Handles(1, True, None, None, None))
    runner.stack(grids[0], Stack([block]), torch.randn(2, 4, 8))
    x = torch.randn(2, 16, 8)
    runner.stack(grids[1], Stack([block]), x)
    again = FasterVAR({-1: 0.5}, chunks=1).start(grids, 1)
    again.prepare(Handles(1, True, None, None, None))
    with torch.autocast("cpu", enabled=False):
        again.stack(grids[0], Stack([block]), torch.randn(2, 4, 8))
        again.stack(grids[1], Stack([block]), x)
    assert torch.equal(seen[1], seen[3])


def test_scores_that_are_no_numbers_end_a_generation_that_cannot_wait(monkeypatch):
    monkeypatch.setattr(prune_runner, "at_hand", lambda x: False)  # as on a GPU

    class NotNumbers:
        def scores(self, x, grid, site):
            return x.sum(-1) * (float("nan") if site.layer == 1 else 1)

    model = small_model("var")
    assert fv.generate(model, "7", fv.Prune({-1: 0.5})).canvas.isfinite().all()
    with pytest.raises(ValueError, match=f"no number at step {len(model.sizes) - 1}"):
        fv.generate(model, "7", fv.Prune({-1: 0.5}, select=NotNumbers()))


@pytest.mark.parametrize(
    "method",
    [fv.Planned(stacks={-1: 4}), fv.SparseVAR(first=-1),
     fv.Prune({-1: 0.5}, granularity="stack", restore=Anchors(stride=8))],
    ids=repr,
)  # fmt: skip
def test_finished_states_are_not_rounded_to_what_enters_the_layers(method):
    finished = []

    class Ends(fv.Wrapper):
        def stack(self, grid, blocks, x):
            out = self.inner.stack(grid, blocks, x)
            finished.append((x.dtype, out.dtype))
            return out

    fv.generate(official("infinity", torch.bfloat16), "a cyan star", method, watch=[Ends])
    assert finished[1:] == [(torch.bfloat16, torch.float32)] * (len(finished) - 1)


def test_what_a_stack_adds_is_summed_in_float32():
    grids = scales.grids(((2, 2), (2, 2)))
    runner = fv.Prune({-1: 0.5}, granularity="stack").start(grids, 1)
    one, rest = torch.ones(1, 4, 8, dtype=torch.bfloat16), torch.full((1, 4, 8), 2.0**-9)
    runner.cache = {Site(0, "attn"): Stored(one, grids[0]), Site(0, "ffn"): Stored(rest, grids[0])}
    x = torch.zeros(1, 4, 8)
    added = runner.fill(x[:, :2], torch.tensor([[0, 1]]), grids[1], x)
    assert added[0, :, 0].tolist() == [0, 0, 1 + 2.0**-9, 1 + 2.0**-9]


def test_sublayers_that_are_not_computed_take_the_whole_output():
    grids = scales.grids(((2, 2), (2, 2)))
    runner = fv.Planned({-1: {"ffn": "8"}}).start(grids, 1)
    wide = torch.full((1, 4, 8), 1 + 2.0**-9)
    runner.cache = {Site(0, "ffn"): Stored(wide, grids[0])}
    x = torch.zeros(1, 4, 8, dtype=torch.bfloat16)
    assert torch.equal(runner.sublayer(Site(0, "ffn"), grids[1], None, x), wide)


def test_the_precision_of_a_model_names_reduced_products_by_either_of_torchs_names(small):
    on_cpu = torch.backends.mkldnn
    assert small.precision == "float64"
    torch.set_float32_matmul_precision("medium")
    try:
        assert small.precision == "float64, products in medium precision"
        if hasattr(on_cpu, "matmul"):
            on_cpu.matmul.fp32_precision = "tf32"  # with both names set, torch refuses the older
            assert small.precision == "float64, products in tf32 precision"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert small.precision == "float64"
