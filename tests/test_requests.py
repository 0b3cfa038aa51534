"""What `generate` and `load` take in several forms, and what they make of them."""

import json

import numpy as np
import pytest
import torch

import fastvar_lab as fv
from fastvar_lab.backbones.infinity import InfinityConfig
from fastvar_lab.backbones.var import LabelEncoder
from fastvar_lab.experiments.evaluation import evaluate
from fastvar_lab.models.build import build
from fastvar_lab.models.loading import load
from fastvar_lab.provenance import requested
from fastvar_lab.request import make_request
from fastvar_lab.scales import TINY, as_sizes, grids, stretch
from fastvar_lab.store import Store
from tests.families import prompt, small_model

SIZES = ((1, 1), (2, 2))


@pytest.fixture(scope="module")
def var():
    return small_model("var")


@pytest.mark.parametrize(
    "sizes",
    [
        [[1, 1], [2, 2]],
        np.array(SIZES),
        np.array(SIZES, dtype=np.uint8),
        torch.tensor(SIZES),
        [np.array([1, 1]), torch.tensor([2, 2])],
    ],
)
def test_schedules_come_to_one_form(small, tmp_path, sizes):
    made, trace = fv.observe(small, "a red circle", fv.Prune({-1: 0.5}), sizes=sizes)
    assert made.request.grids == grids(SIZES)
    assert all(type(n) is int for grid in made.request.grids for n in grid)
    trace.save(tmp_path / "trace.safetensors")
    assert fv.Trace.load(tmp_path / "trace.safetensors").grids == made.request.grids
    json.dumps(requested(made.request))


def test_schedules_of_models_and_evaluators_come_to_one_form(tmp_path):
    config = InfinityConfig(**{"depth": 1, "width": 64, "heads": 2, "ffn": 64, "bits": 4,
                               "text_width": 32, "text_length": 8, "pool_heads": 4})  # fmt: skip
    assert build(config, sizes=np.array(SIZES)).sizes == SIZES
    state = build(config).transformer.state_dict()
    assert fv.from_states("infinity", vars(config), state, sizes=np.array(SIZES)).sizes == SIZES
    model = load("tiny")
    short = model.sizes[:3]
    store = Store(tmp_path)
    plain, array = (
        evaluate(model, fv.Dense(), 7, sizes=s, store=store) for s in (short, np.array(short))
    )
    assert plain["tasks"] == array["tasks"]


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        (3, "consist of maps|at least one map"),
        ([], "at least one map"),
        ([(1, 1, 1)], "consist of maps"),
        (np.ones((2, 2)), "must be a whole number; not"),
        ([("1", "2")], "must be a whole number; not 1"),
        ([(1, -1)], "at least 1x1"),
        ([1, 2], "consist of maps|at least one map"),
    ],
)
def test_what_is_no_schedule_is_refused(small, sizes, reason):
    for call in (
        lambda: fv.generate(small, "a red circle", fv.Dense(), sizes=sizes),
        lambda: load("tiny", sizes=sizes),
        lambda: as_sizes(sizes),
    ):
        with pytest.raises(ValueError, match=reason):
            call()


@pytest.mark.parametrize(
    "labels",
    [
        3,
        "3",
        np.int64(3),
        np.array(3),
        [3],
        np.array([3]),
        torch.tensor([3]),
        ("3",),
        torch.tensor([3], dtype=torch.uint8),
    ],
)
def test_labels_come_to_one_form(var, labels):
    made = fv.generate(var, labels, fv.Dense(), sizes=SIZES)
    wanted = fv.generate(var, "3", fv.Dense(), sizes=SIZES)
    assert torch.equal(made.canvas, wanted.canvas)
    assert all(type(prompt) is str for prompt in made.request.prompts)


@pytest.mark.parametrize(
    "prompts", [True, 3.5, [3.0], object(), b"3", {"3"}, {"3": 1}, torch.tensor(3.0)]
)
def test_what_is_no_prompt_is_refused(var, prompts):
    with pytest.raises(ValueError, match=r"prompt|condition"):
        fv.generate(var, prompts, fv.Dense(), sizes=SIZES)


@pytest.mark.parametrize("prompts", [None, [None]])
def test_only_labels_are_left_out(small, prompts):
    with pytest.raises(ValueError, match="a prompt is text, or a class label; not None"):
        fv.generate(small, prompts, fv.Dense())


def test_labels_given_as_a_tensor_are_whole_numbers(var):
    for labels in (torch.tensor([3.0]), torch.tensor([[3]]), torch.tensor([True])):
        with pytest.raises(ValueError, match="labels are whole numbers"):
            fv.generate(var, labels, fv.Dense(), sizes=SIZES)
    with pytest.raises(ValueError, match="a class lies in 0 to 9; not 'True'"):
        LabelEncoder(10).encode([True])


@pytest.mark.parametrize("seed", [None, 0, np.int32(0), torch.tensor(0), [0], np.array([0])])
def test_seeds_come_to_one_form(var, seed):
    request = fv.generate(var, 3, fv.Dense(), sizes=SIZES, seed=seed).request
    assert request.seeds == (0,)
    assert all(type(s) is int for s in request.seeds)


@pytest.mark.parametrize("seed", [7.0, "7", [7.0], object(), torch.tensor(7.0)])
def test_what_is_no_seed_is_refused(var, seed):
    with pytest.raises(ValueError, match="seed must be a whole number"):
        fv.generate(var, 3, fv.Dense(), sizes=SIZES, seed=seed)
    with pytest.raises(ValueError, match="seed must be a whole number"):
        load("tiny", weights="random", seed=seed)


@pytest.mark.parametrize("sampling", [{}, {"guidance": 3.0}, 3.0, "greedy"])
def test_what_is_no_sampling_is_refused(var, sampling):
    with pytest.raises(ValueError, match="sampling must be a Sampling"):
        fv.generate(var, 3, fv.Dense(), sizes=SIZES, sampling=sampling)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"watch": 3}, "watch is a list of functions that wrap a runner; not 3"),
        ({"watch": [3]}, r"watch is a list of functions that wrap a runner; not \[3\]"),
        ({"given": 3}, "given are the tokens of the first steps; not 3"),
        ({"given": [3]}, "the tokens given for step 0 are no tensor: 3"),
        ({"seed": True}, "the seed must be a whole number; not True"),
    ],
    ids=str,
)
def test_what_is_no_argument_of_a_generation_is_refused(small, options, reason):
    with pytest.raises(ValueError, match=reason):
        fv.generate(small, "a ring", fv.Dense(), **options)


@pytest.mark.parametrize("ratios", [None, 3, "x", [3], [(1, 2, 3)]])
def test_what_maps_no_scales_to_shares_is_no_schedule(ratios):
    with pytest.raises(ValueError, match="ratios map scales to shares pruned"):
        fv.Prune(ratios)


def test_a_scale_that_is_named_twice_is_refused(small):
    with pytest.raises(ValueError, match="has a ratio already"):
        fv.generate(small, "a ring", fv.Prune(((-1, 0.5), (-1, 0.6))))


def test_a_model_says_how_it_was_opened_in_plain_python():
    model = load("tiny", weights="random", seed=None, sizes=np.array(SIZES))
    assert model.sizes == SIZES
    assert model.source == "fv.load('tiny', weights='random', sizes=((1, 1), (2, 2)))"
    model = load("infinity-125m", weights="random", depth=np.int64(1), reference=[8, 8])
    assert "reference=(8, 8), depth=1)" in model.source


class TestGivenTokens:
    """On a GPU wrong rows would end the process."""

    @pytest.mark.parametrize(
        "tokens",
        [
            torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, 1, dtype=torch.bool),
            torch.zeros(1, 1, 16), torch.full((1, 1, 16), 2),
        ],
        ids=["rows", "one bit", "floats", "no bits"],
    )  # fmt: skip
    def test_bits(self, tokens):
        model = small_model("infinity")
        assert model.quantizer.channels == 16
        with pytest.raises(ValueError, match=r"step 0 must be bits of shape \(1, 1, 16\); not"):
            fv.generate(model, "a ring", fv.Dense(), given=[tokens])
        ints = torch.ones(1, 1, 16, dtype=torch.int64)
        one, other = (fv.generate(model, "a ring", fv.Dense(), given=[t]) for t in (ints, ints > 0))
        assert torch.equal(one.canvas, other.canvas)

    @pytest.mark.parametrize("family", ["var", "hart"])
    def test_rows_and_codes(self, family):
        model = small_model(family)
        rows, width = model.quantizer.codebook.shape
        wrong = [
            torch.full((1, 1), rows), torch.full((1, 1), -1), torch.ones(1, 1) > 0,
            torch.ones(1, 1, dtype=torch.uint8), torch.zeros(1, 1, width + 1), torch.zeros(1, 1),
        ]  # fmt: skip
        for tokens in wrong:
            with pytest.raises(ValueError, match=f"step 0 must be int64 rows 0 to {rows - 1} of"):
                fv.generate(model, prompt(model), fv.Dense(), given=[tokens])
        for tokens in (torch.full((1, 1), rows - 1), torch.zeros(1, 1, width)):
            made = fv.generate(model, prompt(model), fv.Dense(), given=[tokens])
            assert torch.equal(made.tokens[0], tokens)


def test_what_is_no_class_is_refused_before_it_reaches_a_device():
    model = small_model("var")
    with pytest.raises(ValueError, match="a negative prompt names a class; 'random' draws one"):
        make_request(model, "3", negative="random")
    for bad in (-1, 11):
        with pytest.raises(ValueError, match=f"a class lies in 0 to 9; not {bad}"):
            make_request(model, torch.tensor([bad]))
        with pytest.raises(ValueError, match=f"a class lies in 0 to 9; not {bad}"):
            make_request(model, "3", negative=torch.tensor([bad]))
    assert make_request(model, model.condition(["random", "null"])).prompts


def test_what_is_no_seed_mask_or_snapshot_is_refused_in_a_sentence():
    model = small_model("var")
    with pytest.raises(ValueError, match="draws must be Keyed or Streamed draws, or None; not 5"):
        make_request(model, "3", draws=5)
    with pytest.raises(ValueError, match=r"seeds are whole numbers, one a picture, .* not 5"):
        fv.Keyed(5)
    with pytest.raises(ValueError, match="the seed must be a whole number; not a"):
        fv.Keyed(("a",))
    with pytest.raises(ValueError, match=r"keep is a mask \(h, w\) of a step's map; not x"):
        make_request(model, "3", given=[torch.zeros(1, 1, dtype=torch.int64)], keep="x")
    with pytest.raises(ValueError, match="goes on from a generation or a snapshot; not x"):
        fv.resume(model, "x", fv.Dense())


def test_a_map_that_a_schedule_has_twice_is_named_from_the_end():
    steps = grids(stretch(TINY, 8, 8))
    with pytest.raises(ValueError, match=r"scale 2 is the map of the steps 3, 4 .* such as -7"):
        fv.Prune({2: 0.5}).acts(steps)
    assert fv.Prune({-7: 0.5}).acts(steps)[3].key
