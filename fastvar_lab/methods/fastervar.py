"""FasterVAR (StageVAR): chunks of layers run on a few mixtures of tokens."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor

from fastvar_lab.draws import sent
from fastvar_lab.methods.ratios import ScaleName, pairs_by_scale, scale_name
from fastvar_lab.methods.registry import method
from fastvar_lab.methods.schedule import find, scale_order
from fastvar_lab.methods.select import top
from fastvar_lab.methods.spaces import Subject, space
from fastvar_lab.seam import Act, Branch, Grid, Handles, Rows, Runner, Site, Stack
from fastvar_lab.tokens import gather, product, resize, rows_like, scatter, wide
from fastvar_lab.values import one_of

Shares = float | tuple[float, ...]
SAMPLING = ("norm", "uniform", "top norm")
POSITIONS = ("first", "drawn")


@method
@dataclass(frozen=True)
class FasterVAR:
    """Run chunks of layers on random mixtures of tokens, and restore the rest from the step before.

    `ranks` maps scale names to rank shares, one for all chunks or one for each; a chunk then
    computes int(share * L) + 1 tokens. A share of 0 skips the step. Before a chunk, r mixtures
    Q^T x of all tokens are formed, Q ~ N(0, 1/r), and r distinct positions are drawn with
    probability proportional to the squared norm of their token. The chunk's output i is written to
    position i of these; elsewhere stands the chunk's output at the step before, resized by area.
    The next chunk mixes the restored map. From the step `null_from` on only null rows run.

    `mix=False` is the control: the same r drawn tokens are gathered instead of mixed. `sampling`
    draws positions by "norm", evenly ("uniform"), or takes the largest ("top norm"). Mixtures get
    the rotary angles of `positions`: of the "first" r, as in the Infinity release, or of the
    "drawn" ones, as in those for HART and STAR. `chunks` are cut as evenly as the depth allows.

    Source: FasterVAR (arXiv 2512.16483), code sen-mao/FasterVAR. Released for Infinity as
    `fastervar_release()`: low rank at side 40 alone, null rows alone from there, sides 48 and 64
    skipped outright. Departures: Q and the noise that draws positions are keyed by `seed`, step
    and chunk and shared by all rows, where the code draws new ones for each; positions are drawn
    by the Gumbel trick, which has the distribution of drawing without replacement. Largest
    difference to that code, given the same draws: none. Counted operations leave out the mixing,
    L * r * C products a chunk, like the selection in every method.

    >>> from fastvar_lab.scales import TINY, grids
    >>> FasterVAR({-1: 0.25}, chunks=4).counts(grids(TINY)[-1], 0.25)
    (257, 257, 257, 257)
    """

    ranks: Mapping[ScaleName, Shares] | tuple[tuple[ScaleName, Shares], ...]
    null_from: ScaleName | None = None
    chunks: int = 8
    mix: bool = True
    sampling: str = one_of("norm", SAMPLING)
    positions: str = one_of("first", POSITIONS)
    seed: int = 0

    @classmethod
    def example(cls, grids: Sequence[Grid], depth: int) -> FasterVAR:
        """Return a method to begin with: a quarter of the last step's rank in every chunk."""
        return cls({-1: 0.25}, chunks=min(8, depth))

    def __post_init__(self) -> None:
        if self.chunks < 1:
            raise ValueError(f"chunks must be 1 or more; not {self.chunks}")
        pairs = pairs_by_scale("ranks map scales to rank shares, such as {-1: 0.25}", self.ranks)
        settled = ((name, self._shares(name, value)) for name, value in pairs)
        object.__setattr__(self, "ranks", tuple(sorted(settled, key=scale_order)))
        if self.null_from is not None:
            object.__setattr__(self, "null_from", scale_name(self.null_from))
        if self.sampling not in SAMPLING:
            raise ValueError(
                f"sampling must be one of {', '.join(SAMPLING)}; not {self.sampling!r}"
            )
        if self.positions not in POSITIONS:
            raise ValueError(f"positions must be first or drawn; not {self.positions!r}")

    @property
    def family(self) -> str:
        """FasterVAR, or its control that gathers tokens instead of mixing them."""
        return "FasterVAR" if self.mix else "FasterVAR, gathered"

    def _shares(self, name: Any, value: Any) -> Shares:
        """Convert rank shares to floats in [0, 1), or raise ValueError."""
        several = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        try:
            given = tuple(value) if several else (value,)
            if any(isinstance(share, str | bytes | bool) for share in given):
                raise TypeError
            shares = tuple(map(float, given))
        except (TypeError, ValueError):
            shares = ()
        if not shares or not all(0 <= share < 1 for share in shares):
            raise ValueError(f"the rank shares of scale {name} must lie in [0, 1); not {value!r}")
        if several and len(shares) != self.chunks:
            raise ValueError(
                f"scale {name} has {len(shares)} rank shares; give one, or one for each of the "
                f"{self.chunks} chunks"
            )
        return shares if several else shares[0]

    def by_step(self, grids: Sequence[Grid]) -> dict[int, Shares]:
        """Return the rank shares by step index; raise ValueError where they do not fit."""
        by_step: dict[int, Shares] = {}
        for name, shares in cast(tuple[tuple[ScaleName, Shares], ...], self.ranks):
            step = find(name, grids)
            if step in by_step:
                raise ValueError(f"scale {name} names step {step}, which has rank shares already")
            by_step[step] = shares
        if all(by_step.get(step) == 0 for step in range(len(grids))):
            raise ValueError("every scale step is skipped; leave at least one")
        first = self._first(by_step)
        if first is not None and not any(by_step.get(step) != 0 for step in range(first)):
            raise ValueError(
                f"FasterVAR restores {grids[first].name} from the step before; none comes before it"
            )
        return by_step

    @staticmethod
    def _first(shares: Mapping[int, Shares]) -> int | None:
        """Return the first step of low rank."""
        return min((step for step, share in shares.items() if share != 0), default=None)

    def counts(self, grid: Grid, shares: Shares) -> tuple[int, ...]:
        """Return the tokens that each chunk computes at a step of low rank."""
        each = shares if isinstance(shares, tuple) else (shares,) * self.chunks
        return tuple(min(int(share * grid.tokens) + 1, grid.tokens) for share in each)

    def layers(self, depth: int) -> list[tuple[int, int]]:
        """Return the layers of each chunk, half-open; raise ValueError if there are too few."""
        if depth < self.chunks:
            raise ValueError(f"this model has {depth} layers; {self.chunks} chunks are too many")
        return list(pairwise(round(i * depth / self.chunks) for i in range(self.chunks + 1)))

    def acts(self, grids: Sequence[Grid]) -> tuple[Act, ...]:
        shares = self.by_step(grids)
        first = self._first(shares)
        alone = len(grids) if self.null_from is None else find(self.null_from, grids)
        watched = len(grids)
        if first is not None:
            watched = max(step for step in range(first) if shares.get(step) != 0)
        acts = []
        for step in range(len(grids)):
            rows = Rows.BOTH if step < alone else Rows.NULL
            if shares.get(step) == 0:
                acts.append(Act(Rows.SKIP))
            else:
                acts.append(Act(rows, ("low rank", self) if step >= watched else ()))
        return tuple(acts)

    def cache_index(self, grids: Sequence[Grid]) -> int | None:
        return None

    def start(
        self,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor] | None = None,
    ) -> Runner:
        return FasterVARRunner(self, grids, depth)


class FasterVARRunner(Runner):
    """One generation under `FasterVAR`; keeps the output of every chunk at the step before."""

    def __init__(self, method: FasterVAR, grids: Sequence[Grid], depth: int) -> None:
        self.method, self.layers = method, method.layers(depth)
        shares = method.by_step(grids)
        self.counts = {
            s: method.counts(grids[s], share) for s, share in shares.items() if share != 0
        }
        self.chunk_of = [i for i, (first, end) in enumerate(self.layers) for _ in range(first, end)]
        self.before: tuple[list[Tensor], Grid] | None = None  # outputs of chunks, and their step
        self.index: Tensor | None = None
        self.live = slice(None)

    def prepare(self, handles: Handles) -> None:
        self.pictures = handles.pictures

    def keep_rows(self, rows: slice) -> None:
        self.live = rows

    def forwarded(self, site: Site, grid: Grid) -> int:
        counts = self.counts.get(grid.index)
        return grid.tokens if counts is None else counts[self.chunk_of[site.layer]]

    def stack(self, grid: Grid, blocks: Stack, x: Tensor) -> Tensor:
        counts, outputs = self.counts.get(grid.index), list[Tensor]()
        for chunk, (first, end) in enumerate(self.layers):
            if counts is None:
                for block in blocks[first:end]:
                    x = block(x)
            else:
                x = self._low_rank(grid, chunk, counts[chunk], blocks[first:end], x)
            outputs.append(x)
        self.before = outputs, grid
        return x

    def _low_rank(self, grid: Grid, chunk: int, r: int, blocks: Sequence[Any], x: Tensor) -> Tensor:
        """Run a chunk on r mixtures of x (B, L, C), and restore all tokens."""
        host = torch.Generator("cpu")
        host.manual_seed(zlib.crc32(f"{self.method.seed}/{grid.index}/{chunk}".encode()))
        drawn = self._positions(x, r, host)
        if self.method.mix:
            q = torch.randn(grid.tokens, r, generator=host, dtype=torch.float32, device="cpu")
            q = sent(q, x.device).to(wide(x).dtype) / r**0.5
            y = product(q.T, x).to(x.dtype)
            first = torch.arange(r, device=x.device).expand(len(x), -1)
            self.index = drawn if self.method.positions == "drawn" else first
        else:
            y, self.index = gather(x, drawn), drawn
        for block in blocks:
            y = block(y)
        self.index = None
        assert self.before is not None
        outputs, old = self.before
        before = rows_like(outputs[chunk][:, old.prefix :], len(y), self.live)
        full = resize(before, (old.h, old.w), (grid.h, grid.w))
        return scatter(full.to(y.dtype), drawn[: len(y)], y)

    def _positions(self, x: Tensor, r: int, host: torch.Generator) -> Tensor:
        """Draw r distinct positions (B, r), by the squared norm of tokens x (B, L, C)."""
        scores = wide(x).square().sum(-1).log()
        if self.method.sampling == "top norm":
            return top(scores, r)
        u = torch.rand(x.shape[1], generator=host, dtype=torch.float32, device="cpu")
        gumbel = sent(-(-u.clamp(min=1e-20).log()).log(), x.device)
        if self.method.sampling == "uniform":
            scores = torch.zeros_like(scores)
        return top(scores + gumbel, r)

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        # guidance may merge both rows inside
        return branch(x, None if self.index is None else self.index[: len(x)])


def fastervar_release(energy: float = 0.96) -> FasterVAR:
    """Return FasterVAR as released for Infinity at 1M, with the published ranks of an energy.

    Side 40 runs at low rank on the null rows; sides 48 and 64 are skipped.
    """
    from fastvar_lab.methods.fastervar_ranks import published_ranks

    return FasterVAR({40: published_ranks(energy)[40], 48: 0.0, 64: 0.0}, null_from=40)


def _low_rank(
    subject: Subject, energy: float, low: int, skipped: int, null: bool, mix: bool
) -> FasterVAR:
    """Run steps at the ranks that keep some energy, null rows alone, and skip those after them."""
    measured = subject.calibrated(
        "fastervar", scales=(-4, -3, -2, -1), energy=energy, chunks=min(8, subject.depth)
    )
    shares = dict(measured.ranks)
    ranks: dict[ScaleName, Shares] = {}
    for i in range(skipped + low, 0, -1):
        ranks[-i] = 0.0 if i <= skipped else shares[-i]
    begin = -skipped - low if null else None
    return FasterVAR(ranks, begin, measured.chunks, mix)


_ENERGIES = (0.8, 0.9, 0.96, 0.98, 0.99)
_FIELDS = {"energy": _ENERGIES, "low": (1, 2, 3), "skipped": (0, 1, 2), "null": (False, True)}


def _released(subject: Subject, mix: bool) -> list[FasterVAR]:
    """Return the release for Infinity, and the paper's three steps of low rank."""
    return [_low_rank(subject, 0.96, 1, 2, True, mix), _low_rank(subject, 0.96, 3, 0, True, mix)]


@space("FasterVAR", "granularity", lambda subject: _released(subject, True), **_FIELDS)
def _mixed(subject: Subject, energy: float, low: int, skipped: int, null: bool) -> FasterVAR:
    if low + skipped > 4:
        raise ValueError("ranks are measured at the last four steps")
    return _low_rank(subject, energy, low, skipped, null, True)


@space("FasterVAR, gathered", "granularity", lambda subject: _released(subject, False), **_FIELDS)
def _gathered(subject: Subject, energy: float, low: int, skipped: int, null: bool) -> FasterVAR:
    if low + skipped > 4:
        raise ValueError("ranks are measured at the last four steps")
    return _low_rank(subject, energy, low, skipped, null, False)
