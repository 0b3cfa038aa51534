"""Rivals by guidance, whole stacks and depth: their references, promises and errors."""

import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

import fastvar_lab as fv
from fastvar_lab import scales
from fastvar_lab.backbones.infinity import Infinity, InfinityConfig, Text
from fastvar_lab.measure import skip_rule
from fastvar_lab.methods import depthvar, focusvar, lazyvar, skipvar
from fastvar_lab.methods.columns import describe, family, labels, written
from fastvar_lab.methods.depthvar import DepthVAR
from fastvar_lab.methods.fingerprint import user_code_hash
from fastvar_lab.methods.focusvar import FocusVAR, FocusVARAdaptive, SharedUpdate
from fastvar_lab.methods.guidance import Tail
from fastvar_lab.methods.lazyvar import LazyVAR
from fastvar_lab.methods.observer import Map
from fastvar_lab.methods.parse import read_method
from fastvar_lab.methods.skipvar import SkipVAR
from fastvar_lab.scales import TINY, grids, square
from fastvar_lab.speed.flops import step_flops, total
from fastvar_lab.verification import verify
from tests import infinity_by_hand as reference
from tests.families import FAMILIES, prompt, small_model
from tests.test_parity import lively

PROMPT = "a cyan star left of a dotted pink ring"
SIZES = square(1, 2, 3, 4, 5, 6)
CONFIG = {
    "depth": 4, "width": 32, "heads": 2, "ffn": 64, "bits": 6, "text_width": 16,
    "text_length": 8, "pool_heads": 2, "reference": (6, 6),
}  # fmt: skip
PRUNE = fv.Prune({-2: 0.5, -1: 0.75})


@pytest.fixture(scope="module")
def pair():
    """A small Infinity in float64 with an encoded text, and the arguments of its reference."""
    state = lively(Infinity(InfinityConfig(**CONFIG)))
    model = fv.from_states("infinity", CONFIG, state, sizes=SIZES).to("cpu", torch.float64)
    text = torch.randn(5, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    encoded = Text(text[None], torch.ones(1, 5, dtype=torch.bool))
    return model, encoded, (state, text, SIZES, 4, 2, 6)


SAMPLING = fv.Sampling(guidance=3.0, temperature=0.7, top_p=1.0)


def follows(pair, method, function, *args, **options):
    """Generate under a method and by its reference; compare tokens and latents."""
    model, text, state = pair
    made = fv.generate(model, text, method, draws=fv.Streamed(4), sampling=SAMPLING)
    run = reference.Stepper(*state, seed=4, cfg=3.0, tau=0.7)
    function(run, *args, **options)
    drawn = [tokens[0] for tokens in made.tokens if tokens is not None]
    assert len(drawn) == len(run.log.tokens)
    for mine, theirs in zip(drawn, run.log.tokens, strict=True):
        assert torch.equal(mine.long(), theirs.long())
    assert (made.canvas - run.latent).abs().max() < 1e-10
    return run


@pytest.mark.parametrize(
    ("method", "rows"),
    [
        (Tail(cond_from=-2), {4: "c", 5: "c"}),
        (Tail(null_from=-2), {4: "n", 5: "n"}),
        (Tail(skip_from=-2), {4: "", 5: ""}),
        (Tail(cond_from=-3, skip_from=-1), {3: "c", 4: "c", 5: ""}),
    ],
    ids=str,
)
def test_tails_follow_the_reference(pair, method, rows):
    follows(pair, method, reference.tail, rows)


@pytest.mark.parametrize(("first", "last", "layer"), [(3, 5, 2), (3, 4, 1), (5, 5, 0)])
def test_focusvar_follows_the_reference(pair, first, last, layer):
    method = FocusVAR(first=first - 6, last=last - 6, layer=layer)
    follows(pair, method, reference.focus, first, last, layer)


@pytest.mark.parametrize("spread", [0.0, 1e6])
def test_the_adaptive_fusion_follows_the_reference(pair, spread):
    thresholds = (spread, -1.0, 0.0)
    method = FocusVARAdaptive(fv.Dense(), -3, 1, 3, *thresholds)
    choose = reference.gap_decision(1, 3, *thresholds)
    run = follows(pair, method, reference.focus, 3, 5, choose)
    assert (run.log.choice[0] > spread) == (spread == 0)


def test_shared_updates_follow_the_reference(pair):
    method = SharedUpdate(first=-4, last=-2, layers=(1, 3))
    follows(pair, method, reference.shared, {2, 3, 4}, {1, 2})


@pytest.mark.parametrize("group", [True, False])
def test_lazyvar_follows_the_reference(pair, group):
    method = LazyVAR({-3: 0.6, -2: 0.7, -1: 0.75}, group=group)
    follows(pair, method, reference.lazy, {3: 7, 4: 8, 5: 9}, group)


@pytest.mark.parametrize("start", [2, 4])
def test_depthvar_follows_the_reference(pair, start):
    follows(pair, DepthVAR(start - 6), reference.depth, start, 0.25)


def test_features_of_skipvar_follow_the_reference():
    rng = np.random.default_rng(0)
    for shape in ((12, 12), (9, 14)):
        pictures = torch.tensor(rng.uniform(-1, 1, (2, 1, 3, *shape)), dtype=torch.float32)
        mine = skipvar.features(*pictures)[0].tolist()
        gray = pictures.double().mean(2)[:, 0].numpy()
        assert np.allclose(mine, reference.skip_features(*gray), atol=1e-6)


def rule(steps, skip, rows, decide=2, look=3):
    """Rules with two features, each a number of classes and their weights."""

    def linear(classes, weights):
        parts = {"mean": [0.2, 0.5], "scale": [0.1, 0.1], "classes": classes}
        return {**parts, "weights": weights, "bias": [0.0] * len(classes)}

    values = {"steps": steps, "decide": decide, "look": look}
    return {**values, "skip": linear(*skip), "rows": linear(*rows)}


def always(n):
    return [n], [[0.0, 0.0]]


@pytest.mark.parametrize(("skip", "rows"), [(1, 0), (2, 0), (0, 1), (0, 2), (0, 0)])
def test_what_skipvar_decides_is_a_tail(small, tmp_path, skip, rows):
    path = tmp_path / "rule.json"
    path.write_text(json.dumps(rule(5, always(skip), always(rows))))
    tail = fv.Dense()
    if skip or rows:
        tail = Tail(**{"skip_from" if skip else "cond_from": -(skip or rows)})
    made = fv.generate(small, PROMPT, SkipVAR(path), seed=3)
    assert torch.equal(made.canvas, fv.generate(small, PROMPT, tail, seed=3).canvas)


def test_every_picture_decides_for_itself_what_to_skip(small, tmp_path):
    path = tmp_path / "rule.json"
    path.write_text(json.dumps(rule(5, always(0), always(0))))
    seeds, found = range(4), []
    real = skipvar.features_of_latents

    def keep(*args):
        found.append(real(*args))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(skipvar, "features_of_latents", keep)
        fv.generate(small, [PROMPT] * 4, SkipVAR(path), seed=list(seeds))
    middle = found[0][:, 0].sort().values[1:3].mean().item()
    values = rule(5, ([0, 2], [[-1.0, 0.0], [1.0, 0.0]]), always(0))
    values["skip"]["mean"][0] = middle
    path.write_text(json.dumps(values))
    method = SkipVAR(path)
    tails = [method.settings.tails(row)[0] for row in found[0].tolist()]
    assert sorted(tails) == [0, 0, 2, 2]
    both = fv.generate(small, [PROMPT] * 4, method, seed=list(seeds))
    alone = [fv.generate(small, PROMPT, method, seed=seed) for seed in seeds]
    canvases = torch.cat([one.canvas for one in alone])
    assert torch.allclose(both.canvas, canvases, atol=1e-9)
    assert [one.tokens[-1] is None for one in alone] == [n == 2 for n in tails]


def test_published_rules_are_straight_lines():
    method = SkipVAR("infinity-0.84")
    assert method.settings.rows.classes == (1, 2, 3)
    assert method.settings.tails((0.05, 0.4)) == (3, 0)  # little changes, little detail
    assert method.settings.tails((0.3, 0.6))[0] == 0
    acts = method.acts(grids(scales.infinity()))
    assert [act.rows for act in acts[9:]] == [fv.Rows.BOTH, None, None, None]
    assert SkipVAR("tiny-0.96").settings.steps == len(TINY)


def test_a_rule_is_refused_on_what_it_was_not_fitted_for(tmp_path):
    tiny, text = fv.load("tiny"), "a red ring"
    fv.generate(tiny, text, SkipVAR("tiny-0.96"))
    fv.generate(tiny.to("cpu", torch.bfloat16), text, SkipVAR("tiny-0.96"))
    tiny = fv.load("tiny")
    for sampled, rule_, sentence in (
        (tiny, "tiny-cfg4-0.96", "was fitted for guidance 4; not for guidance 2"),
        (tiny.with_guidance(4.0), "tiny-0.9", "was fitted for guidance 2; not for guidance 4"),
    ):
        with pytest.raises(ValueError, match=rf"the rule {rule_} {sentence}"):
            fv.generate(sampled, text, SkipVAR(rule_))
        tailed = Tail(SkipVAR(rule_), skip_from=-1)
        with pytest.raises(ValueError, match=sentence):
            fv.generate(sampled, text, tailed)
    tiny.transformer.head.weight.mul_(1.01)
    with pytest.raises(ValueError, match="was fitted for the weights b6c2386e4ee47d75; not for"):
        fv.generate(tiny, text, SkipVAR("tiny-0.96"))
    thirteen = infinity_of(13)
    fv.generate(thirteen, prompt(thirteen), SkipVAR("infinity-0.88"))
    thirteen.family = "var"
    with pytest.raises(ValueError, match="was fitted for infinity; not for var"):
        fv.generate(thirteen, prompt(thirteen), SkipVAR("infinity-0.88"))


def infinity_of(steps):
    """A small random Infinity with so many steps."""
    model = small_model("infinity")
    model.sizes = square(*range(1, steps + 1))
    return model


def test_logistic_regression_is_at_the_optimum_of_its_loss():
    x = np.array([[0.0, 1.0], [1.0, 0.5], [2.0, 0.0], [3.0, 2.0], [0.5, 2.0], [2.5, 0.2]])
    fitted = skip_rule.logistic(x, [0, 0, 1, 1, 0, 2])
    weights, bias = np.array(fitted.weights), np.array(fitted.bias)
    z = (x - fitted.mean) / fitted.scale
    scores = z @ weights.T + bias
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    truth = np.eye(3)[[0, 0, 1, 1, 0, 2]]
    assert np.allclose((p - truth).T @ z + weights, 0, atol=1e-4)
    assert np.allclose((p - truth).sum(0), 0, atol=1e-4)


def methods(depth, steps):
    return [
        Tail(cond_from=-2),
        Tail(null_from=-1),
        Tail(PRUNE, cond_from=-1),
        Tail(fv.Merge({-1: 0.5}), null_from=-3, skip_from=-1),
        FocusVAR(first=-2, layer=depth - 1),
        FocusVAR(PRUNE, first=-3, last=-2, layer=1),
        FocusVARAdaptive(PRUNE, -3, 0, depth - 1, 0.9),
        SharedUpdate(PRUNE, first=-3, last=-2, layers=(0, 1)),
        LazyVAR({-2: 0.7, -1: 0.8}),
        LazyVAR({-2: 0.7, -1: 0.8}, group=False),
        Tail(LazyVAR({-3: 0.5, -2: 1.0, -1: 0.8}), cond_from=-1),
        DepthVAR(-3),
        Tail(DepthVAR(-2, "two-level", weighted=False), cond_from=-1),
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_promise_is_kept_on_every_family(name):
    model = small_model(name).to("cpu", torch.float64)
    for method in methods(model.depth, len(model.sizes)):
        report = verify(model, method, prompt(model))
        assert not report.passed.eq(False).any(), (method, list(report.note))


@pytest.mark.parametrize("name", FAMILIES)
def test_skipvar_keeps_every_promise(name, tmp_path):
    model = small_model(name).to("cpu", torch.float64)
    steps = len(model.sizes)
    path = tmp_path / "rule.json"
    path.write_text(json.dumps(rule(steps, always(0), always(1), steps - 3, steps - 2)))
    report = verify(model, SkipVAR(path), prompt(model))
    assert not report.passed.eq(False).any(), list(report.note)


def test_every_family_of_methods_is_recorded(small):
    for method in methods(small.depth, 5):
        plain = fv.generate(small, PROMPT, method, seed=1)
        seen, trace = fv.observe(small, PROMPT, method, seed=1)
        assert torch.equal(seen.canvas, plain.canvas)
        assert len(trace.tokens) == 5


def test_a_batch_of_unlike_pictures_fuses_each_where_it_decides(small):
    spreads, real = [], focusvar.gap_statistics

    def keep(*args):
        out = real(*args)
        spreads.extend(out[0].tolist())
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(focusvar, "gap_statistics", keep)
        fv.generate(small, [PROMPT] * 4, FocusVARAdaptive(fv.Dense(), -3, 1, 2), seed=0)
    spreads.sort()
    method = FocusVARAdaptive(fv.Dense(), -3, 1, 2, (spreads[1] + spreads[2]) / 2, -1e9)
    both = fv.generate(small, [PROMPT] * 4, method, seed=0)
    alone = [fv.generate(small, PROMPT, method, seed=seed).canvas for seed in range(4)]
    assert torch.allclose(both.canvas, torch.cat(alone), atol=1e-9)
    early = FocusVAR(first=-3, layer=1)
    late = FocusVAR(first=-3, layer=2)
    same = [
        [
            torch.equal(fv.generate(small, PROMPT, m, seed=seed).canvas, canvas)
            for m in (early, late)
        ]
        for seed, canvas in enumerate(alone)
    ]
    assert sorted(same) == [[False, True]] * 2 + [[True, False]] * 2


def test_latent_updates_select_for_every_method(small):
    lazy = LazyVAR({-2: 0.7, -1: 0.8}, group=False)
    pruned = fv.Prune(
        {-2: 0.7, -1: 0.8}, select=fv.LatentUpdate(), restore=fv.ZeroCode(), granularity="stack"
    )
    made = [fv.generate(small, PROMPT, method, seed=5).canvas for method in (lazy, pruned)]
    assert torch.allclose(*made, atol=1e-9)
    report = verify(small, replace(pruned, granularity="sublayer"), PROMPT)
    assert not report.passed.eq(False).any(), list(report.note)
    early = fv.Prune({2: 0.5}, select=fv.LatentUpdate())
    with pytest.raises(ValueError, match="looks at the latents of 2 earlier steps; 2x2 has 1"):
        fv.generate(small, PROMPT, early, watch=[NoStep])
    for skipped in (
        fv.Prune({2: 1.0, 4: 0.5}, select=fv.LatentUpdate()),
        fv.Planned(rows={2: "skip"}, stacks={4: 4}, select=fv.LatentUpdate()),
    ):
        with pytest.raises(ValueError, match="looks at the latents of 2 earlier steps; 4x4 has 1"):
            fv.generate(small, PROMPT, skipped, watch=[NoStep])


def test_published_lazyvar_keeps_the_published_places():
    method, steps = lazyvar.LAZYVAR["infinity"], grids(scales.infinity())
    run = method.start(steps, 32)
    kept = [run.forwarded(fv.Site(0, "attn"), grid) for grid in steps[-4:]]
    assert kept == [205, 160, 116, 41]
    assert [act.joined for act in method.acts(steps)[-5:]] == [False, False, True, True, True]
    begins = method.begins(steps)
    assert (begins[12], begins[11]) == (0, int(41 / 4096 * 2304))
    # the places of a group are disjoint shares of the map
    shares = [begins[g.index] / g.tokens for g in steps[-4:]]
    assert shares == sorted(shares, reverse=True)


def test_depth_of_tokens_is_bounded_by_the_reference():
    steps = grids(scales.infinity())
    for shape in depthvar.SHAPES:
        method = DepthVAR(-4, shape)
        for grid in steps[10:]:
            layers = [method.layer_tokens(grid, steps, layer, 32) for layer in range(32)]
            assert sum(layers) <= 32 * 32 * 32
            assert sum(layers) >= 0.9 * 32 * 32 * 32
            assert layers[0] == max(layers)
    assert depthvar.bit_reversed(32)[:5] == [0, 16, 8, 24, 4]


def test_operations_of_tails_add_up(small):
    steps = small.grids()
    full, cond, null, skip = (
        step_flops(small, method, steps)
        for method in (fv.Dense(), Tail(cond_from=-1), Tail(null_from=-1), Tail(skip_from=-1))
    )
    assert total(cond) == total(null)
    assert full[-1]["attn"] == 2 * cond[-1]["attn"]
    assert total(skip) == total(full[:-1])


def test_a_tail_on_a_conditional_row_is_pruning_until(small):
    by_tail = Tail(PRUNE, cond_from=-1)
    by_field = replace(PRUNE, null_until=-2)
    canvases = [fv.generate(small, PROMPT, m, seed=2).canvas for m in (by_tail, by_field)]
    assert torch.equal(*canvases)


def test_methods_around_methods_are_named_written_and_read():
    steps = grids(TINY)
    tail = Tail(PRUNE, cond_from=-1)
    assert family(tail) == "FastVAR, conditional tail"
    assert family(FocusVAR(Tail(cond_from=-1), first=-3, last=-2)) == "conditional tail, FocusVAR"
    columns = describe(tail, steps, 8)
    assert (columns["selector"], columns["rows_32x32"]) == ("far from mean (PTS)", 1)
    assert written(tail) == "Tail(method=Prune({-2: 0.5, -1: 0.75}), cond_from=-1)"
    assert read_method(written(tail)) == tail
    several = [Tail(skip_from=-1), Tail(cond_from=-1), Tail(null_from=-1), tail, PRUNE, DepthVAR()]
    assert labels(several, steps, 8)[0] == "skipping 32x32"
    assert len(set(labels(several, steps, 8))) == 6


def test_a_method_of_ones_own_inside_a_tail_is_hashed(small):
    class Mine(fv.Dense):
        pass

    def code(method):
        return user_code_hash(method, method.start(small.grids(), 3))

    assert code(Tail(PRUNE, cond_from=-1)) == ""
    assert code(Tail(Mine(), cond_from=-1)) != ""


UNGUIDED = fv.Sampling(guidance=1.0)
AROUND = (
    partial(FocusVAR, first=-2, layer=1),
    partial(SharedUpdate, first=-2, last=-1, layers=(1, 3)),
    partial(FocusVARAdaptive, probe=-2, early=1, late=2),
)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Tail(), "a Tail needs one of cond_from, null_from, skip_from"),
        (lambda: Tail(Tail(cond_from=-1), skip_from=-1), "one Tail holds all rows"),
        (lambda: Tail(fv.Dense, cond_from=-1), "method must be a method such as Dense"),
        (lambda: Tail(cond_from=-2, null_from=6), r"two tails begin at step 3 \(6x6\)"),
        (lambda: Tail(skip_from=1), "every scale step is skipped"),
        (lambda: Tail(cond_from=9), "no scale 9 in this schedule"),
        (
            lambda: Tail(FocusVAR(first=-1, layer=1), cond_from=-1),
            r"Tail changes the guidance rows of step 4 \(8x8\), where FocusVAR changes them",
        ),
        (lambda: FocusVAR(first=-1, layer=3), "layer must be a layer of this model, 0 to 2; not 3"),
        (
            lambda: FocusVAR(first=-1, layer=1, last=-2),
            "the first step, 8x8, comes after the last, 6x6",
        ),
        (
            lambda: FocusVAR(LazyVAR({-1: 0.5}), first=-1, layer=1),
            "FocusVAR changes rows between layers; it cannot hold LazyVAR",
        ),
        *(
            (
                lambda around=around: around(fv.Planned(stacks={-1: 4})),
                r"changes rows between layers; it cannot hold Planned\(.*, which runs whole stacks",
            )
            for around in AROUND
        ),
        *(
            (
                lambda around=around: around(fv.Planned(rows={-1: "held"})),
                r"changes rows between the layers of step 3 \(6x6\), whose guidance later steps",
            )
            for around in AROUND[:2]
        ),
        *(
            (
                lambda row=row: Tail(fv.Planned(rows={-1: "held"}), **{row: -1}),
                r"Tail changes step 4 \(8x8\), which holds the guidance of an earlier step",
            )
            for row in Tail.scales
        ),
        (
            lambda: Tail(fv.Prune({i: 1.0 for i in range(-5, -1)}), skip_from=-1),
            "Tail skips every scale step; leave at least one",
        ),
        (lambda: FocusVAR(layer=99), "layer must be a layer of this model, 0 to 2; not 99"),
        (lambda: FocusVARAdaptive(early=3, late=2), "early must be a layer before late"),
        (lambda: FocusVARAdaptive(), "late must be a layer of this model, 1 to 2; not 20"),
        (
            lambda: Tail(FocusVARAdaptive(late=9), skip_from=-1),
            "late must be a layer of this model, 1 to 2; not 9",
        ),
        (
            lambda: FocusVARAdaptive(Tail(cond_from=-1), -2, 1, 2),
            r"FocusVARAdaptive needs both rows from step 3 \(6x6\) on; step 4",
        ),
        (
            lambda: SharedUpdate(first=-1, last=-1),
            r"layers must be a range .* of the 3 layers; not \(16, 28",
        ),
        (lambda: LazyVAR({2: 0.5}), "by the change of the latent .*; 2x2 has 1"),
        (lambda: LazyVAR({-2: 0.3, -1: 0.3}), "keep 1.43 of the map from 6x6 on"),
        (lambda: DepthVAR(-1), "no step follows the reference, 8x8"),
        (lambda: DepthVAR(-2, "square"), "shape must be one of linear, constant, two-level"),
        (lambda: DepthVAR(-2, turn=1.0), r"turn must lie in \[0, 1\)"),
        (lambda: SkipVAR("sd3"), "a rule of SkipVAR is one of infinity-0.84, .*; not 'sd3'"),
        (lambda: SkipVAR("infinity-0.85"), "is one of infinity-0.84, .*; not 'infinity-0.85'"),
        (lambda: SkipVAR(digest="zzz"), "the rule infinity-0.86 is the package's: .*; not zzz"),
        (lambda: SkipVAR("none.json"), "cannot read the rule none.json: No such file"),
        (lambda: SkipVAR(), "fitted on schedules of 13 steps; this one has 5"),
    ],
)
def test_what_a_method_cannot_do_is_one_sentence(small, make, sentence):
    with pytest.raises(ValueError, match=sentence):
        fv.generate(small, PROMPT, make(), watch=[NoStep])


class NoStep(fv.Wrapper):
    def stack(self, grid, blocks, x):
        raise AssertionError("a layer ran before the error")


@pytest.mark.parametrize(
    "method",
    [Tail(skip_from=1, cond_from=-2), fv.FasterVAR({1: 0.0}, chunks=1)],
    ids=repr,
)
def test_no_method_skips_the_step_that_carries_text(method):
    model = small_model("hart")
    with pytest.raises(ValueError, match=r"step 0 \(1x1\) is skipped, which carries the text"):
        fv.generate(model, prompt(model), method, watch=[NoStep])


def test_null_rows_without_guidance_are_refused_before_a_step_runs(small):
    with pytest.raises(ValueError, match=r"the null rows alone from step 4 \(8x8\); .* none"):
        fv.generate(small, PROMPT, Tail(null_from=-1), sampling=UNGUIDED, watch=[NoStep])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[]", "it must hold a dict"),
        ("{}", "'steps'|'skip'"),
        (json.dumps(rule(5, ([0, 1], [[0.0, 0.0]]), always(0))), "weights and a bias for each"),
        (json.dumps(rule(5, ([0], [[0.0]]), always(0))), "two numbers for each class"),
        (json.dumps(rule(5, always(3), always(0))), "do not fit tails of 3"),
    ],
)
def test_files_that_hold_no_rule_are_refused(tmp_path, content, sentence):
    (tmp_path / "rule.json").write_text(content)
    with pytest.raises(ValueError, match=sentence):
        SkipVAR(tmp_path / "rule.json")


def test_a_rule_that_has_changed_is_not_the_recorded_one(tmp_path):
    path = tmp_path / "rule.json"
    path.write_text(json.dumps(rule(5, always(1), always(0))))
    text = repr(SkipVAR(path))
    assert read_method(text) == SkipVAR(path)
    path.write_text(json.dumps(rule(5, always(2), always(0))))
    with pytest.raises(ValueError, match="has changed"):
        read_method(text)


def test_without_guidance_there_is_nothing_to_fuse(small):
    full = fv.generate(small, PROMPT, fv.Dense(), sampling=UNGUIDED)
    for method in (
        Tail(cond_from=-2),
        FocusVAR(first=-2, layer=1),
        FocusVARAdaptive(fv.Dense(), -2, 1, 2),
        SharedUpdate(first=-2, last=-1, layers=(1, 2)),
    ):
        made = fv.generate(small, PROMPT, method, sampling=UNGUIDED)
        assert torch.equal(made.canvas, full.canvas)


def test_the_fit_of_a_rule_is_a_command(tmp_path, monkeypatch, capsys):
    from fastvar_lab.cli.main import main

    rng = np.random.default_rng(0)

    def sample(model, item, decide, look):
        a, b = rng.uniform(0.0, 0.2), rng.uniform(0.1, 0.4)
        skipped = (1.0 - a, 1.0 - 2 * a, 1.0 - 3 * a)
        return skip_rule.Sample((a, b), skipped, tuple(1 - (1 - s) / 4 for s in skipped))

    monkeypatch.setattr(skip_rule, "sample", sample)
    out = tmp_path / "skipvar.json"
    arguments = ["calibrate", "skipvar", "--n", "200", "--target", "0.9", "--out", str(tmp_path)]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert repr(SkipVAR(out)) in shown.out
    assert "calibrate skipvar:" in shown.err  # a progress bar
    settings = SkipVAR(out).settings
    assert settings.tails((0.01, 0.2))[0] == 3
    assert settings.tails((0.19, 0.2))[0] == 0
    assert settings.tails((0.19, 0.2))[1] >= 1
    tiny = fv.load("tiny")
    assert settings.origin == (tiny.family, "tiny", tiny.fingerprint, "float32", 2.0)
    monkeypatch.setattr(
        skip_rule, "sample", lambda *args: skip_rule.Sample((0.1, 0.2), (1,) * 3, ())
    )
    assert main([*arguments[:3], "2", *arguments[4:]]) == 0
    assert "2 bear 3; 2 predicted; all bear the same" in capsys.readouterr().out
    for wrong in (["--target", "2"], ["--decide", "-2"], ["--budget", "0.2"]):
        assert main([*arguments, *wrong]) == 2
    assert main(["calibrate", "skipvar"]) == 2  # it needs a folder
    assert main(["calibrate", "heatkv", "--target", "0.9"]) == 2


def test_a_sample_holds_the_similarity_of_every_tail():
    model = small_model("infinity")
    item = fv.ClosedWorld(seed=5).take(1)[0]
    one = skip_rule.sample(model, item, 1, 3)
    assert len(one.features) == 2
    assert all(math.isfinite(v) and v <= 1 for v in (*one.skipped, *one.alone))
    assert one.skipped[0] >= one.skipped[2]


@pytest.mark.parametrize(
    "method",
    [
        fv.Prune({-1: 0.5}, granularity="stack"),
        fv.Prune({-1: 0.5}, restore=fv.ZeroCode(), granularity="stack"),
        fv.Prune({-1: 0.5}, restore=fv.NearestKept(), granularity="stack"),
        fv.Prune({-1: 0.5}, select=fv.TrueChange(), granularity="stack"),
        fv.LazyVAR({-2: 0.5, -1: 0.75}),
        fv.FasterVAR({-1: 0.25}, chunks=1),
        fv.FasterVAR({-1: 0.25}, chunks=3),
        fv.SparseVAR(-2, threshold=0.95, similarity=0.9),
    ],
)
def test_whole_stacks_are_pruned_where_guidance_merges_rows_inside(method):
    model = small_model("infinity")
    lively(model.transformer)
    sampling = fv.Sampling(guidance=3.0, guidance_layer=-2)
    text = prompt(model)
    run = fv.generate(model, text, method, seed=1, sampling=sampling)
    full = fv.generate(model, text, fv.Dense(), seed=1, sampling=sampling)
    assert not torch.equal(run.canvas, full.canvas)


def test_depthvar_refuses_rows_that_merge_between_layers(small):
    sampling = fv.Sampling(guidance=3.0, guidance_layer=-2)
    with pytest.raises(ValueError, match="guidance_layer is 0 or -1, not -2"):
        fv.generate(small, PROMPT, DepthVAR(-2), sampling=sampling, watch=[NoStep])
    last = replace(sampling, guidance_layer=-1)
    assert fv.generate(small, PROMPT, DepthVAR(-2), sampling=last).canvas.isfinite().all()


def test_guidance_is_held_from_a_step_before_the_fused_ones(small):
    fused = FocusVAR(fv.Planned(rows={-1: "held"}), first=-3, layer=1, last=-3)
    assert not verify(small, fused, PROMPT).passed.eq(False).any()


CHANGE = fv.BlockChange(layers=(0, 3))


@pytest.mark.parametrize(
    ("method", "layer"),
    [
        (fv.Prune({-1: 0.5}, granularity="stack"), -2),
        (fv.Prune({-2: 0.4, -1: 0.5}, granularity="stack", select=CHANGE), -2),
        (fv.Prune({-1: 0.5}, select=fv.AttentionEntropy()), -2),
        (fv.SparseVAR(-2, threshold=0.95, similarity=0.9, layers=(0, 3)), -2),
        (FocusVAR(fv.Prune({-1: 0.5}, select=fv.AttentionEntropy()), first=-2, layer=1), 0),
        (FocusVAR(fv.Prune({-1: 0.5}, select=CHANGE), first=-2, layer=1), 0),
        (SharedUpdate(fv.Prune({-1: 0.5}, select=CHANGE), -2, -1, (0, 1)), 0),
        (
            SharedUpdate(fv.Prune({-1: 0.5}, select=fv.AttentionEntropy()), -2, -1, (0, 1)),
            0,
        ),
    ],
    ids=repr,
)
def test_sums_over_layers_keep_pictures_apart_where_rows_merge(small, method, layer):
    prompts, sampling = (PROMPT, "a red ring"), fv.Sampling(guidance=3.0, guidance_layer=layer)
    pair = fv.generate(small, prompts, method, seed=[1, 2], sampling=sampling).canvas
    for i, text in enumerate(prompts):
        alone = fv.generate(small, text, method, seed=1 + i, sampling=sampling).canvas
        assert (alone[0] - pair[i]).abs().max() < 1e-9


def test_level_embeddings_are_added_again_to_the_kept_tokens_of_a_group():
    config = CONFIG | {"level_every": 2}
    state = lively(Infinity(InfinityConfig(**config)))
    model = fv.from_states("infinity", config, state, sizes=SIZES).to("cpu", torch.float64)
    features = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(3)).double()
    text = Text(features, torch.ones(1, 5, dtype=torch.bool))
    ratios = {-2: 0.5, -1: 0.75}
    runs = [
        fv.generate(model, text, LazyVAR(ratios, group=group, disjoint=False), seed=1).tokens
        for group in (True, False)
    ]
    assert torch.equal(runs[0][-2], runs[1][-2])
    with pytest.raises(ValueError, match=r"lack the level embedding .* every 2 layers"):
        fv.generate(model, text, DepthVAR(-2), watch=[NoStep])


@pytest.mark.parametrize(("row", "n"), [("cond_from", 0), ("null_from", 1)])
def test_a_tail_selects_by_the_rows_that_it_runs(small, row, n):
    seen = []
    inner = fv.Prune({-1: 0.5}, select=fv.AttentionEntropy(), granularity="step")

    class Keep(fv.Wrapper):
        def stack(self, grid, blocks, x):
            x = self.inner.stack(grid, blocks, x)
            seen.append(self.inner.inner)
            return x

    fv.generate(small, PROMPT, Tail(inner, **{row: -1}), seed=1, watch=[Keep])
    select, index = seen[-1].select, seen[-1].index[1]
    scores = Map(select.total[n : n + 1], select.grid).on(small.grids()[-1], 1)[..., 0]
    assert torch.equal(index, scores.argsort(dim=1, descending=True, stable=True)[:, :32])


def test_costs_name_the_rows_that_run_without_guidance(small):
    methods = {"full": fv.Dense(), "skip": fv.Prune({-1: 1.0})}
    frame = fv.costs(small.with_guidance(1.0), methods)
    rows = frame.groupby("method").rows.agg(list).to_dict()
    steps = len(small.sizes)
    assert rows == {"full": ["cond"] * steps, "skip": ["cond"] * (steps - 1) + ["skip"]}
    assert set(fv.costs(small, {"full": fv.Dense()}).rows) == {"both"}
