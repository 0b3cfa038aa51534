"""VAR-Q: keys and values are quantised to a few bits before they are cached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fastvar_lab.methods.registry import method
from fastvar_lab.methods.spaces import Subject, space
from fastvar_lab.seam import Act, Grid, Rows, Runner, Site
from fastvar_lab.tokens import wide


@method
@dataclass(frozen=True)
class QuantKV:
    """Quantise keys and values of every step to signed integers of `bits`, and read them back.

    Each step has one scale for each row, head and channel: max |x| over its tokens divided by
    2^(bits - 1) - 1. A step also reads its own keys and values as they are after quantisation.
    Without `last`, the last step's, which no later step reads, keep their precision.

    Source: released code lujiaji/VAR-Q (no paper), grouping G_SCALE_HEAD_DIM, its default; scale
    and rounding equal those of the code at a120ed73 bit by bit for one row. Departure: the code
    takes the maximum over the batch too, guidance rows included, so that pictures change with
    their company. Here values are rounded, but stored as before: it has the quality of the method,
    not its memory or speed, and its authors measure it slower. `held_bytes` computes the memory.

    >>> QuantKV(bits=4).levels
    7
    """

    family: ClassVar[str] = "VAR-Q"
    bits: int = 8
    last: bool = True

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"bits must lie in 2 to 8; not {self.bits}")

    @property
    def levels(self) -> int:
        """The largest integer of a code."""
        return 2 ** (self.bits - 1) - 1

    def held_bytes(
        self,
        grids: Sequence[Grid],
        depth: int,
        heads: int,
        head_dim: int,
        rows: int = 2,
        itemsize: int = 4,
    ) -> list[int]:
        """Return the bytes of packed codes and float32 scales before each step.

        `itemsize`, the bytes of an unquantised value, decides nothing here.

        The released code packs 8, 4 and 2 bits only, and repeats the scales, one for all rows, for
        every token: 4 * T * depth * heads * head_dim bytes each for keys and for values, as much as
        the unquantised cache of two rows in half precision.
        """
        channels, out = 2 * depth * heads * head_dim * rows, []
        for step in range(len(grids)):
            tokens = sum(grid.tokens for grid in grids[:step])
            out.append(channels * (tokens * self.bits + 32 * step) // 8)
        return out

    def acts(self, grids: Sequence[Grid]) -> tuple[Act, ...]:
        rounded = Act(Rows.BOTH, (type(self), self.bits))
        whole = () if self.last else (Act(Rows.BOTH, (type(self), self.bits, "last")),)
        return (rounded,) * (len(grids) - len(whole)) + whole

    def cache_index(self, grids: Sequence[Grid]) -> int | None:
        return None

    def stateful_from(self, grids: Sequence[Grid]) -> int:
        """Return the number of steps: its runner carries nothing from step to step."""
        return len(grids)

    def start(
        self,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor] | None = None,
    ) -> Runner:
        return QuantKVRunner(self, grids)


class QuantKVRunner(Runner):
    """One generation under `QuantKV`: rounds the keys and values of a step when they are read."""

    def __init__(self, method: QuantKV, grids: Sequence[Grid]) -> None:
        self.method, self.grids = method, grids

    def reads(
        self,
        site: Site,
        grid: Grid,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        scale: float = 1.0,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        last = grid.index == len(self.grids) - 1
        if site.kind == "attn" and (self.method.last or not last):
            for cached in (k, v):  # views of the cache: later steps read what is written here
                new = cached[:, :, -grid.tokens :]
                new.copy_(quantised(new, self.method.bits))
        return k, v, mask


def quantised(x: Tensor, bits: int) -> Tensor:
    """Round x (B, H, K, c) to signed integers of `bits`, with a scale by row, head and channel."""
    most = 2 ** (bits - 1) - 1
    scale = (wide(x).abs().amax(dim=2, keepdim=True) / most).clamp_min(1e-12)
    return ((wide(x) / scale).round().clamp(-most - 1, most) * scale).to(x.dtype)


@space(
    "VAR-Q", "cache", lambda subject: (QuantKV(8), QuantKV(4), QuantKV(2)),
    bits=(8, 7, 6, 5, 4, 3, 2), last=(False, True),
)  # fmt: skip
def _varq(subject: Subject, bits: int, last: bool) -> QuantKV:
    return QuantKV(bits, last)
