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
PICTURES = ("image/png", "image/jpeg")
TEXTS = ("LabelModel", "HTMLModel")
TAG = re.compile(r"<[^>]+>")
SCRIPT = re.compile(r"<script\b.*?</script\s*>", flags=re.S | re.I)
REMOTE = re.compile(r"<link\b[^>]*\bhref=[\"']?(?:https?:)?//[^>]*>", flags=re.I)
EMBEDDED = re.compile(
    r"<(img|iframe|video|audio|embed|source)\b[^>]*?\bsrc=[\"']?((?:https?:)?//[^\"'\s>]+)[^>]*>"
    r"(?:\s*</(?:iframe|video|audio)>)?",
    flags=re.I,
)
STYLE = re.compile(r"<style\b[^>]*>.*?</style>", flags=re.S | re.I)
LOADED = re.compile(r"@import\b[^;]*;|url\(\s*[\"']?(?:https?:)?//[^)]*\)", flags=re.I)
UNDESCRIBED = "No description has been provided for this image"  # nbconvert's alternative text


def to_html(notebook: Notebook, beside: Path) -> str:
    """Turn an executed notebook into one HTML page with its pictures embedded.

    Links of the notebook are resolved relative to the file `beside`. Widgets are still pictures
    of their last state; the first heading is the page's title; pictures have alternative texts.
    What lies on other hosts is a link.
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
    page = REMOTE.sub("", SCRIPT.sub("", page))
    page = STYLE.sub(lambda style: LOADED.sub("", style[0]), page)
    return EMBEDDED.sub(_as_link, page)


def _as_link(tag: re.Match[str]) -> str:
    """Write what a page would load from another host as a link with its alternative text."""
    described = re.search(r"\balt=\"([^\"]+)\"", tag[0])
    text = described[1] if described and described[1] != UNDESCRIBED else tag[2]
    return f'<a href="{tag[2]}">{text}</a>'


def _below(place: Path, link: re.Match[str]) -> str:
    """Write a picture's link relative to the folder above: nbconvert embeds what lies below it."""
    if ":" in link[2]:  # an address, or an attachment
        return link[0]
    target = os.path.relpath(place / link[2], place.parent)
    return f"{link[1]}({Path(target).as_posix()})"


def title(notebook: Notebook) -> str:
    """Return the first heading of a notebook's text, without marks; empty if it has none."""
    texts = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    heading = re.search(r"^#+ +(.+)$", texts, flags=re.M)
    return re.sub("[`*]", "", TAG.sub("", heading[1])).strip() if heading else ""


def _make_still(output: Any, source: str, states: Mapping[str, Any]) -> None:
    """Write a widget or a picture of an output as plain HTML."""
    data = output.get("data", {})
    if VIEW in data:
        output.data = {"text/html": still(data[VIEW]["model_id"], states)}
    elif kind := next((kind for kind in PICTURES if kind in data), None):
        statements = [line for line in source.splitlines() if line[:1].isidentifier()]
        last = statements[-1] if statements else "this cell"
        output.data = {"text/html": _image(data[kind], f"Output of {last}", kind)}


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
        return _scripted_widget(widget)
    if kind == "OutputModel":
        return "".join(_held(output, states) for output in state.get("outputs", ()))
    text = _value(state)
    return f"<div>{html.escape(text)}</div>" if text else ""


def _scripted_widget(widget: Mapping[str, Any]) -> str:
    """Write a widget with a script of its own: a table, pictures, or label and text."""
    state = widget["state"]
    if "columns" in state:
        return _points(state)
    pictures = []
    for held in widget.get("buffers", ()):
        described: Any = state
        for key in held["path"][:-1]:
            described = described[key]
        if not described.get("hidden"):
            pictures.append(_figure(held["data"], described))
    text = ""
    if state.get("text") and state.get("kind", "toggle") != "toggle":
        text = f"<div>{html.escape(state['label'])}: {html.escape(state['text'])}</div>"
    if not pictures:
        return text
    return f'<div style="display:flex;flex-flow:row wrap;gap:8px">{"".join(pictures)}</div>{text}'


def _held(output: Mapping[str, Any], states: Mapping[str, Any]) -> str:
    """Write an output that was captured in a widget: a widget, a picture, HTML or text."""
    data = output.get("data", {})
    if VIEW in data:
        return still(data[VIEW]["model_id"], states)
    for kind in PICTURES:
        if kind in data:
            return _image(data[kind], "output of a widget", kind)
    if "text/html" in data:
        return f"<div>{data['text/html']}</div>"
    error = f"{output.get('ename')}: {output.get('evalue')}" if "ename" in output else ""
    return f"<pre>{html.escape(output.get('text') or data.get('text/plain') or error)}</pre>"


def _box(state: Mapping[str, Any], kind: str, states: Mapping[str, Any]) -> str:
    """Write the parts of a box; a text names the picture after it."""
    parts, label = list[str](), ""
    for child in state["children"]:
        name = child.removeprefix("IPY_MODEL_")
        parts.append(still(name, states, label))
        known = states.get(name, {})
        value = known["state"].get("value", "") if known.get("model_name") in TEXTS else ""
        label = html.unescape(TAG.sub("", value))
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


def _points(state: Mapping[str, Any]) -> str:
    """Write the points of a scatter plot as a table."""
    rows = [[point["name"], *point["cells"]] for point in state["points"]]
    head = "".join(f"<th>{html.escape(title)}</th>" for title in state["columns"])
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(text)}</td>' for text in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _figure(data: str, described: Mapping[str, Any]) -> str:
    """Write a picture of a widget, with its title and note if it has one."""
    picture = _image(data, described.get("alt", "picture of a widget"))
    if not described.get("title"):
        return picture
    texts = (described["title"], described.get("note", ""))
    caption = html.escape(", ".join(text for text in texts if text))
    sharp = ";image-rendering:pixelated" if described.get("cells") else ""
    picture = picture.replace("<img ", f'<img style="width:100%{sharp}" ', 1)
    return (
        f'<figure style="margin:0;width:240px"><figcaption>{caption}</figcaption>{picture}</figure>'
    )


def _image(data: str, label: str, kind: str = PICTURES[0]) -> str:
    source = "".join(data.split())
    return f'<img alt="{html.escape(label)}" src="data:{kind};base64,{source}">'
