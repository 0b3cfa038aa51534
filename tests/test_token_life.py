"""A token's life against a slow reading of the same generation, written in straight lines."""

import math

import numpy as np
import pytest
import torch

import fastvar_lab as fv
from fastvar_lab.instruments.attention import attention_at
from fastvar_lab.measure.relations import cross_scale_attention
from fastvar_lab.measure.token_life import token_life
from fastvar_lab.snapshots import rerun_step

from .families import prompt, small_model

PROMPT, SEED = "a red circle left of a blue star", 4
METHODS = {
    "full": fv.Dense(),
    "pruned": fv.Prune({-2: 0.5, -1: 0.75}),
    "from the start": fv.Prune({2: 0.25, 4: 0.5, -1: 0.75}, raster=True),
    "a skipped step": fv.Prune({-2: 1.0, -1: 0.5}),
    "by layers": fv.Prune({-1: 0.5}, layers=(1, 2)),
    "the whole stack": fv.Prune({-1: 0.5}, granularity="stack", layers=(1, 3)),
    "looks back": fv.Prune({-2: 0.5, -1: 0.75}, select=fv.BlockChange((0, 2))),
    "rolling": fv.Prune({-2: 0.5, -1: 0.75}, restore=fv.PreviousBranch()),
    "merged": fv.Merge({-1: 0.5}),
    "one row": fv.Tail(fv.Prune({-1: 0.5}), cond_from=-2),
    "fewer keys": fv.ScaleKV({-1: 40}, window=4),
    "rounded keys": fv.QuantKV(4),
}
TOGETHER = {
    "two steps in one forward": fv.LazyVAR({-2: 0.5, -1: 0.75}),
    "a step after them": fv.LazyVAR({-3: 0.5, -2: 0.75}),
}


class Slow(fv.Wrapper):
    """Keeps every query, key and index of a generation, and where each key came from."""

    def __init__(self, inner):
        super().__init__(inner)
        self.calls, self.origin, self.index = {}, {}, None
        while isinstance(inner, fv.Wrapper):
            inner = inner.inner
        reads = inner.reads  # what attention reads, behind the method

        def looked(site, grid, q, k, v, mask=None, scale=1.0):
            k, v, mask = reads(site, grid, q, k, v, mask, scale)
            self.calls[grid.index, site] = (q.clone(), k.clone(), mask, scale, self.index)
            return k, v, mask

        inner.reads = looked

    def sublayer(self, site, grid, branch, x):
        def watched(x, index=None):
            everything = torch.arange(grid.tokens).expand(len(x), -1)
            self.index = everything if index is None else index
            if site.kind == "attn":
                places = [(grid.index, int(t)) for t in self.index[0]]
                self.origin.setdefault(site.layer, []).extend(places)
            return branch(x, index)

        return self.inner.sublayer(site, grid, watched, x)


def watched(model, method):
    """Return a generation with its trace, and what a slow watcher saw."""
    slow = []

    def watch(inner):
        slow.append(Slow(inner))
        return slow[-1]

    run, trace = fv.observe(model, PROMPT, method, seed=SEED, snapshot=True)
    again, _ = fv.observe(model, PROMPT, method, seed=SEED)
    fv.generate(model, PROMPT, method, seed=SEED, watch=[watch])
    assert torch.equal(run.canvas, again.canvas)
    return run, trace, slow[0]


@pytest.mark.parametrize("name", METHODS)
def test_attention_is_that_of_the_generation(small, name):
    run, trace, slow = watched(small, METHODS[name])
    for step, layer in ((4, 0), (4, 2), (3, 1), (1, 2)):
        found = attention_at(small, run, trace, step, layer)
        for kind in ("attn", "cross"):
            call = slow.calls.get((step, fv.Site(layer, kind)))
            assert (kind in found) == (call is not None)
            if call is None:
                continue
            q, k, mask, scale, index = call
            attention = found[kind]
            assert torch.equal(attention.q, q)
            assert torch.equal(attention.k, k)
            queries = index[0].tolist()
            for token in range(trace.grids[step].tokens):
                weights = attention.weights(token)
                assert (weights is None) == (token not in queries)
                if weights is None:
                    continue
                place = queries.index(token)
                for head in range(q.shape[1]):
                    products = [
                        float((q[0, head, place] * k[0, head, t]).sum()) * scale
                        + (
                            0
                            if mask is None
                            else float(mask[0, min(head, mask.shape[1] - 1), 0, t])
                        )
                        for t in range(k.shape[2])
                    ]
                    top = max(products)
                    powers = [math.exp(p - top) for p in products]
                    expected = torch.tensor([p / sum(powers) for p in powers])
                    assert torch.allclose(weights[head].float(), expected, atol=1e-6)
                break
        if "attn" not in found:
            continue
        attention = found["attn"]
        token = next(t for t in range(99) if attention.query(t) is not None)
        mean = attention.weights(token).mean(0)
        maps, text = attention.on_maps(mean)
        assert not len(text)
        origin = slow.origin[layer][: len(mean)]
        for weight, (source, place) in zip(mean.tolist(), origin, strict=True):
            assert maps[source].flatten()[place] == weight
        absent = sum(int(m.isnan().sum()) for m in maps.values())
        assert absent == sum(m.numel() for m in maps.values()) - len(origin)


@pytest.mark.parametrize("name", [*METHODS, *TOGETHER])
def test_recorded_attention_is_that_of_the_generation(small, name):
    method, sites = (METHODS | TOGETHER)[name], [fv.Site(layer, "attn") for layer in (0, 2)]
    run, _, slow = watched(small, method)
    again, trace = fv.observe(small, PROMPT, method, seed=SEED, attention=sites)
    assert torch.equal(again.canvas, run.canvas)  # keys are read once, and as always
    table = cross_scale_attention(trace).set_index(["step", "layer", "head", "source"])
    joined = {s: s - 1 for s, act in enumerate(method.acts(trace.grids)) if act.joined}
    for step in range(5):
        for site in sites:
            call = slow.calls.get((joined.get(step, step), site))
            assert ((step, site) in trace.attention) == (call is not None)
            if call is None:
                continue
            q, k, mask, scale, _ = call
            origin = [step_of(*place, trace.grids) for place in slow.origin[site.layer]]
            keys = torch.tensor(origin[: k.shape[2]])
            queries = keys[-q.shape[2] :]
            products = q @ k.transpose(-1, -2) * scale + (0 if mask is None else mask)
            late = keys > queries[:, None]  # of a later step of the same forward
            weights = products.masked_fill(late, -math.inf).softmax(-1)[:, :, queries == step]
            read = torch.zeros_like(products[:, :, :1]) if mask is None else mask
            read = (read[:, :, 0] > -math.inf) & (keys <= step)
            assert trace.seen[step, site] == tuple(sorted(set(keys[keys <= step].tolist())))
            for place, source in enumerate(trace.seen[step, site]):
                expected = weights[..., keys == source].sum(-1)
                assert torch.allclose(trace.attention[step, site][..., place], expected)
                share = (read[..., keys == source].sum(-1) / read.sum(-1)).mean(0)
                for head, chance in enumerate(share.tolist()):
                    row = table.loc[(step, site.layer, head, source)]
                    assert row.chance == pytest.approx(chance, rel=1e-6)
                    assert row.share == pytest.approx(float(expected[:, head].mean()))


def step_of(first, token, grids):
    """Return the step of a token of the forward that begins with the step `first`."""
    while token >= grids[first].tokens:
        token, first = token - grids[first].tokens, first + 1
    return first


def test_a_token_reads_the_steps_of_a_forward_before_it(small):
    run, trace, _ = watched(small, TOGETHER["a step after them"])
    attention = attention_at(small, run, trace, 4, 1)["attn"]
    maps, _ = attention.on_maps(attention.weights(7)[0])
    assert {step: int(m.isfinite().sum()) for step, m in maps.items()} == {
        0: 1, 1: 4, 2: 8, 3: 9, 4: 64,
    }  # fmt: skip
    scores = token_life(small, run, trace, 4, (0, 7)).scores
    assert set(scores[scores.step == 4].state) == {"computed"}
    assert set(scores[scores.step.isin([2, 3])].state) <= {"kept", "restored"}


class FewerKeys(fv.Runner):
    def reads(self, site, grid, q, k, v, mask=None, scale=1.0):
        return (k[:, :, :1], v[:, :, :1], mask) if site.kind == "attn" else (k, v, mask)


def test_keys_of_unknown_steps_are_not_recorded(small):
    trace, site = fv.Trace(small.grids()), fv.Site(1, "attn")

    def watch(inner):
        return fv.Recorder(FewerKeys(), trace, attention=[site])

    with pytest.raises(ValueError, match=r"layer 1, step 1 \(2x2\), reads 1 of 5 keys"):
        fv.generate(small, PROMPT, fv.Dense(), watch=[watch])


def test_scores_ranks_codes_and_patches_are_as_read_by_hand(small):
    method = fv.Prune({4: 1.0, -2: 0.5, -1: 0.75}, layers=(1, 3))
    run, trace = fv.observe(small, [PROMPT, "a ring"], method, seed=SEED, snapshot=True)
    life = token_life(small, run, trace, -1, (5, 2), layer=1, picture=1)
    assert life.cells == {0: (0, 0), 1: (1, 0), 2: (2, 1), 3: (4, 1), 4: (5, 2)}
    for row in life.scores.itertuples():
        site, grid = fv.Site(row.layer, row.kind), trace.grids[row.step]
        place = life.cells[row.step][0] * grid.w + life.cells[row.step][1]
        if row.step == 2:
            assert (row.state, row.score == row.score) == ("skipped", False)
            continue
        scores = trace.scores[row.step, site][1].tolist()
        order = sorted(range(len(scores)), key=lambda t: (-scores[t], t))
        assert (row.score, row.rank) == (scores[place], 1 + order.index(place))
        assert row.tokens == grid.tokens
        pruned = row.step > 2 and row.layer > 0
        keeps = math.ceil(grid.tokens * {3: 0.5, 4: 0.25}.get(row.step, 1))
        state = ("kept" if row.rank <= keeps else "restored") if pruned else "computed"
        assert row.state == state
    codes = life.codes.set_index("step")
    assert codes.code[2] == ""
    for step in (0, 1, 3, 4):
        y, x = life.cells[step]
        bits = run.tokens[step][1, y * trace.grids[step].w + x]
        assert codes.code[step] == "".join(str(int(b)) for b in bits)
    a, b = codes.code[1], codes.code[3]
    assert codes.changed[3] == sum(x != y for x, y in zip(a, b, strict=True)) / len(a)
    pictures = [small.decode(trace.canvases[s])[1].permute(1, 2, 0).numpy() for s in range(5)]
    side = pictures[0].shape[0] // 8
    far = []
    for picture, patch in zip(pictures, life.patch.pictures, strict=True):
        expected = picture[5 * side : 6 * side, 2 * side : 3 * side]
        assert np.array_equal(expected, patch)
        far.append(float(np.abs(expected - pictures[-1][5 * side : 6 * side, 2 * side : 3 * side])
                         .mean()))  # fmt: skip
    assert np.allclose(life.patch.distance, far)
    assert all(d <= 2 / 255 for d in far[life.patch.settled :])
    assert life.patch.settled == 0 or far[life.patch.settled - 1] > 2 / 255
    assert life.pieces == ("a", "ring")
    if life.attention:
        assert abs(sum(life.attention["attn"].shares.values()) - 1) < 1e-9
        assert len(life.attention["cross"].text) >= 2


def test_other_families_have_lives_too():
    model = small_model("hart")
    run, trace = fv.observe(model, prompt(model), fv.Dense(), seed=1, snapshot=True)
    life = token_life(model, run, trace, 1, (0, 1))
    gaze = life.attention["attn"]
    assert len(gaze.text) == model.transformer.prefix
    assert abs(sum(gaze.shares.values()) + gaze.text.sum() - 1) < 1e-5
    model = small_model("var")
    run, trace = fv.observe(model, prompt(model), fv.Dense(), seed=1, snapshot=True)
    life = token_life(model, run, trace, 2, (2, 0))
    assert set(life.attention) == {"attn"}
    assert set(life.scores.kind) == {"attn", "ffn"}
    assert life.codes.code.str.fullmatch(r"\d+").all()


def test_a_step_runs_again_alone_where_the_method_allows_it(small):
    def first(method, step):
        run = fv.generate(small, PROMPT, method, seed=1, snapshot=True)
        return rerun_step(run.snapshot, step)

    assert [first(METHODS["pruned"], s) for s in range(5)] == [0, 1, 2, 3, 4]
    assert first(METHODS["looks back"], 4) == 2
    assert first(METHODS["rolling"], 4) == 3
    assert first(METHODS["one row"], 4) == 4
    painted = fv.Painted({-1: "0:0-3"}, {-1: "1:0-3"})  # which a skipped step contradicts
    assert first(fv.Prune({-2: 0.5, -1: 0.75}, select=painted), 4) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": 5, "token": (0, 0)}, "steps 0 to 4; not 5"),
        ({"step": 4, "token": (8, 0)}, "8x8 has no token in row 8, column 0"),
        ({"step": 4, "token": (0, 0), "layer": 3}, "layers 0 to 2; not step 4, layer 3"),
        ({"step": 4, "token": (0, 0), "picture": 1}, "1 pictures, from 0 on; not 1"),
    ],
)
def test_what_is_not_there_is_said(small, arguments, message):
    run, trace = fv.observe(small, PROMPT, fv.Dense(), seed=1, snapshot=True)
    with pytest.raises(ValueError, match=message):
        token_life(small, run, trace, **arguments)


def test_a_life_needs_a_snapshot_and_the_order_of_tokens(small, tmp_path):
    method = METHODS["pruned"]
    run, trace = fv.observe(small, PROMPT, method, seed=1)
    with pytest.raises(ValueError, match="kept no snapshot"):
        attention_at(small, run, trace, 4, 0)
    run, trace = fv.observe(small, PROMPT, method, seed=1, snapshot=True)
    trace.save(tmp_path / "a.safetensors")
    loaded = fv.Trace.load(tmp_path / "a.safetensors")
    assert all(torch.equal(loaded.order[key], value) for key, value in trace.order.items())
    assert attention_at(small, run, loaded, 4, 2)["attn"].keys
    loaded.order.clear()  # as of an older version
    with pytest.raises(ValueError, match="before the order of tokens was"):
        attention_at(small, run, loaded, 4, 2)
    joined = fv.generate(small, PROMPT, fv.Dense(), seed=1, snapshot=True)
    assert attention_at(small, joined, fv.observe(small, PROMPT, fv.Dense(), seed=1)[1], 0, 0)
