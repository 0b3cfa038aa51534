import torch
from einops import rearrange

from fastvar_lab.backbones import quantize
from fastvar_lab.backbones.infinity import Text
from fastvar_lab.generate import generate
from fastvar_lab.methods.prune import Dense, Prune
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
    together = teacher_forced(small.transformer, Text(*text), inputs, small.sizes, everything)
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
