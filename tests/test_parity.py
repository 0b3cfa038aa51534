"""The library against straight-line references: same seeds, released order of draws."""

import math

import pytest
import torch

import fastvar_lab as fv
from fastvar_lab import scales
from fastvar_lab.backbones.hart import HART, Context, HARTConfig
from fastvar_lab.backbones.infinity import Infinity, InfinityConfig, Text
from fastvar_lab.backbones.quantize import HybridQuantizer, VectorQuantizer
from fastvar_lab.backbones.var import VAR, VARConfig
from fastvar_lab.methods.presets import infinity_preset
from fastvar_lab.scales import infinity as schedule
from fastvar_lab.scales import square
from fastvar_lab.seam import Grid
from tests import reference


class Lengths(fv.Wrapper):
    """Counts the keys that every layer attends to at last."""

    def __init__(self, inner):
        super().__init__(inner)
        self.keys = {}

    def attend(self, site, grid, q, k, v, mask=None, scale=1.0):
        if site.kind == "attn":
            self.keys[site.layer] = k.shape[2]
        return self.inner.attend(site, grid, q, k, v, mask, scale)


def lively(module, seed=0):
    """Random weights under which branches, biases and norms all matter."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.ndim > 1 and "embed" not in name:
                value.copy_(torch.randn_like(value) / math.sqrt(value[0].numel()))
            elif name.endswith("norm.weight") or "ln" in name.split(".")[-2]:
                value.copy_(1 + 0.2 * torch.randn_like(value))
            elif not name.endswith("zero_k_bias"):
                value.copy_(torch.randn_like(value) * 0.3)
            if name.endswith("scale_mul_1H11"):
                value.fill_(math.log(6.0))
    return {k: v.clone() for k, v in module.state_dict().items()}


def watched(model, condition, method, seed, **options):
    seen = []

    def watch(run):
        seen.append(Lengths(run))
        return seen[0]

    made = fv.generate(
        model, condition, method, draws=fv.Streamed(seed, rest=3), watch=[watch], **options
    )
    return made, seen[0].keys


def compare(made, keys, latent, log):
    drawn = [t for t in made.tokens if t is not None]
    assert len(drawn) == len(log.tokens) == len(log.shapes)
    for ours, theirs in zip(drawn, log.tokens, strict=True):
        if not ours.is_floating_point():
            assert torch.equal(ours.long(), theirs.long())
    assert keys == log.keys
    bound = 3e-5 if made.canvas.dtype == torch.float32 else 1e-10
    gap = float((made.canvas - latent).abs().max() / latent.abs().max())
    print(f"largest difference {gap:.1e} of the largest value")
    assert gap <= bound


def restored_from(ratios):
    """The last step before the first pruned one that is neither pruned nor skipped."""
    pruned = [step for step, ratio in ratios.items() if ratio < 1]
    return max(s for s in range(min(pruned)) if s not in ratios) if pruned else None


VAR_SIDES = (1, 2, 3, 5, 6)


@pytest.mark.parametrize("shared", [False, True], ids=["own adaLN", "shared adaLN"])
@pytest.mark.parametrize("ratios", [{}, {3: 0.4, 4: 0.7}, {2: 1, 4: 0.5}], ids=str)
def test_var(shared, ratios):
    config = {
        "depth": 2, "width": 64, "heads": 2, "sides": VAR_SIDES, "shared_aln": shared,
        "classes": 10, "vocabulary": 40, "code": 8,
    }  # fmt: skip
    state = lively(VAR(VARConfig(**config)))
    book = {f"quantize.{k}": v for k, v in lively(VectorQuantizer(40, 8, 5), 1).items()}
    model = fv.from_states("var", config, state, book)
    cache = restored_from(ratios)
    layers = range(1, 2) if shared and ratios else None
    fast = reference.FastVAR(ratios, cache, layers)
    method = fv.Prune(
        {VAR_SIDES[s]: r for s, r in ratios.items()}, layers=(1, 2) if layers else None
    ) if ratios else fv.Dense()  # fmt: skip
    labels = torch.tensor([3, 7])
    sampling = fv.Sampling(guidance=4.0, top_k=20, top_p=0.95)
    made, keys = watched(model, labels, method, 5, sampling=sampling)
    latent, log = reference.var(
        state, book, labels, VAR_SIDES, 2, 2, shared=shared, seed=5, cfg=4.0, top_k=20, top_p=0.95,
        fast=fast,
    )  # fmt: skip
    compare(made, keys, latent, log)
    assert log.shapes == [(2 * s * s, 40) for i, s in enumerate(VAR_SIDES) if ratios.get(i) != 1]


def test_var_smooth_in_float64():
    config = {"depth": 2, "width": 64, "heads": 2, "sides": VAR_SIDES, "classes": 10,
              "vocabulary": 40, "code": 8}  # fmt: skip
    state = lively(VAR(VARConfig(**config)))
    book = {f"quantize.{k}": v for k, v in lively(VectorQuantizer(40, 8, 5), 1).items()}
    model = fv.from_states("var", config, state, book).to("cpu", torch.float64)
    labels = torch.tensor([1, 2, 3])
    sampling = fv.Sampling(guidance=1.5, top_k=30, top_p=0.96, smooth=True)
    made, _ = watched(model, labels, fv.Dense(), 2, sampling=sampling)
    latent, _ = reference.var(
        state, book, labels, VAR_SIDES, 2, 2, shared=False, seed=2, cfg=1.5, top_k=30, top_p=0.96,
        smooth=True,
    )  # fmt: skip
    assert (made.canvas - latent).abs().max() < 1e-10


CASES = [
    (square(1, 2, 4, 6), None, {}),
    (square(1, 2, 4, 6), None, {3: 0.4}),
    (square(1, 2, 4, 6, 8), None, {2: 0.4, 3: 0.5, 4: 1}),
    (schedule(1.5, "0.06M")[:5], None, {4: 0.6}),
    (schedule(0.8, "0.06M")[:5], (20, 30), {3: 1, 4: 0.3}),
]


@pytest.mark.parametrize(("sizes", "grid", "ratios"), CASES, ids=str)
@pytest.mark.parametrize("precision", ["float32", "official"])
@pytest.mark.parametrize("patch", [1, 2])
def test_infinity(sizes, grid, ratios, precision, patch):
    config = {
        "depth": 3, "width": 64, "heads": 2, "ffn": 128, "bits": 6, "patch": patch,
        "text_width": 32, "text_length": 12, "pool_heads": 4, "reference": grid,
    }  # fmt: skip
    state = lively(Infinity(InfinityConfig(**config)))
    model = fv.from_states("infinity", config, state, sizes=sizes, precision=precision)
    torch.manual_seed(1)
    mask = torch.tensor([[True] * 9, [True] * 4 + [False] * 5])
    text = Text(torch.randn(2, 9, 32) * mask[..., None], mask)
    cache = restored_from(ratios)
    fast = reference.FastVAR(ratios, cache, {1, 2})
    method = fv.Dense()
    if ratios:
        method = fv.Prune({s - len(sizes): r for s, r in ratios.items()}, layers=(1, 3))
    sampling = fv.Sampling(guidance=3.0, temperature=0.5)
    made, keys = watched(model, text, method, 4, sampling=sampling)
    aspect = sizes[-1][0] / sizes[-1][1]
    latent, log = reference.infinity(
        state, *text, sizes, grid or schedule(aspect)[-1], 3, 2, 6, patch=patch, pool_heads=4,
        seed=4, cfg=3.0, tau=0.5, official=precision == "official", fast=fast,
        dtype=torch.float32 if precision == "official" else torch.float64,
    )  # fmt: skip
    compare(made, keys, latent.float(), log)
    d = 6 * patch**2
    shown = [(h, w) for i, (h, w) in enumerate(sizes) if ratios.get(i) != 1]
    assert log.shapes == [(2 * h * w * d, 2) for h, w in shown]
    single, log = reference.infinity(
        state, *text, sizes, grid or schedule(aspect)[-1], 3, 2, 6, patch=patch, pool_heads=4,
        seed=4, cfg=3.0, tau=0.5, official=precision == "official",
        fast=reference.FastVAR(ratios, cache, {1, 2}), dtype=torch.float32,
    )  # fmt: skip
    assert torch.equal(made.canvas, single)


HART_SIDES = (1, 2, 3, 4, 5, 6, 7, 8)


@pytest.mark.parametrize("ratios", [{}, {6: 0.5, 7: 0.75}, {6: 0.5, 7: 1}], ids=str)
@pytest.mark.parametrize("smooth", [False, True])
def test_hart(ratios, smooth):
    config = {
        "depth": 2, "width": 64, "heads": 2, "hidden": 96, "sides": HART_SIDES, "context": 9,
        "context_width": 24, "vocabulary": 700, "diffusion_width": 48, "diffusion_depth": 2,
    }  # fmt: skip
    state = lively(HART(HARTConfig(**config)))
    book = {f"quantize.{k}": v for k, v in lively(HybridQuantizer(700, 32, 8), 1).items()}
    model = fv.from_states("hart", config, state, book)
    if smooth:
        model.to("cpu", torch.float64)
    torch.manual_seed(1)
    context = Context(
        torch.randn(2, 9, 24), torch.tensor([[*range(9)], [0, 1, 2, 3, 4, 5, 5, 5, 5]])
    )
    fast = reference.FastVAR(ratios, 5 if ratios else None)
    method = fv.Prune({s - 8: r for s, r in ratios.items()}) if ratios else fv.Dense()
    sampling = fv.Sampling(guidance=4.5, top_p=1.0, smooth=smooth)
    made, keys = watched(model, context, method, 4, sampling=sampling)
    latent, log = reference.hart(
        state, book, *context, HART_SIDES, 2, 2, seed=4, rest=3, cfg=4.5, smooth=smooth, fast=fast
    )
    compare(made, keys, latent, log)
    assert log.shapes == [(2 * s * s, 700) for i, s in enumerate(HART_SIDES) if ratios.get(i) != 1]


def test_released_counts_of_kept_tokens_and_keys():
    def forwarded(method, grids, layers):
        run = method.start(grids, layers)
        kept = {
            (g.h, g.w): run.forwarded(fv.Site(10, "attn"), g)
            for g in grids
        }  # fmt: skip
        keys = [sum(run.forwarded(fv.Site(i, "attn"), g) for g in grids) for i in (0, 10)]
        return kept, keys

    kept, keys = forwarded(fv.PRESETS["infinity"], scales.grids(schedule()), 32)
    assert (kept[32, 32], kept[40, 40], kept[48, 48], kept[64, 64]) == (615, 800, 0, 0)
    assert keys == [4121, 2912]
    kept, keys = forwarded(fv.PRESETS["hart"], scales.grids(scales.HART, prefix=299), 24)
    assert (kept[48, 48], kept[64, 64]) == (1152, 1024)
    assert keys == [5526, 5526]


TALL = {"depth": 5, "width": 32, "heads": 2, "ffn": 32, "bits": 4, "text_width": 16,
        "text_length": 8, "pool_heads": 2}  # fmt: skip


@pytest.fixture(scope="module")
def tall():
    return fv.from_states("infinity", TALL, lively(Infinity(InfinityConfig(**TALL))))


@pytest.mark.parametrize("aspect", scales.ASPECTS)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_fastvar_runs_at_every_aspect_and_batch(tall, aspect, guidance):
    sizes, method = schedule(aspect), infinity_preset(13, 5)
    mask = torch.ones(2, 3, dtype=torch.bool)
    text = Text(torch.randn(2, 3, 16), mask)
    made, keys = watched(tall, text, method, 0, sizes=sizes, sampling=fv.Sampling(guidance))
    assert [t is None for t in made.tokens] == [False] * 11 + [True] * 2
    assert made.canvas.shape == (2, 4, *sizes[-1])
    lengths = [h * w for h, w in sizes[:11]]
    pruned = [n - int(n * r) for n, r in zip(lengths[9:], (0.4, 0.5), strict=True)]
    assert keys[0] == sum(lengths)
    assert keys[4] == sum(lengths[:9]) + sum(pruned)


@pytest.mark.parametrize(
    ("height", "width"), [(1344, 1344), (1344, 1008), (1920, 960), (960, 1920)]
)
def test_zero_shot_sizes_and_the_choice_of_reference(tall, height, width):
    h, w = height // 16, width // 16
    sizes = scales.infinity_at(height, width)
    assert sizes[-1] == (h, w)
    with pytest.raises(ValueError, match="multiples of 16 pixels; not 1344x1000"):
        scales.infinity_at(1344, 1000)
    assert len(sizes) == 13  # within the trained level embeddings
    last = Grid(12, h, w)
    (trained,) = tall.transformer.positions([last])
    wide = InfinityConfig(**TALL, reference=(h, w))
    (own,) = Infinity(wide).positions([last])
    assert trained.shape == own.shape == (h * w, 8)
    trained, own = (torch.view_as_real(t).flatten(1) for t in (trained, own))
    assert len(trained.unique(dim=0)) < h * w  # neighbours share a trained position
    assert len(own.unique(dim=0)) == h * w  # every place its own, some beyond the trained ones
