"""Stand-ins for the parts that a model was opened without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fastvar_lab.backbones.autoencoder import AutoEncoder
from fastvar_lab.backbones.protocol import ConditionEncoder


class NoText(ConditionEncoder):
    """Stands where no text encoder was opened: conditions come encoded."""

    def __init__(self, model: str, wanted: str = "", advice: str = "") -> None:
        super().__init__()
        self.model, self.wanted = model, wanted  # no `config`: where it lies is no part of a model
        self.advice = advice

    def encode(self, prompts: Sequence[str]) -> Any:
        """Refuse, saying what was looked for."""
        looked = f" ({self.wanted} is not there)" if self.wanted else ""
        raise ValueError(
            f"{self.model} has no text encoder here{looked}; pass encoded prompts instead of words"
            f"{self.advice}"
        )


class NoAutoEncoder(AutoEncoder):
    """Stands where no autoencoder was opened: latents stay latents."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def decode(self, latent: Tensor) -> Tensor:
        """Refuse."""
        raise ValueError("this model was built without an autoencoder; its latents stay latents")

    def encode(self, pictures: Tensor) -> Tensor:
        """Refuse."""
        raise ValueError("this model was built without an autoencoder; it encodes no pictures")
