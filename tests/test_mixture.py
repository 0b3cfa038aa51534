"""The official precision against references that write out every type of the released mixture."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

import fastvar_lab as fv
from fastvar_lab import scales
from fastvar_lab.backbones.hart import HART, Context, HARTConfig
from fastvar_lab.backbones.infinity import Infinity, InfinityConfig, Text
from fastvar_lab.backbones.quantize import BitQuantizer, HybridQuantizer, VectorQuantizer
from fastvar_lab.backbones.var import VAR, VARConfig
from fastvar_lab.methods.presets import infinity_preset
from fastvar_lab.scales import infinity as schedule
from fastvar_lab.scales import square
from fastvar_lab.seam import Grid
from tests import mixture
from tests.families import small_model
from tests.test_parity import lively

SEEDS = range(4, 12)
LOW = pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])


class Logits(fv.Wrapper):
    """Keeps the logits of every step."""

    def __init__(self, inner, kept):
        super().__init__(inner)
        self.kept = kept

    def after(self, grid, tokens, canvas, logits=None):
        self.kept.append((canvas, logits))
        self.inner.after(grid, tokens, canvas, logits)


def compared(model, low, condition, reference, **options):
    """Compare tokens, logits within 5e-7 of the largest, and the latent, at one seed of several.

    Where a processor's float32 kernels sum in another order for another shape, a rounding to 16
    bits flips, and all that follows differs: then the first steps must be equal, and the first one
    that is not by no more than such a rounding. A wrong type differs from the first step on.
    """
    model.set_precision("official", low)
    differ = []
    for seed in SEEDS:
        differ.append(difference(model, condition, *reference(seed=seed), seed, **options))
        if differ[-1] is None:
            return
    assert all(step > 1 and gap <= torch.finfo(low).eps for step, gap in differ), differ


def difference(model, condition, latent, log, seed, **options):
    """Return the first step that differs from the reference, and by how much; None if none does."""
    kept = []
    made = fv.generate(
        model, condition, fv.Dense(), draws=fv.Streamed(seed),
        watch=[lambda run: Logits(run, kept)], **options,
    )  # fmt: skip
    steps = zip(kept, log.logits, made.tokens, log.tokens)
    for step, ((_, logits), wanted, drawn, tokens) in enumerate(steps):
        gap = float((logits.flatten() - wanted.flatten()).abs().max() / wanted.abs().max())
        if not gap <= 5e-7:
            return step, gap
        assert torch.equal(drawn.long(), tokens.long())
    canvas = kept[len(log.tokens) - 1][0]
    assert canvas.dtype == latent.dtype
    assert torch.allclose(canvas, latent, rtol=0, atol=5e-7)
    return None


@LOW
@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize(
    ("sizes", "aspect"), [(square(1, 2, 4, 6, 8), 1.0), (schedule(1.5, "0.06M")[:5], 1.5)]
)
def test_infinity(low, patch, sizes, aspect):
    config = {
        "depth": 3, "width": 64, "heads": 2, "ffn": 128, "bits": 14, "patch": patch,
        "text_width": 32, "text_length": 12, "pool_heads": 4,
    }  # fmt: skip
    state = lively(Infinity(InfinityConfig(**config)))
    torch.manual_seed(1)
    mask = torch.tensor([[True] * 9, [True] * 4 + [False] * 5])
    text = Text(torch.randn(2, 9, 32) * mask[..., None], mask)
    reference = partial(
        mixture.infinity, state, *text, sizes, schedule(aspect)[-1], 3, 2, 14, low=low,
        patch=patch, pool_heads=4, cfg=3.0, tau=0.5,
    )  # fmt: skip
    model = fv.from_states("infinity", config, state, sizes=sizes)
    compared(model, low, text, reference, sampling=fv.Sampling(guidance=3.0, temperature=0.5))


@LOW
@pytest.mark.parametrize("shared", [False, True], ids=["own adaLN", "shared adaLN"])
@pytest.mark.parametrize(("sides", "pictures"), [((1, 2, 3, 5, 6), 2), ((1, 2, 3, 4, 6, 9), 1)])
def test_var(low, shared, sides, pictures):
    config = {
        "depth": 3, "width": 64, "heads": 2, "sides": sides, "shared_aln": shared,
        "classes": 10, "vocabulary": 40, "code": 8,
    }  # fmt: skip
    state = lively(VAR(VARConfig(**config)))
    quantizer = lively(VectorQuantizer(40, 8, len(sides)), 1)
    book = {f"quantize.{k}": v for k, v in quantizer.items()}
    labels = torch.tensor([3, 7])[:pictures]
    reference = partial(
        mixture.var, state, book, labels, sides, 3, 2, low=low, shared=shared, cfg=4.0, top_k=20,
        top_p=0.95,
    )  # fmt: skip
    model = fv.from_states("var", config, state, book)
    sampling = fv.Sampling(guidance=4.0, top_k=20, top_p=0.95)
    compared(model, low, labels, reference, sampling=sampling)


@LOW
@pytest.mark.parametrize("sides", [(1, 2, 3, 4, 5, 6), (1, 2, 3, 5, 7, 9)], ids=str)
def test_hart_up_to_its_last_step(low, sides):
    config = {
        "depth": 2, "width": 64, "heads": 2, "hidden": 96, "sides": sides, "context": 9,
        "context_width": 24, "vocabulary": 700, "diffusion_width": 48, "diffusion_depth": 2,
    }  # fmt: skip
    state = lively(HART(HARTConfig(**config)))
    state["diffloss.net.final_layer.linear.weight"] *= 0.1  # which overflows float16
    quantizer = lively(HybridQuantizer(700, 32, len(sides)), 1)
    book = {f"quantize.{k}": v for k, v in quantizer.items()}
    torch.manual_seed(1)
    positions = torch.tensor([[*range(9)], [0, 1, 2, 3, 4, 5, 5, 5, 5]])
    context = Context(torch.randn(2, 9, 24), positions)
    reference = partial(mixture.hart, state, book, *context, sides, 2, 2, low=low, cfg=4.5)
    model = fv.from_states("hart", config, state, book)
    sampling = fv.Sampling(guidance=4.5, top_p=1.0)
    compared(model, low, context, reference, sampling=sampling)


@LOW
def test_kept_tokens_are_exact_beside_narrow_mixtures(low):
    model = small_model("var").set_precision("official", low)
    model.sampling = replace(model.sampling, smooth=True)
    rows = fv.generate(
        model, "7", fv.Dense(), sampling=replace(model.sampling, smooth=False)
    ).tokens
    left = torch.tensor([[1.0, 0.0]])
    made = fv.generate(model, "7", fv.Dense(), given=rows, keep=left)
    side = model.sizes[-1][1]
    exact = model.quantizer.codebook[rows[-1]].unflatten(1, (-1, side))[:, :, : side // 2]
    codes = made.tokens[-1].unflatten(1, (-1, side))
    assert torch.equal(codes[:, :, : side // 2], exact)
    drawn = codes[:, :, -(side // 2) :]
    assert torch.equal(drawn, drawn.to(low).float())  # drawn ones stay narrow


@LOW
def test_products_are_scaled_in_the_kernel(low):
    config = {
        "depth": 1, "width": 64, "heads": 2, "sides": (1, 2, 3), "classes": 10,
        "vocabulary": 32, "code": 8, "attn_l2_norm": False,
    }  # fmt: skip
    state = lively(VAR(VARConfig(**config)))
    book = {f"quantize.{k}": v for k, v in lively(VectorQuantizer(32, 8, 3), 1).items()}
    model, calls = fv.from_states("var", config, state, book), []
    model.set_precision("official", low)

    class Scales(fv.Wrapper):
        def attend(self, site, grid, q, k, v, mask=None, scale=1.0):
            calls.append((q.dtype, scale))
            return self.inner.attend(site, grid, q, k, v, mask, scale)

    fv.generate(model, torch.tensor([3]), fv.Dense(), watch=[Scales])
    assert calls == [(low, 0.25 * 32**-0.5)] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("patch", [1, 2])
def test_official_infinity_embeds_in_the_released_layout(dtype, patch):
    config = {
        "depth": 1, "width": 32, "heads": 2, "ffn": 32, "bits": 6, "patch": patch,
        "text_width": 32, "text_length": 12, "pool_heads": 4,
    }  # fmt: skip
    state, layouts = lively(Infinity(InfinityConfig(**config))), []
    model = fv.from_states("infinity", config, state, sizes=square(1, 2, 4))
    model.set_precision("official", dtype)
    model.transformer.word_embed.register_forward_pre_hook(
        lambda _, inputs: layouts.append(inputs[0].is_contiguous())
    )
    text = Text(torch.randn(2, 4, 32), torch.ones(2, 4, dtype=torch.bool))
    fv.generate(model, text, fv.Dense())
    assert layouts == [patch == 1] * 2


@pytest.mark.parametrize("bits", [14, 16, 32, 64])
@pytest.mark.parametrize("patch", [1, 2])
def test_codes_are_normalised_twice(bits, patch):
    quantizer = BitQuantizer(bits, patch)
    tokens = torch.rand(2, 12, bits * patch**2) < 0.5
    grid = Grid(0, 3, 4)
    latent = quantizer.accumulate(torch.zeros(2, bits, 3 * patch, 4 * patch), tokens, grid)
    signs = torch.where(latent > 0, 1.0, -1.0)
    assert torch.equal(latent, F.normalize(signs * bits**-0.5, dim=1))
    if bits in (14, 32):  # where the first normalisation leaves a rounding
        assert not torch.equal(latent, signs / bits**0.5)


def test_streamed_exponentials_have_the_type_of_the_model():
    def drawn(draws, dtype):
        stream = draws.start(torch.device("cpu"))
        stream.pick(0, torch.full((1, 3, 2), 0.5, dtype=dtype))
        return stream.exponential(0, (50,), dtype)

    narrow, wide = (drawn(fv.Streamed(1), kind) for kind in (torch.float32, torch.float64))
    assert (narrow.dtype, wide.dtype) == (torch.float32, torch.float64)
    assert not torch.equal(wide, wide.float().double())
    keyed = [drawn(fv.Keyed((1,)), kind) for kind in (torch.float32, torch.float64)]
    assert torch.equal(keyed[0].double(), keyed[1])


def test_float64_states_stay_as_they_are():
    config = {"depth": 2, "width": 64, "heads": 2, "sides": (1, 2), "classes": 10,
              "vocabulary": 40, "code": 8}  # fmt: skip
    state = {k: v.double() / 3 for k, v in lively(VAR(VARConfig(**config))).items()}
    book = {f"quantize.{k}": v for k, v in lively(VectorQuantizer(40, 8, 2), 1).items()}
    model = fv.from_states("var", config, state.copy(), book, dtype=torch.float64)
    for name, value in model.transformer.state_dict().items():
        assert torch.equal(value, state[name])
    assert model.dtype == torch.float64
    assert fv.from_states("var", config, state.copy(), book).dtype == torch.float32
    model.set_precision("official", torch.float64)
    assert model.autocast is None


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_the_paper_preset_prunes_layers_from_the_fourth_on(depth):
    sizes = schedule(1.0, "1M")
    run = infinity_preset(13, depth).start(scales.grids(sizes), depth)
    for grid in scales.grids(sizes)[9:]:
        for layer in range(depth):
            computed = run.forwarded(fv.Site(layer, "ffn"), grid)
            if grid.index > 10:
                assert computed == 0
            else:
                assert (computed < grid.tokens) == (layer >= 3)
    assert infinity_preset(10, 3).pairs == ()
