"""Metrics that networks compute: of a picture beside its reference, or of a picture and its prompt.

They are opened from a collection (`fastvar-lab networks`) when first used; values are addressed by
the hash of the network's weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # the registry of metrics needs no torch
    from torch import Tensor


def _network(name: str, networks: str | None, device: str | None) -> Any:
    import torch

    from fastvar_lab.networks.collection import open_network

    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return open_network(name, networks, where)


@dataclass(frozen=True)
class Learned:
    """A network of a collection, on a device; without one on a GPU if there is one."""

    network: str
    networks: str | None = None
    device: str | None = None

    @property
    def fingerprint(self) -> str:
        """The hash of the network; raises WeightsError if it is not there."""
        from fastvar_lab.networks.collection import fingerprint

        return fingerprint(self.network, self.networks)

    def open(self) -> Any:
        return _network(self.network, self.networks, self.device)


@dataclass(frozen=True)
class Perceptual(Learned):
    """A picture beside its reference: LPIPS, or the cosine of the features of CLIP or DINO."""

    def __call__(self, picture: np.ndarray, reference: np.ndarray) -> float:
        network = self.open()
        if self.network != "lpips":
            one, other = network.pictures([picture, reference])
            return float((one * other).sum())
        one, other = (_as_tensor(x, network) for x in (picture, reference))
        return float(network(one, other))


@dataclass(frozen=True)
class Alignment(Learned):
    """A picture and its prompt: 100 x the cosine of CLIP or HPSv2.1, or ImageReward's reward."""

    def __call__(self, picture: np.ndarray, reference: np.ndarray, item: Any) -> float:
        network = self.open()
        if self.network == "imagereward":
            return float(network.score([item.prompt], [picture]))
        text = _text(self.network, self.networks, self.device, item.prompt)
        return 100 * float((network.pictures([picture])[0] * text).sum())


def _as_tensor(picture: np.ndarray, network: Any) -> Tensor:
    import torch

    device = next(network.parameters()).device
    return torch.from_numpy(picture.transpose(2, 0, 1)[None] / np.float32(255)).to(device)


@lru_cache(maxsize=512)
def _text(name: str, networks: str | None, device: str | None, prompt: str) -> Tensor:
    return _network(name, networks, device).texts([prompt])[0]
