"""Requests: all inputs of a generation except the method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from numbers import Integral
from operator import index
from typing import Any, cast

import torch
from torch import Tensor

from fastvar_lab.draws import Draws, Keyed
from fastvar_lab.errors import short
from fastvar_lab.models.model import Model
from fastvar_lab.sampling import Sampling
from fastvar_lab.scales import whole
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
    prompts: str | int | Sequence[str | int] | Condition,
    *,
    seed: int | Sequence[int] | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    sampling: Sampling | None = None,
    draws: Draws | None = None,
    given: Sequence[Tensor | None] = (),
) -> Request:
    """Build a request from the arguments of `generate`; raise ValueError for invalid ones."""
    texts, condition = _prompts(model, prompts)
    if sampling is not None and not isinstance(sampling, Sampling):
        raise ValueError(f"sampling must be a Sampling, or None for the model's; not {sampling!r}")
    if draws is not None and seed is not None:
        raise ValueError(f"seed {seed!r} and draws {draws!r} both choose the noise; give one")
    request = Request(
        texts,
        model.grids(sizes),
        model.sampling if sampling is None else sampling,
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
    model: Model, prompts: str | int | Sequence[str | int] | Condition
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
        if first.ndim == 0:
            raise ValueError(f"a condition has a row for every picture; not {short(condition)}")
        texts, encoded = tuple(f"condition {i}" for i in range(len(first))), condition
    else:
        texts, encoded = tuple(map(_text, _listed(prompts))), None
        for text in texts:
            model.check(text)
    if not texts:
        raise ValueError("there is no prompt to generate from")
    return texts, encoded


def _listed(prompts: Any) -> Sequence[Any]:
    """Bring one prompt, or several in any collection, to a sequence; a number is a class label."""
    if isinstance(prompts, str | Integral) or getattr(prompts, "ndim", None) == 0:
        return (prompts,)
    try:
        if isinstance(prompts, bytes | Set | Mapping):  # which have another order, or none
            raise TypeError
        return tuple(prompts)
    except TypeError:
        raise ValueError(f"prompts are text or class labels; not {short(prompts)}") from None


def _text(prompt: Any) -> str:
    """Bring a prompt to text; class labels too, which come as numbers of any library."""
    if isinstance(prompt, str):
        return str(prompt)  # numpy's strings are others
    try:
        if isinstance(prompt, bool):
            raise TypeError
        return str(index(prompt))
    except TypeError:
        raise ValueError(f"a prompt is text, or a class label; not {short(prompt)}") from None


def _seeds(seed: int | Sequence[int], n: int) -> tuple[int, ...]:
    """Return a seed for every picture: consecutive numbers from one seed, or the given seeds."""
    try:
        several: tuple[Any, ...] | None = None if isinstance(seed, str) else tuple(cast(Any, seed))
    except TypeError:  # one number; a tensor or array without axes is one too
        several = None
    if several is None:
        first = whole("seed", seed)
        return tuple(first + i for i in range(n))
    seeds = tuple(whole("seed", s) for s in several)
    if len(seeds) != n:
        raise ValueError(f"{n} prompts need as many seeds; not {len(seeds)}")
    return seeds


def _given(tokens: Sequence[Tensor | None], device: torch.device) -> tuple[Tensor, ...]:
    """Move given tokens to a device; raise ValueError for those of a skipped step."""
    if not isinstance(tokens, Iterable):
        raise ValueError(f"given are the tokens of the first steps; not {short(tokens)}")
    given = list[Tensor]()
    for step, drawn in enumerate(tokens):
        if drawn is None:
            raise ValueError(
                f"step {step} of the given tokens was skipped; give the steps before it"
            )
        if not isinstance(drawn, Tensor):
            raise ValueError(f"the tokens given for step {step} are no tensor: {short(drawn)}")
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
