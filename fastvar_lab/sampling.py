"""Sampling from logits: guidance, temperature, top-k and top-p."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastvar_lab.draws import Stream
from fastvar_lab.errors import short
from fastvar_lab.scales import whole
from fastvar_lab.values import Shown, optional

ByScale = float | tuple[float, ...]
"""A number for all scale steps, or a list of one number for each."""


@dataclass(frozen=True, repr=False)
class Sampling(Shown):
    """The sampling of tokens: guidance scale, temperature, nucleus mass `top_p`, and `top_k`.

    Null rows do not run at `guidance` 1 for bits, and at 0 for a codebook. `top_p` 1 and `top_k` 0
    cut nothing. `smooth` draws mixtures of codebook rows (`more_smooth` in the released code).

    `guidance` and `temperature` may be lists with a value for each scale step (released Infinity:
    `cfg_list`, `tau_list`). A codebook's single guidance scale is the end of a ramp (see `ramp`);
    the values of a list are used as they are. `guidance_layer` -k applies guidance to the output
    of layer depth - k instead of the logits (released Infinity: `cfg_insertion_layer`).

    HART's last scale is drawn in `mask_iterations` forwards over random parts of its map
    (`num_maskgit_iters`). Without `residuals`, its tokens are codebook rows alone, as in the
    released code with a `final_stage` other than 0.

    >>> Sampling(guidance=[1, 2.0, 3.0])
    Sampling(guidance=(1.0, 2.0, 3.0), temperature=1.0, top_p=0.97, top_k=0, smooth=False)
    """

    guidance: ByScale = 3.0
    temperature: ByScale = 1.0
    top_p: float = 0.97
    top_k: int = 0
    smooth: bool = False
    guidance_layer: int = optional(0)
    mask_iterations: int = optional(1)
    residuals: bool = optional(True)

    def __post_init__(self) -> None:
        plain = {name: _by_scale(name, getattr(self, name)) for name in ("guidance", "temperature")}
        plain["top_p"] = _number("top_p", self.top_p)
        plain["top_k"] = whole("top_k", self.top_k)
        plain["guidance_layer"] = whole("guidance_layer", self.guidance_layer)
        plain["mask_iterations"] = whole("number of mask iterations", self.mask_iterations)
        for name, value in plain.items():  # equal settings are written, and so addressed, alike
            object.__setattr__(self, name, value)
        for value in self.guidances:
            if not 0 <= value < math.inf:
                raise ValueError(f"guidance must be 0 or more, and finite; not {value}")
        for value in self.temperatures:
            if not 0 < value < math.inf:
                raise ValueError(f"temperature must be above 0, and finite; not {value}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1]; not {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 or more; not {self.top_k}")
        if self.guidance_layer > 0:
            raise ValueError(
                "guidance_layer must be 0 (the logits), or below 0, counted from the last layer; "
                f"not {self.guidance_layer}"
            )
        if self.mask_iterations < 1:
            raise ValueError(f"mask_iterations must be 1 or more; not {self.mask_iterations}")

    @property
    def guidances(self) -> tuple[float, ...]:
        """All values of the guidance scale: a list's, or the single one."""
        return self.guidance if isinstance(self.guidance, tuple) else (self.guidance,)

    @property
    def temperatures(self) -> tuple[float, ...]:
        """All values of the temperature: a list's, or the single one."""
        return self.temperature if isinstance(self.temperature, tuple) else (self.temperature,)

    def guidance_at(self, step: int) -> float:
        """Return the guidance scale of a step; a single one is that of all steps."""
        return self.guidance[step] if isinstance(self.guidance, tuple) else self.guidance

    def temperature_at(self, step: int) -> float:
        """Return the temperature of a step; a single one is that of all steps."""
        return self.temperature[step] if isinstance(self.temperature, tuple) else self.temperature

    def check_steps(self, steps: int) -> None:
        """Raise ValueError for lists of another length than the schedule."""
        for name, value in (("guidance", self.guidance), ("temperature", self.temperature)):
            if isinstance(value, tuple) and len(value) != steps:
                raise ValueError(
                    f"a list of {name} has a value for each of the {steps} scale steps; "
                    f"not {len(value)}"
                )


def _by_scale(name: str, value: Any) -> ByScale:
    """Bring a number, or a list of numbers, of any library to floats."""
    if isinstance(value, int | float | str | bytes) or getattr(value, "ndim", 1) == 0:
        return _number(name, value)
    try:
        numbers = tuple(_number(name, v) for v in value)
    except TypeError:
        raise _no_number(name, value) from None
    if not numbers:
        raise ValueError(f"a list of {name} has a value for each scale step; it is empty")
    return numbers


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, str | bytes | bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise _no_number(name, value) from None


def _no_number(name: str, value: object) -> ValueError:
    lists = "" if name == "top_p" else ", or a list with one for each scale step"
    return ValueError(f"{name} must be a number{lists}; not {short(value)}")


def ramp(end: float, steps: int, hold: int = 0) -> tuple[float, ...]:
    """Return guidance scales that grow linearly from 0 at the first of `steps` steps to `end`.

    The last `hold` steps keep the value of the step before them. VAR's guidance is
    `ramp(guidance, 10)`, HART's `ramp(guidance, 14, hold=1)`.

    >>> ramp(4.0, 5), ramp(4.0, 5, hold=1)
    ((0.0, 1.0, 2.0, 3.0, 4.0), (0.0, 1.0, 2.0, 3.0, 3.0))
    """
    shares = (min(step, max(0, steps - 1 - hold)) / max(1, steps - 1) for step in range(steps))
    return tuple(end * share for share in shares)


def guide(logits: Tensor, scale: float) -> Tensor:
    """Apply classifier-free guidance: logits (2n, ...), conditional rows first -> (n, ...).

    `scale * cond + (1 - scale) * null`, Infinity's constant form.
    """
    cond, null = logits.chunk(2)
    return scale * cond + (1 - scale) * null


def draw_rows(
    logits: Tensor,
    step: int,
    ratio: float,
    smooth: bool,
    draws: Stream,
    codebook: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Draw codebook rows (n, L) from logits (n, L, V), and return them with their codes.

    The codes are the rows again or, if `smooth`, mixtures (n, L, d) of codebook rows, weighted by
    a Gumbel softmax that sharpens as `ratio` goes from 0 to 1. The logits are those after top-k
    and top-p. Source: released VAR and HART code, which also draw the rows before the mixtures.
    """
    rows = draws.pick(step, logits.softmax(-1))
    if not smooth:
        return rows, rows
    if codebook is None:
        raise ValueError("smooth sampling mixes codebook rows; this model draws bits")
    noise = -draws.exponential(step, tuple(logits.shape[1:]), logits.dtype).log()
    tau = max(0.27 * (1 - 0.95 * ratio), 0.005)
    mixed = ((logits * (1 + ratio) + noise) / tau).softmax(-1)
    return rows, mixed @ codebook.to(mixed.dtype)


def bit_probabilities(logits: Tensor, top_p: float) -> Tensor:
    """Return the softmax over (..., 2), without bit values of probability <= 1 - top_p.

    This is the released top-p for two outcomes; the likelier value always stays.
    """
    p = logits.softmax(-1)
    if top_p == 1:
        return p
    # two equal probabilities: both stay or, for top_p below 0.5, the second alone
    rare = p.amin(-1, keepdim=True) <= 1 - top_p
    second = p[..., 1:] >= p[..., :1]
    likely = torch.cat((~second, second), dim=-1).to(p.dtype)
    return torch.where(rare, likely, p)


def cut(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Set unlikely logits (..., V) to -inf as the released code does: first top-k, then top-p.

    Ties at the k-th largest logit stay. Outcomes whose ascending cumulative probability is at most
    1 - top_p are dropped, except the likeliest.
    """
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
        logits = logits.masked_fill(logits < least, float("-inf"))
    if top_p < 1:
        ordered, order = logits.sort(dim=-1)
        drop = ordered.softmax(-1).cumsum(-1) <= 1 - top_p
        drop[..., -1] = False
        logits = logits.masked_fill(drop.scatter(-1, order, drop), float("-inf"))
    return logits
