"""The weights in the package and their hashes; without torch, for the list of models."""

from __future__ import annotations

from pathlib import Path

from fastvar_lab.errors import WeightsError
from fastvar_lab.files import digest_of_file, read_json

WEIGHTS = Path(__file__).parent.parent / "weights"
TOKENIZER_FILE, TRANSFORMER_FILE = "tiny_tokenizer.safetensors", "tiny_transformer.safetensors"
HASHES = "sha256.json"  # beside the weights: file name to SHA-256


def check_hashes(place: Path) -> None:
    """Compare weights with the SHA-256 that a file beside them names, if there is one.

    Raises WeightsError for a file that differs. Takes about 50 ms for the package's 31 MB.
    """
    if not (place / HASHES).exists():
        return
    try:
        hashes = read_json((place / HASHES).read_bytes())
        for name in (TRANSFORMER_FILE, TOKENIZER_FILE):
            if hashes.get(name) != digest_of_file(place / name):
                raise ValueError("its SHA-256 differs, so it is damaged or another version")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise WeightsError(
            f"cannot read weights {place / name}: {reason} ({place / HASHES})"
        ) from None
