"""Rivals of FastVAR against straight-line references, what they promise, and what they refuse."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import fastvar_lab as fv
from fastvar_lab.cli.main import main
from fastvar_lab.measure import calibration, scalekv_budgets
from fastvar_lab.methods.fastervar import fastervar_release
from fastvar_lab.methods.fastervar_ranks import published_ranks
from fastvar_lab.methods.parse import read_method
from fastvar_lab.methods.prune_runner import PruneRunner
from fastvar_lab.methods.registry import restorers, selectors
from fastvar_lab.methods.restore_anchors import lattice
from fastvar_lab.methods.scalekv import scalekv_release
from fastvar_lab.methods.select import score
from fastvar_lab.scales import TINY, grids, infinity
from fastvar_lab.seam import Site
from fastvar_lab.verification import verify
from tests import rivals_reference as reference
from tests.families import FAMILIES, prompt, small_model

PROMPT = "a cyan star left of a dotted pink ring"


@pytest.fixture(params=FAMILIES, scope="module")
def model(request):
    return small_model(request.param).to("cpu", torch.float64)


def orders(model, sinks=2):
    dice = np.random.default_rng(0)
    pairs = model.depth * model.transformer.config.heads
    return tuple(tuple(dice.permutation(pairs).tolist()) for _ in model.sizes[sinks:-1])


def rules():
    """Every selector and restorer, and every granularity."""
    return [
        *(fv.Prune({-2: 0.3, -1: 0.5}, select=rule) for rule in selectors().values()),
        *(fv.Prune({-2: 0.3, -1: 0.5}, restore=rule) for rule in restorers().values()),
        *(
            fv.Prune({-2: 0.3, -1: 0.5}, restore=rule, granularity="stack", layers=(1, 3))
            for rule in restorers().values()
        ),
        fv.Prune({-1: 0.5}, select=fv.Shared(fv.BlockChange()), granularity="block"),
        fv.Prune({-1: 0.5}, granularity="stack", null_until=-2),
        fv.Prune({-2: 0.3, -1: 0.5}, select=fv.Shared(fv.TrueChange())),
        fv.Prune({-2: 0.3, -1: 0.5}, select=fv.TrueChange(), granularity="stack"),
    ]


def methods(model):
    keys = sum(grid.tokens for grid in model.grids()[:-1])
    return [
        fv.Prune({-2: 0.3, -1: 0.5}, select=fv.AttentionEntropy(), restore=fv.Anchors()),
        fv.StepVAR({-2: 0.3, -1: 0.5}),
        fv.SparseVAR(-2),
        fv.SparseVAR(-2, threshold=0.2, as_released=True),
        fv.FasterVAR({-2: 0.3, -1: 0.2}, chunks=2),
        fv.FasterVAR({-3: 0.3, -2: 0, -1: (0.2, 0.3)}, chunks=2, mix=False, null_from=-1),
        fv.HeatKV(0.6, orders(model), sinks=2),
        fv.ScaleKV({-1: (keys // 2, keys - 3)}, drafters=(0,), window=4),
        fv.QuantKV(3),
    ]


def keeps_promises(model, method):
    report = verify(model, method, prompt(model))
    assert not report.passed.eq(False).any(), (method, report.note.tolist())


@pytest.mark.parametrize("rule", rules(), ids=repr)
def test_every_rule_keeps_every_promise(rule):
    keeps_promises(small_model("infinity").to("cpu", torch.float64), rule)


def test_every_method_keeps_every_promise(model):
    for method in methods(model):
        keeps_promises(model, method)


def test_every_method_is_recorded_unchanged(model):
    for method in methods(model):
        plain = fv.generate(model, prompt(model), method, seed=1)
        seen, _ = fv.observe(model, prompt(model), method, seed=1)
        assert torch.equal(seen.canvas, plain.canvas)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_runs_in_bfloat16(family):
    narrow = small_model(family, dtype=torch.bfloat16)
    full = fv.generate(narrow, [prompt(narrow)] * 2, fv.Dense(), seed=[1, 2]).canvas
    for method in (*methods(narrow), fv.DepthVAR(-3), fv.LazyVAR({-2: 0.5, -1: 0.8})):
        mine = fv.generate(narrow, [prompt(narrow)] * 2, method, seed=[1, 2]).canvas
        assert mine.dtype == full.dtype
        assert mine.isfinite().all(), method


class NoStep(fv.Wrapper):
    """Fails when a layer runs."""

    def stack(self, grid, blocks, x):
        raise AssertionError("a layer ran before the error")


def near(model, method, made):
    """Assert that a method makes the latent of a reference, in float64."""
    mine = fv.generate(model, prompt(model), method, seed=1).canvas
    assert (mine - made).abs().max() < 1e-9 * max(1.0, float(made.abs().max())), method


def test_stepvar_against_a_reference(model):
    kept = {grid.index: grid.tokens - grid.tokens // 2 for grid in model.grids()[-2:]}
    made = reference.run(model, prompt(model), reference.StepVAR(kept, 3.0, 4))
    select = fv.PrincipalHighPass(3.0, 4)
    near(model, fv.StepVAR({-2: 0.5, -1: 0.5}, select=select), made)


@pytest.mark.parametrize(("threshold", "similarity"), [(0.6, 0.8), (0.2, -1), (0.4, 0.2)])
def test_sparsevar_against_a_reference(model, threshold, similarity):
    first = len(model.sizes) - 2
    slow = reference.SparseVAR(first, (0, 1), threshold, 3, similarity)
    made = reference.run(model, prompt(model), slow)
    method = fv.SparseVAR(-2, threshold, (0, 1), 3, similarity)
    near(model, method, made)
    _, trace = fv.observe(model, prompt(model), method, seed=1)
    for grid in model.grids():
        assert int(trace.kept[grid.index, Site(0, "attn")][0].sum()) in (
            slow.kept[grid.index],
            grid.tokens,
        )


@pytest.mark.parametrize(("mix", "alone"), [(True, None), (True, -1), (False, None)])
def test_fastervar_against_a_reference(model, mix, alone):
    steps, depth = len(model.sizes), model.depth
    ends = [(0, 1), (1, depth)] if depth == 2 else [(0, 2), (2, 3)]  # halves are rounded to even
    slow = reference.FasterVAR({steps - 2: 0.4, steps - 1: 0.2}, ends, mix, seed=3)
    made = reference.run(model, prompt(model), slow, alone=alone and steps + alone)
    ranks = {-2: 0.4, -1: 0.2}
    near(model, fv.FasterVAR(ranks, alone, chunks=2, mix=mix, seed=3), made)


def test_fastervar_mixes_at_drawn_positions(small):
    slow = reference.FasterVAR({4: 0.2}, [(0, 1), (1, 2), (2, 3)], drawn=True)
    made = reference.run(small, PROMPT, slow, skip=(3,))
    mine = fv.generate(
        small, PROMPT, fv.FasterVAR({-2: 0.0, -1: 0.2}, chunks=3, positions="drawn"), seed=1
    )
    assert torch.allclose(mine.canvas, made, atol=1e-9)


@pytest.mark.parametrize("strict", [True, False])
def test_heatkv_against_deleted_keys(model, strict):
    method = fv.HeatKV(0.6, orders(model), sinks=2, strict=strict)
    steps, heads = model.grids(), model.transformer.config.heads
    gone = method.schedule(steps, model.depth)

    def before(layer, grid, head, source):
        missing = {b.source for b in gone[grid.index][layer] if b.head == head}
        return torch.tensor([int(s) not in missing for s in source])

    cache = reference.KeptKeys(2, heads, before=before)
    near(model, method, reference.run(model, prompt(model), reference.Whole(), look=cache))
    last = steps[-1].tokens * model.depth * heads
    if not strict:  # what is deleted early is deleted here within the step
        assert cache.keys() - last == method.held_keys(steps, model.depth)[-1]
    most = 0.6 * sum(grid.tokens for grid in steps[:-1]) * model.depth * heads
    assert max(method.held_keys(steps, model.depth)) <= most


def test_a_strict_budget_is_never_exceeded():
    steps, dice = grids(TINY), np.random.default_rng(1)
    method = fv.HeatKV(0.3, tuple(tuple(dice.permutation(32).tolist()) for _ in range(6)))
    most = 0.3 * 32 * sum(grid.tokens for grid in steps[:-1])
    gone = method.schedule(steps, 8)
    for step, grid in enumerate(steps[:-1]):
        after = method.gone(steps, 8, step + 1)
        held = method.held_keys(steps, 8)[step]
        for layer in range(8):
            held += 4 * grid.tokens
            early = {b for later in gone[step][layer + 1 :] for b in later}
            dropped = {b for b in after if b.layer <= layer} | early
            dropped -= method.gone(steps, 8, step)
            at_most = held - sum(steps[b.source].tokens for b in dropped)
            assert at_most <= most, (step, layer)
    assert any(gone[s][layer] - method.gone(steps, 8, s) for s in range(9) for layer in range(8))


def window(grid, side):
    """Centres of side x side patches."""
    cells = []
    for i in range(side):
        for j in range(side):
            h, w = grid.h // side, grid.w // side
            cells.append((i * h + (h - 1) // 2) * grid.w + j * w + (w - 1) // 2)
    return cells


@pytest.mark.parametrize("score", ["softmax", "raw"])
def test_scalekv_against_deleted_keys(model, score):
    steps = model.grids()
    total = sum(grid.tokens for grid in steps[:-1])
    budgets = {len(steps) - 2: (9, 12), len(steps) - 1: (20, total - 9)}
    method = fv.ScaleKV(
        {step - len(steps): both for step, both in budgets.items()},
        drafters=(1,), score=score, window=4, pool=3,
    )  # fmt: skip

    def after(layer, grid, q, keys, scale):
        budget = budgets.get(grid.index + 1, (total * 2,) * 2)[layer == 1]
        n, stay = len(keys), np.zeros(len(keys), dtype=bool)
        if n <= budget:
            return torch.from_numpy(~stay)
        spots = window(grid, 2)
        own = [n - grid.h * grid.w + spot for spot in spots]
        products = (q[[grid.prefix + s for s in spots]] @ keys.T).numpy()
        if score == "raw":
            by_key = products.sum(0) / math.sqrt(q.shape[-1])
            by_key[own] = -np.inf
            padded = np.pad(by_key, 1, constant_values=-np.inf)
            pooled = np.array([padded[i : i + 3].max() for i in range(n)])
        else:
            weights = np.exp(products * scale - (products * scale).max(1, keepdims=True))
            by_key = (weights / weights.sum(1, keepdims=True)).mean(0)
            pooled = np.array([np.pad(by_key, 1)[i : i + 3].mean() for i in range(n)])
        pooled[own] = np.inf
        stay[np.argsort(-pooled, kind="stable")[:budget]] = True
        return torch.from_numpy(stay)

    cache = reference.KeptKeys(2, model.transformer.config.heads, after=after)
    made = reference.run(model, prompt(model), reference.Whole(), look=cache)
    mine = fv.generate(model, prompt(model), method, seed=1).canvas
    if score == "softmax":
        assert torch.allclose(mine, made, atol=1e-9)
    heads = model.transformer.config.heads
    held = method.held_keys(steps, model.depth)[-1] + steps[-1].tokens * model.depth
    assert cache.keys() == held * heads


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_quantised_keys_and_values_against_a_reference(model, bits):
    def rounded(x):
        out, most = torch.empty_like(x), 2 ** (bits - 1) - 1
        for channel in range(x.shape[1]):
            scale = max(float(x[:, channel].abs().max()) / most, 1e-12)
            for i, value in enumerate(x[:, channel]):
                code = round(float(value) / scale)
                out[i, channel] = min(max(code, -most - 1), most) * scale
        return out

    cache = reference.KeptKeys(2, model.transformer.config.heads, rounded=rounded)
    near(
        model, fv.QuantKV(bits), reference.run(model, prompt(model), reference.Whole(), look=cache)
    )


@pytest.mark.parametrize(
    "around",
    [
        lambda inner: fv.Tail(inner, cond_from=-1),
        lambda inner: fv.Tail(inner, null_from=-2),
        lambda inner: fv.FocusVAR(inner, first=-1, layer=1),
    ],
)
def test_keys_are_stored_rounded_where_rows_leave(small, around):
    keeps_promises(small, around(fv.QuantKV(3)))  # resuming keeps all rows: the same bits


def test_bytes_of_quantised_caches():
    steps = grids(TINY)
    tokens = sum(grid.tokens for grid in steps[:-1])
    held = fv.QuantKV(8).held_bytes(steps, depth=8, heads=4, head_dim=64)
    assert held[-1] == 2 * 2 * 8 * 256 * (tokens + 4 * 9)
    assert fv.QuantKV(2).held_bytes(steps, 8, 4, 64)[0] == 0


def chosen(model, method, site, step=-2):
    """The kept masks (rows, L) of a method's first pruned step, and the trace."""
    made, trace = fv.observe(model, prompt(model), method, seed=1, features=[site])
    grid = made.request.grids[step]
    return trace.kept[grid.index, site].numpy(), trace, made, grid


def best(scores, k):
    mask = np.zeros(len(scores), dtype=bool)
    mask[np.argsort(-np.asarray(scores), kind="stable")[:k]] = True
    return mask


def pruned(select, **more):
    return fv.Prune({-2: 0.5}, select=select, granularity="step", **more)


class Watch(fv.Wrapper):
    """Keeps queries, keys, logits and additions of a step."""

    def __init__(self, inner, step):
        super().__init__(inner)
        self.step, self.entropy, self.logits, self.added = step, [], None, []

    def attend(self, site, grid, q, k, v, mask=None, scale=1.0):
        if site.kind == "attn" and grid.index == self.step:
            weights = torch.softmax(q @ k.transpose(-1, -2) * scale, -1)
            self.entropy.append(-(weights * weights.log()).sum(-1).mean(1))
        return self.inner.attend(site, grid, q, k, v, mask, scale)

    def sublayer(self, site, grid, branch, x):
        out = self.inner.sublayer(site, grid, branch, x)
        if grid.index == self.step:
            self.added.append((site.layer, out))
        return out

    def after(self, grid, tokens, canvas, logits=None):
        self.inner.after(grid, tokens, canvas, logits)
        if grid.index == self.step:
            self.logits = logits


def watched(model, step):
    kept = []
    fv.generate(
        model, prompt(model), fv.Dense(), seed=1,
        watch=[lambda run: kept.append(Watch(run, step)) or kept[0]],
    )  # fmt: skip
    return kept[0]


@pytest.mark.parametrize("keep", ["high", "low"])
def test_entropies_are_those_of_the_step_before(model, keep):
    before, grid = model.grids()[-3:-1]
    seen, k = watched(model, before.index), grid.tokens - grid.tokens // 2
    sign = 1 if keep == "high" else -1
    total = sum(seen.entropy)
    mask, *_ = chosen(model, pruned(fv.AttentionEntropy(keep)), Site(0, "attn"))
    for row in range(2):
        score = reference.spread(total[row], before, grid)[:, 0]
        assert np.array_equal(mask[row], best(sign * score, k))
    p = seen.logits[0].softmax(-1)
    entropy = -(p * p.log()).nan_to_num().sum(-1)
    entropy = entropy.mean(-1) if entropy.dim() == 2 else entropy
    score = reference.spread(entropy, before, grid)[:, 0]
    mask, *_ = chosen(model, pruned(fv.OutputEntropy(keep)), Site(0, "attn"))
    assert np.array_equal(mask[0], best(sign * score, k))
    assert np.array_equal(mask[1], mask[0])


def test_the_entropy_of_outputs_is_at_the_temperature(model):
    before, grid = model.grids()[-3:-1]
    hot = replace(model, sampling=replace(model.sampling, temperature=2.0))
    logits = watched(hot, before.index).logits[0]
    p = (logits if model.transformer.tempered else logits / 2).softmax(-1)
    entropy = -(p * p.log()).nan_to_num().sum(-1)
    entropy = entropy.mean(-1) if entropy.dim() == 2 else entropy
    score = reference.spread(entropy, before, grid)[:, 0]
    mask, *_ = chosen(hot, pruned(fv.OutputEntropy()), Site(0, "attn"))
    assert np.array_equal(mask[0], best(score, grid.tokens - grid.tokens // 2))


@pytest.mark.parametrize(
    "rule", [rule for rule in selectors().values() if hasattr(rule, "observer")], ids=repr
)
def test_a_ranking_of_a_step_is_that_of_each_of_its_sublayers(small, rule, monkeypatch):
    def each_time(run, site, grid, x):
        return run.ranking(score(rule, x, grid, site, run.select), grid)

    method = fv.Prune({-2: 0.3, -1: 0.5}, select=rule)
    once = fv.generate(small, prompt(small), method, seed=1)
    monkeypatch.setattr(PruneRunner, "ranked", each_time)
    each = fv.generate(small, prompt(small), method, seed=1)
    assert torch.equal(once.canvas, each.canvas)


def test_block_change_is_that_of_the_step_before(model):
    before, grid = model.grids()[-3:-1]
    seen = watched(model, before.index)
    change = (sum(out for layer, out in seen.added if layer == 0) ** 2).mean(-1)
    for select in (fv.BlockChange((0, 1)), fv.Shared(fv.BlockChange((0, 1)))):
        mask, *_ = chosen(model, pruned(select), Site(0, "attn"))
        for row in range(2):
            values = change[row] if "Shared" not in repr(select) else change.mean(0)
            score = reference.spread(values, before, grid)[:, 0]
            assert np.array_equal(mask[row], best(score, grid.tokens - grid.tokens // 2))


def test_the_guidance_gap_is_between_the_rows(model):
    site = Site(model.depth - 1, "ffn")
    mask, trace, _, grid = chosen(model, fv.Prune({-2: 0.5}, select=fv.GuidanceGap()), site)
    x = trace.features[grid.index, site]
    score = [math.dist(a, b) for a, b in zip(x[0].tolist(), x[1].tolist(), strict=True)]
    assert np.array_equal(mask[0], best(score, grid.tokens - grid.tokens // 2))
    assert np.array_equal(mask[1], mask[0])


def test_the_oracle_computes_all_and_keeps_what_changes_most(small):
    grid, before = fv.Grid(1, 2, 2), fv.Grid(0, 1, 1)
    run = fv.Prune({-1: 0.5}, select=fv.TrueChange()).start([before, grid], 1)
    site = Site(0, "attn")
    run.sublayer(site, before, lambda x, index=None: x * 0 + 1, torch.zeros(1, 1, 2).double())
    out = run.sublayer(
        site, grid, lambda x, index=None: x, torch.tensor([[[1.0, 1], [9, 9], [1, 2], [-4, 1]]])
    )
    assert out.tolist() == [[[1, 1], [9, 9], [1, 1], [-4, 1]]]
    assert run.forwarded(site, grid) == 4


def test_the_oracle_of_a_stack_sums_the_change_of_its_sublayers(small):
    """Token 1 changes most in one sublayer, token 2 in both together; one set serves both."""
    grid, before = fv.Grid(1, 2, 2), fv.Grid(0, 1, 1)
    method = fv.Prune({-1: 0.75}, select=fv.TrueChange(), granularity="stack")
    run = method.start([before, grid], 1)
    sites = [Site(0, "attn"), Site(0, "ffn")]
    fresh = [torch.tensor([[[1.0], [4], [3], [1]]]), torch.tensor([[[1.0], [1], [3.5], [1]]])]
    for site in sites:
        run.sublayer(site, before, lambda x, index=None: x * 0 + 1, torch.zeros(1, 1, 1))
    asked = []

    def block(x):
        for site, out in zip(sites, fresh, strict=True):
            x = x + run.sublayer(site, grid, lambda x, index=None, out=out: out, x)
            asked.append(x)
        return x

    out = run.stack(grid, fv.Stack([block]), torch.zeros(1, 4, 1))
    assert out.flatten().tolist() == [2, 2, 6.5, 2]  # 1 + 1 from the cache, and 3 + 3.5
    assert len(asked) == 2
    assert run.forwarded(sites[0], grid) == 4


def test_the_branch_of_the_step_before_rolls(small):
    steps = [fv.Grid(i, side, side) for i, side in enumerate((1, 2, 4))]
    run = fv.Prune({-2: 0.5, -1: 0.5}, restore=fv.PreviousBranch()).start(steps, 1)
    site = Site(0, "ffn")
    inputs = [0.0], [8.0, 0, 0, 0], [0.0] * 8 + [7.0, -7] * 4
    for values, grid in zip(inputs, steps, strict=True):
        x = torch.tensor(values).view(1, -1, 1)
        out = run.sublayer(site, grid, lambda x, index=None: x + 1, x)[0, :, 0].tolist()
    # the upper half of 4x4 shows the upper half of 2x2, of which the left was fresh
    assert out == [9, 9, 1, 1] * 2 + [8, -6] * 4


@pytest.mark.parametrize("granularity", ["sublayer", "stack"])
def test_the_branch_of_the_step_before_is_that_of_a_whole_step_too(small, granularity):
    def method(ratios, **fields):
        return fv.Prune(ratios, restore=fv.PreviousBranch(), granularity=granularity, **fields)

    rolling, late = (
        method({-3: 0.5, -1: 0.5}),
        fv.Prune({-1: 0.5}, granularity=granularity, cache_step=-2),
    )
    start = fv.generate(small, PROMPT, rolling, seed=1)
    seen = []

    class Look(fv.Wrapper):
        def sublayer(self, site, grid, branch, x):
            run = self.inner
            if grid.index == 4 and isinstance(run, PruneRunner):
                seen.append(run.cache[site].grid.index)
            return run.sublayer(site, grid, branch, x)

    again = fv.generate(small, PROMPT, rolling, seed=1, watch=[Look])
    assert torch.equal(start.canvas, again.canvas)
    assert set(seen) == {3}
    assert not verify(small, rolling, PROMPT).passed.eq(False).any()
    assert late.cache_index(small.grids()) == 3


@pytest.mark.parametrize(
    "tail", [{}, {"cond_from": -1}, {"null_from": -1}, {"cond_from": -2, "null_from": -1}], ids=str
)
def test_pictures_of_a_batch_keep_their_own_counts(small, tail):
    prompts = [PROMPT, "two red striped stars", "a ring"]
    method = fv.SparseVAR(-2, threshold=0.5)
    method = fv.Tail(method, **tail) if tail else method
    together = fv.generate(small, prompts, method, seed=(5, 6, 7))
    counts = set()
    for i, text in enumerate(prompts):
        alone, mine = fv.observe(small, text, method, seed=5 + i)
        counts.add(int(mine.kept[3, Site(0, "attn")][0].sum()))
        assert torch.allclose(alone.canvas[0], together.canvas[i], atol=1e-9)
    assert len(counts) > 1  # so that rows were padded


def test_anchors_are_always_kept(small):
    method = fv.Prune({-2: 0.7, -1: 0.8}, restore=fv.Anchors(), select=fv.NearMean())
    _, trace = fv.observe(small, PROMPT, method, seed=1)
    for kept in (trace.kept[step, Site(1, "ffn")] for step in (3, 4)):
        side = math.isqrt(kept.shape[1])
        assert kept[:, list(lattice(side, side, 4))].all()


def test_codes_of_dropped_places_are_zero(small):
    class Codes(fv.Wrapper):
        def after(self, grid, tokens, canvas, logits=None):
            canvases.append(canvas)
            self.inner.after(grid, tokens, canvas, logits)

    canvases = []
    method = fv.Prune({-1: 0.75}, select=fv.UniformGrid(), restore=fv.ZeroCode())
    _, trace = fv.observe(small, PROMPT, method, seed=1, watch=[Codes])
    change = (canvases[-1] - canvases[-2]).abs().sum(1).flatten(1) > 0
    assert torch.equal(change[0], trace.kept[4, Site(2, "ffn")][0])


def test_released_settings_are_those_published():
    steps = grids(infinity())
    release = fastervar_release()
    assert [act.rows.value for act in release.acts(steps)][-4:] == ["both", "null", "skip", "skip"]
    assert release.counts(steps[10], published_ranks()[40]) == (
        27, 219, 337, 401, 410, 317, 252, 306,
    )  # fmt: skip
    budgets = scalekv_release().budgets(steps, 32)
    assert [budgets[step][23] for step in range(8, 13)] == [920, 1490, 2510, 4100, 465]
    blank = (tuple(range(512)),) * 9
    counts = [fv.HeatKV(0.1, blank).dropped_pairs(steps, step) for step in range(8, 13)]
    assert counts == [159, 297, 385, 435, 463]
    assert sum(act.at_most for act in fv.SparseVAR().acts(steps)) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda g: fv.Prune({1: 0.5}, select=fv.BlockChange(), restore=fv.Zero()).acts(g), "looks"),
        (lambda g: fv.Prune({-1: 0.9}, restore=fv.Anchors(2)).acts(g), "at 32x32 .* 289 anchors"),
        (
            lambda g: fv.Prune({-1: 0.5}, select=fv.GuidanceGap(), null_until=-2).acts(g),
            "compares both rows; at 32x32 only the conditional runs",
        ),
        (lambda g: fv.Prune({-1: 0.5}, granularity="stack", sublayers="ffn"), "every sublayer"),
        (
            lambda g: fv.Prune({-1: 0.5}, select=fv.TrueChange(), granularity="step"),
            "its granularity is sublayer or stack, not step",
        ),
        (lambda g: fv.BlockChange((3, 9)).observer(g, 8, 0), r"range .* of the 8 layers; not \(3"),
        (lambda g: fv.BlockChange().scores(None, g[0], None), "as the `select` of a method"),
        (lambda g: fv.AttentionEntropy("both"), "keep must be high or low; not 'both'"),
        (lambda g: fv.PrincipalHighPass(iterations=0), "iterations 1 to 1000"),
        (lambda g: fv.PrincipalHighPass(iterations=10**9), "iterations 1 to 1000"),
        (lambda g: fv.PrincipalHighPass(math.inf), "weight must be 0 or more, but finite"),
        (lambda g: fv.FasterVAR({-1: "0.5"}), r"must lie in \[0, 1\); not '0.5'"),
        (lambda g: fv.FasterVAR({-1: False}), r"must lie in \[0, 1\); not False"),
        (lambda g: fv.FasterVAR({-1: (0.1, "0.2")}, chunks=2), r"must lie in \[0, 1\)"),
        (lambda g: fv.FasterVAR({-1: 0.1}, chunks=10**9).start(g, 8), "1000000000 chunks are too"),
        (
            lambda g: fv.Tail(fv.LazyVAR({-2: 0.5, -1: 0.8}), cond_from=-1).acts(g),
            r"Tail begins at step 9 \(32x32\), which LazyVAR runs in one forward with step 8;",
        ),
        (lambda g: fv.Anchors(1), "stride must be 2 or more"),
        (lambda g: fv.SparseVAR(1).acts(g), "the first step has none"),
        (lambda g: fv.SparseVAR(threshold=1), r"threshold must lie in \[0, 1\)"),
        (lambda g: fv.FasterVAR({-1: 1.0}), r"must lie in \[0, 1\); not 1.0"),
        (lambda g: fv.FasterVAR({-1: (0.1, 0.2)}), "has 2 rank shares; .* 8 chunks"),
        (lambda g: fv.FasterVAR({-1: 0.1}, chunks=9).start(g, 8), "has 8 layers; 9 chunks"),
        (lambda g: fv.FasterVAR({1: 0.1}).acts(g), "none comes before it"),
        (lambda g: fv.FasterVAR({-1: 0.1}, sampling="best"), "sampling must be one of"),
        (lambda g: published_ranks(0.5), "published for the energies 0.98, 0.96, 0.9; not 0.5"),
        (
            lambda g: fv.HeatKV(0.3, ((0, 1),)).acts(g),
            "one for each of the 6 source steps .* not 1",
        ),
        (
            lambda g: fv.HeatKV(0.01, (tuple(range(32)),) * 6).acts(g),
            "budget must be at least 0.0141, the share of the 3 sinks, .*; not 0.01",
        ),
        (
            lambda g: fv.HeatKV(0.3, (tuple(range(32)),) * 6, sinks=20).acts(g),
            "sinks must be 1 to 8 with 10 steps; not 20",
        ),
        (lambda g: fv.HeatKV(0.3, ((0, 0),)), r"every pair of layer and head once.*; not \(\(0"),
        (lambda g: fv.HeatKV(0.3, (tuple(range(32)),) * 6).start(g, 5), "on another model"),
        (lambda g: fv.ScaleKV({-1: 3}), "scale -1 keeps 16 tokens or more, the window"),
        (lambda g: fv.ScaleKV({-1: 90}, drafters=(9,)).start(g, 8), "not among the 8 layers"),
        (lambda g: fv.ScaleKV({4: 90}).start(g, 8), "look back from 2x2"),
        (lambda g: fv.ScaleKV({-1: 90}, score="max"), "score must be softmax or raw"),
        (lambda g: fv.QuantKV(1), "bits must lie in 2 to 8; not 1"),
    ],
)
def test_what_a_method_cannot_do_is_one_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make(grids(TINY))


@pytest.mark.parametrize(
    "inner",
    [
        fv.LazyVAR({-1: 0.5}),
        fv.DepthVAR(-3),
        fv.SparseVAR(-1),
        fv.FasterVAR({-1: 0.3}),
        fv.Prune({-1: 0.5}, select=fv.LatentUpdate()),
    ],
    ids=repr,
)
def test_a_tail_leaves_no_gap_before_a_step_that_looks_back(inner):
    for row in ("cond_from", "null_from"):
        with pytest.raises(ValueError, match=r"skips step 8 \(24x24\); .* may look back"):
            fv.Tail(inner, skip_from=-2, **{row: -1}).acts(grids(TINY))
    with pytest.raises(ValueError, match="may look back"):  # its cache step is skipped
        fv.Tail(fv.Prune({-1: 0.5}), skip_from=-2, cond_from=-1).acts(grids(TINY))
    acts = fv.Tail(skip_from=-2, cond_from=-1).acts(grids(TINY))  # nothing looks back
    assert [act.rows for act in acts[-2:]] == [fv.Rows.SKIP, fv.Rows.COND]


@pytest.mark.parametrize(
    ("inner", "alone"),
    [
        (
            fv.Prune({-1: 0.5}, restore=fv.Zero()),
            fv.Prune({-2: 1.0, -1: 0.5}, restore=fv.Zero(), null_until=-3),
        ),
        (
            fv.Prune({-1: 0.5}, cache_step=-3),
            fv.Prune({-2: 1.0, -1: 0.5}, cache_step=-3, null_until=-3),
        ),
    ],
    ids=["no cache", "an earlier cache"],
)
def test_a_tail_skips_steps_that_a_pruning_does_not_look_at(small, inner, alone):
    tail, text = fv.Tail(inner, skip_from=-2, cond_from=-1), "a red circle"
    tailed, run = (fv.generate(small, text, method, seed=1) for method in (tail, alone))
    assert torch.equal(tailed.canvas, run.canvas)
    full = fv.generate(small, text, fv.Dense(), seed=1, snapshot=True)
    assert torch.equal(fv.resume(small, full, tail).canvas, run.canvas)


@pytest.mark.parametrize(
    "method",
    [
        fv.Prune({-1: 0.5}, select=fv.OutputEntropy()),
        fv.Prune({-1: 0.5}, select=fv.Shared(fv.OutputEntropy())),
        fv.Prune({-1: 0.5}, restore=fv.Anchors()),
        fv.SparseVAR(-1),
    ],
    ids=repr,
)
def test_rules_by_logits_refuse_given_tokens_of_the_step_they_look_at(small, method):
    drawn = fv.generate(small, PROMPT, method, seed=1)
    with pytest.raises(ValueError, match=r"step 3, .* give those of the first 3 steps at most"):
        fv.generate(small, PROMPT, method, seed=1, given=drawn.tokens[:4], watch=[NoStep])
    again = fv.generate(small, PROMPT, method, seed=1, given=drawn.tokens[:3])
    assert torch.equal(again.canvas, drawn.canvas)


def test_one_row_is_no_gap(small):
    unguided = replace(small.sampling, guidance=small.transformer.unguided)
    with pytest.raises(ValueError, match="this sampling has no guidance"):
        fv.generate(small, PROMPT, fv.Prune({-1: 0.5}, select=fv.GuidanceGap()), sampling=unguided)
    for method in (fv.SparseVAR(-1), fv.Prune({-1: 0.5}, select=fv.Shared())):
        fv.generate(small, PROMPT, method, sampling=unguided)


@pytest.mark.parametrize(
    "around",
    [
        lambda inner: fv.Tail(inner, cond_from=-1),
        lambda inner: fv.Tail(inner, null_from=-1),
        lambda inner: fv.FocusVAR(inner, first=-1, layer=1),
        lambda inner: fv.FocusVARAdaptive(inner, probe=-1, early=1, late=2),
        lambda inner: fv.SharedUpdate(inner, first=-1, last=-1, layers=(1, 2)),
    ],
)
@pytest.mark.parametrize(
    "gap", [fv.GuidanceGap(), fv.Shared(fv.GuidanceGap()), fv.Painted(others=fv.GuidanceGap())]
)
def test_a_gap_without_both_rows_is_refused_before_a_step_runs(small, around, gap):
    sentence = r"compares both guidance rows; at step 4 \(8x8\) layer [01] runs one of them alone"
    method = around(fv.Prune({-1: 0.5}, select=gap))
    with pytest.raises(ValueError, match=sentence):
        fv.generate(small, PROMPT, method, watch=[NoStep])
    # steps, or layers, that run both
    fv.generate(small, PROMPT, fv.Tail(fv.Prune({-2: 0.5}, select=gap), cond_from=-1))
    fv.generate(small, PROMPT, fv.FocusVAR(fv.Prune({-1: 0.5}, gap, layers=(0, 1)), -1, 1))


@pytest.mark.parametrize(
    "around",
    [
        lambda inner: fv.Tail(inner, cond_from=-1),
        lambda inner: fv.Tail(inner, cond_from=-2),
        lambda inner: fv.Tail(inner, null_from=-1),
        lambda inner: fv.FocusVAR(inner, first=-2, layer=1),
        lambda inner: fv.FocusVARAdaptive(inner, probe=-2, early=1, late=2),
        lambda inner: fv.SharedUpdate(inner, first=-4, last=-4, layers=(1, 2)),
    ],
)
def test_scalekv_goes_on_with_the_rows_that_stay(small, around):
    keys = sum(grid.tokens for grid in small.grids())
    plain = fv.generate(small, PROMPT, around(fv.Dense()), seed=1).canvas
    everything = around(fv.ScaleKV({-2: keys, -1: keys}, window=4))
    assert torch.allclose(fv.generate(small, PROMPT, everything, seed=1).canvas, plain, atol=1e-9)
    method = around(fv.ScaleKV({-2: 12, -1: 20}, window=4))
    both = fv.generate(small, [PROMPT, "a red ring"], method, seed=[1, 2]).canvas
    for i, text in enumerate((PROMPT, "a red ring")):
        alone = fv.generate(small, text, method, seed=i + 1).canvas
        assert torch.allclose(both[i : i + 1], alone, atol=1e-9)
    assert not torch.allclose(both[:1], plain, atol=1e-3)


@pytest.mark.parametrize(
    "around",
    [
        lambda inner: fv.Tail(inner, cond_from=-2, null_from=-1),
        lambda inner: fv.FocusVAR(inner, first=-2, layer=1, last=-2),
        lambda inner: fv.SharedUpdate(inner, first=-2, last=-2, layers=(1, 2)),
    ],
)
def test_rows_that_come_back_are_refused_where_keys_are_chosen_by_row(small, around):
    sentence = r"ScaleKV chooses .* at step 4 \(8x8\) layer [01] runs rows that it left out before"
    with pytest.raises(ValueError, match=sentence):
        fv.generate(small, PROMPT, around(fv.ScaleKV({-1: 20}, window=4)), watch=[NoStep])


def test_orders_of_another_model_are_refused(small):
    with pytest.raises(ValueError, match="of a model with 4 heads; this one has 2"):
        fv.generate(small, PROMPT, fv.HeatKV(0.6, (tuple(range(12)),) * 2, sinks=2))


def test_orders_are_by_the_attention_of_later_steps(small, capsys):
    items = fv.ClosedWorld(seed=3).take(2)
    steps, heads = small.grids(), small.transformer.config.heads
    mass = np.zeros((small.depth, heads, len(steps)))

    def look(layer, grid, q, k, v, scale):
        weights = torch.softmax(q @ k.transpose(-1, -2) * scale, -1)
        begin = 0
        for source in steps[: grid.index]:
            part = weights[0, :, :, begin : begin + source.tokens]
            mass[layer, :, source.index] += part.sum(-1).mean(-1).numpy()
            begin += source.tokens
        return weights @ v

    for item in items:
        reference.run(small, item.prompt, reference.Whole(), seed=item.seed, look=look)
    method = calibration.heatkv(small, items, 0.6, sinks=2)
    assert "calibrate heatkv:" in capsys.readouterr().err  # a progress bar
    for source, order in zip((2, 3), method.orders, strict=True):
        pairs = [mass[divmod(pair, heads)][source] for pair in order]
        assert pairs == sorted(pairs)


def test_drafters_are_the_least_selective_layers(small):
    item, steps = fv.ClosedWorld(seed=3).take(1)[0], small.grids()
    index = np.zeros((len(steps), small.depth))

    def look(layer, grid, q, k, v, scale):
        weights = torch.softmax(q @ k.transpose(-1, -2) * scale, -1)
        past = k.shape[2] - grid.tokens
        if past:
            top = np.sort(weights[..., :past].numpy(), axis=-1)[..., -16:].sum(-1).mean()
            index[grid.index, layer] = weights[..., past:].sum(-1).mean() * top
        return weights @ v

    reference.run(small, item.prompt, reference.Whole(), seed=item.seed, look=look)
    method = scalekv_budgets.scalekv(small, [item], 0.6)
    late = [step for step in range(5) if step in method.budgets(steps, small.depth)]
    scores = index[late] - index[late].mean(1, keepdims=True)
    scores /= index[late].std(1, ddof=1, keepdims=True)
    assert method.drafters == (int(scores.sum(0).argmin()),)


def test_scalekv_budgets_hold_as_much_as_one_share_for_all():
    steps, depth = grids(TINY), 8
    keys = sum(grid.tokens for grid in steps[:-1])
    for share in (0.1, 0.25, 0.5):
        method = fv.ScaleKV(scalekv_budgets.budgets(steps, depth, (2,), share), (2,))
        for step, counts in method.budgets(steps, depth).items():
            there = sum(grid.tokens for grid in steps[:step])
            assert sum(counts) == pytest.approx(share * keys * depth, abs=depth)
            assert min(counts) <= counts[2] <= there
        assert max(method.held_keys(steps, depth)) <= share * keys * depth + depth
    uniform = scalekv_budgets.budgets(steps, depth, (), 0.25)
    assert {count for count, _ in uniform.values()} == {round(0.25 * keys)}
    with pytest.raises(ValueError, match=r"leaves refiners 16 tokens or more; 0\.01 leaves 10 of"):
        scalekv_budgets.budgets(steps, depth, (0,), 0.01)


def test_rank_shares_keep_the_energy(small):
    items = fv.ClosedWorld(seed=3).take(2)
    method = calibration.fastervar(small, items, [-1], energy=0.8, chunks=1)
    shares = []
    for item in items:
        _, trace = fv.observe(
            small, item.prompt, fv.Dense(), seed=item.seed, features=[Site(0, "attn")]
        )
        for row in trace.features[4, Site(0, "attn")].numpy():
            power = np.linalg.svd(row - row.mean(0), compute_uv=False) ** 2
            rank = 1
            while power[:rank].sum() < 0.8 * power.sum():
                rank += 1
            shares.append(rank / 64)
    assert dict(method.ranks)[-1][0] == pytest.approx(np.mean(shares), abs=1e-5)


def test_the_command_prints_a_method(tmp_path, capsys):
    folder = tmp_path / "out"
    assert main(f"calibrate fastervar --n 1 --scales -1 --chunks 2 --out {folder}".split()) == 0
    written = json.loads((folder / "fastervar.json").read_text())
    shown = capsys.readouterr()
    method = read_method(shown.out)
    assert "calibrate fastervar:" in shown.err  # a progress bar
    assert repr(method) == written["method"]
    assert method.chunks == 2
    assert main(["calibrate", "scalekv", "--n", "1", "--budget", "0.25", "--score", "raw"]) == 0
    shown = capsys.readouterr()
    method = read_method(shown.out)
    assert "calibrate scalekv:" in shown.err
    assert (method.score, len(method.drafters)) == ("raw", 1)
    assert main(["calibrate", "heatkv", "--score", "raw"]) == 2
    assert "--score is not an option of heatkv" in capsys.readouterr().err
    assert main(["calibrate", "heatkv", "--chunks", "2"]) == 2
    assert "--chunks is not an option of heatkv" in capsys.readouterr().err
    for words, sentence in {
        "fastervar --energy 0": "energy must lie in (0, 1); not 0.0",
        "fastervar --chunks 0": "chunks must be 1 or more; not 0",
        "heatkv --budget 0": "the budget is a share of all keys in (0, 1]; not 0.0",
        "scalekv --budget 0": "0.0 leaves 0 of 1497",
    }.items():
        assert main(["calibrate", *words.split(), "--n", "1"]) == 2
        assert sentence in capsys.readouterr().err
