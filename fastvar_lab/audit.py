"""Checks methods against their declarations: acts, guidance rows and token counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from fastvar_lab.cache import read_later
from fastvar_lab.seam import (
    Act,
    Branch,
    Grid,
    Group,
    Handles,
    Method,
    Rows,
    Runner,
    Site,
    Stack,
    Wrapper,
)


def check_value(method: object) -> None:
    """Raise ValueError for what is no method, or the class of one."""
    if isinstance(method, type) or not hasattr(method, "acts"):
        raise ValueError(f"a method is a value such as Dense(); not {method!r}")


def checked_acts(method: Method, grids: Sequence[Grid], depth: int) -> tuple[Act, ...]:
    """Return a method's acts; raise ValueError for acts that cannot be run, and for no method."""
    check_value(method)
    if hasattr(method, "check_depth"):  # it names its own fields
        method.check_depth(depth)
    acts, name = tuple(method.acts(grids)), type(method).__name__
    if len(acts) != len(grids):
        raise ValueError(f"{name}.acts names {len(acts)} steps; the schedule has {len(grids)}")
    if all(isinstance(act, Act) and act.skips for act in acts):
        raise ValueError(f"{name} skips every scale step; leave at least one")
    for grid, act, before in zip(grids, acts, (None, *acts), strict=False):
        where = f"{name}.acts at step {grid.index} ({grid.name})"
        if not isinstance(act, Act):
            raise ValueError(f"{where} must be an Act; it is {act!r}")
        if act.skips and grid.prefix:
            raise ValueError(f"{where} is skipped, which carries the text tokens; leave it whole")
        if not isinstance(act.rows, Rows | None):
            raise ValueError(f"{where}: rows must be Rows or None; not {act.rows!r}")
        if not isinstance(act.fused, int | None):
            raise ValueError(f"{where}: fused must be the number of a layer; not {act.fused!r}")
        if act.alone is not None and not _is_range(act.alone):
            raise ValueError(
                f"{where}: alone must be a range of layers (first, end); not {act.alone!r}"
            )
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
        if act.joined and (before is None or before.skips or _streams(act) != _streams(before)):
            raise ValueError(
                f"{where} is joined to a step before it that does not run the same rows"
            )
    return acts


def merged_acts(
    method: Method, acts: Sequence[Act], grids: Sequence[Grid], layer: int | None
) -> tuple[Act, ...]:
    """Return the acts under guidance that merges both rows before a layer; None for the logits.

    Raises ValueError for a method that merges or shares the rows of the streams itself.
    """
    if layer is None:
        return tuple(acts)
    merged = list[Act]()
    for grid, act in zip(grids, acts, strict=True):
        if act.fused is not None or act.alone is not None:
            raise ValueError(
                f"{type(method).__name__} merges the guidance rows at step {grid.index} "
                f"({grid.name}) itself; it runs with guidance_layer 0"
            )
        both = act.rows in (Rows.BOTH, None)
        merged.append(act._replace(fused=layer) if both else act)
    return tuple(merged)


def check_parts(
    method: Method, acts: Sequence[Act], grids: Sequence[Grid], parts: Sequence[int]
) -> None:
    """Raise ValueError for a method that prunes or joins a step drawn in several forwards."""
    for grid, act, count in zip(grids, acts, parts, strict=True):
        if count > 1 and not (act.whole or act.skips):
            raise ValueError(
                f"step {grid.index} ({grid.name}) is drawn in {count} forwards, which a method "
                f"runs whole or skips; {type(method).__name__} does otherwise there"
            )


def _is_range(layers: object) -> bool:
    """Return whether a value is a pair of integers."""
    return (
        isinstance(layers, tuple) and len(layers) == 2 and all(isinstance(n, int) for n in layers)
    )


def _streams(act: Act) -> tuple[object, ...]:
    """Return what the steps of one forward must have in common: the rows of every layer."""
    return act.rows, act.fused, act.alone


def check_model(method: Method, model: object, sampling: object) -> None:
    """Raise ValueError if a method, or one inside it, was made for another model or sampling.

    A method says so with `check_model(model, sampling)`, which raises it.
    """
    if hasattr(method, "check_model"):
        method.check_model(model, sampling)
    if hasattr(method, "method"):
        check_model(method.method, model, sampling)


def check_parts_of(
    method: Method,
    acts: Sequence[Act],
    counts: Mapping[tuple[Site, int], int],
    grids: Sequence[Grid],
) -> None:
    """Raise ValueError for sublayers that no layer has, and for methods without their rows.

    `counts` are the tokens that the sublayers of the model compute, as `declared` returns them.
    """
    early = None  # the first layer that may run on one row, where the data decide on it
    while hasattr(method, "method"):  # inside others, such as a Tail
        early, method = getattr(method, "early", early), method.method
    named, kinds = getattr(method, "sublayers", None), {site.kind: 0 for site, _ in counts}
    if named and not set(named) & set(kinds):
        raise ValueError(
            f"{type(method).__name__} prunes the sublayers {', '.join(named)}; the layers of this "
            f"model have {', '.join(kinds)}"
        )
    if getattr(method, "keeps_by_row", False):
        _check_rows_that_leave(method, acts, {site.layer for site, _ in counts}, grids)
    select = getattr(method, "select", None)
    if not getattr(select, "needs_guidance", False):
        return
    for (site, step), count in counts.items():
        grid, act = grids[step], acts[step]
        if act.at_most and act.fused is not None:
            act = act._replace(fused=early)
        if 0 < count < grid.tokens and act.rows_at(site.layer) is not Rows.BOTH:
            raise ValueError(
                f"{select!r} compares both guidance rows; at step {step} ({grid.name}) layer "
                f"{site.layer} runs one of them alone"
            )


def _check_rows_that_leave(
    method: Method, acts: Sequence[Act], layers: set[int], grids: Sequence[Grid]
) -> None:
    """Raise ValueError if guidance rows come back after a method has chosen without them."""
    steps = [step for step, act in enumerate(acts) if act.key and not act.skips]
    for layer in sorted(layers):
        rows = [acts[step].rows_at(layer) for step in steps]
        for step, before, now in zip(steps[1:], rows, rows[1:]):
            if before is not Rows.BOTH and now is not before:
                raise ValueError(
                    f"{type(method).__name__} chooses for each guidance row at every step; at step "
                    f"{step} ({grids[step].name}) layer {layer} runs rows that it left out before"
                )


def declared(
    runner: Runner, acts: Sequence[Act], grids: Sequence[Grid], sites: Sequence[Site], name: str
) -> dict[tuple[Site, int], int]:
    """Return the tokens that a runner's `forwarded` declares, by site and step; 0 if skipped.

    Raises ValueError for anything but a runner, and for numbers that are no counts of tokens.
    """
    if not isinstance(runner, Runner):
        raise ValueError(f"{name}.start must return a Runner; it returned {runner!r}")
    counts = {}
    for grid, act in zip(grids, acts, strict=True):
        for site in sites:
            count = 0 if act.skips else runner.forwarded(site, grid)
            if not isinstance(count, int) or count < 0:
                raise ValueError(
                    f"{name}, {site.kind} of layer {site.layer}, step {grid.index} ({grid.name}): "
                    f"`forwarded` must return an integer, 0 or more; not {count!r}"
                )
            counts[site, grid.index] = count
    return counts


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

    It is the outermost wrapper. `parts` are the numbers of forwards of the steps, default one each.
    `forwarded` is read once, before the first step: counts of
    operations read it from a runner that has run nothing. Raises ValueError with method, site, step
    and both numbers.
    """

    def __init__(
        self,
        inner: Runner,
        method: Method,
        acts: Sequence[Act],
        grids: Sequence[Grid],
        kinds: Sequence[str],
        depth: int,
        parts: Sequence[int] = (),
    ) -> None:
        self.name, self.acts, self.depth = type(method).__name__, acts, depth
        self.parts = parts or (1,) * len(grids)
        self.sites = [Site(layer, kind) for layer in range(depth) for kind in kinds]
        self.declared = declared(inner, acts, grids, self.sites, self.name)
        check_parts_of(method, acts, self.declared, grids)
        super().__init__(inner)
        self.pictures = 0
        self.received: defaultdict[Site, list[tuple[int, int]]] = defaultdict(list)

    def prepare(self, handles: Handles) -> None:
        self.pictures = handles.pictures
        self.inner.prepare(handles)

    def forwarded(self, site: Site, grid: Grid) -> int:
        return self.declared[site, grid.index]

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
            for step, count in enumerate(self.parts):
                if count > 1:  # several forwards, which read the keys of those before
                    later[step] = (
                        rows[step] if later[step] in (Rows.SKIP, rows[step]) else Rows.BOTH
                    )
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
        whole = self.parts[grid.index] == 1  # else x holds the tokens of one of several forwards

        def watched(x: Tensor, index: Tensor | None = None) -> Tensor:
            received.append((x.shape[0], x.shape[1]))
            if index is not None and index.shape != x.shape[:2]:
                raise ValueError(
                    f"{self._at(grid, site)}: the branch received {tuple(x.shape[:2])} tokens and "
                    f"an index {tuple(index.shape)}; both are (B, K)"
                )
            if index is None and whole and site.kind == "attn" and x.shape[1] != grid.tokens:
                raise ValueError(
                    f"{self._at(grid, site)}: the branch received {x.shape[1]} of {grid.tokens} "
                    "tokens without their index (B, K)"
                )
            return branch(x, index)

        shape, delta = x.shape, self.inner.sublayer(site, grid, watched, x)
        if not isinstance(delta, Tensor) or delta.shape != shape:
            raise ValueError(
                f"{self._at(grid, site)}: `sublayer` must return {tuple(shape)}; "
                f"it returned {_shape(delta)}"
            )
        return delta

    def stack(self, grid: Grid, blocks: Stack, x: Tensor) -> Tensor:
        rows, *shape = x.shape
        out = self.inner.stack(grid, blocks, x)
        if not isinstance(out, Tensor) or list(out.shape[1:]) != shape:
            raise ValueError(
                f"{self._at(grid)}: `stack` must return all tokens {tuple(shape)}; it returned "
                f"{tuple(out.shape[1:]) if isinstance(out, Tensor) else _shape(out)}"
            )
        fused = self.acts[grid.index].fused  # after the last layer the loop merges the rows
        fuses = fused is not None and fused < self.depth and rows == 2 * self.pictures
        expected = self.pictures if fuses else rows
        if len(out) != expected:
            raise ValueError(
                f"{self._at(grid)}: `stack` returned {len(out)} rows; the act says {expected}"
            )
        return out

    def places(self, grid: Grid, tokens: Tensor) -> Tensor | None:
        places, shape = self.inner.places(grid, tokens), (len(tokens), grid.h * grid.w)
        if places is None:
            return None
        weights = isinstance(places, Tensor) and places.is_floating_point()
        if (
            not isinstance(places, Tensor)
            or places.shape != shape
            or not (weights or places.dtype == torch.bool)
        ):
            kind = f"{places.dtype} " if isinstance(places, Tensor) else ""
            raise ValueError(
                f"{self._at(grid)}: `places` must return a mask {shape}, bool, or weights; "
                f"it returned {kind}{_shape(places)}"
            )
        return places

    def close(self, grid: Grid, rows: Rows, pictures: int) -> None:
        """Compare a finished forward with its declarations; raise ValueError if they differ."""
        act = self.acts[grid.index]
        for site in self.sites:
            calls = self.received.pop(site, [])
            tokens = sum(self.forwarded(site, step) for step in grid.steps)
            at_most = any(self.acts[step.index].at_most for step in grid.steps)
            if len(calls) > self.parts[grid.index]:
                raise ValueError(
                    f"{self._at(grid, site)}: the branch was called {len(calls)} times"
                )
            alone = rows is Rows.BOTH and act.rows_at(site.layer) is Rows.COND
            live = pictures * (1 if alone else rows.each)
            height = next((rows for rows, _ in calls if rows != live), live)
            width = sum(width for _, width in calls)
            if width > tokens or (width < tokens and not at_most):
                raise ValueError(
                    f"{self._at(grid, site)}: the branch received {width} tokens; "
                    f"`forwarded` said {tokens}"
                )
            if height > live or (height < live and not act.at_most):
                raise ValueError(
                    f"{self._at(grid, site)}: the branch received {height} rows; "
                    f"the act says {live}"
                )

    def _at(self, grid: Grid, site: Site | None = None) -> str:
        where = f"{site.kind} of layer {site.layer}, " if site else ""
        return f"{self.name}, {where}step {grid.index} ({grid.name})"


def _shape(value: object) -> str:
    """Describe what a runner returned in place of a tensor of another shape."""
    return str(tuple(value.shape)) if isinstance(value, Tensor) else repr(value)


def audited(
    method: Method,
    grids: Sequence[Grid],
    depth: int,
    kinds: Sequence[str],
    merge: int | None = None,
) -> Audit:
    """Start a method's runner, wrapped so that its declared counts can be read and checked.

    Before layer `merge` guidance merges both rows; None for guidance at the logits.
    """
    acts = merged_acts(method, checked_acts(method, grids, depth), grids, merge)
    return Audit(method.start(grids, depth), method, acts, grids, kinds, depth)
