"""Files of released models on the hub: fetched, or found in its cache."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from fastvar_lab.models.releases import Release

UNREAD = ["*.h5", "*.msgpack", "*.ot", "*.onnx"]  # a text encoder's weights for other frameworks


def fetch(release: Release) -> Path:
    """Download a release and its text encoder to the hub's cache; return the release's folder."""
    from huggingface_hub import snapshot_download

    assert release.repo is not None
    patterns = [p for file in release.files for p in (file, f"{file}/*")]
    folder = Path(snapshot_download(release.repo, allow_patterns=patterns))
    if release.text is not None:
        encoder = Path(snapshot_download(release.text.repo, ignore_patterns=[*UNREAD, "*.bin"]))
        if not any(encoder.glob("*.safetensors")):  # then its weights are the .bin files
            encoder = Path(snapshot_download(release.text.repo, ignore_patterns=UNREAD))
        link = folder / release.text.folder
        if not link.exists():
            link.unlink(missing_ok=True)  # of an encoder that the cache no longer has
            with suppress(FileExistsError):  # another process fetched it meanwhile
                link.symlink_to(encoder, target_is_directory=True)
    return folder


def is_here(release: Release, file: str, weights: str | Path | None) -> bool:
    """Tell whether a file or folder lies in the named folder or in the hub's cache."""
    if weights is not None and (Path(weights) / file).exists():
        return True
    from huggingface_hub import try_to_load_from_cache

    assert release.repo is not None
    inside = (
        [file] if "." in file else [f"{file}/config.json", f"{file}/model.safetensors.index.json"]
    )
    return any(isinstance(try_to_load_from_cache(release.repo, f), str) for f in inside)
