"""Checkpoints written by others: files, shards and training dumps, read without running code.

Nothing in such a file is trusted: its kind is told by its content, its sizes are bounded by its
length, its shards lie in its folder. What is wrong ends in one `WeightsError`.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from pickletools import genops
from typing import IO, Any

import torch
from torch import Tensor

from fastvar_lab.errors import WeightsError, short
from fastvar_lab.files import expanded, other_kind, read_json
from fastvar_lab.models.hub import ENDINGS
from fastvar_lab.models.wrappers import unwrap
from fastvar_lab.tensors import read_tensors

_SHARD = re.compile(r"(.*?)[-_](\d+)-of-(\d+)\.\w+")


def read_released(path: str | Path) -> dict[str, Tensor]:
    """Read a released checkpoint, a file or a folder of shards, without running code from it.

    Reads safetensors, and pickles with `weights_only=True`; a pickle that needs more is refused.
    State dicts inside training dumps are unwrapped. The checksums in torch's files are verified
    (CRC-32, at about 2 GB/s).

    A folder holds `ema_model.bin`, or an index with its shards (that of safetensors goes first), or
    all shards `NAME-00001-of-0000N`, or one file. Raises WeightsError for files that are
    missing, damaged or would run code.
    """
    path = expanded(path)
    if not path.exists():
        raise WeightsError(f"there are no weights at {path}")
    if not path.is_dir():
        return unwrap(_open(path), path)
    parts, placed = _parts(path)
    state: dict[str, Tensor] = {}
    for part in parts:
        tensors = unwrap(_open(part), part)
        for key in tensors:
            if key in state:
                raise WeightsError(f"{path} holds {short(key)} twice, also in {short(part.name)}")
            if placed and placed.get(key) != part.name:
                where = placed.get(key)
                reason = f"of {short(where)}" if where else "of no shard"
                raise WeightsError(f"{part} holds {short(key)}, which its index says is {reason}")
        state |= tensors
    for key, name in placed.items():
        if key not in state:
            raise WeightsError(f"{path / name} lacks {short(key)}, which its index says it holds")
    return state


def _parts(folder: Path) -> tuple[list[Path], Mapping[str, str]]:
    """Find the files of a checkpoint in a folder, and the file of every key, if an index says."""
    preferred = folder / "ema_model.bin"
    if preferred.exists():
        return [preferred], {}
    indices = sorted(folder.glob("*.index.json"), key=lambda p: ("safetensors" not in p.name, p))
    if indices:
        return _indexed(folder, indices)
    for ending in ENDINGS:
        files = sorted(folder.glob(f"*.{ending}"))
        shards = [match for file in files if (match := _SHARD.fullmatch(file.name))]
        if len(files) == 1 and not shards:
            return files, {}
        if not files:
            continue
        if len(shards) != len(files) or len({(match[1], int(match[3])) for match in shards}) != 1:
            named = ", ".join(short(file.name) for file in files[:3])
            raise WeightsError(
                f"{folder} holds {len(files)} files ({named}) and no index that says how they "
                "belong together; leave one of them, or add the index"
            )
        count = int(shards[0][3])
        missing = sorted(set(range(1, count + 1)) - {int(match[2]) for match in shards}) \
            if count <= 10_000 else [count]  # fmt: skip
        if missing or len(files) != count:
            raise WeightsError(
                f"{folder} holds {len(files)} of {short(count)} shards; missing are "
                f"{', '.join(map(short, missing[:3])) or 'none, but some come twice'}"
            )
        return files, {}
    raise WeightsError(f"{folder} holds no weights (.safetensors, .bin, .pth, or an index)")


def _indexed(folder: Path, indices: list[Path]) -> tuple[list[Path], Mapping[str, str]]:
    """Read an index; its shards are files of the folder, all of them there and none left over."""
    index = indices[0]
    if len(indices) > 1 and ("safetensors" in indices[1].name) == ("safetensors" in index.name):
        raise WeightsError(f"{folder} holds two indices, {index.name} and {indices[1].name}")
    try:
        placed = read_json(index.read_bytes()).get("weight_map")
        if not isinstance(placed, dict) or not placed:
            raise ValueError("it has no weight_map")
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot read the index {index}: {short(error, 120)}") from None
    for name in placed.values():
        plain = isinstance(name, str) and name not in ("", ".", "..") and name.isprintable()
        if not plain or "/" in name or "\\" in name:
            raise WeightsError(
                f"{index} names the shard {short(name)}; a shard is a file of the same folder"
            )
    names = sorted(set(placed.values()))
    for name in names:
        if not _is_file(folder / name):
            raise WeightsError(f"{index} names the shard {short(name)}, which does not exist")
    ending = Path(names[0]).suffix
    extra = [p.name for p in sorted(folder.glob(f"*{ending}"))
             if _SHARD.fullmatch(p.name) and p.name not in names]  # fmt: skip
    if extra:
        raise WeightsError(f"{folder} holds the shard {short(extra[0])}, which {index} leaves out")
    return [folder / name for name in names], placed


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def _open(path: Path) -> Any:
    """Open a file by its content, whatever its name ends in."""
    try:
        kind = other_kind(path)
        if kind is not None:
            raise ValueError(f"it is {kind}")
        if zipfile.is_zipfile(path):
            _check_zip(path)
        elif _is_safetensors(path):
            return read_tensors(path)[0]
        else:
            _check_pickles(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(
            f"cannot read weights {path}: {error.strerror or short(error)}"
        ) from None
    except UnpicklingError as error:
        needed = re.search(r"GLOBAL ([\w.]+)", str(error))
        if needed is None:
            raise WeightsError(f"cannot read weights {path}: it is damaged, or no file of torch") \
                from None  # fmt: skip
        raise WeightsError(
            f"{path} would run code when opened, so it is refused: it asks for {short(needed[1])}, "
            "which no weights need"
        ) from None
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to ask for
        known = type(error) is ValueError
        reason = short(error, 160) if known else f"it is damaged ({short(error, 100)})"
        raise WeightsError(f"cannot read weights {path}: {reason}") from None


def _is_safetensors(path: Path) -> bool:
    """Tell by a header that fits into the file and begins as JSON does, or by the name."""
    with path.open("rb") as file:
        start = file.read(9)
    fits = int.from_bytes(start[:8], "little") <= path.stat().st_size
    return path.suffix == ".safetensors" or (start[8:] == b"{" and fits)


def _check_zip(path: Path) -> None:
    """Refuse a torch file that unpacks to more than itself, or whose checksums differ.

    torch reads neither. A file saved without checksums has all of them wrong: it is let in.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("it unpacks to more than its own length")
        damaged = [entry for entry in entries if not _whole(archive, entry)]
        if damaged and len(damaged) < sum(entry.file_size > 0 for entry in entries):
            raise ValueError(f"the checksum of {short(damaged[0].filename)} in it differs")


def _whole(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(entry) as file:
            while file.read(2**20):
                pass
    except zipfile.BadZipFile:
        return False
    return True


def _check_pickles(path: Path) -> None:
    """Refuse storages larger than the file, in torch's format before 1.6, before they are made.

    A storage is named by a persistent id that ends in its number of elements.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        for _ in range(4):  # magic number, protocol, system, content
            for count in _storages(file):
                if not 0 <= count <= length:
                    raise ValueError(
                        f"it names {short(count)} numbers, more than its {length} bytes can hold"
                    )


def _storages(file: IO[bytes]) -> Iterator[int]:
    last, operations = 0, genops(file)
    while True:
        try:
            opcode, argument, _ = next(operations)
        except StopIteration:
            return
        except Exception:
            raise ValueError("it is damaged, or no file of torch") from None
        if isinstance(argument, int) and "PUT" not in opcode.name and "GET" not in opcode.name:
            last = argument
        if opcode.name in ("BINPERSID", "PERSID"):
            yield last
