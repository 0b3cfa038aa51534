"""Requests: all inputs of a generation except the method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from numbers import Integral
from operator import index
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvar_lab.backbones.quantize import Quantizer
from fastvar_lab.draws import Draws, Keyed
from fastvar_lab.errors import short
from fastvar_lab.models.model import Model
from fastvar_lab.sampling import Sampling
from fastvar_lab.scales import whole
from fastvar_lab.seam import Grid
from fastvar_lab.tensors import hash_tensors
from fastvar_lab.tokens import has_content

Condition = Tensor | tuple[Tensor, ...]
"""The output of a text encoder: labels (n,), or a named tuple of tensors with n rows."""

Prompts = str | int | Sequence[str | int | None] | Condition | None
"""Prompts as `generate` takes them; None is a class label that is left out, and drawn."""


@dataclass(frozen=True)
class Request:
    """The inputs of a generation except the method; equal requests draw equal noise.

    `given` are the tokens of the first steps, which are then not sampled; with `kept`, one mask
    (n, L) or (1, L) for each of them, only where the mask is True. `negative` are the prompts of
    the null rows, `null` their encoding.
    """

    prompts: tuple[str, ...]
    grids: tuple[Grid, ...]
    sampling: Sampling
    draws: Draws
    condition: Condition | None = field(default=None, compare=False, repr=False)
    given: tuple[Tensor, ...] = field(default=(), compare=False, repr=False)
    negative: tuple[str, ...] = ()
    null: Condition | None = field(default=None, compare=False, repr=False)
    kept: tuple[Tensor, ...] = field(default=(), compare=False, repr=False)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of its draws; empty for draws without seeds."""
        return tuple(getattr(self.draws, "seeds", ()))

    def supplied(self, picture: int | None = None) -> dict[str, Any]:
        """Return what of it is seldom set, as plain values for addresses; tensors as hashes.

        Of one `picture`, or of all.
        """
        held: dict[str, Any] = {}
        if self.negative:
            held["negative"] = self.negative if picture is None else self.negative[picture]
        for name, tensors in (("given", self.given), ("kept", self.kept)):
            if tensors and picture is not None:
                tensors = tuple(t[min(picture, len(t) - 1)] for t in tensors)
            if tensors:
                held[name] = hash_tensors(tensors)
        return held


def make_request(
    model: Model,
    prompts: Prompts,
    *,
    seed: int | Sequence[int] | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    sampling: Sampling | None = None,
    draws: Draws | None = None,
    given: Sequence[Tensor | None] = (),
    keep: Tensor | None = None,
    negative: Prompts = None,
) -> Request:
    """Build a request from the arguments of `generate`; raise ValueError for invalid ones."""
    texts, condition = _prompts(model, prompts)
    if sampling is not None and not isinstance(sampling, Sampling):
        raise ValueError(f"sampling must be a Sampling, or None for the model's; not {sampling!r}")
    if draws is not None and seed is not None:
        raise ValueError(f"seed {seed!r} and draws {draws!r} both choose the noise; give one")
    if draws is not None and (isinstance(draws, type) or not hasattr(draws, "start")):
        raise ValueError(f"draws must be Keyed or Streamed draws, or None; not {short(draws)}")
    grids = model.grids(sizes)
    unwanted, null = _negative(model, negative, len(texts))
    request = Request(
        texts,
        grids,
        model.sampling if sampling is None else sampling,
        draws or Keyed(_seeds(0 if seed is None else seed, len(texts))),
        condition,
        _given(given, model.device),
        unwanted,
        null,
        _kept(keep, grids[: len(given)], len(texts), model.device),
    )
    levels = model.transformer.config.levels
    if len(request.grids) > levels:
        raise ValueError(
            f"{model.name} has level embeddings for {levels} scales; "
            f"the schedule has {len(request.grids)}"
        )
    _check_given(request, model.quantizer)
    model.transformer.check_conditions(request.condition, request.null)
    model.transformer.check_sampling(request.sampling, request.grids)
    if unwanted and not model.transformer.guided(request.sampling):
        raise ValueError(
            f"a negative prompt takes guidance; guidance {request.sampling.guidance} is none"
        )
    return request


def _negative(model: Model, negative: Prompts, n: int) -> tuple[tuple[str, ...], Condition | None]:
    """Return a negative prompt for each picture and None, or names and an encoded condition."""
    if negative is None:
        return (), None
    texts, null = _prompts(model, negative)
    left_out = model.text_encoder.left_out
    if null is None and left_out is not None and left_out in texts:
        raise ValueError(f"a negative prompt names a class; {left_out!r} draws one")
    if null is not None:  # named by its content, for addresses
        parts = (null,) if isinstance(null, Tensor) else null
        texts = tuple(
            f"condition {hash_tensors([part[i] for part in parts])}" for i in range(len(texts))
        )
    if len(texts) == 1 < n:
        texts, null = texts * n, None if null is None else repeated(null, n)
    if len(texts) != n:
        raise ValueError(f"{n} prompts take 1 or {n} negative prompts; not {len(texts)}")
    return texts, null


def _kept(
    keep: Tensor | None, grids: Sequence[Grid], n: int, device: torch.device
) -> tuple[Tensor, ...]:
    """Resize a mask to the map of each step: True (1, L) or (n, L) where given tokens are kept.

    Bilinear, above one half; maps of up to three tokens are kept whole. Source: released VAR,
    zero-shot editing.
    """
    if keep is None:
        return ()
    try:
        mask = torch.as_tensor(keep)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"keep is a mask (h, w) of a step's map; not {short(keep)}") from None
    if mask.ndim not in (2, 3) or (mask.ndim == 3 and len(mask) not in (1, n)):
        raise ValueError(
            f"keep is a mask (h, w), or ({n}, h, w) with one for each picture; "
            f"not of shape {tuple(mask.shape)}"
        )
    if not grids:
        raise ValueError("keep says which given tokens stay; no tokens are given")
    shares = mask.to(device, torch.float32).reshape(-1, 1, *mask.shape[-2:])
    return tuple(
        shares.new_ones((len(shares), grid.h * grid.w), dtype=torch.bool)
        if grid.h * grid.w <= 3
        else (F.interpolate(shares, size=(grid.h, grid.w), mode="bilinear") > 0.5).flatten(1)
        for grid in grids
    )


def _prompts(model: Model, prompts: Prompts) -> tuple[tuple[str, ...], Condition | None]:
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
        if prompts is None:
            prompts = cast(Any, (None,))
        left_out = model.text_encoder.left_out
        texts, encoded = tuple(prompt_text(p, left_out) for p in _listed(prompts)), None
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


def prompt_text(prompt: Any, left_out: str | None = None) -> str:
    """Bring a prompt to text; class labels too, which come as numbers of any library.

    None is the label that is left out, and drawn, if the model has labels. Raises ValueError for
    anything else.
    """
    if prompt is None and left_out is not None:
        return left_out
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


def _check_given(request: Request, quantizer: Quantizer) -> None:
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
        if has_content(tokens) and (expected := _unfit(tokens, quantizer)):
            raise ValueError(
                f"the tokens given for step {grid.index} must be {expected}; not {tokens.dtype} of "
                f"shape {tuple(tokens.shape)}{_range(tokens)}"
            )


def _unfit(tokens: Tensor, quantizer: Quantizer) -> str:
    """Say what tokens (n, L, ...) must be, if they are not: bits, rows of a codebook or codes."""
    book, shape = quantizer.codebook, tuple(tokens.shape[:2])
    if book is None:
        bits = (*shape, quantizer.channels * quantizer.patch**2)
        whole = not tokens.is_floating_point() and not tokens.is_complex()
        fits = whole and tokens.shape == bits and bool(((tokens == 0) | (tokens == 1)).all())
        return "" if fits else f"bits of shape {bits}"
    rows, width = book.shape
    if tokens.is_floating_point():
        fits = tokens.shape == (*shape, width)
    else:
        fits = tokens.dtype in (torch.int32, torch.int64) and tokens.shape == shape
        fits = fits and bool(((tokens >= 0) & (tokens < rows)).all())
    codes = (*shape, width)
    return "" if fits else f"int64 rows 0 to {rows - 1} of shape {shape}, or codes of shape {codes}"


def _range(tokens: Tensor) -> str:
    """Write the range of whole numbers."""
    if tokens.is_floating_point() or tokens.is_complex() or not tokens.numel():
        return ""
    return f" in {int(tokens.min())} to {int(tokens.max())}"


def repeated(condition: Condition, n: int) -> Condition:
    """Repeat an encoded condition of one row to n rows."""
    if isinstance(condition, Tensor):
        return condition.repeat(n)
    return type(condition)(*(part.repeat(n, *[1] * (part.ndim - 1)) for part in condition))


def to_device(condition: Condition, device: torch.device) -> Condition:
    """Move an encoded condition to a device."""
    if isinstance(condition, Tensor):
        return condition.to(device)
    return type(condition)(*(part.to(device) for part in condition))
