"""The embedded text encoder: a closed vocabulary and a small transformer over its words."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastvar_lab.backbones.hart import Context
from fastvar_lab.backbones.infinity import Text
from fastvar_lab.backbones.layers import normal
from fastvar_lab.backbones.protocol import ConditionEncoder
from fastvar_lab.errors import PromptError, short, split

FAST_PATH = threading.Lock()  # the switch is global to the process


@dataclass(frozen=True)
class WordEncoderConfig:
    """Vocabulary and sizes; `length` is the longest prompt in words."""

    vocabulary: tuple[str, ...]
    width: int
    depth: int
    heads: int
    length: int


class WordEncoder(ConditionEncoder):
    """Encodes words: an embedding, learned positions and a few transformer layers."""

    example = "a red striped circle left of a blue square"

    def __init__(self, config: WordEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.ids = {word: i for i, word in enumerate(config.vocabulary, start=1)}  # 0 pads
        self.words = nn.Embedding(len(self.ids) + 1, config.width)
        self.places = nn.Parameter(normal(config.length, config.width))  # as large as words
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.width,
                config.heads,
                4 * config.width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.depth)
        )

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Convert prompts to word indices (n, T), padded with 0 to the longest prompt."""
        rows = [[self.ids[w] for w in split(p, self.ids)] for p in prompts]
        longest = max(map(len, rows))
        if longest > self.config.length:
            raise PromptError(
                f"a prompt has at most {self.config.length} words; "
                f"{short(max(prompts, key=lambda p: len(p.split())))!r} has {longest}"
            )
        return torch.tensor([row + [0] * (longest - len(row)) for row in rows], device="cpu")

    def pieces(self, prompt: str) -> list[str]:
        return split(prompt, self.ids)

    def forward(self, tokens: Tensor) -> Text:
        """Encode word indices (n, T)."""
        padding = tokens == 0
        x = self.words(tokens) + self.places[: tokens.shape[1]]
        with FAST_PATH:
            fast = torch.backends.mha.get_fastpath_enabled()
            try:
                # on a GPU the fast path of these layers has another GELU than in training
                torch.backends.mha.set_fastpath_enabled(fast and x.device.type == "cpu")
                for layer in self.layers:
                    x = layer(x, src_key_padding_mask=padding)
            finally:
                torch.backends.mha.set_fastpath_enabled(fast)
        return Text(x, ~padding)

    def encode(self, prompts: Sequence[str]) -> Text:
        """Encode prompts: features (n, T, D) and mask (n, T)."""
        return self.forward(self.tokenize(prompts).to(self.places.device))


def random_features(prompt_words: Sequence[str], width: int) -> Tensor:
    """One random vector per word (T, width), the same for the same word."""
    keys = (zlib.crc32(word.encode()) for word in prompt_words)
    return torch.stack(
        [
            torch.randn(
                width,
                generator=torch.Generator("cpu").manual_seed(key),
                dtype=torch.float32,
                device="cpu",
            )
            for key in keys
        ]
    )


class RandomText(ConditionEncoder):
    """Takes the place of a text encoder in speed work: one random feature vector per word."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.config = width
        self.register_buffer("where", torch.zeros(1), persistent=False)

    def encode(self, prompts: Sequence[str]) -> Text:
        """Draw features (n, T, width), the same for the same word."""
        rows = [p.split() for p in prompts]
        if not all(rows):
            raise PromptError("a prompt has at least one word; '' was given")
        longest = max(map(len, rows))
        mask = torch.tensor([[i < len(row) for i in range(longest)] for row in rows], device="cpu")
        features = torch.zeros(len(rows), longest, self.config, dtype=torch.float32, device="cpu")
        for i, row in enumerate(rows):
            features[i, : len(row)] = random_features(row, self.config)
        where = self.get_buffer("where")
        return Text(features.to(where), mask.to(where.device))


class RandomContext(ConditionEncoder):
    """The random features for HART: words, then padding, to the length of its context."""

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.config = (width, length)
        self.register_buffer("where", torch.zeros(1), persistent=False)

    def encode(self, prompts: Sequence[str]) -> Context:
        """Draw features (n, T, width); words beyond the context are dropped."""
        width, length = self.config
        rows = [(p.split() + ["<pad>"] * length)[:length] for p in prompts]
        features = torch.stack([random_features(row, width) for row in rows])
        present = torch.tensor([[w != "<pad>" for w in row] for row in rows], device="cpu")
        where = self.get_buffer("where")
        return Context(features.to(where), (present.cumsum(1) - 1).to(where.device))
