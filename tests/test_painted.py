"""Tokens that are painted by hand: a selector that prints, counts, resumes and is read back."""

import pickle

import numpy as np
import pytest
import torch

import fastvar_lab as fv
from fastvar_lab.cli.main import main
from fastvar_lab.measure.masks import kept_map
from fastvar_lab.methods.columns import describe, family, written
from fastvar_lab.methods.fingerprint import user_code_hash
from fastvar_lab.methods.painted_mask import mask_of, mask_text
from fastvar_lab.methods.parse import read_method, read_method_file, save_method
from fastvar_lab.methods.registry import selectors
from fastvar_lab.methods.schedule import kept, share_of
from fastvar_lab.speed.flops import step_flops

PROMPT = "a red circle"
KEEP, PRUNE = "0:0-3 3,5:1,7", "7:0-7 1:4"


def painted(ratio=0.75, **other):
    return fv.Prune({-1: ratio}, select=fv.Painted({-1: KEEP}, {-1: PRUNE}), **other)


def test_any_mask_is_written_and_read_back():
    draw = np.random.default_rng(0)
    for h, w in ((1, 1), (2, 3), (8, 8), (31, 17), (64, 64)):
        for share in (0.0, 0.02, 0.5, 0.98, 1.0):
            mask = draw.random((h, w)) < share
            assert (mask_of(mask_text(mask), h, w) == mask).all()
    board = np.indices((32, 32)).sum(0) % 2 == 0
    assert len(mask_text(board)) < 250
    block = np.zeros((64, 64), bool)
    block[10:40, 20:50] = True
    assert mask_text(block) == "10-39:20-49"


def test_equal_paint_is_an_equal_value_with_a_compact_repr():
    mask = np.zeros((8, 8), bool)
    mask[2:4, 1:3] = True
    values = [
        fv.Painted({-1: mask}),
        fv.Painted(((-1, "2:1-2 3:1,2"),)),
        fv.Painted({-1: "3,2:2,1", -2: ""}),
    ]
    assert len({*values}) == 1
    assert repr(values[0]) == "Painted(keep={-1: '2-3:1-2'})"
    assert pickle.loads(pickle.dumps(values[0])) == values[0]
    other = fv.Painted(prune={(8, 8): "0:0"}, others=fv.Random(3))
    assert repr(other) == "Painted(prune={(8, 8): '0:0'}, others=Random(seed=3))"
    assert fv.Painted() != values[0]


@pytest.mark.parametrize(
    "others", [fv.FarFromMean(), fv.Random(), fv.GuidanceGap(), fv.BlockChange()]
)
@pytest.mark.parametrize("granularity", ["sublayer", "stack"])
def test_painted_tokens_are_kept_and_pruned_and_others_fill_up(small, others, granularity):
    method = fv.Prune({-2: 0.5, -1: 0.75}, select=fv.Painted({-1: KEEP}, {-1: PRUNE}, others),
                      granularity=granularity)  # fmt: skip
    run, trace = fv.observe(small, PROMPT, method, seed=3, snapshot=True)
    plain, before = fv.observe(small, PROMPT, fv.Prune({-2: 0.5, -1: 0.75}, select=others,
                               granularity=granularity), seed=3)  # fmt: skip
    keep, prune = mask_of(KEEP, 8, 8), mask_of(PRUNE, 8, 8)
    for layer in range(small.depth):
        for kind in small.transformer.kinds:
            site = fv.Site(layer, kind)
            for row in (0, 1):
                mask = kept_map(trace, 4, site, row)
                assert mask.sum() == 16
                assert mask[keep].all()
                assert not mask[prune].any()
            assert (kept_map(trace, 3, site) == kept_map(before, 3, site)).all()  # not painted
    again = fv.resume(small, fv.generate(small, PROMPT, fv.Dense(), seed=3, snapshot=True), method)
    assert torch.equal(again.canvas, run.canvas)
    assert not torch.equal(plain.canvas, run.canvas)


def test_a_whole_painted_mask_decides_alone(small):
    mask = np.random.default_rng(1).random((8, 8)) < 0.4
    share = share_of(64, int((~mask).sum()))
    method = fv.Prune({-1: share}, select=fv.Painted({-1: mask}, {-1: ~mask}))
    _, trace = fv.observe(small, PROMPT, method, seed=3)
    assert (kept_map(trace, 4, fv.Site(2, "ffn")) == mask).all()
    for tokens in (1, 7, 22, 64, 1024):
        for pruned in range(tokens + 1):
            assert tokens - kept(tokens, share_of(tokens, pruned)) == pruned


def test_it_is_verified_counted_written_and_read(small, tmp_path):
    method = painted()
    assert fv.verify(small, method, PROMPT).passed.all()
    grids = small.grids()
    assert step_flops(small, method, grids, 3) == step_flops(small, fv.Prune({-1: 0.75}), grids, 3)
    for text in (repr(method), written(method), written(method, "fv.")):
        assert read_method(text) == method
    assert "select=fv.Painted(keep={-1: '0:0-3 3,5:1,7'}, prune={-1: " in written(method, "fv.")
    assert eval(written(method, "fv."), {"fv": fv}) == method
    save_method(method, tmp_path / "painted.json")
    assert read_method_file(tmp_path / "painted.json") == method
    assert family(method) == "pruning, painted"
    assert describe(method, grids, small.depth)["selector"] == "painted"
    assert user_code_hash(method, method.start(grids, small.depth)) == ""
    assert all(not isinstance(rule, fv.Painted) for rule in selectors().values())
    shared = fv.Prune({-1: 0.75}, select=fv.Shared(fv.Painted({-1: KEEP})))
    _, trace = fv.observe(small, PROMPT, shared, seed=3)
    assert kept_map(trace, 4, fv.Site(0, "attn"), row=1)[mask_of(KEEP, 8, 8)].all()


def test_the_command_reads_a_painted_method(tmp_path, capsys):
    text = "Prune({-1: 0.9}, select=Painted(keep={-1: '0-3:0-3'}))"
    command = ["generate", PROMPT, "--out", str(tmp_path / "out"), "--method"]
    assert main([*command, text]) == 0
    text = text.replace("0.9", "0.99").replace("0-3:0-3", "0-9:0-9")
    assert main([*command, text]) == 2
    message = "at 32x32 100 tokens are painted to keep; the schedule keeps 11 of 1024"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keep", "prune", "ratio", "message"),
    [
        ({-1: "0-1:0-7"}, {}, 0.9, "at 8x8 16 tokens are painted to keep; the schedule keeps 7"),
        ({}, {-1: "0-3:0-7"}, 0.25, "32 tokens are painted to prune; the schedule prunes 16 of 64"),
        ({}, {-2: "0:0"}, 0.5, "at 6x6 1 tokens are painted to prune; the schedule prunes 0 of 36"),
        ({-1: "0:0"}, {}, 1.0, "at 8x8 1 tokens are painted to keep; the schedule keeps 0 of 64"),
        ({-1: "8:0"}, {}, 0.5, "a map of 8x8 has no row 8, column 0"),
        ({-1: "0:0-9"}, {}, 0.5, "a map of 8x8 has no row 0, column 9"),
        ({-1: "1:2"}, {8: "1:2"}, 0.5, "row 1, column 2 is painted to keep and to prune"),
        ({-1: "1:2", 8: "1:3"}, {}, 0.5, "named twice"),
        ({-9: "0:0"}, {}, 0.5, "no scale -9"),
    ],
)
def test_paint_that_a_schedule_cannot_meet_is_an_error(small, keep, prune, ratio, message):
    method = fv.Prune({-1: ratio}, select=fv.Painted(keep, prune))
    with pytest.raises(ValueError, match=message):
        fv.generate(small, PROMPT, method)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({-1: "3"}, "rows and columns"),
        ({-1: "5-3:0"}, "go upwards"),
        ({-1: "0:99999"}, "rows and columns"),
        ({-1: np.zeros((2, 2))}, "map .h, w. of booleans; not float64"),
        ("0:0", "by scale"),
        (7, "by scale"),
        ({"x": "0:0"}, "a scale is named"),
    ],
)
def test_what_is_no_mask_is_refused(masks, message):
    with pytest.raises(ValueError, match=message):
        fv.Painted(masks)
    with pytest.raises(ValueError, match="others must be a selector"):
        fv.Painted(others=3)


def test_anchors_and_paint_agree_or_are_refused(small):
    restore = fv.Anchors()
    anchored = restore.always(small.grids()[-1])
    row, column = divmod(int(anchored[0]), 8)
    method = fv.Prune({-1: 0.25}, select=fv.Painted(prune={-1: f"{row}:{column}"}), restore=restore)
    with pytest.raises(ValueError, match="the restorer needs it"):
        fv.generate(small, PROMPT, method)
