"""The paper's tables of scores: printed rows, and ours beside them from scored folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fastvar_lab.errors import unknown
from fastvar_lab.evaluators import benchmarks
from fastvar_lab.evaluators.picture_folder import read_settings
from fastvar_lab.evaluators.scoring import stored


class Column(NamedTuple):
    """A column of a table: its heading, the benchmark and score it comes from, and which part.

    `category` is that of the benchmark; `factor` brings our value to the printed unit.
    """

    heading: str
    benchmark: str
    score: str
    part: str = ""
    category: str | None = None
    factor: float = 1.0
    digits: int = 2


@dataclass(frozen=True)
class Table:
    """A printed table: its columns, its rows by name, the settings behind it, remarks."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: Mapping[str, tuple[float, ...]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


_TWO = Column("two_object", "geneval", "geneval", "two_object")
_POSITION = Column("position", "geneval", "geneval", "position")
_ATTRIBUTES = Column("color_attr", "geneval", "geneval", "color_attr")
_OVERALL = Column("GenEval", "geneval", "geneval")
_PEOPLE = (
    Column("FID", "mjhq", "fid", category="people"),
    Column("CLIP", "mjhq", "clip", category="people"),
)
# csguoh/FastVAR, evaluation scripts; `map` is the last token map of 1024 x 1024
_INFINITY = {"model": "infinity-2b", "map": "64x64", "guidance": 4.0, "temperature": 1.0}
_HART = {"model": "hart-0.7b", "map": "64x64", "guidance": 4.5}
_JPEG = {"format": "jpg"}
_SAME_NOISE = (
    "HART's script draws the 4 pictures of a GenEval prompt from one seed: its effective n is near "
    "553 prompts"
)
_PEOPLE_ARE = "FID and CLIP of Tables A.3 and A.4 are those of MJHQ's category people"

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table(
            "1",
            "GenEval, 1024 x 1024",
            (_TWO, _POSITION, _ATTRIBUTES, _OVERALL),
            {
                "HART": (0.62, 0.13, 0.18, 0.51),
                "HART + FastVAR": (0.57, 0.16, 0.24, 0.51),
                "Infinity-2B": (0.85, 0.44, 0.53, 0.73),
                "Infinity-2B + FastVAR": (0.81, 0.45, 0.52, 0.72),
            },
            {
                "infinity": {**_INFINITY, **_JPEG, "rewritten": True, "seeds": "per-prompt"},
                "hart": {**_HART, **_JPEG, "rewritten": False, "seeds": "one"},
            },
            (
                "Infinity's printed rows agree with third parties' runs on rewritten prompts "
                "(0.726 and 0.731), not with those on plain ones (0.683 and 0.690)",
                _SAME_NOISE,
            ),
        ),
        Table(
            "2",
            "MJHQ-30K, by category",
            tuple(
                Column(f"{category} {title}", "mjhq", score, category=category)
                for category in ("landscape", "people", "food")
                for title, score in (("FID", "fid"), ("CLIP", "clip"))
            ),
            {
                "HART": (25.43, 26.82, 30.61, 28.47, 30.37, 28.03),
                "HART + FastVAR": (22.52, 26.51, 28.19, 28.34, 30.97, 28.25),
                "Infinity-2B": (24.68, 26.62, 30.27, 27.82, 31.55, 26.66),
                "Infinity-2B + FastVAR": (24.68, 26.62, 30.55, 28.28, 32.54, 27.08),
            },
            {"infinity": {**_INFINITY, "seeds": "one"}, "hart": {**_HART, "seeds": "one"}},
            (
                "The landscape pair of Infinity-2B + FastVAR repeats that of Infinity-2B",
                "An FID of 3,000 pictures has a bias that grows as they get fewer: compare equal n",
            ),
        ),
        Table(
            "A.1",
            "ImageNet 256 x 256, class-conditional",
            (
                Column("IS", "imagenet", "is", digits=1),
                Column("FID", "imagenet", "fid"),
                Column("precision", "imagenet", "precision", factor=100),
                Column("recall", "imagenet", "recall", factor=100),
            ),
            {
                "VAR-d24": (313.7, 2.29, 82.50, 57.45),
                "VAR-d30": (306.6, 2.05, 81.76, 58.20),
                "FastVAR-d24": (287.4, 2.64, 79.76, 58.22),
                "FastVAR-d30": (288.7, 2.30, 80.72, 58.64),
            },
            {"var": {"model": ("var-d24", "var-d30"), "map": "16x16", "guidance": 1.5}},
            (
                "The pruning behind this table was not published: our schedule is ours",
                "The IS depends on the order of pictures: here a fixed seed shuffles them",
            ),
        ),
        Table(
            "A.2",
            "Human preference",
            (
                Column("HPSv2.1", "hps", "hps"),
                Column("ImageReward", "imagereward", "imagereward", digits=4),
            ),
            {
                "HART": (28.75, 0.5658),
                "HART + ToMe": (27.04, 0.4988),
                "HART + FastVAR": (27.85, 0.5370),
                "Infinity-2B": (30.36, 0.9245),
                "Infinity-2B + ToMe": (29.85, 0.8992),
                "Infinity-2B + FastVAR": (30.03, 0.9129),
            },
            {"infinity": {**_INFINITY, **_JPEG, "rewritten": False}, "hart": {**_HART, **_JPEG}},
            (
                "HPSv2.1 differs by about 1.9 between versions of torchvision, which antialias or "
                "do not: --hps-resize",
            ),
        ),
        Table(
            "A.3",
            "HART under extreme pruning of the last two scales",
            (*_PEOPLE, _OVERALL),
            {
                "no pruning": (30.61, 28.47, 0.51),
                "50 %, 75 %": (28.19, 28.34, 0.51),
                "50 %, 100 %": (48.54, 28.46, 0.48),
            },
            {"hart": _HART},
            (_PEOPLE_ARE, _SAME_NOISE),
        ),
        Table(
            "A.4",
            "HART with another caching step",
            (_TWO, _POSITION, _ATTRIBUTES, _OVERALL, *_PEOPLE),
            {
                "no pruning": (0.62, 0.13, 0.18, 0.51, 30.61, 28.47),
                "K-N-3": (0.53, 0.11, 0.15, 0.47, 40.61, 27.36),
                "K-N-2": (0.60, 0.13, 0.19, 0.50, 32.39, 27.94),
                "K-N-1": (0.57, 0.13, 0.20, 0.49, 29.83, 28.25),
                "K-N": (0.57, 0.16, 0.24, 0.51, 28.19, 28.34),
            },
            {"hart": _HART},
            (_PEOPLE_ARE, _SAME_NOISE),
        ),
    )
}
"""The tables of Guo et al., FastVAR (ICCV 2025), and of its supplement, by number."""


def find(name: str) -> Table:
    """Return a table by its number; raise ValueError for an unknown one."""
    if name not in TABLES:
        raise unknown("table", name, TABLES)
    return TABLES[name]


def rows(table: Table, folders: Sequence[Path], any_count: bool = False) -> pd.DataFrame:
    """Return printed rows and ours, one row for each value: a long frame.

    Columns: row, source ("printed" or "ours"), column, value, low, high, n, differs. Folders of one
    model, method and sampling make one row. Raises ValueError for a folder that is not scored, that
    no column of the table reads, and unless `any_count` for another number of pictures.
    """
    frame = [
        {"row": name, "source": "printed", "column": column.heading, "value": value}
        for name, values in table.rows.items()
        for column, value in zip(table.columns, values, strict=True)
    ]
    for folder in folders:
        frame += _ours(table, folder, any_count)
    columns = ["row", "source", "column", "value", "low", "high", "n", "differs"]
    return pd.DataFrame(frame).reindex(columns=columns)


def _ours(table: Table, folder: Path, any_count: bool) -> list[dict[str, Any]]:
    settings, results = read_settings(folder), stored(folder)
    if settings is None:
        raise ValueError(f"{folder} has no settings.json: a table says what made its pictures")
    mark = benchmarks.find(str(settings["benchmark"]))
    place = mark.name, settings.get("category")
    read = [column for column in table.columns if (column.benchmark, column.category) == place]
    if not read:
        category = settings.get("category")
        named = f"{mark.name} {category}" if category else mark.name
        raise ValueError(f"Table {table.name} has no column of {named}, which {folder} holds")
    cells = []
    for column in read:
        if column.score not in results:
            raise ValueError(
                f"{folder} has no score {column.score}; `fastvar-lab score {folder}` computes it"
            )
        result = results[column.score]
        if not any_count and result["n"] != mark.pictures:
            raise ValueError(
                f"{folder} has {result['n']} pictures; Table {table.name} compares "
                f"{mark.pictures}: give --any-count to show it all the same"
            )
        whole = [result[k] for k in ("value", "low", "high")]
        three = result["parts"].get(column.part, [None] * 3) if column.part else whole
        value, low, high = (np.nan if v is None else v * column.factor for v in three)
        cells.append({
            "row": f"{settings['model']}, {settings['method']}",
            "source": "ours",
            "column": column.heading,
            "value": value,
            "low": low,
            "high": high,
            "n": result["n"],
            "differs": "; ".join(differences(table, settings, result, mark.pictures)),
        })  # fmt: skip
    return cells


def differences(
    table: Table, settings: Mapping[str, Any], result: Mapping[str, Any], pictures: int
) -> list[str]:
    """Return every setting in which a folder differs from those behind a printed table."""
    expected = dict(table.settings.get(str(settings.get("family")), {}))
    if not expected:
        return [f"model {settings['model']} is not in the table"]
    actual = {**settings, "rewritten": settings.get("rewritten_sha256") is not None}
    actual["map"] = "x".join(map(str, settings["sizes"][-1]))
    gaps = list[str]()
    for name, value in expected.items():
        allowed = value if isinstance(value, tuple) else (value,)
        if actual.get(name) not in allowed:
            gaps.append(f"{name} {_said(actual.get(name))}, not {' or '.join(map(_said, allowed))}")
    if result["n"] != pictures:
        gaps.append(f"{result['n']} pictures, not {pictures}")
    if result["depends"].get("antialias") is False:
        gaps.append("HPS without antialiasing")
    mark = benchmarks.find(str(settings["benchmark"]))
    if result["depends"].get("resize", mark.resize) != mark.resize:
        gaps.append(f"resize {result['depends']['resize']}, not {mark.resize}")
    return gaps


def _said(value: Any) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def wide(table: Table, frame: pd.DataFrame) -> pd.DataFrame:
    """Bring the rows of a table to its printed shape: values as text, with intervals and n."""
    lines = []
    for (row, source), group in frame.groupby(["row", "source"], sort=False):
        line = {"": row, "source": source}
        for column in table.columns:
            cells = group[group.column == column.heading]
            line[column.heading] = "; ".join(
                _cell(cell, column.digits) for cell in cells.itertuples()
            )
        counts = sorted({int(n) for n in group.n.dropna()})
        line["n"] = ", ".join(map(str, counts))
        line["differs in"] = "; ".join(dict.fromkeys(d for d in group.differs.dropna() if d))
        lines.append(line)
    return pd.DataFrame(lines)


def _cell(cell: Any, digits: int) -> str:
    text = f"{cell.value:.{digits}f}"
    if np.isfinite(cell.low):
        text += f" ({cell.low:.{digits}f} to {cell.high:.{digits}f})"
    return text
