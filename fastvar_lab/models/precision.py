"""The types a model can be set to compute in."""

from __future__ import annotations

from dataclasses import dataclass

PRECISIONS = ("float32", "official")


@dataclass(frozen=True)
class Official:
    """How a family's released scripts mix precisions, beside running under autocast.

    `stores_blocks`: the layers are stored in the type of autocast. `rounds_text`: text attention
    rounds to bfloat16, through the transformer's `round_text_attention`. `latent`: the latent is
    added up in the type of autocast.
    """

    stores_blocks: bool = False
    rounds_text: bool = False
    latent: bool = False
