"""Files of rows of numbers, one row a picture, that several processes may fill at once.

Beside the rows (n, D) stand (n, 3) integers: the two of a picture's stamp, and the checksum of its
row, so that a row that was not written whole is noticed.
"""

from __future__ import annotations

import zlib
from functools import partial
from pathlib import Path

import numpy as np

from fastvar_lab.files import cache_folder, digest, folder, write


def opened(base: Path, n: int) -> tuple[np.ndarray | None, np.ndarray]:
    """Open cached rows (n, D) and what is known of each, for writing; None if there are none.

    Known are (n, 3): the two numbers of its picture's stamp, and the row's checksum.
    """
    files = base.with_suffix(".npy"), base.with_suffix(".stamps.npy")
    try:
        values, known = map(_mapped, files)
        whole = values.ndim == 2 and len(values) == n and known.shape == (n, 3)
        if whole and values.dtype == np.float32 and known.dtype == np.int64:
            return values, known
        raise ValueError("they are not what was written")
    except FileNotFoundError:
        pass
    except ValueError:  # damaged
        for file in files:
            file.unlink(missing_ok=True)
    return None, np.zeros((n, 3), np.int64)


def _mapped(path: Path) -> np.ndarray:
    np.lib.format.open_memmap(path, mode="r")  # raises for a short file, which "r+" lengthens
    return np.lib.format.open_memmap(path, mode="r+")


def created(base: Path, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Create files of rows, or open those that another process has just created.

    They are written whole: a hole in a file would kill the process when the disk is full.
    """
    parts: dict[str, np.ndarray] = {
        ".stamps.npy": np.zeros((shape[0], 3), np.int64),
        ".npy": np.zeros(shape, np.float32),
    }
    for suffix, zeros in parts.items():
        write(base.with_suffix(suffix), partial(np.save, arr=zeros), replace=False)
    values, known = opened(base, shape[0])
    if values is None:
        raise ValueError(f"the rows in {base.parent} are damaged while they are written")
    return values, known


def sums(rows: np.ndarray) -> np.ndarray:
    """Return the checksum of each row (n, D)."""
    return np.array([zlib.crc32(row.tobytes()) for row in rows], dtype=np.int64)


def scores_folder(root: Path) -> Path:
    """Return the folder beside a folder, or a file, of pictures that holds its rows and results."""
    path = root if root.name not in ("", "..") else root.resolve()
    return path.with_name(f"{path.name}.scores")


def rows_folder(path: Path) -> Path:
    """Return where rows of a reference are cached: beside it, or in the user's cache."""
    try:
        return folder(scores_folder(path))
    except OSError:  # a disk that is shared and may only be read
        return cache_folder("references") / digest(str(path.resolve()), length=12)
