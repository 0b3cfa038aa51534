"""Run notebooks from top to bottom, strip them, and find what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tqdm.auto import tqdm

from fastvar_lab.errors import unknown
from fastvar_lab.files import folder, write

CELL_LIMIT = 600  # seconds; a cell that takes longer has failed
PICTURE = re.compile(r"!\[[^]]*\]\(([^)]+)\)")
OUR_WARNING = re.compile(r"fastvar_lab/\S+:\d+: (\w*Warning: .*)")

Notebook = Any


def find(place: Path, names: Sequence[str] = ()) -> list[Path]:
    """Return the notebooks of a folder, or those named; raise ValueError naming the nearest."""
    there = sorted(place.glob("*.ipynb"))
    if not there:
        raise ValueError(f"there are no notebooks in {place}")
    by_name = {path.stem: path for path in there}
    for name in names:
        if name not in by_name:
            raise unknown("notebook", name, by_name)
    return [by_name[name] for name in names] if names else there


def stripped(text: str) -> str:
    """Take outputs, counts, widgets and a machine's metadata out of a notebook's text."""
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
    """Strip a notebook in place; tell whether there was anything to take out."""
    before = path.read_text()
    after = stripped(before)
    if after != before:
        write(path, lambda partial: partial.write_text(after))
    return after != before


def committed(path: Path) -> list[str]:
    """List what should not be committed: outputs, and pictures that do not exist."""
    wrong, text = [], path.read_text()
    if stripped(text) != text:
        wrong.append(f"{path}: holds an output, or a machine's metadata; run notebooks --strip")
    for i, cell in enumerate(nbformat.reads(text, as_version=4).cells):
        if cell.cell_type == "markdown":
            for link in PICTURE.findall(cell.source):
                if not (path.parent / link).is_file():
                    wrong.append(f"{path}: cell {i} shows {link}, which does not exist")
    return wrong


def execute(path: Path) -> tuple[Notebook, list[str]]:
    """Run a notebook in a fresh kernel and an empty folder; return it with what went wrong."""
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
        except (TimeoutError, RuntimeError) as error:  # a kernel that does not answer, or died
            return notebook, [f"{path.name}: {str(error).splitlines()[0]}"]
    return notebook, [f"{path.name}: {told}" for told in complaints(notebook)]


def complaints(notebook: Notebook) -> Iterator[str]:
    """Find warnings of ours, tracebacks of threads, and errors that a widget swallowed."""
    for i, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            text = output.get("text", "")
            yield from (f"cell {i}: {told}" for told in OUR_WARNING.findall(text))
            if "Traceback (most recent call last)" in text:
                yield f"cell {i}: {text.strip().splitlines()[-1]}"
    kept = notebook.metadata.get("widgets", {})
    states = kept.get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    for widget in states.values():
        for output in widget["state"].get("outputs", ()):
            if output.get("output_type") == "error":
                yield f"a widget swallowed {output['ename']}: {output['evalue']}"
        value = widget["state"].get("value", "")
        if isinstance(value, str) and 'role="alert"' in value:
            yield "a widget shows the error " + re.sub("<[^>]*>", "", value)


def to_html(notebook: Notebook, beside: Path) -> str:
    """Turn an executed notebook into one page, pictures included; its links start `beside`."""
    from nbconvert import HTMLExporter

    notebook = deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":  # only what lies below a page's folder is embedded
            cell.source = cell.source.replace("](../", "](")
    exporter = HTMLExporter(embed_images=True)
    resources = {"metadata": {"path": str(beside.parent)}}
    page: str = exporter.from_notebook_node(notebook, resources)[0]
    return page


def run(
    paths: Sequence[Path], executed: Path | None = None, pages: Path | None = None
) -> list[str]:
    """Run notebooks, write executed copies and pages where asked; return what went wrong."""
    for place in (executed, pages):
        if place is not None:
            folder(place)
    wrong = list[str]()
    with tqdm(paths, desc="notebooks", unit="notebook") as bar:
        for path in bar:
            bar.set_postfix_str(path.stem)
            wrong += committed(path)
            notebook, found = execute(path)
            wrong += found
            if executed is not None:
                text = nbformat.writes(notebook)
                write(executed / path.name, lambda partial, t=text: partial.write_text(t))  # type: ignore[misc]
            if pages is not None:
                page = to_html(notebook, path.resolve().parent)
                write(
                    pages / f"{path.stem}.html",
                    lambda partial, p=page: partial.write_text(p),  # type: ignore[misc]
                )
    return wrong
