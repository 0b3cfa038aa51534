"""Open a model by name: backbone, tokenizer and text encoder, ready to generate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastvar_lab.backbones import weights as files
from fastvar_lab.backbones.autoencoder import AutoEncoder, AutoEncoderConfig
from fastvar_lab.backbones.infinity import Infinity, InfinityConfig, Text
from fastvar_lab.backbones.text import WordEncoder, WordEncoderConfig
from fastvar_lab.sampling import Sampling
from fastvar_lab.scales import TINY, Sizes
from fastvar_lab.world.grammar import VOCABULARY

WEIGHTS = Path(__file__).parent / "weights"
TOKENIZER_FILE, TRANSFORMER_FILE = "tiny_tokenizer.safetensors", "tiny_transformer.safetensors"


@dataclass
class Model:
    """A backbone with its tokenizer and text encoder, and the defaults it was made for."""

    name: str
    transformer: Infinity
    tokenizer: AutoEncoder
    text_encoder: WordEncoder
    sizes: Sizes
    sampling: Sampling

    @property
    def device(self) -> torch.device:
        return self.transformer.pos_start.device

    @property
    def depth(self) -> int:
        return self.transformer.config.depth

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all weights, for provenance."""
        parts = (self.transformer, self.tokenizer, self.text_encoder)
        return files.fingerprint({p._get_name(): asdict(p.config) for p in parts}, *parts)

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Text:
        """Encode prompts: features (n, T, D), mask (n, T)."""
        return self.text_encoder.encode(prompts)

    @torch.no_grad()
    def decode(self, canvas: Tensor) -> Tensor:
        """Decode latents (n, d, H, W) to pictures (n, 3, h, w) in [0, 1]."""
        return self.tokenizer.decode(canvas)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Model:
        """Move all parts; `dtype` too if given."""
        for part in (self.transformer, self.tokenizer, self.text_encoder):
            part.to(device=device, dtype=dtype)
        self.__dict__.pop("fingerprint", None)
        return self


def tiny_config() -> dict[str, Any]:
    """Return the embedded model's sizes; about 140 GFLOP for one guided 256 px picture."""
    text = WordEncoderConfig(VOCABULARY, width=256, depth=2, heads=4, length=24)
    transformer = InfinityConfig(
        depth=8,
        width=256,
        heads=4,
        ffn=1024,
        bits=16,
        text_width=text.width,
        text_length=text.length,
        reference=(96, 96),
    )
    tokenizer = AutoEncoderConfig(16, (96, 128), encoder_blocks=1, decoder_blocks=2, patch=4)
    return {
        "transformer": asdict(transformer),
        "text": asdict(text),
        "tokenizer": asdict(tokenizer),
    }


def build_tiny(config: dict[str, Any] | None = None, name: str = "tiny") -> Model:
    """Build the embedded model, or a variant of it from a configuration, with random weights."""
    config = config or tiny_config()

    def frozen(part: str) -> dict[str, Any]:  # JSON knows no tuples
        return {k: tuple(v) if isinstance(v, list) else v for k, v in config[part].items()}

    return Model(
        name=name,
        transformer=Infinity(InfinityConfig(**frozen("transformer"))).eval(),
        tokenizer=AutoEncoder(AutoEncoderConfig(**frozen("tokenizer"))).eval(),
        text_encoder=WordEncoder(WordEncoderConfig(**frozen("text"))).eval(),
        sizes=TINY,
        sampling=Sampling(),
    )


def load(
    name: str = "tiny",
    weights: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Model:
    """Open a model.

    `weights` is a folder with the model's files (default: those in the package), or "random" for
    seeded random weights, which serve speed work and tests and nothing else. Raises ValueError
    for an unknown name, WeightsError for files that do not fit, RuntimeError for CUDA not there.
    """
    if name != "tiny":
        raise ValueError(f"model must be one of tiny; not {name!r}")
    require(device)
    if weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_tiny()
            model.transformer.initialize()
    else:
        folder = Path(weights or WEIGHTS)
        parts, config = files.read(folder / TRANSFORMER_FILE)
        vision, vision_config = files.read(folder / TOKENIZER_FILE)
        try:
            model = build_tiny({**config, **vision_config})
        except (KeyError, TypeError) as error:
            raise files.WeightsError(
                f"{folder} holds another model's configuration: {error}"
            ) from None
        nn_parts = nn.ModuleDict({"transformer": model.transformer, "text": model.text_encoder})
        files.fill(nn_parts, parts, folder / TRANSFORMER_FILE)
        files.fill(model.tokenizer, vision, folder / TOKENIZER_FILE)
    for part in (model.transformer, model.tokenizer, model.text_encoder):
        part.requires_grad_(False)
    model.to(device, dtype)
    model.tokenizer.channels_last()
    for module in model.transformer.modules():
        if isinstance(module, nn.Linear) and module.weight.device.type == "cpu":
            # the same numbers, laid out so that small steps' products run up to twice as fast
            module.weight.data = module.weight.data.t().contiguous().t()
    return model


def require(device: torch.device | str) -> None:
    """Raise RuntimeError if a CUDA device is asked for that is not there."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"device {device} was asked for, but no CUDA GPU is available here")


def save_tokenizer(model: Model, folder: Path) -> None:
    """Write the tokenizer with its configuration."""
    config = {"tokenizer": asdict(model.tokenizer.config)}
    files.save(folder / TOKENIZER_FILE, model.tokenizer.state_dict(), config, torch.float16)


def save_transformer(model: Model, folder: Path) -> None:
    """Write the transformer and its text encoder with their configuration."""
    config = {
        "transformer": asdict(model.transformer.config),
        "text": asdict(model.text_encoder.config),
    }
    both = nn.ModuleDict({"transformer": model.transformer, "text": model.text_encoder})
    files.save(folder / TRANSFORMER_FILE, both.state_dict(), config, torch.float16)
