"""Files of tensors: safetensors, written whole with a checksum, and refused in one sentence."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fastvar_lab.errors import short
from fastvar_lab.files import digest_of, other_kind, write

CHECKSUM = "sha256"  # the entry of the metadata


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Hash names, types, shapes and contents of tensors, and the metadata beside them.

    SHA-256 runs at 0.5 to 2 GB/s on one core: 20 to 60 ms for the shipped model's weights.
    """

    def parts() -> Iterator[str | memoryview]:
        yield json.dumps({k: v for k, v in metadata.items() if k != CHECKSUM}, sort_keys=True)
        for name, tensor in sorted(tensors.items()):
            yield json.dumps([name, str(tensor.dtype), list(tensor.shape)])
            content: Any = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            yield memoryview(content)

    return digest_of(parts())


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors and metadata to one safetensors file with their checksum, all or nothing.

    Raises OSError if that cannot be.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = dict(metadata or {})
    content[CHECKSUM] = checksum(stored, content)

    def save(partial: Path) -> None:
        partial.touch()
        rights = stat.S_IMODE(partial.stat().st_mode)  # those of any new file
        save_file(stored, partial, metadata=content)
        with suppress(OSError):  # a disk without rights
            partial.chmod(rights)  # safetensors lets the owner alone read its files

    try:
        write(path, save)
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {short(error, 160)}") from None


def read_tensors(path: Path, at_once: int = 16) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and metadata of a safetensors file; check them if it has our checksum.

    A file without one opens unchecked: older ones of this library, and those of others. The file is
    mapped anew for every few tensors, so that its pages can go and the tensors are held once.

    Raises ValueError, which says what is wrong with the file but does not name it.
    """
    try:
        kind = other_kind(path)
        if kind is not None:
            raise ValueError(f"it is {kind}")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
        tensors = dict[str, Tensor]()
        for first in range(0, len(names), at_once):
            with safe_open(path, framework="pt") as file:
                for name in names[first : first + at_once]:
                    tensors[name] = file.get_tensor(name).clone()
    except OSError as error:
        raise ValueError(error.strerror or short(error, 120)) from None
    except Exception as error:  # safetensors, torch and numpy raise many kinds over damaged headers
        reason = str(error) if type(error) is ValueError else short(error, 120)
        raise ValueError(reason or type(error).__name__) from None
    if CHECKSUM in metadata and metadata[CHECKSUM] != checksum(tensors, metadata):
        raise ValueError("its checksum differs, so it is damaged; fetch or write it again")
    return tensors, metadata


def hash_tensors(tensors: Sequence[Tensor]) -> str:
    """Hash tensors of any device, with their shapes and types."""

    def parts() -> Iterator[str | memoryview]:
        for tensor in tensors:
            yield f"{tuple(tensor.shape)} {tensor.dtype}"
            flat = tensor.detach().cpu().contiguous().flatten()
            yield flat.view(torch.uint8).numpy().data

    return digest_of(parts(), length=16)
