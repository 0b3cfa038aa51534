"""Text files are UTF-8 in every locale."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import fastvar_lab

SOURCES = sorted(Path(fastvar_lab.__file__).parent.rglob("*.py"))
TEXT = {"read_text", "write_text"}
STREAMS = {"open", "fdopen", "NamedTemporaryFile", "TextIOWrapper"}
OTHERS = {"Image", "archive", "os", "spec"}  # whose `open` reads no text
ASCII = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def without_encoding(tree):
    """Yield the lines of calls that read or write text in the locale's encoding."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        owner = getattr(getattr(call.func, "value", None), "id", "")
        named = any(keyword.arg == "encoding" for keyword in call.keywords)
        texts = [a.value for a in call.args if isinstance(a, ast.Constant)]
        binary = any(isinstance(t, str) and "b" in t and len(t) < 4 for t in texts)
        streams = name in STREAMS and not binary and owner not in OTHERS and call.args
        if not named and (name in TEXT or streams):
            yield call.lineno


def test_calls_without_an_encoding_are_found():
    tree = ast.parse("p.read_text()\nopen(p)\nopen(p, 'rb')\np.write_text(t, encoding='utf-8')")
    assert list(without_encoding(tree)) == [1, 2]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_text_file_is_opened_with_its_encoding(path):
    assert not list(without_encoding(ast.parse(path.read_text(encoding="utf-8"))))


def lab(*arguments):
    """Run a command in an ASCII locale."""
    command = [sys.executable, "-X", "utf8=0", "-m", "fastvar_lab", *arguments]
    return subprocess.run(command, env=ASCII, capture_output=True, check=False)


def test_notebooks_are_stripped_and_executed_in_an_ascii_locale(tmp_path):
    cells = [nbformat.v4.new_markdown_cell("# 24 → β"), nbformat.v4.new_code_cell("print('β')")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "greek.ipynb")
    place = ["notebooks", "--folder", str(tmp_path)]
    for options in (["--strip"], ["--execute", str(tmp_path), "--html", str(tmp_path)]):
        done = lab(*place, *options)
        assert done.returncode == 0, done.stderr
    assert "24 → β" in (tmp_path / "greek.html").read_text(encoding="utf-8")


def test_what_a_terminal_cannot_show_is_escaped(tmp_path):
    place = tmp_path / "ππ"
    shown = lab("store", "--store", str(place))
    assert shown.returncode == 0, shown.stderr
