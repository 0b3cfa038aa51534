"""Teach the text encoder its language before any picture: at each noun, what the noun is like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from fastvar_lab.backbones.text import WordEncoder
from fastvar_lab.training.loop import learning_rate
from fastvar_lab.world.grammar import (
    COLORS,
    MIRROR,
    PLURALS,
    RELATIONS,
    SHAPES,
    TEXTURES,
    Group,
    Prompt,
)
from fastvar_lab.world.scene import MAX_OBJECTS, caption, random_prompt

NOUNS = {*SHAPES, *PLURALS.values()}
FACTS: dict[
    str, tuple[str | int | None, ...]
] = {  # what is asked about each group of a prompt, and the answers there are
    "shape": SHAPES,
    "color": (None, *COLORS),
    "texture": (None, *TEXTURES),
    "count": tuple(range(1, MAX_OBJECTS + 1)),
    "place": (None, *RELATIONS),
}
SIZES = [len(answers) for answers in FACTS.values()]


def facts(prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
    """Return where the nouns stand, (N, 2) prompt and word, and their facts (N, 5) as numbers."""
    mirrored = {**MIRROR, **{v: k for k, v in MIRROR.items()}}
    places, answers = list[tuple[int, int]](), list[list[int]]()
    for row, prompt in enumerate(prompts):
        nouns = [i for i, word in enumerate(prompt.text.split()) if word in NOUNS]
        seen_from = (prompt.relation, mirrored[prompt.relation] if prompt.relation else None)
        for number, (noun, group) in enumerate(zip(nouns, prompt.groups, strict=True)):
            places.append((row, noun))
            place = seen_from[number] if prompt.relation else None
            answers.append(_answers(group, place))
    return torch.tensor(places), torch.tensor(answers)


def _answers(group: Group, place: str | None) -> list[int]:
    told = (group.shape, group.color, group.texture, group.count, place)
    return [known.index(x) for x, known in zip(told, FACTS.values(), strict=True)]


def learn_to_read(
    encoder: WordEncoder, *, steps: int, seed: int = 0, batch: int = 128, peak: float = 1e-3
) -> dict[str, float]:
    """Train in place until a linear map of a noun's features tells what is said of it.

    Pictures alone bind adjectives to nouns slowly. Returns the share right, by fact, of the last
    batch, none of whose prompts was seen before.
    """
    rng, device = np.random.default_rng((seed, 3)), encoder.places.device
    head = nn.Linear(encoder.config.width, sum(SIZES)).to(device)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.95), weight_decay=0.02)
    right = dict[str, float]()
    bar = tqdm(range(steps), desc="reading", mininterval=2)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, 20, peak)
        prompts = [caption(random_prompt(rng), rng) for _ in range(batch)]
        nouns, answers = facts(prompts)
        with torch.autocast(device.type, torch.bfloat16):
            features = encoder.encode([p.text for p in prompts]).features
        at = features[nouns[:, 0].to(device), nouns[:, 1].to(device)].float()
        guesses = head(F.layer_norm(at, at.shape[-1:])).split(SIZES, dim=-1)
        truth = answers.to(device).unbind(1)
        losses = [F.cross_entropy(g, t) for g, t in zip(guesses, truth, strict=True)]
        optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            right = {
                name: float((g.argmax(-1) == t).float().mean())
                for name, g, t in zip(FACTS, guesses, truth, strict=True)
            }
            bar.write(f"{step} " + " ".join(f"{k} {v:.3f}" for k, v in right.items()))
    return right
