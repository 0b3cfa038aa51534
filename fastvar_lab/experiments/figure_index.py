"""The index of a folder of figures: a README.md, which code hosts show beside the files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

from fastvar_lab.experiments.output import DATA
from fastvar_lab.files import expanded, read_json, write_utf8
from fastvar_lab.plotting.tables import markdown

INDEX = "README.md"
TITLE = "# Figures and their data"
INTRODUCTION = (
    "Every figure is drawn from the data beside it: `python -m fastvar_lab figures --check` draws "
    "all of them again and compares. NAME.json says what it was measured on and which command "
    "repeats it, NAME.txt is its caption, NAME.tex its table for a paper."
)


def write_index(out: str | Path) -> None:
    """Write the index of a folder's figures, unless its README.md is one of yours."""
    place = expanded(out) / INDEX
    if not place.exists() or _held(place).startswith(TITLE):
        write_utf8(place, index_text(out))


def index_differs(out: str | Path) -> bool:
    """Return whether a folder has an index of figures that is not that of its figures."""
    place = expanded(out) / INDEX
    held = _held(place) if place.exists() else ""
    return held.startswith(TITLE) and held != index_text(out)


def _held(place: Path) -> str:
    return place.read_text(encoding="utf-8", errors="replace")


def index_text(out: str | Path) -> str:
    """Write a line for each figure of a folder, by its report: the question, and what is beside."""
    reports = {path: _report(path) for path in sorted(expanded(out).glob("*.json"))}
    figures = {path: report for path, report in reports.items() if "caption" in report}
    others = {path.with_suffix(".md") for path in figures}
    table = pd.DataFrame([_line(path, report, others) for path, report in figures.items()])
    return f"{TITLE}\n\n{INTRODUCTION}\n\n{markdown(table, ('figure', 'data', 'tables'))}"


def _report(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path.read_bytes()))
    except ValueError:  # damaged: no figure's
        return {}


def _line(path: Path, report: dict[str, Any], others: set[Path]) -> dict[str, str]:
    """Write the line of one figure; the tables `others` are not its own, whatever their names."""
    name, stem = path.stem, path.with_suffix("")
    data = [p for p in (Path(f"{stem}{DATA}"), Path(f"{stem}.npz")) if p.exists()]
    more = [p for p in sorted(path.parent.glob(f"{name}_*.md")) if p not in others]
    tables = [p for p in (Path(f"{stem}.md"), *more) if p.exists()]
    question = re.match(r".*?[.?](?=\s|$)|.*", report["caption"])
    return {
        "figure": f"[{name}]({name}.png)",
        "question": question[0] if question else "",
        "scope": str(report.get("scope", "")),
        "pictures": str(report.get("n", "")),
        "data": " ".join(f"[{_ending(p, name)}]({p.name})" for p in data),
        "tables": " ".join(f"[{_ending(p, name)}]({p.name})" for p in tables),
    }


def _ending(path: Path, stem: str) -> str:
    return path.name.removeprefix(stem).removesuffix(".md").strip("._") or "table"
