"""Metrics of one's own: what is refused, what their columns are called, and their intervals."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest

import fastvar_lab as fv
from fastvar_lab.experiments.comparison import merge_frames
from fastvar_lab.frames import NOTE, holds_hits, not_larger
from fastvar_lab.measure import quality
from fastvar_lab.measure.ranking import direction, family_gap, ranking, ranking_table
from fastvar_lab.measure.set_table import set_table
from fastvar_lab.measure.statistics import bootstrap, paired, summary, wilson, wilson_of_gap
from fastvar_lab.methods.columns import labelled
from fastvar_lab.plotting.tables import metric_columns, tabulate
from fastvar_lab.prompts import PromptList, as_prompts
from fastvar_lab.store import Store


def brightness(picture, reference):
    return float(picture.mean())


@pytest.mark.parametrize(
    "name", ["method", "kind", "seed", "model", "speedup", "kept_8x8", "speedup_low", ""]
)
def test_a_metric_takes_no_name_that_frames_use(name):
    with pytest.raises(ValueError, match=f"a metric cannot be named '{name}': frames use"):
        quality.chosen({name: brightness})


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        ({"mine": lambda picture: 1.0}, "mine must be a function of picture and reference, and"),
        ({"mine": lambda picture, reference, depth: 1.0}, "missing a required argument: 'depth'"),
        ({"mine": 3}, "3 is not a callable object"),
        ([brightness], r"names, Metrics or functions by name, \{'mine': f\}; not <function"),
        ("fidelity", "no metric 'fidelity'"),
    ],
)
def test_what_is_no_metric_is_refused_before_anything_is_drawn(metrics, sentence):
    with pytest.raises(ValueError, match=sentence):
        quality.chosen(metrics)


def test_a_single_name_is_a_metric():
    assert [m.name for m in quality.as_metrics("psnr")] == ["psnr"]


def test_hits_of_your_own_have_score_intervals():
    rows = {"method": ["a"] * 4 + ["b"] * 4, "picture": [*range(4)] * 2, "hits": "close,same"}
    frame = pd.DataFrame({**rows, "close": [1.0] * 4 + [0.0, 1.0] * 2, "psnr": 30.0})
    share = summary(frame, ["method"], "close").iloc[0]
    assert (share.low, share.high) == wilson([1.0] * 4)
    assert summary(frame, ["method"], "psnr").low[0] == 30.0
    gap = paired(frame, "a", "b", "close")
    assert (gap["low"], gap["high"]) == wilson_of_gap([1.0] * 4, [0.0, 1.0] * 2)


def test_a_judge_may_grade():
    grades = {"picture": range(4), "right": [2.5, 0.5, -1.0, 1.0]}
    frame = pd.concat([pd.DataFrame({**grades, "method": m}) for m in ("a", "b")])
    row = summary(frame, ["method"], "right").iloc[0]
    assert (row["mean"], row.low, row.high) == (0.75, *bootstrap([2.5, 0.5, -1.0, 1.0]))
    assert paired(frame, "a", "b", "right")["low"] == 0
    graded = quality.Metric("same", "same", lambda picture, reference: 0.9, hits=True)
    with pytest.raises(ValueError, match="same has hits=True, so that its values are 0, 1 or nan"):
        graded.columns(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8))


def test_a_metric_cannot_write_into_pictures(small, tmp_path):
    def darken(picture, reference):
        picture -= picture // 2
        return 0.0

    with pytest.raises(ValueError, match="read-only"):
        fv.compare(small, [fv.Prune({-1: 0.5})], fv.Scope("one", 1, 1), prompts=small.prompts,
                   metrics={"dark": darken}, store=Store(tmp_path), progress=False)  # fmt: skip


def test_full_generation_compared_with_itself_is_blank():
    same = {"kind": "quality", "method": "full", "family": "full"}
    rows = [{**same, "ms_ssim": 1 - 2e-5 * i, "picture": i} for i in range(2)]
    other = {"kind": "quality", "method": "a", "family": "a", "ms_ssim": 0.9}
    frame = pd.DataFrame([*rows, *({**other, "picture": i} for i in range(2))])
    assert tabulate(frame)["MS-SSIM"].to_list() == ["", "0.900 (0.900 to 0.900)"]


def test_a_comparison_says_which_columns_hold_hits(small, tmp_path, monkeypatch):
    monkeypatch.setattr(quality, "METRICS", {"psnr": quality.METRICS["psnr"]})
    close = fv.Metric("close", "close", lambda p, r: float((p == r).all()), hits=True)
    look, method = fv.Scope("look", 2, 1), fv.Prune({-1: 1.0})
    options = {"store": fv.Store(tmp_path), "progress": False}
    frame = fv.compare(small, [method], look, metrics=[close], **options)
    full = summary(frame[frame.family == "full"], ["method"], "close").iloc[0]
    assert (full.low, full.high) == wilson([1.0, 1.0])
    assert frame.hits.dropna().eq("close").all()
    assert "hits" not in fv.compare(small, [method], look, **options)


def mean_of_red(picture, reference):
    return {"": float(picture[..., 0].mean()), "gap": 0.25}


def test_tables_use_title_and_digits_of_your_own_metrics(small, tmp_path, monkeypatch):
    monkeypatch.setattr(quality, "METRICS", {"psnr": quality.METRICS["psnr"]})
    red = fv.Metric("red", "mean of red", mean_of_red, digits=1)
    look, method = fv.Scope("look", 2, 1), fv.Prune({-1: 1.0})
    options = {"store": fv.Store(tmp_path), "progress": False}
    frame = fv.compare(small, [method], look, metrics=[red], **options)
    frame.to_csv(tmp_path / "frame.csv", index=False)
    table = tabulate(pd.read_csv(tmp_path / "frame.csv"))
    assert {"mean of red", "mean of red gap"} <= set(table)
    assert "red" not in table
    assert table["mean of red gap"][0].startswith(("0.2 ", "0.3 "))
    assert "titles" not in fv.compare(small, [method], look, **options)


def test_frames_say_which_way_your_own_metrics_judge(small, tmp_path, monkeypatch):
    monkeypatch.setattr(quality, "METRICS", {"psnr": quality.METRICS["psnr"]})
    error = fv.Metric("error", "red error", mean_of_red, larger=False)
    tone = fv.Metric("tone", "tone", brightness, larger=None)
    plain = fv.Metric("plain", "plain", brightness)
    look, method = fv.Scope("look", 2, 1), fv.Prune({-1: 1.0})
    options = {"store": fv.Store(tmp_path), "progress": False}
    frame = fv.compare(small, [method], look, metrics=[error, tone, plain], **options)
    frame.to_csv(tmp_path / "frame.csv", index=False)
    read = pd.read_csv(tmp_path / "frame.csv")
    for known in (frame, read, merge_frames([read, read.drop(columns="larger")])):
        assert not_larger(known) == {"error": False, "error_gap": False, "tone": None}
        values = ("error", "error_gap", "tone", "plain", "psnr")
        assert [direction(value, known) for value in values] == [-1, -1, 0, 1, 1]
        assert "larger" not in metric_columns(known)
    assert "larger" not in fv.compare(small, [method], look, metrics=[plain], **options)


def test_a_ranking_judges_your_own_metrics_as_their_frame_says():
    """Of two families of equal speed the one with the smaller error is the best."""
    notes = {"titles": '{"error": ["my error", 2]}', "larger": '{"error": false}'}
    rows = []
    for family, error in (("near", 1.0), ("far", 3.0)):
        name = {"family": family, "method": family}
        rows += [{"kind": "quality", **name, "picture": i, "error": error + i} for i in range(3)]
        rows.append({"kind": "time", **name, "speedup": 2.0})
    frame = pd.DataFrame(rows)
    noted = frame.assign(**{name: [note] * len(frame) for name, note in notes.items()})
    for known, best, gap, word in ((noted, "near", 2.0, "less"), (frame, "far", -2.0, "more")):
        ranked = ranking(known, "error", targets=(2.0,)).set_index("family")
        assert ranked.behind[best] == 0
        assert ranked.behind.max() == 2
        assert family_gap(known, "near", "far", 2.0, "error")["difference"] == gap
        table = ranking_table(known, "error")
        assert table.family[0] == best
        title = "my error" if known is noted else "error"
        assert table.attrs[NOTE].startswith(f"{title}, {word} is better")
    neither = noted.assign(larger='{"error": null}')
    assert ranking_table(neither, "error").attrs[NOTE].startswith("my error, with 95 %")
    twice = pd.concat([noted.assign(model="a"), noted.assign(model="b")])
    for several in (partial(ranking, value="error"), set_table):
        with pytest.raises(
            ValueError, match=r"models a and b; take one: frame\[frame.model == 'a'"
        ):
            several(twice)


def test_a_metric_of_your_own_is_not_the_shipped_one_that_its_name_begins_like():
    frame = pd.DataFrame({"titles": ['{"lpips_likeness": ["likeness", 2]}']})
    assert direction("lpips_likeness", frame) == 1
    assert direction("lpips_likeness") == -1


def test_titles_never_hide_a_column():
    rows = {"kind": "quality", "method": "full", "family": "full", "picture": 0, "psnr": 1.0}
    titles = {"red": ["PSNR (dB)", 1], "blue": ["n", 1], "green": ["speedup", 1]}
    values = {"red": 2.0, "blue": 3.0, "green": 4.0, "titles": json.dumps(titles)}
    time = {"kind": "time", "method": "full", "family": "full", "speedup": 1.0}
    frame = pd.DataFrame([{**rows, **values}, {**time, "speedup_flop_bound": 1.0}])
    names = ["method", "PSNR (dB)", "PSNR (dB) (red)", "n (blue)", "speedup (green)"]
    assert list(tabulate(frame))[:5] == names


@pytest.mark.parametrize("digits", [-1, 1.5, "2"])
def test_digits_are_a_whole_number(digits):
    with pytest.raises(ValueError, match="digits of the metric mine must be a whole number from 0"):
        fv.Metric("mine", "mine", brightness, digits=digits)


def test_merged_frames_keep_what_each_says_of_its_metrics():
    rows = {"kind": "quality", "model": "a", "weights": "1", "method": "full", "prompt": "x"}
    plain = pd.DataFrame([{**rows, "picture": i} for i in range(2)])
    red = plain.assign(red=1.0, hits="red", titles='{"red": ["mean of red", 1]}')
    blue = plain.assign(blue=0.0, hits="blue", titles='{"blue": ["mean of blue", 2]}')
    merged = merge_frames([plain, red, blue])
    assert len(merged) == 2
    assert metric_columns(merged) == {"red": ("mean of red", 1), "blue": ("mean of blue", 2)}
    assert all(holds_hits(merged, column) for column in ("red", "blue"))


def test_a_disturbed_timing_gives_way_in_merged_frames():
    rows = {"kind": ["time"], "model": ["a"], "weights": ["1"], "method": ["full"]}
    common = {"machine": "x", "picture": None, "prompt": None}
    wide = pd.DataFrame(rows).assign(**common, speedup=6.3, disturbed=True)
    clear = pd.DataFrame(rows).assign(**common, speedup=1.3, disturbed=False)
    for frames in ([wide, clear], [clear, wide], [clear, wide, wide.assign(speedup=5.0)]):
        assert merge_frames(frames).speedup.to_list() == [1.3]


def test_merged_frames_fill_in_metrics_that_one_lacks():
    rows = {"kind": "quality", "model": "a", "weights": "1", "method": "full", "prompt": "x"}
    less = pd.DataFrame([{**rows, "picture": i, "psnr": 30.0} for i in range(2)])
    more = less.assign(green=[1.0, 2.0])
    for frames in ([less, more], [more, less]):
        merged = merge_frames(frames)
        assert merged.green.tolist() == [1.0, 2.0]
        assert merged.psnr.tolist() == [30.0, 30.0]
    with pytest.raises(ValueError, match="'full' of a has two values of one measurement"):
        merge_frames([more, more.assign(green=3.0)])


@pytest.mark.parametrize(
    ("methods", "sentence"),
    [
        (fv.Dense(), r"methods are a list, or a mapping by label; not Dense\(\)"),
        ("FastVAR", "methods are a list, or a mapping by label; not 'FastVAR'"),
        (["FastVAR"], r"a method is a value such as Dense\(\); not 'FastVAR'"),
        ({"mine": fv.Prune}, r"a method is a value such as Dense\(\); not <class"),
    ],
)
def test_what_is_no_method_is_refused(small, methods, sentence):
    with pytest.raises(ValueError, match=sentence):
        labelled(methods, small.grids(), small.depth)


def test_prompts_may_be_text():
    assert as_prompts(["a ring", "a star"]) == PromptList(["a ring", "a star"])
    with pytest.raises(ValueError, match="prompts are text, a list of it, or a prompt set; not 3"):
        as_prompts(3)
    with pytest.raises(ValueError, match=r"dtype must be a torch.dtype .*; not 'float8'"):
        fv.ModelSpec("tiny", dtype="float8").open()


def test_equal_pictures_count_by_their_rounding():
    picture = np.zeros((64, 64, 3), np.uint8)
    off = picture.copy()
    off[0, 0, 0] = 1  # 98 dB: less than rounding changes
    assert quality.psnr(picture, picture) == quality.psnr(off, picture) == quality.MOST_PSNR
    assert round(quality.MOST_PSNR, 2) == 58.92
    assert round(quality.psnr(picture + 1, picture), 2) == 48.13
