"""The paper's tables of scores with our rows beside the printed ones, from scored folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fastvar_lab.evaluators import benchmarks
from fastvar_lab.evaluators.benchmark_plans import Benchmark
from fastvar_lab.evaluators.case import Options
from fastvar_lab.evaluators.picture_folder import SETTINGS, read_settings
from fastvar_lab.evaluators.results import (
    PICTURES_SHA256,
    SETTINGS_SHA256,
    pictures_sha256,
    settings_sha256,
    stored,
)
from fastvar_lab.experiments.printed_tables import Table
from fastvar_lab.networks.published import NETWORKS

USUAL = {"pixels": "round", "positive_prompt": False, "given": 0}
"""Settings that a table does not name, at their usual values."""
TITLES = {"antialias": "antialiasing of HPS", "half": "distances in float16",
          "order": "order of the IS", "split": "split of the IS", "subsets": "subsets of the KID",
          "autocast": "precision of networks", "resize": "resize of Inception"}  # fmt: skip
REQUIRED = ("benchmark", "model", "method", "sizes")
"""Settings without which a folder makes no row."""


def rows(table: Table, folders: Sequence[Path], any_count: bool = False) -> pd.DataFrame:
    """Return printed rows and ours, one row for each value: a long frame.

    Columns: row, source ("printed" or "ours"), column, value, low, high, n, differs. Folders of one
    model, method and sampling make one row. Raises ValueError for a folder that is not scored, that
    no column of the table reads, whose settings or pictures changed after it was scored, that holds
    another number of pictures unless `any_count`, that is named twice, and for networks of
    different weights.

    >>> from fastvar_lab.experiments.printed_tables import find
    >>> len(rows(find("1"), []))
    16
    """
    places = [folder.resolve() for folder in folders]
    for folder in folders:
        if places.count(folder.resolve()) > 1:
            raise ValueError(f"{folder} is named twice; name each folder once")
    _check_networks(folders)
    frame = [
        {"row": name, "source": "printed", "column": column.heading, "value": value}
        for name, values in table.rows.items()
        for column, value in zip(table.columns, values, strict=True)
    ]
    for folder in folders:
        frame += _ours(table, folder, any_count)
    columns = ["row", "source", "column", "value", "low", "high", "n", "differs"]
    return pd.DataFrame(frame).reindex(columns=columns)


def _check_networks(folders: Sequence[Path]) -> None:
    """Raise ValueError for folders whose scores come from networks of different weights."""
    first = dict[str, tuple[str, Path]]()
    for folder in folders:
        for result in stored(folder).values():
            for name in NETWORKS:
                weights = result["depends"].get(name)
                known, other = first.setdefault(name, (weights, folder)) if weights else (None, "")
                if weights and weights != known:
                    raise ValueError(
                        f"{folder} was scored by the network {name} of weights {weights}, {other} "
                        f"by one of {known}; score them by the same"
                    )


def _ours(table: Table, folder: Path, any_count: bool) -> list[dict[str, Any]]:
    settings, results = read_settings(folder), stored(folder)
    if settings is None:
        raise ValueError(f"{folder} has no settings.json: a table says what made its pictures")
    for name in REQUIRED:
        if not settings.get(name):
            raise ValueError(f"{folder / SETTINGS} does not say the {name} of the pictures")
    mark = benchmarks.find(str(settings["benchmark"]))
    place = mark.name, settings.get("category")
    read = [column for column in table.columns if (column.benchmark, column.category) == place]
    if not read:
        category = settings.get("category")
        named = f"{mark.name} {category}" if category else mark.name
        raise ValueError(f"Table {table.name} has no column of {named}, which {folder} holds")
    _check_scores(table, folder, [c.score for c in read], None if any_count else mark.pictures)
    cells = []
    for column in read:
        result = results[column.score]
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


def _check_scores(table: Table, folder: Path, names: Sequence[str], count: int | None) -> None:
    """Raise ValueError for scores that are missing, of other pictures, or of another number."""
    results, settings = stored(folder), settings_sha256(read_settings(folder))
    again = f"`fastvar-lab score {folder}` computes it"
    for name in names:
        if name not in results:
            raise ValueError(f"{folder} has no score {name}; {again}")
        if results[name].get(SETTINGS_SHA256) != settings:
            raise ValueError(
                f"{folder} was made anew after the score {name} was computed; {again} of the "
                "present pictures"
            )
        n = results[name]["n"]
        if count is not None and n != count:
            raise ValueError(
                f"{folder} has {n} pictures; Table {table.name} compares {count}: give "
                "--any-count to show it all the same"
            )
    pictures = pictures_sha256(folder)  # reads those that changed
    for name in names:
        if results[name].get(PICTURES_SHA256) != pictures:
            raise ValueError(
                f"{folder} holds other pictures than those that the score {name} was computed of; "
                f"{again} of the present pictures"
            )


def differences(
    table: Table, settings: Mapping[str, Any], result: Mapping[str, Any], pictures: int
) -> list[str]:
    """Return every setting in which a folder differs from those behind a printed table."""
    mark = benchmarks.find(str(settings["benchmark"]))
    expected = table.settings(mark.name, str(settings.get("family")))
    gaps = [] if expected else [f"model {settings['model']} is not in the table"]
    actual = {**settings, "rewritten": settings.get("rewritten_sha256") is not None}
    actual["map"] = "x".join(map(str, settings["sizes"][-1]))
    for name, value in expected.items():
        if name == "quality" and actual.get("format") != expected.get("format"):
            continue  # that gap is named
        allowed = value if isinstance(value, tuple) else (value,)
        if actual.get(name) not in allowed:
            gaps.append(
                f"{name} {_in_words(actual.get(name))}, not {' or '.join(map(_in_words, allowed))}"
            )
    if result["n"] != pictures:
        gaps.append(f"{result['n']} pictures, not {pictures}")
    for name, value in USUAL.items():
        if name not in expected and actual.get(name, value) != value:
            gaps.append(f"{name.replace('_', ' ')} {_in_words(actual[name])}")
    return gaps + _scored_otherwise(result["depends"], mark)


def _scored_otherwise(depends: Mapping[str, Any], mark: Benchmark) -> list[str]:
    """Return every setting of a score that is not the protocol's."""
    gaps, options = list[str](), Options()
    usual = {"antialias": True, "resize": mark.resize, "half": options.half, "order": options.order,
             "split": options.split, "subsets": options.subsets, "autocast": "float32",
             "references": mark.pictures}  # fmt: skip
    values = {**usual, **{name: depends[name] for name in usual if name in depends}}
    rules = asdict(options.rules)
    usual |= {f"rule {name}": value for name, value in rules.items()}
    values |= {f"rule {name}": v for name, v in {**rules, **depends.get("rules", {})}.items()}
    for name, value in values.items():
        if value != usual.get(name) and not (name == "references" and value is None):
            gaps.append(
                f"{TITLES.get(name, name)} {_in_words(value)}, not {_in_words(usual.get(name))}"
            )
    return gaps


def _in_words(value: Any) -> str:
    if value is None:
        return "none"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def wide(table: Table, frame: pd.DataFrame) -> pd.DataFrame:
    """Bring the rows of a table to its printed shape: values as text, with intervals and n.

    >>> from fastvar_lab.experiments.printed_tables import find
    >>> wide(find("1"), rows(find("1"), []))["GenEval"].tolist()
    ['0.51', '0.51', '0.73', '0.72']
    """
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
        gaps = [gap for text in group.differs.dropna() if text for gap in text.split("; ")]
        line["differs in"] = "; ".join(dict.fromkeys(gaps))
        lines.append(line)
    return pd.DataFrame(lines)


def _cell(cell: Any, digits: int) -> str:
    text = f"{cell.value:.{digits}f}"
    if np.isfinite(cell.low):
        text += f" ({cell.low:.{digits}f} to {cell.high:.{digits}f})"
    return text
