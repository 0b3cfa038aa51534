"""The scores of a folder of pictures, each a function in one registry.

A score is a function of a `Case`: the folder, the options, and ways to open networks and to cache
rows. It returns a `Result`. To add one, write the function and a line in `SCORES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fastvar_lab.errors import unknown
from fastvar_lab.evaluators.case import Case, Result
from fastvar_lab.evaluators.inception_scores import coverage, frechet, inception_score, kid
from fastvar_lab.evaluators.prompt_scores import (
    clip_score,
    closed_world,
    gen_eval,
    hps,
    image_reward,
)


@dataclass(frozen=True)
class Score:
    """A score under its name: how tables show it, what it needs, and its function.

    `larger` says whether a larger value is better, `by_prompt` whether it reads prompts,
    `by_entry` whether it reads the benchmark's metadata of each prompt.
    """

    name: str
    title: str
    function: Callable[[Case], Result]
    networks: tuple[str, ...] = ()
    reference: bool = False
    digits: int = 2
    larger: bool = True
    by_prompt: bool = False
    by_entry: bool = False


SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        Score("geneval", "GenEval", gen_eval, ("detector", "clip"), digits=3, by_prompt=True,
              by_entry=True),
        Score("fid", "FID", partial(frechet, part="pooled"), ("inception",), True, larger=False),
        Score("kid", "KID x 1000", kid, ("inception",), True, larger=False),
        Score("sfid", "sFID", partial(frechet, part="spatial"), ("inception",), True,
              larger=False),
        Score("is", "IS", inception_score, ("inception",), digits=1),
        Score("precision", "precision", partial(coverage, part="precision"), ("inception",),
              True, digits=3),
        Score("recall", "recall", partial(coverage, part="recall"), ("inception",), True,
              digits=3),
        Score("clip", "CLIP score", clip_score, ("clip",), by_prompt=True),
        Score("hps", "HPSv2.1", hps, ("hps",), by_prompt=True),
        Score("imagereward", "ImageReward", image_reward, ("imagereward",), digits=4,
              by_prompt=True),
        Score("closed-world", "closed world", closed_world, digits=3, by_prompt=True),
    )
}  # fmt: skip
"""Every score, by name."""


def find(name: str) -> Score:
    """Return a score by name; raise ValueError for an unknown one."""
    if name not in SCORES:
        raise unknown("score", name, SCORES)
    return SCORES[name]
