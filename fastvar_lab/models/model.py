"""A model: a backbone with its tokenizer and text encoder, ready to generate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fastvar_lab.backbones.autoencoder import AutoEncoder
from fastvar_lab.backbones.hart import HART
from fastvar_lab.backbones.infinity import Infinity
from fastvar_lab.backbones.protocol import Backbone, ConditionEncoder
from fastvar_lab.backbones.quantize import Quantizer
from fastvar_lab.models import weights as files
from fastvar_lab.sampling import Sampling
from fastvar_lab.scales import Sizes, extend, stretch
from fastvar_lab.scales import grids as number
from fastvar_lab.seam import Grid
from fastvar_lab.tokens import wide

PRECISIONS = ("float32", "official")


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
