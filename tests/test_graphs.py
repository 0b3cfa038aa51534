"""Captured generations: on a CPU the same bits as without, from static inputs and noise."""

import gc
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import fastvar_lab as fv
from fastvar_lab import graphs
from fastvar_lab.graphs import KEPT, Tape, storages
from fastvar_lab.methods import restore_anchors
from fastvar_lab.methods.merge import Merge
from fastvar_lab.speed import batches, bench, captured
from fastvar_lab.speed.memory import cloned, copied
from tests.families import FAMILIES, prompt, small_model

METHODS = [
    fv.Dense(),
    fv.Prune({-2: 0.5, -1: 0.75}),
    fv.Prune({-2: 0.3, -1: 1.0}, null_until=-3),
    fv.Prune({-1: 0.5}, select=fv.HighPass(), restore=fv.NearestKept(), granularity="stack"),
    fv.Prune({-1: 0.5}, select=fv.BlockChange()),
    Merge({-1: 0.5}),
    fv.FocusVAR(first=-2, layer=1),
]
OTHER = {"infinity": "two red rings", "var": "3", "hart": "two stars"}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return small_model(request.param)


def same(one, other):
    drawn = zip(one.tokens, other.tokens, strict=True)
    return torch.equal(one.canvas, other.canvas) and all(
        a is b is None or torch.equal(a, b) for a, b in drawn
    )


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_captured_generations_give_the_same_bits(model, method):
    model.graphs.clear()
    other = OTHER[type(model.transformer).__name__.lower()]
    calls = [
        ([prompt(model)] * 2, [3, 4]),
        ([prompt(model)] * 2, [3, 4]),
        ([prompt(model), other], [9, 4]),
        ([other, prompt(model)], [3, 8]),
    ]
    made = []
    for prompts, seed in calls:
        plain = fv.generate(model, prompts, method, seed=seed)
        made.append(fv.generate(model, prompts, method, seed=seed, graphs=True))
        assert same(plain, made[-1])
    first = fv.generate(model, *calls[0][:1], method, seed=calls[0][1])
    for before in made[:2]:  # later replays did not write over them
        assert same(first, before)
    assert len(model.graphs) <= 3  # texts of another length have another capture


class HoldsNothing(Tape):
    """Keeps no tensor that its sections read from outside, as a CUDA graph keeps none."""

    def _placed(self, value):
        placed = super()._placed(value)
        return weakref.ref(placed) if isinstance(placed, torch.Tensor) else placed

    def _filled(self, value):
        if not isinstance(value, weakref.ref):
            return super()._filled(value)
        tensor = value()
        assert tensor is not None, "a replay reads freed memory"
        return tensor


@pytest.mark.parametrize("method", [*METHODS, fv.Prune({-1: 0.5}, restore=fv.Anchors(3))], ids=repr)
def test_what_a_replay_reads_is_held_and_filled_anew(model, method, monkeypatch):
    monkeypatch.setattr(graphs, "Tape", HoldsNothing)
    model.graphs.clear()
    plain = fv.generate(model, prompt(model), method, seed=3)
    fv.generate(model, prompt(model), method, seed=3, graphs=True)
    restore_anchors._nearest_anchors.cache_clear()
    gc.collect()
    ((_, captured),) = model.graphs._held
    noise = [noise.buffer for noise in captured.buffers.held.values()]
    for octets in storages([*captured.inputs, *noise]):
        octets.fill_(1)
    assert same(plain, fv.generate(model, prompt(model), method, seed=3, graphs=True))


def test_another_batch_size_or_sampling_is_another_capture(model):
    model.graphs.clear()
    for number, options in enumerate(
        ({}, {"sampling": replace(model.sampling, temperature=0.9)}, {"sizes": model.sizes[:-1]}), 1
    ):
        made = [
            fv.generate(model, prompt(model), fv.Dense(), seed=2, graphs=graphs, **options)
            for graphs in (False, True, True)
        ]
        assert all(same(made[0], other) for other in made[1:])
        assert len(model.graphs) == number
    fv.generate(model, [prompt(model)] * 3, fv.Dense(), graphs=True)
    assert len(model.graphs) == 4 == KEPT
    fv.generate(model, [prompt(model)] * 4, fv.Dense(), graphs=True)
    assert len(model.graphs) == KEPT
    model.graphs.clear()
    assert not len(model.graphs)


@pytest.mark.parametrize("family", ["infinity", "hart"])
def test_official_precision_and_smooth_sampling(family):
    model = small_model(family).set_precision("official", torch.bfloat16)
    if family == "hart":
        model.sampling = replace(model.sampling, smooth=True, mask_iterations=2)
    for seed in (1, 2):
        plain = fv.generate(model, prompt(model), fv.Dense(), seed=seed)
        assert same(plain, fv.generate(model, prompt(model), fv.Dense(), seed=seed, graphs=True))
    assert len(model.graphs) == 1


def test_values_that_a_method_names_are_seen():
    model, factor = small_model("infinity"), [0.5]

    class Scales(fv.Runner):
        def sublayer(self, site, grid, branch, x):
            return branch(x) * factor[0]

    class Scaled(fv.Dense):
        def acts(self, grids):
            return (fv.Act(key=("scaled",)),) * len(grids)

        def start(self, grids, depth, held=None):
            return Scales()

    for factor[0] in (0.5, 2.0):
        runs = [
            fv.generate(model, prompt(model), Scaled(), seed=1, graphs=graphs)
            for graphs in (False, True, True)
        ]
        assert same(runs[0], runs[1])
        assert same(runs[0], runs[2])


def test_changed_weights_are_seen_and_other_modules_captured_anew():
    model = small_model("infinity")
    block = model.transformer.blocks[0]

    def both():
        """Generate without and with graphs."""
        plain = fv.generate(model, prompt(model), fv.Dense(), seed=1)
        return plain, fv.generate(model, prompt(model), fv.Dense(), seed=1, graphs=True)

    first, _ = both()
    with torch.no_grad():
        block.ffn.fc1.weight += 0.1
        block.ada_gss += 0.1
    plain, replayed = both()
    assert same(plain, replayed)
    assert not same(plain, first)
    assert len(model.graphs) == 1
    block.ffn.fc1.weight = torch.nn.Parameter(block.ffn.fc1.weight * 2)
    assert same(*both())
    assert len(model.graphs) == 2
    hook = block.ffn.register_forward_hook(lambda module, args, out: out * 2)
    assert same(*both())
    assert len(model.graphs) == 3
    hook.remove()
    factor = [0.5]
    block.ffn.register_forward_hook(lambda module, args, out: out * factor[0])
    halved, _ = both()
    factor[0] = 2.0
    plain, replayed = both()
    assert same(plain, replayed)
    assert not same(plain, halved)
    assert not len(copied(model, cloned).graphs)


def test_negative_prompts_are_inputs():
    model = small_model("infinity")
    for negative in ("a red ring", "a cyan star"):
        made = [
            fv.generate(model, prompt(model), fv.Dense(), negative=negative, graphs=graphs)
            for graphs in (False, True)
        ]
        assert same(*made)
    assert len(model.graphs) == 1


def test_what_is_no_number_is_reported():
    model = small_model("infinity")
    fv.generate(model, prompt(model), fv.Dense(), graphs=True)
    with torch.no_grad():
        model.transformer.blocks[-1].ffn.fc2.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"computes what is no number at step 0 \(1x1\)"):
        fv.generate(model, prompt(model), fv.Dense(), graphs=True)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (fv.FocusVARAdaptive(probe=-2, early=0, late=1), {}, "decides from the data"),
        (fv.Prune({-1: 0.5}, select=fv.Random()), {}, "draws numbers of its own at step"),
        (fv.Dense(), {"watch": [fv.Stopwatch]}, "runs no watchers"),
        (fv.Dense(), {"snapshot": True}, "keeps no snapshot"),
        (fv.Dense(), {"snapshot": ()}, "keeps no snapshot"),
        (fv.Dense(), {"draws": fv.Streamed(1)}, "draws keyed noise; not Streamed"),
    ],
    ids=repr,
)
def test_what_cannot_be_captured_is_said(method, options, message):
    model = small_model("infinity")
    with pytest.raises(ValueError, match=message):
        fv.generate(model, prompt(model), method, graphs=True, **options)
    assert not len(model.graphs)


class Reads(fv.Runner):
    def sublayer(self, site, grid, branch, x):
        return branch(x) * (2.0 if x.sum() > 0 else 1.0)


class Decides(fv.Dense):
    def start(self, grids, depth, held=None):
        return Reads()


class Adds(fv.Runner):
    """Sums up what layers see, in a tensor of its own."""

    def __init__(self):
        self.total = torch.zeros(1)

    def sublayer(self, site, grid, branch, x):
        self.total += x.mean()
        return branch(x) * self.total


class Summed(fv.Dense):
    def start(self, grids, depth, held=None):
        return Adds()


def test_a_runners_tensor_that_is_written_to_is_said():
    model = small_model("var")
    with pytest.raises(ValueError, match=r"Summed.* writes into a tensor \(1,\) that was made"):
        fv.generate(model, prompt(model), Summed(), graphs=True)
    assert not len(model.graphs)


class Looks(fv.Wrapper):
    """Computes after skipped steps, too."""

    def after(self, grid, tokens, canvas, logits=None):
        self.inner.after(grid, tokens, canvas, logits)
        self.mean = canvas.mean()

    def sublayer(self, site, grid, branch, x):
        return self.inner.sublayer(site, grid, branch, x) + self.mean


class Looked(fv.Prune):
    def start(self, grids, depth, held=None):
        return Looks(super().start(grids, depth, held))


def test_a_first_step_that_is_skipped_is_in_no_section():
    model, method = small_model("infinity"), Looked({1: 1.0})
    for seed in (3, 4):
        plain = fv.generate(model, prompt(model), method, seed=seed)
        for _ in range(2):
            assert same(plain, fv.generate(model, prompt(model), method, seed=seed, graphs=True))


def test_a_value_read_on_the_host_is_said():
    model = small_model("var")
    with pytest.raises(ValueError, match=r"Decides.* reads a value on the host at step 0 \(1x1\)"):
        fv.generate(model, prompt(model), Decides(), graphs=True)


RANDOM = fv.Prune({-1: 0.5}, select=fv.Random())


def test_a_method_without_a_graph_leaves_what_was_measured():
    model = small_model("infinity")
    methods = {
        "draws": RANDOM,
        "half": fv.Prune({-1: 0.5}),
        "decides": fv.FocusVARAdaptive(probe=-2, early=0, late=1),
    }
    rows = {row["name"]: row for row in bench.cases(model, model.sizes, methods, 1, graphs=True)}
    assert all(row["ms_full"] > 0 and row["speedup"] > 0 for row in rows.values())
    assert rows["half"]["speedup_graphs"] > 0
    assert "no_graph" not in rows["half"]
    assert "draws numbers of its own at step" in rows["draws"]["no_graph"]
    assert "decides from the data at step" in rows["decides"]["no_graph"]
    assert "ms_graphs_fast" not in rows["draws"]
    text = bench.case_table([*rows.values()])
    assert text.count("not captured: ") == 2
    assert rows["draws"]["no_graph"] in text


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("no memory for this\nand a long story"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling"),
    ],
    ids=repr,
)
def test_graphs_that_do_not_fit_leave_what_was_measured(error, monkeypatch):
    model, methods = small_model("infinity"), {"half": fv.Prune({-1: 0.5})}

    def generate(*args, graphs, **options):
        if graphs:
            raise error
        return fv.generate(*args, **options)

    monkeypatch.setattr(captured, "generate", generate)
    (row,) = bench.cases(model, model.sizes, methods, 1, graphs=True)
    assert row["ms_fast"] > 0
    assert row["no_graph"] == str(error).splitlines()[0]


def test_other_errors_are_no_refusal():
    def fail():
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        captured.unless_refused(fail)


def counted(model, method, pictures):
    """Stand for the count of memory, which takes longer than small generations."""
    return SimpleNamespace(generation=pictures)


def test_batches_without_a_graph_are_named(monkeypatch, tmp_path):
    model = small_model("infinity")
    monkeypatch.setattr(batches, "SIZES", (1, 2))
    monkeypatch.setattr(batches, "released", lambda model, sizes: {"draws": RANDOM})
    monkeypatch.setattr(batches, "memory", counted)
    result = batches.run(model, repeats=1, graphs=True)
    assert [(row["method"], row["mode"], row["pictures"]) for row in result["rows"]] == [
        *(("full", "without graphs", n) for n in (1, 2)),
        *(("draws", "without graphs", n) for n in (1, 2)),
        *(("full", "with graphs", n) for n in (1, 2)),
    ]
    assert [row["pictures"] for row in result["left_out"]] == [1, 2]
    assert "left out: draws with graphs, batches of 1, 2: Prune(" in batches.table(result)
    batches.write(result, tmp_path)


def test_turns_that_do_not_fit_leave_what_was_measured(monkeypatch):
    model, timed = small_model("infinity"), []

    def speedups(functions, *args, **options):
        timed.append(functions)
        if len(timed) > 1:  # with graphs
            raise torch.OutOfMemoryError("no memory for this")
        return plain(functions, *args, **options)

    plain = batches.speedups
    monkeypatch.setattr(batches, "speedups", speedups)
    monkeypatch.setattr(batches, "memory", counted)
    monkeypatch.setattr(batches, "SIZES", (1, 2))
    result = batches.run(model, repeats=1, only="full", graphs=True)
    assert [row["mode"] for row in result["rows"]] == ["without graphs"] * 2
    assert [row["reason"] for row in result["left_out"]] == ["no memory for this"] * 2


def test_a_batch_that_does_not_fit_leaves_the_smaller_ones(monkeypatch):
    model = small_model("infinity")

    def generate(model, condition, method, *, draws, graphs):
        if len(draws.seeds) > limit:
            raise torch.OutOfMemoryError("no memory for this")
        return fv.generate(model, condition, method, draws=draws, graphs=graphs)

    monkeypatch.setattr(batches, "generate", generate)
    monkeypatch.setattr(batches, "memory", counted)
    limit = 2
    result = batches.run(model, repeats=1, only="full")
    assert [row["pictures"] for row in result["rows"]] == [1, 2]
    assert [row["pictures"] for row in result["left_out"]] == [4, 8]
    limit = 0
    with pytest.raises(ValueError, match="no batch fits in memory: no memory for this"):
        batches.run(model, repeats=1, only="full")
