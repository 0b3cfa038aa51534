"""Selection, restoration and schedules against slow float64 references, and their errors."""

import itertools
import math
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastvar_lab as fv
from fastvar_lab import scales
from fastvar_lab.backbones.var import VARConfig
from fastvar_lab.methods.guidance import Tail
from fastvar_lab.methods.merge import Merge, match, sources_and_destinations
from fastvar_lab.methods.presets import PRESETS, infinity_preset
from fastvar_lab.methods.prune import Dense, Prune, PruneRunner
from fastvar_lab.methods.quantkv import QuantKV
from fastvar_lab.methods.ratios import parse_ratios
from fastvar_lab.methods.registry import classes
from fastvar_lab.methods.restore import Cached, CachedBranch, NearestKept, Zero
from fastvar_lab.methods.schedule import find, kept
from fastvar_lab.methods.select import (
    FarFromMean,
    HighPass,
    NearMean,
    PrincipalHighPass,
    Random,
    UniformGrid,
    top,
)
from fastvar_lab.methods.stepvar import StepVAR
from fastvar_lab.models.build import build
from fastvar_lab.models.tiny import build_tiny
from fastvar_lab.seam import KINDS, Grid, Site
from fastvar_lab.tokens import gather, nearest_kept, scatter
from tests.families import prompt, small_model

SELECTORS = [FarFromMean(), NearMean(), HighPass(), Random(3), UniformGrid()]
SITE = Site(2, "ffn")
maps = st.tuples(st.integers(1, 9), st.integers(1, 9))


def tokens(seed, b, h, w, c=5):
    return torch.randn(
        b, h * w, c, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


@given(st.integers(0, 99), maps)
def test_pivotal_scores_are_squared_distances_to_the_mean(seed, size):
    x = tokens(seed, 2, *size)
    slow = [
        [sum((row[j][c] - row[:, c].mean()) ** 2 for c in range(5)) for j in range(len(row))]
        for row in x.numpy()
    ]
    assert np.allclose(FarFromMean().scores(x, Grid(0, *size), SITE), slow, atol=1e-12)


@given(st.integers(0, 99), maps)
def test_high_pass_scores_are_squared_distances_to_the_neighbourhood(seed, size):
    h, w = size
    x = tokens(seed, 1, h, w)
    image = x[0].view(h, w, 5).numpy()
    slow = np.zeros((h, w))
    for i in range(h):
        for j in range(w):
            near = image[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].reshape(-1, 5)
            slow[i, j] = ((image[i, j] - near.mean(0)) ** 2).sum()
    found = HighPass().scores(x, Grid(0, h, w), SITE).view(h, w)
    assert np.allclose(found, slow, atol=1e-12)


@pytest.mark.parametrize("selector", SELECTORS, ids=repr)
def test_selectors_score_every_token_of_every_row(selector):
    x = tokens(0, 4, 6, 5)
    scores = selector.scores(x, Grid(3, 6, 5), SITE)
    assert scores.shape == (4, 30)
    assert torch.equal(scores, selector.scores(x, Grid(3, 6, 5), SITE))
    assert eval(repr(selector)) == selector


def test_uniform_grid_covers_the_map_at_every_count():
    grid = Grid(0, 16, 16)
    x = tokens(0, 1, 16, 16)
    for k in (16, 64, 128):
        index = top(UniformGrid().scores(x, grid, SITE), k)[0]
        quarters = (index // 16 // 8 * 2 + index % 16 // 8).bincount(minlength=4)
        assert (quarters - k / 4).abs().max() <= max(2, k // 16)


def test_best_first_or_in_raster_order():
    scores = torch.tensor([[0.1, 3.0, 2.0, 5.0]])
    assert top(scores, 3).tolist() == [[3, 1, 2]]
    assert top(scores, 3, raster=True).tolist() == [[1, 2, 3]]


@settings(max_examples=40)
@given(st.integers(0, 99), maps, maps, st.floats(0.01, 0.99), st.sampled_from(["area", "bilinear"]))
def test_cached_restoration_scatters_fresh_tokens_over_the_resized_cache(seed, old, new, r, mode):
    (a, b), (h, w) = old, new
    k = kept(h * w, r)
    cached, fresh = tokens(seed, 2, a, b), tokens(seed + 1, 2, h, w)[:, :k]
    index = torch.stack(
        [
            torch.randperm(h * w, generator=torch.Generator().manual_seed(seed + i))[:k]
            for i in (0, 1)
        ]
    )
    out = CachedBranch(mode).restore(fresh, index, Grid(5, h, w), Cached(cached, a, b))
    for row in range(2):
        image = cached[row].view(a, b, 5).numpy()
        for cell in range(h * w):
            place = (index[row] == cell).nonzero()
            if len(place):
                wanted = fresh[row, place[0, 0]].numpy()
            elif mode == "area":
                i, j = divmod(cell, w)
                rows = slice(i * a // h, math.ceil((i + 1) * a / h))
                columns = slice(j * b // w, math.ceil((j + 1) * b / w))
                wanted = image[rows, columns].mean((0, 1))
            else:
                continue
            assert np.allclose(out[row, cell], wanted, atol=1e-12)


@given(st.integers(0, 99), maps, st.floats(0.01, 0.99))
def test_nearest_kept_is_the_nearest(seed, size, r):
    h, w = size
    k = kept(h * w, r)
    index = torch.randperm(h * w, generator=torch.Generator().manual_seed(seed))[:k][None]
    found = nearest_kept(index, h, w)[0]
    for cell in range(h * w):
        away = [math.dist(divmod(cell, w), divmod(int(i), w)) for i in index[0]]
        assert away[found[cell]] == pytest.approx(min(away), abs=1e-4)
    fresh = tokens(seed, 1, h, w)[:, :k]
    out = NearestKept().restore(fresh, index, Grid(0, h, w), None)
    assert torch.equal(out[0, index[0]], fresh[0])
    assert Zero().restore(fresh, index, Grid(0, h, w), None).sum() == pytest.approx(fresh.sum())


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("channels", [1, 3, 8, 12])  # whole words of 16 bytes, and not
def test_tokens_are_moved_as_they_are(kind, channels):
    everything = torch.arange(2 * 7 * channels).to(kind).view(2, 7, channels)
    spread = torch.arange(2 * channels * 7).to(kind).view(2, channels, 7).transpose(1, 2)
    inner = torch.arange(2 * 7 * channels + 1).to(kind)[1:].view(2, 7, channels)
    apart = torch.arange(2 * 8 * channels).to(kind).view(2, 8, channels)[:, :7]
    plain = np.arange(2 * 7 * channels * 2 + 1, dtype=np.float32)[1:]  # at an odd address
    odd = torch.from_numpy(plain).view(kind)[: 2 * 7 * channels].view(2, 7, channels)
    index = torch.tensor([[6, 0, 2], [1, 5, 4]])
    rows = torch.arange(2).unsqueeze(-1)
    for x in (everything, spread, inner, apart, odd):
        with torch.no_grad():
            assert torch.equal(gather(x, index), x[rows, index])
        for base in (torch.zeros(2, 7, channels, dtype=kind), x.clone()):
            for fresh in (x[:, :3], x[:, :3].contiguous()):
                wanted = base.clone()
                wanted[rows, index] = fresh
                with torch.no_grad():
                    assert scatter(base, index, fresh) is base
                assert torch.equal(base, wanted)
    known = torch.rand(2, 7, channels, requires_grad=True)
    gather(known, index).sum().backward()
    assert known.grad.sum() == 6 * channels


def test_tokens_of_other_types_are_not_written_as_they_are():
    base, index = torch.zeros(1, 3, 8), torch.tensor([[2, 0]])
    with torch.no_grad(), pytest.raises(RuntimeError, match="dtype"):
        scatter(base, index, torch.ones(1, 2, 8, dtype=torch.bfloat16))
    with torch.no_grad():
        column = torch.randn(1, 9, 9)[:, :1, :8]  # called contiguous, at strides of 81 and 9
        assert torch.equal(gather(column, torch.tensor([[0]])), column)


def test_kept_is_what_the_released_code_keeps():
    assert kept(1024, 0.4) == 615
    assert kept(1600, 0.5) == 800
    assert (kept(48 * 48, 0.5), kept(64 * 64, 0.75)) == (1152, 1024)


def test_kv_lengths_at_the_papers_infinity_setting():
    grids = scales.grids(scales.infinity())
    method = Prune({32: 0.4, 40: 0.5, 48: 1, 64: 1}, cache_step=24, layers=(3, 28))
    run = method.start(grids, depth=32)
    lengths = [sum(run.forwarded(Site(i, "attn"), g) for g in grids) for i in (2, 3, 27, 28)]
    assert lengths == [4121, 2912, 2912, 4121]
    assert [act.skips for act in method.acts(grids)] == [False] * 11 + [True] * 2


@given(st.lists(maps, min_size=2, max_size=8, unique=True), st.data())
def test_scales_are_named_from_the_end_or_by_size(sizes, data):
    grids = scales.grids(sizes)
    step = data.draw(st.integers(0, len(sizes) - 1))
    assert find(step - len(sizes), grids) == step
    assert find(sizes[step], grids) == step
    with pytest.raises(ValueError, match="no scale 77"):
        find(77, grids)


@given(st.integers(1, 64), st.integers(1, 64))
def test_stretched_schedules_grow_to_the_size_asked_for(h, w):
    sizes = scales.stretch(scales.TINY, h, w)
    assert len(sizes) == len(scales.TINY)
    assert sizes[-1] == (h, w)
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(sizes))


@given(st.integers(33, 512))
def test_extended_schedules_keep_the_trained_maps_and_grow_no_faster(side):
    sizes = scales.extend(scales.TINY, side)
    assert sizes[:10] == scales.TINY
    assert sizes[-1] == (side, side)
    for (a, _), (b, _) in itertools.pairwise(sizes[9:]):
        assert a < b <= math.ceil(a * 32 / 24)


@pytest.mark.parametrize(
    ("sizes", "side", "message"),
    [
        (scales.square(1, 2, 4), 4, "ends at 4 can only be extended to more; not to 4"),
        (((1, 1), (2, 3)), 8, "square maps can be extended"),
        (((1, 1),), 8, "square maps can be extended"),
    ],
)
def test_what_cannot_be_extended_is_said(sizes, side, message):
    with pytest.raises(ValueError, match=message):
        scales.extend(sizes, side)


def test_only_the_embedded_model_extends_its_schedule_to_a_larger_square():
    tiny, var = build_tiny(), build(VARConfig(1, 64, 1, (1, 2, 4, 6)))
    assert tiny.sizes_to(48, 48) == scales.extend(tiny.sizes, 48)
    for model, size in ((tiny, (24, 24)), (tiny, (32, 48)), (var, (24, 24))):
        assert model.sizes_to(*size) == scales.stretch(model.sizes, *size)


@pytest.mark.parametrize(
    ("aspect", "totals"),
    {
        1.0: (521, 2521, 6425, 10521),
        1.25: (614, 2814, 6854, 10774),
        1.333: (665, 2657, 7085, 10973),
        1.5: (533, 2759, 6941, 10997),
        1.75: (472, 2628, 7220, 11252),
        2.0: (451, 2681, 7219, 11269),
        2.5: (555, 2555, 6805, 10805),
        3.0: (509, 2588, 7016, 11123),
    }.items(),
)
def test_infinitys_schedules_have_their_known_token_counts(aspect, totals):
    for budget, total in zip(scales.INFINITY_BUDGETS, totals, strict=True):
        sizes = scales.infinity(aspect, budget)
        assert sum(h * w for h, w in sizes) == total
        assert scales.infinity(1 / aspect, budget) == tuple((w, h) for h, w in sizes)
    with pytest.raises(ValueError, match="budget must be one of"):
        scales.infinity(aspect, "2M")
    with pytest.raises(ValueError, match="must be above 0"):
        scales.infinity(-aspect)


def test_the_default_cache_step_is_the_last_unpruned_one():
    grids = scales.grids(scales.TINY)
    assert Prune({24: 0.5, 32: 0.75}).cache_index(grids) == 7
    assert Prune({-1: 0.75}).cache_index(grids) == 8
    assert Prune({24: 1.0, 32: 0.5}).cache_index(grids) == 7
    assert Prune({24: 1.0, 32: 1.0}).cache_index(grids) is None
    assert Prune({-1: 0.75}, restore=Zero()).cache_index(grids) is None
    assert Prune({-1: 0.75}, cache_step=12).cache_index(grids) == 5
    assert Prune({-4: 1.0, -2: 0.5}).cache_index(grids) == 7  # past the skipped step
    assert Prune({1: 1.0, -2: 0.5}).cache_index(grids) == 7


def test_a_method_is_a_value_with_a_faithful_repr():
    method = Prune({24: 0.5, -1: 1.0}, select=Random(2), layers=(1, 5), sublayers=("ffn",))
    assert eval(repr(method)) == method
    assert hash(method) == hash(eval(repr(method)))
    assert all(eval(repr(m)) == m for m in PRESETS.values())
    assert Dense() == eval(repr(Dense()))
    counted = {np.int64(-1): np.float64(0.75), (np.int64(24), 24): np.float32(0.5)}
    plain = Prune(counted, layers=range(2, 4), cache_step=np.int64(-3), sublayers="ffn")
    assert repr(plain) == repr(
        Prune({-1: 0.75, (24, 24): 0.5}, layers=(2, 4), cache_step=-3, sublayers=("ffn",))
    )


class Rule:
    def __init__(self, scores):
        self.scores = lambda x, grid, site: scores(x)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda x: x.sum(-1) * math.nan, "returned nan, which has no rank"),
        (lambda x: x.sub_(1).sum(-1), "writes into the tokens that it receives"),
        (lambda x: x.sum(-1).numpy(), "must return floats of shape .* returned ndarray"),
        (lambda x: None, "returned NoneType"),
        (lambda x: x, "returned torch.float.* of shape"),
        (lambda x: x.sum(-1) > 0, "returned torch.bool"),
    ],
)
def test_selectors_are_held_to_what_they_promise(small, rule, message):
    with pytest.raises(ValueError, match=message):
        fv.generate(small, "a red ring", Prune({-1: 0.5}, select=Rule(rule)))
    if "nan" not in message:  # recorded, nobody ranks them
        with pytest.raises(ValueError, match=message):
            fv.observe(small, "a red ring", Dense(), score=Rule(rule))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda g: Prune({-1: 1.2}), r"ratio of scale -1 must lie in \[0, 1\]; not 1.2"),
        (lambda g: Prune({-1: math.nan}), "must lie in"),
        (lambda g: Prune({-1: -0.1}), "must lie in"),
        (lambda g: Prune({33: 0.5}).acts(g), "no scale 33.*24, 32"),
        (lambda g: Prune({-11: 0.5}).acts(g), "no scale -11"),
        (lambda g: Prune({-1: 0.5, 32: 0.4}).acts(g), "has a ratio already"),
        (lambda g: Prune({24: 0.5}, cache_step=32).acts(g), "must come before the first pruned"),
        (lambda g: Prune({24: 0.5}, cache_step=24).acts(g), "must come before the first pruned"),
        (lambda g: Prune({20: 1.0, 24: 0.5}, cache_step=20).acts(g), "cache step 20 is skipped"),
        (lambda g: Prune({-1: 1.0}, cache_step=999).acts(g), "no scale 999"),
        (lambda g: Prune({g.h: 1.0 for g in g}).acts(g), "every scale step is skipped"),
        (lambda g: Merge({g.h: 1.0 for g in g}).acts(g), "every scale step is skipped"),
        (lambda g: infinity_preset(14), "1 to 13 steps; not 14"),
        (lambda g: Prune({1: 0.5}).acts(g), "no unpruned scale step"),
        (lambda g: Prune({1: 1.0, 2: 0.5}).acts(g), "no unpruned scale step"),
        (lambda g: Prune({-1: 0.5}, layers=(0, 9)).start(g, 8), "beyond the 8 layers"),
        (lambda g: Prune({-1: 0.5}, layers=(5, 5)), "must be a range"),
        (lambda g: Prune({-1: 0.5}, sublayers=("mlp",)), "sublayers must be among"),
        (lambda g: Prune({-1: 0.5}, sublayers=()), r"sublayers must be among .* not \(\)"),
        (
            lambda g: Prune({-1: 0.5}, layers=(0, 8, 2)),
            r"layers must be a range .* not \(0, 8, 2\)",
        ),
        (lambda g: Prune({-1: 0.5}, layers=range(0, 8, 2)), "layers must be a range"),
        (lambda g: Merge({-1: 0.5}, layers=4), "layers must be a range"),
        (lambda g: Prune({-1.0: 0.5}), "a scale is named from the end .* not -1.0"),
        (lambda g: Prune({-1: "0.5"}), "must lie in"),
        (lambda g: Prune({-1: 0.5}, cache_step="20"), "a scale is named"),
        (lambda g: kept(4, 1.5), "a ratio must lie in"),
        (lambda g: Prune({-1: 0.5}, granularity="token"), "granularity must be one of"),
        (lambda g: CachedBranch("cubic"), "mode must be one of"),
        (lambda g: parse_ratios("-1=0.5"), "cannot read '-1=0.5'"),
        (lambda g: parse_ratios("-1:half"), "cannot read"),
        (lambda g: parse_ratios("-1:0.5,-1:0.6"), "twice"),
        (lambda g: parse_ratios(""), "cannot read"),
        (lambda g: scales.grids([]), "at least one map"),
        (lambda g: scales.grids([(0, 3)]), "not 0x3"),
        (lambda g: scales.parse_size("0x4"), "not '0x4'"),
    ],
)
def test_what_cannot_be_met_is_one_clear_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make(scales.grids(scales.TINY))


def test_ratios_are_read_as_they_are_written():
    with pytest.raises(ValueError, match="name scale 28x21 twice"):
        parse_ratios("28x21:.4,28x21:.5")
    assert parse_ratios("-2:0.5, -1:0.75") == {-2: 0.5, -1: 0.75}
    assert parse_ratios("24:0.5,28x21:1") == {24: 0.5, (28, 21): 1.0}


def test_all_kinds_are_named():
    assert KINDS == ("attn", "cross", "ffn")


def test_merging_against_a_slow_reference():
    torch.manual_seed(0)
    x, grid, k = torch.randn(2, 20, 5, dtype=torch.float64), Grid(1, 4, 5), 13
    found = match(x, *sources_and_destinations(grid, 2), k)
    into = [0, 2, 4, 10, 12, 14]
    assert sources_and_destinations(grid, 2)[1].tolist() == into
    for row in range(2):
        others = [i for i in range(20) if i not in into]
        cosine = torch.nn.functional.cosine_similarity
        best = {}
        for i in others:
            likeness = [float(cosine(x[row, i], x[row, j], dim=0)) for j in into]
            best[i] = (max(likeness), into[likeness.index(max(likeness))])
        merged = sorted(others, key=lambda i: -best[i][0])[: 20 - k]
        assert found.merged[row].tolist() == merged
        targets = found.kept[row][found.target[row]].tolist()
        assert targets == [best[i][1] for i in merged]
        assert sorted(found.kept[row].tolist() + merged) == list(range(20))


def test_merged_tokens_are_averaged_and_copied_back():
    grid, method = Grid(0, 2, 2), Merge({-1: 0.5}, layers=(0, 1))
    run = method.start([grid], 1)
    x = torch.tensor([[[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [3.0, 0.0]]])
    seen = []

    def branch(y, index):
        seen.append((y, index))
        return y * 10

    out = run.sublayer(Site(0, "ffn"), grid, branch, x)
    y, index = seen[0]
    assert index.tolist() == [[2, 0]]  # 1 and 3 lie nearest to 0
    assert torch.allclose(y[0], torch.tensor([[0.0, 1.0], [2.0, 0.1 / 3]]))
    assert torch.allclose(out[0], torch.tensor([[20.0, 1 / 3], [20, 1 / 3], [0, 10], [20, 1 / 3]]))


def test_merge_generates_and_says_what_it_cannot(small):
    made = fv.generate(small, "a red circle", Merge({-2: 0.3, -1: 0.6}), seed=1, snapshot=True)
    again = fv.generate(small, "a red circle", Merge({-2: 0.3, -1: 0.6}), seed=1)
    assert torch.equal(made.canvas, again.canvas)
    resumed = fv.resume(small, made, Prune({-1: 0.5}))
    assert torch.equal(
        resumed.canvas, fv.generate(small, "a red circle", Prune({-1: 0.5}), seed=1).canvas
    )
    with pytest.raises(ValueError, match=r"at 8x8 a stride of 2 lets at most 0\.750"):
        fv.generate(small, "a red circle", Merge({-1: 0.8}))


@dataclass(frozen=True)
class Wrong:
    """A selector that returns what it is told."""

    shape: tuple
    dtype: torch.dtype = torch.float32

    def scores(self, x, grid, site):
        return torch.zeros(self.shape, dtype=self.dtype)


@pytest.mark.parametrize(
    "select",
    [Wrong((1, 64)), Wrong((2, 40)), Wrong((64,)), Wrong((2, 64, 1)), Wrong((2, 64), torch.bool)],
    ids=lambda s: f"{s.shape} {s.dtype}",
)
def test_scores_of_another_shape_or_type_are_refused(small, select):
    told = r"Wrong\(.*\).scores must return floats of shape \(2, 64\); returned torch"
    with pytest.raises(ValueError, match=told):
        fv.generate(small, "a red circle", Prune({-1: 0.5}, select=select))


def test_rules_that_are_none_are_refused():
    with pytest.raises(ValueError, match="select must be a selector such as HighPass"):
        Prune({-1: 0.5}, select=HighPass)
    with pytest.raises(ValueError, match="not 'random'"):
        Prune({-1: 0.5}, select="random")
    with pytest.raises(ValueError, match="restore must be a restorer"):
        Prune({-1: 0.5}, restore=Zero)

    class Forgets:
        def restore(self, fresh, index, grid, cached):
            return fresh

    with pytest.raises(ValueError, match="must say whether it `needs_cache`"):
        Prune({-1: 0.5}, restore=Forgets())

    Forgets.needs_cache = False
    runner = Prune({-1: 0.5}, restore=Forgets()).start([Grid(0, 1, 1), Grid(1, 2, 2)], 1)
    x = torch.randn(1, 4, 2)
    with pytest.raises(ValueError, match=r"restore must return floats of shape \(1, 4, 2\)"):
        runner.sublayer(Site(0, "attn"), Grid(1, 2, 2), lambda x, index=None: x, x)


ORDERS = (tuple(range(16)),) * 6
REGISTERED = {
    name: kind.example(scales.grids(scales.TINY), 8)
    if hasattr(kind, "example")
    else kind(*{"HeatKV": (0.5, ORDERS)}.get(name, ()))
    for name, kind in classes().items()
}
FIELDS = [(name, f) for name, kind in REGISTERED.items() for f in fields(kind) if f.init]
PLAIN = {
    "bool": (0, None, "no"), "int": ("x", None, 4.5, True),
    "float": ("x", None, [1.0], True, math.nan),
    "str": (3, None, b"x"),
}  # fmt: skip


def refused(name, field, value):
    """Return the sentence with which a registered class refuses a value of one field."""
    with pytest.raises(ValueError, match=r"\w") as error:
        replace(REGISTERED[name], **{field: value})
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "field"),
    [(name, f) for name, f in FIELDS if f.type.split(" | ")[0] in PLAIN and "tuple" not in f.type],
    ids=lambda part: getattr(part, "name", part),
)
def test_a_value_of_another_type_is_one_sentence(name, field):
    for value in PLAIN[field.type.split(" | ")[0]]:
        if value is not None or "None" not in field.type:
            sentence = refused(name, field.name, value)
            assert sentence.startswith(f"{name}.{field.name} must be ")
            assert sentence.endswith(f"; not {value!r}")


@pytest.mark.parametrize(
    ("name", "field"),
    [(n, f) for n, f in FIELDS if f.type.split(" | ")[0] not in PLAIN],
    ids=lambda part: getattr(part, "name", part),
)
def test_a_value_of_another_shape_is_one_sentence(name, field):
    for value in ("x", "", b"x", None, 3):
        one_scale = "ScaleName" in field.type and "Mapping" not in field.type
        if (value is None and "None" in field.type) or (value == 3 and one_scale):
            continue
        refused(name, field.name, value)


def test_whole_numbers_are_numbers_and_arrays_give_either():
    assert StepVAR({-1: 0.5}, select=PrincipalHighPass(1)).select.weight == 1
    assert Random(np.int64(3)) == Random(3)
    assert QuantKV(bits=np.int32(4)).levels == 7
    for wrong in (4.5, True, np.float64(4)):
        with pytest.raises(ValueError, match=r"QuantKV\.bits must be a whole number; not "):
            QuantKV(wrong)
    for name, field in FIELDS:
        if field.type in ("int", "float"):
            sentence = refused(name, field.name, 10**30)
            assert sentence == f"{name}.{field.name} must lie within 64 bits; not {10**30}"


@pytest.mark.parametrize("kind", [Prune, Merge])
def test_sublayers_that_no_layer_has_are_refused_before_a_step_runs(kind):
    var = small_model("var")
    method = kind({-1: 0.5}, sublayers=("cross",))
    sentence = "prunes the sublayers cross; the layers of this model have attn, ffn"
    for whole in (method, Tail(method, cond_from=-1)):
        with pytest.raises(ValueError, match=sentence):
            fv.generate(var, prompt(var), whole)
    fv.generate(var, prompt(var), kind({-1: 0.5}, sublayers=("attn", "cross")))
    with pytest.raises(ValueError, match="Planned prunes the sublayers cross; the layers of this"):
        fv.generate(var, prompt(var), fv.Planned({-1: {"cross": "4" * var.depth}}))


def test_equal_schedules_are_equal_however_they_are_written():
    assert fv.FasterVAR({-1: 0.3, -2: 0.2}) == fv.FasterVAR({-2: 0.2, -1: 0.3})
    assert Prune({-1: 0.5, -2: 0.25}) == Prune({-2: 0.25, -1: 0.5})
    assert Prune({(4, 6): 0.5, 2: 0.25, -1: 1.0}).pairs == ((-1, 1.0), (2, 0.25), ((4, 6), 0.5))


@dataclass(frozen=True)
class Deeper(Prune):
    """Prunes more in later layers: a rule that spreads ratios over layers."""

    steepness: float = 0.1

    def start(self, grids, depth, held=None):
        return DeeperRunner(self, grids, depth, held or {})


class DeeperRunner(PruneRunner):
    def ratio(self, site, grid):
        ratio = super().ratio(site, grid)
        return ratio and ratio + self.method.steepness * site.layer


def test_a_rule_spreads_ratios_over_layers_by_one_method(small):
    plain, deeper = Prune({-1: 0.5}), Deeper({-1: 0.5})
    steeper = Deeper({-1: 0.5}, steepness=0.2)
    made, trace = fv.observe(small, "a red circle", deeper, seed=1)
    last = len(made.request.grids) - 1
    kept_by = [int(trace.kept[last, Site(i, "ffn")][0].sum()) for i in range(small.depth)]
    assert kept_by == [kept(64, r) for r in (0.5, 0.6, 0.7)]
    counted = fv.costs(small, {"plain": plain, "deeper": deeper}).groupby("method").gflop.sum()
    assert counted["deeper"] < counted["plain"]
    full = fv.generate(small, "a red circle", plain, seed=1, snapshot=True)
    assert full.snapshot.method.acts(made.request.grids) != deeper.acts(made.request.grids)
    for method in (deeper, steeper):  # not taken for what it was derived from
        again = fv.resume(small, full, method)
        assert again.first_step == last
        scratch = fv.generate(small, "a red circle", method, seed=1)
        assert torch.equal(again.canvas, scratch.canvas)
        assert not torch.equal(again.canvas, full.canvas)


def test_a_model_without_a_preset_asks_for_a_schedule(small, monkeypatch):
    monkeypatch.setattr(small, "fast", None)
    assert small.preset is None
    with pytest.raises(ValueError, match="no preset for the model 'small'; give a schedule"):
        fv.paper_preset(small)
