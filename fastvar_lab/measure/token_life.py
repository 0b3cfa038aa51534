"""The life of one token: score, rank and state in every sublayer, code, patch, attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from fastvar_lab.generation import Generation
from fastvar_lab.instruments.attention import Attention, attention_at, mean_weights
from fastvar_lab.instruments.trace import Trace
from fastvar_lab.measure.scale_steps import Decode, images
from fastvar_lab.models.model import Model
from fastvar_lab.seam import Grid, Site

WHOLE, KEPT, RESTORED, SKIPPED = "computed", "kept", "restored", "skipped"
"""What a sublayer did with a token: computed it with all others, kept it, restored it, nothing."""

TOLERANCE = 2 / 255


@dataclass(frozen=True)
class Gaze:
    """Where one token's attention goes: the mean over heads, which sums to 1 over all of it.

    `maps[s]` (h, w) is that on the tokens of step s, nan where they have no key; `text` (T,) that
    on rows of the text.
    """

    maps: dict[int, np.ndarray] = field(default_factory=dict)
    text: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @property
    def shares(self) -> dict[int, float]:
        """The share of each step."""
        return {step: float(np.nansum(weights)) for step, weights in self.maps.items()}


@dataclass(frozen=True)
class Patch:
    """The patch of a token's place after each recorded step: pictures (S, p, q, 3) in [0, 1].

    `distance` (S,) is the mean absolute difference to the final patch. From step `settled` on it
    stays within the tolerance.
    """

    steps: tuple[int, ...]
    pictures: np.ndarray
    distance: np.ndarray
    settled: int


@dataclass(frozen=True)
class TokenLife:
    """What happened at one place of a picture, seen from the token (row, column) of a step.

    `cells[s]` is the token (row, column) of step s at the same place. `scores` has a row for each
    step and sublayer: step, size, layer, kind, score, rank (1 is the highest), tokens (of the map),
    and state: `computed` with all tokens, `kept` or `restored` where some are pruned, or `skipped`.
    `codes` has a row for each step: step, size, code (bits or a codebook row, as text; empty for
    others), and changed, the share of its bits that differ from the step before (of a codebook row,
    0 or 1). `attention` holds a `Gaze` by kind, "attn" and "cross"; a kind is absent where the
    token was pruned. `pieces` are the words that rows of the text stand for.
    """

    step: int
    row: int
    column: int
    picture: int
    layer: int
    cells: dict[int, tuple[int, int]]
    scores: pd.DataFrame
    codes: pd.DataFrame
    patch: Patch
    attention: dict[str, Gaze]
    pieces: tuple[str, ...] = ()


def token_life(
    model: Model,
    generation: Generation,
    trace: Trace,
    step: int,
    token: tuple[int, int],
    *,
    layer: int = 0,
    picture: int = 0,
    tolerance: float = TOLERANCE,
) -> TokenLife:
    """Return the life of a token (row, column) of a scale step, with its attention in one layer.

    `generation` has a snapshot, and `trace` is its record; attention is computed on demand, see
    `attention_at`. Rows are those of the condition. Scores are those of the trace, by default
    pivotal token selection. A patch has settled when the mean absolute difference to the final one
    stays within `tolerance`. `step` may be negative. Raises ValueError for a step, token, layer or
    picture that is not there.

    >>> import fastvar_lab as fv
    >>> model = fv.load("tiny")
    >>> run, trace = fv.observe(model, "a red ring", fv.PRESETS["tiny"], seed=1, snapshot=True)
    >>> life = token_life(model, run, trace, -1, (16, 9), layer=2)
    >>> life.cells[8], len(life.scores), life.scores.query("step == 9").state.isin(
    ...     ["kept", "restored"]).all()
    ((12, 7), 240, np.True_)
    """
    step = step + len(trace.grids) if step < 0 else step
    cells = places(trace, step, token)
    _check_picture(trace, picture)
    attended = attention_at(model, generation, trace, step, layer)
    return TokenLife(
        step, *token, picture, layer, cells,
        token_scores(trace, cells, picture),
        token_codes(trace, cells, picture),
        token_patch(trace, model.decode, cells, picture, tolerance),
        gazes(attended, token, picture),
        pieces(model, generation.request.prompts, picture),
    )  # fmt: skip


def places(trace: Trace, step: int, token: tuple[int, int]) -> dict[int, tuple[int, int]]:
    """Return the tokens (row, column) of all steps at the place of a token: where its centre lies.

    Raises ValueError for a step or a token that is not there.
    """
    if not 0 <= step < len(trace.grids):
        raise ValueError(f"there are steps 0 to {len(trace.grids) - 1}; not {step}")
    grid, (row, column) = trace.grids[step], token
    if not (0 <= row < grid.h and 0 <= column < grid.w):
        raise ValueError(f"{grid.name} has no token in row {row}, column {column}")
    return {g.index: (_cell(row, grid.h, g.h), _cell(column, grid.w, g.w)) for g in trace.grids}


def _cell(place: int, old: int, new: int) -> int:
    """Return the cell of `new` in which the centre of a cell of `old` lies."""
    return (2 * place + 1) * new // (2 * old)


def _flat(grid: Grid, cell: tuple[int, int]) -> int:
    return cell[0] * grid.w + cell[1]


def _check_picture(trace: Trace, picture: int) -> None:
    count = len(next(iter(trace.canvases.values())))
    if not 0 <= picture < count:
        raise ValueError(f"the trace has {count} pictures, from 0 on; not {picture}")


def token_scores(
    trace: Trace, cells: Mapping[int, tuple[int, int]], picture: int = 0
) -> pd.DataFrame:
    """Return score, rank and state of a place in every sublayer; see `TokenLife.scores`.

    Equal scores rank in raster order, as they are selected. A token that was dropped before a
    sublayer has no score and no rank.
    """
    rows = []
    for step, site in _sites(trace):
        grid = trace.grids[step]
        common = {"step": step, "size": grid.name, "layer": site.layer, "kind": site.kind}
        if (step, site) not in trace.scores:
            gone = {"score": np.nan, "rank": np.nan, "tokens": grid.h * grid.w, "state": SKIPPED}
            rows.append({**common, **gone})
            continue
        scores, place = trace.scores[step, site][picture, grid.prefix :], _flat(grid, cells[step])
        kept, score = trace.kept[step, site][picture], scores[place]
        rank = 1 + int((scores > score).sum()) + int((scores[:place] == score).sum())
        state = WHOLE if kept.all() else KEPT if kept[grid.prefix + place] else RESTORED
        value = float(score)
        ranked = float("nan") if value != value else rank
        record = {"score": value, "rank": ranked, "tokens": len(scores), "state": state}
        rows.append({**common, **record})
    return pd.DataFrame(rows)


def _sites(trace: Trace) -> list[tuple[int, Site]]:
    """Return all steps with all sublayers, in the order in which they run."""
    first = dict.fromkeys(site for _, site in trace.scores)
    kinds = list(dict.fromkeys(site.kind for site in first))
    depth = 1 + max((site.layer for site in first), default=-1)
    sites = [Site(layer, kind) for layer in range(depth) for kind in kinds]
    return [(step, site) for step in sorted(trace.canvases) for site in sites]


def token_codes(
    trace: Trace, cells: Mapping[int, tuple[int, int]], picture: int = 0
) -> pd.DataFrame:
    """Return what was drawn at a place at every step; see `TokenLife.codes`.

    Continuous codes have no text; `changed` is nan for them, and at the first step.
    """
    rows: list[dict[str, Any]] = []
    before: torch.Tensor | None = None
    for step in sorted(trace.canvases):
        grid, tokens = trace.grids[step], trace.tokens.get(step)
        code, changed = "", float("nan")
        if tokens is not None:
            drawn = tokens[picture, _flat(grid, cells[step])]
            if drawn.dtype == torch.bool:
                code = "".join("1" if bit else "0" for bit in drawn.flatten().tolist())
            elif not drawn.is_floating_point():
                code = " ".join(map(str, drawn.flatten().tolist()))
            if code and before is not None:
                changed = float((drawn != before).float().mean())
            before = drawn
        rows.append({"step": step, "size": grid.name, "code": code, "changed": changed})
    return pd.DataFrame(rows)


def token_patch(
    trace: Trace,
    decode: Decode,
    cells: Mapping[int, tuple[int, int]],
    picture: int = 0,
    tolerance: float = TOLERANCE,
) -> Patch:
    """Return the patch of a place after every step: the area of its token of the last map."""
    steps = tuple(sorted(trace.canvases))
    return patch_of(images(trace, decode)[:, picture], steps, trace.grids[-1], cells, tolerance)


def patch_of(
    pictures: np.ndarray,
    steps: tuple[int, ...],
    last: Grid,
    cells: Mapping[int, tuple[int, int]],
    tolerance: float = TOLERANCE,
) -> Patch:
    """Return the patch of a place in pictures (S, H, W, 3) in [0, 1] after each of `steps`."""
    height, width = pictures.shape[1:3]
    row, column = cells[last.index]
    y, x = (slice(i * side // n, max((i + 1) * side // n, i * side // n + 1))
            for i, side, n in ((row, height, last.h), (column, width, last.w)))  # fmt: skip
    patches = pictures[:, y, x]
    distance = np.abs(patches - patches[-1]).mean(axis=(1, 2, 3))
    late = np.flatnonzero(distance > tolerance)
    settled = steps[late[-1] + 1] if len(late) else steps[0]
    return Patch(steps, patches, distance, settled)


def gazes(
    attended: Mapping[str, Attention], token: tuple[int, int], picture: int = 0
) -> dict[str, Gaze]:
    """Return where the attention of a token (row, column) goes, by kind."""
    out: dict[str, Gaze] = {}
    for kind, attention in attended.items():
        weights = mean_weights(attention, _flat(attention.grid, token), picture)
        if weights is None:
            continue
        maps, text = attention.on_maps(weights, picture)
        arrays = {step: part.cpu().numpy() for step, part in maps.items()}
        out[kind] = Gaze(arrays, text.cpu().numpy())
    return out


def pieces(model: Model, prompts: tuple[str, ...], picture: int) -> tuple[str, ...]:
    """Return the words that the rows of the text stand for; fewer or none if they have no names."""
    try:
        return tuple(model.text_encoder.pieces(prompts[picture]))
    except (ValueError, AttributeError, IndexError):
        return ()  # an encoded condition, or an encoder without names
