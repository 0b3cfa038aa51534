"""Prompt sets as values: prompts with their seeds, and the judge that scores their pictures.

To add a prompt set, write a frozen dataclass with the three members of `PromptSet`. A judge is any
function of an item and its picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import numpy as np

from fastvar_lab.files import expanded
from fastvar_lab.world.grammar import parse
from fastvar_lab.world.tasks import TASKS, judge, questions


class Item(NamedTuple):
    """A prompt, the seed of its noise, and the group in which its score is averaged."""

    prompt: str
    seed: int
    group: str = ""


PEOPLE = (
    *("man", "woman", "men", "women", "boy", "girl", "child", "person", "human", "adult"),
    *("teenager", "employee", "employer", "worker", "mother", "father", "sister", "brother"),
    *("grandmother", "grandfather", "son", "daughter"),
)
"""Words that the positive prompt follows (released Infinity, `tools/run_infinity.py`)."""

SUFFIX_SHA256 = "604a832f757674ee1ade8c7e390df89013da9fd41d7a301bfb9779b1943e2f89"
"""The hash of the released positive prompt, which is not shipped here."""


def positive_prompt(prompt: str, suffix: str, terms: Sequence[str] = PEOPLE) -> str:
    """Append a positive prompt to a prompt that mentions people, as released Infinity can.

    Any of `terms` counts, also within other words: "manga" holds "man".

    >>> positive_prompt("a boy with a kite", ". in sharp focus")
    'a boy with a kite. in sharp focus'
    >>> positive_prompt("a kite", ". in sharp focus")
    'a kite'
    """
    return prompt + suffix if any(term in prompt for term in terms) else prompt


class Judge(Protocol):
    """Scores how well a picture (H, W, 3) uint8 matches its item; higher is better."""

    def __call__(self, item: Item, picture: np.ndarray, /) -> float: ...


@runtime_checkable
class PromptSet(Protocol):
    """The interface of prompt sets: a frozen value whose `repr` is valid Python.

    `judge` scores its pictures; None if nothing can. If the set has a field `seed`, each
    experiment replaces it by a seed of its own (see `seeded`) in the default set of a model.

    >>> @dataclass(frozen=True)
    ... class Cats:
    ...     name: str = "cats"
    ...     judge: Judge | None = None
    ...     def take(self, n: int) -> tuple[Item, ...]:
    ...         return tuple(Item(f"{i + 1} cats", seed=i) for i in range(n))
    >>> Cats().take(2)[1].prompt
    '2 cats'
    """

    @property
    def name(self) -> str: ...

    @property
    def judge(self) -> Judge | None: ...

    def take(self, n: int) -> tuple[Item, ...]:
        """Return `n` items, 1 or more; the first k of them are `take(k)`."""


P = TypeVar("P", bound=PromptSet)


def as_prompts(prompts: PromptSet | str | Sequence[str]) -> PromptSet:
    """Return a prompt set; text, or a list of it, becomes a `PromptList`.

    >>> as_prompts("a red ring")
    PromptList(prompts=('a red ring',))
    """
    if hasattr(prompts, "take"):
        return cast(PromptSet, prompts)
    if isinstance(prompts, str | Sequence):
        return PromptList(prompts)
    raise ValueError(f"prompts are text, a list of it, or a prompt set; not {prompts!r}")


def seeded(prompts: P, seed: int) -> P:
    """Return a prompt set with another `seed`; a set without such a field is returned unchanged.

    >>> seeded(ClosedWorld(), 23)
    ClosedWorld(seed=23)
    """
    if is_dataclass(prompts) and "seed" in {f.name for f in fields(prompts)}:
        return replace(prompts, seed=seed)
    return prompts


def world_judge(item: Item, picture: np.ndarray) -> float:
    """Return 1.0 if a picture (H, W, 3) uint8 shows the objects of its prompt, else 0.0.

    Raises PromptError for a prompt outside the closed world's grammar.
    """
    return float(judge(parse(item.prompt), picture))


class _Value:
    """Gives a prompt set a `repr` that is its constructor call without default values."""

    def __repr__(self) -> str:
        values = [(f, getattr(self, f.name)) for f in fields(self)]  # type: ignore[arg-type]
        arguments = [f"{f.name}={_source(value)}" for f, value in values if value != f.default]
        return f"{type(self).__name__}({', '.join(arguments)})"


def _source(value: object) -> str:
    """Write a field's value as Python: a path as a string, a function by its name."""
    if isinstance(value, Path):
        return repr(str(value))
    return str(value.__name__) if callable(value) and hasattr(value, "__name__") else repr(value)


@dataclass(frozen=True, repr=False)
class ClosedWorld(_Value):
    """Prompts of the closed world, cycling through its tasks, with their judge.

    They are those that the shipped model was not trained on, or with `held_out=False` the others:
    the two have no prompt in common. Models that generate photographs use the same prompts with
    `judge=None`.

    >>> ClosedWorld().take(8)[7]
    Item(prompt='a pink ring', seed=1313144367, group='single_object')
    """

    seed: int = 11
    tasks: tuple[str, ...] = TASKS
    judge: Judge | None = world_judge
    held_out: bool = True
    name: ClassVar[str] = "closed-world"

    def __post_init__(self) -> None:
        _check_seed(self.seed)
        object.__setattr__(self, "tasks", tuple(self.tasks))
        if not self.tasks or not set(self.tasks) <= set(TASKS):
            raise ValueError(f"tasks must be some of {', '.join(TASKS)}; not {self.tasks}")

    def take(self, n: int) -> tuple[Item, ...]:
        """Draw the first `n` items; the prompts of a task depend on the seed alone."""
        _check_count(n)
        drawn = questions(n, self.seed, self.tasks, self.held_out)
        return tuple(Item(q.prompt.text, q.seed, q.task) for q in drawn)


@dataclass(frozen=True, repr=False)
class ClassNumbers(_Value):
    """Class numbers of a class-conditional model, such as ImageNet's, drawn uniformly.

    >>> ClassNumbers(1000, seed=11).take(2)[0].group
    'class'
    """

    classes: int = 1000
    seed: int = 11
    name: ClassVar[str] = "classes"
    judge: ClassVar[Judge | None] = None

    def __post_init__(self) -> None:
        _check_seed(self.seed)
        if self.classes < 1:
            raise ValueError(f"there must be at least 1 class to draw; not {self.classes}")

    def take(self, n: int) -> tuple[Item, ...]:
        """Draw the first `n` items; their noise seeds are those of `ClosedWorld`."""
        _check_count(n)
        labels = np.random.default_rng(self.seed).integers(self.classes, size=n)
        seeds = (q.seed for q in questions(n, self.seed))
        return tuple(Item(str(label), seed, "class") for label, seed in zip(labels, seeds))


@dataclass(frozen=True, repr=False)
class PromptList(_Value):
    """A list of prompts, repeated as often as needed; item i has the noise seed `seed + i`.

    A single string is a list of one prompt: every item has the same text and another seed.

    >>> PromptList("a cat").take(2)
    (Item(prompt='a cat', seed=0, group=''), Item(prompt='a cat', seed=1, group=''))
    """

    prompts: Sequence[str]
    seed: int = 0
    judge: Judge | None = None
    name: str = "list"

    def __post_init__(self) -> None:
        _check_seed(self.seed)
        texts = (self.prompts,) if isinstance(self.prompts, str) else tuple(self.prompts)
        object.__setattr__(self, "prompts", texts)
        if not texts:
            raise ValueError("a prompt list needs at least one prompt; it is empty")
        for prompt in texts:
            if not isinstance(prompt, str) or not prompt.strip():
                raise ValueError(f"a prompt is text of at least one word; not {prompt!r}")

    def take(self, n: int) -> tuple[Item, ...]:
        """Return the first `n` items."""
        return _in_turns(self.prompts, n, self.seed)


@dataclass(frozen=True, repr=False)
class PromptFile(_Value):
    """A UTF-8 text file with one prompt per line, used like a `PromptList`; skips blank lines.

    Raises ValueError if the file cannot be read or has no prompt.
    """

    path: str | Path
    seed: int = 0
    judge: Judge | None = None
    name: str = "file"

    def __post_init__(self) -> None:
        _check_seed(self.seed)
        self.take(1)

    def take(self, n: int) -> tuple[Item, ...]:
        """Read the file and return the first `n` items."""
        try:
            lines = expanded(self.path).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise ValueError(f"the prompt file {self.path} is not UTF-8 text") from None
        except OSError as error:
            raise ValueError(
                f"cannot read the prompt file {self.path}: {error.strerror}"
            ) from error
        prompts = [line.strip() for line in lines if line.strip()]
        if not prompts:
            raise ValueError(f"the prompt file {self.path} has no prompt")
        return _in_turns(prompts, n, self.seed)


def _in_turns(prompts: Sequence[str], n: int, seed: int) -> tuple[Item, ...]:
    """Return `n` items that cycle through the prompts."""
    _check_count(n)
    return tuple(Item(text, seed + i) for i, text in enumerate(islice(cycle(prompts), n)))


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise ValueError(f"the seed of a prompt set must be 0 or more; not {seed}")


def _check_count(n: int) -> None:
    if n < 1:
        raise ValueError(f"take at least 1 prompt; not {n}")
