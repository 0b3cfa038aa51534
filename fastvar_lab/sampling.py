"""Sampling from logits: guidance, temperature, top-k and top-p."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastvar_lab.draws import Stream


@dataclass(frozen=True)
class Sampling:
    """The sampling of tokens: guidance scale, temperature, nucleus mass `top_p`, and `top_k`.

    Null rows do not run at `guidance` 1 for bits, and at 0 for a codebook. `top_p` 1 and `top_k` 0
    cut nothing. `smooth` draws mixtures of codebook rows (`more_smooth` in the released code).
    """

    guidance: float = 3.0
    temperature: float = 1.0
    top_p: float = 0.97
    top_k: int = 0
    smooth: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.guidance < math.inf:
            raise ValueError(f"guidance must be 0 or more, and finite; not {self.guidance}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be above 0, and finite; not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1]; not {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 or more; not {self.top_k}")


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
