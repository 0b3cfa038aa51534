"""Cells on disk, addressed by what they are made from: that alone decides whether one is known."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastvar_lab.files import folder as writable
from fastvar_lab.files import write

Rows = list[dict[str, Any]]


def default_folder() -> Path:
    """Where cells are kept unless told otherwise: the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fastvar_lab" / "cells"


def key(settings: Mapping[str, Any]) -> str:
    """Hash settings, which must be plain JSON values, whatever their order."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """A folder of cells: read what is whole, write whole or not at all.

    Two processes may write the same cell: both write the same rows, and the last rename stays.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder or default_folder()).resolve()  # workers run elsewhere

    def prepare(self) -> Store:
        """Make sure that cells can be written, before hours of work; raise OSError if not."""
        writable(self.folder)
        try:
            write(self.folder / "probe", lambda partial: partial.write_bytes(b"\0" * 2**20))
            (self.folder / "probe").unlink(missing_ok=True)
        except OSError as error:
            raise OSError(f"cells cannot be kept in {self.folder}: {error.strerror}") from error
        return self

    def path(self, settings: Mapping[str, Any]) -> Path:
        """Name the file of a cell."""
        name = key(settings)
        return self.folder / name[:2] / f"{name}.json"

    def get(self, settings: Mapping[str, Any]) -> Rows | None:
        """Return a cell's rows; None if it is not there, or damaged."""
        try:
            kept = json.loads(self.path(settings).read_text())
            rows: Rows = kept["rows"]
            whole = kept["rows_sha256"] == key({"rows": rows}) and kept["settings"] == dict(
                settings
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return rows if whole else None

    def put(self, settings: Mapping[str, Any], rows: Rows) -> None:
        """Keep a cell's rows."""
        rows = [
            {k: None if v != v else v for k, v in row.items()} for row in rows
        ]  # no nan in JSON
        content = {"settings": dict(settings), "rows": rows, "rows_sha256": key({"rows": rows})}
        path = self.path(settings)
        writable(path.parent)
        write(path, lambda partial: partial.write_text(json.dumps(content)))
