"""Packages, the public face, and what README and docs promise: links, names, options, snippets."""

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import yaml

import fastvar_lab as fv
from fastvar_lab.cli.main import _parser
from fastvar_lab.experiments import base, figures
from fastvar_lab.experiments.output import read_frame, read_rows
from fastvar_lab.measure.ranking import ranking
from fastvar_lab.models import spec as model_spec
from fastvar_lab.models import tiny
from fastvar_lab.scales import square

ROOT = Path(__file__).parent.parent
CARD = ROOT / "fastvar_lab" / "weights" / "MODEL_CARD.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHARED = {  # options by the section of docs/commands.md that explains them
    "options-of-models": {"--model", "--weights", "--device", "--dtype", "--lora", "--lora-scale"},
    "options-of-results": {"--store", "--known", "--workers", "--scheduler", "--prompts"},
}
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


def test_the_first_screen_of_the_readme_is_short():
    screen = (ROOT / "README.md").read_text().partition("## What you can do")[0]
    assert len(screen.splitlines()) < 60
    for promised in ("](figures/demo.png)", "```python", "| method |", "arxiv.org", "github.com"):
        assert promised in screen


@pytest.mark.parametrize("page", [*PAGES, CARD], ids=lambda page: page.stem)
def test_links_point_to_what_exists(page):
    text = page.read_text()
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    local = [target for target in targets if not target.startswith("https://")]
    for target in local:
        path, _, section = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), target
        if section:
            heads = re.findall(r"^#+ (.*)$", there.read_text(), flags=re.M)
            anchors = {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}
            assert section in anchors, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_are_named_exist(page):
    """Paths in backticks, below the repository or the package; names of our modules too."""
    for path in re.findall(r"`([\w/]+/[\w/.]*)`", page.read_text()):
        assert any((ROOT / base / path).exists() for base in ("", "fastvar_lab")), path
    for module in re.findall(r"`(fastvar_lab(?:\.\w+)+)`", page.read_text()):
        parent, _, name = module.rpartition(".")
        found = importlib.util.find_spec(parent)
        assert found, module
        assert importlib.util.find_spec(module) or hasattr(importlib.import_module(parent), name)


def script(page):
    """Return the Python of a page: its blocks, and the code of tables of tasks, in order."""
    block = r"^```python\n(?P<block>.*?)^```$"
    line = r"^\|[^|\n]+\| `(?P<line>(\w+(, \w+)* = )?[\w.]+\([^`\n]*)` \|$"
    pattern = f"{block}|{line}"
    found = re.finditer(pattern, page.read_text(), flags=re.S | re.M)
    return "\n".join(match["block"] or match["line"] for match in found)


SMALL = square(1, 2, 3, 4, 5, 6, 7, 8, 12, 22)  # as many steps; 176 px is what MS-SSIM needs
WITH_CODE = [page for page in PAGES if script(page)]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_in_one_session(page, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(base.SCOPES, "quick", base.Scope("quick", prompts=1, repeats=1))
    monkeypatch.setattr(tiny, "TINY", SMALL)
    model_spec._open.cache_clear()
    request.addfinalizer(model_spec._open.cache_clear)  # later tests want the whole model
    path = tmp_path / f"{page.stem.lower()}_page.py"
    path.write_text(script(page))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)  # rules are addressed by their sources
    spec.loader.exec_module(module)


def test_the_results_of_the_readme_are_those_of_the_figures():
    compared = read_frame(ROOT / "figures" / "rivals")
    rows = [ranking(compared), ranking(read_rows(ROOT / "figures" / "budget"))]
    rows[1] = rows[1][rows[1].family == "planned"]
    measured = pd.concat(rows).set_index(["family", "guidance", "target"])["mean"]
    readme = (ROOT / "README.md").read_text()
    table = re.findall(r"^\| (\w[\w ,]*?) \| ([\d.|\- ]+) \|$", readme, flags=re.M)
    table = {name: cells.split(" | ") for name, cells in table}
    assert len(table) >= 8
    places = [(scale, speed) for scale in (2.0, 4.0) for speed in (1.5, 2.0, 3.0)]
    for name, cells in table.items():
        for place, cell in zip(places, cells, strict=True):
            value = measured[(name, *place)]
            assert cell == ("-" if value != value else f"{value:.1f}"), (name, place)
    assert f"{compared.picture.nunique()} held-out prompts" in readme


def test_findings_quote_the_tables_that_they_link_to():
    page = ROOT / "docs" / "findings.md"
    sections = page.read_text().split("\n## ")[1:]
    assert len(sections) == 5
    for section in sections:
        links = re.findall(r"\]\((\.\./[^)]+)\)", section)
        tables = [(page.parent / link).read_text() for link in links if link.endswith(".md")]
        assert tables, section
        assert any(link.endswith(".png") for link in links), section
        assert any(link.endswith(".ipynb") for link in links), section
        quoted = re.findall(r"[+-]?[\d.]+(?: dB)? \([+-]?[\d.]+ to [+-]?[\d.]+", section)
        assert quoted, section
        for number in quoted:
            assert any(number in table for table in tables), (section.partition("\n")[0], number)


@pytest.mark.parametrize("name", ["budget", "small_maps"])
def test_the_gains_of_planning_are_those_of_the_figures(name):
    page = (ROOT / "docs" / "planning.md").read_text()
    table = (ROOT / "figures" / f"{name}_gains.md").read_text()
    rows = re.findall(r"^\| [24] .*\|$", re.sub(" +", " ", table), flags=re.M)
    assert len(rows) == 8
    assert [row for row in rows if row not in page] == []
    frame = read_rows(ROOT / "figures" / name)
    pictures = frame.picture.nunique() if "picture" in frame else int(frame.n.max())
    assert f"easured on {pictures} held-out prompts" in page


def test_the_gaps_of_the_speed_page_are_those_of_the_figure():
    page = (ROOT / "docs" / "speed.md").read_text()
    measured = read_frame(ROOT / "figures" / "speed_gap").set_index(["side", "method"])
    rows = re.findall(r"^\| ([\w ,]+) \| (-?\d+ % \(.*) \|$", page, flags=re.M)
    assert len(rows) >= 8
    for name, cells in rows:
        for part, cell in zip(("gap", "choosing", "restoring", "products"), cells.split(" | ")):
            small, large = (round(100 * measured.loc[(side, name), part]) for side in (32, 64))
            assert cell == f"{small} % ({large} %)", (name, part)


def test_every_public_name_is_in_the_table_of_the_docs_and_nothing_else():
    text = (ROOT / "docs" / "api.md").read_text()
    names = re.findall(r"^\| `(\w+)` \| \S.*\|$", text, flags=re.M)
    assert sorted(names) == sorted(fv.__all__)


def test_the_docs_name_every_command_and_option_and_nothing_else():
    text = (ROOT / "docs" / "commands.md").read_text()
    commands = _parser()._subparsers._group_actions[0].choices
    parts = re.split(r"^## ", text, flags=re.M)
    sections = {part.split()[0]: part for part in parts[1:]}
    assert set(sections) - {"Options"} == set(commands)
    readme = (ROOT / "README.md").read_text()
    for name, parser in commands.items():
        assert re.search(rf"^\| `{name}[ `]", readme, flags=re.M), name
        options = {option for action in parser._actions for option in action.option_strings}
        named = set(re.findall(r"`(--[\w-]+)", sections[name]))
        for group, members in SHARED.items():
            named |= members if f"(#{group})" in sections[name] else set()
        assert named == options - {"-h", "--help"}, name


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
    from fastvar_lab.methods import registry

    monkeypatch.setattr(registry, "_CLASSES", dict(registry.classes()))
    monkeypatch.setattr(registry, "_SELECTORS", registry.selectors())

    @registry.selector("mine")
    class Mine:
        pass

    assert fv.Mine is Mine
    assert isinstance(registry.selectors()["mine"], Mine)
