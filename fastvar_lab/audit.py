"""Checks methods against their declarations: acts, guidance rows and token counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from torch import Tensor

from fastvar_lab.cache import read_later
from fastvar_lab.seam import Act, Branch, Grid, Group, Method, Rows, Runner, Site, Stack, Wrapper


def checked_acts(method: Method, grids: Sequence[Grid], depth: int) -> tuple[Act, ...]:
    """Return a method's acts; raise ValueError for acts that cannot be run."""
    acts, name = tuple(method.acts(grids)), type(method).__name__
    if len(acts) != len(grids):
        raise ValueError(f"{name}.acts names {len(acts)} steps; the schedule has {len(grids)}")
    for grid, act, before in zip(grids, acts, (None, *acts), strict=False):
        where = f"{name}.acts at step {grid.index} ({grid.name})"
        if not isinstance(act, Act):
            raise ValueError(f"{where} must be an Act; it is {act!r}")
        both = act.rows in (Rows.BOTH, None)
        if act.fused is not None and not (both and 0 <= act.fused < depth):
            raise ValueError(
                f"{where}: fused is one of the {depth} layers at a step of both rows; "
                f"not {act.fused} at a step of {act.rows}"
            )
        if act.alone is not None and not (both and 0 <= act.alone[0] < act.alone[1] <= depth):
            raise ValueError(
                f"{where}: alone is a range of the {depth} layers at a step of both rows; "
                f"not {act.alone} at a step of {act.rows}"
            )
        if act.joined and (before is None or before.skips or act.rows is not before.rows):
            raise ValueError(
                f"{where} is joined to a step before it that does not run the same rows"
            )
    return acts


def forwards(grids: Sequence[Grid], acts: Sequence[Act], first: int) -> Iterator[Grid]:
    """Yield the forwards from step `first`: single steps, and groups of joined steps."""
    step = first
    while step < len(grids):
        end = step + 1
        while end < len(grids) and acts[end].joined:
            end += 1
        # a Group is passed in place of a Grid
        yield grids[step] if end == step + 1 else Group(tuple(grids[step:end]))  # type: ignore[misc]
        step = end


class Audit(Wrapper):
    """Compares a runner's work with its method's declarations, by host integers alone.

    It is the outermost wrapper. Raises ValueError with method, site, step and both numbers.
    """

    def __init__(
        self, inner: Runner, method: Method, acts: Sequence[Act], kinds: Sequence[str], depth: int
    ) -> None:
        super().__init__(inner)
        self.name, self.acts = type(method).__name__, acts
        self.sites = [Site(layer, kind) for layer in range(depth) for kind in kinds]
        self.received: defaultdict[Site, list[tuple[int, int]]] = defaultdict(list)

    def forwarded(self, site: Site, grid: Grid) -> int:
        return 0 if self.acts[grid.index].skips else self.inner.forwarded(site, grid)

    def keys_read(self, grids: Sequence[Grid], guided: bool, resumable: bool) -> list[list[Rows]]:
        """Return for each layer and step the rows whose keys and values a later step reads.

        Without guidance the only rows count as both. A `resumable` generation may go on from any
        of its steps under any method: all rows are read later, except those of the last step.
        """
        by_layer = []
        for layer in range(1 + self.sites[-1].layer):
            site = Site(layer, "attn")
            rows = [Rows.BOTH if resumable else act.rows_at(layer) for act in self.acts]
            for step, grid in enumerate(grids):
                if not (resumable or self.forwarded(site, grid)):
                    rows[step] = Rows.SKIP
                elif not guided:
                    rows[step] = Rows.BOTH
            later = read_later(rows)
            for step in reversed(range(1, len(grids))):
                if self.acts[step].joined:  # one forward, which stores once
                    later[step - 1] = later[step]
            by_layer.append(later)
        return by_layer

    def decided(self, grid: Grid, canvas: Tensor) -> Rows:
        """Return the rows that run at a step; raise ValueError if runner and act disagree."""
        act, rows = self.acts[grid.index], self.inner.rows(grid, canvas)
        if rows is not None and not isinstance(rows, Rows):
            raise ValueError(f"{self._at(grid)}: `rows` must return Rows or None; not {rows!r}")
        if rows is None and act.rows is None:
            raise ValueError(f"{self._at(grid)}: its act leaves the rows to the runner's `rows`")
        if act.rows is not None and rows not in (None, act.rows):
            raise ValueError(
                f"{self._at(grid)}: its act says the {act.rows.value} rows, its runner "
                f"{rows.value}; what decides from the data says so with Act(rows=None)"
            )
        return rows or act.rows or Rows.BOTH

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        received = self.received[site]

        def watched(x: Tensor, index: Tensor | None = None) -> Tensor:
            received.append((x.shape[0], x.shape[1]))
            return branch(x, index)

        return self.inner.sublayer(site, grid, watched, x)

    def close(self, grid: Grid, rows: Rows, pictures: int) -> None:
        """Compare a finished forward with its declarations; raise ValueError if they differ."""
        act = self.acts[grid.index]
        for site in self.sites:
            calls = self.received.pop(site, [])
            tokens = sum(self.forwarded(site, step) for step in grid.steps)
            if len(calls) > 1:
                raise ValueError(
                    f"{self._at(grid, site)}: the branch was called {len(calls)} times"
                )
            alone = rows is Rows.BOTH and act.rows_at(site.layer) is Rows.COND
            live = pictures * (1 if alone else rows.each)
            height, width = calls[0] if calls else (live, 0)
            if width > tokens or (width < tokens and not act.at_most):
                raise ValueError(
                    f"{self._at(grid, site)}: the branch received {width} tokens; "
                    f"`forwarded` said {tokens}"
                )
            if height != live:
                raise ValueError(
                    f"{self._at(grid, site)}: the branch received {height} rows; "
                    f"the act says {live}"
                )

    def _at(self, grid: Grid, site: Site | None = None) -> str:
        where = f"{site.kind} of layer {site.layer}, " if site else ""
        return f"{self.name}, {where}step {grid.index} ({grid.name})"

    def stack(self, grid: Grid, blocks: Stack, x: Tensor) -> Tensor:
        shape = x.shape[1:]
        out = self.inner.stack(grid, blocks, x)
        if out.shape[1:] != shape:
            raise ValueError(
                f"{self._at(grid)}: `stack` must return all tokens {tuple(shape)}; "
                f"it returned {tuple(out.shape[1:])}"
            )
        return out


def audited(method: Method, grids: Sequence[Grid], depth: int, kinds: Sequence[str]) -> Audit:
    """Start a method's runner, wrapped so that its declared counts can be read and checked."""
    acts = checked_acts(method, grids, depth)
    return Audit(method.start(grids, depth), method, acts, kinds, depth)
