"""Prompt features on disk: computed once, read without the text encoder in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fastvar_lab.backbones.hart import Context
from fastvar_lab.backbones.infinity import Text
from fastvar_lab.backbones.protocol import ConditionEncoder
from fastvar_lab.files import folder as writable
from fastvar_lab.files import write


class StoredFeatures(ConditionEncoder):
    """Caches features of prompts in a folder, one safetensors file each.

    `encoder` computes what is missing, and what another encoder had computed; without one a
    missing prompt is an error that says so.
    Text (features, mask) and Context (features, positions) are told apart by what a file holds.
    """

    def __init__(self, folder: str | Path, encoder: ConditionEncoder | None = None) -> None:
        super().__init__()
        self.folder, self.encoder = Path(folder), encoder
        self.config = None if encoder is None else getattr(encoder, "config", None)
        self.register_buffer("where", torch.zeros(1), persistent=False)

    def path(self, prompt: str) -> Path:
        """Return the file of a prompt."""
        return self.folder / f"{hashlib.sha256(prompt.encode()).hexdigest()[:24]}.safetensors"

    def encode(self, prompts: Sequence[str]) -> Text | Context:
        """Read the features of prompts, or compute and store them."""
        kept = [self._one(prompt) for prompt in prompts]
        device = self.get_buffer("where").device
        features = torch.nn.utils.rnn.pad_sequence(
            [f["features"] for f in kept], batch_first=True
        ).to(device)
        if "positions" in kept[0]:
            return Context(features, torch.stack([f["positions"] for f in kept]).to(device))
        lengths = torch.tensor([len(f["features"]) for f in kept], device="cpu")
        mask = torch.arange(features.shape[1], device="cpu") < lengths.unsqueeze(1)
        return Text(features, mask.to(device))

    def _one(self, prompt: str) -> dict[str, Tensor]:
        path, metadata = self.path(prompt), {"prompt": prompt, "encoder": repr(self.config)}
        if path.exists():
            expected = metadata if self.encoder is not None else {"prompt": prompt}
            try:
                with safe_open(path, framework="pt") as file:
                    if expected.items() <= (file.metadata() or {}).items():
                        return {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
            except SafetensorError:
                pass  # damaged: computed again
        if self.encoder is None:
            raise ValueError(f"{self.folder} has no features of {prompt!r}, and no encoder is here")
        encoded = self.encoder.encode([prompt])
        if isinstance(encoded, Context):
            kept = {"features": encoded.features[0], "positions": encoded.positions[0]}
        else:
            kept = {"features": encoded.features[0][encoded.mask[0]]}
        kept = {k: v.detach().cpu().contiguous() for k, v in kept.items()}
        writable(self.folder)
        write(path, lambda partial: save_file(kept, partial, metadata=metadata))
        return kept
