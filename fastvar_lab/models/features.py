"""Prompt features on disk: computed once, read without the text encoder in memory.

A file names the encoder that computed it: class, configuration, and the hash of its weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fastvar_lab.backbones.hart import Context
from fastvar_lab.backbones.infinity import Text
from fastvar_lab.backbones.protocol import ConditionEncoder
from fastvar_lab.errors import short
from fastvar_lab.files import digest, expanded
from fastvar_lab.files import folder as writable
from fastvar_lab.models.stamps import Identity
from fastvar_lab.tensors import read_tensors, write_tensors

Row = dict[str, Tensor]
"""The features (T, D) of one prompt, without padding; of a Context also its positions (T,)."""


def row_of(encoder: ConditionEncoder, prompt: str) -> Row:
    """Encode one prompt, to tensors on the host."""
    encoded = encoder.encode([prompt])
    if isinstance(encoded, Context):
        row = {"features": encoded.features[0], "positions": encoded.positions[0]}
    else:
        row = {"features": encoded.features[0][encoded.mask[0]]}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in row.items()}


def joined(rows: Sequence[Row], device: torch.device) -> Text | Context:
    """Join the features of several prompts, padded to the longest, on a device."""
    features = torch.nn.utils.rnn.pad_sequence(
        [row["features"] for row in rows], batch_first=True
    ).to(device)
    if "positions" in rows[0]:
        return Context(features, torch.stack([row["positions"] for row in rows]).to(device))
    lengths = torch.tensor([len(row["features"]) for row in rows], device="cpu")
    mask = torch.arange(features.shape[1], device="cpu") < lengths.unsqueeze(1)
    return Text(features, mask.to(device))


def encoder_name(encoder: ConditionEncoder, identity: Identity | None = None) -> str:
    """Name an encoder by its class, configuration, and the hash of all that it computes with."""
    weights = (identity or Identity([encoder])).of((encoder,))
    return f"{type(encoder).__name__} {getattr(encoder, 'config', None)!r} {weights}"


def text_label(encoder: ConditionEncoder) -> str:
    """Name what encoded, or encodes, a model's prompts: the same whether it is still there."""
    if isinstance(encoder, EncodedPrompts):
        return encoder.config
    if isinstance(encoder, StoredFeatures):
        return str(encoder.config) if encoder.encoder is None else encoder_name(encoder.encoder)
    return encoder_name(encoder)


class EncodedPrompts(ConditionEncoder):
    """Stands in for a text encoder that has encoded all prompts, and takes no memory any more.

    `config` names the encoder, so that a model's results depend on it as before.
    """

    def __init__(self, rows: Mapping[str, Row], config: str) -> None:
        super().__init__()
        self.config = config
        self._rows = dict(rows)
        self.register_buffer("where", torch.zeros(1), persistent=False)

    @property
    def encoded_prompts(self) -> tuple[str, ...]:
        return tuple(self._rows)

    def encode(self, prompts: Sequence[str]) -> Text | Context:
        """Look the features of prompts up; raise ValueError for one that was not encoded."""
        for prompt in prompts:
            if prompt not in self._rows:
                raise ValueError(
                    f"the text encoder was freed when it had encoded {len(self._rows)} prompts; "
                    f"{short(repr(prompt))} is none of them"
                )
        return joined([self._rows[prompt] for prompt in prompts], self.get_buffer("where").device)


class StoredFeatures(ConditionEncoder):
    """Caches features of prompts in a folder, one safetensors file each.

    `encoder` computes what is missing, and what another encoder, or the same with other weights,
    had computed; without one a missing prompt is an error that says so. A folder that cannot be
    written is read all the same. Files carry a checksum; older ones, without it or without the hash
    of the encoder's weights, open without an encoder.
    Text (features, mask) and Context (features, positions) are told apart by what a file holds.

    With an encoder every call of `encode` sums up its weights: 4 GB a second on one CPU core. The
    first call hashes them, at 0.5 to 2 GB/s.
    """

    def __init__(self, folder: str | Path, encoder: ConditionEncoder | None = None) -> None:
        super().__init__()
        self.folder, self.encoder = expanded(folder), encoder
        self._identity = Identity([] if encoder is None else [encoder])
        self._listed: tuple[int, str] = (-1, "")  # the folder's time stamp, the encoders in it
        self.register_buffer("where", torch.zeros(1), persistent=False)

    @property
    def config(self) -> object:
        """What a model's results depend on: the encoder's configuration, or all that were used."""
        if self.encoder is not None:
            return getattr(self.encoder, "config", None)
        changed = self.folder.stat().st_mtime_ns if self.folder.is_dir() else 0
        if self._listed[0] != changed:
            names = {_encoder_of(path) for path in self.folder.glob("*.safetensors")}
            self._listed = changed, ", ".join(sorted(names))
        return self._listed[1]

    @property
    def encoded_prompts(self) -> tuple[str, ...]:
        """The prompts whose features are in the folder, if no encoder computes others."""
        if self.encoder is not None:
            return ()
        files = self.folder.glob("*.safetensors")
        return tuple(sorted(filter(None, (_metadata(path).get("prompt", "") for path in files))))

    def path(self, prompt: str) -> Path:
        """Return the file of a prompt."""
        return self.folder / f"{digest(prompt, length=24)}.safetensors"

    def encode(self, prompts: Sequence[str]) -> Text | Context:
        """Read the features of prompts, or compute and store them."""
        kept = self.rows(prompts)
        if len({(*k, k["features"].shape[1]) for k in kept}) > 1:
            raise ValueError(f"{self.folder} holds features of several encoders; give them apart")
        return joined(kept, self.get_buffer("where").device)

    def rows(self, prompts: Sequence[str]) -> list[Row]:
        """Read the features of prompts one by one, or compute and store them."""
        name = self._encoder_name()
        return [self._row_of(prompt, name) for prompt in prompts]

    def _row_of(self, prompt: str, name: str) -> dict[str, Tensor]:
        path = self.path(prompt)
        if path.exists():
            try:
                kept, metadata = read_tensors(path)
                _check(kept)
            except ValueError as error:  # computed again if there is an encoder
                if self.encoder is None:
                    raise ValueError(f"cannot read the features {path}: {error}") from None
            else:
                same = self.encoder is None or metadata.get("encoder") == name
                if same and metadata.get("prompt") == prompt:
                    return kept
        if self.encoder is None:
            raise ValueError(
                f"{self.folder} has no features of {short(repr(prompt))}, and no encoder is here"
            )
        kept = row_of(self.encoder, prompt)
        try:
            writable(self.folder)
            write_tensors(path, kept, {"prompt": prompt, "encoder": name})
        except OSError as error:  # what was computed is used all the same
            warnings.warn(f"features are not kept: {short(error, 200)}", stacklevel=2)
        return kept

    def _encoder_name(self) -> str:
        """Name the encoder in files: by its class, and the hash of all that it computes with."""
        return "" if self.encoder is None else encoder_name(self.encoder, self._identity)


def _metadata(path: Path) -> dict[str, str]:
    """Read what a file says of itself; nothing for a damaged one."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def _encoder_of(path: Path) -> str:
    """Read the encoder that a file names; its name and length for a damaged one."""
    try:
        with safe_open(path, framework="pt") as file:
            return str((file.metadata() or {}).get("encoder"))
    except (OSError, SafetensorError):
        return f"{path.name} of {path.stat().st_size} bytes"


def _check(kept: Mapping[str, Tensor]) -> None:
    """Raise ValueError for tensors that are not the features of one prompt."""
    features, positions = kept.get("features"), kept.get("positions")
    if features is None or len(kept) != 1 + (positions is not None):
        raise ValueError(f"it holds {', '.join(map(short, list(kept)[:3])) or 'nothing'}")
    if features.ndim != 2 or features.numel() == 0 or not features.is_floating_point():
        raise ValueError(f"its features have shape {short(tuple(features.shape))}")
    if positions is None:
        return
    if positions.shape != features.shape[:1] or positions.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"its positions have shape {short(tuple(positions.shape))}")
