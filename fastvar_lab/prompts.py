"""Prompt sets as values: which prompts with which seeds, and the judge of their pictures.

A prompt set of your own is a frozen dataclass with the three members of `PromptSet`; a judge is any
function of an item and its picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from fastvar_lab.files import expanded
from fastvar_lab.world.grammar import parse
from fastvar_lab.world.tasks import TASKS, judge, questions


class Item(NamedTuple):
    """One prompt to generate, the seed of its noise, and the group that its score counts for."""

    prompt: str
    seed: int
    group: str = ""


class Judge(Protocol):
    """Scores a picture (H, W, 3) uint8 by what its item asks for; higher is better."""

    def __call__(self, item: Item, picture: np.ndarray, /) -> float: ...


@runtime_checkable
class PromptSet(Protocol):
    """What experiments ask of a prompt set: a frozen value whose `repr` reads as Python.

    `judge` scores its pictures, or is None. Experiments draw the default set of a model anew for
    each question, by its field `seed` if it has one.

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


def seeded(prompts: P, seed: int) -> P:
    """Return a prompt set with another `seed`; one without such a field comes back as it is.

    >>> seeded(ClosedWorld(), 23)
    ClosedWorld(seed=23)
    """
    if is_dataclass(prompts) and "seed" in {f.name for f in fields(prompts)}:
        return replace(prompts, seed=seed)
    return prompts


def world_judge(item: Item, picture: np.ndarray) -> float:
    """Return 1.0 if a picture (H, W, 3) uint8 shows what its prompt says, else 0.0.

    Raises PromptError for a prompt outside the closed world's grammar.
    """
    return float(judge(parse(item.prompt), picture))


class _Value:
    """Writes a prompt set as the Python that makes it, defaults left out."""

    def __repr__(self) -> str:
        values = [(f, getattr(self, f.name)) for f in fields(self)]  # type: ignore[arg-type]
        written = [f"{f.name}={_written(value)}" for f, value in values if value != f.default]
        return f"{type(self).__name__}({', '.join(written)})"


def _written(value: object) -> str:
    if isinstance(value, Path):
        return repr(str(value))
    return str(value.__name__) if callable(value) and hasattr(value, "__name__") else repr(value)


@dataclass(frozen=True, repr=False)
class ClosedWorld(_Value):
    """Held-out prompts of the closed world, its tasks in turn, with their judge.

    Models that draw photographs are prompted with the same sentences and `judge=None`.

    >>> ClosedWorld().take(8)[7]
    Item(prompt='a pink ring', seed=1313144367, group='single_object')
    """

    seed: int = 11
    tasks: tuple[str, ...] = TASKS
    judge: Judge | None = world_judge
    name: ClassVar[str] = "closed-world"

    def __post_init__(self) -> None:
        _check_seed(self.seed)
        object.__setattr__(self, "tasks", tuple(self.tasks))
        if not self.tasks or not set(self.tasks) <= set(TASKS):
            raise ValueError(f"tasks must be some of {', '.join(TASKS)}; not {self.tasks}")

    def take(self, n: int) -> tuple[Item, ...]:
        """Draw the first `n`; each task's prompts depend on the seed alone."""
        _check_count(n)
        drawn = questions(n, self.seed, self.tasks)
        return tuple(Item(q.prompt.text, q.seed, q.task) for q in drawn)


@dataclass(frozen=True, repr=False)
class ClassNumbers(_Value):
    """Class numbers of a class-conditional model, such as ImageNet's, drawn evenly.

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
        """Draw the first `n`; their noise has the seeds of `ClosedWorld`'s items."""
        _check_count(n)
        labels = np.random.default_rng(self.seed).integers(self.classes, size=n)
        seeds = (q.seed for q in questions(n, self.seed))
        return tuple(Item(str(label), seed, "class") for label, seed in zip(labels, seeds))


@dataclass(frozen=True, repr=False)
class PromptList(_Value):
    """Prompts in order, the i-th with noise of seed + i; a single string is drawn at many seeds.

    After the last prompt the first one comes again, with a seed of its own.

    >>> PromptList("a cat").take(2)
    (Item(prompt='a cat', seed=0, group=''), Item(prompt='a cat', seed=1, group=''))
    """

    prompts: Sequence[str]
    seed: int = 0
    judge: Judge | None = None
    name: str = "list"

    def __post_init__(self) -> None:
        _check_seed(self.seed)
        given = (self.prompts,) if isinstance(self.prompts, str) else tuple(self.prompts)
        object.__setattr__(self, "prompts", given)
        if not given:
            raise ValueError("a prompt list needs at least one prompt; it is empty")
        for prompt in given:
            if not isinstance(prompt, str) or not prompt.strip():
                raise ValueError(f"a prompt is text of at least one word; not {prompt!r}")

    def take(self, n: int) -> tuple[Item, ...]:
        """Return the first `n`."""
        return _in_turns(self.prompts, n, self.seed)


@dataclass(frozen=True, repr=False)
class PromptFile(_Value):
    """A UTF-8 text file with a prompt on each line, used like a `PromptList`; blank lines are none.

    Raises ValueError when the file cannot be read or has no prompt.
    """

    path: str | Path
    seed: int = 0
    judge: Judge | None = None
    name: str = "file"

    def __post_init__(self) -> None:
        _check_seed(self.seed)
        self.take(1)

    def take(self, n: int) -> tuple[Item, ...]:
        """Return the first `n`, of the file as it is now."""
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
    _check_count(n)
    return tuple(Item(text, seed + i) for i, text in enumerate(islice(cycle(prompts), n)))


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise ValueError(f"the seed of a prompt set must be 0 or more; not {seed}")


def _check_count(n: int) -> None:
    if n < 1:
        raise ValueError(f"take at least 1 prompt; not {n}")
