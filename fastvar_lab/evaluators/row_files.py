"""Files of rows of numbers, one row a picture, that several processes may fill at once.

Beside the rows (n, D) stand (n, 3) integers: the two of a picture's stamp, and the checksum of its
row, so that a row that was not written whole is noticed.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fastvar_lab.files import cache_folder, digest, folder, write


class Table:
    """Cached rows of n pictures in the files `base`: those that are there, and those that lack.

    `stamps` are (n, 2). Rows of a picture that has changed, and rows that are not as they were
    written, lack; `lacks` (n,) stays as it was when the table was opened.
    """

    def __init__(self, base: Path, stamps: np.ndarray) -> None:
        self.base, self.stamps = base, stamps
        self.values, self.known = opened(base, len(stamps))
        kept = (self.known[:, :2] == stamps).all(1)
        if self.values is not None:
            kept &= self.known[:, 2] == sums(self.values)
        self.lacks = ~kept

    def put(self, places: Sequence[int], rows: np.ndarray) -> None:
        """Keep rows (len(places), ...) of some pictures."""
        part = np.asarray(rows, dtype=np.float32).reshape(len(places), -1)
        if self.values is None:
            self.values, self.known = created(self.base, (len(self.stamps), part.shape[1]))
        self.values[places] = part
        self.known[places] = np.column_stack((self.stamps[places], sums(part)))


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
