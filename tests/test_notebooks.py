"""Notebooks as committed, and the command that runs them. CI runs all of them with the command."""

import ast
import doctest
import html
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat import v4

import fastvar_lab
from fastvar_lab.cli import notebook_runner
from fastvar_lab.cli.main import main
from fastvar_lab.cli.notebook_pages import STATE, VIEW, to_html

ROOT = Path(__file__).parent.parent
ALL = notebook_runner.find(ROOT / "notebooks")


def code_of(path):
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    return [c.source for c in cells]


def used():
    """Public functions and classes of ours that notebooks call, as module and name."""
    found = set()
    for path in ALL:
        tree = ast.parse("\n".join(code_of(path)))
        names = {"fv": fastvar_lab}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("fastvar_lab"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    try:
                        names[alias.name] = getattr(module, alias.name)
                    except AttributeError:
                        names[alias.name] = importlib.import_module(f"{node.module}.{alias.name}")
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                parts = ast.unparse(node.func).split(".")
                value = names.get(parts[0])
                for part in parts[1:]:
                    value = getattr(value, part, None)
                if inspect.isfunction(value) or inspect.isclass(value):
                    found.add(value)
    return sorted(found, key=lambda f: (f.__module__, f.__qualname__))


def test_they_are_numbered():
    assert [p.stem[:2] for p in ALL] == [f"{i:02}" for i in range(1, 14)]


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_a_committed_notebook_is_thin_and_clean(path):
    assert notebook_runner.committed(path) == []
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert "**Answer.**" in first.source
    assert "../figures/" in first.source
    assert sum("parameters" in c.metadata.get("tags", ()) for c in notebook.cells) == 1
    code = code_of(path)
    own = path.stem.startswith("10")
    assert len(code) <= 12
    assert sum(len(c.splitlines()) for c in code) <= 80
    for cell in code:
        assert len(cell.splitlines()) <= (20 if own else 15), cell
        assert own or not re.search(r"^\s*(def|class) ", cell, flags=re.M), cell
        assert "open(" not in cell


@pytest.mark.parametrize("thing", used(), ids=lambda f: f.__qualname__)
def test_what_notebooks_use_has_an_example(thing):
    module = inspect.getmodule(thing)
    (test,) = doctest.DocTestFinder(recurse=False).find(thing, thing.__qualname__, module)
    assert test.examples, f"{module.__name__}.{thing.__qualname__} has no example"


def write(path, *cells, markdown=()):
    notebook = nbformat.v4.new_notebook(
        cells=[
            *(nbformat.v4.new_markdown_cell(m) for m in markdown),
            *(nbformat.v4.new_code_cell(c) for c in cells),
        ]
    )
    nbformat.write(notebook, path)
    notebook_runner.strip(path)
    return path


def test_what_goes_wrong_in_a_notebook_is_found(tmp_path, capsys):
    write(tmp_path / "good.ipynb", "1 + 1", markdown=["# Good"])
    assert main(["notebooks", "--folder", str(tmp_path), "--execute", str(tmp_path / "done")]) == 0
    done = nbformat.read(tmp_path / "done" / "good.ipynb", as_version=4)
    assert done.cells[1].outputs[0].data["text/plain"] == "2"
    write(
        tmp_path / "bad.ipynb",
        "import ipywidgets as w\nfrom fastvar_lab.widgets.panel import Status\n"
        "status = Status()\nstatus.fail(ValueError('a widget error'))\nstatus",
        "import warnings\n"
        "warnings.warn_explicit('old', UserWarning, '/somewhere/fastvar_lab/seam.py', 7)",
        "import threading\nt = threading.Thread(target=lambda: 1 / 0)\nt.start(); t.join()",
        "out = w.Output()\nwith out:\n    raise KeyError('swallowed')",
        markdown=["![gone](nowhere.png)"],
    )
    capsys.readouterr()
    assert main(["notebooks", "bad", "--folder", str(tmp_path)]) == 2
    told = capsys.readouterr().out
    for part in ("nowhere.png", "a widget error", "UserWarning: old", "ZeroDivisionError",
                 "swallowed KeyError"):  # fmt: skip
        assert part in told
    write(tmp_path / "raises.ipynb", "raise ValueError('plain')")
    assert notebook_runner.execute(tmp_path / "raises.ipynb")[1] == [
        "raises.ipynb: ValueError: plain"
    ]


def test_a_page_is_whole_without_scripts_and_other_hosts(tmp_path):
    place = tmp_path / "notebooks"
    (tmp_path / "figures").mkdir()
    place.mkdir()
    shutil.copy(ROOT / "figures" / "memory.png", tmp_path / "figures")
    page_of = (
        "import numpy as np\nfrom fastvar_lab.plotting.panels import gallery\n"
        "gallery({'noise': np.eye(8)})",
        "import ipywidgets as w, numpy as np\n"
        "from fastvar_lab.widgets.page import PointsTable, Viewer, style_sheet\n"
        "points = [{'name': 'a < b', 'cells': ['30']}]\n"
        "table = PointsTable(columns=['method', 'dB'], points=points)\n"
        "shown = Viewer({'scores': 'scores'})\n"
        "shown.put('scores', np.eye(8)[..., None].repeat(3, -1), note='of 32x32')\n"
        "w.VBox([style_sheet(), table, shown,"
        " w.FloatSlider(0.5, description='pruned'), w.HTML('<b>2.5</b> times')])",
    )
    shutil.copytree(tmp_path / "figures", place / "figures")  # as in copies
    text = (
        "# What is kept\n\n![caches by size](../figures/memory.png)"
        "\n\n![caches](figures/memory.png)"
    )
    write(place / "one.ipynb", *page_of, markdown=[text])
    write(place / "two.ipynb", "1 / 0", markdown=["# Not run"])
    pages = tmp_path / "pages"
    assert main(["notebooks", "one", "--folder", str(place), "--html", str(pages)]) == 0
    assert [path.name for path in pages.iterdir()] == ["one.html"]
    page = (pages / "one.html").read_text(encoding="utf-8")
    assert "<title>What is kept</title>" in page
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)
    assert "url(http" not in page
    images = re.findall(r"<img[^>]*>", page)
    assert len(images) == 4
    assert all('src="data:image/png;base64,iVBOR' in image for image in images)
    alts = [re.search(r'alt="([^"]*)"', image)[1] for image in images]
    assert [html.unescape(alt) for alt in alts] == [
        "caches by size",
        "caches",
        "Output of gallery({'noise': np.eye(8)})",
        "scores",
    ]
    assert "pruned: 0.5" in page
    assert "<b>2.5</b> times" in page
    assert "<tr><td>a &lt; b</td><td>30</td></tr>" in page
    assert "<figcaption>scores, of 32x32</figcaption>" in page


def test_a_page_loads_nothing_and_shows_what_widgets_captured(tmp_path):
    far = "https://example.org"
    style = f"<style>@import url({far}/x.css); p {{background: url({far}/y.png)}}</style>"
    text = (
        f"# The `x` of *y*\n\n![a map]({far}/a.png) <img src='{far}/b.png'>\n\n"
        f"<iframe src='{far}/c'></iframe>"
    )
    shown = v4.new_output("display_data", {"text/html": f"<link rel=a href={far}/z.css>{style}"})
    photo = v4.new_output("display_data", {"image/jpeg": "/9j/"})
    view = v4.new_output("display_data", {VIEW: {"model_id": "out"}})
    inside = [v4.new_output("stream", text="3 < 4"), photo]
    notebook = v4.new_notebook(cells=[v4.new_markdown_cell(text)])
    for output in (shown, photo, view):
        notebook.cells.append(v4.new_code_cell("draw()", outputs=[output]))
    widget = {"model_name": "OutputModel", "state": {"outputs": inside}}
    notebook.metadata["widgets"] = {STATE: {"state": {"out": widget}}}
    page = to_html(notebook, tmp_path / "one.ipynb")
    assert "<title>The x of y</title>" in page
    assert not re.search(r"<(?:img|iframe|link)[^>]*https", page)
    assert "@import" not in page
    assert "url(http" not in page
    assert f'<a href="{far}/a.png">a map</a>' in page
    assert f'<a href="{far}/b.png">{far}/b.png</a>' in page
    assert page.count('src="data:image/jpeg;base64,/9j/"') == 2
    assert 'alt="Output of draw()"' in page
    assert "3 &lt; 4" in page


def test_outputs_are_stripped_once(tmp_path, capsys):
    path = write(tmp_path / "full.ipynb", "1 + 1")
    notebook, wrong = notebook_runner.execute(path)
    assert wrong == []
    nbformat.write(notebook, path)
    assert "holds outputs" in notebook_runner.committed(path)[0]
    assert main(["notebooks", "--strip", "--folder", str(tmp_path)]) == 0
    assert notebook_runner.committed(path) == []
    assert main(["notebooks", "--strip", "--folder", str(tmp_path)]) == 0
    assert "nothing to strip" in capsys.readouterr().out


def test_notebooks_are_copied_with_their_pictures_and_overwrite_nothing(tmp_path, capsys):
    place = tmp_path / "mine"
    assert main(["notebooks", "--copy", str(place)]) == 0
    copies = notebook_runner.find(place)
    assert [path.name for path in copies] == [path.name for path in ALL]
    assert [problem for path in copies for problem in notebook_runner.committed(path)] == []
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    copies[0].unlink()
    assert main(["notebooks", "--copy", str(place)]) == 2
    assert "exists; copy to another folder" in capsys.readouterr().err
    assert not copies[0].exists()
    assert all(path.read_bytes() == before[path] for path in before if path != copies[0])
    assert main(["notebooks", "01_generat", "--copy", str(tmp_path / "none")]) == 2
    assert "nearest: 01_generate" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert main(["notebooks", "01_generate", "--copy", str(tmp_path / "one")]) == 0
    assert [path.stem for path in notebook_runner.find(tmp_path / "one")] == ["01_generate"]


def test_a_wheel_brings_the_notebooks(tmp_path):
    source, target = tmp_path / "source", tmp_path / "installed"
    for name in ("fastvar_lab", "notebooks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (
        "pyproject.toml",
        "README.md",
        "LICENSE",
        *(p.relative_to(ROOT) for p in (ROOT / "figures").glob("*.png")),
    ):
        (source / path).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / path, source / path)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=source, check=True,
                   capture_output=True)  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    install = ["pip", "install", "--no-deps", "--no-index", "-q", "--target", target, wheel]
    subprocess.run([sys.executable, "-m", *install], check=True)
    env = {**os.environ, "PYTHONPATH": str(target)}
    command = [sys.executable, "-m", "fastvar_lab", "notebooks", "--copy", tmp_path / "mine"]
    subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True)
    copies = notebook_runner.find(tmp_path / "mine")
    assert [path.name for path in copies] == [path.name for path in ALL]
    assert [problem for path in copies for problem in notebook_runner.committed(path)] == []


@pytest.fixture
def opened_by_function(tmp_path, monkeypatch):
    """The name of a function that opens a model of other weights than the shipped one's."""
    text = "from tests.families import small_model\n\n\ndef open_mine():\n"
    text += "    return small_model('infinity')\n"
    (tmp_path / "models_of_a_notebook.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield "models_of_a_notebook:open_mine"
    sys.modules.pop("models_of_a_notebook", None)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (11, "there are no trials of models_of_a_notebook:open_mine at guidance 2.0; make them"),
        (13, "no schedules ship for models_of_a_notebook:open_mine; search some with the command"),
    ],
)
def test_a_notebook_that_needs_more_of_a_model_says_so(opened_by_function, number, message):
    space, cells = {}, code_of(ALL[number - 1])
    exec(cells[0], space)
    space["name"] = opened_by_function
    with pytest.raises(ValueError, match=message):
        exec("\n".join(cells[1:]), space)


def test_a_function_chooses_the_device_of_a_notebook(opened_by_function, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    space, cells = {"name": opened_by_function}, code_of(ALL[5])
    exec(cells[1], space)
    assert space["model"].device.type == "cpu"


def test_an_unknown_notebook_names_the_nearest(tmp_path, capsys):
    write(tmp_path / "01_generate.ipynb", "1")
    assert main(["notebooks", "generate", "--folder", str(tmp_path)]) == 2
    assert "nearest: 01_generate" in capsys.readouterr().err
    assert main(["notebooks", "--folder", str(tmp_path / "none")]) == 2
    told = capsys.readouterr().err
    assert f"there are no notebooks in {tmp_path / 'none'}; `notebooks --copy DIR` copies" in told
