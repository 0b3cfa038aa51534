"""What published methods need of the engine, each proved by a toy."""

from dataclasses import dataclass, replace

import pytest
import torch

import fastvar_lab as fv
from fastvar_lab.seam import Act, Group, Rows, Runner, Stack
from fastvar_lab.speed.flops import step_flops, total
from fastvar_lab.tokens import gather
from fastvar_lab.verification import verify
from tests.families import FAMILIES, prompt, small_model

PROMPT = "a cyan star left of a dotted pink ring"


@pytest.fixture(params=FAMILIES)
def model(request):
    return small_model(request.param).to("cpu", torch.float64)


class Toy:
    """A method without a cache step; `acts` and `runner` are the subclass's."""

    def start(self, grids, depth, held=None):
        return self.runner(grids, depth)

    def acts(self, grids):
        changed = {step % len(grids): act for step, act in self.changes(len(grids)).items()}
        return tuple(changed.get(grid.index, Act()) for grid in grids)

    def cache_index(self, grids):
        return None

    def runner(self, grids, depth):
        return Runner()


@dataclass(frozen=True)
class RowsAt(Toy):
    """Other guidance rows at some steps, named from the end."""

    rows: tuple[tuple[int, Rows], ...]

    def changes(self, steps):
        return {step: Act(rows) for step, rows in self.rows}


@dataclass(frozen=True)
class Fused(Toy):
    """Both streams become one by the guidance formula before a layer of one step."""

    step: int
    layer: int

    def changes(self, steps):
        return {self.step: Act(fused=self.layer)}

    def runner(self, grids, depth):
        return FusedRunner(self.step % len(grids), self.layer)


class FusedRunner(Runner):
    def __init__(self, step, layer):
        self.step, self.layer = step, layer

    def prepare(self, handles):
        self.handles = handles

    def stack(self, grid, blocks, x):
        if grid.index != self.step or not self.handles.guided:
            return super().stack(grid, blocks, x)
        for block in blocks[: self.layer]:
            x = block(x)
        x = self.handles.guide(grid, x)
        for block in blocks.on(Rows.COND)[self.layer :]:
            x = block(x)
        return x


@dataclass(frozen=True)
class SharedUpdate(Toy):
    """Some layers run the conditional rows alone and add their update to both."""

    step: int
    layers: tuple[int, int]

    def changes(self, steps):
        return {self.step: Act(alone=self.layers)}

    def runner(self, grids, depth):
        return SharedRunner(self.step % len(grids), self.layers)


class SharedRunner(Runner):
    def __init__(self, step, layers):
        self.step, self.layers = step, layers

    def stack(self, grid, blocks, x):
        alone = blocks.on(Rows.COND)
        for layer, block in enumerate(blocks):
            if grid.index == self.step and layer in range(*self.layers):
                cond = x[: len(x) // 2]
                x = x + (alone[layer](cond) - cond).repeat(2, 1, 1)
            else:
                x = block(x)
        return x


@dataclass(frozen=True)
class Together(Toy):
    """The last steps run in one forward."""

    count: int

    def changes(self, steps):
        return {-back: Act(joined=True) for back in range(1, self.count)}


@dataclass(frozen=True)
class TogetherPruned(Toy):
    """The last steps run in one forward, of which every other token goes through the stack."""

    count: int

    def changes(self, steps):
        firsts = {-self.count: Act(key=("half",))}
        return firsts | {-back: Act(key=("half",), joined=True) for back in range(1, self.count)}

    def runner(self, grids, depth):
        return HalfRunner(len(grids) - self.count)


class HalfRunner(Runner):
    """Whole-stack: dropped before the first block, their input restored after the last."""

    def __init__(self, first):
        self.first, self.index = first, None

    def forwarded(self, site, grid):
        return -(-grid.tokens // 2) if grid.index >= self.first else grid.tokens

    def stack(self, grid, blocks, x):
        if grid.index < self.first:
            return super().stack(grid, blocks, x)
        places, begin = [], 0
        for step in grid.steps:
            places.append(torch.arange(begin, begin + step.tokens, 2))
            begin += step.tokens
        self.index = torch.cat(places).expand(len(x), -1)
        kept = super().stack(grid, blocks, gather(x, self.index))
        self.index, place = None, self.index.unsqueeze(-1).expand_as(kept)
        return x.scatter(1, place, kept)

    def sublayer(self, site, grid, branch, x):
        return branch(x, self.index) if site.kind == "attn" else branch(x)

    def places(self, grid, tokens):
        if grid.index < self.first:
            return None
        every_other = torch.arange(grid.h * grid.w) % 2 == 0
        return every_other.expand(len(tokens), -1)


@dataclass(frozen=True)
class Mixed(Toy):
    """The last step's sublayers are fed with random mixtures of tokens."""

    def changes(self, steps):
        return {-1: Act(key=("mixed",))}

    def runner(self, grids, depth):
        return MixedRunner(grids[-1])


class MixedRunner(Runner):
    def __init__(self, last):
        self.last, self.kept = last, max(1, last.tokens // 3)

    def forwarded(self, site, grid):
        return self.kept if grid == self.last else grid.tokens

    def sublayer(self, site, grid, branch, x):
        if grid != self.last:
            return branch(x)
        dice = torch.Generator().manual_seed(site.layer)
        mix = torch.randn(self.kept, x.shape[1], generator=dice, dtype=x.dtype) / self.kept**0.5
        where = torch.arange(self.kept).expand(len(x), -1)
        return mix.T @ branch(mix @ x, where)


@dataclass(frozen=True)
class ByPicture(Toy):
    """Drops the null rows of the last step where the picture so far is bright."""

    threshold: float

    def changes(self, steps):
        return {-1: Act(rows=None, key=("by picture", self.threshold))}

    def runner(self, grids, depth):
        return ByPictureRunner(len(grids) - 1, self.threshold)


class ByPictureRunner(Runner):
    def __init__(self, last, threshold):
        self.last, self.threshold = last, threshold

    def prepare(self, handles):
        self.decode = handles.decode

    def rows(self, grid, canvas):
        if grid.index == self.last:
            bright = float(self.decode(canvas).mean()) > self.threshold
            return Rows.COND if bright else Rows.BOTH


def toys(depth):
    return [
        RowsAt(((-1, Rows.COND),)),
        RowsAt(((-1, Rows.NULL),)),
        RowsAt(((-2, Rows.COND),)),
        RowsAt(((-3, Rows.COND), (-2, Rows.NULL))),
        Fused(-1, 1),
        Fused(-2, 1),
        SharedUpdate(-2, (1, 2)),
        Together(2),
        TogetherPruned(2),
        Mixed(),
    ]


def test_every_toy_keeps_every_promise(model):
    for method in toys(model.depth):
        report = verify(model, method, prompt(model)).set_index("promise")
        failed = report[report.passed.eq(False)]
        # what is a toy here is no public class, so that its text is not read back
        assert set(failed.index) <= {"repr reads back"}, (method, list(failed.note))


def test_every_toy_is_recorded_and_draws_from_one_stream_too(model):
    for method in toys(model.depth):
        plain = fv.generate(model, prompt(model), method, seed=1)
        seen, trace = fv.observe(model, prompt(model), method, seed=1)
        assert torch.equal(seen.canvas, plain.canvas)
        for step, tokens in enumerate(seen.tokens):
            assert torch.equal(trace.tokens[step], tokens)
        once, again = (
            fv.generate(model, prompt(model), method, draws=fv.Streamed(3)) for _ in range(2)
        )
        assert torch.equal(once.canvas, again.canvas)


def test_rows_that_come_back_find_the_keys_of_those_that_ran(model):
    method = RowsAt(((-2, Rows.COND),))
    made = fv.generate(model, prompt(model), method, seed=2, snapshot=())
    cache, lengths = made.snapshot.cache, made.snapshot.lengths
    for layer, (_, store) in enumerate(cache.held):
        away = slice(lengths[-3][layer], lengths[-2][layer])
        cond, null = store[:, :, :, away].chunk(2, dim=1)
        assert torch.equal(cond, null)
        before = store[:, :, :, : lengths[-3][layer]]
        if model.name != "hart":  # whose first tokens alone differ
            cond, null = before.chunk(2, dim=1)
            assert not torch.equal(cond, null)


def test_a_fuse_before_the_first_layer_is_dropping_the_null_rows(model):
    """What enters is alike in both rows after the first step, so that guidance leaves it."""
    fused = fv.generate(model, prompt(model), Fused(-1, 0), seed=2)
    dropped = fv.generate(model, prompt(model), RowsAt(((-1, Rows.COND),)), seed=2)
    assert torch.allclose(fused.canvas, dropped.canvas, atol=1e-9)


def test_a_group_is_its_steps_one_after_the_other_from_one_latent(model):
    plain = fv.generate(model, prompt(model), fv.Dense(), seed=4, snapshot=())
    made = fv.generate(model, prompt(model), Together(2), seed=4, snapshot=True)
    backbone, grids = model.transformer, plain.request.grids
    held = made.snapshot.held  # the first of the two steps is whole
    assert {(step, x.shape[1]) for (step, _), x in held.items()} == {
        (grid.index, grid.tokens) for grid in grids[:-1]
    }
    before = plain.snapshot.canvases[-3]
    encoded = backbone.with_null(model.condition([prompt(model)]))
    run = Runner()
    with torch.no_grad():
        state = backbone.begin(encoded, grids, run)
        state.cache.copy_prefix(plain.snapshot.cache, plain.snapshot.lengths[-3])
        drawn = []
        for grid in grids[-2:]:
            x = backbone.embed(state, grid, model.quantizer.next_input(before, grid))
            x = run.stack(grid, Stack(backbone.layers(state, grid, run)), x)
            stream = plain.request.draws.start(model.device)
            book = model.quantizer.codebook
            drawn += [backbone.sample(state, x, grid, True, model.sampling, stream, book)[0]]
    for mine, theirs in zip(drawn, made.tokens[-2:], strict=True):
        if mine.is_floating_point():
            assert torch.allclose(mine, theirs, atol=1e-8)
        else:
            assert torch.equal(mine, theirs)


def test_zeroed_places_add_nothing(model):
    class Nothing(Runner):
        def places(self, grid, tokens):
            return torch.zeros(len(tokens), grid.h * grid.w, dtype=torch.bool)

    class Nowhere(Toy):
        changes = staticmethod(lambda steps: {step: Act(key=("none",)) for step in range(steps)})
        runner = staticmethod(lambda grids, depth: Nothing())

    made = fv.generate(model, prompt(model), Nowhere(), seed=1, snapshot=())
    if model.quantizer.codebook is None:
        assert not made.canvas.any()
    else:  # smoothing adds its bias
        nothing = [c.diff(dim=-1).abs().max() for c in made.snapshot.canvases[:1]]
        assert max(nothing) < 1e-6 or model.quantizer.codebook is not None


def test_logits_of_a_step_are_those_it_drew_from(model):
    class Keep(fv.Wrapper):
        def after(self, grid, tokens, canvas, logits=None):
            kept[grid.index] = tokens, logits
            self.inner.after(grid, tokens, canvas, logits)

    kept, greedy = {}, replace(model.sampling, top_p=1e-6, smooth=False, top_k=0)
    if model.quantizer.codebook is None:
        greedy = replace(greedy, top_p=0.5)
    fv.generate(model, prompt(model), fv.Dense(), seed=1, sampling=greedy, watch=[Keep])
    for tokens, logits in kept.values():
        assert logits.shape[:2] == tokens.shape[:2]
        if not tokens.is_floating_point():  # HART's last codes hold their residuals
            assert torch.equal(logits.argmax(-1).to(tokens.dtype), tokens)


@pytest.mark.parametrize(("threshold", "rows"), [(-1.0, 1), (2.0, 2)])
def test_a_method_may_look_at_the_picture(small, threshold, rows):
    method, seen = ByPicture(threshold), []

    class Count(fv.Wrapper):
        def sublayer(self, site, grid, branch, x):
            seen.append((grid.index, len(x)))
            return self.inner.sublayer(site, grid, branch, x)

    fv.generate(small, PROMPT, method, watch=[Count])
    last = len(small.sizes) - 1
    assert {n for step, n in seen if step == last} == {rows}
    frame = fv.costs(small, {"full": fv.Dense(), "by picture": method})
    full, bound = (part for _, part in frame.groupby("method", sort=False))
    assert full.gflop.tolist() == bound.gflop.tolist()  # at most
    assert bound.exact.tolist() == [True] * last + [False]


def test_dropped_rows_are_counted_however_they_are_dropped(small):
    grids = small.grids()
    by_hand = RowsAt(((-2, Rows.COND), (-1, Rows.COND)))
    by_field = fv.Prune({-1: 0.0}, null_until=-3)
    counts = [total(step_flops(small, m, grids)) for m in (fv.Dense(), by_hand, by_field)]
    assert counts[1] == counts[2] < counts[0]


def test_null_rows_need_guidance(small):
    unguided = replace(small.sampling, guidance=small.transformer.unguided)
    with pytest.raises(ValueError, match=r"step 4 \(8x8\) asks for the null rows alone"):
        fv.generate(small, PROMPT, RowsAt(((-1, Rows.NULL),)), sampling=unguided)


def test_a_schedule_is_resolved_once_a_generation(small, monkeypatch):
    seen = []
    resolve = fv.Prune._resolve
    monkeypatch.setattr(
        fv.Prune, "_resolve", lambda self, grids: seen.append(1) or resolve(self, grids)
    )
    fv.generate(small, PROMPT, fv.Prune({-2: 0.5, -1: 0.75}, null_until=-3))
    assert seen == [1]


def test_dropped_tokens_are_recorded_without_an_index_too(small):
    _, trace = fv.observe(small, PROMPT, TogetherPruned(2))
    for step, site in trace.kept:
        whole = torch.ones(2, trace.grids[step].tokens, dtype=torch.bool)
        half = torch.arange(trace.grids[step].tokens).expand(2, -1) % 2 == 0
        assert torch.equal(trace.kept[step, site], half if step > 2 else whole)


def test_draws_say_the_seeds(small):
    made = fv.generate(small, [PROMPT] * 2, fv.Dense(), draws=fv.Keyed((1, 2)))
    assert made.request.seeds == (1, 2)
    assert fv.generate(small, PROMPT, fv.Dense(), draws=fv.Streamed(7)).request.seeds == (7,)
    with pytest.raises(ValueError, match="both choose the noise; give one"):
        fv.generate(small, [PROMPT] * 2, fv.Dense(), seed=5, draws=fv.Keyed((1, 2)))


def test_a_group_stands_where_a_grid_does(small):
    grids = small.grids()
    group = Group(grids[-2:])
    assert (group.index, group.tokens, group.name) == (3, 100, "6x6+8x8")
    assert group.steps == grids[-2:]
    assert grids[0].steps == (grids[0],)
