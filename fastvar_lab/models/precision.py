"""The precisions that a model can be set to."""

from __future__ import annotations

from dataclasses import dataclass

PRECISIONS = ("float32", "official")


@dataclass(frozen=True)
class Official:
    """The mixed precision of a family's released scripts, beside autocast itself.

    `stores_blocks`: layers are stored in the autocast type. `rounds_text`: text attention rounds
    to bfloat16, set through the transformer's `round_text_attention`. `latent`: the latent is
    summed in the autocast type.
    """

    stores_blocks: bool = False
    rounds_text: bool = False
    latent: bool = False
