"""Requests: all inputs of a generation except the method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Any, cast

import torch
from torch import Tensor

from fastvar_lab.draws import Draws, Keyed
from fastvar_lab.models.model import Model
from fastvar_lab.sampling import Sampling
from fastvar_lab.seam import Grid

Condition = Tensor | tuple[Tensor, ...]
"""The output of a text encoder: labels (n,), or a named tuple of tensors with n rows."""


@dataclass(frozen=True)
class Request:
    """The inputs of a generation except the method; equal requests draw equal noise.

    `given` are the tokens of the first steps, which are then not sampled.
    """

    prompts: tuple[str, ...]
    grids: tuple[Grid, ...]
    sampling: Sampling
    draws: Draws
    condition: Condition | None = field(default=None, compare=False, repr=False)
    given: tuple[Tensor, ...] = field(default=(), compare=False, repr=False)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of its draws; empty for draws without seeds."""
        return tuple(getattr(self.draws, "seeds", ()))


def make_request(
    model: Model,
    prompts: str | Sequence[str] | Condition,
    *,
    seed: int | Sequence[int] | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    sampling: Sampling | None = None,
    draws: Draws | None = None,
    given: Sequence[Tensor | None] = (),
) -> Request:
    """Build a request from the arguments of `generate`; raise ValueError for invalid ones."""
    texts, condition = _prompts(model, prompts)
    if draws is not None and seed is not None:
        raise ValueError(f"seed {seed!r} and draws {draws!r} both choose the noise; give one")
    request = Request(
        texts,
        model.grids(sizes),
        sampling or model.sampling,
        draws or Keyed(_seeds(0 if seed is None else seed, len(texts))),
        condition,
        _given(given, model.device),
    )
    levels = model.transformer.config.levels
    if len(request.grids) > levels:
        raise ValueError(
            f"{model.name} has level embeddings for {levels} scales; "
            f"the schedule has {len(request.grids)}"
        )
    _check_given(request)
    return request


def _prompts(
    model: Model, prompts: str | Sequence[str] | Condition
) -> tuple[tuple[str, ...], Condition | None]:
    """Return prompts and None, or for an encoded condition numbered names and the condition."""
    if isinstance(prompts, Tensor) or hasattr(prompts, "_fields"):
        condition, expected = cast(Condition, prompts), model.transformer.condition
        if not isinstance(condition, expected):
            raise ValueError(
                f"{model.name} is conditioned on a {expected.__name__} or on prompts; "
                f"not on a {type(condition).__name__}"
            )
        first = condition if isinstance(condition, Tensor) else condition[0]
        texts, encoded = tuple(f"condition {i}" for i in range(len(first))), condition
    else:
        lines = cast(str | Sequence[str], prompts)
        texts, encoded = (lines,) if isinstance(lines, str) else tuple(lines), None
        for text in texts:
            model.check(text)
    if not texts:
        raise ValueError("there is no prompt to generate from")
    return texts, encoded


def _seeds(seed: int | Sequence[int], n: int) -> tuple[int, ...]:
    """Return a seed for every picture: consecutive numbers from one seed, or the given seeds."""
    try:
        first = index(cast(Any, seed))
    except TypeError:
        seeds = tuple(index(s) for s in cast(Sequence[int], seed))
    else:
        seeds = tuple(first + i for i in range(n))
    if len(seeds) != n:
        raise ValueError(f"{n} prompts need as many seeds; not {len(seeds)}")
    return seeds


def _given(tokens: Sequence[Tensor | None], device: torch.device) -> tuple[Tensor, ...]:
    """Move given tokens to a device; raise ValueError for those of a skipped step."""
    given = list[Tensor]()
    for step, drawn in enumerate(tokens):
        if drawn is None:
            raise ValueError(
                f"step {step} of the given tokens was skipped; give the steps before it"
            )
        given.append(drawn.to(device))
    return tuple(given)


def _check_given(request: Request) -> None:
    """Raise ValueError for given tokens that do not match the first steps."""
    if len(request.given) > len(request.grids):
        raise ValueError(
            f"tokens of {len(request.given)} steps are given for a schedule of {len(request.grids)}"
        )
    for grid, tokens in zip(request.grids, request.given):
        shape = (len(request.prompts), grid.h * grid.w)
        if tokens.shape[:2] != shape:
            raise ValueError(
                f"the tokens given for step {grid.index} must have the shape {shape}, followed "
                f"by bits or codes; not {tuple(tokens.shape)}"
            )


def to_device(condition: Condition, device: torch.device) -> Condition:
    """Move an encoded condition to a device."""
    if isinstance(condition, Tensor):
        return condition.to(device)
    return type(condition)(*(part.to(device) for part in condition))
