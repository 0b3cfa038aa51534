import pytest
import torch
from einops import rearrange

from fastvar_lab.backbones import quantize
from fastvar_lab.backbones.autoencoder import AutoEncoderConfig
from fastvar_lab.backbones.infinity import InfinityConfig, Text
from fastvar_lab.generation import generate, resume
from fastvar_lab.methods.prune import Dense, Prune
from fastvar_lab.models import build, releases
from fastvar_lab.scales import square
from fastvar_lab.seam import Wrapper
from fastvar_lab.training.teacher import teacher_forced


class Logits(Wrapper):
    """Records what the last layer of each step hands to the head."""

    def __init__(self, inner):
        super().__init__(inner)
        self.seen = []

    def stack(self, grid, blocks, x):
        x = self.inner.stack(grid, blocks, x)
        self.seen.append(x)
        return x


def test_training_pass_gives_the_logits_of_generation(small):
    logs = []

    def watch(run):
        logs.append(Logits(run))
        return logs[0]

    made = generate(small, ["a red circle", "two blue squares"], Dense(), watch=[watch])
    text = small.transformer.with_null(small.condition(made.request.prompts))
    state = small.transformer.begin(text, made.request.grids, logs[0])
    stepwise = [small.transformer.logits(state, x) for x in logs[0].seen]

    canvas, inputs = small.blank(2, made.request.grids[-1]), []
    for grid, bits in zip(made.request.grids, made.tokens, strict=True):
        if grid.index:
            resized = quantize.next_input(canvas, grid.h, grid.w)
            inputs.append(rearrange(resized, "b d h w -> b (h w) d").repeat(2, 1, 1))
        canvas = small.quantizer.accumulate(canvas, bits, grid)
    assert torch.equal(canvas, made.canvas)
    everything = [None] * len(small.sizes)
    together, middle = teacher_forced(
        small.transformer, Text(*text), inputs, small.sizes, everything
    )
    assert torch.equal(
        middle[:, 0],
        (state.start + small.transformer.where(made.request.grids[0], state.levels))[:, 0],
    )
    assert torch.allclose(together, torch.cat(stepwise, dim=1), atol=1e-10, rtol=0)
    assert together.std() > 0.1


def test_forcing_the_pruned_path_with_every_token_kept_reproduces_dense(small):
    dense = generate(small, "a red circle", Dense(), seed=3)
    forced = Prune({-1: 1e-9, -2: 1e-9})
    assert torch.equal(generate(small, "a red circle", forced, seed=3).canvas, dense.canvas)


def test_ratio_zero_is_plain_generation_bit_for_bit(small):
    dense = generate(small, "a red circle", Dense(), seed=3)
    unpruned = generate(small, "a red circle", Prune({-1: 0.0, -2: 0.0}), seed=3)
    assert torch.equal(unpruned.canvas, dense.canvas)
    pruned = generate(small, "a red circle", Prune({-1: 0.7, -2: 0.5}), seed=3)
    assert not torch.equal(pruned.canvas, dense.canvas)


@pytest.mark.parametrize(
    ("name", "millions", "tokenizer"),
    [
        ("infinity-125m", 125.1, 110.0),
        ("infinity-layer16", 361.6, None),
        ("infinity-layer24", 940.9, None),
        ("infinity-layer32", 2256.7, None),
        ("infinity-layer40", 4716.4, None),
        ("infinity-layer48", 8767.2, None),
        ("infinity-2b", 2204.6, 110.1),
        ("infinity-8b", 8375.8, 81.6),
    ],
)
def test_released_sizes(name, millions, tokenizer):
    with torch.device("meta"):
        model = build.build(releases.INFINITY[name])
    assert sum(p.numel() for p in model.transformer.parameters()) / 1e6 == pytest.approx(
        millions, abs=0.06
    )
    if tokenizer:
        count = sum(p.numel() for p in model.tokenizer.parameters()) / 1e6
        assert count == pytest.approx(tokenizer, abs=0.06)


@pytest.mark.parametrize("patch", [1, 2])
def test_patchified_tokens(patch):
    config = InfinityConfig(2, 64, 2, 128, 6, 32, 16, (8, 8), patch=patch, pool_heads=4)
    torch.manual_seed(0)
    small = build.build(config, tokenizer=AutoEncoderConfig(6, (32, 32), 1, 1))
    small = small.to("cpu", torch.float64)
    sizes = square(1, 2, 3, 4)
    made = generate(small, ["a red circle", "b"], Prune({-1: 0.5}), sizes=sizes, snapshot=True)
    assert made.canvas.shape == (2, 6, 4 * patch, 4 * patch)
    assert made.tokens[2].shape == (2, 9, 6 * patch**2)
    scratch = generate(small, ["a red circle", "b"], Dense(), sizes=sizes)
    assert torch.equal(resume(small, made, Dense()).canvas, scratch.canvas)
    steps = {abs(float(v)) for v in (scratch.canvas * 6**0.5).unique()}
    assert max(steps) <= 4 + 1e-9  # four codes of +-1 / sqrt(d), d the latent's own channels
