"""environment.yml and pyproject.toml name the same packages; the README keeps its two commands."""

import re
import tomllib
from pathlib import Path

import yaml

from fastvar_lab.experiments import figures

ROOT = Path(__file__).parent.parent
CONDA_NAMES = {"torch": "pytorch", "playwright": "playwright-python"}


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
