"""Every example in a docstring, run."""

import doctest
import importlib
import os
import pkgutil

import pytest

import fastvar_lab


def examples():
    """Docstrings with examples, of all modules that can be imported without running a command."""
    found = pkgutil.walk_packages(fastvar_lab.__path__, "fastvar_lab.")
    modules = [importlib.import_module(m.name) for m in found if not m.name.endswith("__main__")]
    finder = doctest.DocTestFinder()
    return [test for module in modules for test in finder.find(module) if test.examples]


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """A folder for the cells of experiments, unless the run at hand has its own."""
    return os.environ.get("XDG_CACHE_HOME") or str(tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("example", examples(), ids=lambda e: e.name.removeprefix("fastvar_lab."))
def test_an_example_says_what_it_prints(example, cells, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", cells)
    told = []
    doctest.DocTestRunner(verbose=False).run(example, out=told.append)
    assert told == [], "".join(told)
