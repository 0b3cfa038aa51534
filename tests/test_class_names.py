"""Classes by number and name: the published list, what is read, what errors and captions say."""

from dataclasses import replace

import pytest

import fastvar_lab as fv
from fastvar_lab.backbones.var import LabelEncoder
from fastvar_lab.class_names import class_number, imagenet_names, titled
from fastvar_lab.errors import PromptError
from tests.families import small_model

NAMES = imagenet_names()
PUBLISHED = {  # of the challenge's synsets, over the whole range
    0: "tench", 1: "goldfish", 99: "goose", 207: "golden retriever", 250: "Siberian husky",
    281: "tabby cat", 388: "giant panda", 404: "airliner", 483: "castle", 555: "fire engine",
    620: "laptop computer", 717: "pickup", 779: "school bus", 817: "sports car", 849: "teapot",
    928: "ice cream", 963: "pizza", 980: "volcano", 985: "daisy", 999: "toilet paper",
}  # fmt: skip


def test_every_class_has_a_name_of_its_own():
    assert len(NAMES) == 1000
    assert len({name.casefold() for name in NAMES}) == 1000
    assert all(name == name.strip() and 0 < len(name) < 40 for name in NAMES)
    assert not any(mark in name for name in NAMES for mark in ":,#\t")
    assert {number: NAMES[number] for number in PUBLISHED} == PUBLISHED
    assert [class_number(titled(i, NAMES), 1000, NAMES) for i in range(1000)] == [*range(1000)]
    assert [class_number(name.upper(), 1000, NAMES) for name in NAMES] == [*range(1000)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1000", "0 to 999; not '1000'"),
        ("-1", "or is a name; not '-1'"),
        ("golden retreiver", "nearest: 207: golden retriever"),
        ("retriever", "205: flat-coated retriever, 206: curly-coated retriever, 207: golden"),
        ("207: tench", "class 207: golden retriever is not 'tench'"),
        ("", "such as 207 or golden retriever"),
    ],
)
def test_what_is_no_class_is_refused_with_the_nearest(text, message):
    with pytest.raises(PromptError, match=message):
        class_number(text, 1000, NAMES)


def test_a_model_takes_names_and_captions_have_them():
    encoder = LabelEncoder(1000, NAMES)
    prompts = ["207", 207, "Golden retriever", "207: golden retriever", "null", "random"]
    assert encoder.encode(prompts)[:5].tolist() == [207] * 4 + [1000]
    captions = [encoder.caption(prompt) for prompt in ("207", "tench", "null", "a cat")]
    assert captions == ["207: golden retriever", "0: tench", "null", "a cat"]
    model = replace(small_model("var"), text_encoder=LabelEncoder(10, NAMES[:10]))
    assert model.caption("1") == "1: goldfish"
    by_name, by_number = (fv.generate(model, prompt, fv.Dense()) for prompt in ("goldfish", 1))
    assert (by_name.canvas == by_number.canvas).all()
    assert (by_name.request.prompts, by_number.request.prompts) == (("goldfish",), ("1",))


def test_classes_of_another_data_set_have_no_names():
    model = small_model("var")
    assert model.caption("3") == "3"
    with pytest.raises(ValueError, match="0 to 9; not 'tench'"):
        fv.generate(model, "tench", fv.Dense())
    assert small_model("infinity").caption("a red ring") == "a red ring"
