"""environment.yml and pyproject.toml name the same packages; the README keeps its two commands."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import fastvar_lab as fv
from fastvar_lab.experiments import figures

ROOT = Path(__file__).parent.parent
CONDA_NAMES = {"torch": "pytorch", "playwright": "playwright-python"}
TORCHLESS = "import sys; assert not {'torch', 'pandas', 'scipy'} & set(sys.modules), 'heavy'"


def name(requirement):
    return re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower()


def test_conda_and_pip_install_the_same_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pip = {name(r) for r in project["dependencies"] + project["optional-dependencies"]["test"]}
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = {name(r) for r in environment["dependencies"] if isinstance(r, str)}
    assert environment["channels"] == ["conda-forge"]
    assert conda - {"python", "pip"} == {CONDA_NAMES.get(p, p) for p in pip}


def test_readme_has_the_two_commands_and_pictures_that_exist():
    readme = (ROOT / "README.md").read_text()
    assert "pip install -e . && python -m fastvar_lab demo" in readme
    assert 'pip install -e ".[test]" && pytest' in readme
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", readme)
    assert pictures
    assert all((ROOT / p).is_file() for p in pictures)
    assert readme.index(pictures[0]) < readme.index("pip install")


def test_the_readme_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, flags=re.S)
    assert len(blocks) == 3
    names: dict[str, object] = {}  # a reader goes on in the same session
    for block in blocks:
        exec(block, names)


def test_committed_figures_are_what_their_data_draw():
    assert len(list((ROOT / "figures").glob("*.json"))) >= 2
    assert figures.check(ROOT / "figures") == []


def test_the_top_level_is_the_one_agreed_on():
    for entry in ("notebooks", "fastvar_lab", "figures", "tests", "environment.yml", "README.md"):
        assert (ROOT / entry).exists()


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_the_library_is_imported_in_a_moment_and_without_torch():
    timed = (
        "import time; t = time.perf_counter(); import fastvar_lab; print(time.perf_counter() - t)"
    )
    seconds = [float(run(f"{timed}; {TORCHLESS}").stdout) for _ in range(3)]
    assert min(seconds) < 0.1


@pytest.mark.parametrize(
    "modules",
    ["plotting", "plotting.charts, fastvar_lab.plotting.panels, fastvar_lab.plotting.tables"],
)
def test_plotting_needs_no_torch(modules):
    run(f"import fastvar_lab.{modules}; import sys; assert 'torch' not in sys.modules")


def test_every_public_name_is_there():
    assert set(fv.__all__) <= set(dir(fv))
    for name in fv.__all__:
        thing = getattr(fv, name)
        assert fv.__dict__[name] is thing  # looked up once
        if isinstance(thing, type):
            assert thing.__name__ == name
    stub = ast.parse((ROOT / "fastvar_lab" / "__init__.pyi").read_text())
    listed = [a for node in stub.body if isinstance(node, ast.ImportFrom) for a in node.names]
    assert sorted(a.name for a in listed) == sorted(fv.__all__)
    assert all(a.asname == a.name for a in listed)  # so that type checkers see them
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = fv.nothing_here
    with pytest.raises(AttributeError, match="Nothing"):
        _ = fv.Nothing


def test_registered_methods_are_public_without_a_second_edit(monkeypatch):
    from fastvar_lab.methods import parse

    class Mine:
        pass

    monkeypatch.setitem(parse.NAMES, "Mine", Mine)
    assert fv.Mine is Mine
