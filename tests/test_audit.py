"""Runners that do otherwise than their method says: each is refused in one sentence."""

from dataclasses import dataclass

import pytest
import torch

import fastvar_lab as fv
from fastvar_lab import verification
from fastvar_lab.seam import Act, Rows, Runner
from fastvar_lab.tokens import gather

PROMPT = "a cyan star left of a dotted pink ring"


class DropsNull(Runner):
    def rows(self, grid, canvas):
        return Rows.COND if grid.index > 2 else Rows.BOTH


class PrunesSilently(Runner):
    def sublayer(self, site, grid, branch, x):
        if grid.index < 4:
            return branch(x)
        index = torch.arange(grid.tokens // 2).expand(len(x), -1)
        return torch.zeros_like(x).index_copy(1, index[0], branch(gather(x, index), index))


class CallsTwice(Runner):
    def sublayer(self, site, grid, branch, x):
        return branch(x) if site.kind == "attn" else (branch(x) + branch(x)) / 2


class SkipsLayers(Runner):
    def stack(self, grid, blocks, x):
        return super().stack(grid, blocks[:1], x)


class Loses(Runner):
    def stack(self, grid, blocks, x):
        return super().stack(grid, blocks, x)[:, :-1]


class HalfTheRows(Runner):
    def stack(self, grid, blocks, x):
        for block in blocks.on(Rows.COND):
            x = block(x[: len(x) // 2]).repeat(2, 1, 1)
        return x


class LastRows(Runner):
    """Returns other rows of the last step's stack, so that the head runs on those."""

    def __init__(self, rows):
        self.count = rows

    def __call__(self):
        return self

    def stack(self, grid, blocks, x):
        x = super().stack(grid, blocks, x)
        return x.repeat(2, 1, 1)[: self.count] if grid.index == 4 else x


class Forgets(Runner):
    """Says that it computes everything, and says otherwise when it does otherwise."""

    now = False

    def rows(self, grid, canvas):
        self.now = grid.index == 4

    def forwarded(self, site, grid):
        return grid.tokens // 2 if self.now and grid.index == 4 else grid.tokens

    def sublayer(self, site, grid, branch, x):
        if not self.now:
            return branch(x)
        index = torch.arange(grid.tokens // 2).expand(len(x), -1)
        return torch.cat([branch(gather(x, index), index)] * 2, dim=1)


class Spreads(Runner):
    """Returns one token, which would be added to all of them."""

    def sublayer(self, site, grid, branch, x):
        return branch(x)[:, :1]


class Returns(Runner):
    def __init__(self, value):
        self.value = value

    def __call__(self):
        return self

    def stack(self, grid, blocks, x):
        super().stack(grid, blocks, x)
        return self.value


class Halves(Runner):
    """Computes half of the last step's tokens, with an index of another shape or none."""

    def __init__(self, rank):
        self.rank = rank

    def __call__(self):
        return self

    def forwarded(self, site, grid):
        return grid.tokens // 2 if grid.index == 4 else grid.tokens

    def sublayer(self, site, grid, branch, x):
        if grid.index != 4:
            return branch(x)
        half = grid.tokens // 2
        index = {
            None: None,
            1: torch.arange(half),
            2: torch.arange(half + 1).expand(len(x), -1),
        }
        return branch(x[:, :half], index[self.rank]).repeat(1, 2, 1)


class Says(Runner):
    def __init__(self, count):
        self.count = count

    def __call__(self):
        return self

    def forwarded(self, site, grid):
        return self.count


@pytest.mark.parametrize(
    ("runner", "sentence"),
    [
        (DropsNull, r"Liar, step 3 \(6x6\): its act says the both rows, its runner cond; what"),
        (
            PrunesSilently,
            r"Liar, attn of layer 0, step 4 \(8x8\): the branch received 32 tokens; `forwarded` "
            "said 64",
        ),
        (CallsTwice, r"Liar, cross of layer 0, step 0 \(1x1\): the branch was called 2 times"),
        (SkipsLayers, r"attn of layer 1, step 0 .*: the branch received 0 tokens; .* said 1"),
        (Loses, r"step 0 \(1x1\): `stack` must return all tokens \(1, 64\); .* \(0, 64\)"),
        (HalfTheRows, r"attn of layer 0, step 0 .*: the branch received 1 rows; the act says 2"),
        (LastRows(1), r"Liar, step 4 \(8x8\): `stack` returned 1 rows; the act says 2"),
        (LastRows(4), r"Liar, step 4 \(8x8\): `stack` returned 4 rows; the act says 2"),
        (
            Forgets,
            r"Liar, attn of layer 0, step 4 \(8x8\): the branch received 32 tokens; `forwarded` "
            "said 64",
        ),
        (Spreads, r"step 1 \(2x2\): `sublayer` must return \(2, 4, 64\); it returned \(2, 1, 64\)"),
        (Returns(None), r"step 0 \(1x1\): `stack` must return all tokens \(1, 64\); .* None"),
        (Halves(2), r"received \(2, 32\) tokens and an index \(2, 33\); both are \(B, K\)"),
        (Halves(1), r"received \(2, 32\) tokens and an index \(32,\); both are \(B, K\)"),
        (Halves(None), r"received 32 of 64 tokens without their index \(B, K\)"),
        (Says(1.0), "`forwarded` must return an integer, 0 or more; not 1.0"),
        (Says(-1), "`forwarded` must return an integer, 0 or more; not -1"),
        (Says(torch.tensor(1)), r"an integer, 0 or more; not tensor\(1\)"),
        (lambda: "me", "Liar.start must return a Runner; it returned 'me'"),
    ],
)
def test_a_runner_that_does_otherwise_than_its_method_says_is_refused(small, runner, sentence):
    class Liar(fv.Dense):
        def start(self, grids, depth, held=None):
            return runner()

    with pytest.raises(ValueError, match=sentence):
        fv.generate(small, PROMPT, Liar())


@pytest.mark.parametrize(
    ("acts", "sentence"),
    [
        (lambda n: (Act(),) * (n - 1), "names 4 steps; the schedule has 5"),
        (lambda n: (("dense",),) * n, r"at step 0 \(1x1\) must be an Act; it is \('dense',\)"),
        (
            lambda n: (Act(joined=True),) * n,
            "step 0 .* is joined to a step before",
        ),
        (lambda n: (Act(alone=(2, 9)),) * n, r"a range of the 3 layers .*; not \(2, 9\)"),
        (lambda n: (Act(fused=3),) * n, r"fused is one of the 3 layers .*; not 3 at a step"),
        (lambda n: (Act(None),) * n, "its act leaves the rows to the runner's `rows`"),
        (lambda n: (Act("cond"),) * n, "rows must be Rows or None; not 'cond'"),
        (lambda n: (Act(fused="1"),) * n, "fused must be the number of a layer; not '1'"),
        (lambda n: (Act(alone=3),) * n, r"alone must be a range of layers \(first, end\); not 3"),
        (
            lambda n: (*(Act(),) * (n - 2), Act(fused=1), Act(joined=True)),
            "step 4 .* is joined to a step before it that does not run the same rows",
        ),
        (
            lambda n: (*(Act(),) * (n - 1), Act(joined=True, alone=(0, 1))),
            "step 4 .* is joined to a step before it that does not run the same rows",
        ),
    ],
)
def test_acts_that_no_generation_can_follow_are_refused(small, acts, sentence):
    class Odd(fv.Dense):
        def acts(self, grids):
            return acts(len(grids))

    with pytest.raises(ValueError, match=sentence):
        fv.generate(small, PROMPT, Odd())


@pytest.mark.parametrize(
    ("mask", "kind"),
    [
        (torch.ones(1, 3, dtype=torch.bool), r"torch.bool \(1, 3\)"),
        (torch.ones(1, 1, dtype=torch.int64), r"torch.int64 \(1, 1\)"),
        (torch.ones(1, 1, 1, dtype=torch.bool), r"torch.bool \(1, 1, 1\)"),
        ([True], r"\[True\]"),
    ],
)
def test_places_that_are_no_mask_of_the_map_are_refused(small, mask, kind):
    class Masks(Runner):
        def places(self, grid, tokens):
            return mask

    class Liar(fv.Dense):
        def start(self, grids, depth, held=None):
            return Masks()

    sentence = (
        r"step 0 \(1x1\): `places` must return a mask \(1, 1\), bool, or weights; "
        rf"it returned {kind}"
    )
    with pytest.raises(ValueError, match=sentence):
        fv.generate(small, PROMPT, Liar())


def test_streams_that_are_said_to_fuse_must(small):
    class Liar(fv.Dense):
        def acts(self, grids):
            return (*super().acts(grids)[:-1], Act(fused=1))

        def start(self, grids, depth, held=None):
            return Parts()

    class Parts(Runner):
        def stack(self, grid, blocks, x):
            if grid.index != 4:
                return super().stack(grid, blocks, x)
            x = blocks[0](x)[:1]
            for block in blocks.on(Rows.COND)[1:]:
                x = block(x)
            return x.repeat(2, 1, 1)

    with pytest.raises(ValueError, match="`stack` returned 2 rows; the act says 1"):
        fv.generate(small, PROMPT, Liar())


@pytest.mark.parametrize("at_most", [False, True])
def test_attention_to_fewer_keys_is_not_counted_as_full(small, at_most):
    """Keys are no part of an act: such a method says that its counts are upper bounds."""

    @dataclass(frozen=True)
    class LastKeys(fv.Dense):
        def acts(self, grids):
            return (*super().acts(grids)[:-1], Act(key=("last keys",), at_most=at_most))

        def start(self, grids, depth, held=None):
            return Few()

    class Few(Runner):
        def attend(self, site, grid, q, k, v, mask=None, scale=1.0):
            if site.kind == "attn" and grid.index == 4:
                k, v = k[:, :, -8:], v[:, :, -8:]
            return super().attend(site, grid, q, k, v, mask, scale)

    verdict = verification.counted(small, LastKeys(), PROMPT, seed=0)
    assert verdict.passed == at_most, verdict.note
