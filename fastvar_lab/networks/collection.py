"""The evaluators' networks on this machine: fetched, converted, checked, opened.

Each network is a folder `NAME` of a collection, by default in the user's cache, with its weights in
`model.safetensors`. It is written by `fetch` or `convert`; afterwards nothing needs the internet.
"""

from __future__ import annotations

import shutil
import urllib.request
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import nn
from tqdm.auto import tqdm

from fastvar_lab.errors import WeightsError, short
from fastvar_lab.files import (
    cache_folder,
    digest,
    digest_of_file,
    expanded,
    folder,
    read_json,
    write_json,
)
from fastvar_lab.networks.conversion import WEIGHTS
from fastvar_lab.networks.published import NETWORKS, File, Network, find

SOURCE = "source.json"
KINDS = (".safetensors", ".json", ".txt")  # suffixes of files that decide what a network computes

Stamps = tuple[tuple[str, int, int], ...]
"""Name, size and time of change of each file of a network."""


def default_folder() -> Path:
    """Return the folder of networks in the user's cache."""
    return cache_folder("networks")


def place(name: str, collection: str | Path | None = None) -> Path:
    """Return the folder of a network; raise WeightsError if it is not there."""
    network = find(name)
    path = expanded(collection or default_folder()) / name
    if not (path / WEIGHTS).exists():
        raise WeightsError(
            f"the network {name} is not in {path}; `fastvar-lab networks --fetch {name}` brings "
            f"it ({network.megabytes} MB, {network.licence})"
        )
    return path


def check_files(name: str, collection: str | Path | None = None) -> None:
    """Raise WeightsError if the files are not those that were converted here.

    Those are weights, configuration and tokenizer. A collection that was written otherwise, as for
    a rehearsal, records none.
    """
    path = place(name, collection)
    _check_files(path.resolve(), _stamps(path))


@lru_cache(maxsize=64)
def _check_files(path: Path, stamps: Stamps) -> None:
    record = path / SOURCE
    if not record.exists():
        return
    try:
        known = read_json(record.read_bytes()).get("converted") or {}
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot read {record}: {short(error, 100)}") from None
    present = _hashes(path, stamps)
    for file in sorted({*known, *present}):
        if known.get(file) != present.get(file):
            now, then = (str(hashes.get(file, "none"))[:8] for hashes in (present, known))
            raise WeightsError(
                f"{path / file} has the SHA-256 {now}..., the converted one had {then}...; "
                f"`fastvar-lab networks --fetch {path.name}` brings it anew"
            )


def open_network(
    name: str, collection: str | Path | None = None, device: torch.device | str = "cpu"
) -> Any:
    """Open a network in float32, without gradients, once per process.

    Raises WeightsError for files that are missing or do not match.
    """
    path = place(name, collection)
    check_files(name, collection)
    return _open(name, path.resolve(), str(device), _stamps(path))


@lru_cache(maxsize=8)
def _open(name: str, path: Path, device: str, stamps: Stamps) -> nn.Module:
    return find(name).read(path).to(device).eval().requires_grad_(False)


def fingerprint(name: str, collection: str | Path | None = None) -> str:
    """Return 16 hex digits of the SHA-256 of a network's weights, configuration and tokenizer."""
    path = place(name, collection)
    hashes = _hashes(path.resolve(), _stamps(path))
    return digest(*(part for file in hashes.items() for part in file), length=16)


def _stamps(path: Path) -> Stamps:
    files = sorted(f for f in path.glob("[!.]*") if f.suffix in KINDS and f.name != SOURCE)
    return tuple((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files)


@lru_cache(maxsize=64)
def _hashes(path: Path, stamps: Stamps) -> dict[str, str]:
    return _digests({name: path / name for name, _, _ in stamps}, path.name)


def _digests(paths: Mapping[str, Path], network: str) -> dict[str, str]:
    """Hash files by name, with a progress bar if that takes its time."""
    total = sum(path.stat().st_size for path in paths.values())
    with tqdm(total=total, desc=f"hash of {network}", unit="B", unit_scale=True, delay=2) as bar:
        return {name: digest_of_file(path, bar.update) for name, path in paths.items()}


def fetch(name: str, collection: str | Path | None = None) -> Path:
    """Download a network's files and convert them; return its folder.

    Raises OSError if a file cannot be fetched.
    """
    network = find(name)
    with TemporaryDirectory() as temporary:
        paths = {file.name: _fetched(file, Path(temporary)) for file in network.files}
        return convert(name, paths, collection)


def _fetched(file: File, temporary: Path) -> Path:
    try:
        if file.repo:
            from huggingface_hub import hf_hub_download

            return Path(hf_hub_download(file.repo, file.name))
        path = temporary / Path(urlsplit(file.url).path).name
        with urllib.request.urlopen(file.url) as source, path.open("wb") as target:
            size, title = getattr(source, "length", None), path.name
            with tqdm.wrapattr(source, "read", size, desc=title, delay=2) as bytes_of:
                shutil.copyfileobj(bytes_of, target)
    except Exception as error:  # of the hub, of its client's transport, of the disk
        raise OSError(f"cannot fetch {file.address}: {short(error, 160)}") from error
    return path


def convert(
    name: str, paths: Mapping[str, Path] | Sequence[Path], collection: str | Path | None = None
) -> Path:
    """Convert downloaded files to a network's folder and return it.

    `paths` are the files by their published names, or a list of files that still have them. Raises
    WeightsError for a missing file, and for one whose SHA-256 is not the published one.
    """
    network = find(name)
    if not isinstance(paths, Mapping):
        paths = {path.name: path for path in map(expanded, paths)}
    by_name = dict[str, Path]()
    for file in network.files:
        path = paths.get(file.name) or paths.get(Path(file.name).name)
        if path is None or not path.exists():
            raise WeightsError(f"the network {name} needs the file {file.name}, {file.address}")
        by_name[file.name] = path
    hashes = _digests(by_name, name)
    for file in network.files:
        path, found = by_name[file.name], hashes[file.name]
        if not found.startswith(file.begins):
            raise WeightsError(
                f"{path} has the SHA-256 {found[:8]}...; that of the published file begins with "
                f"{file.begins}"
            )
    target = folder(expanded(collection or default_folder()) / name)
    network.convert(by_name, target)
    record = {"network": name, "licence": network.licence, "sha256": hashes}
    write_json(target / SOURCE, {**record, "converted": _hashes(target, _stamps(target))})
    return target


def table(collection: str | Path | None = None) -> str:
    """List the networks for a terminal: use, size, licence, whether they are here, their files."""
    lines = [f"{'network':<12} {'MB':>5}  here  {'used for':<37} licence"]
    for network in NETWORKS.values():
        here = (expanded(collection or default_folder()) / network.name / WEIGHTS).exists()
        lines.append(
            f"{network.name:<12} {network.megabytes:>5}  {'yes' if here else 'no':<4}  "
            f"{network.use:<37} {network.licence}"
        )
        lines += sources(network)
    return "\n".join(lines)


def sources(network: Network) -> list[str]:
    """List where the files of a network are, with what is known of their SHA-256."""
    return [
        f"{'':<12} {file.address}{f' (SHA-256 {file.begins}...)' if file.begins else ''}"
        for file in network.files
    ]
