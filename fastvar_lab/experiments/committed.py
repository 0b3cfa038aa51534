"""Results that a folder of figures holds, read in place of computing them again."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from fastvar_lab.experiments.output import DATA, read_rows
from fastvar_lab.files import expanded, read_json
from fastvar_lab.frames import CELL, GUIDANCE, LINE, METRICS
from fastvar_lab.measure.speedup import disturbed
from fastvar_lab.store import Rows

RUN_COLUMNS = ("model", "weights", "prompts", "machine", GUIDANCE, LINE)
"""Columns of a run, not of its results."""


class Committed:
    """The results in a folder of figures, as `Known` to a store.

    Each row says in its column `cell` under which key a store keeps it, and keys hold all that
    decides a result: what has changed since is computed anew. Numbers have the six digits of the
    data of figures. Raises ValueError for a folder without such data.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = expanded(folder)
        if not any(self.folder.glob(f"*{DATA}")):
            raise ValueError(f"there are no data of figures in {self.folder}")

    def rows(self, cell: str) -> Rows | None:
        rows = self._cells.get(cell)
        return None if rows is None or disturbed(rows) else rows

    def values(self, cell: str) -> dict[str, dict[str, float | None]]:
        return self._values.get(cell, {})

    @cached_property
    def _cells(self) -> dict[str, Rows]:
        """The rows of each cell, without what is not there and what is of the run.

        Equal methods under several labels share a cell, whose rows stand once for each label.
        """
        cells: dict[str, Rows] = {}
        for frame, _ in self._frames:
            results = frame.drop(columns=[c for c in RUN_COLUMNS if c in frame])
            of_frame: dict[str, tuple[Any, Rows]] = {}
            for row in results.to_dict("records"):
                label, rows = of_frame.setdefault(str(row.pop(CELL)), (row.get("method"), []))
                if row.get("method") == label or label != label:
                    rows.append({str(k): v for k, v in row.items() if v == v})
            cells |= {cell: rows for cell, (_, rows) in of_frame.items()}
        return cells

    @cached_property
    def _values(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """The columns of each metric of a picture, by cell and address of the metric."""
        values: dict[str, dict[str, dict[str, float | None]]] = {}
        for frame, addresses in self._frames:
            columns = _columns(frame, addresses)
            measured = [column for several in columns.values() for column in several]
            pictures = frame[frame[measured].notna().any(axis=1)]
            for row in pictures[[CELL, *measured]].to_dict("records"):
                known = values.setdefault(str(row[CELL]), {})
                for name, address in addresses.items():  # those that are nan leave no column
                    known[address] = {c: row[c] for c in columns.get(name, ())}
        return values

    @cached_property
    def _frames(self) -> list[tuple[pd.DataFrame, dict[str, str]]]:
        """All rows of each figure, and on what the values of its metrics depend."""
        paths = sorted(self.folder.glob("*.json"))
        frames = [(read_rows(path.with_suffix("")), path) for path in paths]
        return [
            (frame, read_json(path.read_bytes()).get(METRICS, {}))
            for frame, path in frames
            if frame is not None and CELL in frame
        ]


def _columns(frame: pd.DataFrame, names: dict[str, Any]) -> dict[str, list[str]]:
    """Return the columns of each metric: those of its name, or its name before a key.

    >>> _columns(pd.DataFrame(columns=["ssim", "agree_1x1", "agree_2x2"]), {"ssim": 1, "agree": 2})
    {'ssim': ['ssim'], 'agree': ['agree_1x1', 'agree_2x2']}
    """
    columns: dict[str, list[str]] = {}
    for column in map(str, frame.columns):
        of = [name for name in names if column == name or column.startswith(f"{name}_")]
        if of:
            columns.setdefault(max(of, key=len), []).append(column)
    return columns
