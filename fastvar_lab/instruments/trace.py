"""Trace: the record of one generation by scale step and site, with its provenance."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastvar_lab.errors import short
from fastvar_lab.files import expanded, read_json
from fastvar_lab.seam import Grid, Site
from fastvar_lab.tensors import read_tensors, write_tensors

Key = tuple[int, Site]


@dataclass(repr=False)
class Trace:
    """The record of one generation: n pictures, B rows (conditional first), steps s of `grids`.

    tokens[s]        drawn tokens: bits (n, L, d) bool, codebook rows (n, L) or codes (n, L, d);
                     None if the step was skipped
    canvases[s]      (n, d, H, W) latent after the step
    scores[s, site]  (B, L) float, scores of the sublayer's input by the selector
                     `provenance["scores"]`, by default the squared distance to the spatial mean
    kept[s, site]    (B, L) bool, the tokens that went through the sublayer
    order[s, site]   (B, K) int64, these tokens in the order in which the sublayer received them,
                     which is that of their keys and values; absent if it received all tokens
    features, outputs[s, site]   (B, L, C) sublayer inputs and outputs, at the requested sites;
                     (B, K, C) of `order` alone if the others were dropped from the whole stack
    attention[s, site]           (B, H, K, S) share of the attention of each kept query on each
                                 scale step that it attends to, at the requested sites;
                                 `seen[s, site]` are the indices of those steps
    read[s, site]    (B or 1, H or 1, S) int64, the keys of each of these steps that a head reads;
                     absent if it reads all of them
    step_ms[s], sublayer_ms[s, kind]  wall times in milliseconds, if a Stopwatch ran inside; steps
                     that run in one forward share its time by the tokens that they compute
    derived          cache of values computed from the trace; not saved
    """

    grids: tuple[Grid, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    tokens: dict[int, Tensor | None] = field(default_factory=dict)
    canvases: dict[int, Tensor] = field(default_factory=dict)
    scores: dict[Key, Tensor] = field(default_factory=dict)
    kept: dict[Key, Tensor] = field(default_factory=dict)
    order: dict[Key, Tensor] = field(default_factory=dict)
    features: dict[Key, Tensor] = field(default_factory=dict)
    outputs: dict[Key, Tensor] = field(default_factory=dict)
    attention: dict[Key, Tensor] = field(default_factory=dict)
    seen: dict[Key, tuple[int, ...]] = field(default_factory=dict)
    read: dict[Key, Tensor] = field(default_factory=dict)
    step_ms: dict[int, float] = field(default_factory=dict)
    sublayer_ms: dict[tuple[int, str], float] = field(default_factory=dict)
    derived: dict[Any, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        filled = [name for name in (*_BY_STEP, *_BY_SITE) if getattr(self, name)]
        prompts = list(self.provenance.get("prompts", ()))
        return f"<Trace of {prompts}, {len(self.grids)} scale steps: {', '.join(filled)}>"

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "derived": {}}  # its keys hold decoders

    def size(self, step: int) -> str:
        """Return the name of a step: the size of its map, such as 32x32."""
        return self.grids[step].name

    @property
    def nbytes(self) -> int:
        """Bytes of the recorded tensors; those that are also another trace's count here too."""
        records = (getattr(self, name).values() for name in (*_BY_STEP, *_BY_SITE))
        return sum(v.nbytes for values in records for v in values if isinstance(v, Tensor))

    def save(self, path: str | Path) -> None:
        """Write all but `derived` and a checksum to one safetensors file; atomic."""
        tensors, plain = dict[str, Tensor](), dict[str, Any]()
        for name in (*_BY_STEP, *_BY_SITE):
            for key, value in getattr(self, name).items():
                label = f"{name}/{_key_text(key)}"
                if isinstance(value, Tensor):
                    tensors[label] = (
                        value.detach().cpu().contiguous().clone()
                    )  # safetensors refuses shared memory
                else:
                    plain[label] = value
        metadata = {
            "trace": "1",
            "grids": json.dumps(self.grids),
            "provenance": json.dumps(self.provenance, default=str),
            "plain": json.dumps(plain),
        }
        write_tensors(expanded(path), tensors, metadata)

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read a trace; raise ValueError if the file is damaged or not a trace.

        Its checksum is verified, at about 1 GB/s; older traces have none and are read unchecked.
        """
        path = expanded(path)
        try:
            tensors, metadata = read_tensors(path)
        except ValueError as error:
            raise ValueError(f"cannot read the trace {path}: {error}") from None
        if metadata.get("trace") != "1":
            raise ValueError(f"{path} is a safetensors file, but not a trace")
        try:
            trace = cls(_grids(metadata), read_json(metadata.get("provenance", "")))
            plain = read_json(metadata.get("plain", ""))
            if plain.keys() & tensors.keys():
                raise ValueError("it holds the same record twice")
            for label, value in {**plain, **tensors}.items():
                trace._take(label, value)
        except ValueError as error:
            raise ValueError(f"cannot read the trace {path}: {short(error, 200)}") from None
        return trace

    def _take(self, label: str, value: Any) -> None:
        """Add one record of a file; raise ValueError if it is none, or not of these scale steps."""
        name, _, text = label.partition("/")
        key = _parse_key(name, text)
        step = key[0] if isinstance(key, tuple) else key
        if not 0 <= step < len(self.grids):
            raise ValueError(f"{short(label)} is of none of its {len(self.grids)} scale steps")
        if name == "seen" and isinstance(value, list):
            steps = [s for s in value if type(s) is int and 0 <= s < len(self.grids)]
            value, fits = tuple(value), len(steps) == len(value)
        elif name in ("step_ms", "sublayer_ms"):
            fits = type(value) in (int, float)
        elif isinstance(value, Tensor):
            fits = _fits(name, value, self.grids[step])
        else:
            fits = name == "tokens" and value is None
        if not fits:
            raise ValueError(f"{short(label)} is {short(value, 30)}, which no trace holds there")
        getattr(self, name)[key] = value

    def before(self, step: int) -> Trace:
        """Return a copy with the records of the steps before `step` alone."""
        early: dict[str, Any] = {"grids": self.grids, "provenance": dict(self.provenance)}
        for name in _BY_STEP:
            early[name] = {k: v for k, v in getattr(self, name).items() if k < step}
        for name in _BY_SITE:
            early[name] = {k: v for k, v in getattr(self, name).items() if k[0] < step}
        return Trace(**early)

    def followed_by(self, later: Trace) -> Trace:
        """Return this trace with the steps and the provenance of `later`, the trace of a resume."""
        joined: dict[str, Any] = {"grids": later.grids, "provenance": later.provenance}
        for name in (*_BY_STEP, *_BY_SITE):
            joined[name] = {**getattr(self, name), **getattr(later, name)}
        return Trace(**joined)

    def kept_share(self, step: int, kind: str, row: int = 0) -> Tensor:
        """Return the share of layers that forwarded each token of a step, (h, w), for one row.

        `step` may be negative, counted from the end; the share is 0 at a skipped step. Raises
        ValueError if the step has no record.
        """
        grid = self.grids[step]
        if grid.index in self.tokens and self.tokens[grid.index] is None:
            return torch.zeros(grid.h, grid.w, dtype=torch.float32, device="cpu")
        recorded = self.kept.items()
        masks = [m[row] for (s, site), m in recorded if s == grid.index and site.kind == kind]
        if not masks:
            raise ValueError(f"step {step} has no record of {kind!r} sublayers")
        return torch.stack(masks).float().mean(0)[grid.prefix :].view(grid.h, grid.w)


def _key_text(key: Any) -> str:
    """Write a key as text: a step, a step and a site, or a step and a kind."""
    if isinstance(key, tuple):
        step, where = key
        return (
            f"{step}/{where.layer}/{where.kind}" if isinstance(where, Site) else f"{step}/{where}"
        )
    return str(key)


def _parse_key(name: str, text: str) -> Any:
    """Read a key written by `_key_text`; raise ValueError for any other text."""
    pattern = _KEYS.get(name)
    match = pattern.fullmatch(text) if pattern else None
    if match is None:
        raise ValueError(f"a trace has no {short(f'{name}/{text}')}")
    step, layer, kind = int(match["step"]), *(match.groupdict().get(k) for k in ("layer", "kind"))
    if layer is not None:
        return step, Site(int(layer), str(kind))
    return step if kind is None else (step, kind)


def _grids(metadata: Mapping[str, str]) -> tuple[Grid, ...]:
    """Read the scale steps; raise ValueError for anything else."""
    grids = list[Grid]()
    for step, numbers in enumerate(read_json(metadata.get("grids", ""), list)):
        whole = isinstance(numbers, list) and all(type(n) is int for n in numbers)
        if not whole or len(numbers) != 4:
            raise ValueError(f"scale step {step} is {short(numbers)}; not [index, h, w, prefix]")
        grid = Grid(*numbers)
        small = 1 <= grid.h <= LARGEST and 1 <= grid.w <= LARGEST and 0 <= grid.prefix <= LARGEST
        if grid.index != step or not small:
            raise ValueError(f"scale step {step} is {short(numbers)}, which no schedule has")
        grids.append(grid)
    return tuple(grids)


def _fits(name: str, value: Tensor, grid: Grid) -> bool:
    """Tell whether a tensor has the axes of a record, and as many tokens as its step."""
    axes, boolean = _SHAPES.get(name, ((), False))
    if value.ndim not in axes or (boolean and value.dtype != torch.bool):
        return False
    if name == "tokens":
        return value.shape[1] == grid.h * grid.w
    if name == "order":
        whole = value.dtype == torch.int64 and value.shape[1] <= grid.tokens
        return whole and bool(((value >= 0) & (value < grid.tokens)).all())
    if name in ("features", "outputs"):
        return value.shape[1] <= grid.tokens
    return name in ("canvases", "attention", "read") or value.shape[1] == grid.tokens


LARGEST = 4096  # tokens along a side of a map: a picture of 65,536 pixels
_BY_STEP = ("tokens", "canvases", "step_ms")
_BY_SITE = (
    *("scores", "kept", "order", "features", "outputs", "attention", "seen", "read"),
    "sublayer_ms",
)
_STEP = r"(?P<step>\d{1,6})"
_KEYS = {
    **{name: re.compile(_STEP) for name in _BY_STEP},
    **{name: re.compile(_STEP + r"/(?P<layer>\d{1,6})/(?P<kind>\w{1,20})") for name in _BY_SITE},
    "sublayer_ms": re.compile(_STEP + r"/(?P<kind>\w{1,20})"),
}
_SHAPES = {  # numbers of axes, and whether it is boolean; see `Trace`
    "tokens": ((2, 3), False),
    "canvases": ((4,), False),
    "scores": ((2,), False),
    "kept": ((2,), True),
    "order": ((2,), False),
    "features": ((3,), False),
    "outputs": ((3,), False),
    "attention": ((4,), False),
    "read": ((3,), False),
}
