"""One look for figures and widgets: colors, words, fonts, and the difference picture."""

import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import matplotlib.figure
import matplotlib.text
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

import fastvar_lab
from fastvar_lab.plotting import panels
from fastvar_lab.plotting.charts import comparisons, steps, times
from fastvar_lab.plotting.style import (
    FAST,
    FULL,
    LOOKS,
    MARKERS,
    PALETTE,
    Figure,
    looks,
    write_figure,
)
from fastvar_lab.plotting.tables import latex, markdown
from fastvar_lab.widgets.page import Scatter, Viewer

ROOT = Path(fastvar_lab.__file__).parent


@pytest.mark.parametrize("kind", [Figure, matplotlib.figure.Figure])
def test_fonts_in_pdfs_are_truetype(kind, tmp_path):
    figure = kind()
    figure.subplots().set_title("a title, β")
    write_figure(tmp_path / "written.pdf", figure)
    Figure.savefig(figure, tmp_path / "saved.pdf") if kind is Figure else None
    for path in tmp_path.glob("*.pdf"):
        data = path.read_bytes()
        assert b"/Type3" not in data
        assert b"/FontFile2" in data


USERS = {
    "axes.facecolor": "blue", "axes.formatter.use_mathtext": True, "axes.grid": True,
    "axes.titlepad": 30, "axes.titleweight": "bold", "axes.xmargin": 1.0,
    "font.family": "monospace",
    "figure.titleweight": "bold", "figure.autolayout": True, "image.aspect": "auto",
    "image.cmap": "jet", "image.origin": "lower", "lines.antialiased": False, "lines.linewidth": 9,
    "pdf.compression": 0, "savefig.bbox": "tight", "savefig.dpi": 50, "savefig.facecolor": "red",
    "savefig.transparent": True, "svg.fonttype": "none", "text.antialiased": False,
}  # fmt: skip


def test_a_figure_is_the_same_under_any_settings_of_the_user(tmp_path, monkeypatch):
    def drawn():
        files = [tmp_path / f"x.{ending}" for ending in ("png", "pdf", "svg")]
        for figure in (*islice(pictured("a"), 1, 3), *islice(charted("a"), 2)):
            for path in files:
                write_figure(path, figure)
            yield [path.read_bytes() for path in files]
            yield figure.png(50)

    plain = [*drawn()]
    for name, value in USERS.items():
        monkeypatch.setitem(matplotlib.rcParams, name, value)
    settings = dict(matplotlib.rcParams)
    assert [*drawn()] == plain
    assert dict(matplotlib.rcParams) == settings


DOLLARS = ["$$", r"$\frac{1}$", "a $5 bill and a $10 bill", r"50 % \$ & #1 _{x}^2 ~"]


def pictured(text):
    """Draw a text with every function for pictures, wherever it takes one."""
    image = np.zeros((8, 8, 3))
    maps = {text: image[..., 0]}
    yield panels.gallery({text: image})
    yield panels.spectra(np.arange(3), {text: np.arange(3)})
    yield panels.comparison(
        image, image, maps, [text, "2"], [1, 2], [1, 1], text, text, text, name=text
    )
    yield panels.steps({text: [image, image]}, [text, "2x2"])
    yield panels.pairs({text: (image, image)})


def charted(text):
    """Draw a text with charts, as the label of a method."""
    rows = [
        {"kind": kind, "method": method, "family": method, "size": size, "ms": 2.0, "what": "time",
         "tokens": tokens, "side": tokens, "kernel": text, "step": tokens, "gflop": 1.0,
         "kv_measured": 1e6, "held_measured": 1e6, "picture": 0, "psnr": 20.0, "ssim": 0.5,
         "speedup": 1.5, "speedup_low": 1.0, "speedup_high": 2.0, "speedup_flop_bound": 2.0,
         "right": 1.0}
        for method in ("full", text)
        for size, tokens in (("1x1", 1), (text, 4))
        for kind in ("quality", "time")
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    for chart in (times.latency, times.modules, times.scaling, times.kernels, times.memory,
                  times.costs, steps.outputs):  # fmt: skip
        yield chart(frame[frame.kind == "time"])
    yield comparisons.methods(frame[frame["size"] == "1x1"])


@pytest.mark.parametrize("text", DOLLARS)
@pytest.mark.parametrize("drawn", [pictured, charted])
def test_text_of_users_is_drawn_as_it_is_written(drawn, text, tmp_path):
    for figure in drawn(text):
        write_figure(tmp_path / "x.svg", figure)
        shown = [t for t in figure.findobj(matplotlib.text.Text) if "$" in t.get_text()]
        assert shown
        powers = [t for t in shown if r"\mathdefault" in t.get_text()]
        assert not [t for t in shown if t.get_parse_math() and t not in powers]


def test_labels_of_users_that_begin_with_an_underscore_are_in_the_legends():
    figures = [panels.spectra(np.arange(3), {"_mine": np.arange(3)}), *charted("_mine")]
    frame = pd.DataFrame([
        {"kind": kind, "method": name, "family": name, "picture": 0, "psnr": 20.0,
         "speedup": 1.5, "speedup_low": 1.0, "speedup_high": 2.0, "speedup_flop_bound": 2.0}
        for name in ("full", "_mine") for kind in ("quality", "time")])  # fmt: skip
    figures.append(comparisons.rivals(frame))
    legends = [axes.get_legend() for figure in figures for axes in figure.axes]
    texts = [" ".join(t.get_text() for t in legend.get_texts()) for legend in legends if legend]
    assert len(texts) == 10
    shown = [text for text in texts if "_mine" in text]
    assert len(shown) == 9, texts  # of `methods`, the legend names measures


def test_notes_beside_pictures_in_widgets_are_no_mathematics():
    viewer, note = Viewer({"picked": "picked"}), "a $5 <b> and a $10 bill"
    viewer.put("picked", np.zeros((4, 4, 3)), note=note)
    assert viewer.p0["note"] == note  # shown as text: no script of the page writes HTML
    scripts = list((ROOT / "widgets").glob("*.js"))
    assert len(scripts) >= 5
    assert not any("innerHTML" in path.read_text(encoding="utf-8") for path in scripts)


def test_text_of_users_in_tables_is_text():
    table = pd.DataFrame({"_a_ $b$": ["[mine] *x* `y` <b> a|b", "two\nlines", r"\frac ~_z_"]})
    lines = markdown(table).splitlines()
    assert len(lines) == 5
    assert r"\_a\_ \$b\$" in lines[0]
    assert r"[mine] \*x\* \`y\` \<b> a\|b" in lines[2]
    assert "two lines" in lines[3]
    assert r"\\frac \~\_z\_" in lines[4]
    assert "[a](b.png)" in markdown(pd.DataFrame({"from": ["[a](b.png)"]}), markup=("from",))
    rows = latex(table).splitlines()
    assert r"{[}mine] *x*" in "".join(rows)
    assert any("two lines" in row for row in rows)
    assert r"\textbackslash " in rows[6]


def test_powers_of_ten_stay_mathematics():
    rows = [{"method": "full", "family": "full", "what": "time", "ms": 10.0**k, "tokens": 10**k}
            for k in range(4)]  # fmt: skip
    figure = times.scaling(pd.DataFrame(rows))
    figure.png(50)
    labels = figure.axes[0].get_xticklabels()
    assert labels
    assert all(label.get_parse_math() for label in labels)


DRAW = """
import numpy as np, sys
from fastvar_lab.plotting.panels import spectra
from fastvar_lab.plotting.style import write_figure
figure = spectra(np.arange(3), {"a line, β": np.arange(3)})
for ending in ("pdf", "png", "svg"):
    write_figure(f"{sys.argv[1]}.{ending}", figure)
"""


def test_figures_are_the_same_bytes_in_every_process(tmp_path):
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", DRAW, str(tmp_path / seed)], env=env, check=True)
    for ending in ("pdf", "png", "svg"):
        first, second = ((tmp_path / f"{seed}.{ending}").read_bytes() for seed in "12")
        assert first == second


def test_full_and_pruned_have_one_pair_of_colors():
    assert (LOOKS["full"].color, LOOKS["FastVAR"].color) == (FULL, FAST)
    assert len({look.color for look in LOOKS.values()}) == len(LOOKS)
    assert len({look.marker for look in LOOKS.values()}) == len(LOOKS)
    assert Scatter().front_color == to_hex(FAST)


def test_a_family_looks_the_same_beside_any_others():
    alone, beside = looks(["ToMe"]), looks(["mine", "full", "ToMe", "yours", "FastVAR"])
    assert alone["ToMe"] == beside["ToMe"] == LOOKS["ToMe"]
    assert len(set(beside.values())) == len({look.color for look in beside.values()}) == 5
    many = looks(map(str, range(5 * len(PALETTE))))
    assert not {FULL, FAST} & {look.color for look in many.values()}
    assert len(set(many.values())) >= len(MARKERS) * (len(PALETTE) - 2) * 0.7


def test_colors_are_named_in_style_alone():
    for path in [
        *ROOT.glob("widgets/*.py"),
        *ROOT.glob("widgets/*.js"),
        ROOT / "plotting/panels.py",
    ]:
        assert not re.findall(r"#[0-9a-f]{6}\b|color_palette", path.read_text()), path


@pytest.mark.parametrize(
    ("most", "gain"), [(1.0, 1), (0.3, 2), (0.2, 5), (0.01, 100), (1e-9, 1000)]
)
def test_a_difference_states_its_gain(most, gain):
    full = np.full((4, 4, 3), 0.0)
    shown = panels.difference(full + most, full)
    assert shown.gain == gain
    assert shown.title == f"difference x {gain}"
    np.testing.assert_allclose(shown.picture, 0.5 + gain * most / 2)


def test_a_difference_of_equal_pictures_is_grey_and_bytes_are_pictures_too():
    full = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    same = panels.difference(full, full)
    assert (same.picture.min(), same.picture.max(), same.gain) == (0.5, 0.5, 1)
    fast = full ^ 1
    np.testing.assert_array_equal(
        panels.difference(fast, full).picture, panels.difference(fast / 255, full / 255).picture
    )
