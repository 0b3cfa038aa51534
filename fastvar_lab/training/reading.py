"""Pretrains the text encoder: at each noun it predicts the noun's attributes and place.

Training on pictures alone binds adjectives to nouns, and nouns to places, slowly. So the text
encoder is pretrained on these predictions, which also remain an auxiliary loss later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvar_lab.backbones.text import WordEncoder
from fastvar_lab.training.loop import pretrain
from fastvar_lab.world.grammar import (
    COLORS,
    MIRROR,
    PLURALS,
    RELATIONS,
    SHAPES,
    TEXTURES,
    Prompt,
)
from fastvar_lab.world.scene import MAX_OBJECTS, caption, random_prompt

NOUNS = {*SHAPES, *PLURALS.values()}
FACTS: dict[
    str, tuple[str | int | None, ...]
] = {  # the facts predicted for each group of a prompt, and their possible values
    "shape": SHAPES,
    "color": (None, *COLORS),
    "texture": (None, *TEXTURES),
    "count": tuple(range(1, MAX_OBJECTS + 1)),
    "place": (None, *RELATIONS),
    "before": tuple(range(MAX_OBJECTS)),  # number of objects named earlier
    "total": tuple(range(1, MAX_OBJECTS + 1)),  # number of objects in the picture
}
SIZES = [len(answers) for answers in FACTS.values()]


def facts(prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
    """Return the nouns' indices (N, 2), prompt and word, and the class indices (N, 7) of facts."""
    mirrored = {**MIRROR, **{v: k for k, v in MIRROR.items()}}
    places, answers = list[tuple[int, int]](), list[list[int]]()
    for row, prompt in enumerate(prompts):
        nouns = [i for i, word in enumerate(prompt.text.split()) if word in NOUNS]
        seen_from = (prompt.relation, mirrored[prompt.relation] if prompt.relation else None)
        before, total = 0, sum(group.count for group in prompt.groups)
        for number, (noun, group) in enumerate(zip(nouns, prompt.groups, strict=True)):
            places.append((row, noun))
            place = seen_from[number] if prompt.relation else None
            values = (group.shape, group.color, group.texture, group.count, place, before, total)
            answers.append(
                [allowed.index(x) for x, allowed in zip(values, FACTS.values(), strict=True)]
            )
            before += group.count
    return torch.tensor(places), torch.tensor(answers)


class Reader(nn.Module):
    """A linear map from a noun's features to its facts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, sum(SIZES))

    def forward(self, features: Tensor, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy, summed over facts, and the mask (N, 7) of correct facts.

        `features` (B, T, D) are the text encoder's output for `prompts`.
        """
        nouns, answers = (x.to(features.device) for x in facts(prompts))
        at = features[nouns[:, 0], nouns[:, 1]].float()
        guesses = self.head(F.layer_norm(at, at.shape[-1:])).split(SIZES, dim=-1)
        pairs = list(zip(guesses, answers.unbind(1), strict=True))
        loss = torch.stack([F.cross_entropy(guess, truth) for guess, truth in pairs]).sum()
        return loss, torch.stack([guess.argmax(-1) == truth for guess, truth in pairs], dim=1)


def learn_to_read(
    encoder: WordEncoder,
    *,
    steps: int,
    seed: int = 0,
    batch: int = 128,
    peak: float = 1e-3,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> dict[str, float]:
    """Train the text encoder in place, with a linear map from nouns to their facts.

    Returns the accuracy of each fact on the last batch, before the step on it. `checkpoint` and
    `resume` are those of `pretrain`.
    """
    device = encoder.places.device
    reader = Reader(encoder.config.width).to(device)
    batches = enumerate(_captions(seed, batch))
    right = dict[str, float]()

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        nonlocal right
        prompts = next(prompts for place, prompts in batches if place == step)
        with torch.autocast(device.type, torch.bfloat16):
            features = encoder.encode([p.text for p in prompts]).features
        value, hits = reader(features, prompts)
        shown = step % 50 == 0 or step == steps - 1
        if shown:
            right = dict(zip(FACTS, hits.float().mean(dim=0).tolist(), strict=True))
        return value, right if shown else {}

    pretrain(
        "reading",
        nn.ModuleDict({"encoder": encoder, "reader": reader}),
        loss,
        steps=steps,
        peak=peak,
        betas=(0.9, 0.95),
        weight_decay=0.02,
        warmup=20,
        checkpoint=checkpoint,
        resume=resume,
    )
    return right


def _captions(seed: int, batch: int) -> Iterator[list[Prompt]]:
    """Draw the captions of one step after another."""
    rng = np.random.default_rng((seed, 3))
    while True:
        yield [caption(random_prompt(rng), rng) for _ in range(batch)]
