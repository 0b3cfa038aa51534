"""Open a model by name: backbone, tokenizer and text encoder, ready to generate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastvar_lab.backbones import presets
from fastvar_lab.backbones import weights as files
from fastvar_lab.backbones.autoencoder import AutoEncoder, AutoEncoderConfig, VQTokenizer
from fastvar_lab.backbones.infinity import Infinity, InfinityConfig
from fastvar_lab.backbones.protocol import Backbone, ConditionEncoder
from fastvar_lab.backbones.quantize import BitQuantizer, Quantizer
from fastvar_lab.backbones.text import RandomText, WordEncoder, WordEncoderConfig
from fastvar_lab.backbones.var import VAR, LabelEncoder, VARConfig
from fastvar_lab.sampling import Sampling
from fastvar_lab.scales import TINY, Sizes, infinity, square
from fastvar_lab.seam import Grid
from fastvar_lab.tokens import wide
from fastvar_lab.world.grammar import VOCABULARY

WEIGHTS = Path(__file__).parent / "weights"
TOKENIZER_FILE, TRANSFORMER_FILE = "tiny_tokenizer.safetensors", "tiny_transformer.safetensors"


@dataclass
class Model:
    """A backbone with its tokenizer and text encoder, and the defaults it was made for."""

    name: str
    transformer: Backbone
    tokenizer: AutoEncoder
    quantizer: Quantizer
    text_encoder: ConditionEncoder
    sizes: Sizes
    sampling: Sampling

    @property
    def parts(self) -> tuple[Backbone, AutoEncoder, ConditionEncoder]:
        """All modules that hold weights."""
        return self.transformer, self.tokenizer, self.text_encoder

    @property
    def device(self) -> torch.device:
        return self.transformer.pos_start.device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.pos_start.dtype

    @property
    def depth(self) -> int:
        return self.transformer.config.depth

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all weights, for provenance."""
        config = {part._get_name(): repr(part.config) for part in self.parts}
        return files.fingerprint(config, *self.parts)

    @torch.no_grad()
    def condition(self, prompts: Sequence[str]) -> Any:
        """Encode prompts, or class labels, to what the transformer is conditioned on."""
        return self.text_encoder.encode(prompts)

    def blank(self, n: int, last: Grid) -> Tensor:
        """Make the latent before the first step: zeros (n, d, H, W) of the final map."""
        dtype = wide(self.transformer.pos_start).dtype
        p = self.quantizer.patch
        shape = (n, self.quantizer.channels, p * last.h, p * last.w)
        return torch.zeros(shape, dtype=dtype, device=self.device)

    @torch.no_grad()
    def decode(self, canvas: Tensor) -> Tensor:
        """Decode latents (n, d, H, W) to pictures (n, 3, h, w) in [0, 1]."""
        return self.tokenizer.decode(canvas)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Model:
        """Move all parts; `dtype` too if given."""
        for part in self.parts:
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

    transformer = Infinity(InfinityConfig(**frozen("transformer")))
    transformer.initialize()
    return Model(
        name=name,
        transformer=transformer,
        tokenizer=AutoEncoder(AutoEncoderConfig(**frozen("tokenizer"))),
        quantizer=BitQuantizer(transformer.config.bits),
        text_encoder=WordEncoder(WordEncoderConfig(**frozen("text"))),
        sizes=TINY,
        sampling=Sampling(),
    )


def build_var(config: VARConfig, tokenizer: AutoEncoderConfig = presets.VAR_TOKENIZER) -> Model:
    """Build a class-conditional VAR with random weights; its prompts are class numbers."""
    pictures = VQTokenizer(tokenizer, config.vocabulary, config.levels)
    return Model(
        name=f"var-d{config.depth}",
        transformer=VAR(config),
        tokenizer=pictures,
        quantizer=pictures.quantize,
        text_encoder=LabelEncoder(config.classes),
        sizes=square(*config.sides),
        sampling=Sampling(guidance=4.0, top_k=900, top_p=0.95),
    )


def build_infinity(
    name: str, config: InfinityConfig, tokenizer: AutoEncoderConfig | None = None
) -> Model:
    """Build an Infinity with random weights; its text features are random too, one per word."""
    return Model(
        name=name,
        transformer=Infinity(config),
        tokenizer=AutoEncoder(tokenizer or presets.infinity_tokenizer(config)),
        quantizer=BitQuantizer(config.bits, config.patch),
        text_encoder=RandomText(config.text_width),
        sizes=infinity(1.0, presets.INFINITY_BUDGET.get(name, "1M")),
        sampling=Sampling(),
    )


def load(
    name: str = "tiny",
    weights: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Model:
    """Open a model: "tiny", "var-d16" to "var-d36", or "infinity-2b" and its kin.

    `weights` is a folder with the model's files (default for tiny: those in the package), or
    "random" for seeded random weights, which serve speed work and tests and nothing else; the
    Infinity presets open that way only. Raises ValueError for an unknown name, WeightsError for
    files that do not fit, RuntimeError for CUDA not there.
    """
    names = ("tiny", *presets.VAR, *presets.INFINITY)
    if name not in names:
        raise ValueError(f"model must be one of {', '.join(names)}; not {name!r}")
    require(device)
    if weights == "random":
        with torch.random.fork_rng(devices=[]), torch.device(device):
            torch.manual_seed(seed)
            model = _random(name)
    elif name == "tiny":
        model = _load_tiny(Path(weights or WEIGHTS))
    elif name in presets.INFINITY:
        raise ValueError(f'{name} opens with weights="random" only: its text encoder is not here')
    elif weights is None:
        raise ValueError(f"{name} needs weights: a folder with {', '.join(var_files(name))}")
    else:
        model = _load_var(name, Path(weights))
    for part in model.parts:
        part.eval().requires_grad_(False)
    model.to(device, dtype)
    model.tokenizer.channels_last()
    for module in model.transformer.modules():
        if isinstance(module, nn.Linear) and module.weight.device.type == "cpu":
            # the same numbers, laid out so that small steps' products run up to twice as fast
            module.weight.data = module.weight.data.t().contiguous().t()
    return model


def _random(name: str) -> Model:
    if name == "tiny":
        return build_tiny()
    if name in presets.VAR:
        return build_var(presets.VAR[name])
    return build_infinity(name, presets.INFINITY[name])


def var_files(name: str) -> tuple[str, str]:
    """Name the released files of a VAR: transformer and tokenizer."""
    return f"{name.replace('-', '_')}.pth", "vae_ch160v4096z32.pth"


def _load_var(name: str, folder: Path) -> Model:
    model = build_var(presets.VAR[name])
    for module, file in zip((model.transformer, model.tokenizer), var_files(name), strict=True):
        files.fill(module, files.read_released(folder / file), folder / file)
    return model


def _load_tiny(folder: Path) -> Model:
    parts, config = files.read(folder / TRANSFORMER_FILE)
    vision, vision_config = files.read(folder / TOKENIZER_FILE)
    try:
        model = build_tiny({**config, **vision_config})
    except (KeyError, TypeError) as error:
        raise files.WeightsError(f"{folder} holds another model's configuration: {error}") from None
    files.fill(language(model), parts, folder / TRANSFORMER_FILE)
    files.fill(model.tokenizer, vision, folder / TOKENIZER_FILE)
    return model


def language(model: Model) -> nn.ModuleDict:
    """Join transformer and text encoder, which are trained and stored together."""
    return nn.ModuleDict({"transformer": model.transformer, "text": model.text_encoder})


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
        "text": asdict(cast(WordEncoder, model.text_encoder).config),
    }
    state = language(model).state_dict()
    files.save(folder / TRANSFORMER_FILE, state, config, torch.float16)
