"""Open a model by name: backbone, tokenizer and text encoder, ready to generate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastvar_lab.backbones import presets
from fastvar_lab.backbones import weights as files
from fastvar_lab.backbones.autoencoder import AutoEncoder, AutoEncoderConfig, VQTokenizer
from fastvar_lab.backbones.hart import HART, HARTConfig
from fastvar_lab.backbones.infinity import Infinity, InfinityConfig
from fastvar_lab.backbones.protocol import Backbone, ConditionEncoder
from fastvar_lab.backbones.quantize import BitQuantizer, Quantizer
from fastvar_lab.backbones.text import RandomContext, RandomText, WordEncoder, WordEncoderConfig
from fastvar_lab.backbones.var import VAR, LabelEncoder, VARConfig
from fastvar_lab.sampling import Sampling
from fastvar_lab.scales import TINY, Sizes, extend, infinity, square, stretch
from fastvar_lab.scales import grids as number
from fastvar_lab.seam import Grid
from fastvar_lab.tokens import wide
from fastvar_lab.world.grammar import VOCABULARY

WEIGHTS = Path(__file__).parent / "weights"
PRECISIONS = ("float32", "official")
TOKENIZER_FILE, TRANSFORMER_FILE = "tiny_tokenizer.safetensors", "tiny_transformer.safetensors"


@dataclass(repr=False)
class Model:
    """A backbone with its tokenizer and text encoder, and the defaults it was made for.

    `autocast` is the type that the released mixture of precisions computes in, `source` the
    Python that opened the model, with the schedule `opened`, if `load` did; `extends` says
    how it draws larger squares, see `sizes_to`.
    """

    name: str
    transformer: Backbone
    tokenizer: AutoEncoder
    quantizer: Quantizer
    text_encoder: ConditionEncoder
    sizes: Sizes
    sampling: Sampling
    autocast: torch.dtype | None = None
    source: str = ""
    opened: Sizes = ()
    extends: bool = False
    _hashed: tuple[object, str] | None = field(default=None, init=False, repr=False, compare=False)

    def __repr__(self) -> str:
        sides = ", ".join(grid.name for grid in self.grids())
        return f"<Model {self.name}, {self.precision} on {self.device}, maps {sides}>"

    @property
    def parts(self) -> list[nn.Module]:
        """All modules that hold weights."""
        parts: list[nn.Module] = [self.transformer, self.tokenizer, self.text_encoder]
        if isinstance(self.tokenizer, NoAutoEncoder) and isinstance(self.quantizer, nn.Module):
            parts.append(self.quantizer)
        return parts

    @property
    def device(self) -> torch.device:
        return self.transformer.head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.head.weight.dtype

    def grids(self, sizes: Sequence[tuple[int, int]] | None = None) -> tuple[Grid, ...]:
        """Turn a schedule of token maps, default the model's own, into its scale steps."""
        return number(self.sizes if sizes is None else sizes, self.transformer.prefix)

    def sizes_to(self, h: int, w: int) -> Sizes:
        """Return this model's schedule up to an h x w map, zero-shot where that is larger.

        The embedded model goes on from its own to a larger square: stretched, the maps on which it
        settles what lies where would be larger than in training, and objects multiply. Raises
        ValueError where that takes more steps than it has level embeddings.
        """
        if not (self.extends and h == w > self.sizes[-1][0]):
            return stretch(self.sizes, h, w)
        sizes, levels = extend(self.sizes, h), self.transformer.config.levels
        if len(sizes) > levels:
            raise ValueError(
                f"{self.name} has level embeddings for {levels} scales; a map of {h}x{w} takes "
                f"{len(sizes)}"
            )
        return sizes

    @property
    def depth(self) -> int:
        return self.transformer.config.depth

    def stamp(self, *parts: nn.Module) -> object:
        """Give what changes when the weights of parts, default all, do, or how they compute.

        That is where they lie, and how often they were written; writing through `.data` is not
        noticed.
        """
        chosen = parts or self.parts
        tensors = (t for part in chosen for t in (*part.parameters(), *part.buffers()))
        now = tuple(
            (t.data_ptr(), 0 if t.is_inference() else t._version, t.dtype, t.device)
            for t in tensors
        )
        return (self.precision, *map(id, chosen), now)

    @property
    def drawing(self) -> object:
        """The stamp of what a resumed generation computes with."""
        quantizer = [self.quantizer] if isinstance(self.quantizer, nn.Module) else []
        return self.stamp(self.transformer, *quantizer)

    @property
    def fingerprint(self) -> str:
        """Hash of all weights, for provenance; computed anew when they have changed."""
        if self._hashed is None or self._hashed[0] != self.stamp():
            config = {part._get_name(): repr(getattr(part, "config", "")) for part in self.parts}
            self._hashed = self.stamp(), files.fingerprint(config, *self.parts)
        return self._hashed[1]

    @torch.no_grad()
    def condition(self, prompts: Sequence[str]) -> Any:
        """Encode prompts, or class labels, to what the transformer is conditioned on."""
        return self.text_encoder.encode(prompts)

    def blank(self, n: int, last: Grid) -> Tensor:
        """Make the latent before the first step: zeros (n, d, H, W) of the final map."""
        dtype = wide(self.transformer.head.weight).dtype
        if self.autocast is not None and isinstance(self.transformer, HART):
            dtype = self.autocast  # released: HART adds up its latent in float16
        p = self.quantizer.patch
        shape = (n, self.quantizer.channels, p * last.h, p * last.w)
        return torch.zeros(shape, dtype=dtype, device=self.device)

    @torch.no_grad()
    def decode(self, canvas: Tensor) -> Tensor:
        """Decode latents (n, d, H, W) to pictures (n, 3, h, w) in [0, 1]."""
        return self.tokenizer.decode(canvas)

    def freeze(self) -> Model:
        """Set all parts to inference.

        Autocast keeps the casts of a generation only for weights that could have gradients.
        """
        for part in self.parts:
            part.eval().requires_grad_(self.autocast is not None)
        return self

    def set_precision(self, precision: str, dtype: torch.dtype = torch.float32) -> Model:
        """Compute in `dtype` throughout, or in the mixture of the released code.

        "official": Infinity's text attention rounds to bfloat16; with dtype bfloat16 (Infinity) or
        float16 (VAR, HART) the model also runs under autocast as its scripts do, Infinity's
        layers stored in bfloat16 and all else in float32. "float32" is `dtype` alone.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; not {precision!r}")
        official = precision == "official"
        if isinstance(self.transformer, Infinity):
            self.transformer.round_text_attention(official)
        self.autocast = dtype if official and dtype != torch.float32 else None
        self.freeze()
        if self.autocast is None:
            return self.to(self.device, dtype)
        self.to(self.device, torch.float32)
        if isinstance(self.transformer, Infinity):
            self.transformer.blocks.to(dtype)
        return self

    @property
    def precision(self) -> str:
        """Name the types that the model computes in, for provenance."""
        named = [str(self.dtype).removeprefix("torch.")]
        if self.autocast is not None:
            named.append(f"autocast {str(self.autocast).removeprefix('torch.')}")
        if isinstance(self.transformer, Infinity) and self.transformer.rounds_text_attention:
            named.append("text attention rounded")
        return ", ".join(named)

    def lay_out(self) -> Model:
        """Lay weights out, on a CPU, so that small steps' products run up to twice as fast."""
        for module in self.transformer.modules():
            if isinstance(module, nn.Linear) and module.weight.device.type == "cpu":
                module.weight.data = module.weight.data.t().contiguous().t()
        self.tokenizer.channels_last()
        return self

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Model:
        """Move all parts; `dtype` too if given."""
        for part in self.parts:
            part.to(device=device, dtype=dtype)
        if self.device.type != "cpu":  # where products want another layout than `lay_out` makes
            for module in self.transformer.modules():
                if isinstance(module, nn.Linear):
                    module.weight.data = module.weight.data.contiguous()
        return self


class NoText(ConditionEncoder):
    """Stands where no text encoder was opened: conditions come encoded."""

    def __init__(self, model: str, wanted: str = "") -> None:
        super().__init__()
        self.model, self.wanted = model, wanted  # no `config`: where it lies is no part of a model

    def encode(self, prompts: Sequence[str]) -> Any:
        """Refuse, saying what was looked for."""
        looked = f" ({self.wanted} is not there)" if self.wanted else ""
        raise ValueError(
            f"{self.model} has no text encoder here{looked}; pass encoded prompts instead of words"
        )


class NoAutoEncoder(AutoEncoder):
    """Stands where no autoencoder was opened: latents stay latents."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def decode(self, latent: Tensor) -> Tensor:
        """Refuse."""
        raise ValueError("this model was built without an autoencoder; its latents stay latents")


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
        waves=4,
    )
    tokenizer = AutoEncoderConfig(16, (96, 128), encoder_blocks=1, decoder_blocks=2, patch=4)
    return {
        "transformer": asdict(transformer),
        "text": asdict(text),
        "tokenizer": asdict(tokenizer),
    }


def build_tiny(config: dict[str, Any] | None = None, name: str = "tiny") -> Model:
    """Build the embedded model, or a variant of it from a configuration, with random weights.

    Raises WeightsError for a configuration that names what no model here has.
    """
    default = tiny_config()
    config = config or default

    def frozen(part: str) -> dict[str, Any]:  # JSON knows no tuples
        for key in config[part].keys() - default[part].keys():
            raise files.WeightsError(
                f"the configuration of the weights' {part} has {key!r}, of another version; "
                f"known are {', '.join(default[part])}"
            )
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
        sampling=Sampling(guidance=2.0, temperature=0.6, top_p=1.0),
        extends=True,
    )


def build(
    config: presets.Config,
    *,
    name: str = "custom",
    tokenizer: AutoEncoderConfig | None = None,
    sizes: Sizes | None = None,
    sampling: Sampling | None = None,
) -> Model:
    """Build a VAR, Infinity or HART from its configuration, with random weights.

    Text features are random too, one per word; a VAR's prompts are class numbers. The defaults are
    those of the family's releases.
    """
    transformer: Backbone
    condition: ConditionEncoder
    if isinstance(config, InfinityConfig):
        transformer, condition = Infinity(config), RandomText(config.text_width)
        pictures = AutoEncoder(tokenizer or presets.infinity_tokenizer(config))
        quantizer: Quantizer = BitQuantizer(config.bits, config.patch)
        usual, default = infinity(), Sampling()
    else:
        book = VQTokenizer(
            tokenizer or presets.VAR_TOKENIZER,
            config.vocabulary,
            config.levels,
            hybrid=isinstance(config, HARTConfig),
        )
        pictures, quantizer, usual = book, book.quantize, square(*config.sides)
        if isinstance(config, HARTConfig):
            transformer = HART(config)
            condition = RandomContext(config.context_width, config.context)
            default = Sampling(guidance=4.5, top_p=1.0, smooth=True)
        else:
            transformer, condition = VAR(config), LabelEncoder(config.classes)
            default = Sampling(guidance=4.0, top_k=900, top_p=0.95)
    return Model(
        name=name,
        transformer=transformer,
        tokenizer=pictures,
        quantizer=quantizer,
        text_encoder=condition,
        sizes=sizes or usual,
        sampling=sampling or default,
    )


FAMILIES: dict[str, type] = {"var": VARConfig, "infinity": InfinityConfig, "hart": HARTConfig}


def from_states(
    family: str,
    config: Mapping[str, Any],
    transformer: Mapping[str, Tensor],
    quantizer: Mapping[str, Tensor] | None = None,
    *,
    sizes: Sequence[tuple[int, int]] | None = None,
    precision: str = "float32",
) -> Model:
    """Build a model from a configuration and state dicts in memory, under the released key names.

    `family` is "var", "infinity" or "hart", `config` its configuration's fields (VARConfig,
    InfinityConfig, HARTConfig). `quantizer` holds at least the tokenizer's `quantize.` part (VAR
    and HART; bits need none). The result has no autoencoder and no text encoder: `generate`
    takes labels or encoded prompts and returns the latent. `precision` as in `load`. The model
    shares the tensors' memory: copy those that are still being trained.
    """
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}; not {family!r}")
    known = {f.name for f in fields(FAMILIES[family])}
    for key in config:
        if key not in known:
            raise ValueError(f"{family} has no setting {key!r}; it has {', '.join(sorted(known))}")
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    channels = int(config.get("code", config.get("bits", 32)))
    with torch.device("meta"):
        made = build(
            FAMILIES[family](**settings),
            name=family,
            tokenizer=AutoEncoderConfig(channels, (32,), 1, 1),  # stands in, and goes
            sizes=tuple((h, w) for h, w in sizes) if sizes else None,
        )
    made.tokenizer, made.text_encoder = NoAutoEncoder(), NoText(family)
    parts: list[tuple[nn.Module, Mapping[str, Tensor]]] = [(made.transformer, transformer)]
    if isinstance(made.quantizer, nn.Module):
        state = {k.split("quantize.")[-1]: v for k, v in (quantizer or {}).items()
                 if "quantize." in k}  # fmt: skip
        parts.append((made.quantizer, state))
    for module, tensors in parts:
        named = files.by_own_names(tensors, module)
        files.fill(module, named, f"the {module._get_name()} state dict")
    return made.set_precision(precision)


def language(model: Model) -> nn.ModuleDict:
    """Join transformer and text encoder, which are trained and stored together."""
    return nn.ModuleDict({"transformer": model.transformer, "text": model.text_encoder})


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
