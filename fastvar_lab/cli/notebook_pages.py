"""Executed notebooks as HTML pages: one file each, without scripts or files of other hosts."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

Notebook = Any
VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
PICTURE = re.compile(r"(!\[[^]]*\])\(([^)]+)\)")
SCRIPT = re.compile(r"<script\b.*?</script>", flags=re.S)
REMOTE = re.compile(r"<link\b[^>]*\bhref=\"(?:https?:)?//[^>]*>")


def to_html(notebook: Notebook, beside: Path) -> str:
    """Turn an executed notebook into one HTML page with its pictures embedded.

    Links of the notebook are resolved relative to the file `beside`. Widgets are still pictures
    of their last state; the first heading is the page's title; pictures have alternative texts.
    """
    from nbconvert import HTMLExporter

    notebook = deepcopy(notebook)
    states = notebook.metadata.pop("widgets", {}).get(STATE, {}).get("state", {})
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = PICTURE.sub(partial(_below, beside.parent), cell.source)
        for output in cell.get("outputs", ()):
            _make_still(output, cell.source, states)
    notebook.metadata["title"] = title(notebook) or beside.stem
    exporter = HTMLExporter(embed_images=True)
    resources = {"metadata": {"path": str(beside.parent.parent)}}
    page: str = exporter.from_notebook_node(notebook, resources)[0]
    return REMOTE.sub("", SCRIPT.sub("", page))


def _below(place: Path, link: re.Match[str]) -> str:
    """Write a picture's link relative to the folder above: nbconvert embeds what lies below it."""
    if ":" in link[2]:  # an address, or an attachment
        return link[0]
    target = os.path.relpath(place / link[2], place.parent)
    return f"{link[1]}({Path(target).as_posix()})"


def title(notebook: Notebook) -> str:
    """Return the first heading of a notebook's text; empty if it has none."""
    texts = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    heading = re.search(r"^#+ +(.+)$", texts, flags=re.M)
    return heading[1].strip() if heading else ""


def _make_still(output: Any, source: str, states: Mapping[str, Any]) -> None:
    """Write a widget or a picture of an output as plain HTML."""
    data = output.get("data", {})
    if VIEW in data:
        output.data = {"text/html": still(data[VIEW]["model_id"], states)}
    elif "image/png" in data:
        statements = [line for line in source.splitlines() if line[:1].isidentifier()]
        last = statements[-1] if statements else "this cell"
        output.data = {"text/html": _image(data["image/png"], f"Output of {last}")}


def still(name: str, states: Mapping[str, Any], label: str = "") -> str:
    """Write the last state of a widget as HTML: pictures, text, and the values of controls.

    `label` is the alternative text of a picture.
    """
    widget = states.get(name, {})
    state, kind = widget.get("state", {}), widget.get("model_name", "")
    if state.get("children"):
        return _box(state, kind, states)
    if kind == "ImageModel":
        held = {tuple(b["path"]): b["data"] for b in widget.get("buffers", ())}
        return _image(held.get(("value",), ""), label or "picture of a widget")
    if kind == "HTMLModel":
        return f"<div>{state.get('value', '')}</div>"
    if kind == "AnyModel":
        rows = "".join(_point(point) for point in state.get("points", ()))
        return f"<ul>{rows}</ul>" if rows else ""
    text = _value(state)
    return f"<div>{html.escape(text)}</div>" if text else ""


def _box(state: Mapping[str, Any], kind: str, states: Mapping[str, Any]) -> str:
    """Write the parts of a box; a label names the picture after it."""
    parts, label = list[str](), ""
    for child in state["children"]:
        name = child.removeprefix("IPY_MODEL_")
        parts.append(still(name, states, label))
        known = states.get(name, {})
        label = known["state"].get("value", "") if known.get("model_name") == "LabelModel" else ""
    direction = "row wrap" if kind == "HBoxModel" else "column"
    return f'<div style="display:flex;flex-flow:{direction};gap:6px">{"".join(parts)}</div>'


def _value(state: Mapping[str, Any]) -> str:
    """Write a control's description and value."""
    value, options = state.get("value"), state.get("_options_labels")
    if options is not None and isinstance(state.get("index"), int):
        value = options[state["index"]]
    if isinstance(value, list):
        value = " to ".join(map(str, value))
    described = state.get("description", "")
    shown = "" if value is None else str(value)
    return f"{described}: {shown}" if described and shown else shown


def _point(point: Mapping[str, Any]) -> str:
    text = f"{point.get('name')}: {point.get('x', 0):.2f}, {point.get('y', 0):.2f}"
    return f"<li>{html.escape(text)}</li>"


def _image(data: str, label: str) -> str:
    source = "".join(data.split())
    return f'<img alt="{html.escape(label)}" src="data:image/png;base64,{source}">'
