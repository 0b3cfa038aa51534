"""Files written whole or not at all, and figures that are the same bytes each time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from skimage.io import imsave


def folder(path: Path) -> Path:
    """Make a folder, or raise OSError in one sentence if it cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make the output folder {path}: {error.strerror}") from error
    if not os.access(path, os.W_OK):
        raise OSError(f"the output folder {path} is not writable")
    return path


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Let `save` write a temporary file of the same kind, then rename it to `path`."""
    partial = path.with_name(f".partial-{path.name}")
    try:
        save(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write readable JSON."""
    write(path, lambda p: p.write_text(json.dumps(content, indent=1) + "\n"))


def write_image(path: Path, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 as PNG."""
    write(path, lambda p: imsave(p, image, check_contrast=False))


def write_figure(path: Path, figure: Figure, dpi: int = 200) -> None:
    """Write a figure by its ending (png, pdf, svg) without dates or versions inside."""
    drop = {".png": ["Software"], ".pdf": ["CreationDate", "Creator", "Producer"], ".svg": ["Date"]}
    metadata = dict.fromkeys(drop.get(path.suffix, []))
    with mpl.rc_context({"svg.hashsalt": "fastvar_lab"}):
        write(path, lambda p: figure.savefig(p, dpi=dpi, metadata=metadata))


def versions() -> dict[str, str]:
    """Versions that numbers depend on."""
    return {name: version(name) for name in ("torch", "numpy", "scikit-image")}
