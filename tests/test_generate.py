"""What generation promises: determinism, batches, snapshots, recording, every schedule."""

import threading
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import fastvar_lab as fv
from fastvar_lab import scales
from fastvar_lab.backbones.infinity import Text
from fastvar_lab.backbones.text import RandomText
from fastvar_lab.branching import Branches
from fastvar_lab.draws import Keyed, Streamed
from fastvar_lab.errors import PromptError
from fastvar_lab.experiments import run
from fastvar_lab.models.releases import VAR
from fastvar_lab.seam import KINDS, Runner, Site, Wrapper
from fastvar_lab.verification import Seen
from tests.conftest import SIZES

CPU = torch.device("cpu")

OUTSIDE = ["circle of of left star", "a red red circle", "four circles and three stars",
           "a ring left of a star above a cross"]  # fmt: skip
PROMPTS = ["a red circle", "three blue squares", "a cyan star left of a dotted pink ring"]
METHODS = [
    fv.Dense(),
    fv.Prune({-1: 0.6}),
    fv.Prune({-3: 0.3, -2: 1.0, -1: 0.7}),
    fv.Prune({-2: 0.5, -1: 0.75}, select=fv.HighPass(), restore=fv.NearestKept(), layers=(1, 3)),
    fv.Prune({-2: 0.5, -1: 0.75}, restore=fv.Zero(), granularity="block", raster=True),
    fv.Prune({-1: 0.5}, select=fv.UniformGrid(), granularity="step", sublayers=("attn", "ffn")),
    fv.Prune({-2: 0.4, -1: 0.5}, null_until=-3),
]


class Heads(Wrapper):
    """Keeps what goes into the head at each step."""

    def __init__(self, inner, seen):
        super().__init__(inner)
        self.seen = seen

    def stack(self, grid, blocks, x):
        x = self.inner.stack(grid, blocks, x)
        self.seen.append(x)
        return x


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_generations_own_tokens_given_are_continued_as_it_was(small, method):
    whole = fv.generate(small, PROMPTS[:2], method, seed=3)
    known = [t for t in whole.tokens[:3] if t is not None]
    again = fv.generate(small, PROMPTS[:2], method, seed=3, given=known)
    for a, b in zip(whole.tokens, again.tokens, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)
    flipped = [*known[:2], ~known[2]]
    other = fv.generate(small, PROMPTS[:2], method, seed=3, given=flipped, snapshot=True)
    assert torch.equal(other.tokens[2], flipped[2])
    assert not torch.equal(other.canvas, whole.canvas)
    assert torch.equal(fv.resume(small, other, fv.Dense()).tokens[2], flipped[2])


def test_tokens_that_do_not_fit_are_refused(small):
    with pytest.raises(ValueError, match=r"step 1 must have the shape \(1, 4\)"):
        fv.generate(small, "a ring", given=[torch.ones(1, 1, 16) > 0] * 2, method=fv.Dense())
    with pytest.raises(ValueError, match="are given for a schedule of"):
        fv.generate(small, "a ring", given=[torch.ones(1, 1, 16) > 0] * 99, method=fv.Dense())
    skipped = fv.generate(small, "a ring", fv.Prune({-2: 1.0})).tokens
    with pytest.raises(ValueError, match="step 3 of the given tokens was skipped"):
        fv.generate(small, "a ring", fv.Dense(), given=skipped)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_batch_gives_the_bits_of_its_pictures_alone(small, method):
    seen = []
    batch = fv.generate(
        small, PROMPTS, method, seed=[5, 6, 7], watch=[lambda run: Heads(run, seen)]
    )
    for i, prompt in enumerate(PROMPTS):
        alone_seen = []
        alone = fv.generate(
            small, prompt, method, seed=5 + i, watch=[lambda run, s=alone_seen: Heads(run, s)]
        )
        for both, one in zip(batch.tokens, alone.tokens, strict=True):
            assert (both is None) == (one is None)
            assert one is None or torch.equal(both[i], one[0])
        for both, one in zip(seen, alone_seen, strict=True):
            rows = both[[i, i + 3]] if len(both) == 6 else both[[i]]
            assert (rows - one).abs().max() < 1e-12
        assert torch.equal(batch.canvas[i], alone.canvas[0])


def test_a_batch_in_float32_stays_within_1e_5():
    model = fv.load("tiny", weights="random", seed=1)
    method, seen, alone_seen = fv.Prune({-1: 0.5}), [], []
    batch = fv.generate(model, PROMPTS, method, sizes=SIZES, watch=[lambda run: Heads(run, seen)])
    fv.generate(
        model, PROMPTS[1], method, seed=1, sizes=SIZES, watch=[lambda run: Heads(run, alone_seen)]
    )
    for both, one in zip(seen, alone_seen, strict=True):
        assert (both[[1, 4]] - one).abs().max() < 1e-5
    assert torch.isfinite(batch.canvas).all()


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_the_same_request_gives_the_same_bits(small, method):
    first, second = (fv.generate(small, PROMPTS[0], method, seed=9) for _ in range(2))
    assert torch.equal(first.canvas, second.canvas)
    other = fv.generate(small, PROMPTS[0], method, seed=10)
    assert not torch.equal(first.canvas, other.canvas)


def test_a_skipped_step_leaves_all_later_noise_as_it_was():
    draws = Keyed((3,)).start(CPU)
    p = torch.full((1, 16, 4, 2), 0.5)
    later = draws.pick(4, p)
    draws.pick(3, p)
    assert torch.equal(draws.pick(4, p), later)
    assert not torch.equal(draws.pick(5, p), later)
    far = Keyed((3 + 2**32,)).start(CPU).pick(4, p)
    assert not torch.equal(far, later)  # the high bits of a seed count


def test_keyed_draws_follow_the_probabilities():
    p = torch.tensor([0.2, 0.5, 0.3]).expand(1, 20000, 3)
    share = Keyed((0,)).start(CPU).pick(0, p)[0].bincount() / 20000
    assert torch.allclose(share, p[0, 0], atol=0.015)


def test_what_has_no_probability_is_never_drawn(monkeypatch):
    """Also where the sum of the others is rounded below a draw."""
    p = torch.tensor([[[0.4, 0.6 - 2**-20, 0.0]]])
    stream = Keyed((0,)).start(CPU)
    for u in (1 - 2**-24, 0.0):
        monkeypatch.setattr(stream, "_each", lambda *_, u=u: torch.full((1, 1), u))
        assert stream.pick(0, p).item() == (1 if u else 0)
    monkeypatch.setattr(stream, "_each", lambda *_: torch.zeros(1, 1))
    assert stream.pick(0, p.flip(-1)).item() == 1


def test_streamed_draws_come_in_the_released_order(small, monkeypatch):
    shapes, real = [], torch.multinomial
    monkeypatch.setattr(
        torch, "multinomial", lambda p, *a, **k: shapes.append(tuple(p.shape)) or real(p, *a, **k)
    )
    method = fv.Prune({-2: 1.0, -1: 0.5})
    made = fv.generate(small, PROMPTS[0], method, draws=Streamed(4))
    assert shapes == [(h * w * 16, 2) for h, w in SIZES if (h, w) != (6, 6)]
    assert made.tokens[3] is None
    again = fv.generate(small, PROMPTS[0], method, draws=Streamed(4))
    assert torch.equal(again.canvas, made.canvas)
    whole = fv.generate(small, PROMPTS[0], fv.Dense(), draws=Streamed(4), snapshot=True)
    with pytest.raises(ValueError, match="keyed draws"):
        fv.resume(small, whole, method)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4),
    st.integers(1, 3),
    st.sampled_from([1.0, 3.0]),
    st.floats(0.0, 0.99),
)
def test_any_schedule_aspect_and_batch(small, sizes, n, guidance, ratio):
    sizes = sorted(set(sizes))
    method = fv.Prune({-1: ratio}) if len(sizes) > 1 else fv.Dense()
    made = fv.generate(
        small, PROMPTS[:n], method, sizes=sizes, sampling=fv.Sampling(guidance=guidance)
    )
    assert made.canvas.shape == (n, 16, *sizes[-1])
    assert torch.isfinite(made.canvas).all()


def test_guidance_one_runs_half_the_rows(small):
    rows = []

    class Count(Wrapper):
        def sublayer(self, site, grid, branch, x):
            rows.append(len(x))
            return self.inner.sublayer(site, grid, branch, x)

    fv.generate(small, PROMPTS[0], fv.Dense(), watch=[Count], sampling=fv.Sampling(guidance=1.0))
    assert set(rows) == {1}
    rows.clear()
    fv.generate(small, PROMPTS[0], fv.Prune({-1: 0.5}, null_until=-2), watch=[Count])
    per_step = 3 * small.depth
    assert rows == [2] * per_step * 4 + [1] * per_step


def test_a_middle_step_can_be_skipped(small):
    made = fv.generate(small, PROMPTS[0], fv.Prune({-2: 1.0}))
    assert made.tokens[-2] is None
    assert made.tokens[-1] is not None


def test_too_many_scales_or_seeds_are_refused(small):
    with pytest.raises(ValueError, match="level embeddings for 15 scales; the schedule has 16"):
        fv.generate(small, PROMPTS[0], fv.Dense(), sizes=[(i, i) for i in range(1, 17)])
    with pytest.raises(ValueError, match="3 prompts need as many seeds; not 2"):
        fv.generate(small, PROMPTS, fv.Dense(), seed=[1, 2])


# A mutant of the seam: a backbone that ignores `index` must be noticed.


def test_dropping_the_index_changes_the_result(small):
    class Blind(Wrapper):
        def sublayer(self, site, grid, branch, x):
            def blind(x, index=None):
                k = x.shape[1]
                return branch(x, None if index is None else torch.arange(k).expand(len(x), -1))

            return self.inner.sublayer(site, grid, blind, x)

    method = fv.Prune({-1: 0.5})
    right = fv.generate(small, PROMPTS[0], method)
    assert not torch.equal(
        fv.generate(small, PROMPTS[0], method, watch=[Blind]).canvas, right.canvas
    )


@pytest.mark.parametrize("raster", [True, False])
def test_all_kept_reproduces_dense_at_every_sublayer(small, raster):
    outs = {}

    class Deltas(Wrapper):
        def sublayer(self, site, grid, branch, x):
            delta = self.inner.sublayer(site, grid, branch, x)
            outs.setdefault((grid.index, site), []).append(delta)
            return delta

    for method in (fv.Dense(), fv.Prune({-1: 1e-9}, raster=raster)):
        fv.generate(small, PROMPTS[0], method, watch=[Deltas])
    for dense, forced in outs.values():
        if raster:
            assert torch.equal(dense, forced)
        assert (dense - forced).abs().max() < 1e-12


# Snapshots

ratios = st.sampled_from([0.0, 0.3, 0.75, 1.0])


@st.composite
def prunes(draw):
    names = draw(st.sets(st.sampled_from([-1, -2, -3]), min_size=1))
    first, end = sorted(draw(st.sets(st.integers(0, 3), min_size=2, max_size=2)))
    restore = draw(st.sampled_from([fv.CachedBranch(), fv.Zero()]))
    caches = [None, -4, -5] if restore.needs_cache else [None]
    return fv.Prune(
        {name: draw(ratios) for name in names},
        select=draw(st.sampled_from([fv.FarFromMean(), fv.Random(1), fv.HighPass()])),
        restore=restore,
        cache_step=draw(st.sampled_from(caches)),
        layers=draw(st.sampled_from([None, (first, end)])),
        sublayers=draw(st.sampled_from([KINDS, ("ffn",), ("attn", "cross")])),
        null_until=draw(st.sampled_from([None, None, -2])),
    )


@settings(max_examples=40, deadline=None)
@given(prunes(), prunes(), st.sampled_from([True, (0, 1), ()]))
def test_resuming_gives_the_bits_of_generating_from_scratch(small, first, second, keep):
    base = fv.generate(small, PROMPTS[:2], first, seed=2, snapshot=keep)
    resumed = fv.resume(small, base, second, snapshot=True)
    scratch = fv.generate(small, PROMPTS[:2], second, seed=2)
    assert torch.equal(resumed.canvas, scratch.canvas)
    assert resumed.first_step == fv.resume_step(base.snapshot, second, small)
    back = fv.resume(small, resumed, first)  # a resumed run can be resumed again
    assert torch.equal(back.canvas, base.canvas)


@pytest.mark.parametrize(
    "chain",
    [
        [fv.Prune({-3: 0.5}), fv.Prune({-1: 0.5}, layers=(0, 1)), fv.Prune({-1: 0.75})],
        [fv.Prune({-1: 0.3}, null_until=-2), fv.Prune({-1: 0.75})],
        [fv.Prune({-1: 0.3}), fv.Prune({-1: 0.3}, null_until=-2), fv.Prune({-1: 0.3})],
    ],
    ids=["stale", "dropped", "back"],
)
@pytest.mark.parametrize("keep", [True, ()])
def test_chains_of_resumed_snapshots(small, chain, keep):
    made = fv.generate(small, PROMPTS[0], chain[0], seed=2, snapshot=keep)
    for method in chain[1:]:
        made = fv.resume(small, made, method, snapshot=keep)
        scratch = fv.generate(small, PROMPTS[0], method, seed=2)
        assert torch.equal(made.canvas, scratch.canvas)


def test_snapshots_belong_to_their_model(small):
    base = fv.generate(small, PROMPTS[0], fv.Dense(), snapshot=True, sizes=SIZES)
    with pytest.raises(ValueError, match="another model"):
        fv.resume(fv.load("tiny", weights="random"), base.snapshot, fv.Dense())
    with pytest.raises(ValueError, match=r"unpruned steps, \[0, 1, 2, 3, 4\] here; not \[7\]"):
        fv.generate(small, PROMPTS[0], fv.Dense(), snapshot=[7])


def test_bfloat16_runs():
    model = fv.load("tiny", weights="random", dtype=torch.bfloat16)
    for method in METHODS:
        made = fv.generate(model, PROMPTS[:2], method, sizes=SIZES)
        assert torch.isfinite(model.decode(made.canvas)).all()


def test_resuming_starts_as_late_as_it_may(small):
    full = fv.generate(small, PROMPTS[0], fv.Dense(), snapshot=True).snapshot
    assert fv.resume_step(full, fv.Prune({-1: 0.5}), small) == 4
    assert fv.resume_step(full, fv.Prune({-2: 0.5}), small) == 3
    assert fv.resume_step(full, fv.Dense(), small) == 5
    bare = fv.generate(small, PROMPTS[0], fv.Dense(), snapshot=[0]).snapshot
    assert fv.resume_step(bare, fv.Prune({-1: 0.5}), small) == 3  # its cache step is run again
    assert fv.resume_step(bare, fv.Prune({-1: 0.5}, restore=fv.Zero()), small) == 4


HALF = {"ffn": "444"}
EARLIER = {
    "keys by importance": fv.ScaleKV({-2: 16, -1: 16}, window=4),
    "depths": fv.DepthVAR(-3),
    "the step before": fv.Planned({-2: HALF, -1: HALF}, previous={-1: ["ffn"]}),
    "rolling": fv.Prune({-2: 0.5, -1: 0.5}, restore=fv.PreviousBranch()),
    "anchors": fv.SparseVAR(-2),
    "low rank": fv.FasterVAR({-2: 0.5, -1: 0.5}, chunks=3),
    "entropy": fv.Prune({-2: 0.5, -1: 0.5}, select=fv.AttentionEntropy()),
    "a decision": fv.FocusVARAdaptive(fv.Prune({-1: 0.5}), -3, 1, 2),
}


def heads_of(start, *args):
    """Return a generation, and what went into the head at its steps."""
    seen = []
    return start(*args, watch=[partial(Heads, seen=seen)]), seen


def resumes_as_from_scratch(model, base, method):
    """Check that a resumed generation has the bits of one from scratch; return its first step."""
    scratch, wanted = heads_of(partial(fv.generate, seed=1), model, PROMPTS[0], method)
    again, seen = heads_of(fv.resume, model, base, method)
    assert torch.equal(again.canvas, scratch.canvas)
    assert all(map(torch.equal, seen, wanted[len(wanted) - len(seen) :]))
    return again.first_step


@pytest.mark.parametrize("method", EARLIER.values(), ids=EARLIER)
def test_a_runner_that_knows_earlier_steps_is_not_resumed_behind_them(small, method):
    """The acts of a skipped tail say nothing of the steps before it, which are equal."""
    tail = fv.Tail(method, skip_from=-1)
    base = fv.generate(small, PROMPTS[0], tail, seed=1, snapshot=True)
    assert resumes_as_from_scratch(small, base, method) < 4
    whole = fv.generate(small, PROMPTS[0], method, seed=1, snapshot=True)
    assert resumes_as_from_scratch(small, whole, tail) == 4  # nothing is left to run
    assert resumes_as_from_scratch(small, whole, fv.Tail(method, skip_from=-2)) == 3


def test_a_rolling_restorer_sees_every_step_from_its_cache_step_on(small):
    full = fv.generate(small, PROMPTS[0], fv.Dense(), seed=1, snapshot=True)
    early = fv.Prune({-1: 0.5}, restore=fv.PreviousBranch(), cache_step=-4)
    assert resumes_as_from_scratch(small, full, early) == 2
    first = fv.Planned({-2: HALF, -1: HALF}, restore=fv.PreviousBranch())
    base = fv.generate(small, PROMPTS[0], first, seed=1, snapshot=True)
    branches = Branches(small, full)
    branches.run(first)
    for changes in ({"pruned": {-2: HALF, -1: {"ffn": "666"}}}, {"rows": {-1: "cond"}}):
        other = replace(first, **changes)
        assert resumes_as_from_scratch(small, base, other) == 3
        scratch = fv.generate(small, PROMPTS[0], other, seed=1)
        assert torch.equal(branches.run(other).canvas, scratch.canvas)


def test_a_plan_inside_a_tail_resumes_from_its_own_snapshot(small):
    plan = fv.Planned({-2: HALF}, rows={-3: "held"}, restore=fv.PreviousBranch())
    method = fv.Tail(plan, cond_from=-1)
    base = fv.generate(small, PROMPTS[0], method, seed=1, snapshot=True)
    assert resumes_as_from_scratch(small, base, method) <= 1  # whose difference is held


@pytest.mark.parametrize(
    "method",
    [
        fv.Prune({-2: 0.5, -1: 0.5}),
        fv.Merge({-2: 0.5, -1: 0.5}),
        fv.QuantKV(4),
        fv.LazyVAR({-2: 0.5, -1: 0.5}, group=False),
        fv.FocusVAR(fv.Prune({-2: 0.5, -1: 0.5}), first=-1, layer=1),
        fv.Planned({-2: HALF, -1: HALF}),
    ],
    ids=repr,
)
def test_a_runner_that_carries_nothing_shares_pruned_steps(small, method):
    base = fv.generate(small, PROMPTS[0], fv.Tail(method, skip_from=-1), seed=1, snapshot=True)
    assert resumes_as_from_scratch(small, base, method) == 4


def test_two_resumes_at_once_do_not_disturb_each_other(small):
    snapshot = fv.generate(small, PROMPTS[0], fv.Dense(), snapshot=True).snapshot
    methods = [fv.Prune({-2: 0.5, -1: r}) for r in (0.25, 0.75)]
    wanted = [fv.generate(small, PROMPTS[0], m).canvas for m in methods]
    got = [None, None]

    def work(i):
        for _ in range(5):
            got[i] = fv.resume(small, snapshot, methods[i]).canvas

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


# Recording


class CountOps(TorchDispatchMode):
    """Counts dispatched tensor operations."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(**options):
    with CountOps() as mode:
        fv.generate(**options)
    return mode.count


def test_watching_nothing_adds_no_tensor_operation(small):
    ask = {"model": small, "prompts": PROMPTS[0], "method": fv.Prune({-1: 0.5})}
    plain = operations(**ask)
    assert operations(**ask, watch=[fv.Stopwatch, Wrapper]) == plain
    with CountOps() as stamp:
        assert small.drawing
    assert operations(**ask, snapshot=True) == plain + stamp.count  # the model's checksum
    assert operations(**ask, watch=[partial(fv.Recorder, trace=fv.Trace())]) > plain


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_recording_changes_nothing_and_records_everything(small, method):
    site = Site(1, "attn")
    plain = fv.generate(small, PROMPTS[0], method)
    made, trace = fv.observe(
        small, PROMPTS[0], method, features=[site], outputs=[site], attention=[site]
    )
    assert torch.equal(made.canvas, plain.canvas)
    run = method.start(trace.grids, small.depth)
    for grid in trace.grids:
        if trace.tokens[grid.index] is None:
            continue
        rows = 1 if method.acts(trace.grids)[grid.index].rows is fv.Rows.COND else 2
        for layer in range(small.depth):
            for kind in KINDS:
                key = (grid.index, Site(layer, kind))
                assert trace.scores[key].shape == (rows, grid.tokens)
                wanted = run.forwarded(key[1], grid)
                assert trace.kept[key].sum(1).tolist() == [wanted] * rows
        assert trace.attention[grid.index, site].shape[2] == run.forwarded(site, grid)
        shares = trace.attention[grid.index, site].sum(-1)
        assert torch.allclose(shares, torch.ones_like(shares), atol=1e-5)
        assert trace.step_ms[grid.index] > 0
        assert trace.sublayer_ms[grid.index, "ffn"] > 0
    assert trace.provenance["method"] == repr(method)
    assert torch.equal(trace.canvases[len(SIZES) - 1], made.canvas)
    assert trace.kept_share(0, "attn").shape == (1, 1)


def test_a_branch_that_is_not_called_forwards_nothing(small):
    class Silent(Wrapper):
        def forwarded(self, site, grid):
            return 0 if site == Site(1, "ffn") else grid.tokens

        def sublayer(self, site, grid, branch, x):
            if site == Site(1, "ffn"):
                return torch.zeros_like(x)
            return self.inner.sublayer(site, grid, branch, x)

    trace = fv.Trace()
    fv.generate(small, PROMPTS[0], fv.Dense(), watch=[partial(fv.Recorder, trace=trace), Silent])
    assert not trace.kept[2, Site(1, "ffn")].any()
    assert trace.kept[2, Site(1, "attn")].all()


def test_prompts_are_encoded_once(small, monkeypatch):
    full = fv.generate(small, PROMPTS[0], fv.Dense(), snapshot=True)
    monkeypatch.setattr(small.text_encoder, "encode", None)
    assert torch.equal(fv.resume(small, full, fv.Dense()).canvas, full.canvas)


def test_a_resumed_record_holds_the_steps_before_it(small):
    base, trace = fv.observe(small, PROMPTS[0], fv.Dense(), snapshot=True)
    made, later = fv.observe_again(small, base, trace, fv.Prune({-1: 0.5}))
    _, scratch = fv.observe(small, PROMPTS[0], fv.Prune({-1: 0.5}))
    assert made.first_step == 4
    site = Site(1, "attn")
    _, seen = fv.observe_again(small, base, trace, fv.Prune({-1: 0.5}), attention=[site])
    _, wanted = fv.observe(small, PROMPTS[0], fv.Prune({-1: 0.5}), attention=[site])
    assert seen.seen[4, site] == wanted.seen[4, site] == (0, 1, 2, 3, 4)
    assert torch.allclose(seen.attention[4, site], wanted.attention[4, site])
    assert later.kept.keys() == scratch.kept.keys()
    for key, mask in scratch.kept.items():
        assert torch.equal(later.kept[key], mask)
    assert set(trace.step_ms) == set(later.step_ms)


def test_presets_fit_the_schedules_they_are_for():
    shapes = {
        "tiny": (scales.TINY, 8),
        "infinity": (scales.infinity(), 32),
        "infinity-all-layers": (scales.infinity(), 32),
        "hart": (scales.HART, 24),
        "hart-extreme": (scales.HART, 24),
        "var-d24": (scales.square(*VAR["var-d24"].sides), 24),
        "var-d30": (scales.square(*VAR["var-d30"].sides), 30),
    }
    assert shapes.keys() == fv.PRESETS.keys()
    for name, (sizes, depth) in shapes.items():
        method, grids = fv.PRESETS[name], scales.grids(sizes)
        method.start(grids, depth)
        ratios = [ratio for _, ratio in method.pairs]
        assert [(a.skips, bool(a.key)) for a in method.acts(grids)[-len(ratios) :]] == [
            (ratio == 1, ratio < 1) for ratio in ratios
        ]


def test_a_generation_without_a_snapshot_is_not_resumed(small):
    made = fv.generate(small, PROMPTS[0], fv.Dense())
    for forgot in (made, made.snapshot):
        with pytest.raises(ValueError, match="kept no snapshot; generate it with snapshot=True"):
            fv.resume(small, forgot, fv.Prune({-1: 0.5}))


def test_a_runner_that_forwards_more_than_it_promised_is_told_so(small):
    class Promises(Runner):
        def forwarded(self, site, grid):
            return grid.tokens // 2

    class Method(fv.Dense):
        def start(self, grids, depth, held=None):
            return Promises()

    with pytest.raises(
        ValueError,
        match=r"attn of layer 0, step 0 .*: the branch received 1 tokens; .* said 0",
    ):
        fv.generate(small, PROMPTS[0], Method())


def test_what_all_steps_share_is_computed_once(small):
    """Biases, temperatures and the text's mask: once a generation, whatever the steps."""

    class Count(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with Count() as count:
        fv.generate(small, PROMPTS[0], fv.Dense())
    assert count.names.count("exp") == 1  # of all layers
    assert count.names.count("where") == 1  # as the text is pooled


def test_a_snapshot_goes_on_with_the_weights_it_was_made_with(small):
    made = fv.generate(small, "a red ring", fv.Dense(), seed=1, snapshot=True)
    before = small.fingerprint
    with torch.no_grad():
        small.transformer.head.weight.mul_(0.5)
    assert small.fingerprint != before
    with pytest.raises(ValueError, match=r"the weights of .* have changed since"):
        fv.resume(small, made, fv.Prune({-1: 0.5}))
    with torch.no_grad():
        small.transformer.head.weight.mul_(2)
    assert small.fingerprint == before


def test_rows_are_rows(small):
    class Silent(fv.Wrapper):
        def rows(self, grid, canvas):
            return "cond"

    with pytest.raises(
        ValueError, match=r"Dense, step 0 .1x1.: .rows. must return Rows or None; not"
    ):
        fv.generate(small, "a red ring", fv.Dense(), watch=[Silent])
    with pytest.raises(ValueError, match="a method is a value such as"):
        fv.generate(small, "a red ring", fv.Dense)
    many = fv.generate(small, ["a red ring"] * 2, fv.Dense(), seed=np.array([3, 4]))
    assert many.request.seeds == (3, 4)


def test_a_rule_that_holds_arrays_is_resumed(small):
    @dataclass(frozen=True)
    class Weighed:
        weight: torch.Tensor

        def scores(self, x, grid, site):
            return (x.float() * self.weight).sum(-1)

    one, other = (fv.Prune({-1: 0.5}, select=Weighed(torch.rand(64))) for _ in "ab")
    full = fv.generate(small, "a red ring", one, seed=1, snapshot=True)
    resumed = fv.resume(small, full, other)
    assert resumed.first_step == len(small.sizes) - 1
    assert torch.equal(resumed.canvas, fv.generate(small, "a red ring", other, seed=1).canvas)


def test_conditions_are_of_their_model(small):
    text = small.condition(["a red ring"])
    long = Text(text.features.repeat(1, 9, 1), text.mask.repeat(1, 9))
    for condition, told in (
        (torch.tensor([1]), "conditioned on a Text or on prompts; not on a Tensor"),
        (Text(text.features[..., :3], text.mask), "of width 64; not 3 of width 3"),
        (long, "up to 24 text tokens of width 64; not 27"),
    ):
        for guidance in (1.0, 3.0):
            with pytest.raises(ValueError, match=told):
                fv.generate(small, condition, fv.Dense(), sampling=fv.Sampling(guidance))


def test_steps_to_keep_come_in_any_collection(small):
    for steps in ({3}, np.array([3]), (k for k in (3,))):
        made = fv.generate(small, "a red ring", fv.Dense(), snapshot=steps)
        assert {step for step, _ in made.snapshot.held} == {3}
    assert fv.generate(small, "a red ring", fv.Dense(), snapshot=np.False_).snapshot is None
    assert not fv.generate(small, "a red ring", fv.Dense(), snapshot=set()).snapshot.held


def test_another_text_encoder_does_not_end_a_snapshot(small):
    made = fv.generate(small, "a red ring", fv.Dense(), seed=1, snapshot=True)
    other = replace(small, text_encoder=RandomText(64))
    assert fv.resume(other, made, fv.Prune({-1: 0.5})).first_step > 0


def test_a_model_may_be_opened_in_inference_mode():
    with torch.inference_mode():
        model = fv.load("tiny")
        made = fv.generate(model, "a red ring", fv.Prune({-1: 0.5}), snapshot=True)
    assert made.snapshot is not None
    assert model.fingerprint == fv.load("tiny").fingerprint


@pytest.mark.parametrize("prompt", OUTSIDE)
def test_a_prompt_outside_the_grammar_is_refused_wherever_it_enters(prompt, small):
    with pytest.raises(PromptError):
        fv.generate(small, ["a red ring", prompt], fv.Dense())
    with pytest.raises(PromptError):
        fv.observe(small, prompt, fv.Dense())
    with pytest.raises(PromptError):
        run.run("memory", "quick", model=small, prompts=fv.PromptList(prompt))


def test_a_sentence_draws_what_its_words_draw(small):
    plain, sentence = (
        fv.generate(small, prompt, fv.Dense()).canvas for prompt in ("a red ring", "A Red Ring.")
    )
    assert torch.equal(plain, sentence)


@pytest.mark.parametrize("method", [fv.Dense(), fv.LazyVAR({-2: 0.5, -1: 0.5})], ids=repr)
def test_what_ran_no_step_can_be_resumed_again(small, method):
    """A snapshot of a generation that was resumed behind its last step holds all keys."""
    first = fv.generate(small, "a red ring", method, seed=1, snapshot=True)
    same = fv.resume(small, first, method, snapshot=True)
    assert same.first_step == len(small.grids())
    assert same.snapshot.cache.bytes == first.snapshot.cache.bytes
    skipping, logits = fv.Prune({2: 0.5}, restore=fv.Zero()), []

    def watch(runner):
        logits.append(Seen(runner))
        return logits[-1]

    for base in (first, same):
        fv.resume(small, base, skipping, watch=[watch])
    for one, other in zip(logits[0].steps, logits[1].steps, strict=True):
        assert torch.equal(one[1], other[1])
