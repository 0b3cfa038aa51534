"""A backbone of one's own, the smallest there is: what it must bring, and what it gets for it."""

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

import fastvar_lab as fv
from fastvar_lab.backbones.autoencoder import AutoEncoder, AutoEncoderConfig
from fastvar_lab.backbones.protocol import Backbone, ConditionEncoder
from fastvar_lab.backbones.quantize import BitQuantizer
from fastvar_lab.cache import KVCache
from fastvar_lab.experiments import agenda, claims, figures, run, verdicts
from fastvar_lab.experiments.base import Scope, full_and_preset
from fastvar_lab.experiments.questions import (
    budget,
    memory,
    reduced_precision,
    resolution_scaling,
    speed_gap,
)
from fastvar_lab.planning.by_hand import by_hand
from fastvar_lab.sampling import bit_probabilities
from fastvar_lab.scales import square
from fastvar_lab.seam import Site
from fastvar_lab.store import Store
from fastvar_lab.widgets import Explorer


@dataclass
class Config:
    depth: int = 2
    width: int = 32
    heads: int = 2
    bits: int = 4
    levels: int = 10

    @property
    def head_dim(self):
        return self.width // self.heads


@dataclass
class State:
    start: torch.Tensor  # (B, 1, C)
    cache: KVCache

    def on(self, rows):
        return replace(self, start=self.start[rows], cache=self.cache.on(rows))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        c, self.heads = config.width, config.heads
        self.qkv, self.proj = nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.ffn = nn.Sequential(nn.LayerNorm(c), nn.Linear(c, 2 * c), nn.GELU(),
                                 nn.Linear(2 * c, c))  # fmt: skip

    def forward(self, x, *, layer, grid, state, run):
        site = Site(layer, "attn")
        x = x + run.sublayer(site, grid, partial(self.attend, site, grid, state, run), x)
        return x + run.sublayer(Site(layer, "ffn"), grid, lambda x, index=None: self.ffn(x), x)

    def attend(self, site, grid, state, run, x, index=None):
        normed = F.layer_norm(x, x.shape[-1:])
        q, k, v = rearrange(self.qkv(normed), "b l (t h c) -> t b h l c", t=3, h=self.heads)
        k, v = state.cache.append(site.layer, k, v)
        return self.proj(rearrange(run.attend(site, grid, q, k, v), "b h l c -> b l (h c)"))


class Toy(Backbone):
    kinds = ("attn", "ffn")
    unguided = 1.0

    def __init__(self, config):
        super().__init__()
        self.config, c = config, config.width
        self.words, self.levels = nn.Embedding(101, c), nn.Embedding(config.levels, c)
        self.enter, self.place = nn.Linear(config.bits, c), nn.Linear(2, c)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head = nn.Linear(c, 2 * config.bits)

    def with_null(self, condition):
        return torch.cat((condition, torch.full_like(condition, 100)))

    def begin(self, condition, grids, run):
        cache = self.new_cache(grids, len(condition), run)
        return State(self.words(condition).unsqueeze(1), cache)

    def embed(self, state, grid, latent):
        y, x = torch.arange(grid.h) / grid.h, torch.arange(grid.w) / grid.w
        place = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flatten(0, 1)
        here = self.levels.weight[grid.index] + self.place(place.to(self.head.weight))
        flat = rearrange(latent, "b d h w -> b (h w) d").to(self.head.weight)
        tokens = self.enter(flat) + here
        return tokens.repeat(len(state.start) // len(tokens), 1, 1) + state.start

    def logits(self, state, x):
        return rearrange(self.head(x), "b l (d two) -> b l d two", two=2)

    def guidance(self, state, grid, sampling):
        return sampling.guidance_at(grid.index)

    def draw(self, logits, grid, sampling, draws, codebook=None):
        return draws.pick(grid.index, bit_probabilities(logits, sampling.top_p)).bool()

    def sublayer_flops(self, kind, tokens, keys):
        c = self.config.width
        return float(tokens * {"attn": 8 * c * c + 4 * c * keys, "ffn": 8 * c * c}[kind])

    def ends_flops(self, grid):
        head = 4.0 * self.config.width * self.config.bits * grid.tokens
        return head / 2, head


class Numbers(ConditionEncoder):
    example = "7"

    def encode(self, prompts):
        return torch.tensor([sum(map(ord, prompt)) % 100 for prompt in prompts])


@pytest.fixture(scope="module")
def toy():
    torch.manual_seed(0)
    config = Config()
    decoder = AutoEncoder(AutoEncoderConfig(config.bits, (32, 32), 1, 1, patch=4))
    return fv.Model(
        "toy", Toy(config), decoder, BitQuantizer(config.bits), Numbers(),
        square(1, 2, 4, 8, 12), fv.Sampling(guidance=2.0),
    ).freeze()  # fmt: skip


def test_it_gets_every_method_and_instrument(toy):
    full, dense = fv.observe(toy, "7", fv.Dense(), seed=1, snapshot=True)
    assert toy.decode(full.canvas).isfinite().all()
    kept = fv.generate(toy, "7", fv.Prune({-1: 1e-9}, raster=True), seed=1)
    assert torch.equal(kept.canvas, full.canvas)
    for method in (
        fv.Prune({-2: 0.5, -1: 0.75}),
        fv.Prune({-2: 0.5, -1: 1.0}),
        fv.Merge({-1: 0.5}),
    ):
        made, trace = fv.observe_again(toy, full, dense, method)
        scratch = fv.generate(toy, "7", method, seed=1)
        assert torch.equal(made.canvas, scratch.canvas)
        assert not torch.equal(made.canvas, full.canvas)
    assert trace.kept[4, Site(1, "ffn")].float().mean() == 0.5
    assert (fv.costs(toy, {"full": fv.Dense()}).gflop > 0).all()


LOOK = Scope("look", 1, 1)


def test_it_gets_comparisons_and_widgets(toy, tmp_path):
    ways = {"mine 50%": fv.Prune({-1: 0.5}), **agenda.find("selectors").labelled(toy)}
    frame = run.compare(toy, ways, LOOK, store=Store(tmp_path), progress=False)
    assert set(frame.method) == {"full", *ways}
    assert "right" not in frame  # its prompts have no judge
    assert "PSNR" in run.table("toy", frame)
    explorer = Explorer(toy)
    assert explorer.wait(60)
    assert "times fewer operations" in explorer.view.numbers.value


@pytest.mark.parametrize("name", sorted(set(agenda.REGISTRY) - {"drafting"}))
def test_it_runs_every_experiment_with_its_figure_and_claims(toy, tmp_path, name, monkeypatch):
    monkeypatch.setattr(memory, "SIDES", (8, 12))
    monkeypatch.setattr(resolution_scaling, "SIDES", (8, 12))
    monkeypatch.setattr(speed_gap, "SIDES", (8, 12))
    monkeypatch.setattr(reduced_precision, "RELEASES", ())
    record, options = agenda.find(name), {"store": Store(tmp_path / "store"), "progress": False}
    monkeypatch.setattr(budget, "by_hand", lambda *of: by_hand(*of)[::12])
    if record.methods in (
        full_and_preset,
        memory.methods,
        reduced_precision.methods,
    ):  # what it lacks is said in a sentence
        with pytest.raises(ValueError, match="preset"):
            run.run(name, LOOK, model=toy, **options)
        options["methods"] = {"mine": fv.Prune({-2: 0.5, -1: 0.75})}
    if name in ("budget", "budget_transfer", "choice_by_picture", "small_maps"):
        with pytest.raises(ValueError, match="no schedules were planned"):
            run.run(name, LOOK, model=toy, **options)
        options["methods"] = {"mine": fv.Planned({-1: {"ffn": "4" * toy.depth}})}
    frame = run.run(name, LOOK, model=toy, **options)
    assert set(frame.model) == {"toy"}
    assert name in run.table(name, frame)
    paths = list(figures.draw_frame(toy, name, frame, tmp_path / "out", "quick"))
    assert all(path.exists() for path in paths)
    for claim in record.claims:
        told = claims.answer(claim, frame, record.guidances)
        assert told.verdict in (verdicts.OPEN, verdicts.HOLDS)


def test_its_figures_are_drawn_or_said_to_lack_something(toy, tmp_path):
    said = []
    names = ["demo", "intermediate_outputs", "memory"]
    paths = list(figures.draw(toy, names, tmp_path, scope=LOOK, note=said.append))
    assert {path.stem for path in paths} == {"intermediate_outputs"}
    assert len(said) == 2
    assert all("preset" in line for line in said)
