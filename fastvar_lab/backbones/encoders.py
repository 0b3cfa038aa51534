"""The released text encoders, through transformers: Flan-T5 for Infinity, Qwen2 for HART.

The only module that needs `pip install -e ".[text]"`. Source: released Infinity and HART code.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastvar_lab.backbones.hart import Context
from fastvar_lab.backbones.infinity import Text
from fastvar_lab.backbones.protocol import ConditionEncoder
from fastvar_lab.files import digest, digest_of, official_text

INSTRUCTION_SHA256 = "424f7aa7b1119f8ed1e329140e5941dfe308183bea0af59041dad5527a9b8f20"


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def _settings(folder: Path) -> str:
    """Hash the files beside the weights: configuration and vocabulary, as text."""
    files = (p for p in sorted(folder.iterdir()) if p.suffix in (".json", ".model", ".txt"))
    return digest_of((part for p in files for part in (p.name, p.read_bytes())), length=8)


def _warn_cut(tokenizer: Any, prompts: Sequence[str], length: int) -> None:
    for prompt in prompts:
        count = len(tokenizer(prompt)["input_ids"])
        if count > length:
            warnings.warn(
                f"a prompt has {count} tokens and is cut to {length}: {prompt[:40]!r}...",
                stacklevel=3,
            )


def _pieces(tokenizer: Any, prompt: str, length: int) -> list[str]:
    """Return the tokens of a prompt as text."""
    ids = tokenizer(prompt, max_length=length, truncation=True)["input_ids"]
    return [str(piece) for piece in tokenizer.convert_ids_to_tokens(ids)]


class T5Text(ConditionEncoder):
    """Infinity's text encoder: the last layer of a T5, one row per token, end mark included."""

    def __init__(self, folder: Path, length: int = 512) -> None:
        super().__init__()
        from transformers import T5EncoderModel

        self.tokenizer, self.length = _tokenizer(folder), length
        self.encoder = T5EncoderModel.from_pretrained(folder).eval()
        self.config = f"t5 {folder.name} {length} {_settings(folder)}"

    def pieces(self, prompt: str) -> list[str]:
        return _pieces(self.tokenizer, prompt, self.length)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Text:
        """Encode prompts: features (n, T, D) float32 and mask (n, T), T the longest prompt's."""
        _warn_cut(self.tokenizer, prompts, self.length)
        tokens = self.tokenizer(
            list(prompts),
            max_length=self.length,
            padding=True,
            truncation=True,
            return_tensors="pt",
            padding_side="right",
        )
        device = self.encoder.device
        ids, mask = tokens["input_ids"].to(device), tokens["attention_mask"].to(device)
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        kept = mask.bool()
        return Text(hidden.float() * kept.unsqueeze(-1), kept)


class Qwen2Context(ConditionEncoder):
    """HART's text encoder: the last hidden states of a Qwen2, padded to the model's context.

    The released instruction goes before every prompt if the user names its file; without it the
    features differ from the released path, and a warning says so once.
    """

    def __init__(self, folder: Path, length: int = 300, instruction: Path | None = None) -> None:
        super().__init__()
        from transformers import AutoModel

        self.tokenizer, self.length = _tokenizer(folder), length
        self.encoder = AutoModel.from_pretrained(folder).eval()
        self.instruction: str | None = None
        if instruction is not None:
            self.instruction = official_text(instruction, INSTRUCTION_SHA256)
        else:
            warnings.warn(
                "HART runs on plain prompts: its released instruction text was not named, so "
                "pictures differ from the released path",
                stacklevel=2,
            )
        instructed = digest(self.instruction or "", length=8)
        self.config = f"qwen2 {folder.name} {length} {instructed} {_settings(folder)}"

    def pieces(self, prompt: str) -> list[str]:
        return _pieces(self.tokenizer, prompt, self.length)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Context:
        """Encode prompts: features (n, T, D) float32 and positions (n, T), T fixed.

        Padding stays in, as released: the transformer attends to it.
        """
        _warn_cut(self.tokenizer, prompts, self.length)
        device = next(self.encoder.parameters()).device
        tokens = self.tokenizer(
            list(prompts),
            max_length=self.length,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        )
        ids = tokens["input_ids"]
        mask = ids != self.tokenizer.pad_token_id
        shown, attended = ids, mask.long()
        if self.instruction is not None:
            before = self.tokenizer([self.instruction], return_tensors="pt")["input_ids"]
            before = before.expand(len(ids), -1)
            shown = torch.cat((before, ids), dim=1)
            attended = torch.cat((torch.ones_like(before), attended), dim=1)
        hidden = self.encoder(
            input_ids=shown.to(device), attention_mask=attended.to(device)
        ).last_hidden_state
        positions: Tensor = mask.long().cumsum(1) - 1
        return Context(hidden[:, -self.length :].float(), positions.to(device))


def open_encoder(
    kind: str, folder: Path, length: int, instruction: Path | None = None
) -> ConditionEncoder:
    """Open a text encoder, "t5" or "qwen2", from a folder in transformers' layout."""
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"the text encoder in {folder} needs transformers: pip install -e '.[text]'"
        ) from error
    if kind == "t5":
        return T5Text(folder, length)
    return Qwen2Context(folder, length, instruction)
