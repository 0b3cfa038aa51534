"""Files of released models on the hub: fetched, or found in its cache."""

from __future__ import annotations

import errno
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fastvar_lab.errors import short
from fastvar_lab.files import expanded

if TYPE_CHECKING:  # which imports torch
    from fastvar_lab.models.releases import Release

ENDINGS = ("safetensors", "bin", "pth")  # of files of weights
_SHA256 = re.compile("[0-9a-f]{64}")
UNREAD = ["*.h5", "*.msgpack", "*.ot", "*.onnx"]  # a text encoder's weights for other frameworks


def fetch(release: Release) -> tuple[Path, Path | None]:
    """Download a release and its text encoder to the hub's cache; return their folders.

    What is there is read as it is: a complete cache may lie on a disk that is read-only.
    """
    assert release.repo is not None
    patterns = [p for file in release.files for p in (file, f"{file}/*")]
    folder = _snapshot(release.repo, patterns, None)
    if release.text is None:
        return folder, None
    encoder = _snapshot(release.text.repo, None, [*UNREAD, "*.bin"])
    if not any(encoder.glob("*.safetensors")):  # then its weights are the .bin files
        encoder = _snapshot(release.text.repo, None, UNREAD)
    return folder, encoder


def _snapshot(repo: str, only: list[str] | None, without: list[str] | None) -> Path:
    """Download a repository, or find it in a cache that cannot be written."""
    from huggingface_hub import snapshot_download

    find = partial(snapshot_download, repo, allow_patterns=only, ignore_patterns=without)
    try:
        return Path(find())
    except Exception as error:  # of the hub, of its client's transport, of the disk
        unwritable = (errno.EROFS, errno.EACCES, errno.EPERM)
        if not isinstance(error, OSError) or error.errno not in unwritable:
            raise OSError(f"cannot fetch {repo}: {short(error, 200)}") from error
        reason = error.strerror
    try:
        return Path(find(local_files_only=True))
    except OSError:
        raise OSError(
            f"{repo} is not complete in the hub's cache, which cannot be written: {reason}"
        ) from None


def located(repo: str, file: str, weights: str | Path | None) -> Path | None:
    """Find a file or folder of a repository in the folder `weights` or in the hub's cache."""
    if weights is not None and (place := expanded(weights) / file).exists():
        return place
    from huggingface_hub import try_to_load_from_cache

    inside = (
        [file] if "." in file else [f"{file}/config.json", f"{file}/model.safetensors.index.json"]
    )
    for name in inside:
        cached = try_to_load_from_cache(repo, name)
        if isinstance(cached, str):
            return Path(cached) if name == file else Path(cached).parent
    return None


def published_sha256(path: Path) -> str | None:
    """Return the SHA-256 that the hub publishes for a large file that came from it, if known here.

    The hub's cache names the content of a file by it; a folder of `hf download --local-dir` keeps
    it in a text of three lines beside its files.
    """
    name = path.resolve().name
    if path.is_symlink() and _SHA256.fullmatch(name):
        return name
    for folder in path.parents[:2]:
        place = folder / ".cache" / "huggingface" / "download" / path.relative_to(folder)
        try:
            lines = (
                place.with_name(f"{place.name}.metadata").read_text(encoding="utf-8").splitlines()
            )
        except (OSError, ValueError):
            continue
        if len(lines) > 1 and _SHA256.fullmatch(lines[1]):
            return lines[1]
    return None
