"""FocusVAR: both guidance rows are fused into one before a layer; and its shared update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from fastvar_lab.draws import sent
from fastvar_lab.methods.guidance import Around, Tail, steps_between
from fastvar_lab.methods.prune import Dense
from fastvar_lab.methods.ratios import ScaleName
from fastvar_lab.methods.registry import method
from fastvar_lab.methods.schedule import find, settle_layers
from fastvar_lab.methods.select_previous import chunk_checked
from fastvar_lab.methods.spaces import Subject, space
from fastvar_lab.seam import Act, Grid, Handles, Method, Rows, Runner, Stack, Wrapper, stateful_from
from fastvar_lab.tokens import wide


@method
@dataclass(frozen=True)
class FocusVAR(Around):
    """Fuse both rows of `method` into one before layer `layer`, at the steps `first` to `last`.

    The layers before it run both rows; the streams that enter it become one by the guidance
    formula, `s * cond + (1 - s) * null` with the step's scale s (1 + t on VAR and HART); it and all
    later layers run the conditional rows alone, and the logits get no further guidance. At the next
    step both rows enter again; after `last` they run throughout, and the null rows take the keys
    and values of the conditional rows where they have none. Without guidance nothing is fused.
    Cached branches that an inner `Prune` restores from are those of the conditional rows.

    Source: the released FocusVAR code (aden9460/focusvar; no paper was found), its layer-wise
    "collapse". Defaults: side 24 of the 1M schedule and layer 5 of 32, where its adaptive rule
    looks; the run script leaves both out. What the released code does otherwise: it skips sides 48
    and 64 by default (`Tail(FocusVAR(...), skip_from=48)`); it adds the codes of the last step
    twice where that step is not skipped; its HART variant keeps one row from the fused step on and
    stops with an error unless `layer` is 0. Guessed: nothing. Largest difference to that code: one
    bit of a step in one of eight runs, and 9 of 8,336 after it.

    Raises ValueError for a layer that the model does not have, and for an inner method that runs
    whole stacks, decides from the data or changes rows at these steps.

    >>> from fastvar_lab.scales import TINY, grids
    >>> [act.fused for act in FocusVAR(first=24, layer=3).acts(grids(TINY))[-3:]]
    [None, 3, 3]
    """

    method: Method = field(default_factory=Dense)
    first: ScaleName = -5
    layer: int = 5
    last: ScaleName = -1
    scales: ClassVar = ("first", "last")

    @classmethod
    def example(cls, grids: Sequence[Grid], depth: int) -> FocusVAR:
        """Return a method to begin with: the released one, where the model has its layers."""
        return cls(first=-min(5, len(grids) - 1), layer=min(5, depth - 1))

    def check_depth(self, depth: int) -> None:
        super().check_depth(depth)
        check_layer("layer", self.layer, depth)

    def acts(self, grids: Sequence[Grid]) -> tuple[Act, ...]:
        fused = steps_between(self.first, self.last, grids)
        key = ("fused", *fused, self.layer)
        return tuple(
            self.changed(act, grid, key, fused=self.layer)
            if grid.index in fused and act.rows in (Rows.BOTH, None)
            else self.keyed(act, key)
            for grid, act in zip(grids, self.method.acts(grids), strict=True)
        )

    def stateful_from(self, grids: Sequence[Grid]) -> int:
        """Return that of the inner method: the runner around it carries nothing."""
        return stateful_from(self.method, grids)

    def wrap(self, inner: Runner, grids: Sequence[Grid], depth: int) -> Runner:
        fused = [g for g, act in zip(grids, self.acts(grids)) if act.fused is not None]
        inner = layer_by_layer(inner, self, fused)
        return FusedRunner(inner, self.layer, {grid.index for grid in fused})


def check_layer(name: str, layer: int, depth: int, least: int = 0) -> None:
    """Raise ValueError for a field `name` that holds no layer of a model from `least` on."""
    if not least <= layer < depth:
        raise ValueError(
            f"{name} must be a layer of this model, {least} to {depth - 1}; not {layer}"
        )


def layer_by_layer(inner: Runner, outer: Around, steps: Sequence[Grid]) -> Runner:
    """Return a runner; raise ValueError if it acts on whole stacks, which `outer` runs itself.

    At `steps` the outer runner changes rows, so that no later step can hold their guidance.
    """
    run = inner
    while isinstance(run, Wrapper) and type(run).stack is Wrapper.stack:
        run = run.inner
    if not getattr(run, "by_layer", type(run).stack is Runner.stack):
        raise ValueError(
            f"{type(outer).__name__} changes rows between layers; it cannot hold "
            f"{outer.method!r}, which runs whole stacks itself"
        )
    sources = set(getattr(run, "held_from", {}).values())
    for grid in steps:
        if grid.index in sources:
            raise ValueError(
                f"{type(outer).__name__} changes rows between the layers of step {grid.index} "
                f"({grid.name}), whose guidance later steps of {outer.method!r} hold"
            )
    return inner


def fuse(handles: Handles, grid: Grid, x: Tensor) -> Tensor:
    """Apply the guidance of a forward to hidden states: (2n, L, C) -> (n, L, C)."""
    parts = x.split([step.tokens for step in grid.steps], dim=1)
    fused = [handles.guide(step, part) for step, part in zip(grid.steps, parts, strict=True)]
    return fused[0] if len(fused) == 1 else torch.cat(fused, dim=1)


class FusedRunner(Wrapper):
    """Runs the layers before the fusion on both rows, those after it on one."""

    def __init__(self, inner: Runner, layer: int, fused: set[int]) -> None:
        super().__init__(inner)
        self.layer, self.fused = layer, fused
        self.handles: Handles | None = None

    def prepare(self, handles: Handles) -> None:
        self.handles = handles
        self.inner.prepare(handles)

    def stack(self, grid: Grid, blocks: Stack, x: Tensor) -> Tensor:
        handles = self.handles
        if handles is None or not handles.guided or grid.index not in self.fused:
            return self.inner.stack(grid, blocks, x)
        for block in blocks[: self.layer]:
            x = block(x)
        x = fuse(handles, grid, x)
        return self.conditional(blocks, self.layer, x)

    def conditional(self, blocks: Stack, first: int, x: Tensor) -> Tensor:
        """Run the layers from `first` on with the conditional rows alone."""
        assert self.handles is not None
        self.inner.keep_rows(Rows.COND.of(self.handles.pictures))
        for block in blocks.on(Rows.COND)[first:]:
            x = block(x)
        self.inner.keep_rows(Rows.BOTH.of(self.handles.pictures))
        return x


@method
@dataclass(frozen=True)
class FocusVARAdaptive(Around):
    """FocusVAR that decides from the picture whether to fuse early or late.

    At the step `probe`, before layer `early`, the head's logits l / temperature of both rows give
    for each token the entropy gap g = H(null) - H(cond), and the Jensen-Shannon divergence j of the
    guided and the conditional distribution (natural logarithm; means over bits). With quantiles
    q over the tokens and A = (q95(g) - q50(g)) / (q75(g) - q25(g) + 1e-6), a picture fuses before
    layer `early` if A > `spread`, q95(g) > `gap` and q95(j) > `divergence`; else before `late`;
    from the probe step to the last.

    Source: released FocusVAR code (aden9460/focusvar), its "adaptive collapse": step 8 of 13,
    layers 5 and 20 of 32, thresholds 1, 0 and 0. There the first picture decides for a batch; here
    every picture for itself, and a batch runs both rows as long as one of its pictures needs them.
    Guessed: nothing. Largest difference to that code: 3.1e-6 in the statistics, no bit. The
    decision waits for the device once, at the probe step. Counts are upper bounds, those of `late`.

    Raises ValueError for layers out of order, and like `FocusVAR`.

    >>> FocusVARAdaptive(probe=24, early=2, late=6).late
    6
    """

    method: Method = field(default_factory=Dense)
    probe: ScaleName = -5
    early: int = 5
    late: int = 20
    spread: float = 1.0
    gap: float = 0.0
    divergence: float = 0.0
    scales: ClassVar = ("probe",)

    @classmethod
    def example(cls, grids: Sequence[Grid], depth: int) -> FocusVARAdaptive:
        """Return a method to begin with: the released one, its layers in proportion of 32."""
        early = max(1, depth * 5 // 32)
        return cls(probe=-min(5, len(grids) - 1), early=early, late=max(early + 1, depth * 5 // 8))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.early < self.late:
            raise ValueError(f"early must be a layer before late; not {self.early} and {self.late}")

    def check_depth(self, depth: int) -> None:
        super().check_depth(depth)
        check_layer("late", self.late, depth, least=1)

    def acts(self, grids: Sequence[Grid]) -> tuple[Act, ...]:
        first = find(self.probe, grids)
        key = ("adaptive", first, self.early, self.spread, self.gap, self.divergence)
        acts: list[Act] = []
        for grid, act in zip(grids, self.method.acts(grids), strict=True):
            if grid.index < first or act.skips:
                acts.append(self.keyed(act, (*key, self.late)))
                continue
            if act.rows is not Rows.BOTH:
                raise ValueError(
                    f"FocusVARAdaptive needs both rows from step {first} ({grids[first].name}) on; "
                    f"step {grid.index} ({grid.name}) of {type(self.method).__name__} has not"
                )
            changed = self.changed(act, grid, (), fused=self.late, at_most=True)
            acts.append(changed._replace(key=(*act.key, *key)))
        if acts[first].skips:
            raise ValueError(f"the probe step {first} ({grids[first].name}) is skipped")
        return tuple(acts)

    def stateful_from(self, grids: Sequence[Grid]) -> int:
        """Return the probe step, from which its decision holds, or an earlier one of the inner."""
        return min(find(self.probe, grids), stateful_from(self.method, grids))

    def wrap(self, inner: Runner, grids: Sequence[Grid], depth: int) -> Runner:
        probe = find(self.probe, grids)
        return AdaptiveRunner(layer_by_layer(inner, self, grids[probe:]), self, probe)


class AdaptiveRunner(FusedRunner):
    """Decides at the probe step which pictures fuse early."""

    def __init__(self, inner: Runner, method: FocusVARAdaptive, probe: int) -> None:
        super().__init__(inner, method.late, set())
        self.method, self.probe = method, probe
        self.early: list[bool] | None = None

    def stack(self, grid: Grid, blocks: Stack, x: Tensor) -> Tensor:
        handles, early, late = self.handles, self.method.early, self.method.late
        if handles is None or not handles.guided or grid.index < self.probe:
            return self.inner.stack(grid, blocks, x)
        for block in blocks[:early]:
            x = block(x)
        if self.early is None:
            self.early = self.decide(handles, grid, x)
        if all(self.early):
            return self.conditional(blocks, early, fuse(handles, grid, x))
        if not any(self.early):
            for block in blocks[early:late]:
                x = block(x)
            return self.conditional(blocks, late, fuse(handles, grid, x))
        # in a mixed batch the conditional rows of early pictures carry the fused stream
        chosen = sent(torch.tensor(self.early, device="cpu"), x.device).view(-1, 1, 1)
        cond, null = x.chunk(2)
        x = torch.cat((torch.where(chosen, fuse(handles, grid, x), cond), null))
        for block in blocks[early:late]:
            x = block(x)
        x = torch.where(chosen, x[: handles.pictures], fuse(handles, grid, x))
        return self.conditional(blocks, late, x)

    def decide(self, handles: Handles, grid: Grid, x: Tensor) -> list[bool]:
        """Return whether each picture fuses early, from the streams (2n, L, C)."""
        logits = handles.logits(x) / handles.temperature(grid)
        spread, gap, divergence = gap_statistics(logits, handles.guide(grid, logits))
        method = self.method
        early = (spread > method.spread) & (gap > method.gap) & (divergence > method.divergence)
        return early.tolist()


def gap_statistics(logits: Tensor, guided: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the spread A of the entropy gap, its q95, and the q95 of the divergence, (n,) each.

    `logits` (2n, L, ..., V) are those of both rows, `guided` (n, L, ..., V) their guidance.
    """
    (cond, null), both = wide(logits).softmax(-1).chunk(2), wide(guided).softmax(-1)

    def mean(values: Tensor) -> Tensor:
        return values.flatten(2).mean(-1) if values.ndim > 2 else values

    def entropy(p: Tensor) -> Tensor:
        return -(p * p.clamp_min(1e-12).log()).sum(-1)

    gap = mean(entropy(null) - entropy(cond))
    middle = entropy((both + cond) / 2)
    divergence = mean(middle - (entropy(both) + entropy(cond)) / 2)
    levels = torch.tensor((0.25, 0.5, 0.75, 0.95), dtype=gap.dtype, device=gap.device)
    q25, q50, q75, q95 = gap.quantile(levels, dim=1)
    return (q95 - q50) / (q75 - q25 + 1e-6), q95, divergence.quantile(levels[-1], dim=1)


@method
@dataclass(frozen=True)
class SharedUpdate(Around):
    """Run some layers on the conditional rows alone, and add their update to both rows.

    At the steps `first` to `last` the layers of the half-open range `layers` compute
    `d = layer(cond) - cond`; both streams become `stream + d`, and the null rows take the new keys
    and values of the conditional rows. Without guidance nothing changes.

    Source: released FocusVAR code (aden9460/focusvar): steps 5 to 10 of 13 (sides 12 to 40) and
    layers 16 to 27 of 32; on in the model's defaults, off in the run script. Guessed: nothing.
    Largest difference to that code: no bit.

    Raises ValueError for layers that the model does not have, and for an inner method that runs
    whole stacks, decides from the data or changes rows at these steps.

    >>> from fastvar_lab.scales import TINY, grids
    >>> SharedUpdate(first=24, last=24, layers=(4, 7)).acts(grids(TINY))[-2].alone
    (4, 7)
    """

    method: Method = field(default_factory=Dense)
    first: ScaleName = -8
    last: ScaleName = -3
    layers: tuple[int, int] = (16, 28)
    scales: ClassVar = ("first", "last")

    @classmethod
    def example(cls, grids: Sequence[Grid], depth: int) -> SharedUpdate:
        """Return a method to begin with: the released one, its layers in proportion of 32."""
        layers = depth // 2, max(depth // 2 + 1, depth * 7 // 8)
        return cls(first=-min(8, len(grids) - 1), last=-min(3, len(grids) - 1), layers=layers)

    def __post_init__(self) -> None:
        super().__post_init__()
        settle_layers(self)

    def check_depth(self, depth: int) -> None:
        super().check_depth(depth)
        chunk_checked(self.layers, depth, "SharedUpdate")

    def acts(self, grids: Sequence[Grid]) -> tuple[Act, ...]:
        steps = steps_between(self.first, self.last, grids)
        key = ("shared", *steps, self.layers)
        return tuple(
            self.changed(act, grid, key, alone=self.layers)
            if grid.index in steps and act.rows in (Rows.BOTH, None)
            else self.keyed(act, key)
            for grid, act in zip(grids, self.method.acts(grids), strict=True)
        )

    def stateful_from(self, grids: Sequence[Grid]) -> int:
        """Return that of the inner method: the runner around it carries nothing."""
        return stateful_from(self.method, grids)

    def wrap(self, inner: Runner, grids: Sequence[Grid], depth: int) -> Runner:
        alone = [g for g, act in zip(grids, self.acts(grids)) if act.alone is not None]
        inner = layer_by_layer(inner, self, alone)
        return SharedRunner(inner, range(*self.layers), {grid.index for grid in alone})


class SharedRunner(FusedRunner):
    """Runs some layers on the conditional rows alone, for both."""

    def __init__(self, inner: Runner, layers: range, steps: set[int]) -> None:
        super().__init__(inner, layers.start, steps)
        self.layers = layers

    def stack(self, grid: Grid, blocks: Stack, x: Tensor) -> Tensor:
        handles = self.handles
        if handles is None or not handles.guided or grid.index not in self.fused:
            return self.inner.stack(grid, blocks, x)
        alone, n = blocks.on(Rows.COND), handles.pictures
        for layer, block in enumerate(blocks):
            if layer in self.layers:
                self.inner.keep_rows(Rows.COND.of(n))
                after = alone[layer](x[:n])
                self.inner.keep_rows(Rows.BOTH.of(n))
                x = torch.cat((after, x[n:] + (after - x[:n])))
            else:
                x = block(x)
        return x


_LAYERS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)  # shares of the depth
_STEPS = (-7, -6, -5, -4, -3, -2, -1)


def _at(subject: Subject, share: float) -> int:
    """Return the layer at a share of the depth."""
    return round(share * subject.depth)


def _focusvar_published(subject: Subject) -> list[Method]:
    return [FocusVAR(layer=_at(subject, 5 / 32))]


@space("FocusVAR", "guidance", _focusvar_published, first=_STEPS, layer=_LAYERS)
def _focusvar(subject: Subject, first: int, layer: float) -> Method:
    return FocusVAR(first=first, layer=_at(subject, layer))


@space(
    "FocusVAR, skipping", "guidance",
    lambda subject: [Tail(_focusvar_published(subject)[0], skip_from=-2)],
    first=_STEPS[:-1], layer=_LAYERS, skipped=(1, 2, 3),
)  # fmt: skip
def _focusvar_skipping(subject: Subject, first: int, layer: float, skipped: int) -> Method:
    if -first <= skipped:
        raise ValueError("nothing is fused where all steps are skipped")
    return Tail(_focusvar(subject, first, layer), skip_from=-skipped)


@space(
    "FocusVARAdaptive", "guidance",
    lambda subject: [FocusVARAdaptive(early=_at(subject, 5 / 32), late=_at(subject, 20 / 32))],
    probe=_STEPS, early=_LAYERS[:-1], late=_LAYERS[1:], spread=(0.5, 0.8, 1.0, 1.2, 1.5, 2.0),
)  # fmt: skip
def _focusvar_adaptive(
    subject: Subject, probe: int, early: float, late: float, spread: float
) -> Method:
    layers = _at(subject, early), _at(subject, late)
    return FocusVARAdaptive(probe=probe, early=layers[0], late=layers[1], spread=spread)


@space(
    "SharedUpdate", "guidance",
    lambda subject: [SharedUpdate(layers=(_at(subject, 16 / 32), _at(subject, 28 / 32)))],
    first=_STEPS, last=(-3, -2, -1), begin=_LAYERS, end=(*_LAYERS[1:], 1.0),
)  # fmt: skip
def _shared_update(subject: Subject, first: int, last: int, begin: float, end: float) -> Method:
    return SharedUpdate(first=first, last=last, layers=(_at(subject, begin), _at(subject, end)))
