"""Exploring one prompt: what is computed again, what is compared, and how it is stopped."""

import pytest
import torch

import fastvar_lab as fv
from fastvar_lab.experiments.explore import Exploration, Stopped, survey
from fastvar_lab.instruments.attention import attention_at
from fastvar_lab.measure.quality import MOST_PSNR, psnr
from fastvar_lab.models import stamps


def test_only_what_changed_is_computed_again(small):
    lab = Exploration(small)
    first = lab.compare("a red circle", 3, fv.Prune({-2: 0.5, -1: 0.5}))
    assert first.first_step == 3
    later = lab.compare("a red circle", 3, fv.Prune({-2: 0.5, -1: 0.8}))
    assert later.first_step == 4  # from the pruned run, not from the full one
    back = lab.compare("a red circle", 3, fv.Prune({-1: 0.8}))
    assert back.first_step == 4  # from the full one
    scratch = fv.generate(small, "a red circle", fv.Prune({-2: 0.5, -1: 0.8}), seed=3)
    assert (later.fast == fv.to_uint8(small.decode(scratch.canvas))[0]).all()
    assert torch.equal(later.trace.canvases[4], scratch.canvas)
    assert later.agreement[:3] == [1, 1, 1]
    assert later.agreement[4] < 1
    assert later.speedup_flop_bound > first.speedup_flop_bound > 1
    assert set(later.trace.kept) == set(first.trace.kept)


def test_a_survey_draws_what_each_method_draws_alone(small):
    pruned, cached = fv.Prune({-2: 0.5, -1: 0.5}), fv.Prune({-1: 0.8}, cache_step=-3)
    for a, b in (
        (fv.Dense(), pruned),
        (pruned, cached),
        (fv.Prune({-1: 1.0}), fv.Merge({-1: 0.5})),
    ):
        samples = survey(small, ["a red ring", "two stars"], [3, 4], a, b)
        assert [s.psnr for s in samples] == sorted(s.psnr for s in samples)
        for sample in samples:
            for method, seen in ((a, sample.a), (b, sample.b)):
                alone = fv.generate(small, sample.prompt, method, seed=sample.seed)
                drawn = fv.to_uint8(small.decode(alone.canvas))[0]
                assert abs(seen.astype(int) - drawn).max() <= 1  # a batch sums in another order


def test_comparisons_are_kept_and_made_ahead(small):
    lab, ahead = Exploration(small), fv.Prune({-1: 0.8})
    lab.prepare(ahead, lambda: False)
    assert lab.kept == []  # there is no prompt yet
    first = lab.compare("a red circle", 3, fv.Prune({-1: 0.5}))
    calls = []

    def stopped():
        calls.append(1)
        return len(calls) == 5

    with pytest.raises(Stopped):  # amid a step
        lab.prepare(ahead, stopped)
    lab.prepare(ahead, lambda: False)
    begun = []
    known = lab.compare("a red circle", 3, ahead, begins=begun.append)
    assert begun == []
    scratch = fv.generate(small, "a red circle", ahead, seed=3)
    assert (known.fast == fv.to_uint8(small.decode(scratch.canvas))[0]).all()
    assert lab.drawn_of(known.trace) is None
    assert torch.equal(lab.drawn(known).generation.canvas, scratch.canvas)
    assert lab.drawn_of(known.trace).generation.snapshot is not None
    assert lab.compare("a red circle", 3, fv.Prune({-1: 0.5})) is first
    assert lab.compare("a red circle", 4, ahead) is not known
    assert lab.drawn(known) is None
    assert [c.seed for c in lab.kept] == [4]
    lab.most = 1  # a byte: the newest alone
    lab.compare("a red circle", 4, fv.Dense())
    assert [c.method for c in lab.kept] == [fv.Dense()]


def test_weights_are_read_once_for_a_comparison(small, monkeypatch):
    lab, read, stamp_of = Exploration(small), [], stamps.stamp_of
    lab.duel("a red circle", 3, fv.Prune({-1: 0.5}), fv.Dense())
    monkeypatch.setattr(stamps, "stamp_of", lambda part: read.append(part) or stamp_of(part))
    lab.duel("a red circle", 3, fv.Prune({-1: 0.6}), fv.Dense())
    assert len(read) == len(set(map(id, read))) > 0
    weight = next(small.transformer.parameters())
    before = weight.clone()
    weight.mul_(1.5)  # a change between two comparisons is noticed
    changed = lab.duel("a red circle", 3, fv.Prune({-1: 0.6}), fv.Dense())
    scratch = fv.generate(small, "a red circle", fv.Prune({-1: 0.6}), seed=3)
    weight.copy_(before)
    assert (changed.a.fast == fv.to_uint8(small.decode(scratch.canvas))[0]).all()
    assert changed.psnr == psnr(changed.a.fast, changed.b.fast)


def test_attention_is_read_without_computing_earlier_layers(small, monkeypatch):
    lab, shared = Exploration(small), fv.Prune({-1: 0.5}, granularity="step")
    block, ran = type(small.transformer.blocks[0].ffn), []
    forward = block.forward
    monkeypatch.setattr(block, "forward", lambda ffn, x: ran.append(x) or forward(ffn, x))

    def attention(*options):
        ran.clear()
        return attention_at(small, run, trace, step, 2, *options), len(ran)

    for method in (fv.Prune({-1: 0.5}), shared, fv.Dense()):
        known = lab.compare("a red circle", 3, method)
        run, trace, outputs, _ = lab.drawn_of(known.trace)
        for step in (3, 4):
            plain, computed = attention({})
            quick, again = attention(outputs)
            first = method == shared and step == 4  # its tokens are chosen in the first layer
            assert (computed, again) == (2, 2 if first else 0)
            assert quick.keys() == plain.keys() == {"attn", "cross"}
            for kind in plain:
                assert torch.equal(quick[kind].q, plain[kind].q)
                assert torch.equal(quick[kind].k, plain[kind].k)


def test_nothing_pruned_is_the_full_picture(small):
    found = Exploration(small).compare("a red circle", 1, fv.Dense())
    assert (found.full == found.fast).all()
    assert (found.psnr, found.ssim, found.speedup_flop_bound) == (MOST_PSNR, 1, 1)


def test_a_stopped_exploration_goes_on_afterwards(small):
    lab, calls = Exploration(small), []

    def stopped():
        calls.append(1)
        return len(calls) == 3

    with pytest.raises(Stopped):
        lab.compare("a red circle", 3, fv.Prune({-1: 0.5}), stopped)
    assert lab.full is None
    whole = lab.compare("a red circle", 3, fv.Prune({-1: 0.5}))
    calls.clear()
    with pytest.raises(Stopped):
        lab.compare("a red circle", 3, fv.Prune({-3: 0.5, -1: 0.9}), stopped)
    again = lab.compare("a red circle", 3, fv.Prune({-1: 0.5}))
    assert (again.fast == whole.fast).all()
