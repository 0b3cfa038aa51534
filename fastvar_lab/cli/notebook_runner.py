"""Runs notebooks from top to bottom, strips their outputs, and lists their problems."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tqdm.auto import tqdm

from fastvar_lab.cli.notebook_pages import to_html
from fastvar_lab.errors import unknown
from fastvar_lab.files import folder, write_utf8

CELL_LIMIT = 600  # seconds; a cell that takes longer has failed
PICTURE = re.compile(r"!\[[^]]*\]\(([^)]+)\)")
OUR_WARNING = re.compile(r"fastvar_lab/\S+:\d+: (\w*Warning: .*)")

Notebook = Any


def find(place: Path, names: Sequence[str] = ()) -> list[Path]:
    """Return the notebooks of a folder, or the named ones; raise ValueError for unknown names."""
    paths = sorted(place.glob("*.ipynb"))
    if not paths:
        raise ValueError(
            f"there are no notebooks in {place}; `notebooks --copy DIR` copies the shipped ones"
        )
    by_name = {path.stem: path for path in paths}
    for name in names:
        if name not in by_name:
            raise unknown("notebook", name, by_name)
    return [by_name[name] for name in names] if names else paths


def stripped(text: str) -> str:
    """Remove outputs, execution counts, widgets and machine metadata from a notebook's text."""
    notebook = nbformat.reads(text, as_version=4)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i}"
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return str(nbformat.writes(notebook)) + "\n"


def strip(path: Path) -> bool:
    """Strip a notebook in place; return whether that changed it."""
    before = path.read_text(encoding="utf-8")
    after = stripped(before)
    if after != before:
        write_utf8(path, after)
    return after != before


def committed(path: Path) -> list[str]:
    """List the problems of a notebook file: outputs in it, and links to missing pictures."""
    problems, text = [], path.read_text(encoding="utf-8")
    if stripped(text) != text:
        problems.append(f"{path}: holds outputs or machine metadata; run notebooks --strip")
    for i, cell in enumerate(nbformat.reads(text, as_version=4).cells):
        if cell.cell_type == "markdown":
            for link in PICTURE.findall(cell.source):
                if not (path.parent / link).is_file():
                    problems.append(f"{path}: cell {i} shows {link}, which does not exist")
    return problems


def execute(path: Path) -> tuple[Notebook, list[str]]:
    """Run a notebook in a fresh kernel and an empty folder; return it and its problems."""
    notebook = nbformat.read(path, as_version=4)
    with TemporaryDirectory() as empty:
        client = NotebookClient(
            notebook,
            timeout=CELL_LIMIT,
            startup_timeout=CELL_LIMIT,
            kernel_name="python3",
            store_widget_state=True,
            extra_arguments=["--log-level=ERROR"],
            resources={"metadata": {"path": empty}},
        )
        try:
            client.execute()
        except CellExecutionError as error:
            return notebook, [f"{path.name}: {error.ename}: {error.evalue}"]
        except AssertionError as error:  # nbclient ended its kernel on Ctrl-C
            raise KeyboardInterrupt from error
        except (TimeoutError, RuntimeError) as error:  # the kernel died or does not answer
            return notebook, [f"{path.name}: {str(error).splitlines()[0]}"]
    return notebook, [f"{path.name}: {problem}" for problem in complaints(notebook)]


def complaints(notebook: Notebook) -> Iterator[str]:
    """Find warnings from this package, tracebacks of threads, and errors inside widgets."""
    for i, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            text = output.get("text", "")
            yield from (f"cell {i}: {warning}" for warning in OUR_WARNING.findall(text))
            if "Traceback (most recent call last)" in text:
                yield f"cell {i}: {text.strip().splitlines()[-1]}"
    saved = notebook.metadata.get("widgets", {})
    states = saved.get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    for widget in states.values():
        for output in widget["state"].get("outputs", ()):
            if output.get("output_type") == "error":
                yield f"a widget swallowed {output['ename']}: {output['evalue']}"
        value = widget["state"].get("value", "")
        if isinstance(value, str) and '<span role="alert"' in value:
            yield "a widget shows the error " + re.sub("<[^>]*>", "", value)


def run(
    paths: Sequence[Path], executed: Path | None = None, pages: Path | None = None
) -> list[str]:
    """Run notebooks and return their problems; write executed copies and HTML pages if given."""
    for place in (executed, pages):
        if place is not None:
            folder(place)
    problems = list[str]()
    with tqdm(paths, desc="notebooks", unit="notebook") as bar:
        for path in bar:
            bar.set_postfix_str(path.stem)
            problems += committed(path)
            notebook, errors = execute(path)
            problems += errors
            if executed is not None:
                write_utf8(executed / path.name, nbformat.writes(notebook))
            if pages is not None:
                page = to_html(notebook, path.resolve())
                write_utf8(pages / f"{path.stem}.html", page)
    return problems
