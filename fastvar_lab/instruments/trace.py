"""Trace: the record of one generation by scale step and site, with its provenance."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fastvar_lab.files import write
from fastvar_lab.seam import Grid, Site

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
    features, outputs[s, site]   (B, L, C) sublayer inputs and outputs, at the requested sites
    attention[s, site]           (B, H, K, S) share of the attention of each kept query on each
                                 scale step that it attends to, at the requested sites;
                                 `seen[s, site]` are the indices of those steps
    step_ms[s], sublayer_ms[s, kind]  wall times in milliseconds, if a Stopwatch ran inside
    derived          cache of values computed from the trace; not saved
    """

    grids: tuple[Grid, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    tokens: dict[int, Tensor | None] = field(default_factory=dict)
    canvases: dict[int, Tensor] = field(default_factory=dict)
    scores: dict[Key, Tensor] = field(default_factory=dict)
    kept: dict[Key, Tensor] = field(default_factory=dict)
    features: dict[Key, Tensor] = field(default_factory=dict)
    outputs: dict[Key, Tensor] = field(default_factory=dict)
    attention: dict[Key, Tensor] = field(default_factory=dict)
    seen: dict[Key, tuple[int, ...]] = field(default_factory=dict)
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

    def save(self, path: str | Path) -> None:
        """Write all but `derived` to one safetensors file; a failed write leaves no file."""
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
        try:
            write(Path(path), lambda partial: save_file(tensors, partial, metadata=metadata))
        except SafetensorError as error:
            raise OSError(f"cannot write the trace {path}: {error}") from error

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read a trace; raise ValueError if the file is truncated or not a trace."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ValueError(f"cannot read the trace {path}: {error}") from error
        if metadata.get("trace") != "1":
            raise ValueError(f"{path} is a safetensors file, but not a trace")
        grids = tuple(Grid(*g) for g in json.loads(metadata["grids"]))
        trace = cls(grids, json.loads(metadata["provenance"]))
        for label, value in {**json.loads(metadata["plain"]), **tensors}.items():
            name, key = label.split("/", 1)
            getattr(trace, name)[_parse_key(key)] = tuple(value) if name == "seen" else value
        return trace

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


def _parse_key(text: str) -> Any:
    """Read a key written by `_key_text`."""
    step, *where = text.split("/")
    if len(where) == 2:
        return int(step), Site(int(where[0]), where[1])
    return (int(step), where[0]) if where else int(step)


_BY_STEP = ("tokens", "canvases", "step_ms")
_BY_SITE = ("scores", "kept", "features", "outputs", "attention", "seen", "sublayer_ms")
