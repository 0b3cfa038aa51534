"""Files of released models on the hub: fetched, or found in its cache."""

from __future__ import annotations

import errno
from functools import partial
from pathlib import Path

from fastvar_lab.files import expanded
from fastvar_lab.models.releases import Release

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
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        reason = error.strerror
    try:
        return Path(find(local_files_only=True))
    except OSError:
        raise OSError(
            f"{repo} is not complete in the hub's cache, which cannot be written: {reason}"
        ) from None


def is_here(release: Release, file: str, weights: str | Path | None) -> bool:
    """Tell whether a file or folder lies in the named folder or in the hub's cache."""
    if weights is not None and (expanded(weights) / file).exists():
        return True
    from huggingface_hub import try_to_load_from_cache

    assert release.repo is not None
    inside = (
        [file] if "." in file else [f"{file}/config.json", f"{file}/model.safetensors.index.json"]
    )
    return any(isinstance(try_to_load_from_cache(release.repo, f), str) for f in inside)
