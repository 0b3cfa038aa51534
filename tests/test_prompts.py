"""Prompt sets: stable, written as Python, judged; the user's own too."""

import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest

from fastvar_lab import prompts
from fastvar_lab.errors import PromptError
from fastvar_lab.prompts import (
    ClassNumbers,
    ClosedWorld,
    Item,
    PromptFile,
    PromptList,
    PromptSet,
    seeded,
    world_judge,
)
from fastvar_lab.world.grammar import parse
from fastvar_lab.world.render import render
from fastvar_lab.world.scene import compose
from fastvar_lab.world.tasks import TASKS, questions


@dataclass(frozen=True)
class Brightness:
    """A judge of one's own."""

    most: float = 255.0

    def __call__(self, item: Item, picture: np.ndarray) -> float:
        return float(picture.mean()) / self.most


@dataclass(frozen=True)
class Cats:
    """A prompt set of one's own."""

    name: str = "cats"
    judge: Brightness | None = Brightness()

    def take(self, n):
        return tuple(Item(f"{i + 1} cats", i) for i in range(n))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffa cat\n\n  ein Käse, groß \na dog\n", encoding="utf-8")
    return path


def every(file):
    return [
        *(ClosedWorld(), ClosedWorld(23, ("counting", "texture")), ClassNumbers(10, seed=3)),
        *(PromptList(["a cat", "a dog"], judge=world_judge), PromptList("a cat", seed=5)),
        *(PromptFile(file, judge=Brightness(), name="cheese"), Cats()),
    ]


def test_the_first_items_are_those_of_a_shorter_set(file):
    for prompt_set in every(file):
        assert isinstance(prompt_set, PromptSet)
        whole = prompt_set.take(40)
        assert len(whole) == 40
        for k in (1, 7, 39):
            assert prompt_set.take(k) == whole[:k]
        assert len({item.seed for item in whole}) == 40


def test_a_prompt_set_is_a_value(file):
    names = {**vars(prompts), "Cats": Cats, "Brightness": Brightness}
    for prompt_set in every(file):
        again = eval(repr(prompt_set), names)
        assert again.take(9) == prompt_set.take(9)
        assert repr(again) == repr(prompt_set)
        assert pickle.loads(pickle.dumps(prompt_set)) == prompt_set
        assert hash(prompt_set) == hash(replace(prompt_set))


@pytest.mark.parametrize("seed", [11, 23])
def test_the_closed_world_asks_its_questions(seed):
    drawn = ClosedWorld(seed=seed).take(24)
    assert drawn == tuple((q.prompt.text, q.seed, q.task) for q in questions(24, seed))
    assert {item.group for item in drawn} == set(TASKS)
    assert all(parse(item.prompt).held_out for item in drawn)


def test_classes_are_drawn_from_the_seed():
    drawn = ClassNumbers(1000, seed=23).take(24)
    labels = np.random.default_rng(23).integers(1000, size=24)
    assert [item.prompt for item in drawn] == [str(label) for label in labels]
    assert [item.seed for item in drawn] == [q.seed for q in questions(24, 23)]


def test_files_and_lists_go_round_with_new_seeds(file):
    texts = ["a cat", "ein Käse, groß", "a dog"]
    wanted = tuple(Item(texts[i % 3], 4 + i) for i in range(5))
    assert PromptFile(file, seed=4).take(5) == wanted
    assert PromptList(texts, seed=4).take(5) == wanted


def test_a_set_is_drawn_anew_by_its_seed():
    assert seeded(ClosedWorld(tasks=("colors",)), 5) == ClosedWorld(5, ("colors",))
    assert seeded(Cats(), 5) == Cats()


def test_judges_score_pictures():
    (item,) = ClosedWorld().take(1)
    right = render(compose(parse(item.prompt), item.seed), (256, 256))
    assert ClosedWorld().judge(item, right) == 1.0
    assert ClosedWorld().judge(item, np.zeros_like(right)) == 0.0
    assert Cats().judge(item, np.full((4, 4, 3), 255, np.uint8)) == 1.0
    with pytest.raises(PromptError):
        world_judge(Item("a cat", 0), right)


def test_bad_input_is_one_sentence(file, tmp_path):
    (tmp_path / "empty").write_text("\n\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xfa")
    bad = [
        (lambda: ClosedWorld(seed=-1), "must be 0 or more; not -1"),
        (lambda: ClosedWorld(tasks=("poetry",)), "tasks must be some of single_object"),
        (lambda: ClassNumbers(0), "at least 1 class"),
        (lambda: PromptList([]), "it is empty"),
        (lambda: PromptList(["a cat", " "]), "at least one word; not ' '"),
        (lambda: PromptList([3]), "not 3"),
        (lambda: PromptFile(tmp_path / "none"), "cannot read the prompt file .*No such file"),
        (lambda: PromptFile(tmp_path / "empty"), "has no prompt"),
        (lambda: PromptFile(tmp_path / "bytes"), "is not UTF-8 text"),
        *((lambda s=s: s.take(0), "take at least 1 prompt; not 0") for s in every(file)[:-1]),
    ]
    for make, message in bad:
        with pytest.raises(ValueError, match=message) as error:
            make()
        assert "\n" not in str(error.value)
