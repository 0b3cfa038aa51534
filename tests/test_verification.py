"""Methods that break a promise: `verify` says which."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import fastvar_lab as fv
from fastvar_lab import verification
from fastvar_lab.methods.columns import describe
from fastvar_lab.methods.parse import save_method
from fastvar_lab.seam import stateful_from
from fastvar_lab.speed.timed import timed
from fastvar_lab.verification import all_kept
from tests.families import FAMILIES, prompt, small_model

PROMPT = "a cyan star left of a dotted pink ring"


class AtTheEnd(fv.Dense):
    """Says that only the last step differs."""

    def acts(self, grids):
        return (*super().acts(grids)[:-1], fv.Act(key=("end",)))


def failed(model, method):
    report = fv.verify(model, method, PROMPT)
    return set(report.promise[report.passed.eq(False)]) - {"repr reads back"}


class EarlyToo(fv.Runner):
    def sublayer(self, site, grid, branch, x):
        return branch(x) * 1.001


class MixesPictures(fv.Runner):
    def sublayer(self, site, grid, branch, x):
        delta = branch(x)
        return delta - 0.1 * delta.mean(0, keepdim=True) if grid.h == 8 else delta


class Seeds(fv.Runner):
    def sublayer(self, site, grid, branch, x):
        torch.manual_seed(20_481)  # that no other test leaves behind
        return branch(x)


@pytest.mark.parametrize("wrong", ["x", None, 3, fv.Prune])
def test_what_is_no_method_is_one_sentence_everywhere(small, wrong):
    full, trace = fv.observe(small, PROMPT, fv.Dense(), snapshot=True)
    for call in (
        lambda: fv.verify(small, wrong, PROMPT),
        lambda: fv.generate(small, PROMPT, wrong),
        lambda: fv.resume(small, full, wrong),
        lambda: fv.resume_step(full.snapshot, wrong, small),
        lambda: fv.observe(small, PROMPT, wrong),
        lambda: fv.observe_again(small, full, trace, wrong),
        lambda: fv.compare(small, [wrong], "quick", prompts=PROMPT),
        lambda: fv.compare(small, {"mine": wrong}, "quick", prompts=PROMPT),
        lambda: fv.costs(small, {"mine": wrong}),
        lambda: fv.memory(small, wrong),
        lambda: timed(small, PROMPT, wrong),
        lambda: describe(wrong, small.grids(), small.depth),
        lambda: save_method(wrong, "nowhere.json"),
    ):
        with pytest.raises(ValueError, match=r"a method is a value such as Dense\(\); not "):
            call()
    with pytest.raises(ValueError, match="a schedule is a Planned, as `plan` returns it; not "):
        fv.plan_figure(small, wrong)


@pytest.mark.parametrize(
    ("runner", "promise"),
    [
        (EarlyToo, "resumed equals scratch"),
        (MixesPictures, "a batch equals its pictures alone"),
        (Seeds, "nothing is left behind"),
    ],
)
def test_a_runner_breaks_one_promise(small, runner, promise):
    class Breaks(AtTheEnd):
        def start(self, grids, depth, held=None):
            return runner()

    state = torch.get_rng_state()
    try:
        assert failed(small, Breaks()) == {promise}
    finally:
        torch.set_rng_state(state)


class Fades(fv.Runner):
    """Damps the sublayers of the last two steps, the second time more than the first."""

    def __init__(self):
        self.seen = set()

    def sublayer(self, site, grid, branch, x):
        if grid.h < 6:
            return branch(x)
        self.seen.add(grid.index)
        return branch(x) * 0.5 ** len(self.seen)


class Faded(fv.Dense):
    def acts(self, grids):
        return (*super().acts(grids)[:-2], *(fv.Act(key=("faded",)),) * 2)

    def start(self, grids, depth, held=None):
        return Fades()


def test_a_runner_that_carries_more_than_a_snapshot_must_not_deny_it(small):
    class Denies(Faded):
        def stateful_from(self, grids):
            return len(grids)

    class Inherits(fv.Prune):
        def start(self, grids, depth, held=None):
            return Fades()

    assert failed(small, Faded()) == set()
    assert failed(small, Denies()) == {"resumed equals scratch"}
    assert stateful_from(Inherits({-2: 1e-9, -1: 1e-9}), small.grids()) == 3  # Prune says 5
    base = fv.generate(small, PROMPT, fv.Tail(Faded(), skip_from=-1), snapshot=True)
    assert fv.resume_step(base.snapshot, Faded(), small) == 3
    assert fv.resume_step(base.snapshot, Denies(), small) == 4


@pytest.mark.parametrize(("name", "value"), [("heads", 4), ("added", 1)])
def test_attributes_of_the_model_count_from_the_beginning(small, name, value):
    attention = small.transformer.blocks[0].ffn

    class Marks(fv.Runner):
        def prepare(self, handles):
            setattr(attention, name, value)

    class Breaks(AtTheEnd):
        def start(self, grids, depth, held=None):
            return Marks()

    if name == "heads":
        attention.heads = 2
    try:
        assert failed(small, Breaks()) == {"nothing is left behind"}
    finally:
        delattr(attention, name)


@dataclass(frozen=True)
class Means:
    needs_cache: ClassVar[bool] = False

    def restore(self, fresh, index, grid, cached):
        return fresh.mean(1, keepdim=True).repeat(1, grid.tokens, 1)


def test_a_restorer_must_leave_kept_tokens(small):
    promises = failed(small, fv.Prune({-1: 0.5}, restore=Means()))
    assert promises == {"all tokens kept equals full"}


def test_a_step_with_a_ratio_of_zero_is_not_forced_through_the_pruned_path(small):
    method = fv.Prune({-5: 0.0, -1: 0.5}, select=fv.OutputEntropy())  # looks at the step before
    assert all_kept(small, method, PROMPT, 0).passed
    nothing = all_kept(small, fv.Prune({-1: 0.0}), PROMPT, 0)
    assert nothing == (None, "it has no ratios of pruned steps")


def test_a_selector_must_look_at_each_picture_alone(small):
    @dataclass(frozen=True)
    class Together:
        def scores(self, x, grid, site):
            return x.norm(dim=-1).sum(0, keepdim=True).expand(len(x), -1)

    promises = failed(small, fv.Prune({-1: 0.5}, select=Together()))
    assert promises == {"a batch equals its pictures alone"}


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_rounding_in_sixteen_bits_breaks_no_promise(family, low):
    model = small_model(family).set_precision("official", low)
    report = fv.verify(model, fv.Prune({-2: 0.5, -1: 0.5}), prompt(model))
    assert not report.passed.eq(False).any(), report.to_string()
    if family != "infinity":  # whose random layers add next to nothing
        method = fv.Prune({-1: 0.5}, restore=Means())
        assert all_kept(model, method, prompt(model), 0).passed is False


@pytest.mark.parametrize("error", [TypeError("no\nrow"), KeyError("gate"), ZeroDivisionError()])
def test_whatever_a_method_raises_is_a_failed_line(small, error):
    class Raises(fv.Runner):
        def sublayer(self, site, grid, branch, x):
            raise error

    class Breaks(AtTheEnd):
        def start(self, grids, depth, held=None):
            return Raises()

    report = fv.verify(small, Breaks(), PROMPT).set_index("promise")
    note = report.note["a batch equals its pictures alone"]
    assert report.passed["a batch equals its pictures alone"] is False
    assert note.startswith(f"{type(error).__name__}: ")
    assert "\n" not in note


def test_a_method_that_quantises_is_verified_in_float64(small, monkeypatch):
    """Where a batch differs in float32 but not in float64 it is rounding; a fault is in both."""
    single = small_model("infinity")
    gaps = {torch.float32: 0.5, torch.float64: 0.0}

    def gap(model, method, prompt, seed):
        return gaps[model.dtype] if method == fv.QuantKV(4) else 0.0

    monkeypatch.setattr(verification, "_batch_gap", gap)
    passed, note = verification.batched(single, fv.QuantKV(4), PROMPT, 0)
    assert passed
    assert "50.00% of the tokens have other logits" in note
    assert "none do in float64" in note
    assert single.dtype is torch.float32
    gaps[torch.float64] = 0.1
    assert verification.batched(single, fv.QuantKV(4), PROMPT, 0).passed is False
    gaps[torch.float64] = 0.5
    assert verification.batched(small, fv.QuantKV(4), PROMPT, 0).passed is False
